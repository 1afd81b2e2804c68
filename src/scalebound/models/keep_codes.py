"""A model that another program quantized becomes a package's model with its integers kept, be it a ``.gguf`` file or a folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from scalebound.compress import QuantizedModel
from scalebound.compress.foreign import KINDS, Blocks, assemble, keep_folder, unpack
from scalebound.core.errors import InputError
from scalebound.core.progress import Progress, silent
from scalebound.models.gguf_file import GgufFile
from scalebound.models.gguf_llama import ARCHITECTURES, folder_config, folder_name, folder_order

FLOATS = ("F32", "F16", "BF16")


def keep_codes(path: str | os.PathLike, *, progress: Progress = silent) -> QuantizedModel:
    """Take over a quantized model without changing a weight.

    Parameters
    ----------
    path
        A ``.gguf`` file of Llama, Mistral, Qwen2 or Qwen3 whose tensors are of the types in :data:`~scalebound.compress.foreign.gguf_blocks.KINDS` or floats, or
        a folder that one of :data:`~scalebound.compress.foreign.folder.METHODS` quantized.

    Returns
    -------
    QuantizedModel
        Its numbers are, bit for bit, those that the format's reference gives in float32, under a folder's names and in a folder's order.

    Raises
    ------
    InputError
        Not quantized, an architecture or a type that is not known, a damaged file.

    Examples
    --------
    >>> keep_codes("model-Q4_K_M.gguf").num_params  # doctest: +SKIP
    134515008
    """
    if Path(path).suffix == ".sbz":
        raise InputError("is a package already", where=str(path), expected="a .gguf file, or a folder that GPTQ, AWQ, bitsandbytes or compressed-tensors quantized")
    return _keep_gguf(Path(path), progress) if Path(path).suffix == ".gguf" else keep_folder(path)


def _keep_gguf(path: Path, progress: Progress) -> QuantizedModel:
    file = GgufFile(path)
    config = folder_config(file)
    if config is None:
        raise InputError("has an architecture, a setting or a tensor whose place in a folder is not known", where=str(path), expected="Llama, Mistral, Qwen2 or Qwen3", hint="without --keep-codes its weights are rounded")
    tensors: dict[str, np.ndarray | Blocks] = {}
    for name, tensor in file.tensors.items():
        kind = file.kind(name)
        order = folder_order(config, name)
        if kind in FLOATS:
            value = file.read(name)
            tensors[str(folder_name(name))] = value if order is None else order(value)
        elif len(tensor.shape) == 2:
            rows = file.bytes_of(name).reshape(tensor.shape[0], -1)  # blocks never run over the end of a row, so whole rows change places
            try:
                tensors[str(folder_name(name))] = unpack(kind, rows if order is None else order(rows))
            except InputError as error:
                raise InputError(error.what, where=f"{path}: {name}", expected=error.expected) from error
        else:
            raise InputError(f"has the tensor {name} of type {kind} and shape {tensor.shape}", where=str(path), expected="a matrix, or floats")
        progress(len(tensors), len(file.tensors))
    if not any(isinstance(value, Blocks) for value in tensors.values()):
        raise InputError("holds no quantized tensor", where=str(path), expected=f"one of {', '.join(KINDS)}", hint="without --keep-codes its weights are rounded")
    tied = "lm_head.weight" not in tensors
    return assemble(config | {"architectures": [ARCHITECTURES[config["model_type"]]], "tie_word_embeddings": tied}, tensors)
