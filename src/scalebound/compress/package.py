"""The ``.sbz`` file on disk: written atomically, read strictly, its size turned into a code length."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from scalebound.compress.decoder import decode_model
from scalebound.compress.encoder import Breakdown, encode_with_breakdown
from scalebound.compress.model import QuantizedModel
from scalebound.core.errors import UsageError
from scalebound.core.io import atomic_write, read_bytes


def code_bits(size_bytes: int) -> int:
    """Length of the prefix-free code of a file: 8 bits a byte and the self-delimitation.

    .. math:: L = l + 2 \\lfloor \\log_2 l \\rfloor + 1,\\quad l = 8 \\cdot size

    Source: MATH section 5 (docs/mathematics.md); the length of Elias' gamma code of l, and l bits.

    >>> code_bits(1000)
    8025
    """
    if size_bytes < 1:
        raise UsageError(f"a file of {size_bytes} bytes", expected="at least one byte")
    return 8 * size_bytes + 2 * ((8 * size_bytes).bit_length() - 1) + 1


def save_package(path: str | os.PathLike, model: QuantizedModel) -> Breakdown:
    """Write a model's package atomically and say where its bytes are."""
    package, breakdown = encode_with_breakdown(model)
    atomic_write(path, package)
    return breakdown


def load_package(path: str | os.PathLike) -> QuantizedModel:
    """Read a package; ``load_package(path).dequantized()`` are its tensors."""
    return decode_model(read_bytes(Path(path)), where=str(path))


def read_package(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and tensors of a package file: ``(config, {name: float32 array})``."""
    model = load_package(path)
    return model.config, model.dequantized()
