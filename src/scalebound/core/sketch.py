"""Sketches: what a stream of any length leaves behind for its certificate, in a few megabytes.

The losses of a stats file are counted in the cells of fixed tables (below). Besides its count, a cell keeps the sum of each coordinate's
distance from the cell's lower edge, in units of 2^-28 nats, every distance rounded up. All of it is integers: sketches add up exactly, in any order, to the
same bytes. Which cells exist depends on no data. What a certificate makes of a cell is in :mod:`scalebound.certify.sketched`.

============================  =====================================  ==========================================================================
table                         first coordinate                       second coordinate
============================  =====================================  ==========================================================================
``loss``                      ``nll``                                ``entropy``, at most log V (none when it was not measured)
``reference``                 ``reference_nll``                      none
``difference``                ``nll - R``                            none
``difference A``              ``nll - R``                            ``centre`` of smoothing A, at most 0: one table for each measured smoothing
============================  =====================================  ==========================================================================

with ``R = -log((1-eps) exp(-reference_nll) + eps/V)``, the loss of the smoothed reference at the measured eps.

File: safetensors with int64 arrays ``TABLE/cells`` (ascending), ``/counts``, ``/first``, ``/second``, and ``blocks``, ranges [start, stop) of
evaluated blocks, and ``whole``: the sum of all losses, each rounded up, in units of 2^-28 nats, as its multiple of 2^40 and the rest, and whether entropies were
measured (1 or 0). The metadata entry ``scalebound`` is a :class:`~scalebound.core.stats.StatsInfo` as JSON with the schema of a sketch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from scalebound.core.errors import InputError, UsageError, from_os_error
from scalebound.core.io import atomic_write, canonical_json, parse_json, to_struct
from scalebound.core.stats import SCHEMA as STATS_SCHEMA
from scalebound.core.stats import Stats, StatsInfo

SCHEMA = "scalebound.sketch/1"
UNIT = 2.0**-28  # nats: small beside every bin, and 10^12 distances of a bin's width still fit into 64 bits
READ = 1 << 18
LARGEST_VOCABULARY = 8_000_000  # its logarithm lies inside the axis of entropies


class Axis:
    """Bins between ``edges``, made of stretches (low, width, number of bins); one bin below them and one above, each without end.

    >>> Axis((0.0, 0.5, 2), (1.0, 1.0, 2)).index(np.array([-1.0, 0.0, 0.7, 2.5, 3.0])).tolist()
    [0, 1, 2, 4, 5]
    """

    def __init__(self, *stretches: tuple[float, float, int]) -> None:
        inner = [low + width * np.arange(count) for low, width, count in stretches]
        low, width, count = stretches[-1]
        self.edges = np.concatenate([*inner, [low + width * count]])  # multiples of powers of 2: exact
        self.bins = len(self.edges) - 1
        self.widest = max(width for _, width, _ in stretches)

    @property
    def low(self) -> float:
        return float(self.edges[0])

    def index(self, values: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.edges, values, side="right")

    def ends(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper edge of each bin."""
        padded = np.concatenate([[-np.inf], self.edges, [np.inf]])
        return padded[index], padded[index + 1]

    def distances(self, values: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Distance above the lower edge in units, rounded up; 0 in the two bins without end."""
        inside = (index > 0) & (index <= self.bins)
        return np.where(inside, np.ceil((values - self.edges[np.maximum(index - 1, 0)]) / UNIT), 0.0)


# widths: what certifying then adds to a bound is of second order in them (docs/mathematics.md section 20). Entropies are finest where
# most of them lie, so that few share a bin with the point at which a centre is clipped.
NONE = Axis((0.0, 1.0, 1))
LOSS = Axis((0.0, 2.0**-6, 24 * 64), (24.0, 2.0**-3, 24 * 8))
ENTROPY = Axis((0.0, 2.0**-9, 512), (1.0, 2.0**-7, 3 * 128), (4.0, 2.0**-5, 12 * 32))
DIFFERENCE = Axis((-24.0, 2.0**-6, 48 * 64))
CENTRE = Axis((-4.0, 2.0**-7, 4 * 128))


@dataclass(frozen=True)
class Table:
    """Non-empty cells of a table, ids ascending: how many tokens, and sums of their distances."""

    axes: tuple[Axis, Axis]
    cells: np.ndarray
    counts: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, axes: tuple[Axis, Axis], a: np.ndarray, b: np.ndarray) -> Table:
        """Count pairs of values."""
        index = [axis.index(values) for axis, values in zip(axes, (a, b), strict=True)]
        distance = [axis.distances(values, k) for axis, values, k in zip(axes, (a, b), index, strict=True)]
        cells, where = np.unique(index[0] * (axes[1].bins + 2) + index[1], return_inverse=True)
        # float64 sums of integers below 2^53 are exact
        first, second = (np.bincount(where, weights=d, minlength=len(cells)).astype(np.int64) for d in distance)
        return cls(axes, cells, np.bincount(where, minlength=len(cells)).astype(np.int64), first, second)

    def plus(self, other: Table) -> Table:
        cells, where = np.unique(np.concatenate([self.cells, other.cells]), return_inverse=True)
        sums = []
        for name in ("counts", "first", "second"):
            out = np.zeros(len(cells), dtype=np.int64)
            np.add.at(out, where, np.concatenate([getattr(self, name), getattr(other, name)]))
            sums.append(out)
        return Table(self.axes, cells, *sums)


class Sketch(Stats):
    """Statistics of which only a sketch is left: certified like others, but no token's own loss can be read."""

    def __init__(self, info: StatsInfo, tables: dict[str, Table], loss_units: int, runs: np.ndarray, *, path: str = "") -> None:
        self.info, self.tables, self.loss_units, self.runs, self.path = info, tables, loss_units, runs, path
        self._arrays: dict[str, Any] = {}
        if not all(table.counts.sum() == info.tokens for table in tables.values()) or "loss" not in tables:
            raise InputError("does not count every token once in every table", where=path)
        self.check_blocks()

    @property
    def has_entropy(self) -> bool:
        return self.tables["loss"].axes[1] is ENTROPY

    def __contains__(self, name: str) -> bool:
        alphas = self.info.anchor.alphas if self.info.anchor else ()
        return {"nll": True, "entropy": self.has_entropy, "reference_nll": "reference" in self.tables, "blocks": not self.complete,
                "centre": bool(alphas) and all(f"difference {alpha!r}" in self.tables for alpha in alphas)}.get(name, False)  # fmt: skip

    def read(self, name: str, start: int = 0, stop: int | None = None, *, row: int | None = None) -> np.ndarray:
        raise InputError("is a sketch: it keeps no token's own numbers", where=self.path or "sketch", expected="a stats file", hint="a sketch serves `scalebound certify` and `merge`")

    @property
    def blocks(self) -> np.ndarray:
        return np.concatenate([np.arange(start, stop) for start, stop in self.runs]) if len(self.runs) else np.arange(self.num_blocks, dtype=np.int64)

    def check_blocks(self) -> None:
        info, length = self.info, self.info.window[1] - self.info.window[0]
        if not info.block_tokens:
            return
        if not len(self.runs) or self.runs[0, 0] < 0 or self.runs[-1, 1] > self.num_blocks:
            raise InputError("has blocks outside its window", where=self.path)
        ragged = length - (self.num_blocks - 1) * info.block_tokens
        last = int(self.runs[-1, 1]) == self.num_blocks
        tokens = int((self.runs[:, 1] - self.runs[:, 0]).sum()) * info.block_tokens - (info.block_tokens - ragged if last else 0)
        if tokens != info.tokens:
            raise InputError(f"holds {info.tokens:,} tokens, its blocks account for {tokens:,}", where=self.path)

    def check_values(self) -> None:
        """Values were checked when they were counted."""

    @property
    def mean_nll(self) -> float:
        return self.loss_units * UNIT / self.info.tokens

    def mean(self, name: str) -> float:
        """Mean of ``nll``, ``entropy`` or ``reference_nll`` (for the last, losses of 24 nats and more count as 24)."""
        if name == "nll":
            return self.mean_nll
        table, place = (self.tables["loss"], 1) if name == "entropy" and name in self else (self.tables.get("reference"), 0)
        if table is None or (name == "entropy") != (place == 1):
            raise InputError(f"has no array {name!r}", where=self.path)
        index = table.cells % (table.axes[1].bins + 2) if place else table.cells // (table.axes[1].bins + 2)
        low = table.axes[place].ends(index)[0]
        return math.fsum((table.counts * low).tolist()) / len(self) + int((table.second if place else table.first).sum()) * UNIT / len(self)

    def save(self, path: str | os.PathLike) -> Path:
        from safetensors.numpy import save

        whole = np.array([self.loss_units >> 40, self.loss_units & (1 << 40) - 1, self.has_entropy], dtype=np.int64)
        arrays = {f"{name}/{part}": getattr(table, part) for name, table in self.tables.items() for part in ("cells", "counts", "first", "second")}
        metadata = {"scalebound": canonical_json({**msgspec.to_builtins(self.info), "schema": SCHEMA}).decode()}
        return atomic_write(path, save({**arrays, "blocks": self.runs, "whole": whole}, metadata=metadata))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Sketch:
        """Open a sketch; every size, id and count is checked."""
        from safetensors import SafetensorError, safe_open

        try:
            os.stat(path)
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}
        except OSError as error:
            raise from_os_error(error, path) from error
        except (SafetensorError, TypeError) as error:
            raise InputError(f"is not a safetensors file ({error})", where=str(path)) from error
        value = parse_json(metadata.get("scalebound", "null"), where=f"{path}: metadata")
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise InputError("is no sketch", where=str(path), expected=f"schema {SCHEMA}", hint="write one with `scalebound sketch`")
        stats = to_struct({**value, "schema": STATS_SCHEMA}, StatsInfo, where=str(path))
        names = {name.split("/")[0] for name in arrays} - {"blocks", "whole"}
        expected = {f"{name}/{part}" for name in names for part in ("cells", "counts", "first", "second")} | {"blocks", "whole"}
        runs = arrays.get("blocks", np.empty((0, 2), np.int64))
        if set(arrays) != expected or any(array.dtype != np.int64 for array in arrays.values()) or runs.ndim != 2 or runs.shape[1] != 2 or np.any(np.diff(runs.ravel()) <= 0):
            raise InputError("holds other arrays than its tables need", where=str(path))
        whole, tables = arrays["whole"], {}
        if whole.shape != (3,) or np.any(whole < 0):
            raise InputError("says no sum of losses", where=str(path))
        for name in names:
            axes, parts = _axes(name, bool(whole[2]), stats, where=str(path)), [arrays[f"{name}/{part}"] for part in ("cells", "counts", "first", "second")]
            if any(part.ndim != 1 or len(part) != len(parts[0]) or np.any(part < 0) for part in parts) or np.any(np.diff(parts[0]) <= 0):
                raise InputError(f"table {name!r} is damaged", where=str(path))
            table = Table(axes, *parts)
            limits = [table.counts * math.ceil(axis.widest / UNIT) for axis in axes]
            if (len(table.cells) and table.cells[-1] >= (axes[0].bins + 2) * (axes[1].bins + 2)) or np.any(table.counts < 1) or np.any(table.first > limits[0]) or np.any(table.second > limits[1]):
                raise InputError(f"table {name!r} says what cannot be", where=str(path), expected="cells of the table, distances within them")
            tables[name] = table
        return cls(stats, tables, (int(whole[0]) << 40) + int(whole[1]), runs, path=str(path))


