"""Tables of frequencies: how counts of symbols become the few bytes a package stores, and those bytes exact integer frequencies.

A table has one *weight byte* a symbol, or a bucket of symbols; a byte means an integer weight, and the weights are scaled to
frequencies of total 2^24 by a rule in integers (docs/package-format.md, section 3), so every machine decodes with the same table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scalebound.core.errors import InputError

PRECISION = 24
TOTAL = 1 << PRECISION
MAX_SYMBOLS = 1 << 17
MAX_SMOOTHED = 1 << 12  # longer tables are not smoothed: they belong to long messages
CHUNK = 1 << 20  # numpy counts in 64-bit copies: by parts, so that they stay small

# weight byte -> integer weight: four bits after the leading one, so neighbours differ by 3 to 6 percent
WEIGHTS = np.array([0] + [(16 + (b & 15)) << (b >> 4) for b in range(1, 256)], dtype=np.int64)
_EDGES = np.sqrt(WEIGHTS[1:-1].astype(np.float64) * WEIGHTS[2:])  # geometric middles: where a byte becomes the better of two


def bucket(magnitudes: np.ndarray) -> np.ndarray:
    """Bucket of a magnitude: its own below 16, then eight buckets an octave.

    >>> bucket(np.array([0, 15, 16, 17, 18, 31, 32])).tolist()
    [0, 15, 16, 16, 17, 23, 24]
    """
    a = np.asarray(magnitudes, dtype=np.int64)
    exponent = np.maximum(np.frexp(a.astype(np.float64))[1] - 4, 0)  # frexp's exponent is the bit length
    return 8 * exponent + (a >> exponent)


def frequencies(weights: np.ndarray) -> np.ndarray:
    """Frequencies of total 2^24, each at least 1, from integer weights (S >= 2 of them, not all zero).

    .. math:: f_j = cum_{j+1} - cum_j,\\quad cum_j = j + \\lfloor C_j (2^{24} - S) / C_S \\rfloor

    Returns
    -------
    (S,) int64, sum 2^24

    >>> int(frequencies(np.array([1, 0, 3])).sum()) == 2**24
    True
    """
    below = np.concatenate([[0], np.cumsum(weights, dtype=np.int64)])
    symbols = len(weights)
    return np.diff(np.arange(symbols + 1) + below * (TOTAL - symbols) // below[-1])


@dataclass(frozen=True)
class Table:
    """The symbols ``low .. low + size - 1`` and their weight bytes; ``symmetric`` tables have one byte a bucket of magnitudes."""

    low: int
    size: int
    weight_bytes: bytes = b""
    symmetric: bool = False

    @property
    def high(self) -> int:
        return self.low + self.size - 1

    @cached_property
    def frequencies(self) -> np.ndarray:
        """(size,) int64, sum 2^24."""
        if self.size == 1:
            return np.array([TOTAL])
        weights = WEIGHTS[np.frombuffer(self.weight_bytes, dtype=np.uint8)]
        if self.symmetric:
            weights = weights[bucket(np.abs(np.arange(self.low, self.high + 1)))]
        return frequencies(weights)

    @cached_property
    def stored(self) -> bytes:
        """The bytes of this table in a package."""
        if self.symmetric:
            return varint(2 * self.high + 1) + self.weight_bytes
        return varint(2 * self.size) + varint(2 * self.low if self.low >= 0 else -2 * self.low - 1) + self.weight_bytes

    def bits(self, low: int, counts: np.ndarray) -> float:
        """Bits that symbols with these counts (of low, low + 1, ..) take, but for the coder's rounding (below 1e-6 a symbol)."""
        if self.size == 1:
            return 0.0
        part = self.frequencies[low - self.low : low - self.low + len(counts)]
        return float(counts @ (PRECISION - np.log2(part)))


def fit_table(low: int, counts: np.ndarray) -> Table:
    """The cheapest table for symbols with these counts, stored bytes included: plain or symmetric, exact or smoothed.

    Parameters
    ----------
    low
        The symbol ``counts[0]`` belongs to.
    counts : (S,) int64, the first and the last not zero
    """
    if len(counts) == 1:
        return Table(low, 1)
    counts = counts.astype(np.float64)
    candidates = [Table(low, len(counts), _to_bytes(smooth)) for smooth in _smoothed(counts)]
    high = max(-low, low + len(counts) - 1)
    if low < 0 < low + len(counts) - 1 and high <= (MAX_SYMBOLS - 1) // 2:
        of_bucket = bucket(np.abs(np.arange(-high, high + 1)))
        sizes = np.bincount(of_bucket)
        totals = np.bincount(of_bucket[low + high : low + high + len(counts)], weights=counts, minlength=len(sizes))
        candidates += [Table(-high, 2 * high + 1, _to_bytes(smooth), symmetric=True) for smooth in _smoothed(totals / sizes)]
    return min(candidates, key=lambda table: table.bits(low, counts) + 8 * _deflated(table.weight_bytes))


