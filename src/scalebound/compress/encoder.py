"""From a quantized model to the bytes of a package (docs/package-format.md).

The size is the code length a certificate pays for, so several ways of sharing tables between tensors are tried and the shortest is kept.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalebound.compress.coder import encode_messages
from scalebound.compress.grouped import Grouped
from scalebound.compress.header import MAGIC, Code, check_size, deflate, find_patterns, steps_of, version_of, write_header
from scalebound.compress.model import RAW_DTYPES, Coded, QuantizedModel, Raw, matrix_shape
from scalebound.compress.plan import Plan, family_of, find_plan, has_one_scale
from scalebound.compress.tables import varint
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
        A scale that is not positive and finite, integers that no table holds (:class:`Coded`), a configuration that is not JSON.
    MissingExtra
        ``constriction`` is not installed.

    Notes
    -----
    About 40 million weights a second on one core for large models, half as many where scales are coded like weights; about 0.1 s for small ones, where up to nine plans are
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

    version = version_of(steps.values(), config)

    def header_of(plan: Plan) -> bytes:
        codes = {name: Code(dtype=raw[name]) if name in raw else replace(plan.codes[name], steps=steps.get(name, ())) for name in order}
        return write_header(config, layers, patterns, codes, shift)

    plan = find_plan(coded, shift, lambda plan: 8 * len(deflate(header_of(plan), plan.tables, version)))
    header = header_of(plan)
    meta = deflate(header, plan.tables, version)
    raw_bytes = b"".join(_raw_bytes(model.tensors[name]) for name in order)
    words = encode_messages([(message.symbols, plan.tables[k]) for message, k in plan.messages])
    payload = varint(len(meta)) + meta + raw_bytes + words
    body = MAGIC + bytes([version]) + varint(len(payload)) + payload
    check_size(sum(math.prod(shape) for shape in shapes.values()), len(payload), "the model")
    package = body + zlib.crc32(body).to_bytes(4, "little")

    header_bytes = len(package) - len(raw_bytes) - len(words) - len(meta) + min(len(meta), len(deflate(header, [], version)))
    parts = {family_of(name, tensor) for name, tensor in coded.items() if name in model.parts}
    single = sum(len(_raw_bytes(tensor)) for name, tensor in model.tensors.items() if name in model.parts or has_one_scale(tensor))
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


def _clean_config(config: dict[str, Any]) -> dict[str, Any]:
    try:
        return canonical_config(config) if canonical_json(config) else {}
    except (TypeError, ValueError) as error:
        raise InputError(f"the configuration is not JSON ({error})", where="config", expected="the content of a config.json") from error


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
            if not has_one_scale(tensor):
                union = int(np.bitwise_or.reduce(patterns))
                shift = min(shift, (union & -union).bit_length() - 1)
    return shift


def _raw_bytes(tensor: Raw | Coded | Grouped) -> bytes:
    if isinstance(tensor, Raw):
        return np.ascontiguousarray(tensor.data, dtype=RAW_DTYPES[tensor.dtype]).tobytes()
    return np.asarray(tensor.row_scales, dtype="<u2").tobytes() if isinstance(tensor, Coded) and has_one_scale(tensor) else b""