def _axes(name: str, entropy: bool, stats: StatsInfo, *, where: str) -> tuple[Axis, Axis]:
    anchor = stats.anchor
    if name == "loss":
        return LOSS, ENTROPY if entropy else NONE
    if name == "reference":
        return LOSS, NONE
    if name == "difference":
        return DIFFERENCE, NONE
    if anchor and name in {f"difference {alpha!r}" for alpha in anchor.alphas}:
        return DIFFERENCE, CENTRE
    raise InputError(f"has an unknown table {name!r}", where=where)


def sketch_of(stats: Stats) -> Sketch:
    """The sketch of statistics, read once from the front.

    Raises
    ------
    InputError
        Losses that are none (with the token's index), a vocabulary that is not known.

    Notes
    -----
    O(tokens) time, memory of the non-empty cells whatever the number of tokens.
    """
    if isinstance(stats, Sketch):
        return stats
    info = stats.info
    if not 2 <= info.vocab_size <= LARGEST_VOCABULARY:
        raise UsageError(f"the vocabulary has {info.vocab_size:,} tokens" if info.vocab_size else "the vocabulary size is not known", where=stats.path or "statistics",
                         expected=f"between 2 and {LARGEST_VOCABULARY:,}, stated by a file that `scalebound measure` wrote")  # fmt: skip
    stats.check_values()
    log_v, tables, units = math.log(info.vocab_size), dict[str, Table](), 0
    eps = info.anchor.eps if info.anchor else 0.0
    alphas = info.anchor.alphas if info.anchor and "centre" in stats else ()

    def count(name: str, axes: tuple[Axis, Axis], a: np.ndarray, b: np.ndarray) -> None:
        found = Table.of(axes, a, b)
        tables[name] = tables[name].plus(found) if name in tables else found

    for start, stop in stats.chunks(READ):
        u = np.maximum(stats.read("nll", start, stop), 0.0, dtype=np.float64)
        zero = np.zeros(len(u))
        units += int(np.ceil(u / UNIT).sum(dtype=np.float64)) if float(u.max(initial=0.0)) < 2**6 else sum(math.ceil(value / UNIT) for value in u.tolist())
        if "entropy" in stats:
            count("loss", (LOSS, ENTROPY), u, np.clip(stats.read("entropy", start, stop), 0.0, log_v, dtype=np.float64))
        else:
            count("loss", (LOSS, NONE), u, zero)
        if "reference_nll" in stats and eps:
            r = np.maximum(stats.read("reference_nll", start, stop), 0.0, dtype=np.float64)
            v = u + np.log((1 - eps) * np.exp(-r) + eps / info.vocab_size)
            count("reference", (LOSS, NONE), r, zero)
            count("difference", (DIFFERENCE, NONE), v, zero)
            for row, alpha in enumerate(alphas):
                count(f"difference {alpha!r}", (DIFFERENCE, CENTRE), v, np.minimum(stats.read("centre", start, stop, row=row), 0.0, dtype=np.float64))
    runs = _runs(stats.blocks) if info.block_tokens else np.empty((0, 2), np.int64)
    return Sketch(info, tables, units, runs, path=stats.path)