def _smoothed(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Counts averaged over 1, 2, 4, .. neighbours: rougher tables whose equal bytes DEFLATE shortens, for messages too short for better ones."""
    width = 1
    while width < 2 * len(counts) and len(counts) <= MAX_SMOOTHED:
        starts = np.arange(0, len(counts), width)
        yield np.repeat(np.add.reduceat(counts, starts) / np.diff([*starts, len(counts)]), width)[: len(counts)]
        width *= 2
    if width == 1:
        yield counts


def _deflated(weight_bytes: bytes) -> float:
    """About how many bytes these become in the header: one for each, or three for a run of equal ones."""
    found = np.frombuffer(weight_bytes, dtype=np.uint8)
    edges = np.flatnonzero(np.diff(found, prepend=-1, append=256))
    return float(np.minimum(np.diff(edges), 3).sum())


def _to_bytes(counts: np.ndarray) -> bytes:
    """The nearest weight bytes to ``counts``, the largest being given the largest weight."""
    relative = counts * (float(WEIGHTS[-1]) / counts.max())
    found = np.searchsorted(_EDGES, relative) + 1
    # a symbol that occurs never takes weight 0 (frequency 1 of 2^24), one that occurs at least the smallest positive weight
    return np.where(counts > 0, found, 0).astype(np.uint8).tobytes()


def count_symbols(symbols: np.ndarray, where: str = "") -> tuple[int, np.ndarray]:
    """The smallest symbol, and the counts from it to the largest.

    >>> low, counts = count_symbols(np.array([3, 5, 3]))
    >>> low, counts.tolist()
    (3, [2, 0, 1])
    """
    flat = symbols.reshape(-1)
    low, high = int(flat.min()), int(flat.max())
    if max(high - low, -low, high) >= MAX_SYMBOLS:
        raise InputError(f"integers run from {low:,} to {high:,}", where=where, expected=f"magnitudes below {MAX_SYMBOLS:,}", hint="use a larger step")
    counts = np.zeros(high - low + 1, dtype=np.int64)
    for at in range(0, flat.size, CHUNK):
        counts += np.bincount(flat[at : at + CHUNK].astype(np.int32) - low, minlength=len(counts))
    return low, counts


def varint(value: int) -> bytes:
    """Unsigned LEB128.

    >>> varint(300)
    b'\\xac\\x02'
    """
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def read_varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    """The varint at ``at`` and the position after it."""
    value = 0
    for k in range(9):
        if at + k >= len(data):
            raise InputError("ends inside a number", where=where, expected="a complete package")
        byte = data[at + k]
        value |= (byte & 127) << 7 * k
        if byte < 128:
            return value, at + k + 1
    raise InputError("a number of more than nine bytes", where=where, expected="a package of version 1")


def read_tables(data: bytes, where: str) -> list[Table]:
    """All tables of a package, from the bytes after its header."""
    tables: list[Table] = []
    at = 0
    while at < len(data):
        value, at = read_varint(data, at, where)
        size, symmetric = value >> 1, bool(value & 1)
        if size < 1 or (2 * size + 1 if symmetric else size) > MAX_SYMBOLS:
            raise InputError(f"table {len(tables)} has size {size:,}", where=where, expected=f"1 to {MAX_SYMBOLS:,} symbols")
        if symmetric:
            low, num_bytes = -size, int(bucket(np.array(size))) + 1
            size = 2 * size + 1
        else:
            value, at = read_varint(data, at, where)
            low, num_bytes = (value >> 1) ^ -(value & 1), size if size > 1 else 0
        weight_bytes = data[at : at + num_bytes]
        at += num_bytes
        if max(-low, low + size) > 1 << 30 or len(weight_bytes) != num_bytes or (num_bytes and not any(weight_bytes)):
            raise InputError(f"table {len(tables)} is truncated, empty or out of range", where=where, expected="a package of version 1")
        tables.append(Table(low, size, weight_bytes, symmetric))
    return tables
