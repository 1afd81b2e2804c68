"""Hugging Face folders whose weights GPTQ, AWQ or bitsandbytes quantized, as ``quantization_config`` in their ``config.json`` says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scalebound.compress.checkpoint import read_stored
from scalebound.compress.foreign.assemble import Blocks, assemble
from scalebound.compress.foreign.bitsandbytes import unpack_eight_bits, unpack_four_bits
from scalebound.compress.foreign.packed import unpack_awq, unpack_gptq
from scalebound.compress.model import QuantizedModel
from scalebound.core.errors import InputError

Tensors = dict[str, np.ndarray]
METHODS = ("gptq", "awq", "bitsandbytes")


def is_known(config: Mapping[str, Any]) -> bool:
    """Whether a configuration says that the weights are quantized by one of :data:`METHODS`."""
    settings = config.get("quantization_config")
    return isinstance(settings, dict) and _method(settings) in METHODS


def _method(settings: Mapping[str, Any]) -> Any:
    return settings.get("quant_method", "bitsandbytes" if "load_in_4bit" in settings else None)


def keep_folder(path: str | os.PathLike) -> QuantizedModel:
    """The model of a folder with its integers kept.

    Parameters
    ----------
    path
        A folder with ``config.json`` and safetensors files.

    Raises
    ------
    InputError
        No such folder; weights that are not quantized, or by another method; a part that is missing or does not fit.

    Notes
    -----
    Tensors the method left alone are stored raw. ``quantization_config`` is taken out of the configuration: what the package decodes to are plain
    weights.
    """
    return keep_tensors(*read_stored(path), where=str(path))


def keep_tensors(config: dict[str, Any], tensors: Tensors, *, where: str) -> QuantizedModel:
    """:func:`keep_folder` of what a folder holds."""
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        raise InputError("is not quantized (its config.json has no quantization_config)", where=where, expected=f"a folder quantized by {' or '.join(METHODS)}", hint="without --keep-codes its weights are rounded")
    method = _method(settings)
    try:
        if method in ("gptq", "awq"):
            found = _packed(tensors, settings, unpack_gptq if method == "gptq" else unpack_awq)
        elif method == "bitsandbytes":
            found = _bitsandbytes(tensors)
        else:
            raise InputError(f"is quantized by {method!r}", expected=" or ".join(METHODS))
    except InputError as error:
        raise InputError(error.what, where=f"{where}: {error.where}" if error.where else where, expected=error.expected, hint=error.hint) from error
    if not any(isinstance(value, Blocks) for value in found.values()):
        raise InputError("holds no quantized weight", where=where, expected=f"what {method} writes")
    return assemble({key: value for key, value in config.items() if key != "quantization_config"}, found)


def _packed(tensors: Tensors, settings: dict[str, Any], unpack: Callable[[str, Mapping[str, np.ndarray], Mapping[str, Any]], Blocks]) -> dict[str, np.ndarray | Blocks]:
    """Linear maps whose ``weight`` is replaced by ``qweight``, ``qzeros``, ``scales`` and perhaps ``g_idx``."""
    maps = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    own = {f"{name}.{part}": (name, part) for name in maps for part in ("qweight", "qzeros", "scales", "g_idx")}
    out: dict[str, np.ndarray | Blocks] = {name: value for name, value in tensors.items() if name not in own}
    for name in maps:
        parts = {part: tensors[key] for key, (of, part) in own.items() if of == name and key in tensors}
        out[f"{name}.weight"] = unpack(name, parts, settings)
    return out


def _bitsandbytes(tensors: Tensors) -> dict[str, np.ndarray | Blocks]:
    """Weights with a quantization state beside them, or with the row maxima ``SCB`` of eight bits."""
    four = {name.partition(".weight.quant_state.")[0] + ".weight" for name in tensors if ".weight.quant_state." in name}
    eight = {name.removesuffix("SCB") + "weight": name for name in tensors if name.endswith(".SCB")}
    missing = next((name for name in sorted(four | set(eight)) if name not in tensors), None)
    if missing is not None:
        raise InputError(f"lacks {missing}", where=missing, expected="the weight of its quantization state")
    out: dict[str, np.ndarray | Blocks] = {}
    for name, value in tensors.items():
        owner = name[: name.find(".weight.") + len(".weight")] if ".weight." in name else ""
        if owner in four or name in eight.values() or (name.endswith(".weight_format") and f"{name.removesuffix('_format')}" in eight):
            continue
        if name in four:
            out[name] = unpack_four_bits(name, {key[len(name) + 1 :]: part for key, part in tensors.items() if key == name or key.startswith(f"{name}.")})
        elif name in eight:
            out[name] = unpack_eight_bits(name, value, tensors[eight[name]])
        elif value.dtype == np.uint8 and f"{name}.absmax" in tensors:
            raise InputError(f"lacks {name}.quant_state.bitsandbytes__nf4", where=name, expected="the state that transformers saves beside the weight")
        else:
            out[name] = value
    return out