def _runs(blocks: np.ndarray) -> np.ndarray:
    """Ascending ids as ranges [start, stop)."""
    if not len(blocks):
        return np.empty((0, 2), np.int64)
    cuts = np.flatnonzero(np.diff(blocks) != 1) + 1
    return np.stack([blocks[np.concatenate([[0], cuts])], blocks[np.concatenate([cuts - 1, [len(blocks) - 1]])] + 1], axis=1).astype(np.int64)


def merge_sketches(parts: Sequence[Sketch]) -> Sketch:
    """The sketch of all parts' tokens: the same bytes in any order and grouping.

    Raises :class:`InputError` when parts are not of one measurement or share a block.
    """
    first = parts[0]
    plain = msgspec.structs.replace(first.info, tokens=0, text_bytes=0)
    tables, units = dict(first.tables), first.loss_units
    for part in parts[1:]:
        axes = {name: table.axes for name, table in part.tables.items()}
        if msgspec.structs.replace(part.info, tokens=0, text_bytes=0) != plain or axes != {name: table.axes for name, table in tables.items()}:
            raise InputError(f"differs from {first.path} in model, stream, window, policy, anchor or arrays", where=part.path)
        tables = {name: table.plus(part.tables[name]) for name, table in tables.items()}
        units += part.loss_units
    if any(not len(part.runs) for part in parts) and len(parts) > 1:
        raise InputError("has no blocks, so its place in the stream is not known", where=next(p.path for p in parts if not len(p.runs)), expected="a file written by `scalebound measure`")
    runs = np.concatenate([part.runs for part in parts])
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    if np.any(runs[1:, 0] < runs[:-1, 1]):
        raise InputError(f"block {int(runs[1:, 0][runs[1:, 0] < runs[:-1, 1]][0])} is in two sketches; a token counts once", where=", ".join(part.path for part in parts))
    joined = np.flatnonzero(runs[1:, 0] != runs[:-1, 1]) + 1
    if len(runs):
        runs = np.stack([runs[np.concatenate([[0], joined]), 0], runs[np.concatenate([joined - 1, [len(runs) - 1]]), 1]], axis=1)
    info = msgspec.structs.replace(first.info, tokens=sum(len(p) for p in parts), text_bytes=sum(p.info.text_bytes for p in parts))
    return Sketch(info, tables, units, runs)
