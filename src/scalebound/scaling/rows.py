"""From a table to the rows of a fit: columns found or derived, and everything that can be wrong with them said plainly.

What is checked at this door: missing columns, NaN, sizes that are not positive or not counts, units that are mixed, losses in bits
(some only after the fit, :mod:`~scalebound.scaling.units`), repeated rows, inputs that do not vary, too few rows. Nothing is dropped silently: ``drop_bad`` says how many rows went and why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import InputError, UsageError
from scalebound.scaling.laws.protocol import Law
from scalebound.scaling.table import ALIASES, Table

SIZES = ("params", "tokens", "unique_tokens", "flops")
LARGEST_GUESS = math.log(300_000)  # nats
SMALLEST_COUNT = {"params": 100.0, "tokens": 1000.0, "unique_tokens": 1000.0, "flops": 1e6}


@dataclass(frozen=True)
class Rows:
    """The rows a law is fitted to."""

    inputs: dict[str, np.ndarray]
    y: np.ndarray
    target: str
    weights: np.ndarray
    groups: np.ndarray | None  # integers, one per row
    numbers: np.ndarray  # row numbers in the source
    columns: dict[str, str]  # canonical name: column of the source, or how it was derived
    notes: tuple[str, ...]
    source: str
    sha256: str
    where: str = ""

    def __len__(self) -> int:
        return len(self.y)

    def take(self, keep: np.ndarray) -> Rows:
        """The rows at ``keep`` (bool or positions)."""
        return Rows(
            {name: values[keep] for name, values in self.inputs.items()},
            self.y[keep],
            self.target,
            self.weights[keep],
            None if self.groups is None else self.groups[keep],
            self.numbers[keep],
            self.columns,
            self.notes,
            self.source,
            self.sha256,
            self.where,
        )


def find_column(table: Table, name: str, found: dict[str, str]) -> np.ndarray:
    """A column by its canonical name, an alias, or a derivation from the others; ``found`` records which.

    ``flops`` is 6 params tokens and ``tokens`` is flops / (6 params) when not given; ``tokens_per_param`` is tokens / params.
    """
    column = next((alias for alias in (name, *ALIASES.get(name, ())) if alias in table), None)
    if column is not None:
        values = table[column]
        if values.dtype.kind != "f":
            raise _words(table, column, name)
        found[name] = table.renamed.get(column, column)
        return values
    if name == "flops" and _has(table, "params") and _has(table, "tokens"):
        values = 6.0 * find_column(table, "params", found) * find_column(table, "tokens", found)
        found[name] = "6 * params * tokens"
        return values
    if name == "tokens" and _has(table, "params") and _has(table, "flops"):
        values = find_column(table, "flops", found) / (6.0 * find_column(table, "params", found))
        found[name] = "flops / (6 * params)"
        return values
    if name == "tokens_per_param":
        values = find_column(table, "tokens", found) / find_column(table, "params", found)
        found[name] = "tokens / params"
        return values
    raise InputError(
        f"no column {name!r}",
        where=table.source,
        expected=f"columns {', '.join(_likely(table, name))}" if _likely(table, name) else "such a column",
        hint=f"rename one with --columns {name}=COLUMN; the table has {', '.join(table.columns)}",
    )


def _words(table: Table, column: str, name: str) -> InputError:
    """The first cell of a column that is no number, and where it stands."""

    def plain(cell: str) -> bool:
        try:
            float(cell or "nan")
        except ValueError:
            return False
        return True

    number, cell = next((number, cell) for number, cell in zip(table.rows, table[column], strict=True) if not plain(cell))
    return InputError(
        f"the column {column!r} holds {cell!r}",
        where=f"{table.source}, row {number}",
        expected=f"numbers for {name}",
        hint="write plain numbers: 7e9 or 7000000000, not 7B or 7,000,000,000; an empty cell where there is none",
    )


def input_column(table: Table, name: str, found: dict[str, str], group: str | None) -> np.ndarray:
    """An input of a law; ``curve`` is a number per value of the group column (one curve when there is none)."""
    if name != "curve":
        return find_column(table, name, found)
    if group is None:
        return np.zeros(len(table))
    found[name] = group
    return _group_codes(table, group).astype(float)


def _has(table: Table, name: str) -> bool:
    return any(alias in table for alias in (name, *ALIASES.get(name, ())))


def _likely(table: Table, name: str) -> list[str]:
    stem = {"params": "param", "tokens": "tok", "unique_tokens": "uniq", "flops": "flop"}.get(name, name)
    return [column for column in table.columns if stem.lower() in column.lower() and table[column].dtype.kind == "f"][:6]


def find_target(table: Table, law: Law, target: str | None, found: dict[str, str]) -> tuple[str, np.ndarray]:
    """The column to be explained: ``target`` by its own name, else the law's target by alias."""
    name = target or law.target
    if name in table and table[name].dtype.kind == "f":
        found["target"] = table.renamed.get(name, name)
        values = table[name]
    elif target is None or name in ALIASES:
        try:
            values = find_column(table, name, found)
        except InputError as error:
            if not error.what.startswith("no column"):
                raise
            likely = ", ".join(_likely(table, name)) or ", ".join(table.columns)
            raise InputError(
                error.what, where=error.where, expected="the column to be explained", hint=f"name it with --target; likely: {likely}"
            ) from None
        found["target"] = found.pop(name)
    else:
        numeric = [column for column in table.columns if table[column].dtype.kind == "f"]
        raise InputError(f"no column of numbers {name!r}", where=table.source, expected=f"one of {', '.join(numeric)}")
    if name == "loss" and any(word in found["target"].lower() for word in ("bits", "bpb", "bpt", "bpc")):
        raise InputError(
            f"the loss column {found['target']!r} seems to be in bits",
            where=table.source,
            expected="nats per token",
            hint=f"multiply it by ln 2 = 0.6931, or say --target {found['target']} to fit it as it is",
        )
    return name, values


