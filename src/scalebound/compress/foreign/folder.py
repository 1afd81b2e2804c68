"""Hugging Face folders whose weights GPTQ, AWQ, bitsandbytes or compressed-tensors quantized, or that hold floats of 8 bits, as ``quantization_config`` in their ``config.json`` says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scalebound.compress.checkpoint import FLOAT8, read_stored
from scalebound.compress.foreign.assemble import Blocks, assemble
from scalebound.compress.foreign.bitsandbytes import unpack_eight_bits, unpack_four_bits
from scalebound.compress.foreign.compressed import ACTIVATIONS, PARTS, unpack_compressed
from scalebound.compress.foreign.packed import unpack_awq, unpack_gptq
from scalebound.compress.model import QuantizedModel
from scalebound.core.errors import InputError

Tensors = dict[str, np.ndarray]
METHODS = ("gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8")
FORMS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "dense")  # of compressed-tensors


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
    Tensors the method left alone are coded or stored raw, whichever is shorter (:func:`assemble`). ``quantization_config`` is taken out of the configuration: what the package decodes to are plain
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
        elif method in ("compressed-tensors", "fp8"):
            found = _compressed(tensors, settings)
        else:
            raise InputError(f"is quantized by {method!r}", expected=" or ".join(METHODS))
    except InputError as error:
        raise InputError(error.what, where=f"{where}: {error.where}" if error.where else where, expected=error.expected, hint=error.hint) from error
    if not any(isinstance(value, Blocks) for value in found.values()):
        raise InputError("holds no quantized weight", where=where, expected=f"what {method} writes")
    small = next((name for name, value in found.items() if isinstance(value, np.ndarray) and value.dtype == FLOAT8), None)
    if small is not None:
        raise InputError("holds floats of 8 bits without scales", where=f"{where}: {small}", expected="a weight_scale beside it")
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


def _compressed(tensors: Tensors, settings: dict[str, Any]) -> dict[str, np.ndarray | Blocks]:
    """Linear maps with a ``weight_scale`` (of ``fp8``: ``weight_scale_inv``); how activations are rounded is left out, a package being weights."""
    groups = settings.get("config_groups")
    each = [group for group in (groups if isinstance(groups, dict) else {}).values() if isinstance(group, dict)]
    forms = [str(form) for form in (settings.get("format"), *(group.get("format") for group in each)) if form not in (None, "mixed-precision")]
    wrong = next((form for form in forms if form not in FORMS), None)
    if wrong is not None:
        raise InputError(f"has the format {wrong!r} of compressed-tensors", expected=" or ".join(FORMS))
    shapes = [settings.get("weight_block_size"), *(weights.get("block_structure") for group in each if isinstance(weights := group.get("weights"), dict))]
    blocks = {tuple(shape) for shape in shapes if isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size > 0 for size in shape)}
    if len(blocks) > 1:
        raise InputError(f"has blocks of several shapes ({', '.join(map(str, sorted(blocks)))})", expected="one")
    maps = {name.rpartition(".")[0] for name in tensors if name.endswith((".weight_scale", ".weight_scale_inv"))}
    own = {f"{name}.{part}": (name, part) for name in maps for part in (*PARTS, *ACTIVATIONS)}
    out: dict[str, np.ndarray | Blocks] = {name: value for name, value in tensors.items() if name not in own}
    for name in sorted(maps):
        parts = {part: tensors[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in tensors}
        if not {"weight", "weight_packed"} & set(parts):
            raise InputError(f"lacks {name}.weight", where=name, expected="weight or weight_packed beside its weight_scale")
        out[f"{name}.weight"] = unpack_compressed(name, parts, next(iter(blocks), None))
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
