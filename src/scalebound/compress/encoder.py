"""From a quantized model to the bytes of a package (docs/package-format.md).

The size is the code length a certificate pays for, so several ways of sharing tables between tensors are tried and the shortest is kept.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalebound.compress.coder import encode_messages
from scalebound.compress.header import MAGIC, Code, check_size, deflate, find_patterns, write_header
from scalebound.compress.model import RAW_DTYPES, Coded, QuantizedModel, Raw, matrix_shape
from scalebound.compress.sharing import Key, Message, share_tables
from scalebound.compress.tables import Table, varint
from scalebound.core.errors import InputError
from scalebound.core.hashing import canonical_config
from scalebound.core.io import canonical_json


@dataclass(frozen=True)
class Breakdown:
    """Where the bytes of a package are. The parts sum to ``file_bytes`` (coded parts are apportioned by their entropy)."""

    file_bytes: int
    header_bytes: int  # magic, lengths, checksum, configuration, names, shapes, codes
    table_bytes: int
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
        A scale that is not positive and finite, an integer outside 17 bits, a product float32 does not hold, a configuration that is not JSON.
    MissingExtra
        ``constriction`` is not installed.

    Notes
    -----
    Time is dominated by counting and coding: more than 20 million weights a second on one core; memory 5 bytes a weight beyond the model.
    """
    config = _clean_config(model.config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.tensors.items()}
    raw = {name: tensor.dtype for name, tensor in model.tensors.items() if isinstance(tensor, Raw)}
    layers, patterns = find_patterns(shapes, raw)
    order = [name for pattern in patterns for name in pattern.names]
    shift = _common_shift(model)
    messages = [message for name in order for message in _messages(name, model.tensors[name], shift)]

    def codes(numbers: dict[Key, int]) -> dict[str, Code]:
        return {
            name: Code(dtype=raw[name])
            if name in raw
            else Code(table=numbers[name, "integers"], row_scales=numbers.get((name, "rows"), -1), col_scales=numbers.get((name, "cols"), -1))
            for name in order
        }

    best: tuple[float, bytes, list[Table], dict[Key, int]] | None = None
    for numbers, tables, bits in share_tables(messages, {name: k for k, pattern in enumerate(patterns) for name in pattern.names}):
        meta = deflate(write_header(config, layers, patterns, codes(numbers), shift), tables)
        if best is None or 8 * len(meta) + bits < best[0]:
            best = (8 * len(meta) + bits, meta, tables, numbers)
    assert best is not None
    _, meta, tables, numbers = best
    raw_bytes = b"".join(_raw_bytes(model.tensors[name]) for name in order)
    coded = encode_messages([(message.symbols, tables[numbers[message.key]]) for message in messages])
    payload = varint(len(meta)) + meta + raw_bytes + coded
    body = MAGIC + varint(len(payload)) + payload
    check_size(sum(math.prod(shape) for shape in shapes.values()), len(payload), "the model")
    package = body + zlib.crc32(body).to_bytes(4, "little")

    table_bytes = min(len(meta), sum(len(table.stored) for table in tables))
    scale_bits = sum(message.bits(tables[numbers[message.key]]) for message in messages if message.key[1] != "integers")
    single = sum(2 for name in order if isinstance(t := model.tensors[name], Coded) and _has_one_scale(t))
    coded_scales = min(len(coded), round(scale_bits / 8))
    return package, Breakdown(
        file_bytes=len(package),
        header_bytes=len(package) - len(raw_bytes) - len(coded) - table_bytes,
        table_bytes=table_bytes,
        scale_bytes=single + coded_scales,
        raw_bytes=len(raw_bytes) - single,
        weight_bytes=len(coded) - coded_scales,
    )


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


def _messages(name: str, tensor: Raw | Coded, shift: int) -> list[Message]:
    """What the coder is given for one tensor, in the order the decoder reads it."""
    if isinstance(tensor, Raw):
        return []
    found = []
    rows, _ = matrix_shape(tensor.shape)
    if tensor.col_scales is not None or len(tensor.row_scales) > 1:
        scales = np.broadcast_to(tensor.row_scales, rows)
        found.append(Message((name, "rows"), scales.astype(np.int32) >> shift))
    if tensor.col_scales is not None:
        found.append(Message((name, "cols"), tensor.col_scales.astype(np.int32) >> shift))
    found.append(Message((name, "integers"), tensor.matrix))
    return found


def _raw_bytes(tensor: Raw | Coded) -> bytes:
    if isinstance(tensor, Raw):
        return np.ascontiguousarray(tensor.data, dtype=RAW_DTYPES[tensor.dtype]).tobytes()
    return np.asarray(tensor.row_scales, dtype="<u2").tobytes() if _has_one_scale(tensor) else b""
