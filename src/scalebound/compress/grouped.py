"""Tensors of a package whose numbers are integers with scales of their own making: what other programs' quantizers write.

Such formats differ in their bytes and agree in their arithmetic: a small integer (or the entry of a codebook it points to) times the scale of
its group, perhaps plus an offset of its group, where scales and offsets may again be integers times something coarser. So a tensor is integers
and *steps*, and what a step needs is another tensor of the same file, a *part*, whose name begins with ``=`` and which is no tensor of the model:

.. math:: v_0 = C[q]\\;\\text{or}\\;q,\\qquad v_{k+1}[p] = \\mathrm{fl}\\big(v_k[p] \\cdot s_k[\\lfloor p / each_k \\rfloor]\\big)
   \\;\\text{or}\\; \\mathrm{fl}\\big(v_k[p] + s_k[\\lfloor p / each_k \\rfloor]\\big)

or the columns change places, where a format's groups are of columns that are no neighbours.

p counts elements in row-major order and fl rounds to the nearest float32 (ties to even): the arithmetic of the programs that made the files,
so their weights come back bit for bit. docs/package-format.md, section 6, is normative.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from scalebound.compress.shape import matrix_shape
from scalebound.core.errors import InputError

PART = "="  # what the names of parts begin with; a part's own parts begin with one more


def part_order(name: str) -> tuple[int, str]:
    """Key to sort names by so that parts come before what is computed from them.

    >>> sorted(["w", "=w.s", "==w.s.d", "0"], key=part_order)
    ['==w.s.d', '=w.s', '0', 'w']
    """
    return len(name.lstrip(PART)) - len(name), name


@dataclass(frozen=True)
class Step:
    """Look the integers up in a part (``book``, only as the first step), multiply by a part, add it, or sort the columns back (``columns``).

    In a product or a sum, each element of the part serves ``each`` consecutive elements of the tensor, row-major. For ``columns`` the part
    holds a number for each column of the result; the columns so far stand in the ascending order of those, equal ones as in the result.
    """

    kind: Literal["book", "times", "plus", "columns"]
    part: str
    each: int = 1


@dataclass(frozen=True)
class Grouped:
    """A tensor of integers and steps.

    Parameters
    ----------
    integers : the tensor's shape, at least one element; magnitudes below 2^16
        (below 2^17 where the integers of tensors that share a table lie less than 2^17 apart)
    steps : one or more, in the order they are taken

    Examples
    --------
    >>> scale = np.array([[0.5], [2.0]], dtype=np.float32)
    >>> Grouped(np.array([[1, -2], [3, 0]]), (Step("times", "=w.s", 2),)).dequantized({"=w.s": scale}).tolist()
    [[0.5, -1.0], [6.0, 0.0]]
    """

    integers: np.ndarray
    steps: tuple[Step, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.integers.shape

    @cached_property
    def matrix(self) -> np.ndarray:
        return self.integers.reshape(matrix_shape(self.shape))

    def check_parts(self, before: Collection[str], where: str) -> None:
        """Refuse a part that is not among the names before this tensor's, or that is a tensor of the model."""
        for step in self.steps:
            if step.part not in before or not step.part.startswith(PART):
                raise InputError(f"is computed from {step.part!r}, which is no part before it", where=where)

    def dequantized(self, parts: Mapping[str, np.ndarray], where: str = "") -> np.ndarray:
        """float32, the tensor's shape.

        Raises InputError for a part that is missing, no float, or too short, an integer outside the codebook, a result that is not finite.
        """
        self.check_parts(parts, where)
        for step in self.steps:
            if parts[step.part].dtype != np.float32:
                raise InputError(f"is computed from {step.part!r}, which holds no floats", where=where)
        steps, flat = list(self.steps), self.integers.reshape(-1)
        if steps and steps[0].kind == "book":
            book = parts[steps.pop(0).part].reshape(-1)
            if flat.min() < 0 or flat.max() >= len(book):
                raise InputError(f"has an integer outside its codebook of {len(book)}", where=where)
            value = book[flat]
        else:
            value = flat.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):  # seen below
            for step in steps:
                if step.kind == "columns":
                    value = self._sorted_back(value, parts[step.part].reshape(-1), where)
                    continue
                wide = _spread(parts[step.part].reshape(-1), step, len(value), where)
                grouped = value.reshape(wide.shape[0], -1) if wide.ndim == 2 else value
                if step.kind == "times":
                    grouped *= wide
                else:
                    grouped += wide
        if not np.isfinite(value).all():
            raise InputError("has a number that is not finite", where=where, expected="products and sums within float32")
        return value.reshape(self.shape)

    def _sorted_back(self, value: np.ndarray, keys: np.ndarray, where: str) -> np.ndarray:
        """Elements whose columns stand in the order of ``keys``, each back in the column that has its key."""
        rows, columns = matrix_shape(self.shape)
        if len(keys) != columns or not np.isfinite(keys).all():
            raise InputError(f"has {columns:,} columns and {len(keys):,} numbers to sort them by", where=where, expected="a finite number for each column")
        return value.reshape(rows, columns)[:, np.argsort(np.argsort(keys, kind="stable"))].reshape(-1)


def _spread(part: np.ndarray, step: Step, size: int, where: str) -> np.ndarray:
    """A part as what broadcasts against (groups, each) elements, or against all when the last group is shorter."""
    if step.each < 1 or size > step.each * part.size:
        raise InputError(f"has {size:,} elements for {part.size:,} groups of {step.each}", where=where)
    groups, ragged = divmod(size, step.each)
    return part[:groups, None] if not ragged else np.repeat(part[: groups + 1], np.array([step.each] * groups + [ragged]))
