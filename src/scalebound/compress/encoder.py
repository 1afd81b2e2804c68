"""From a quantized model to the bytes of a package (docs/package-format.md).

The size is the code length a certificate pays for, so several ways of sharing tables between tensors are tried and the shortest is kept.
"""

from __future__ import annotations

import functools
import itertools
import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from scalebound.compress.coder import encode_messages
from scalebound.compress.grouped import PART, Grouped
from scalebound.compress.header import GROUPED, MAGIC, PLAIN, Code, check_size, deflate, find_patterns, steps_of, write_header
from scalebound.compress.model import RAW_DTYPES, Coded, QuantizedModel, Raw, matrix_shape
from scalebound.compress.sharing import SMALL, Choice, choose_classes
from scalebound.compress.tables import Table, count_symbols, fit_table, varint
from scalebound.core.errors import InputError
from scalebound.core.hashing import canonical_config
from scalebound.core.io import canonical_json


@dataclass(frozen=True)
class Breakdown:
    """Where the bytes of a package are. The parts sum to ``file_bytes`` (coded parts are apportioned by their entropy)."""

    file_bytes: int
    header_bytes: int  # magic, lengths, checksum, configuration, names, shapes, codes
    table_bytes: int
    class_bytes: int  # which row or column uses which table
    scale_bytes: int  # and parts of grouped tensors, codebooks among them
    raw_bytes: int  # norm vectors and buffers
    weight_bytes: int


def encode(model: QuantizedModel) -> bytes:
    """The package of a model. Same model, same bytes (on one build of zlib)."""
    return encode_with_breakdown(model)[0]


def encode_with_breakdown(model: QuantizedModel) -> tuple[bytes, Breakdown]:
    """The package of a model and where its bytes are.

    Raises
    ------
    InputError
        A scale that is not positive and finite, an integer outside 17 bits, a configuration that is not JSON.
    MissingExtra
        ``constriction`` is not installed.

    Notes
    -----
    About 40 million weights a second on one core for large models; about 0.1 s for small ones, where up to nine plans are
    written to find the shortest. Memory: a copy of the integers, and some 20 bytes for each weight of the largest tensor.
    """
    config = _clean_config(model.config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.tensors.items()}
    raw = {name: tensor.dtype for name, tensor in model.tensors.items() if isinstance(tensor, Raw)}
    grouped = {name: tensor for name, tensor in model.tensors.items() if isinstance(tensor, Grouped)}
    layers, patterns = find_patterns(shapes, raw | grouped)
    order = {name: pattern for pattern in patterns for name in pattern.names}
    _check_parts(model, list(order))
    steps = {name: steps_of(name, tensor, order[name].name) for name, tensor in grouped.items()}
    shift = _common_shift(model)
    coded = {name: tensor for name in order if not isinstance(tensor := model.tensors[name], Raw)}
    best: tuple[float, bytes, bytes, _Plan] | None = None
    for plan, keep in _plans(coded, shift):
        codes = {name: Code(dtype=raw[name]) if name in raw else replace(plan.codes[name], steps=steps.get(name, ())) for name in order}
        header = write_header(config, layers, patterns, codes, shift)
        meta = deflate(header, plan.tables)
        bits = 8 * len(meta) + plan.bits()
        if best is None or bits < best[0]:
            best = (bits, header, meta, plan)
            keep()
    assert best is not None
    _, header, meta, plan = best
    raw_bytes = b"".join(_raw_bytes(model.tensors[name]) for name in order)
    words = encode_messages([(message.symbols, plan.tables[k]) for message, k in plan.messages])
    payload = varint(len(meta)) + meta + raw_bytes + words
    body = MAGIC + bytes([GROUPED if grouped else PLAIN]) + varint(len(payload)) + payload
    check_size(sum(math.prod(shape) for shape in shapes.values()), len(payload), "the model")
    package = body + zlib.crc32(body).to_bytes(4, "little")

    header_bytes = len(package) - len(raw_bytes) - len(words) - len(meta) + min(len(meta), len(deflate(header, [])))
    parts = {_family(name) for name in model.parts}
    single = sum(len(_raw_bytes(tensor)) for name, tensor in model.tensors.items() if name in model.parts or _has_one_scale(tensor))
    scale_bytes = min(len(words), round((plan.bits("scales") + sum(plan.bits(kind) for kind in parts)) / 8))
    class_bytes = min(len(words) - scale_bytes, round(plan.bits("classes") / 8))
    return package, Breakdown(
        file_bytes=len(package),
        header_bytes=header_bytes,
        table_bytes=len(package) - len(raw_bytes) - len(words) - header_bytes,
        class_bytes=class_bytes,
        scale_bytes=single + scale_bytes,
        raw_bytes=len(raw_bytes) - single,
        weight_bytes=len(words) - scale_bytes - class_bytes,
    )


