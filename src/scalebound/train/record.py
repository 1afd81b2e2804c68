"""The files that grow with a run: the loss of every token, a log line a step, where the trajectory's bound stands.

They may be longer than the last checkpoint when a run is interrupted; opening them for a step cuts them to it.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from scalebound.certify.trajectory import LiveTrajectory

ONLINE_PART = "online.part"
LOG = "log.jsonl"
TRAJECTORY = "trajectory.jsonl"


class Record:
    """What a run has written up to ``step``, open for more; close it with ``with``.

    Parameters
    ----------
    out
        The run folder.
    window, vocab_size
        Of the run.
    step, per_step
        Steps that count, and tokens of each.
    """

    def __init__(self, out: Path, *, window: tuple[int, int], vocab_size: int, step: int, per_step: int) -> None:
        self._live = LiveTrajectory(window, vocab_size)
        with ExitStack() as opening:
            self._online = opening.enter_context(open(out / ONLINE_PART, "r+b" if (out / ONLINE_PART).exists() else "w+b"))
            self._log = opening.enter_context(open(out / LOG, "r+" if (out / LOG).exists() else "w+"))
            self._trajectory = opening.enter_context(open(out / TRAJECTORY, "w"))
            self._online.truncate(min(step * per_step, window[1] - window[0]) * 4)
            self._online.seek(0)
            for _ in range(step):  # batch by batch, as the interrupted run had seen them
                self._follow(self._online.read(4 * per_step))
            self._online.seek(0, os.SEEK_END)
            kept = self._log.readlines()[:step]
            self._log.seek(0)
            self._log.truncate()
            self._log.writelines(kept)
            self._log.flush()
            self._files = opening.pop_all()
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in kept]

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def losses(self, losses: bytes) -> None:
        """Add the next batch's losses (float32, little-endian, stream order)."""
        self._online.write(losses)
        self._follow(losses)

    def line(self, line: dict[str, Any]) -> None:
        """Add the step's line to the log."""
        print(json.dumps(line), file=self._log)

    def sync(self) -> None:
        """What was added is on the disk: before a checkpoint that counts on it."""
        for file in (self._online, self._log):
            file.flush()
            os.fsync(file.fileno())

    def _follow(self, losses: bytes) -> None:
        for standing in self._live.add(np.frombuffer(losses, dtype="<f4")):
            print(json.dumps(vars(standing)), file=self._trajectory, flush=True)


def read_lines(out: Path, step: int) -> list[dict[str, Any]]:
    """The log's lines of the first ``step`` steps."""
    return [json.loads(line) for line in (out / LOG).read_text().splitlines()[:step]] if step else []


def losses_so_far(out: Path) -> int:
    """Tokens whose loss a run in progress has written."""
    try:
        return (out / ONLINE_PART).stat().st_size // 4
    except OSError:
        return 0
