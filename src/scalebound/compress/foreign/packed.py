"""GPTQ and AWQ folders: integers of 2, 4 or 8 bits packed into 32-bit words, a scale and a zero for every group of input columns.

Both mean ``weight[o, i] = scale[g, o] * (q[i, o] - zero[g, o])`` with g = i // group size; the product of a float16 with an integer of nine bits
is exact in float32. (Kernels that compute in float16 round it once more; a package holds the unrounded number.) What is kept is q - zero: it
says all that q and zero do about the weights, and zeros cost nothing.

Layouts: AutoGPTQ's ``qlinear`` (words along the inputs, lowest bits first; zeros are stored minus 1 unless ``checkpoint_format`` is ``gptq_v2``,
and wrap around) and AutoAWQ's ``gemm`` packing (words along the outputs, in the order 0 2 4 6 1 3 5 7). Frantar et al. 2023, arXiv 2210.17323;
Lin et al. 2024, arXiv 2306.00978.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalebound.compress.foreign.assemble import Blocks, Scale
from scalebound.core.errors import InputError

AWQ_ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])  # the column that each half byte of a word holds


def unpack_gptq(name: str, parts: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Blocks:
    """A linear map of a GPTQ folder.

    Parameters
    ----------
    name
        Of the map, for messages.
    parts
        ``qweight`` (inputs * bits / 32, outputs) int32, ``qzeros`` (groups, outputs * bits / 32) int32, ``scales`` (groups, outputs) and, where
        there is one, ``g_idx`` (inputs,).
    settings
        The folder's ``quantization_config``: ``bits`` and, where there are, ``checkpoint_format`` and ``group_size``.

    Raises
    ------
    InputError
        A part is missing or has another shape; inputs do not belong to groups in their order (``desc_act``).
    """
    bits = _bits(name, settings, (2, 4, 8))
    words, zeros, scales = _parts(name, parts)
    codes = _fields(words.T, bits)  # (outputs, inputs)
    offset = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    zeros = (_fields(zeros, bits).T.astype(np.int16) + offset) & ((1 << bits) - 1)  # (outputs, groups)
    group = _group(name, codes, zeros, scales)
    index = parts.get("g_idx")
    if index is not None and not np.array_equal(index.reshape(-1), np.arange(codes.shape[1]) // group):
        raise InputError("has a g_idx that is not in order: its columns were quantized in an order of their own (desc_act)", where=name,
                         expected=f"groups of {group} neighbouring columns", hint="quantize it with desc_act off")  # fmt: skip
    return _centred(codes, zeros, scales, group)


def unpack_awq(name: str, parts: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Blocks:
    """A linear map of an AWQ folder; parts as for :func:`unpack_gptq`, but ``qweight`` is (inputs, outputs / 8).

    Raises InputError for a part that is missing or has another shape, and for packings other than ``gemm``.
    """
    _bits(name, settings, (4,))
    version = str(settings.get("version", "gemm")).lower()
    if version != "gemm":
        raise InputError(f"is packed for {version!r}", where=name, expected="AWQ's gemm packing")
    words, zeros, scales = _parts(name, parts)

    def columns(packed: np.ndarray) -> np.ndarray:
        fields = _fields(packed, 4).reshape(len(packed), -1, 8)
        return fields[..., np.argsort(AWQ_ORDER)].reshape(len(packed), -1).T

    codes, centre = columns(words), columns(zeros).astype(np.int16)
    return _centred(codes, centre, scales, _group(name, codes, centre, scales))


def _bits(name: str, settings: Mapping[str, Any], known: tuple[int, ...]) -> int:
    bits = settings.get("bits", settings.get("w_bit"))
    if type(bits) is not int or bits not in known:
        raise InputError(f"has integers of {bits!r} bits", where=name, expected=" or ".join(map(str, known)))
    return bits


def _parts(name: str, parts: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    for key in ("qweight", "qzeros", "scales"):
        if key not in parts:
            raise InputError(f"lacks {name}.{key}", where=name, expected="qweight, qzeros and scales")
        if parts[key].ndim != 2 or (parts[key].dtype.kind == "f") != (key == "scales") or (key != "scales" and parts[key].dtype.itemsize != 4):
            raise InputError(f"has {key} of type {parts[key].dtype} and shape {parts[key].shape}", where=name, expected="a matrix of int32, or of floats for scales")
    return parts["qweight"], parts["qzeros"], parts["scales"].astype(np.float32).T


def _fields(words: np.ndarray, bits: int) -> np.ndarray:
    """(rows, n) 32-bit words -> (rows, n * 32 / bits), lowest bits first."""
    words = np.ascontiguousarray(words).view(np.uint32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return ((words[..., None] >> shifts) & np.uint32((1 << bits) - 1)).astype(np.uint8).reshape(len(words), -1)


def _group(name: str, codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray) -> int:
    """Columns that share a scale; codes (outputs, inputs), zeros and scales (outputs, groups)."""
    outputs, inputs = codes.shape
    groups = scales.shape[1]
    if zeros.shape != scales.shape or len(scales) != outputs or not groups or inputs % groups:
        raise InputError(f"has weights {codes.shape}, zeros {zeros.shape} and scales {scales.shape}", where=name, expected="a zero and a scale for each output and group of inputs")
    return inputs // groups


def _centred(codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray, group: int) -> Blocks:
    integers = codes.astype(np.int16, order="C")
    integers.reshape(len(codes), -1, group)[...] -= zeros[:, :, None]
    return Blocks(integers, (Scale("times", np.ascontiguousarray(scales), group, "d"),))