def prepare(
    table: Table, law: Law, *, target: str | None = None, group: str | None = None, weights: str | None = None, drop_bad: bool = False
) -> Rows:
    """Columns, weights and groups for ``law``, checked.

    Raises
    ------
    InputError
        With the row and column named, for each of the faults in the module's docstring.
    """
    found: dict[str, str] = {}
    inputs = {name: np.array(input_column(table, name, found, group)) for name in law.inputs}
    name, y = find_target(table, law, target, found)
    heft = np.ones(len(y)) if weights is None else np.array(_numbers(table, weights))
    groups = None if group is None else _group_codes(table, group)
    notes = list(table.notes)
    _check_units(table, inputs, found)
    if name == "loss":
        _check_loss_units(table, y, found["target"])
        if target is None:
            _check_perplexities(table, y, found["target"])
    needs_positive = tuple(law.inputs) if law.positive is None else law.positive
    bad = ~np.isfinite(y) | ~np.isfinite(heft)
    why = np.where(np.isfinite(y), "", f"{found['target']} is not a number").astype(object)
    for column, values in inputs.items():
        fault = ~np.isfinite(values)
        why[fault & ~bad] = f"{found.get(column, column)} is not a number"
        bad |= fault
        if column in needs_positive:
            fault = np.isfinite(values) & (values <= 0)
            why[fault & ~bad] = f"{found.get(column, column)} is not positive"
            bad |= fault
    if law.residual == "log":
        fault = np.isfinite(y) & (y <= 0)
        why[fault & ~bad] = f"{found['target']} is not positive"
        bad |= fault
    repeated = _repeated(table)
    why[repeated & ~bad] = "repeats an earlier row exactly"
    bad |= repeated
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        if not drop_bad:
            raise InputError(
                f"{why[first]}" + (f" ({int(bad.sum())} rows of {len(bad)} are unusable)" if bad.sum() > 1 else ""),
                where=f"{table.source}, row {table.rows[first]}",
                expected="finite numbers, positive sizes, every run once",
                hint="leave such rows out with --drop-bad, or filter them with --where",
            )
        reasons = sorted({str(reason) for reason in why[bad]})
        notes += [f"{int(bad.sum())} of {len(bad)} rows left out: {'; '.join(reasons)}"]
    if weights is not None and np.any(heft[~bad] < 0):
        raise InputError(f"the weights {weights!r} are negative", where=table.source, expected="weights of at least zero")
    guessed = [f"{canonical}={column}" for canonical, column in found.items() if canonical not in ("target", column)]
    if guessed:
        notes.append(f"columns: {', '.join(guessed)}")
    rows = Rows(inputs, np.array(y), name, heft, groups, table.rows, found, tuple(notes), table.source, table.sha256, table.where).take(
        ~bad
    )
    _check_enough(rows, law)
    return rows


