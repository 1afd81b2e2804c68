"""Which table codes which symbols: the plan of a package, found by trying several and keeping the shortest.

Matrices draw on lists of tables by family (the model's weights; of parts, those that play one part), scales and classes on a few tables
each (:mod:`~scalebound.compress.pooling`), vectors on one. What a plan costs is what it writes, header and tables included.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from scalebound.compress.grouped import PART, Grouped
from scalebound.compress.header import Code
from scalebound.compress.model import Coded, Raw, matrix_shape
from scalebound.compress.pooling import groupings
from scalebound.compress.sharing import SMALL, Choice, choose_classes
from scalebound.compress.tables import MAX_SYMBOLS, Table, count_symbols, fit_table
from scalebound.core.errors import InputError


@dataclass(frozen=True)
class Message:
    """Symbols that are coded with one table: what they are, and the table's number in the list of their kind.

    Kinds are "scales", "classes", "vector" (integers of vectors), and for the integers of matrices the name of their family. The numbers of scales and
    classes are those that a grouping gives to their ``owner``.
    """

    kind: str
    symbols: np.ndarray
    number: int = 0
    owner: str = ""

    @cached_property
    def histogram(self) -> tuple[int, np.ndarray]:
        return count_symbols(self.symbols)

    def bits(self, table: Table) -> float:
        """Bits it takes with a table; the last answer is kept, since most plans that are tried differ in few tables."""
        if self._last[0] is not table:
            self._last[:] = table, table.bits(*self.histogram)
        return self._last[1]

    @cached_property
    def _last(self) -> list[Any]:
        return [None, 0.0]


@dataclass(frozen=True)
class Plan:
    """The tables, every tensor's code, and what the coder is given (with the numbers of tables), in the order the decoder reads it."""

    tables: list[Table]
    codes: dict[str, Code]
    messages: list[tuple[Message, int]]

    def bits(self, kind: str = "") -> float:
        """Bits of all messages, or of those of a kind."""
        return sum(message.bits(self.tables[k]) for message, k in self.messages if kind in ("", message.kind))


# messages by tensor and choice, so that symbols are counted once; the choice is kept so that its id stays its own
Memo = dict[tuple[str, int], "tuple[Choice | None, list[Message]]"]
Fits = dict[tuple[int, ...], Table]  # tables by the ids of the messages they were fitted to, which a memo keeps alive
Groups = dict[tuple[str, str], int]  # table of a kind and owner, 0 where none is said
POOLED = ("scales", "classes")


def family_of(name: str, tensor: Coded | Grouped) -> str:
    """Which matrices draw on one list of tables: numbers into one codebook; of the others those of the model, and of its parts those that play one part (the end of their names)."""
    if isinstance(tensor, Grouped) and tensor.steps[0].kind == "book":
        return f"matrix {tensor.steps[0].part}"
    return f"matrix {name.rpartition('.')[2] if name.startswith(PART) else ''}"


def find_plan(coded: dict[str, Coded | Grouped], shift: int, meta_bits: Callable[[Plan], float]) -> Plan:
    """The plan of the shortest file among those tried.

    Families are taken one after the other, that of the model's weights last, then scales and classes; what was best for one stays while the next is tried.

    Parameters
    ----------
    coded
        The tensors to code, in the order of the file.
    shift
        Zero bits that all coded scale patterns end with.
    meta_bits
        What the header and the tables of a plan take in the file.
    """
    families: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, tensor in coded.items():
        if len(tensor.shape) >= 2:
            families[family_of(name, tensor)][name] = tensor.matrix
    choices = {name: Choice("", np.zeros(1, dtype=np.int32)) for matrices in families.values() for name in matrices}
    memo: Memo = {}
    fits: Fits = {}
    groups: Groups = {}
    best = _plan(coded, choices, groups, shift, memo, fits)
    fewest = meta_bits(best) + best.bits()
    small = sum(matrix.size for matrices in families.values() for matrix in matrices.values()) <= SMALL
    for family in sorted(families, reverse=True):
        for tried in itertools.islice(choose_classes(families[family], small=small), 1, None):  # the first is one table for all
            trial = choices | _compact(tried)
            plan = _plan(coded, trial, groups, shift, memo, fits)
            bits = meta_bits(plan) + plan.bits()
            if bits < fewest:
                best, fewest, choices = plan, bits, trial
    for kind in POOLED:
        messages = [message for message, _ in best.messages if message.kind == kind]
        for numbers in groupings([message.histogram for message in messages]):
            tried_groups = groups | {(kind, message.owner): number for message, number in zip(messages, numbers, strict=True)}
            plan = _plan(coded, choices, tried_groups, shift, memo, fits)
            bits = meta_bits(plan) + plan.bits()
            if bits < fewest:
                best, fewest, groups = plan, bits, tried_groups
    return best


