"""What a command gives back, and how progress reaches a terminal.

A command returns a :class:`Result`; :func:`scalebound.cli.main.main` prints its record (``--json``) or its view.
Nothing else writes to stdout. Progress goes to stderr, and only when that is a terminal and ``--quiet`` was not given.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from scalebound.core.progress import Progress, silent

quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@dataclass
class Result:
    """What a command found.

    ``record`` is what ``--json`` prints. ``view`` is what people see: strings and rich renderables, printed in order.
    ``status`` is the exit status: 0, or 1 when the claim that was asked about does not hold.
    """

    record: dict[str, Any]
    view: list[Any] = field(default_factory=list)
    status: int = 0
    silent: bool = False


def note(text: str) -> None:
    """A line for people, on stderr; silent with ``--quiet``."""
    if not quiet.get():
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress_bar(description: str, unit: str = "tokens") -> Iterator[Progress]:
    """A progress callback that draws a bar with rate and ETA on a terminal, and nothing elsewhere."""
    if quiet.get() or not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None, rate="")

        def update(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate="" if not speed else f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.2g} {unit}/s")

        yield update


def table(headers: list[str], rows: list[list[Any]], *, title: str = "", caption: str = "") -> Any:
    """A rich table; numbers right-aligned, text left-aligned."""
    from rich.table import Table

    out = Table(title=title or None, caption=caption or None, title_justify="left", caption_justify="left")
    for k, header in enumerate(headers):
        numeric = all(not isinstance(row[k], str) or row[k][:1].isdigit() or row[k][:1] in "-+." for row in rows)
        out.add_column(header, justify="right" if numeric else "left")
    for row in rows:
        out.add_row(*[str(cell) for cell in row])
    return out
