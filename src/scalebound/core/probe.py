"""The record of a probe, ``scalebound.probe/1``: what was asked, every number found, and the tables and figures that show them.

``scalebound probe NAME --out F.json`` writes one; ``scalebound report`` shows it and reads nothing else. Figures are data, not drawings:
values with the ends of their intervals, as points, curves or a heat map.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from scalebound.core.io import load_struct, save_struct

SCHEMA = "scalebound.probe/1"

Value = bool | int | float | str | tuple[float, ...] | None
Row = dict[str, Value]


class ProbeTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table as people read it: numbers are text already, with their intervals."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"a row of the table {self.title!r} has another number of cells than columns")


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Values at places ``x``, with the ends of their intervals; ``low`` and ``high`` are empty for values that are exact."""

    label: str
    x: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        ends = (self.low, self.high) if self.low or self.high else ()
        if any(len(part) != len(self.x) for part in (self.value, *ends)):
            raise ValueError(f"the series {self.label!r} has lists of different lengths")
        if any(low > high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"the series {self.label!r} has an interval whose low end is above its high end")

    @classmethod
    def of(cls, label: str, x: Sequence[float], values: Sequence[tuple[float, float, float]]) -> Series:
        """From triples of a value and the ends of its interval.

        >>> Series.of("a", [0, 1], [(0.5, 0.25, 0.75), (1.0, 1.0, 1.0)]).low
        (0.25, 1.0)
        """
        value, low, high = (tuple(float(one[k]) for one in values) for k in range(3))
        return cls(label=label, x=tuple(map(float, x)), value=value, low=low, high=high)


class ProbeFigure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a figure shows.

    ``points``: series over named places, ``x`` being indices into ``names``. ``curves``: series over numbers. ``heat``: ``cells`` (lines, columns),
    ``names`` the columns and ``lines`` the rows; a cell may be None. ``x`` and ``y`` say what the axes (for a heat map: columns and rows) are and their
    units, ``scale`` what a heat map's colour is, ``band`` what the intervals are or why there are none.
    """

    id: str
    kind: Literal["points", "curves", "heat"]
    title: str
    sentence: str  # what it shows
    x: str
    y: str
    band: str
    series: tuple[Series, ...] = ()
    names: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    cells: tuple[tuple[float | None, ...], ...] = ()
    scale: str = ""
    span: tuple[float, float] | None = None  # of the y-axis, for shares: (0, 1)

    def __post_init__(self) -> None:
        if not self.id or not set(self.id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-"):
            raise ValueError(f"the figure's id {self.id!r} is not made of small letters, digits and hyphens")
        if self.kind == "heat":
            if len(self.cells) != len(self.lines) or any(len(row) != len(self.names) for row in self.cells) or not self.names:
                raise ValueError(f"the cells of {self.id!r} do not fit its lines and names")
        elif not self.series or not all(one.x for one in self.series):
            raise ValueError(f"the figure {self.id!r} has no series, or an empty one")
        elif self.kind == "points" and any(x not in range(len(self.names)) for one in self.series for x in one.x):
            raise ValueError(f"the figure {self.id!r} has a point at a place without a name")


class ProbeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run of one probe. Everything but ``seconds`` is equal between two runs of one seed on one machine."""

    schema: str = SCHEMA
    name: str  # of the probe: rules, finetune, ...
    title: str
    verdict: str
    seed: int
    level: float  # confidence of the intervals; the words say whether of each or of all together
    settings: dict[str, Value]
    rows: tuple[Row, ...]
    parts: dict[str, tuple[Row, ...]] = {}  # further rows, by what they are
    findings: Row = {}
    words: tuple[str, ...]  # sentences under the tables
    tables: tuple[ProbeTable, ...]
    figures: tuple[ProbeFigure, ...]
    source: str
    inputs: dict[str, str] = {}  # what was given: its SHA-256
    versions: dict[str, str] = {}
    seconds: float = 0.0  # of processor time
    version: str

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level {self.level!r} is not inside (0, 1)")

    def save(self, path: str | os.PathLike) -> Path:
        return save_struct(path, self)

    def brief(self) -> dict[str, Any]:
        """What ``--json`` prints: name, rows and verdict first, no tables and no figures."""
        return {"name": self.name, "rows": list(self.rows), "verdict": self.verdict, **{part: list(rows) for part, rows in self.parts.items()},
                **self.findings, **self.settings, "level": self.level, "seed": self.seed, "words": list(self.words)}  # fmt: skip


ProbeRecord.SCHEMA = SCHEMA  # type: ignore[attr-defined]


def load_probe(path: str | os.PathLike) -> ProbeRecord:
    """Read a record strictly: unknown fields, other schemas, NaN, lists that do not fit each other are an InputError."""
    return load_struct(path, ProbeRecord)


def row_of(**values: Any) -> Row:
    """A row of numbers and words; lists become tuples, numpy's numbers Python's, and what is not finite None.

    >>> row_of(loss=float("nan"), ends=[1, 2.5])
    {'loss': None, 'ends': (1.0, 2.5)}
    """
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Value:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Sequence):
        return tuple(float(one) for one in value)
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_interval(ends: Sequence[float], form: str = ".4f") -> str:
    """A value with its interval, in one cell.

    >>> with_interval((0.5, 0.25, 0.75), ".2f")
    '0.50 [0.25, 0.75]'
    """
    return f"{ends[0]:{form}} [{ends[1]:{form}}, {ends[2]:{form}}]"
