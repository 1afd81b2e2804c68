"""``scalebound probe patch``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, note, progress_bar


def patch(
    model: Path | None = None,
    *,
    pairs: Path | None = None,
    repeats: int = 8,
    sites: str = "residual,heads",
    directions: str = "denoising,noising",
    level: float = 0.95,
    seed: int = 0,
    out: Path | None = None,
) -> Result:
    """Put activations of one run into another, layer by layer, and see which carry the answer.

    Clean activations are put into the corrupted run (denoising: what suffices) and corrupted ones into the clean run (noising: what is needed);
    logit difference, probability and KL divergence stand beside each other. Without --pairs the prompts are random tokens said twice, a task
    for any vocabulary: the answer is what followed the last token before.

    Parameters
    ----------
    model
        A Llama-style folder, run, checkpoint or .gguf file. Default: a small model trained on the spot to repeat.
    pairs
        JSON Lines with the texts clean, corrupted, answer and wrong; prompts of one number of tokens.
    repeats
        Random pairs drawn when none are given; from 4 on, effects have intervals.
    sites
        Of residual, attention, mlp (by layer and position) and heads (by layer and head).
    directions
        Of denoising, noising.
    level
        Confidence of each interval.
    seed
        Decides everything random.
    out
        Where the record is written, for scalebound report.

    Examples
    --------
    scalebound probe patch

    scalebound probe patch runs/mine --pairs names.jsonl --sites residual,heads,mlp --out probes/patch.json

    next: scalebound report --probes probes/patch.json
    """
    import torch

    from scalebound.cli.numbers import parse_words
    from scalebound.cli.probe.show import show
    from scalebound.core.io import sha256_file
    from scalebound.probe import patch_record, probe_patch, read_llama, read_pairs, repeated_pairs, repeating_model, words_of

    if model is None:
        torch.set_num_threads(1)  # matrices this small are slower on several
        note("training a small model to repeat, about 20 seconds")
        config, weights = repeating_model(seed)
    else:
        config, weights = read_llama(model)
    words = words_of(model, config)
    asked = repeated_pairs(words.pool, repeats, seed, first=words.first) if pairs is None else read_pairs(pairs, words)
    with progress_bar("patching", "layers") as progress:
        found = probe_patch(config, weights, asked, sites=parse_words(sites), directions=parse_words(directions), level=level, progress=progress)
    settings: dict[str, str | int] = {"model": str(model or ""), "task": "random tokens said twice" if pairs is None else pairs.name, "sites": sites}
    inputs = {} if pairs is None else {pairs.name: sha256_file(pairs)}
    return show(patch_record(found, asked, level=level, seed=seed, settings=settings, inputs=inputs), out)
