"""What a report is made from: the files of a demo folder, read strictly and checked against the manifest.

A page must not show a number that its files do not hold. So a path that leaves the folder, a file whose SHA-256 is not the one the
manifest records, and a bound that differs between manifest and certificate are refused here, before anything is drawn.
"""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np

from scalebound.core.certificate import SCHEMA as CERTIFICATE_SCHEMA
from scalebound.core.certificate import Certificate
from scalebound.core.demo import SCHEMA as DEMO_SCHEMA
from scalebound.core.demo import Demo, Forecast, Rung
from scalebound.core.errors import InputError
from scalebound.core.io import MAX_JSON_BYTES, parse_json, read_bytes, sha256_bytes, to_struct

MANIFEST = "demo.json"
TABLE = "table.csv"
FIT_SCHEMA = "scalebound.fit/1"

T = TypeVar("T")


@dataclass(frozen=True)
class Log:
    """The losses of a run: ``tokens`` seen after each step, ``losses`` the mean of the step before its update, nats per token."""

    tokens: np.ndarray
    losses: np.ndarray


class FitSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the page says of a fitted law; the other fields of ``scalebound.fit/1`` are left alone."""

    law: str
    params: dict[str, float]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Points:
    """The rows of ``table.csv`` below the size that was left out: what a forecast's fit saw."""

    params: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Folder:
    """Everything the page shows. Rungs by size, smallest first; the lists run parallel to ``demo.rungs`` and ``demo.forecasts``."""

    demo: Demo
    certificates: tuple[dict[str, Certificate], ...]  # per rung, by the names of the manifest
    logs: tuple[Log, ...]
    fits: tuple[FitSummary, ...]
    points: tuple[Points, ...]

    @property
    def largest(self) -> Rung:
        return self.demo.rungs[-1]

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of all certificates, in the order they first appear."""
        return tuple(dict.fromkeys(name for rung in self.demo.rungs for name in rung.certificates))


class _Reader:
    """Reads files of one folder, each held to its recorded hash."""

    def __init__(self, root: Path, hashes: dict[str, str]) -> None:
        self.root, self.hashes = root, hashes

    def bytes(self, relative: str) -> bytes:
        parts = Path(relative).parts
        if not parts or Path(relative).is_absolute() or ".." in parts or "\0" in relative:
            raise InputError(f"names the path {relative!r}", where=str(self.root / MANIFEST), expected="paths inside the folder")
        data = read_bytes(self.root / relative, limit=MAX_JSON_BYTES)
        recorded = self.hashes.get(relative)
        if recorded is not None and sha256_bytes(data) != recorded:
            raise InputError(
                "is not the file the manifest names (its SHA-256 differs)",
                where=str(self.root / relative),
                hint=f"run scalebound demo --out {self.root} again",
            )
        return data

    def struct(self, relative: str, kind: type[T], schema: str) -> T:
        where = str(self.root / relative)
        value = parse_json(self.bytes(relative), where=where)
        found = value.get("schema") if isinstance(value, dict) else None
        if found != schema:
            raise InputError(f"has schema {found!r}", where=where, expected=repr(schema))
        return to_struct(value, kind, where=where)


def read_folder(folder: str | os.PathLike) -> Folder:
    """Read a demo folder.

    Raises
    ------
    InputError
        No ``demo.json``; a file missing, malformed, changed since the manifest was written, or at odds with it.
    """
    root = Path(folder)
    if not (root / MANIFEST).is_file():
        raise InputError(
            f"holds no {MANIFEST}",
            where=str(root),
            expected="the folder of a finished demo",
            hint="scalebound demo --out FOLDER writes one",
        )
    demo = _Reader(root, {}).struct(MANIFEST, Demo, DEMO_SCHEMA)
    if not demo.rungs:
        raise InputError("names no rung", where=str(root / MANIFEST), expected="at least one")
    if [rung.params for rung in demo.rungs] != sorted(rung.params for rung in demo.rungs):
        raise InputError("its rungs are not ordered by size", where=str(root / MANIFEST), expected="the smallest first")
    _require_sizes(demo, where=str(root / MANIFEST))
    reader = _Reader(root, demo.hashes)
    table = _read_table(reader, [forecast.target for forecast in demo.forecasts]) if demo.forecasts else {}
    return Folder(
        demo=demo,
        certificates=tuple(_read_certificates(reader, rung) for rung in demo.rungs),
        logs=tuple(_read_log(reader, f"{rung.run}/log.jsonl") for rung in demo.rungs),
        fits=tuple(reader.struct(forecast.fit, FitSummary, FIT_SCHEMA) for forecast in demo.forecasts),
        points=tuple(_points_seen(table, forecast, where=str(root / TABLE)) for forecast in demo.forecasts),
    )


def _require_sizes(demo: Demo, *, where: str) -> None:
    """Sizes go on logarithmic axes."""
    points = [point for forecast in demo.forecasts for point in (forecast.prediction, *forecast.curve)]
    sizes = [size for rung in demo.rungs for size in (rung.params, rung.tokens)] + [point.params for point in points] + [demo.vocab_size]
    wrong = next((size for size in sizes if not 1 <= size <= 1e30), None)
    if wrong is not None:
        raise InputError(
            f"a size is {wrong:.6g}" if isinstance(wrong, float) else "a size is out of range", where=where, expected="1 to 1e30"
        )


def _read_certificates(reader: _Reader, rung: Rung) -> dict[str, Certificate]:
    found = {}
    for name, entry in rung.certificates.items():
        path = reader.root / entry.path
        certificate = reader.struct(entry.path, Certificate, CERTIFICATE_SCHEMA)
        if (certificate.bound, certificate.vacuous) != (entry.bound, entry.vacuous):
            raise InputError(
                f"states a bound of {certificate.bound!r}, {MANIFEST} one of {entry.bound!r}", where=str(path), expected="one and the same"
            )
        if not 0.0 < certificate.delta < 1.0:
            raise InputError(f"has delta {certificate.delta!r}", where=str(path), expected="a number between 0 and 1")
        found[name] = certificate
    return found


class _Step(msgspec.Struct, frozen=True):
    """A line of a log; its other fields (learning rate, gradient norm) are left alone."""

    tokens: Annotated[int, msgspec.Meta(gt=0, le=10**18)]
    loss: float


def _read_log(reader: _Reader, relative: str) -> Log:
    where = str(reader.root / relative)
    lines = reader.bytes(relative).splitlines()
    places = [f"{where}, line {number}" for number in range(1, len(lines) + 1)]
    steps = [to_struct(parse_json(line, where=place), _Step, where=place) for line, place in zip(lines, places, strict=True)]
    if not steps:
        raise InputError("holds no step", where=where, expected="at least one line")
    return Log(np.array([step.tokens for step in steps], dtype=float), np.array([step.loss for step in steps], dtype=float))


def _read_table(reader: _Reader, columns: list[str]) -> dict[str, list[float]]:
    where = str(reader.root / TABLE)
    try:
        rows = list(csv.DictReader(io.StringIO(reader.bytes(TABLE).decode("utf-8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"is not a CSV table ({error})", where=where) from error
    table: dict[str, list[float]] = {}
    for column in dict.fromkeys(["params", *columns]):
        table[column] = []
        for number, row in enumerate(rows, start=2):
            try:
                value = float(row.get(column) or "missing")
            except ValueError:
                value = math.nan
            if not math.isfinite(value) or (column == "params" and not 1 <= value <= 1e30):
                raise InputError(
                    f"column {column!r} is {row.get(column)!r}",
                    where=f"{where}, line {number}",
                    expected="a finite number, a size positive",
                )
            table[column].append(value)
    return table


def _points_seen(table: dict[str, list[float]], forecast: Forecast, *, where: str) -> Points:
    rows = [(n, y) for n, y in zip(table["params"], table[forecast.target], strict=True) if n < forecast.prediction.params]
    if len(rows) != forecast.rows:
        raise InputError(
            f"has {len(rows)} rows below {forecast.prediction.params:,.0f} parameters",
            where=where,
            expected=f"{forecast.rows}, as {MANIFEST} says of {forecast.target!r}",
        )
    return Points(tuple(n for n, _ in rows), tuple(y for _, y in rows))