@dataclass(frozen=True)
class _Message:
    """Symbols that are coded with one table: what they are, and the table's number in the list of their kind.

    Kinds are "scales", "classes", "vector" (integers of vectors), and for the integers of matrices the name of their family.
    """

    kind: str
    symbols: np.ndarray
    number: int = 0

    @cached_property
    def histogram(self) -> tuple[int, np.ndarray]:
        return count_symbols(self.symbols)


@dataclass(frozen=True)
class _Plan:
    """The tables, every tensor's code, and what the coder is given (with the numbers of tables), in the order the decoder reads it."""

    tables: list[Table]
    codes: dict[str, Code]
    messages: list[tuple[_Message, int]]

    def bits(self, kind: str = "") -> float:
        """Bits of all messages, or of those of a kind."""
        return sum(self.tables[k].bits(*message.histogram) for message, k in self.messages if kind in ("", message.kind))


def _family(name: str) -> str:
    """Which matrices draw on one list of tables: those of the model, and of its parts those that play one part (the end of their names)."""
    return f"matrix {name.rpartition('.')[2] if name.startswith(PART) else ''}"


def _plans(coded: dict[str, Coded | Grouped], shift: int) -> Iterator[tuple[_Plan, Callable[[], None]]]:
    """Plans to try; each comes with what to call when it is the best so far, which later ones then start from.

    Families are taken one after the other, that of the weights last.
    """
    families: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, tensor in coded.items():
        if len(tensor.shape) >= 2:
            families[_family(name)][name] = tensor.matrix
    settled = {name: Choice("", np.zeros(1, dtype=np.int32)) for matrices in families.values() for name in matrices}
    memo: dict[tuple[str, int], tuple[Choice | None, list[_Message]]] = {}  # messages by tensor and choice (kept, so that its id stays its own)
    tried, small = False, sum(matrix.size for matrices in families.values() for matrix in matrices.values()) <= SMALL
    for family in sorted(families, reverse=True):
        for choices in itertools.islice(choose_classes(families[family], small=small), int(tried), None):  # the first choice is one table: tried with the others
            trial = settled | _compact(choices)
            yield _plan(coded, trial, shift, memo), functools.partial(settled.update, trial)
            tried = True
    if not tried:
        yield _plan(coded, settled, shift, memo), lambda: None


def _compact(choices: dict[str, Choice]) -> dict[str, Choice]:
    """Tables renumbered so that every number up to the largest is used."""
    used = np.unique(np.concatenate([choice.classes for choice in choices.values()]))
    return {name: Choice(choice.axis, np.searchsorted(used, choice.classes).astype(np.int32)) for name, choice in choices.items()}


def _plan(coded: dict[str, Coded | Grouped], choices: dict[str, Choice], shift: int, memo: dict[tuple[str, int], tuple[Choice | None, list[_Message]]]) -> _Plan:
    messages: list[_Message] = []
    for name, tensor in coded.items():
        choice = choices.get(name)
        key = name, id(choice)
        if key not in memo:
            memo[key] = choice, _messages(tensor, choice, _family(name), shift)
        messages += memo[key][1]
    # tables are numbered kind by kind: those of matrices first
    kinds = [*sorted({_family(name) for name in choices}), "scales", "classes", "vector"]
    counts = {kind: 1 + max((message.number for message in messages if message.kind == kind), default=-1) for kind in kinds}
    first = dict(zip(kinds, itertools.accumulate(counts.values(), initial=0), strict=False))
    codes: dict[str, Code] = {}
    for name, tensor in coded.items():
        code = {"table": first["vector"]}
        if _has_coded_scales(tensor):
            code["row_scales"] = first["scales"]
        if isinstance(tensor, Coded) and tensor.col_scales is not None:
            code["col_scales"] = first["scales"]
        if choice := choices.get(name):
            code["table"] = first[_family(name)] + (0 if choice.axis else int(choice.classes[0]))
            if choice.axis:
                code["row_classes" if choice.axis == "rows" else "col_classes"] = first["classes"]
        codes[name] = Code(**code)  # type: ignore
    by_table: dict[int, list[_Message]] = defaultdict(list)
    numbered = [(message, first[message.kind] + message.number) for message in messages]
    for message, k in numbered:
        by_table[k].append(message)
    return _Plan([fit_table(*_pool([message.histogram for message in by_table[k]])) for k in range(len(by_table))], codes, numbered)