def _numbers(table: Table, name: str) -> np.ndarray:
    if name not in table or table[name].dtype.kind != "f":
        raise InputError(f"no column of numbers {name!r}", where=table.source, expected=f"one of {', '.join(table.columns)}")
    return table[name]


def _group_codes(table: Table, name: str) -> np.ndarray:
    column = next((alias for alias in (name, *ALIASES.get(name, ())) if alias in table), None)
    if column is None:
        raise InputError(f"no column {name!r} to group by", where=table.source, expected=f"one of {', '.join(table.columns)}")
    return np.unique(table[column].astype(str), return_inverse=True)[1]


def _repeated(table: Table) -> np.ndarray:
    """Rows all of whose columns equal an earlier row's."""
    seen: set[tuple] = set()
    out = np.zeros(len(table), dtype=bool)
    lists = [values.tolist() for values in table.columns.values()]
    for k, row in enumerate(zip(*lists, strict=True)):
        out[k] = row in seen
        seen.add(row)
    return out


def _check_units(table: Table, inputs: dict[str, np.ndarray], found: dict[str, str]) -> None:
    for name in SIZES:
        if name not in inputs:
            continue
        values = inputs[name]
        sized = np.sort(values[np.isfinite(values) & (values > 0)])
        if not len(sized):
            continue
        smallest = SMALLEST_COUNT[name]
        label = f"{table.source}, column {found.get(name, name)!r}"
        if sized[-1] < smallest:
            raise InputError(
                f"the largest {name} is {sized[-1]:g}",
                where=label,
                expected="plain counts, not millions or billions",
                hint="multiply the column by its unit",
            )
        gap = np.diff(np.log10(sized))
        if sized[0] < smallest or (len(gap) and gap.max() > 5):
            k = int(np.argmax(gap)) if len(gap) else 0
            if not len(gap) or gap.max() < 2:
                raise InputError(
                    f"{name} runs from {sized[0]:g} to {sized[-1]:g}",
                    where=label,
                    expected="plain counts, not thousands, millions or billions",
                    hint="multiply the column by its unit",
                )
            raise InputError(
                f"{name} runs from {sized[0]:g} to {sized[-1]:g} "
                f"with nothing between {sized[k]:g} and {sized[min(k + 1, len(sized) - 1)]:g}: "
                "units seem to be mixed",
                where=label,
                expected="plain counts in every row",
            )
    if {"params", "tokens"} <= set(inputs) and not str(found.get("tokens", "")).startswith("flops"):
        with np.errstate(divide="ignore", invalid="ignore"):
            each = inputs["tokens"] / inputs["params"]
        each = each[np.isfinite(each) & (each > 0)]
        if len(each) and not 1e-4 < np.median(each) < 1e6:
            guilty = "params" if np.median(each) >= 1e6 else "tokens"
            raise InputError(
                f"tokens per parameter are {np.median(each):.3g}: {guilty} seem to be in thousands, millions or billions",
                where=f"{table.source}, column {found.get(guilty, guilty)!r}",
                expected="plain counts of parameters and tokens",
                hint="multiply the column by its unit",
            )
    if {"params", "tokens"} <= set(inputs) and found.get("tokens") != "flops / (6 * params)" and _has(table, "flops"):
        flops = find_column(table, "flops", {})
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = flops / (6 * inputs["params"] * inputs["tokens"])
        ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
        if len(ratio) and (np.median(ratio) > 300 or np.median(ratio) < 1 / 300):
            raise InputError(
                f"flops are {np.median(ratio):.3g} times 6 * params * tokens: units seem to be mixed",
                where=table.source,
                expected="counts of parameters, tokens and floating-point operations",
            )


