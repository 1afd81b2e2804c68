"""A quantized model: integers and scales (or raw arrays) by name, and the float32 tensors they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from scalebound.compress.grouped import PART, Grouped
from scalebound.compress.shape import matrix_shape as matrix_shape
from scalebound.core.errors import InputError
from scalebound.core.hashing import model_sha256

# safetensors' name of a dtype: its little-endian numpy form; BF16 is kept as its bit pattern
RAW_DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"), "BOOL": np.dtype("u1"),
}  # fmt: skip
FLOATS = ("F32", "F16", "BF16")
DTYPE_NAMES = {np.dtype(kind).newbyteorder("<"): name for name, kind in RAW_DTYPES.items() if name not in ("BF16", "BOOL")} | {np.dtype(bool): "BOOL"}


def bfloat16(patterns: np.ndarray) -> np.ndarray:
    """The float32 numbers whose upper 16 bits are ``patterns`` and whose lower 16 bits are zero.

    >>> bfloat16(np.array([0x3F80, 0x4040]))
    array([1., 3.], dtype=float32)
    """
    return (np.asarray(patterns).astype(np.uint32) << np.uint32(16)).view(np.float32)


@dataclass(frozen=True)
class Raw:
    """A tensor stored as it is. ``data`` has the dtype ``RAW_DTYPES[dtype]`` and the tensor's shape."""

    dtype: str
    data: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def dequantized(self, where: str = "") -> np.ndarray:
        if self.dtype == "BF16":
            return bfloat16(self.data)
        return self.data.astype(np.float32 if self.dtype in FLOATS else bool if self.dtype == "BOOL" else self.data.dtype.newbyteorder("="))


@dataclass(frozen=True)
class Coded:
    """A tensor of integers with scales: ``integers[i, j] * row_scales[i] * col_scales[j]``, exact in float32.

    Parameters
    ----------
    integers : the tensor's shape, at least one element, any signed integer dtype; magnitudes below 2^16
        (below 2^17 where the integers of tensors that share a table lie less than 2^17 apart)
    row_scales : (rows,) or (1,) bfloat16 patterns (uint16), positive and finite
        One for every row of :func:`matrix_shape`, or one for the tensor.
    col_scales : (cols,) bfloat16 patterns, or None
    """

    integers: np.ndarray
    row_scales: np.ndarray
    col_scales: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.integers.shape

    @cached_property
    def matrix(self) -> np.ndarray:
        return self.integers.reshape(matrix_shape(self.shape))

    def dequantized(self, where: str = "") -> np.ndarray:
        """float32, the tensor's shape; raises InputError when a product is not exact."""
        rows = bfloat16(self.row_scales)[:, None].astype(np.float64)
        scale_bits = 8
        if self.col_scales is not None:
            rows = rows * bfloat16(self.col_scales)[None, :]
            scale_bits = 16
        largest = max(-int(self.matrix.min()), int(self.matrix.max()))
        if largest.bit_length() + scale_bits <= 24 and rows.min() >= 2.0**-120 and rows.max() <= 2.0**100:
            out = self.matrix.astype(np.float32)  # room for every product, no underflow, no overflow: exact without looking
            out *= rows.astype(np.float32)
        else:
            exact = self.matrix * rows  # float64 holds it: 17 + 8 + 8 bits
            with np.errstate(over="ignore", under="ignore"):
                out = exact.astype(np.float32)
            if not np.array_equal(exact, out):
                raise InputError("an integer times its scale is not a float32 number", where=where, expected="products that float32 holds exactly")
        return out.reshape(self.shape)


@dataclass(frozen=True)
class QuantizedModel:
    """A configuration and its tensors, each :class:`Raw`, :class:`Coded` or :class:`~scalebound.compress.grouped.Grouped`.

    Where one is ``Grouped``, those whose names begin with ``=`` are parts of later ones and no tensors of the model.
    """

    config: dict[str, Any]
    tensors: Mapping[str, Raw | Coded | Grouped]

    @cached_property
    def parts(self) -> frozenset[str]:
        """Names of the tensors that only serve to compute others."""
        grouped = any(isinstance(tensor, Grouped) for tensor in self.tensors.values())
        return frozenset(name for name in self.tensors if grouped and name.startswith(PART))

    @property
    def num_params(self) -> int:
        """Elements of the model's tensors that decode to floating point numbers."""
        own = [tensor for name, tensor in self.tensors.items() if name not in self.parts]
        return sum(t.data.size if isinstance(t, Raw) else t.integers.size for t in own if not isinstance(t, Raw) or t.dtype in FLOATS)

    def dequantized(self) -> dict[str, np.ndarray]:
        """The tensors the package decodes to: float32, or the stored dtype of those that are not floating point."""
        parts: dict[str, np.ndarray] = {}
        for name, tensor in self.tensors.items():
            if name in self.parts:
                parts[name] = dequantized(name, tensor, parts)
        return {name: dequantized(name, tensor, parts) for name, tensor in self.tensors.items() if name not in parts}

    def sha256(self) -> str:
        """The model's identity, that of the float32 tensors (see :mod:`scalebound.core.hashing`)."""
        return tensors_sha256(self.config, self.dequantized())


def dequantized(name: str, tensor: Raw | Coded | Grouped, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """One tensor's numbers, given those of the parts before it."""
    return tensor.dequantized(parts, name) if isinstance(tensor, Grouped) else tensor.dequantized(name)


def tensors_sha256(config: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    """:func:`~scalebound.core.hashing.model_sha256` of decoded tensors, as numpy arrays."""
    return model_sha256(config, ((name, dtype_name(data), data.shape, data.astype(data.dtype.newbyteorder("<"))) for name, data in tensors.items()))


def dtype_name(data: np.ndarray) -> str:
    """safetensors' name of an array's dtype."""
    return DTYPE_NAMES[data.dtype if data.dtype == bool else data.dtype.newbyteorder("<")]
