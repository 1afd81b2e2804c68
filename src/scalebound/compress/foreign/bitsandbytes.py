"""bitsandbytes as ``transformers`` saves it in safetensors: four bits with a codebook (``nf4``) and rows of eight bits (``LLM.int8``).

Four bits: ``weight = map[q] * absmax[block]`` in float32, blocks of 64 or more consecutive weights, two integers a byte, the high half first. Double
quantization: ``absmax = nested_map[a] * nested_absmax[block] + nested_offset``, each operation rounded to float32. Eight bits:
``weight = q * SCB[row] * fl(1/127)``, rounded twice. (Weights kept in 16 bits are rounded once more when they are used; a package holds the float32
number.) Dettmers et al. 2022, arXiv 2208.07339 (LLM.int8); 2023, arXiv 2305.14314 (nf4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from scalebound.compress.foreign.assemble import Blocks, Scale
from scalebound.core.errors import InputError
from scalebound.core.io import parse_json

STATE = "quant_state.bitsandbytes__"
KINDS = ("nf4",)
PER_127 = np.float32(0.007874015718698502)


def unpack_four_bits(name: str, parts: Mapping[str, np.ndarray]) -> Blocks:
    """A matrix of four bits.

    Parameters
    ----------
    name
        Of the weight, for messages.
    parts
        ``""``: the packed bytes; ``absmax``, ``quant_map``, ``quant_state.bitsandbytes__nf4`` (JSON in bytes) and, with double quantization,
        ``nested_absmax`` and ``nested_quant_map``.

    Raises
    ------
    InputError
        A part is missing or too short, a state that is not JSON or of another type, weights that are no whole number of blocks.
    """
    state = _state(name, parts)
    shape, block = _whole_numbers(name, state, "shape"), _whole_number(name, state, "blocksize")
    size = math.prod(shape)
    packed = parts[""].reshape(-1)
    if len(shape) != 2 or size % block or size % 2 or packed.dtype != np.uint8 or packed.size * 2 != size:
        raise InputError(f"has {packed.size:,} bytes of {packed.dtype} for a weight of shape {shape} in blocks of {block}", where=name, expected="two weights a byte, whole blocks")
    codes = np.stack([packed >> 4, packed & 15], axis=-1).astype(np.int8).reshape(shape)
    absmax = _part(name, parts, "absmax", size // block)
    rows = shape[0] if size // block % shape[0] == 0 else 1  # blocks may run over the ends of rows
    scale: np.ndarray | Blocks
    if "nested_blocksize" not in state:
        scale = absmax.astype(np.float32).reshape(rows, -1)
    else:
        if absmax.dtype != np.uint8:
            raise InputError(f"has a doubly quantized absmax of type {absmax.dtype}", where=name, expected="uint8")
        width, offset = _whole_number(name, state, "nested_blocksize"), state.get("nested_offset")
        if not isinstance(offset, float):
            raise InputError(f"has the nested offset {offset!r}", where=name, expected="a number")
        outer = _part(name, parts, "nested_absmax", -(-absmax.size // width)).astype(np.float32)
        steps = (Scale("times", outer.reshape(1, -1), width, "d"), Scale("plus", np.full((1, 1), offset, dtype=np.float32), absmax.size, "m"))
        scale = Blocks(absmax.astype(np.int16).reshape(rows, -1), steps, _part(name, parts, "nested_quant_map", 256))
    return Blocks(codes, (Scale("times", scale, block, "s" if isinstance(scale, Blocks) else "d"),), _part(name, parts, "quant_map", 16))


def unpack_eight_bits(name: str, weight: np.ndarray, row_max: np.ndarray) -> Blocks:
    """A matrix of ``LLM.int8``: ``weight`` (rows, columns) int8 and ``SCB`` (rows,) float32, the largest magnitude of each row."""
    if weight.dtype != np.int8 or weight.ndim != 2 or row_max.reshape(-1).shape != weight.shape[:1]:
        raise InputError(f"has weights {weight.shape} of {weight.dtype} and SCB {row_max.shape}", where=name, expected="a matrix of int8 and a number for each row")
    return Blocks(np.asarray(weight), (Scale("times", row_max.astype(np.float32).reshape(-1, 1), weight.shape[1], "d"), Scale("times", np.full((1, 1), PER_127), weight.size, "c")))


def _state(name: str, parts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    key = next((key for key in parts if key.startswith(STATE)), "")
    kind = key.removeprefix(STATE)
    if kind not in KINDS:
        raise InputError(f"has the quantization type {kind or 'nothing'!r}", where=name, expected=" or ".join(KINDS))
    state = parse_json(parts[key].astype(np.uint8).tobytes(), where=f"{name}.{key}")
    if not isinstance(state, dict) or state.get("quant_type") != kind:
        raise InputError("has a quantization state that does not fit its name", where=name, expected=f"a JSON object with quant_type {kind}")
    return state


def _part(name: str, parts: Mapping[str, np.ndarray], key: str, size: int) -> np.ndarray:
    if key not in parts:
        raise InputError(f"lacks {name}.{key}", where=name)
    if parts[key].size != size:
        raise InputError(f"has {parts[key].size:,} numbers in {key}", where=name, expected=f"{size:,}")
    return parts[key].reshape(-1)


def _whole_number(name: str, state: dict[str, Any], key: str) -> int:
    return _whole_numbers(name, {key: [state.get(key)]}, key)[0]


def _whole_numbers(name: str, state: dict[str, Any], key: str) -> list[int]:
    found = state.get(key)
    if not isinstance(found, list) or not all(type(value) is int and value > 0 for value in found):
        raise InputError(f"has {key} = {found!r} in its quantization state", where=name, expected="positive whole numbers")
    return found
