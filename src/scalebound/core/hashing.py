"""What identifies a model: the SHA-256 of its tensors and configuration, whatever file they came from.

The hash runs over the name-sorted tensors, each as ``name \\0 dtype \\0 shape \\0`` (dtype as safetensors writes it, shape as
comma-separated decimals) followed by its little-endian bytes, then over the canonical JSON of the configuration.
So a checkpoint folder, its copy elsewhere, and the package that decodes to the same numbers have one identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from scalebound.core.io import canonical_json

# Keys that say who wrote the folder or how it should be run, not which function the model computes.
TRANSIENT_CONFIG_KEYS = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache", "architectures_version")


def canonical_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without keys that do not change the function."""
    return {key: value for key, value in config.items() if key not in TRANSIENT_CONFIG_KEYS}


def model_sha256(config: dict[str, Any], tensors: Iterable[tuple[str, str, tuple[int, ...], np.ndarray | Callable[[], Iterable[np.ndarray]]]]) -> str:
    """SHA-256 of a model.

    Parameters
    ----------
    config
        As in ``config.json``; transient keys are dropped.
    tensors
        ``(name, dtype, shape, bytes)`` with dtype one of safetensors' names ("F32", "F16", "BF16", ...) and the bytes as a
        contiguous little-endian array of any dtype, or a function that gives them piece by piece, called when the tensor's turn has come.
        Tied tensors appear once, under the name that is stored.
    """
    digest = hashlib.sha256()
    for name, dtype, shape, data in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name}\0{dtype}\0{','.join(map(str, shape))}\0".encode())
        for piece in data() if callable(data) else (data,):
            digest.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
    digest.update(canonical_json(canonical_config(config)))
    return digest.hexdigest()
