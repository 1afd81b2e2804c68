"""From the bytes of a package to the model it holds, and nothing else: whatever the format does not allow is refused."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np

from scalebound.compress.coder import Decoder
from scalebound.compress.grouped import Grouped, Step
from scalebound.compress.header import DELTA, MAGIC, PLAIN, Slot, check_size, inflate, version_of
from scalebound.compress.model import RAW_DTYPES, Coded, QuantizedModel, Raw, matrix_shape
from scalebound.compress.tables import Table, read_varint
from scalebound.core.errors import InputError


def decode_model(package: bytes, *, where: str = "package") -> QuantizedModel:
    """The quantized model of a package, integers and scales as they are stored.

    Raises InputError for a file that is not exactly what the format allows: magic, version, length, checksum and sizes are checked before
    anything is allocated, and the coder's end state after the last symbol. Cost: 30 to 40 million weights a second on one core.
    """
    if package[:3] != MAGIC:
        raise InputError("is not a package", where=where, expected="a file that starts with 'SBZ'", hint="scalebound compress MODEL --out M.sbz makes one")
    version = package[3] if len(package) > 3 else 0
    if not PLAIN <= version <= DELTA:
        raise InputError(f"is a package of version {version or 'nothing'}", where=where, expected="version 1 to 4", hint="a newer scalebound may read it")
    length, at = read_varint(package, 4, where)
    if len(package) != at + length + 4:
        raise InputError(f"has {len(package):,} bytes", where=where, expected=f"{at + length + 4:,} bytes, as its header says", hint="copy or make the package again")
    if zlib.crc32(package[:-4]) != int.from_bytes(package[-4:], "little"):
        raise InputError("the checksum does not match: the file was altered", where=where, hint="copy or make the package again")
    meta_length, at = read_varint(package, at, where)
    if meta_length > len(package) - 4 - at:
        raise InputError("the header is longer than the file", where=where)
    config, slots, shift, tables = inflate(package[at : at + meta_length], version, where)
    needed = version_of((slot.code.steps for slot in slots), config)
    if version != needed and (version, needed) != (PLAIN, DELTA):
        raise InputError(f"is of version {version}, its tensors are not", where=where, expected="steps in version 2, columns that change places in version 3, deltas in version 4, and only there")
    at += meta_length
    check_size(sum(math.prod(slot.shape) for slot in slots), length, where)
    raw_length = sum(_raw_length(slot) for slot in slots)
    if raw_length > len(package) - 4 - at:
        raise InputError("the file is shorter than its header says", where=where)
    raw, coded = memoryview(package)[at : at + raw_length], package[at + raw_length : -4]
    decoder = Decoder(coded, where)
    tensors: dict[str, Raw | Coded | Grouped] = {}
    for slot in slots:
        part, raw = raw[: _raw_length(slot)], raw[_raw_length(slot) :]
        found = _read_raw(slot, part, where) if slot.code.dtype else _read_coded(slot, part, shift, tables, decoder, where)
        if isinstance(found, Grouped):
            found.check_parts(tensors, f"{where}: {slot.name}")
        tensors[slot.name] = found
    decoder.finish()
    return QuantizedModel(config, tensors)


def decode(package: bytes, *, where: str = "package") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and tensors of a package: ``(config, {name: float32 array})``.

    Each coded tensor is exactly ``integer * scale``, or what its steps make of its integers; tensors that are not floating point keep their dtype. See :func:`decode_model`.
    """
    model = decode_model(package, where=where)
    return model.config, model.dequantized()


def _raw_length(slot: Slot) -> int:
    if slot.code.dtype:
        return math.prod(slot.shape) * RAW_DTYPES[slot.code.dtype].itemsize
    return 2 if slot.code.row_scales == slot.code.col_scales == -1 and not slot.code.steps else 0


def _read_raw(slot: Slot, data: memoryview, where: str) -> Raw:
    array = np.frombuffer(data, dtype=RAW_DTYPES[slot.code.dtype]).reshape(slot.shape)
    if slot.code.dtype == "BOOL" and array.size and array.max() > 1:
        raise InputError(f"{slot.name} has a truth value that is neither 0 nor 1", where=where)
    return Raw(slot.code.dtype, array)


def _read_coded(slot: Slot, data: memoryview, shift: int, tables: list[Table], decoder: Decoder, where: str) -> Coded | Grouped:
    rows, cols = matrix_shape(slot.shape)
    if not rows * cols:
        raise InputError(f"{slot.name} has no elements and is not stored raw", where=where)
    code = slot.code

    def scales(number: int, count: int) -> np.ndarray:
        patterns = decoder.read(tables[number], count).astype(np.int64) << shift
        return _good_scales(patterns, slot.name, where)

    row_scales = np.array([0x3F80], dtype=np.uint16)
    if code.row_scales == code.col_scales == -1 and not code.steps:
        row_scales = _good_scales(np.frombuffer(data, dtype="<u2").astype(np.int64), slot.name, where)
    elif code.row_scales >= 0:
        row_scales = scales(code.row_scales, rows)
    col_scales = scales(code.col_scales, cols) if code.col_scales >= 0 else None
    row_classes = decoder.read(tables[code.row_classes], rows) if code.row_classes >= 0 else None
    col_classes = decoder.read(tables[code.col_classes], cols) if code.col_classes >= 0 else None
    integers = _read_integers(slot, rows, cols, row_classes, col_classes, tables, decoder, where)
    if code.steps:
        triples = zip(code.steps[::3], code.steps[1::3], code.steps[2::3], strict=True)
        return Grouped(integers.reshape(slot.shape), tuple(Step(*triple) for triple in triples))  # type: ignore
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
