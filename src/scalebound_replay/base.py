"""Models written down as a base and a delta, rebuilt from docs/package-format.md section 11 alone: the base's numbers as its file holds
them, each delta in float64 in the order stated there, their sum rounded once. Loaded only for certificates that name a base; numpy only."""

import math
import os
from typing import Any

import numpy as np

from scalebound_verify.arrays import safetensors_header, stored
from scalebound_verify.package import Tensors, decode, need
from scalebound_verify.strict import inside, load, read

K1, K2, K3 = map(np.uint64, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def floats(dtype: str, raw: np.ndarray) -> np.ndarray:
    """Stored numbers as float32, exactly for those of 16 bits."""
    return (raw.astype("<u4") << 16).view("<f4") if dtype == "BF16" else raw.astype("<f4")


def read_base(path: str, params: int) -> tuple[dict[str, Any], Tensors]:
    """``(config, tensors as stored)`` of a package or of a folder's one ``.safetensors`` file, with ``params`` numbers in all; of any other
    file, nothing."""
    if path.endswith(".sbz"):
        return decode(read(path, 1 << 40), params)
    if not path.endswith(".safetensors"):
        return {}, {}
    entries = safetensors_header(path)[0].items()
    need(sum(math.prod(shape) for _, (_, shape, _) in entries) == params, "has a base with another number of parameters")
    tensors = {name: (entry[0], stored(path, entry).reshape(entry[1])) for name, entry in entries}
    return load(inside(os.path.dirname(path), "config.json", path), "object"), tensors


def drawn(w: np.ndarray, seed: int, tensor: int, shape: tuple[int, ...]) -> np.ndarray:
    """The delta that a vector gives a tensor: coordinate and sign of each number are hashed from the seed, the tensor and its place."""
    place, columns = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64), shape[-1] if len(shape) > 1 else 1
    z = (place + np.uint64((seed << 20 ^ tensor) * int(K3) % 2**64)) * K1
    z = (z ^ z >> np.uint64(30)) * K2
    z = (z ^ z >> np.uint64(27)) * K3
    z ^= z >> np.uint64(31)
    value = w[(z >> np.uint64(32)) % np.uint64(len(w))] * 2.0 ** -((columns.bit_length() - 1) // 2)
    return np.where(z & np.uint64(1), -value, value).reshape(shape)


def rebuild(header: dict[str, Any], numbers: Tensors, base: Tensors) -> Tensors:
    """``base + delta``, every tensor of the base as float32; numbers that fit nothing there are refused."""
    kind, left, out = header["delta"], {name: array.astype(np.float64) for name, (_, array) in numbers.items()}, Tensors()
    seed: Any = header.get("seed") if kind == "subspace" else 0
    w = left.pop("w", np.zeros(0)) if kind == "subspace" else np.ones(1)
    need(w.ndim == 1 and len(w) > 0 and type(seed) is int and seed >= 0, "is no seed and one vector w")
    for tensor, (name, (dtype, array)) in enumerate(sorted(base.items())):
        delta = np.zeros(array.shape)
        if kind == "subspace":
            delta = drawn(w, seed, tensor, array.shape)
        elif kind == "full":
            delta = left.pop(name, delta)
        elif kind == "lora" and {f"{name}.a", f"{name}.b"} <= left.keys():
            a, b = left.pop(f"{name}.a"), left.pop(f"{name}.b")
            fits = a.ndim == b.ndim == array.ndim == 2 and a.shape == (b.shape[1], array.shape[1]) and len(b) == len(array)
            need(fits, "has factors that do not fit its base")
            for k in range(len(a)):
                delta += b[:, k : k + 1] * a[k]
        need(delta.shape == array.shape, "has a delta that does not fit its base")
        with np.errstate(over="ignore"):
            out[name] = ("F32", (floats(dtype, array) + delta).astype("<f4"))
    need(not left, "is a delta of an unknown kind, or changes what its base does not have")
    return out