def _compact(choices: dict[str, Choice]) -> dict[str, Choice]:
    """Tables renumbered so that every number up to the largest is used."""
    used = np.unique(np.concatenate([choice.classes for choice in choices.values()]))
    return {name: Choice(choice.axis, np.searchsorted(used, choice.classes).astype(np.int32)) for name, choice in choices.items()}


def _plan(coded: dict[str, Coded | Grouped], choices: dict[str, Choice], groups: Groups, shift: int, memo: Memo, fits: Fits) -> Plan:
    """Tables fitted to what a choice for every matrix, and a grouping of scales and classes, make them code."""
    messages: list[Message] = []
    for name, tensor in coded.items():
        choice = choices.get(name)
        key = name, id(choice)
        if key not in memo:
            memo[key] = choice, _messages(name, tensor, choice, shift)
        messages += memo[key][1]
    # tables are numbered kind by kind: those of matrices first
    kinds = [*sorted({family_of(name, coded[name]) for name in choices}), "scales", "classes", "vector"]
    number = [groups.get((message.kind, message.owner), 0) if message.kind in POOLED else message.number for message in messages]
    counts = {kind: 1 + max((k for k, message in zip(number, messages, strict=True) if message.kind == kind), default=-1) for kind in kinds}
    first = dict(zip(kinds, itertools.accumulate(counts.values(), initial=0), strict=False))

    def table(kind: str, owner: str) -> int:
        return first[kind] + groups.get((kind, owner), 0)

    codes: dict[str, Code] = {}
    for name, tensor in coded.items():
        code = {"table": first["vector"]}
        if _has_coded_scales(tensor):
            code["row_scales"] = table("scales", f"{name} rows")
        if isinstance(tensor, Coded) and tensor.col_scales is not None:
            code["col_scales"] = table("scales", f"{name} cols")
        if choice := choices.get(name):
            code["table"] = first[family_of(name, tensor)] + (0 if choice.axis else int(choice.classes[0]))
            if choice.axis:
                code["row_classes" if choice.axis == "rows" else "col_classes"] = table("classes", name)
        codes[name] = Code(**code)  # type: ignore
    by_table: dict[int, list[Message]] = defaultdict(list)
    numbered = [(message, first[message.kind] + k) for k, message in zip(number, messages, strict=True)]
    for message, k in numbered:
        by_table[k].append(message)
    tables = []
    for k in range(len(by_table)):
        of = tuple(map(id, by_table[k]))
        if of not in fits:
            fits[of] = fit_table(*_pool([message.histogram for message in by_table[k]]))
        tables.append(fits[of])
    return Plan(tables, codes, numbered)


def _messages(name: str, tensor: Coded | Grouped, choice: Choice | None, shift: int) -> list[Message]:
    """What the coder is given of one tensor."""
    family, (rows, _) = family_of(name, tensor), matrix_shape(tensor.shape)
    messages: list[Message] = []
    if isinstance(tensor, Coded) and _has_coded_scales(tensor):
        messages.append(Message("scales", np.broadcast_to(tensor.row_scales, rows).astype(np.int32) >> shift, owner=f"{name} rows"))
    if isinstance(tensor, Coded) and tensor.col_scales is not None:
        messages.append(Message("scales", tensor.col_scales.astype(np.int32) >> shift, owner=f"{name} cols"))
    if choice is None:
        messages.append(Message("vector", tensor.matrix))
    elif not choice.axis:
        messages.append(Message(family, tensor.matrix, int(choice.classes[0])))
    else:
        messages.append(Message("classes", choice.classes, owner=name))
        for k in np.unique(choice.classes):
            members = choice.classes == k
            messages.append(Message(family, tensor.matrix[members] if choice.axis == "rows" else tensor.matrix[:, members], int(k)))
    return messages


def _pool(histograms: list[tuple[int, np.ndarray]]) -> tuple[int, np.ndarray]:
    """The counts of all messages of one table; InputError when no table holds them all."""
    low, end = min(first for first, _ in histograms), max(first + len(part) for first, part in histograms)
    if end - low > MAX_SYMBOLS:
        raise InputError(f"integers of tensors that share a table run from {low:,} to {end - 1:,}", expected=f"fewer than {MAX_SYMBOLS:,} apart", hint="use a larger step")
    counts = np.zeros(end - low, dtype=np.int64)
    for first, part in histograms:
        counts[first - low : first - low + len(part)] += part
    return low, counts


def has_one_scale(tensor: Raw | Coded | Grouped) -> bool:
    """Whether a tensor's one scale stands among the raw bytes instead of being coded."""
    return isinstance(tensor, Coded) and tensor.col_scales is None and len(tensor.row_scales) == 1


def _has_coded_scales(tensor: Coded | Grouped) -> bool:
    return isinstance(tensor, Coded) and not has_one_scale(tensor)
