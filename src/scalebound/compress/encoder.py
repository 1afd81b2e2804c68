"""From a quantized model to the bytes of a package (docs/package-format.md).

The size is the code length a certificate pays for, so several ways of sharing tables between tensors are tried and the shortest is kept.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from scalebound.compress.coder import encode_messages
from scalebound.compress.header import MAGIC, Code, check_size, deflate, find_patterns, write_header
from scalebound.compress.model import RAW_DTYPES, Coded, QuantizedModel, Raw, matrix_shape
from scalebound.compress.sharing import Choice, choose_classes
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
    scale_bytes: int
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
    layers, patterns = find_patterns(shapes, raw)
    order = [name for pattern in patterns for name in pattern.names]
    shift = _common_shift(model)
    coded = {name: tensor for name in order if isinstance(tensor := model.tensors[name], Coded)}
    best: tuple[float, bytes, bytes, _Plan] | None = None
    for choices in choose_classes({name: tensor.matrix for name, tensor in coded.items() if len(tensor.shape) >= 2}):
        plan = _plan(coded, choices, shift)
        header = write_header(config, layers, patterns, {name: Code(dtype=raw[name]) if name in raw else plan.codes[name] for name in order}, shift)
        meta = deflate(header, plan.tables)
        bits = 8 * len(meta) + sum(message.bits(plan.tables) for message in plan.messages)
        if best is None or bits < best[0]:
            best = (bits, header, meta, plan)
    assert best is not None
    _, header, meta, plan = best
    raw_bytes = b"".join(_raw_bytes(model.tensors[name]) for name in order)
    words = encode_messages([(message.symbols, plan.tables[message.table]) for message in plan.messages])
    payload = varint(len(meta)) + meta + raw_bytes + words
    body = MAGIC + varint(len(payload)) + payload
    check_size(sum(math.prod(shape) for shape in shapes.values()), len(payload), "the model")
    package = body + zlib.crc32(body).to_bytes(4, "little")

    header_bytes = len(package) - len(raw_bytes) - len(words) - len(meta) + min(len(meta), len(deflate(header, [])))
    single = sum(2 for tensor in coded.values() if _has_one_scale(tensor))
    scale_bytes = min(len(words), round(sum(message.bits(plan.tables) for message in plan.messages if message.part == "scales") / 8))
    class_bytes = min(len(words) - scale_bytes, round(sum(message.bits(plan.tables) for message in plan.messages if message.part == "classes") / 8))
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
    """Symbols that are coded with one table, and what they are."""

    part: Literal["scales", "classes", "vector", "integers"]
    symbols: np.ndarray
    table: int

    @cached_property
    def histogram(self) -> tuple[int, np.ndarray]:
        return count_symbols(self.symbols)

    def bits(self, tables: list[Table]) -> float:
        return tables[self.table].bits(*self.histogram)


@dataclass(frozen=True)
class _Plan:
    """The tables, every tensor's code, and what the coder is given, in the order the decoder reads it."""

    tables: list[Table]
    codes: dict[str, Code]
    messages: list[_Message]


def _plan(coded: dict[str, Coded], choices: dict[str, Choice], shift: int) -> _Plan:
    # tables are numbered: those of matrices that are used, then (where there are any) scales, classes, integers of vectors
    used = sorted({int(k) for choice in choices.values() for k in np.unique(choice.classes)})
    renumbered = np.zeros(max(used, default=0) + 1, dtype=np.int32)
    renumbered[used] = np.arange(len(used))
    scaled = any(not _has_one_scale(tensor) for tensor in coded.values())
    classed = any(choice.axis for choice in choices.values())
    number = {"scales": len(used), "classes": len(used) + scaled, "vector": len(used) + scaled + classed}
    codes: dict[str, Code] = {}
    messages: list[_Message] = []
    for name, tensor in coded.items():
        rows, cols = matrix_shape(tensor.shape)
        code = {"table": number["vector"]}
        if not _has_one_scale(tensor):
            scales = np.broadcast_to(tensor.row_scales, rows).astype(np.int32) >> shift
            messages.append(_Message("scales", scales, number["scales"]))
            code["row_scales"] = number["scales"]
        if tensor.col_scales is not None:
            messages.append(_Message("scales", tensor.col_scales.astype(np.int32) >> shift, number["scales"]))
            code["col_scales"] = number["scales"]
        choice = choices.get(name)
        if choice is None:
            messages.append(_Message("vector", tensor.matrix, number["vector"]))
        elif not choice.axis:
            code["table"] = int(renumbered[choice.classes[0]])
            messages.append(_Message("integers", tensor.matrix, code["table"]))
        else:
            code |= {"table": 0, "row_classes" if choice.axis == "rows" else "col_classes": number["classes"]}
            classes = renumbered[choice.classes]
            messages.append(_Message("classes", classes, number["classes"]))
            for k in np.unique(classes):
                members = classes == k
                part = tensor.matrix[members] if choice.axis == "rows" else tensor.matrix[:, members]
                messages.append(_Message("integers", part, int(k)))
        codes[name] = Code("", **code)
    by_table: dict[int, list[_Message]] = defaultdict(list)
    for message in messages:
        by_table[message.table].append(message)
    return _Plan([fit_table(*_pool([message.histogram for message in by_table[k]])) for k in range(len(by_table))], codes, messages)


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


def _has_one_scale(tensor: Coded) -> bool:
    return tensor.col_scales is None and len(tensor.row_scales) == 1


def _common_shift(model: QuantizedModel) -> int:
    """How many low bits all coded scale patterns have in common as zeros (at most 7)."""
    shift = 7
    for name, tensor in model.tensors.items():
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


def _raw_bytes(tensor: Raw | Coded) -> bytes:
    if isinstance(tensor, Raw):
        return np.ascontiguousarray(tensor.data, dtype=RAW_DTYPES[tensor.dtype]).tobytes()
    return np.asarray(tensor.row_scales, dtype="<u2").tobytes() if _has_one_scale(tensor) else b""