def _check_loss_units(table: Table, y: np.ndarray, column: str) -> None:
    """Losses that cannot be nats per token throughout: told by a second column (perplexity, vocabulary), or by a gap no ladder has."""
    label = f"{table.source}, column {column!r}"
    positive = np.isfinite(y) & (y > 0)
    bits, in_nats = 1 / math.log(2), "nats per token in every row"
    other = next((name for name in ("perplexity", "ppl", "val_ppl", "eval_ppl") if name in table and table[name].dtype.kind == "f"), None)
    if other is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(positive & (table[other] > 1.05), y / np.log(table[other]), np.nan)
        near_bits, near_nats = np.abs(ratio - bits) < 0.02, np.abs(ratio - 1) < 0.02
        if near_bits.any():
            k = int(np.flatnonzero(near_bits)[0])
            raise InputError(
                f"the loss {y[k]:g} is log2 of {other} = {table[other][k]:g}: "
                + ("units are mixed, other rows are in nats" if near_nats.any() else "the column is in bits"),
                where=f"{label}, row {table.rows[k]}",
                expected=in_nats,
                hint="multiply losses in bits by ln 2 = 0.6931",
            )
    unit = next((name for name in ("loss_unit", "unit", "units") if name in table and table[name].dtype.kind != "f"), None)
    if unit is not None:
        named = np.array(["bit" in str(cell).lower() for cell in table[unit]])
        if named.any():
            k = int(np.flatnonzero(named)[0])
            raise InputError(
                f"{unit} is {table[unit][k]!r}" + ("" if named.all() else ": units are mixed"),
                where=f"{table.source}, row {table.rows[k]}",
                expected=in_nats,
                hint="multiply losses in bits by ln 2 = 0.6931",
            )
    vocabulary = next((name for name in ("vocab_size", "vocab", "vocabulary") if name in table and table[name].dtype.kind == "f"), None)
    if vocabulary is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            chance = np.log(table[vocabulary])
        above = positive & (chance > 0) & (y > 1.1 * chance)
        if above.any():
            k = int(np.flatnonzero(above)[0])
            raise InputError(
                f"the loss {y[k]:g} is above that of guessing, ln {table[vocabulary][k]:g} = {chance[k]:.4g}: it seems to be in bits",
                where=f"{label}, row {table.rows[k]}",
                expected=in_nats,
                hint="multiply losses in bits by ln 2 = 0.6931, or leave out runs that diverged with --where",
            )
    values = np.sort(y[positive])
    gap = np.diff(np.log(values))
    if len(gap) and gap.max() > math.log(8):
        k = int(np.argmax(gap))
        raise InputError(
            f"losses jump from {values[k]:g} to {values[k + 1]:g} with nothing between: units seem to be mixed (perplexities among losses?)",
            where=label,
            expected=in_nats,
            hint=f"correct the column, or say --target {column} to fit it as it is" if column != "loss" else "correct the column",
        )


def _check_perplexities(table: Table, y: np.ndarray, column: str) -> None:
    """Most losses above guessing from the largest vocabulary in use cannot be nats per token."""
    known = y[np.isfinite(y)]
    if len(known) and np.median(known) > LARGEST_GUESS:
        raise InputError(
            f"half of the losses are above {np.median(known):.3g}, more than guessing among {math.exp(LARGEST_GUESS):,.0f} tokens costs",
            where=f"{table.source}, column {column!r}",
            expected="nats per token",
            hint=f"take the logarithm if these are perplexities, or say --target {column} to fit them as they are",
        )


