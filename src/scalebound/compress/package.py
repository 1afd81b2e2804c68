"""The ``.sbz`` file: a quantized model becomes bytes, and bytes become exactly that model again.

The format is docs/package-format.md. Its size is the code length a certificate pays for, so the writer tries several ways of sharing
tables between tensors and keeps the shortest file.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalebound.compress.coder import Decoder, encode_messages
from scalebound.compress.header import Code, Slot, deflate, find_patterns, inflate, write_header
from scalebound.compress.model import RAW_DTYPES, Coded, QuantizedModel, Raw, matrix_shape
from scalebound.compress.sharing import Message, share_tables
from scalebound.compress.tables import Table, read_varint, varint
from scalebound.core.errors import InputError, UsageError
from scalebound.core.hashing import canonical_config
from scalebound.core.io import atomic_write, canonical_json, read_bytes

MAGIC = b"SBZ\x01"


@dataclass(frozen=True)
class Breakdown:
    """Where the bytes of a package are. The parts sum to ``file_bytes`` (coded parts are apportioned by their entropy)."""

    file_bytes: int
    header_bytes: int  # magic, lengths, checksum, configuration, names, shapes, codes
    table_bytes: int
    scale_bytes: int
    raw_bytes: int  # norm vectors and buffers
    weight_bytes: int


def code_bits(size_bytes: int) -> int:
    """Length of the prefix-free code of a file: 8 bits a byte and the self-delimitation.

    .. math:: L = l + 2 \\lfloor \\log_2 l \\rfloor + 1,\\quad l = 8 \\cdot size

    Source: MATH section 5 (docs/mathematics.md); the length of Elias' gamma code of l, and l bits.

    >>> code_bits(1000)
    8025
    """
    if size_bytes < 1:
        raise UsageError(f"a file of {size_bytes} bytes", expected="at least one byte")
    return 8 * size_bytes + 2 * ((8 * size_bytes).bit_length() - 1) + 1


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

    def codes(numbers: dict[tuple[str, str], int]) -> dict[str, Code]:
        return {
            name: Code(dtype=raw[name])
            if name in raw
            else Code(table=numbers[name, "integers"], row_scales=numbers.get((name, "rows"), -1), col_scales=numbers.get((name, "cols"), -1))
            for name in order
        }

    best: tuple[float, bytes, list[Table], dict[tuple[str, str], int]] | None = None
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
    _check_size(sum(int(np.prod(shape, dtype=np.float64)) for shape in shapes.values()), len(payload), "the model")
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


def decode_model(package: bytes, *, where: str = "package") -> QuantizedModel:
    """The quantized model of a package, integers and scales as they are stored.

    Raises InputError for a file that is not exactly what the format allows: magic, version, length, checksum and sizes are checked before
    anything is allocated, and the coder's end state after the last symbol. Cost: more than 20 million weights a second on one core.
    """
    if package[:3] != MAGIC[:3]:
        raise InputError("is not a package", where=where, expected="a file that starts with 'SBZ'", hint="scalebound compress MODEL --out M.sbz makes one")
    if package[3:4] != MAGIC[3:]:
        raise InputError(f"is a package of version {package[3] if len(package) > 3 else 'nothing'}", where=where, expected="version 1")
    length, at = read_varint(package, 4, where)
    if len(package) != at + length + 4:
        raise InputError(f"has {len(package):,} bytes", where=where, expected=f"{at + length + 4:,} bytes, as its header says", hint="copy or make the package again")
    if zlib.crc32(package[:-4]) != int.from_bytes(package[-4:], "little"):
        raise InputError("the checksum does not match: the file was altered", where=where, hint="copy or make the package again")
    meta_length, at = read_varint(package, at, where)
    if meta_length > len(package) - 4 - at:
        raise InputError("the header is longer than the file", where=where)
    config, slots, shift, tables = inflate(package[at : at + meta_length], where)
    at += meta_length
    _check_size(sum(_size(slot.shape) for slot in slots), length, where)
    raw_length = sum(_raw_length(slot) for slot in slots)
    if raw_length > len(package) - 4 - at:
        raise InputError("the file is shorter than its header says", where=where)
    raw, coded = memoryview(package)[at : at + raw_length], package[at + raw_length : -4]
    decoder = Decoder(coded, where)
    tensors: dict[str, Raw | Coded] = {}
    for slot in slots:
        part, raw = raw[: _raw_length(slot)], raw[_raw_length(slot) :]
        tensors[slot.name] = _read_raw(slot, part, where) if slot.code.dtype else _read_coded(slot, part, shift, tables, decoder, where)
    decoder.finish()
    return QuantizedModel(config, tensors)


def decode(package: bytes, *, where: str = "package") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and tensors of a package: ``(config, {name: float32 array})``.

    Each coded tensor is exactly ``integer * scale``; tensors that are not floating point keep their dtype. See :func:`decode_model`.
    """
    model = decode_model(package, where=where)
    return model.config, model.dequantized()


