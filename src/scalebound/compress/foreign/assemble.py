"""From integers and the scales they belong to, as every format has them, to the tensors of a package."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scalebound.compress.foreign.floats import BOOK, is_short, number_floats, shortest
from scalebound.compress.grouped import PART, Grouped, Step, part_order
from scalebound.compress.model import Coded, QuantizedModel, Raw
from scalebound.core.errors import InputError

MATRICES, VECTORS = "matrices", "vectors"  # roles of floats of 16 bits that a method left as they were


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
        that scale and shift, ``s`` and ``o`` for their integers. (``g``: numbers that columns are sorted by.)
    """

    kind: Literal["times", "plus"]
    values: np.ndarray | Blocks
    each: int
    role: str


@dataclass(frozen=True)
class Blocks:
    """A matrix as a format has it: integers, floats they are the numbers of (``book``) or None, and steps in the order of the format's arithmetic.

    Where groups are of columns that are no neighbours, the columns stand in the ascending order of ``keys``, one for each column of the matrix
    (its group), equal ones as in the matrix: :meth:`of_groups`.
    """

    integers: np.ndarray
    steps: tuple[Scale, ...]
    book: np.ndarray | None = None
    keys: np.ndarray | None = None

    @classmethod
    def of_groups(cls, name: str, codes: np.ndarray, zeros: np.ndarray | None, scales: np.ndarray, index: np.ndarray | None) -> Blocks:
        """``scale * (code - zero)``: codes (rows, columns), zeros and scales (rows, groups), and each column's group (None: neighbours share one).

        What is kept is code - zero: it says all that both do about the weights, and zeros cost nothing.

        Raises InputError for shapes that do not fit each other, and unless groups are of one size.
        """
        (rows, columns), groups = codes.shape, scales.shape[-1]
        if scales.ndim != 2 or len(scales) != rows or not groups or columns % groups or (zeros is not None and zeros.shape != scales.shape):
            raise InputError(f"has weights {codes.shape}, scales {scales.shape} and zeros {'' if zeros is None else zeros.shape}", where=name, expected="a scale for each output and group of inputs, and as many zeros")
        each = columns // groups
        order = np.arange(columns)
        if index is not None:
            if index.shape != (columns,) or index.min() < 0 or not np.array_equal(np.bincount(index, minlength=groups), np.full(groups, each)):
                raise InputError(f"has a g_idx that does not give {groups:,} groups {each:,} columns each", where=name, expected="groups of one size")
            order = np.argsort(index, kind="stable")
        sorted_already = bool((np.diff(order) == 1).all())
        integers = codes.astype(np.int16) if sorted_already else codes[:, order].astype(np.int16)
        if zeros is not None:
            integers.reshape(rows, groups, each)[...] -= zeros.astype(np.int16)[:, :, None]
        step = Scale("times", np.ascontiguousarray(scales), each, "d")
        return cls(np.ascontiguousarray(integers), (step,), keys=None if sorted_already or index is None else index.astype(np.float32).reshape(1, -1))

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
        Blocks; and plain arrays. Those of 16-bit floats are entropy coded where that is shorter, all others stored raw in the shortest type
        that holds them.

    Notes
    -----
    Floats repeat: all of one role (scales, offsets, matrices and vectors left in 16 bits) become numbers into one sorted list of the values
    that occur, unless storing them raw is shorter. Codebooks with the same content are stored once.
    """
    parts: dict[str, Grouped | np.ndarray] = {}
    books: dict[bytes, str] = {}
    out: dict[str, Raw | Coded | Grouped] = {}
    by_role: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if isinstance(tensor, Blocks):
            out[name] = _flatten(name, tensor, parts, books)
        elif is_short(tensor):
            by_role[MATRICES if tensor.ndim > 1 else VECTORS][name] = tensor
        else:
            out[name] = shortest(tensor)
    for name, part in parts.items():
        if isinstance(part, Grouped):
            out[name] = part
        elif name.startswith(BOOK):
            out[name] = shortest(part)
        else:
            by_role[name.rpartition(".")[2]][name] = part
    for role, values in by_role.items():
        out |= number_floats(role, values)
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
    if blocks.keys is not None:  # matrices with the same inputs often have the same order: stored once
        content = np.append(np.inf, blocks.keys).astype(np.float32)  # no codebook begins so
        part = books.setdefault(content.tobytes(), f"{PART}{name}.g")
        parts.setdefault(part, blocks.keys)
        steps.append(Step("columns", part))
    return Grouped(blocks.integers, tuple(steps))
