"""The package of a finished run, trained for its certificate by formulas alone, so that nothing was picked after looking: of one run or of a ladder's."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalebound.compress import save_package
from scalebound.core.io import atomic_write, load_struct, read_json, sha256_file
from scalebound.core.progress import Progress, silent
from scalebound.core.workers import run_tasks
from scalebound.train.finetune import finetune
from scalebound.train.loop import RunInfo


def package_run(run: str | os.PathLike, stream: str | os.PathLike, folder: str | os.PathLike, *, seed: int = 0, fresh: bool = False, progress: Progress = silent) -> dict[str, Any]:
    """Write FOLDER/model.sbz, the run's rounding trained by :func:`finetune`'s own settings, and what came of it into FOLDER/finetune.json.

    A package of this very model that is there already is kept; an interrupted call goes on. Nothing was picked, so a certificate of the package pays for no choice.

    Parameters
    ----------
    run, stream
        A run folder and the stream it was trained on.
    seed
        The order of sequences.
    fresh
        Start over.

    Returns
    -------
    dict
        The content of finetune.json: the record of :class:`Finetuned`, ``model_sha256`` of the run and ``package_sha256``.

    Raises
    ------
    ScaleboundError
        As :func:`finetune`.
    """
    package, record, state = (Path(folder) / name for name in ("model.sbz", "finetune.json", "finetune.state"))
    info = load_struct(Path(run) / "run.json", RunInfo)
    if fresh:
        state.unlink(missing_ok=True)
    elif record.is_file() and package.is_file():
        kept = read_json(record)
        if (kept["model_sha256"], kept["package_sha256"]) == (info.model_sha256, sha256_file(package)):
            progress(1, 1)
            return kept
    done = finetune(run, stream, seed=seed, state=state, progress=progress)
    save_package(package, done.model)
    made = {"model_sha256": info.model_sha256, "package_sha256": sha256_file(package), **done.record()}
    atomic_write(record, json.dumps(made, indent=1).encode() + b"\n")
    return made


def package_ladder(runs: Sequence[tuple[str | os.PathLike, str | os.PathLike]], *, seed: int = 0, workers: int | None = None, fresh: bool = False, progress: Progress = silent) -> list[dict[str, Any]]:
    """:func:`package_run` of every ``(run folder, stream)`` into the run folder itself, one process per core, the longest first; one thread each."""
    tokens = [load_struct(Path(run) / "run.json", RunInfo).tokens for run, _ in runs]
    order = sorted(range(len(runs)), key=lambda k: -tokens[k])
    found = run_tasks(_one, [(*runs[k], seed, fresh) for k in order], workers=workers, progress=progress)
    return [record for _, record in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


def _one(run: str, stream: str, seed: int, fresh: bool, *, progress: Progress) -> dict[str, Any]:
    return package_run(run, stream, run, seed=seed, fresh=fresh, progress=progress)
