"""From integers and the scales they belong to, as every format has them, to the tensors of a package."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scalebound.compress.grouped import PART, Grouped, Step, part_order
from scalebound.compress.model import DTYPE_NAMES, Coded, QuantizedModel, Raw
from scalebound.compress.tables import MAX_SYMBOLS

BOOK = 4 * PART  # begins the names of codebooks, which the parts of parts draw on


@dataclass(frozen=True)
class Scale:
    """One step of a format: multiply by, or add, floats or what further blocks come to.

    Parameters
    ----------
    kind : "times" or "plus"
    values : (rows, groups) float32, or blocks of that shape
    each
        Elements in a row, row-major, that share one.
    role
        What ends the names of these parts, without a dot. All parts of one role share a codebook, or tables: ``d`` and ``m`` for the floats
        that scale and shift, ``s`` and ``o`` for their integers.
    """

    kind: Literal["times", "plus"]
    values: np.ndarray | Blocks
    each: int
    role: str


@dataclass(frozen=True)
class Blocks:
    """A matrix as a format has it: integers, floats they are the numbers of (``book``) or None, and steps in the order of the format's arithmetic."""

    integers: np.ndarray
    steps: tuple[Scale, ...]
    book: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.integers.shape


def assemble(config: dict[str, Any], tensors: Mapping[str, np.ndarray | Blocks]) -> QuantizedModel:
    """A model whose tensors decode to exactly what the blocks' arithmetic gives.

    Parameters
    ----------
    config
        As in ``config.json``, without what says that the weights are quantized.
    tensors
        Blocks; and plain arrays, which are stored raw in the shortest type that holds them.

    Notes
    -----
    Floats of scales repeat: all of one role become numbers into one sorted list of the values that occur, which entropy coding brings from 16
    bits to 8 or 10, unless storing them raw is shorter. Codebooks with the same content are stored once.
    """
    parts: dict[str, Grouped | np.ndarray] = {}
    books: dict[bytes, str] = {}
    out: dict[str, Raw | Coded | Grouped] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Blocks):
            out[name] = _flatten(name, tensor, parts, books)
        else:
            out[name] = shortest(tensor)
    by_role: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, part in parts.items():
        if isinstance(part, Grouped):
            out[name] = part
        elif name.startswith(BOOK):
            out[name] = shortest(part)
        else:
            by_role[name.rpartition(".")[2]][name] = part
    for role, values in by_role.items():
        out |= _floats(role, values)
    return QuantizedModel(config, dict(sorted(out.items(), key=lambda item: part_order(item[0]))))


def _flatten(name: str, blocks: Blocks, parts: dict[str, Grouped | np.ndarray], books: dict[bytes, str]) -> Grouped:
    """Blocks as a grouped tensor, its parts (and theirs) put into ``parts``."""
    steps: list[Step] = []
    if blocks.book is not None:
        content = blocks.book.astype(np.float32)
        book = books.setdefault(content.tobytes(), f"{BOOK}book{len(books)}")
        parts[book] = content
        steps.append(Step("book", book))
    for scale in blocks.steps:
        part = f"{PART}{name}.{scale.role}"
        parts[part] = _flatten(part, scale.values, parts, books) if isinstance(scale.values, Blocks) else scale.values
        steps.append(Step(scale.kind, part, scale.each))
    return Grouped(blocks.integers, tuple(steps))


def _floats(role: str, values: dict[str, np.ndarray]) -> dict[str, Raw | Coded | Grouped]:
    """All floats of a role: as numbers into one list of the values that occur, or raw."""
    together = np.concatenate([part.reshape(-1) for part in values.values()]).astype(np.float32)
    patterns, where, counts = np.unique(together.view(np.uint32), return_inverse=True, return_counts=True)  # patterns: -0.0 is not 0.0
    order = np.argsort(patterns.view(np.float32), kind="stable")
    book = shortest(patterns.view(np.float32)[order])
    width = 8 * book.data.itemsize
    coded_bits = float(-counts @ np.log2(counts / len(together))) + len(patterns) * (width + 8)  # a byte each in the table
    if len(patterns) >= MAX_SYMBOLS or coded_bits >= width * len(together):
        return {name: shortest(part) for name, part in values.items()}
    number = np.empty(len(order), dtype=np.int32)
    number[order] = np.arange(len(order))
    number = number[where.reshape(-1)]
    out: dict[str, Raw | Coded | Grouped] = {f"{BOOK}{role}": book}
    at = 0
    for name, part in values.items():
        out[name] = Grouped(number[at : at + part.size].reshape(part.shape), (Step("book", f"{BOOK}{role}"),))
        at += part.size
    return out


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
