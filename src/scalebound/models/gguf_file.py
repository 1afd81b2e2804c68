"""A ``.gguf`` file read tensor by tensor: its header, and rows of a tensor as float32.

Only numbers, strings and short lists of the header are kept; the lists of a tokenizer (a hundred thousand strings) are stepped over. Weights
are read with plain reads, a few rows at a time, so no more than those are ever in memory. Layout: docs of ggml, version 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scalebound.core.errors import InputError, from_os_error

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, LIST = 8, 9
KEPT = 64  # lists of at most this many numbers are kept
PIECE = 1 << 20  # numbers dequantized at once
MOST_KEYS, MOST_TENSORS = 1 << 16, 1 << 20


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies; ``shape`` is that of the numbers, outermost axis first."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class GgufFile:
    """The header of a ``.gguf`` file.

    Attributes
    ----------
    fields
        Keys with their values; lists of strings and long lists are left out.
    tensors
        By name in the file.

    Raises
    ------
    InputError
        Not such a file, or sizes that do not fit it.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.fields: dict[str, Any] = {}
        self.tensors: dict[str, GgufTensor] = {}
        try:
            self.size = os.stat(path).st_size
            with open(path, "rb") as file:
                self._read(file)
        except OSError as error:
            raise from_os_error(error, path) from error
        except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
            raise InputError(f"is not a .gguf file that can be read ({error})", where=str(path)) from error

    def _read(self, file: BinaryIO) -> None:
        if file.read(4) != b"GGUF":
            raise InputError("is not a .gguf file (its first bytes are not GGUF)", where=str(self.path))
        version, tensors, keys = self._take(file, "IQQ")
        if version not in (2, 3) or tensors > MOST_TENSORS or keys > MOST_KEYS:
            raise InputError(f"has version {version}, {tensors:,} tensors and {keys:,} keys", where=str(self.path), expected="a .gguf file of version 2 or 3")
        for _ in range(keys):
            name = self._string(file)
            value = self._value(file, self._take(file, "I")[0])
            if value is not None:
                self.fields[name] = value
        found = []
        for _ in range(tensors):
            name = self._string(file)
            (axes,) = self._take(file, "I")
            if axes > 8:
                raise ValueError(f"tensor {name!r} has {axes} axes")
            shape = self._take(file, f"{axes}Q")[::-1]
            kind, offset = self._take(file, "IQ")
            found.append(GgufTensor(name, shape, kind, offset))
        align = int(self.fields.get("general.alignment", 32))
        start = -(-file.tell() // align) * align
        for tensor in found:
            if start + tensor.offset + self._bytes(tensor, tensor.shape) > self.size:
                raise InputError(f"says that tensor {tensor.name!r} lies beyond its end", where=str(self.path))
            self.tensors[tensor.name] = GgufTensor(tensor.name, tensor.shape, tensor.kind, start + tensor.offset)

    @staticmethod
    def _take(file: BinaryIO, form: str) -> tuple:
        return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))

    def _length(self, file: BinaryIO) -> int:
        (length,) = self._take(file, "Q")
        if length > self.size:
            raise ValueError(f"a length of {length:,} in a file of {self.size:,} bytes")
        return length

    def _string(self, file: BinaryIO) -> str:
        return file.read(self._length(file)).decode("utf-8")

    def _value(self, file: BinaryIO, kind: int) -> Any:
        if kind == STRING:
            return self._string(file)
        if kind != LIST:
            return self._take(file, SCALARS[kind])[0]
        (inner,) = self._take(file, "I")
        count = self._length(file)
        if inner == LIST:
            raise ValueError("a list of lists")
        if inner == STRING:
            for _ in range(count):
                file.seek(self._length(file), os.SEEK_CUR)
            return None
        if count > KEPT:
            file.seek(count * struct.calcsize("<" + SCALARS[inner]), os.SEEK_CUR)
            return None
        return self._take(file, f"{count}{SCALARS[inner]}")

    @staticmethod
    def _bytes(tensor: GgufTensor, shape: tuple[int, ...]) -> int:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
        if shape and shape[-1] % block:
            raise ValueError(f"tensor {tensor.name!r} has rows of {shape[-1]} numbers in blocks of {block}")
        return math.prod(shape) // block * size

    def kind(self, name: str) -> str:
        """The type of a tensor as ggml writes it: ``F32``, ``Q4_K``, .."""
        from gguf.constants import GGMLQuantizationType

        return GGMLQuantizationType(self.tensors[name].kind).name

    def bytes_of(self, name: str) -> np.ndarray:
        """The bytes of a tensor as they lie in the file, (bytes,) uint8, mapped rather than read."""
        tensor = self.tensors[name]
        return np.memmap(self.path, dtype=np.uint8, mode="r", offset=tensor.offset, shape=(self._bytes(tensor, tensor.shape),))

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """The numbers of a tensor as float32, a stretch of its outermost axis at a time."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        inner = tensor.shape[1:] if len(tensor.shape) > 1 else ()
        rows = tensor.shape[0] if not inner else max(1, PIECE // math.prod(inner))
        with open(self.path, "rb") as file:
            file.seek(tensor.offset)
            for start in range(0, tensor.shape[0], rows):
                shape = (min(rows, tensor.shape[0] - start), *inner)
                size = self._bytes(tensor, shape)
                data = np.frombuffer(file.read(size), dtype=np.uint8)
                if len(data) != size:
                    raise InputError("was cut short while it was read", where=str(self.path))
                kind = GGMLQuantizationType(tensor.kind)
                if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
                    data = data.view("<f4" if kind == GGMLQuantizationType.F32 else "<f2")
                    yield data.astype(np.float32).reshape(shape)
                else:
                    yield dequantize(data.reshape(-1, size // math.prod(shape[:-1])), kind).astype(np.float32, copy=False).reshape(shape)

    def read(self, name: str) -> np.ndarray:
        """A whole tensor as float32."""
        return np.concatenate(list(self.pieces(name)))