def _check_enough(rows: Rows, law: Law) -> None:
    for name in law.inputs if law.varying is None else law.varying:
        if np.all(rows.inputs[name] == rows.inputs[name][0]):
            raise InputError(
                f"every row has {name} = {rows.inputs[name][0]:g}",
                where=rows.source,
                expected=f"at least two values: {law.name} cannot learn how {rows.target} depends on a quantity that does not change",
            )
    if len(rows) and np.all(rows.y == rows.y[0]):
        raise InputError(f"every row has {rows.target} = {rows.y[0]:g}", where=rows.source, expected="values that differ, to be explained")
    p = len(law.parameters)
    distinct = len(np.unique(np.stack([*rows.inputs.values()]), axis=1).T) if rows.inputs else len(rows)
    if distinct < p:
        raise InputError(
            f"{len(rows)} rows with {distinct} different inputs cannot determine the {p} parameters of {law.name}",
            where=rows.source,
            expected=f"at least {p} different rows",
            hint="use a law with fewer parameters (power has 3), or train more sizes",
        )


def spans(inputs: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each input."""
    return {name: (float(np.min(values)), float(np.max(values))) for name, values in inputs.items() if values.dtype.kind == "f"}


def decades_beyond(inputs: dict[str, np.ndarray], ranges: dict[str, tuple[float, float]]) -> np.ndarray:
    """How many powers of ten each row lies beyond the fitted range, in its worst input; 0 inside."""
    out: np.ndarray | None = None
    for name, (low, high) in ranges.items():
        if name not in inputs or low <= 0:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.log10(inputs[name])
        beyond = np.maximum(np.maximum(size - math.log10(high), math.log10(low) - size), 0.0)
        out = beyond if out is None else np.maximum(out, beyond)
    if out is None:
        return np.zeros(len(next(iter(inputs.values()))))
    return out


def sizes(inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, str]:
    """What runs are ordered by: compute where it can be known, else the first input, larger meaning more expensive."""
    if "flops" in inputs:
        return inputs["flops"], "flops"
    if "params" in inputs and "tokens" in inputs:
        return 6 * inputs["params"] * inputs["tokens"], "6 * params * tokens"
    name = next(iter(inputs))
    if name == "loss" or name.endswith(("_bpb", "bpb", "loss")):
        return -inputs[name], f"minus {name}"
    return inputs[name], name


def decades_past(size: np.ndarray, limit: np.ndarray | float) -> np.ndarray:
    """Powers of ten by which sizes of :func:`sizes` exceed a limit; 0 for those that do not."""
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.abs(np.log10(np.abs(size) / np.abs(limit)))
    return np.where((size > limit) & np.isfinite(far), far, 0.0)


def parse_points(points: Sequence[str] | str, *, flag: str = "--at") -> dict[str, np.ndarray]:
    """``"params=1e9,tokens=2e10"``, one text per row, as columns.

    Raises :class:`~scalebound.core.errors.UsageError` for anything that is not name=number.
    """
    texts = [points] if isinstance(points, str) else list(points)
    records = []
    for text in texts:
        record = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, sign, value = (piece.strip() for piece in part.partition("="))
            try:
                record[name] = float(value)
            except ValueError:
                sign = ""
            if not sign or not name or not math.isfinite(record.get(name, math.nan)):
                raise UsageError(f"{flag} has {part!r}", expected="name=number, for example params=1e9,tokens=2e10")
        records.append(record)
    names = list(records[0])
    for record in records:
        if set(record) != set(names):
            raise UsageError(f"{flag} gives {sorted(record)} once and {sorted(names)} another time", expected="the same names every time")
    return {name: np.array([record[name] for record in records]) for name in names}
