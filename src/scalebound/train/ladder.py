"""Several runs on one stream, one process per core."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from scalebound.core.progress import Progress, silent
from scalebound.core.workers import run_tasks
from scalebound.train import parallel
from scalebound.train.loop import RunInfo, train_run
from scalebound.train.recipe import Recipe


def _rung(recipe: Recipe, stream: str, out: str, fresh: bool, *, progress: Progress) -> RunInfo:
    return train_run(recipe, stream, out, fresh=fresh, progress=progress)


def train_ladder(rungs: Sequence[tuple[Recipe, str | os.PathLike, str | os.PathLike]], *, workers: int | None = None, fresh: bool = False, progress: Progress = silent) -> list[RunInfo]:
    """Train every ``(recipe, stream, run folder)``, the longest first, and return their infos in the order given.

    Each run uses one thread, so results do not depend on the number of workers. Under ``torchrun`` the processes share every run, one after the other.
    """
    if parallel.size() > 1:
        return [train_run(recipe, stream, out, fresh=fresh, progress=progress) for recipe, stream, out in rungs]
    order = sorted(range(len(rungs)), key=lambda k: -rungs[k][0].flops)
    tasks = [(rungs[k][0], str(rungs[k][1]), str(Path(rungs[k][2])), fresh) for k in order]
    infos = run_tasks(_rung, tasks, workers=workers, progress=progress)
    return [info for _, info in sorted(zip(order, infos, strict=True), key=lambda pair: pair[0])]
