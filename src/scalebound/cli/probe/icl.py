"""``scalebound probe icl``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, progress_bar
from scalebound.core.errors import UsageError


def icl(
    model: Path | None = None,
    *,
    epsilon: float = 0.05,
    concepts: int = 8,
    steps: int = 800,
    prompts: int | None = None,
    examples: str = "",
    level: float = 0.95,
    seed: int = 0,
    out: Path | None = None,
) -> Result:
    """Do predictors of nearly equal loss learn in context alike? Or: does this model read the labels of a prompt?

    Without a model: documents from a mixture of hidden Markov models; the exact Bayes predictor, a twin within --epsilon nats per token of it
    that forgets after short segments, and a transformer and an LSTM trained on the spot. With a model: words and their categories, with
    real, permuted and random labels.

    Parameters
    ----------
    model
        A Hugging Face folder, .gguf file, run, checkpoint or package.
    epsilon
        Without a model: the largest divergence of the pair, nats per token.
    concepts
        Without a model: how many hidden Markov models are mixed.
    steps
        Without a model: training steps of the small models; 0 trains none.
    prompts
        Prompts for every rate. Default: 500; 40 with a model.
    examples
        Numbers of examples, separated by commas. Default: 0,1,2,4,8,16; 0,16 with a model.
    level
        Confidence of all intervals together.
    seed
        Decides everything random.
    out
        Where the record is written, for scalebound report.

    Examples
    --------
    scalebound probe icl --out probes/icl.json

    scalebound probe icl model.gguf --prompts 60 --json

    next: scalebound report --probes probes/icl.json
    """
    import torch

    from scalebound.cli.numbers import parse_counts
    from scalebound.cli.probe.show import show
    from scalebound.probe import icl_record, labels_record, probe_icl, probe_labels, random_mixture
    from scalebound.probe.icl import EXAMPLES, KINDS

    asked = tuple(sorted(set(parse_counts(examples, "--examples")))) if examples else ()

    if model is not None:
        if (epsilon, concepts, steps) != (0.05, 8, 800):
            raise UsageError("--epsilon, --concepts and --steps belong to the probe without a model", where=str(model), expected="prompts, examples, level, seed")
        from scalebound.models import load_model

        loaded = load_model(model)
        with progress_bar("asking", "prompts") as progress:
            rows = probe_labels(loaded, examples=asked or (0, 16), prompts=40 if prompts is None else prompts, level=level, seed=seed, progress=progress)
        return show(labels_record(rows, model=str(model), sha256=loaded.sha256, settings={"prompts": rows[0].n}, level=level, seed=seed), out)
    if concepts < 1:
        raise UsageError(f"concepts is {concepts}", where="--concepts", expected="at least 1")
    torch.set_num_threads(1)  # matrices this small are slower on several
    with progress_bar("predictors", "predictors") as progress:
        found = probe_icl(
            random_mixture(seed, concepts=concepts),
            models=KINDS if steps else (),
            epsilon=epsilon,
            steps=max(steps, 1),
            prompts=500 if prompts is None else prompts,
            examples=asked or EXAMPLES,
            level=level,
            seed=seed,
            progress=progress,
        )
    return show(icl_record(found, settings={"concepts": concepts, "steps": steps}, level=level, seed=seed), out)
