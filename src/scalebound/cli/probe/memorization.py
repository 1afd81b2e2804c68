"""``scalebound probe memorization``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, progress_bar
from scalebound.core.errors import UsageError
from scalebound.core.probe import Value


def memorization(
    model: Path | None = None,
    *,
    text: Path | None = None,
    unseen: Path | None = None,
    canaries: Path | None = None,
    influence: Path | None = None,
    spans: int = 400,
    prefix: int = 32,
    suffix: int = 32,
    runs: int = 12,
    level: float = 0.95,
    seed: int = 0,
    out: Path | None = None,
) -> Result:
    """Does a model give back its training text, and which documents does it know only because it saw them?

    Without a model: one is trained on text with planted canaries, and a ladder of runs with and without groups of documents. With a model: spans
    of --text (what it was trained on) and of --unseen (the null) are prompted with what precedes them.

    Parameters
    ----------
    model
        A Hugging Face folder, .gguf file, run, checkpoint or package.
    text
        With a model: text or stream it was trained on.
    unseen
        With a model: text or stream of the same kind that it never saw.
    canaries
        With a model: lines of text that were planted in its training text; as long as a span, or longer.
    influence
        A CSV table with the columns run, group, included (0 or 1) and score, of runs with and without groups of documents.
    spans
        Spans drawn from each text.
    prefix
        Tokens given.
    suffix
        Tokens asked for.
    runs
        Without a model: runs of the ladder, an even number, at least 4.
    level
        Confidence: of all intervals of the spans together, and of all of the groups together.
    seed
        Decides everything random.
    out
        Where the record is written, for scalebound report.

    Examples
    --------
    scalebound probe memorization --out probes/memorization.json

    scalebound probe memorization runs/mine --text runs/mine/streams/train.json --unseen heldout/ --json

    next: scalebound report --probes probes/memorization.json
    """
    import torch

    from scalebound.cli.probe.show import show
    from scalebound.probe import influences, memorization_record, probe_extraction, read_influence_table
    from scalebound.probe.memorization_case import PREFIX, ladder, own_spans, planted

    if model is None and any(path is not None for path in (text, unseen, canaries)):
        raise UsageError("texts were given without the model that is to be asked", where="probe memorization", expected="MODEL --text TEXT")
    if model is not None and text is None and canaries is None:
        raise UsageError("nothing to ask the model for", where="--text", expected="--text, --canaries or both")
    if model is None and (spans, prefix, suffix) != (400, 32, 32):
        raise UsageError("--spans, --prefix and --suffix need a model", where="probe memorization", expected="MODEL --text TEXT")
    if model is None and (runs < 4 or runs % 2):
        raise UsageError(f"runs is {runs}", where="--runs", expected="an even number of at least 4")
    groups, found, nulls = [], [], ["text never seen"]
    inputs: dict[str, str] = {}
    table = read_influence_table(influence) if influence is not None else None
    if model is not None:
        kinds, loaded, inputs = own_spans(model, text, unseen, canaries, count=spans, prefix=prefix, suffix=suffix, seed=seed)
        with progress_bar("asking", "kinds") as progress:
            found = probe_extraction(loaded, kinds, prefix=prefix, level=level, progress=progress)
        nulls = [kind for kind in nulls if kind in kinds]
    elif table is None:
        torch.set_num_threads(1)  # matrices this small are slower on several
        case = planted(seed)
        found = probe_extraction(case.model, case.spans, prefix=PREFIX, level=level)
        nulls.append("canaries never seen")
        with progress_bar("ladder", "runs") as progress:
            rungs = ladder(seed, runs=runs, progress=progress)
        groups = influences(rungs.groups, rungs.inside, rungs.scores, level=level, seed=seed)
    if table is not None:
        groups = influences(*table, level=level, seed=seed)
    settings: dict[str, Value] = {"model": str(model or ""), "prefix": prefix if model else PREFIX, "runs": runs if model is None and table is None else 0}
    return show(memorization_record(found, groups, nulls=nulls, settings=settings, level=level, seed=seed, inputs=inputs), out)