def save_package(path: str | os.PathLike, model: QuantizedModel) -> Breakdown:
    """Write a model's package atomically and say where its bytes are."""
    package, breakdown = encode_with_breakdown(model)
    atomic_write(path, package)
    return breakdown


def load_package(path: str | os.PathLike) -> QuantizedModel:
    """Read a package; ``load_package(path).dequantized()`` are its tensors."""
    return decode_model(read_bytes(Path(path)), where=str(path))


def _clean_config(config: dict[str, Any]) -> dict[str, Any]:
    try:
        return canonical_config(config) if canonical_json(config) else {}
    except (TypeError, ValueError) as error:
        raise InputError(f"the configuration is not JSON ({error})", where="config", expected="the content of a config.json") from error


def _size(shape: tuple[int, ...]) -> int:
    rows, cols = matrix_shape(shape)
    return rows * cols


def _check_size(elements: int, payload: int, where: str) -> None:
    if elements > (1 << 28) + (payload << 16):
        raise InputError(f"{elements:,} numbers in {payload:,} bytes", where=where, expected="at most 2^28 and 65,536 a byte")


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


def _raw_length(slot: Slot) -> int:
    if slot.code.dtype:
        return _size(slot.shape) * RAW_DTYPES[slot.code.dtype].itemsize
    return 2 if slot.code.row_scales == slot.code.col_scales == -1 else 0


def _read_raw(slot: Slot, data: memoryview, where: str) -> Raw:
    array = np.frombuffer(data, dtype=RAW_DTYPES[slot.code.dtype]).reshape(slot.shape)
    if slot.code.dtype == "BOOL" and array.size and array.max() > 1:
        raise InputError(f"{slot.name} has a truth value that is neither 0 nor 1", where=where)
    return Raw(slot.code.dtype, array)


def _read_coded(slot: Slot, data: memoryview, shift: int, tables: list[Table], decoder: Decoder, where: str) -> Coded:
    rows, cols = matrix_shape(slot.shape)
    if not rows * cols:
        raise InputError(f"{slot.name} has no elements and is not stored raw", where=where)
    code = slot.code

    def scales(number: int, count: int) -> np.ndarray:
        patterns = decoder.read(tables[number], count).astype(np.int64) << shift
        return _good_scales(patterns, slot.name, where)

    if code.row_scales == code.col_scales == -1:
        row_scales = _good_scales(np.frombuffer(data, dtype="<u2").astype(np.int64), slot.name, where)
    else:
        row_scales = scales(code.row_scales, rows) if code.row_scales >= 0 else np.array([0x3F80], dtype=np.uint16)
    col_scales = scales(code.col_scales, cols) if code.col_scales >= 0 else None
    row_classes = decoder.read(tables[code.row_classes], rows) if code.row_classes >= 0 else None
    col_classes = decoder.read(tables[code.col_classes], cols) if code.col_classes >= 0 else None
    integers = _read_integers(slot, rows, cols, row_classes, col_classes, tables, decoder, where)
    return Coded(integers.reshape(slot.shape), row_scales, col_scales)


def _read_integers(slot: Slot, rows: int, cols: int, row_classes: np.ndarray | None, col_classes: np.ndarray | None, tables: list[Table], decoder: Decoder, where: str) -> np.ndarray:
    """(rows, cols) integers, in the narrowest dtype that holds the tables' symbols."""
    if row_classes is None and col_classes is None:
        table = tables[slot.code.table]
        return decoder.read(table, rows * cols).astype(_dtype([table])).reshape(rows, cols)
    low_high = [(int(c.min()), int(c.max())) for c in (row_classes, col_classes) if c is not None]
    num_classes = 1 + sum(high for _, high in low_high)
    if min(low for low, _ in low_high) < 0 or slot.code.table + num_classes > len(tables):
        raise InputError(f"{slot.name} has a class outside the tables", where=where)
    used = tables[slot.code.table : slot.code.table + num_classes]
    out = np.empty((rows, cols), dtype=_dtype(used))
    classes = np.zeros((rows, 1), dtype=np.int32) if row_classes is None else row_classes[:, None]
    classes = np.broadcast_to(classes if col_classes is None else classes + col_classes[None, :], out.shape)
    for k, table in enumerate(used):
        chosen = classes == k
        out[chosen] = decoder.read(table, int(np.count_nonzero(chosen)))
    return out


def _dtype(tables: list[Table]) -> type[np.signedinteger]:
    largest = max(max(-table.low, table.high) for table in tables)
    return np.int8 if largest < 1 << 7 else np.int16 if largest < 1 << 15 else np.int32


def _good_scales(patterns: np.ndarray, name: str, where: str) -> np.ndarray:
    if patterns.min() < 1 or patterns.max() > 0x7F7F:
        raise InputError(f"a scale of {name} is not positive and finite", where=where)
    return patterns.astype(np.uint16)
