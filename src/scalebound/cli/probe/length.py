"""``scalebound probe length``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, progress_bar


def length(
    *,
    tasks: str = "sort,count",
    positions: str = "none,absolute,rotary,alibi,t5",
    lengths: str = "10,12,15,20,30",
    train_length: int = 10,
    seeds: int = 2,
    steps: int = 800,
    tests: int = 200,
    level: float = 0.95,
    seed: int = 0,
    workers: int | None = None,
    out: Path | None = None,
) -> Result:
    """Train small models that differ in their positions alone, and count right answers at lengths beyond training.

    Parameters
    ----------
    tasks
        Of copy, reverse, sort, count, parity, addition, separated by commas; copy+hints adds index marks (all but count have them).
    positions
        Of none, absolute, rotary, alibi, t5.
    lengths
        Lengths asked, from 1 to 60: some trained on, some beyond.
    train_length
        Training problems have lengths from 1 to this.
    seeds
        Models of each kind.
    steps
        Training steps of each model, 32 problems each; a model takes 10 to 25 seconds of one core at 800.
    tests
        Fresh problems per model and length.
    level
        Confidence of all intervals of one task together.
    seed
        Decides everything random.
    workers
        Processes; default one per core.
    out
        Where the record is written, for scalebound report.

    Examples
    --------
    scalebound probe length

    scalebound probe length --tasks copy,copy+hints --positions alibi,rotary --seeds 1 --out probes/length.json

    next: scalebound report --probes probes/length.json
    """
    from scalebound.cli.numbers import parse_counts, parse_words
    from scalebound.cli.probe.show import show
    from scalebound.probe import length_record, probe_length

    with progress_bar("training", "steps") as progress:
        found = probe_length(parse_words(tasks), parse_words(positions), seeds=seeds, train_length=train_length, lengths=parse_counts(lengths, "--lengths"), steps=steps, tests=tests, level=level, seed=seed,
                             workers=workers, progress=progress)  # fmt: skip
    return show(length_record(*found, seeds=seeds, train_length=train_length, steps=steps, level=level, seed=seed), out)
