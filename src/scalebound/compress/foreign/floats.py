"""Floats that repeat, as numbers into one sorted list of those that occur.

A float16 or bfloat16 has 65,536 patterns, of which a tensor uses a few thousand, most of them rarely: an embedding in bfloat16 holds 10 to 11 bits a
number (a sign, 7 bits of mantissa, the entropy of its exponents), scales of groups 8 or 9. Numbered in ascending order they are integers like
any others, with a *book* step (:mod:`~scalebound.compress.grouped`), and come back bit for bit, signs of zeros included.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scalebound.compress.grouped import PART, Grouped, Step
from scalebound.compress.model import DTYPE_NAMES, Coded, Raw
from scalebound.compress.tables import MAX_SYMBOLS

BOOK = 4 * PART  # begins the names of codebooks, which the parts of parts draw on
HEADER_BITS = 320  # about what a list costs beside its entries: its name and those of its tensors, and numbers of tables


def number_floats(role: str, values: Mapping[str, np.ndarray]) -> dict[str, Raw | Coded | Grouped]:
    """Arrays of floats that share one list, or each of them raw where that is shorter.

    Parameters
    ----------
    role
        Ends the name of the list.
    values : name -> array of floats, finite

    Returns
    -------
    The list under the name ``====role`` and the arrays as numbers into it; or the arrays, raw.

    Notes
    -----
    Compared are 16 or 32 bits a number with their entropy, the list and its table (a byte an entry). Cost: a look-up a number where all
    fit 16 bits, a sort otherwise.

    >>> found = number_floats("d", {"a": np.tile(np.float32([0.5, -2.0]), 500)})
    >>> sorted(found), found["a"].integers[:4].tolist(), found["====d"].dtype
    (['====d', 'a'], [1, 0, 1, 0], 'F16')
    """
    together = shortest(np.concatenate([part.reshape(-1) for part in values.values()]))
    patterns, number, counts = _of_16_bits(together) if together.data.itemsize == 2 else _of_32_bits(together)
    width = 8 * together.data.itemsize
    coded_bits = float(-counts @ np.log2(counts / counts.sum())) + len(patterns.data) * (width + 8) + HEADER_BITS
    if len(patterns.data) >= MAX_SYMBOLS or coded_bits >= width * together.data.size:
        return {name: shortest(part) for name, part in values.items()}
    out: dict[str, Raw | Coded | Grouped] = {f"{BOOK}{role}": patterns}
    at = 0
    for name, part in values.items():
        out[name] = Grouped(number[at : at + part.size].reshape(part.shape), (Step("book", f"{BOOK}{role}"),))
        at += part.size
    return out


def _of_16_bits(data: Raw) -> tuple[Raw, np.ndarray, np.ndarray]:
    """The numbers that occur in ascending order, where each element is in that list, and how often each occurs."""
    bits = np.ascontiguousarray(data.data).view(np.uint16)
    counts = np.bincount(bits, minlength=1 << 16)
    patterns = np.flatnonzero(counts).astype(np.uint16)
    patterns = patterns[np.argsort(Raw(data.dtype, patterns.view(data.data.dtype)).dequantized(), kind="stable")]  # patterns: -0.0 is not 0.0
    place = np.zeros(1 << 16, dtype=np.int16 if len(patterns) <= 1 << 15 else np.int32)
    place[patterns] = np.arange(len(patterns))
    return Raw(data.dtype, patterns.view(data.data.dtype)), place[bits], counts[patterns]


def _of_32_bits(data: Raw) -> tuple[Raw, np.ndarray, np.ndarray]:
    patterns, where, counts = np.unique(data.data.view(np.uint32), return_inverse=True, return_counts=True)
    order = np.argsort(patterns.view(np.float32), kind="stable")
    place = np.empty(len(order), dtype=np.int32)
    place[order] = np.arange(len(order))
    return Raw("F32", patterns.view(np.float32)[order]), place[where.reshape(-1)], counts[order]


def is_short(data: np.ndarray) -> bool:
    """Whether an array holds finite floats of 16 bits, two or more of them."""
    return data.dtype.kind == "f" and data.size > 1 and bool(np.isfinite(data).all()) and shortest(data).dtype != "F32"


def shortest(data: np.ndarray) -> Raw:
    """A raw tensor; floats in the shortest of float16, bfloat16 and float32 that holds each of them, signs of zeros included."""
    if data.dtype.kind != "f":
        return Raw(DTYPE_NAMES[data.dtype if data.dtype == bool else data.dtype.newbyteorder("<")], data.view(np.uint8) if data.dtype == bool else data)
    data = np.ascontiguousarray(data, dtype=np.float32)
    bits = data.view(np.uint32)
    with np.errstate(over="ignore"):
        half = data.astype(np.float16)
    if np.array_equal(half.astype(np.float32).view(np.uint32), bits):
        return Raw("F16", half)
    if not (bits & 0xFFFF).any():
        return Raw("BF16", (bits >> 16).astype(np.uint16))
    return Raw("F32", data)
