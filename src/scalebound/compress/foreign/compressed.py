"""Folders of ``compressed-tensors`` (llm-compressor, vLLM): packed integers, plain integers of 8 bits, and floats of 8 bits.

``weight[o, i] = scale * (q[o, i] - zero)``, with a scale (and a zero, unless symmetric) for each group of inputs, for each output, for blocks of both or for the matrix.
``pack-quantized`` packs integers of 1 to 8 bits along the inputs, 2^(bits-1) added to each, zeros along the outputs; ``int-quantized`` stores them
as they are; ``float-quantized`` stores float8 (E4M3), whose 254 finite patterns are a codebook. How many bits and which groups a matrix has
follows from the shapes of its parts. ``fp8`` (DeepSeek's and Qwen's own folders) has the scales of its blocks in ``weight_scale_inv``.

Layouts: the ``compressed-tensors`` package's ``pack_quantized`` and ``naive_quantized``; OCP 8-bit floating point specification 1.0 for E4M3.
(The library multiplies in the type of the scale; a package holds the product in float32, unrounded but for floats of 8 bits with float32 scales.)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scalebound.compress.checkpoint import FLOAT8
from scalebound.compress.foreign.assemble import Blocks, Scale
from scalebound.compress.foreign.words import fields
from scalebound.core.errors import InputError

PARTS = ("weight", "weight_packed", "weight_scale", "weight_scale_inv", "weight_zero_point", "weight_shape", "weight_g_idx")
ACTIVATIONS = ("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point", "k_scale", "v_scale", "q_scale")


def unpack_compressed(name: str, parts: Mapping[str, np.ndarray], block: tuple[int, int] | None = None) -> Blocks:
    """A linear map.

    Parameters
    ----------
    name
        Of the map, for messages.
    parts
        Those of :data:`PARTS` that it has: ``weight_packed`` (int32) with ``weight_shape``, or ``weight``: int8 or float8.
    block
        Rows and columns that share a scale, where the settings say so.

    Raises
    ------
    InputError
        A part is missing or does not fit the others.
    """
    scales = parts.get("weight_scale", parts.get("weight_scale_inv"))
    if scales is None or scales.dtype.kind != "f":
        raise InputError("lacks a weight_scale of floats", where=name)
    if "weight_packed" in parts:
        codes, zeros = _packed(name, parts, scales)
    else:
        codes, zeros = parts["weight"], parts.get("weight_zero_point")
        if codes.ndim != 2 or codes.dtype not in (np.int8, FLOAT8):
            raise InputError(f"has a weight {codes.shape} of {codes.dtype}", where=name, expected="a matrix of int8 or float8")
    rows, columns = codes.shape
    spread = _spread(name, scales.astype(np.float32), rows, columns, block)
    if codes.dtype == FLOAT8:
        if zeros is not None and zeros.astype(bool).any():
            raise InputError("has floats of 8 bits with a zero point", where=name)
        return _float8(name, codes.view(np.uint8), spread)
    index = parts.get("weight_g_idx")
    centre = None if zeros is None else np.broadcast_to(_spread(name, zeros, rows, columns, block), spread.shape)
    return Blocks.of_groups(name, codes, centre, spread, None if index is None or (index < 0).all() else index.reshape(-1))


def _packed(name: str, parts: Mapping[str, np.ndarray], scales: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Integers (rows, columns) and zeros (rows, groups), both around 0."""
    words, shape = parts["weight_packed"], [int(size) for size in parts.get("weight_shape", np.zeros(0, int)).reshape(-1)]
    widths = [bits for bits in range(1, 9) if len(shape) == 2 and min(shape) > 0 and words.shape == (shape[0], -(-shape[1] * bits // 32))]
    if words.dtype.itemsize != 4 or len(widths) != 1:  # below 32 inputs several may fit
        raise InputError(f"has weight_packed {words.shape} of {words.dtype} for a weight of shape {tuple(shape)}", where=name, expected="int32, integers of 1 to 8 bits without gaps")
    bits = widths[0]
    middle = np.int16(1 << (bits - 1))
    codes = (fields(words, bits)[:, : shape[1]] - middle).astype(np.int8)
    zeros = parts.get("weight_zero_point")
    if zeros is not None and zeros.dtype.itemsize == 4:
        if zeros.ndim != 2 or zeros.shape[0] != -(-shape[0] * bits // 32):
            raise InputError(f"has a weight_zero_point {zeros.shape}", where=name, expected=f"zeros of {bits} bits for {shape[0]:,} outputs")
        zeros = fields(zeros.T, bits)[:, : shape[0]].T - middle
    return codes, zeros


def _spread(name: str, values: np.ndarray, rows: int, columns: int, block: tuple[int, int] | None) -> np.ndarray:
    """One number for the matrix, for each output, for groups of inputs or for blocks, as (rows, groups)."""
    values = values.reshape(1, 1) if values.size == 1 else values.reshape(rows, 1) if values.shape == (rows,) else values
    if block is not None and values.ndim == 2 and values.shape == (-(-rows // block[0]), -(-columns // block[1])) and columns % block[1] == 0:
        values = np.repeat(values, block[0], axis=0)[:rows]
    elif values.size == 1:
        values = np.broadcast_to(values, (rows, 1))
    if values.ndim != 2 or len(values) != rows or not values.shape[1] or columns % values.shape[1]:
        raise InputError(f"has scales or zeros of shape {values.shape} for a weight of shape {(rows, columns)}", where=name, expected="one for the matrix, for each output, for groups of inputs or for blocks")
    return values


def float8() -> np.ndarray:
    """The numbers of E4M3's 256 patterns: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, and one NaN of each sign.

    >>> float8()[[0x01, 0x38, 0x7E, 0xB8]].tolist()
    [0.001953125, 1.0, 448.0, -1.0]
    """
    pattern = np.arange(256)
    exponent, mantissa = pattern >> 3 & 15, pattern & 7
    size = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    return np.where(pattern & 127 == 127, np.nan, np.where(pattern > 127, -1.0, 1.0) * size).astype(np.float32)


def _float8(name: str, patterns: np.ndarray, scales: np.ndarray) -> Blocks:
    """Patterns as numbers into the sorted list of those that are finite, which also keeps their sizes together for the coder."""
    values = float8()
    order = np.argsort(values, kind="stable")[:254]  # NaN comes last
    place = np.full(256, -1, dtype=np.int16)
    place[order] = np.arange(254)
    integers = place[patterns]
    if integers.min() < 0:
        raise InputError("has a weight that is no number", where=name, expected="finite floats of 8 bits")
    return Blocks(integers, (Scale("times", np.ascontiguousarray(scales), patterns.shape[1] // scales.shape[1], "d"),), values[order])
