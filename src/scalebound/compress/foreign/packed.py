"""GPTQ and AWQ folders: integers of 2, 3, 4 or 8 bits packed into 32-bit words, a scale and a zero for every group of input columns.

Both mean ``weight[o, i] = scale[g, o] * (q[i, o] - zero[g, o])`` with g the group of input i: i // group size, or ``g_idx[i]`` where columns were
quantized in an order of their own (``desc_act``), so that a group's columns are no neighbours. The product of a float16 with an integer of nine bits
is exact in float32. (Kernels that compute in float16 round it once more; a package holds the unrounded number.)

Layouts: AutoGPTQ's ``qlinear`` (words along the inputs, lowest bits first; zeros are stored minus 1 unless ``checkpoint_format`` is ``gptq_v2``,
and wrap around; symmetric ones have the same zero everywhere) and AutoAWQ's ``gemm`` packing (words along the outputs, in the order 0 2 4 6 1 3 5 7). Frantar et al. 2023, arXiv 2210.17323;
Lin et al. 2024, arXiv 2306.00978.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalebound.compress.foreign.assemble import Blocks
from scalebound.compress.foreign.words import fields
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
        A part is missing or has another shape, groups of several sizes, a layout that is not known.
    """
    bits, form = _bits(name, settings, (2, 3, 4, 8)), settings.get("checkpoint_format", "gptq")
    if form not in ("gptq", "gptq_v2"):
        raise InputError(f"has the checkpoint_format {form!r}", where=name, expected="gptq or gptq_v2")
    words, zeros, scales = _parts(name, parts)
    codes = fields(words.T, bits)  # (outputs, inputs)
    zeros = (fields(zeros, bits).T.astype(np.int16) + (form == "gptq")) & ((1 << bits) - 1)  # (outputs, groups)
    index = parts.get("g_idx")
    return Blocks.of_groups(name, codes, zeros, scales, None if index is None else index.reshape(-1))


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
        eights = fields(packed, 4).reshape(len(packed), -1, 8)
        return eights[..., np.argsort(AWQ_ORDER)].reshape(len(packed), -1).T

    return Blocks.of_groups(name, columns(words), columns(zeros), scales, None)


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
