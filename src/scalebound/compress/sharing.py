"""Which integers share a table of frequencies: tables cost bytes, a shared one costs bits where distributions differ.

All matrices of a model draw on one list of K tables. A matrix either uses one of them, or gives every column (or row) a class that names
its table: in embeddings, above all, columns differ in size, and a table for each size saves 0.1 to 0.4 bits a weight. Tables, classes and
the choice for each matrix are found by alternating minimisation of the coded length (entropy-constrained clustering of the columns'
histograms), for several K; the writer keeps the shortest file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scalebound.compress.tables import MAX_SYMBOLS, PRECISION, bucket

NUM_TABLES = (1, 2, 3, 4, 6, 8, 12, 16)  # what is tried for small models
NUM_TABLES_LARGE = (16,)  # and for large ones, where a table's bytes are nothing
SMALL = 1 << 22  # weights up to which every number of tables is tried in earnest
ROUNDS = 8
# What is looked at when classes are chosen (what is coded is exact anyway): weights of a matrix, every n-th row or column; and units
# (rows, columns) of a matrix while tables are fitted. Fewer than ENOUGH weights of a unit would choose a class by their noise.
SAMPLE, UNITS, ENOUGH = 1 << 18, 96, 256
# what a choice costs in the header, in bits, about: a matrix with another table than most, one with classes
TABLE_BITS, CLASS_BITS = 12.0, 32.0
Axis = str  # "" (one table), "rows" or "cols"


@dataclass(frozen=True)
class Choice:
    """How a matrix is coded: with one table (``classes`` has one entry), or with one for each row or column."""

    axis: Axis
    classes: np.ndarray


@dataclass(frozen=True)
class _Histograms:
    """Of one matrix: signed buckets of magnitudes, for every row and for every column. (rows, buckets) and (cols, buckets) float64."""

    rows: np.ndarray
    cols: np.ndarray
    total: np.ndarray


def choose_classes(matrices: dict[str, np.ndarray], *, small: bool | None = None) -> Iterator[dict[str, Choice]]:
    """Ways to give tables to matrices: one table for all, then those that look shorter with more tables, the best first.

    Parameters
    ----------
    matrices : name -> (rows, cols) integers, not empty
    small
        Whether to try every number of tables; by default when there are at most SMALL weights.

    Yields
    ------
    name -> Choice, with tables numbered from 0 in each
    """
    yield {name: Choice("", np.zeros(1, dtype=np.int32)) for name in matrices}
    if not matrices:
        return
    largest = max(max(-int(m.min()), int(m.max())) for m in matrices.values())
    if largest == 0 or largest >= MAX_SYMBOLS:
        return
    histograms = {name: _histograms(matrix, largest) for name, matrix in matrices.items()}
    if small is None:
        small = sum(matrix.size for matrix in matrices.values()) <= SMALL
    found = sorted((_cluster(histograms, count) for count in (NUM_TABLES if small else NUM_TABLES_LARGE)), key=lambda item: item[0])
    for _, choices in found if small else found[:1]:  # estimates miss how tables deflate, which matters in small files, where trying is cheap
        yield choices


def _histograms(matrix: np.ndarray, largest: int) -> _Histograms:
    rows, cols = matrix.shape
    half = int(bucket(np.array(largest)))
    width = 2 * half + 1
    symbols = np.arange(-largest, largest + 1)
    column = (half + np.sign(symbols) * bucket(np.abs(symbols))).astype(np.intp)  # of a symbol, in the histogram

    def count(part: np.ndarray, groups: np.ndarray, num_groups: int) -> np.ndarray:
        found = np.bincount((groups * width + column[part.astype(np.int32) + largest]).reshape(-1), minlength=num_groups * width)
        return found.reshape(num_groups, width) * (matrix.size / part.size)

    stride = max(1, matrix.size // SAMPLE)
    of_rows = count(matrix[:, :: min(stride, max(1, cols // ENOUGH))], np.arange(rows)[:, None], rows)
    of_cols = count(matrix[:: min(stride, max(1, rows // ENOUGH))], np.arange(cols)[None, :], cols)
    return _Histograms(of_rows, of_cols, of_cols.sum(axis=0))


def _cluster(histograms: dict[str, _Histograms], count: int) -> tuple[float, dict[str, Choice]]:
    """Alternate between choosing tables for units and fitting tables to their units. Returns the estimated bits and the choices."""
    thinned = {name: _Histograms(_thin(h.rows), _thin(h.cols), h.total) for name, h in histograms.items()}
    lengths = _first_tables(thinned, count)  # (count, buckets): bits of a symbol of each bucket
    class_bits = np.full(count, np.log2(count))
    best = (np.inf, lengths, class_bits)
    for _ in range(ROUNDS):
        bits, _, pooled, used = _assign(thinned, lengths, class_bits)
        if bits < best[0]:
            best = (bits, lengths, class_bits)
        lengths, class_bits = _lengths(pooled, lengths), -np.log2(used / used.sum())
    bits, choices, _, _ = _assign(histograms, *best[1:])
    return bits, choices


def _thin(units: np.ndarray) -> np.ndarray:
    """At most some UNITS of the units, each standing for its neighbours."""
    part = units[:: max(1, len(units) // UNITS)]
    return part * (len(units) / len(part))


def _assign(histograms: dict[str, _Histograms], lengths: np.ndarray, class_bits: np.ndarray) -> tuple[float, dict[str, Choice], np.ndarray, np.ndarray]:
    """The cheapest choice for every matrix under given tables: estimated bits, choices, pooled counts and number of units of each table."""
    bits = 0.0
    choices: dict[str, Choice] = {}
    pooled = np.zeros_like(lengths)
    used = np.full(len(lengths), 1e-3)
    singles: list[int] = []
    for name, histogram in histograms.items():
        single = lengths @ histogram.total
        options = [(float(single.min()), Choice("", np.array([int(np.argmin(single))], dtype=np.int32)))]
        if len(lengths) > 1:
            for axis, units in (("cols", histogram.cols), ("rows", histogram.rows)):
                costs = units @ lengths.T + class_bits
                options.append((float(costs.min(axis=1).sum()) + CLASS_BITS, Choice(axis, np.argmin(costs, axis=1).astype(np.int32))))
        cost, choice = min((option for option in options if not option[1].axis or np.ptp(option[1].classes)), key=lambda option: option[0])
        bits += cost
        choices[name] = choice
        if choice.axis:
            np.add.at(pooled, choice.classes, histogram.cols if choice.axis == "cols" else histogram.rows)
            used += np.bincount(choice.classes, minlength=len(lengths))
        else:
            pooled[choice.classes[0]] += histogram.total
            singles.append(int(choice.classes[0]))
    common = max(map(singles.count, set(singles)), default=0)
    bits += TABLE_BITS * (len(singles) - common) + 8.0 * float(np.sum((pooled > 0).sum(axis=1) / 2 + 2))
    return bits, choices, pooled, used


def _first_tables(histograms: dict[str, _Histograms], count: int) -> np.ndarray:
    """Tables to start from: columns sorted by their mean square, cut into ``count`` groups of equal weight."""
    units = np.concatenate([histogram.cols for histogram in histograms.values()])
    half = units.shape[1] // 2
    size = np.abs(np.arange(-half, half + 1)) ** 2.0
    order = np.argsort(units @ size / np.maximum(units.sum(axis=1), 1), kind="stable")
    weight = np.cumsum(units[order].sum(axis=1))
    group = np.minimum((weight - 1e-9) * count // weight[-1], count - 1).astype(int)
    pooled = np.zeros((count, units.shape[1]))
    np.add.at(pooled, group, units[order])
    return _lengths(pooled, pooled)


def _lengths(pooled: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Bits of a symbol of every bucket under tables fitted to pooled counts; a table nothing uses keeps its lengths."""
    total = pooled.sum(axis=1, keepdims=True)
    share = np.maximum(pooled / np.maximum(total, 1), 2.0**-PRECISION)
    return np.where(total > 0, -np.log2(share), previous)
