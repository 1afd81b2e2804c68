"""Reading a model as numpy arrays: ``config.json`` and safetensors files, whatever precision they hold.

A run folder stands for its newest checkpoint; weights that another program quantized are dequantized. Folders and packages need neither torch nor transformers; ``.gguf`` files need both.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from scalebound.compress.model import bfloat16
from scalebound.compress.package import read_package
from scalebound.core.errors import InputError, from_os_error, require_extra
from scalebound.core.io import parse_json, read_json

MAX_HEADER_BYTES = 100 << 20
FLOAT8 = np.dtype([("e4m3", "u1")])  # patterns of 8 bits, marked: numpy has no such floats
DTYPES: dict[str, Any] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "F8_E4M3": FLOAT8,
}  # fmt: skip


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and tensors of a Hugging Face folder, a checkpoint, a run (its newest checkpoint), a package or a ``.gguf`` file.

    Returns
    -------
    config, tensors
        Tensors by name; those of 16-bit brain floats as float32, the others in their stored dtype (memory-mapped where they are). Weights that
        another program quantized (:func:`~scalebound.compress.foreign.folder.is_known`) as the float32 numbers they stand for.

    Raises
    ------
    InputError
        No ``config.json`` or no safetensors file there; a header that does not fit its file; a dtype this library does not know; a tensor in two files.
    """
    from scalebound.compress.foreign.folder import is_known, keep_tensors  # which reads folders with what is below

    if Path(path).suffix == ".sbz":
        return read_package(path)
    if Path(path).suffix == ".gguf":
        return _read_gguf(Path(path))
    config, tensors = read_stored(path)
    if is_known(config):
        model = keep_tensors(config, tensors, where=str(path))
        return model.config, model.dequantized()
    small = next((name for name, value in tensors.items() if value.dtype == FLOAT8), None)
    if small is not None:
        raise InputError("holds floats of 8 bits, and its config.json does not say with which scales", where=f"{path}: {small}", expected="a quantization_config")
    return config, tensors


def read_stored(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and tensors of a folder as they are stored, quantized or not; errors as of :func:`read_checkpoint`."""
    folder = _model_folder(Path(path))
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise InputError("is not a configuration", where=str(folder / "config.json"), expected="a JSON object")
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise InputError("holds no weights", where=str(folder), expected="model.safetensors", hint="save the model with safetensors (save_pretrained does)")
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        for name, data in read_safetensors(file).items():
            if name in tensors:
                raise InputError(f"the tensor {name!r} is in two files", where=str(file))
            tensors[name] = data
    return config, tensors


def _model_folder(path: Path) -> Path:
    if (path / "config.json").is_file():
        return path
    steps = {int(step.name[5:]): step for step in path.glob("checkpoints/step-*") if step.name[5:].isdigit() and (step / "config.json").is_file()}
    if steps:
        return steps[max(steps)]
    if not path.exists():
        raise InputError("no such file or folder", where=str(path), expected="a model folder")
    raise InputError("holds no model", where=str(path), expected="config.json and model.safetensors, or checkpoints/step-N with them")


def _read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What ``transformers`` makes of a ``.gguf`` file: its configuration, and its weights as float32, tied ones once."""
    if not path.is_file():
        raise InputError("no such file", where=str(path), expected="a .gguf file")
    require_extra("gguf")
    require_extra("transformers")
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True, trust_remote_code=False, dtype=torch.float32)
    except Exception as error:  # the library raises whatever its readers raise; each means the file is not a model it can read
        raise InputError(f"cannot be read as a causal language model ({' '.join(str(error).split())[:200]})", where=str(path)) from error
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    config = parse_json(model.config.to_json_string(), where=str(path))
    for key in ("quantization_config", "_model_name_or_path"):  # of the file, not of the weights it decodes to
        config.pop(key, None)
    return config | {"architectures": [type(model).__name__]}, {name: tensor.numpy() for name, tensor in model.state_dict().items() if name not in tied}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of one file; every size is checked against the file's before anything is read."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise InputError("is not a safetensors file", where=str(path), expected="a header as long as the file's first 8 bytes say")
            header = parse_json(file.read(length), where=str(path))
        content = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length) if size > 8 + length else np.zeros(0, dtype=np.uint8)
    except OSError as error:
        raise from_os_error(error, path) from error
    if not isinstance(header, dict):
        raise InputError("is not a safetensors file", where=str(path), expected="a JSON object as header")
    return {name: _tensor(name, entry, content, str(path)) for name, entry in header.items() if name != "__metadata__"}


def _tensor(name: str, entry: Any, content: np.ndarray, where: str) -> np.ndarray:
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        plain = all(type(number) is int and number >= 0 for number in [*shape, start, stop])
    except (TypeError, KeyError, ValueError):
        plain = False
    if not plain:
        raise InputError(f"the header's entry {name!r} is not one", where=where, expected="dtype, shape and data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"{name} has dtype {dtype!r}", where=where, expected=", ".join(DTYPES))
    kind = np.dtype(DTYPES[dtype])
    if stop > content.size or stop - start != math.prod(shape) * kind.itemsize:
        raise InputError(f"{name} does not fit its file", where=where, expected="offsets inside the file, as long as the shape says", hint="copy the file again")
    data = np.frombuffer(content[start:stop].tobytes() if start % kind.itemsize else content[start:stop], dtype=kind).reshape(shape)
    return bfloat16(data) if dtype == "BF16" else data
