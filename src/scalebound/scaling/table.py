"""Tables of runs: read from CSV, JSONL or Parquet, filtered, renamed, and checked.

A table is columns of equal length, numbers as float64 (an empty cell is NaN) and words as strings. It remembers the file it came
from by SHA-256, and what was renamed, guessed, filtered or left out.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from scalebound.core.errors import InputError, MissingExtra, UsageError
from scalebound.core.io import canonical_json, parse_json, read_bytes, sha256_bytes

MAX_TABLE_BYTES = 1 << 30

# the names other people give to our columns, best first
ALIASES: dict[str, tuple[str, ...]] = {
    "params": (
        "params_N",
        "params",
        "N",
        "n_params",
        "num_params",
        "parameters",
        "num_parameters",
        "model_size",
        "params_total",
        "params_non_embedding",
        "params_no_embed",
        "n",
    ),
    "tokens": ("tokens_D", "tokens", "D", "n_tokens", "num_tokens", "tokens_seen", "train_tokens", "train/tokens", "training_tokens", "t"),
    "flops": ("flops", "flops_6ND", "C", "compute", "train_flops", "total_flos", "FLOPs"),
    "loss": ("loss", "val_loss", "eval_loss", "eval/loss", "final_loss", "validation_loss", "test_loss", "valid_loss", "train_loss"),
    "unique_tokens": ("unique_U", "unique_tokens", "U", "unique"),
    "lr": ("lr", "learning_rate", "learning rate"),
    "step": ("step", "steps", "_step", "global_step", "iteration"),
    "batch_tokens": ("batch_tokens", "batch_size_tokens", "tokens_per_batch", "batch"),
    "error": ("error", "err", "err_avg", "mean_error"),
    "group": ("group", "run", "run_name", "name", "model"),
}
COMPARISONS = ("<=", ">=", "!=", "=", "<", ">")


@dataclass(frozen=True)
class Table:
    """Columns of equal length with their origin."""

    columns: Mapping[str, np.ndarray]
    source: str = "arrays"
    sha256: str = ""
    notes: tuple[str, ...] = ()
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))  # row numbers in the source, first row 1
    renamed: Mapping[str, str] = field(default_factory=dict)
    where: str = ""  # the conditions its rows satisfy

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def take(self, keep: np.ndarray) -> Table:
        """The rows where ``keep`` (bool or positions) says so."""
        return replace(self, columns={name: values[keep] for name, values in self.columns.items()}, rows=self.rows[keep])

    def with_columns(self, **new: np.ndarray) -> Table:
        return replace(self, columns={**self.columns, **new})

    def noted(self, *lines: str) -> Table:
        return replace(self, notes=(*self.notes, *lines))


def from_columns(columns: Mapping[str, object], *, source: str = "arrays") -> Table:
    """A table from arrays or lists of equal length.

    >>> len(from_columns({"params": [1e6, 1e7], "loss": [4.0, 3.5]}))
    2
    """
    arrays = {str(name): _column(values) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"columns differ in length: {lengths}", where=source, expected="one value per row in every column")
    length = next(iter(lengths.values()), 0)
    digest = sha256_bytes(canonical_json({name: [None if v != v else v for v in values.tolist()] for name, values in arrays.items()}))
    return Table(arrays, source=source, sha256=digest, rows=np.arange(1, length + 1))


def _column(values: object) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"a column has shape {array.shape}", expected="one dimension")
    if array.dtype.kind in "fiub":
        return array.astype(np.float64)
    return _parse([("" if value is None else str(value)) for value in array.tolist()])


def _parse(cells: Sequence[str]) -> np.ndarray:
    """Numbers if every non-empty cell is one, else strings."""
    out = np.empty(len(cells))
    for k, cell in enumerate(cells):
        try:
            out[k] = float(cell) if cell.strip() else np.nan
        except ValueError:
            return np.array(cells, dtype=object)
    return out


def read_table(path: str | os.PathLike, *, columns: str = "", where: str = "") -> Table:
    """Read a table by its suffix: ``.csv`` (``.tsv``), ``.jsonl`` (``.json``: a list of objects, or columns), ``.parquet``.

    Parameters
    ----------
    columns : "loss=c4_val,params=N"      new=old names
    where : "dataset=C4,params>1e8"       conditions that all must hold; ``size=25|100`` allows several values

    Raises
    ------
    InputError
        Not readable, no rows, rows of different lengths, a column that is not there.
    """
    name = str(path)
    suffix = Path(name).suffix.lower()
    data = read_bytes(path, limit=MAX_TABLE_BYTES)
    if suffix == ".parquet":
        raw = _read_parquet(path)
    elif suffix in (".jsonl", ".ndjson", ".json"):
        raw = _read_json(data, name, lines=suffix != ".json")
    elif suffix in (".csv", ".tsv", ".txt", ""):
        raw = _read_csv(data, name, delimiter="\t" if suffix == ".tsv" else None)
    else:
        raise InputError(
            f"has the suffix {suffix!r}",
            where=name,
            expected=".csv, .jsonl, .json or .parquet",
            hint="scalebound import --help lists other formats",
        )
    length = len(next(iter(raw.values()), np.zeros(0)))
    if not length:
        raise InputError("has no rows", where=name, expected="a header and one row per run")
    table = Table(raw, source=name, sha256=sha256_bytes(data), rows=np.arange(1, length + 1))
    return select(table, columns=columns, where=where)


def select(table: Table, *, columns: str = "", where: str = "") -> Table:
    """Rename columns and keep the rows that satisfy every condition. Conditions may use old names or new ones."""
    renamed = parse_renames(columns, table)
    if renamed:
        fresh = dict(table.columns)
        for new, old in renamed.items():
            fresh[new] = table.columns[old]
        table = replace(table, columns=fresh, renamed={**table.renamed, **renamed})
    if where:
        keep = np.ones(len(table), dtype=bool)
        for condition in (part.strip() for part in where.split(",")):
            keep &= _condition(table, condition)
        if not keep.any():
            raise InputError(
                f"no row satisfies {where!r}", where=table.source, expected="a condition some rows meet", hint=_values_hint(table, where)
            )
        if not keep.all():
            table = replace(table.take(keep), where=",".join(filter(None, [table.where, where]))).noted(
                f"{int(keep.sum())} of {len(keep)} rows satisfy {where}"
            )
    return table


def parse_renames(text: str, table: Table) -> dict[str, str]:
    """``"loss=c4_val,params=N"`` as {new: old}."""
    out = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        new, sign, old = (piece.strip() for piece in part.partition("="))
        if not sign or not new or not old:
            raise UsageError(f"--columns has {part!r}", expected="new=old, for example loss=c4_val")
        if old not in table:
            raise InputError(f"no column {old!r}", where=table.source, expected=f"one of {', '.join(table.columns)}")
        out[new] = old
    return out


def _condition(table: Table, text: str) -> np.ndarray:
    sign = next((sign for sign in COMPARISONS if sign in text), "")
    name, _, value = (piece.strip() for piece in text.partition(sign)) if sign else (text, "", "")
    if not sign or not name or not value:
        raise UsageError(f"--where has {text!r}", expected="column=value, or !=, <, <=, >, >=")
    if name not in table:
        raise InputError(f"no column {name!r}", where=table.source, expected=f"one of {', '.join(table.columns)}")
    column = table[name]
    if sign in ("=", "!="):
        hit = np.zeros(len(column), dtype=bool)
        for option in value.split("|"):
            if column.dtype.kind == "f":
                hit |= column == _number(option, text)
            else:
                hit |= np.array([cell == option for cell in column])
        return hit if sign == "=" else ~hit
    if column.dtype.kind != "f":
        raise UsageError(f"--where has {text!r} but the column {name!r} holds words", expected="= or !=")
    bound = _number(value, text)
    return {"<": column < bound, "<=": column <= bound, ">": column > bound, ">=": column >= bound}[sign]


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--where has {where!r}: {text!r} is not a number", expected="a number, as the column holds numbers") from None


def _values_hint(table: Table, where: str) -> str:
    for name in re.findall(r"[^,<>=!]+(?=[<>=!])", where):
        if name.strip() in table:
            column = table[name.strip()]
            if column.dtype.kind == "f":
                return f"{name.strip()} runs from {np.nanmin(column):g} to {np.nanmax(column):g}"
            return f"{name.strip()} has the values {', '.join(sorted(set(map(str, column)))[:8])}"
    return ""


def _read_csv(data: bytes, name: str, *, delimiter: str | None) -> dict[str, np.ndarray]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text ({error.reason} at byte {error.start})", where=name, expected="a CSV file") from None
    first = text.split("\n", 1)[0]
    if delimiter is None:
        delimiter = max(",;\t", key=first.count)
    try:
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=delimiter) if line]
    except csv.Error as error:
        raise InputError(f"is not CSV ({error})", where=name, expected="comma-separated values") from None
    if not lines:
        raise InputError("is empty", where=name, expected="a header and one row per run")
    header = [cell.strip() for cell in lines[0]]
    if len(set(header)) != len(header):
        twice = next(cell for cell in header if header.count(cell) > 1)
        raise InputError(f"the column {twice!r} stands twice", where=f"{name}, header", expected="every name once")
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise InputError(f"has {len(line)} cells", where=f"{name}, row {number}", expected=f"{len(header)}, as the header")
    cells = list(zip(*lines[1:], strict=True)) or [() for _ in header]
    return {column: _parse(values) for column, values in zip(header, cells, strict=True)}


def _read_json(data: bytes, name: str, *, lines: bool) -> dict[str, np.ndarray]:
    if lines:
        records = [parse_json(line, where=f"{name}, line {k}") for k, line in enumerate(data.splitlines(), start=1) if line.strip()]
    else:
        records = parse_json(data, where=name)
        if isinstance(records, dict) and all(isinstance(values, list) for values in records.values()):
            return dict(from_columns(records, source=name).columns)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InputError("is not a list of objects", where=name, expected="one JSON object per row")
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(record))
    out = {}
    for column in names:
        values = [record.get(column) for record in records]
        if any(isinstance(value, (dict, list)) for value in values):
            continue  # nested values are not columns
        out[column] = _parse(["" if value is None else str(value) if not isinstance(value, bool) else str(int(value)) for value in values])
    return out


def _read_parquet(path: str | os.PathLike) -> dict[str, np.ndarray]:
    try:
        import pyarrow.parquet as parquet
        from pyarrow.lib import ArrowException
    except ModuleNotFoundError:
        raise MissingExtra(
            "reading Parquet needs the package 'pyarrow'", where=str(path), hint="pip install 'scalebound[parquet]'"
        ) from None
    try:
        content = parquet.read_table(path).to_pydict()
    except (ArrowException, OSError) as error:
        raise InputError(f"is not readable as Parquet ({str(error).splitlines()[0]})", where=str(path)) from None
    return {
        name: _parse(["" if v is None else str(v) for v in values])
        for name, values in content.items()
        if not any(isinstance(v, (list, dict)) for v in values)
    }


def as_table(table: Table | str | os.PathLike | Mapping[str, object], *, columns: str = "", where: str = "") -> Table:
    """A table from a table, a path, or a mapping of arrays; then :func:`select`."""
    if isinstance(table, Table):
        return select(table, columns=columns, where=where)
    if isinstance(table, Mapping):
        return select(from_columns(table), columns=columns, where=where)
    return read_table(table, columns=columns, where=where)


def to_csv(columns: Mapping[str, Sequence[object] | np.ndarray]) -> bytes:
    """A table as CSV bytes; floats in their shortest exact form."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*(list(values) for values in columns.values()), strict=True):
        writer.writerow(
            ["" if cell is None or cell != cell else repr(float(cell)) if isinstance(cell, (float, np.floating)) else cell for cell in row]
        )
    return out.getvalue().encode()


def to_jsonl(columns: Mapping[str, Sequence[object]]) -> bytes:
    """A table as JSON lines."""
    rows = zip(*(list(values) for values in columns.values()), strict=True)
    return b"".join(json.dumps(dict(zip(columns, row, strict=True)), allow_nan=False).encode() + b"\n" for row in rows)
