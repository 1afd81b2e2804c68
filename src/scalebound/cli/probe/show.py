"""How every probe ends: its record saved where ``--out`` says, printed as tables and sentences."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from pathlib import Path

import msgspec

from scalebound.cli.output import Result, table
from scalebound.core.probe import ProbeRecord


def show(record: ProbeRecord, out: Path | None) -> Result:
    """The command's result; with ``out``, the record is written first."""
    view = [table(list(one.columns), [list(row) for row in one.rows], title=one.title) for one in record.tables]
    view += [*record.words, f"Verdict: {record.verdict}."]
    brief = record.brief()
    if out is not None:
        versions = {"python": platform.python_version()} | {name: version(name) for name in ("numpy", "torch")}
        brief["record"] = str(msgspec.structs.replace(record, versions=versions, seconds=round(time.process_time(), 1)).save(out))
        view.append(f"{out}: the record; scalebound report --probes {out}")
    return Result(brief, view)
