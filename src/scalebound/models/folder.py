"""Hugging Face folders of our own models: ``config.json``, ``model.safetensors``, ``tokenizer.json``.

Written so that ``transformers`` opens them unchanged, without code from the folder; read back without ``transformers``.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scalebound.core.errors import InputError, from_os_error
from scalebound.core.hashing import model_sha256
from scalebound.core.io import atomic_write, canonical_json, read_json

DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32",
               torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}  # fmt: skip


def bytes_of(tensor: Tensor) -> np.ndarray:
    """The little-endian bytes of a tensor, as an array without a copy where it is contiguous."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def hash_tensors(config: dict, tensors: dict[str, Tensor]) -> str:
    """:func:`scalebound.core.hashing.model_sha256` of torch tensors."""
    return model_sha256(config, ((name, DTYPE_NAMES[t.dtype], tuple(t.shape), bytes_of(t)) for name, t in tensors.items()))


def save_folder(path: str | os.PathLike, config: dict, tensors: dict[str, Tensor], *, byte_tokenizer: bool = True) -> str:
    """Write a model folder and return the model's SHA-256. The configuration is written last: without it the folder is no model."""
    from safetensors.torch import save

    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    atomic_write(path / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    if byte_tokenizer:
        atomic_write(path / "tokenizer.json", _byte_tokenizer_json())
        atomic_write(path / "tokenizer_config.json", canonical_json({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.get("max_position_embeddings")}))
    atomic_write(path / "config.json", canonical_json(config) + b"\n")
    return hash_tensors(config, tensors)


def _byte_tokenizer_json() -> bytes:
    """The byte tokenizer in the form of the ``tokenizers`` library: a byte-level vocabulary without merges, id = byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in set(visible)]  # shown as the characters from 256 on
    letter = {b: chr(b) for b in visible} | {b: chr(256 + k) for k, b in enumerate(hidden)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return canonical_json({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": level, "post_processor": None,
        "decoder": level, "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                                    "fuse_unk": False, "byte_fallback": False, "vocab": {letter[b]: b for b in range(256)}, "merges": []},
    })  # fmt: skip


def read_config(path: str | os.PathLike) -> dict:
    """``config.json`` of a model folder."""
    config = read_json(Path(path) / "config.json")
    if not isinstance(config, dict):
        raise InputError("is not a configuration", where=str(Path(path) / "config.json"), expected="a JSON object")
    return config


def read_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files, in their stored precision.

    Raises
    ------
    InputError
        No weights there, or a corrupt file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = sorted(Path(path).glob("model*.safetensors"))
    if not files:
        raise InputError("holds no model (no model.safetensors)", where=str(path), expected="a Hugging Face folder with safetensors weights")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            raise InputError(f"is not a safetensors file ({error})", where=str(file)) from error
        except OSError as error:
            raise from_os_error(error, file) from error
    return tensors


def stored_dtypes(path: str | os.PathLike) -> set[str]:
    """Types of the tensors in a folder's safetensors files, read from their headers; empty when there are none to read."""
    from safetensors import SafetensorError, safe_open

    found: set[str] = set()
    for file in sorted(Path(path).glob("model*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                found |= {opened.get_slice(name).get_dtype() for name in opened.keys()}
        except (OSError, SafetensorError):
            return set()  # whoever reads the weights says what is wrong with them
    return found