def _messages(tensor: Coded | Grouped, choice: Choice | None, family: str, shift: int) -> list[_Message]:
    """What the coder is given of one tensor."""
    rows, _ = matrix_shape(tensor.shape)
    messages: list[_Message] = []
    if isinstance(tensor, Coded) and _has_coded_scales(tensor):
        messages.append(_Message("scales", np.broadcast_to(tensor.row_scales, rows).astype(np.int32) >> shift))
    if isinstance(tensor, Coded) and tensor.col_scales is not None:
        messages.append(_Message("scales", tensor.col_scales.astype(np.int32) >> shift))
    if choice is None:
        messages.append(_Message("vector", tensor.matrix))
    elif not choice.axis:
        messages.append(_Message(family, tensor.matrix, int(choice.classes[0])))
    else:
        messages.append(_Message("classes", choice.classes))
        for k in np.unique(choice.classes):
            members = choice.classes == k
            messages.append(_Message(family, tensor.matrix[members] if choice.axis == "rows" else tensor.matrix[:, members], int(k)))
    return messages


def _pool(histograms: list[tuple[int, np.ndarray]]) -> tuple[int, np.ndarray]:
    """The counts of all messages of one table."""
    low = min(first for first, _ in histograms)
    counts = np.zeros(max(first + len(part) for first, part in histograms) - low, dtype=np.int64)
    for first, part in histograms:
        counts[first - low : first - low + len(part)] += part
    return low, counts


def _clean_config(config: dict[str, Any]) -> dict[str, Any]:
    try:
        return canonical_config(config) if canonical_json(config) else {}
    except (TypeError, ValueError) as error:
        raise InputError(f"the configuration is not JSON ({error})", where="config", expected="the content of a config.json") from error


def _has_one_scale(tensor: Raw | Coded | Grouped) -> bool:
    return isinstance(tensor, Coded) and tensor.col_scales is None and len(tensor.row_scales) == 1


def _has_coded_scales(tensor: Coded | Grouped) -> bool:
    return isinstance(tensor, Coded) and not _has_one_scale(tensor)


def _check_parts(model: QuantizedModel, order: list[str]) -> None:
    """Every part must be in the file before what is computed from it, and be marked as one."""
    before: set[str] = set()
    for name in order:
        tensor = model.tensors[name]
        if isinstance(tensor, Grouped):
            tensor.check_parts(before, name)
        before.add(name)


def _common_shift(model: QuantizedModel) -> int:
    """How many low bits all coded scale patterns have in common as zeros (at most 7)."""
    shift = 7
    for name, tensor in model.tensors.items():
        if isinstance(tensor, Grouped) and not (tensor.integers.size and tensor.steps):
            raise InputError("has no elements, or no steps", where=name)
        if not isinstance(tensor, Coded):
            continue
        rows, cols = matrix_shape(tensor.shape)
        if not rows * cols or len(tensor.row_scales) not in (1, rows) or (tensor.col_scales is not None and len(tensor.col_scales) != cols):
            raise InputError("has no elements, or scales that do not fit its shape", where=name)
        for scales in (tensor.row_scales, tensor.col_scales):
            if scales is None:
                continue
            patterns = np.asarray(scales).astype(np.int64)
            if patterns.min() < 1 or patterns.max() > 0x7F7F:
                raise InputError("a scale is not a positive, finite bfloat16 number", where=name)
            if not _has_one_scale(tensor):
                union = int(np.bitwise_or.reduce(patterns))
                shift = min(shift, (union & -union).bit_length() - 1)
    return shift


def _raw_bytes(tensor: Raw | Coded | Grouped) -> bytes:
    if isinstance(tensor, Raw):
        return np.ascontiguousarray(tensor.data, dtype=RAW_DTYPES[tensor.dtype]).tobytes()
    return np.asarray(tensor.row_scales, dtype="<u2").tobytes() if isinstance(tensor, Coded) and _has_one_scale(tensor) else b""
