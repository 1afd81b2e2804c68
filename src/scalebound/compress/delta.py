"""Packages relative to a base: a few coded numbers from which the stated decoder rebuilds ``base + delta`` exactly.

A base that was known before the certified window costs nothing (docs/mathematics.md section 6). Its delta is a package like any other (its
integers, scales and tables are those of docs/package-format.md), whose configuration is ``{"delta": kind, "seed": seed}`` and whose tensors are

* ``full``       deltas under the names of the base's tensors; those left out do not change
* ``lora``       for matrices W (rows, columns): ``W.a`` (rank, columns) and ``W.b`` (rows, rank); the delta is their product
* ``subspace``   one vector ``w``; the delta of number i of a tensor is ``+- w[c] / 2^e``, its coordinate c and sign drawn by a hash of
  seed, tensor and i (a sparse random projection: Li et al. 2018, arXiv 1804.08838), ``e = floor(log2(columns)/2)`` (1 column: 0)

Everything is IEEE arithmetic of stated order: each delta in float64 (of ``lora`` the sum over k = 0, 1, .. of ``b[:, k] a[k]``, one product and
one addition at a time), then ``float32(float64(base) + delta)``. Bases in 16 bits are taken as the float32 numbers they stand for. Any
machine that does float64 rebuilds the same bytes; which base is meant is not in the file, but in the certificate, by SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalebound.compress.model import QuantizedModel
from scalebound.compress.rounding import quantize, round_vector
from scalebound.core.errors import InputError, UsageError

KINDS = ("full", "lora", "subspace")
CHUNK = 1 << 20
MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64


def is_delta(config: Mapping[str, Any]) -> bool:
    return "delta" in config


def hashed(seed: int, tensor: int, start: int, stop: int) -> np.ndarray:
    """64 pseudo-random bits for each number [start, stop) of the tensor-th tensor: splitmix64 of a counter, in integers.

    >>> hashed(0, 0, 0, 2).tolist() == hashed(0, 0, 0, 5).tolist()[:2]
    True
    """
    with np.errstate(over="ignore"):
        z = np.arange(start, stop, dtype=np.uint64) + np.uint64((seed << 20 ^ tensor) & 0xFFFFFFFFFFFFFFFF) * MIX[2] + np.uint64(1)
        z = z * MIX[0]
        z = (z ^ (z >> np.uint64(30))) * MIX[1]
        z = (z ^ (z >> np.uint64(27))) * MIX[2]
        return z ^ (z >> np.uint64(31))


def coordinates(seed: int, tensor: int, start: int, stop: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinate (int64) and sign (float64) of each number: the upper 32 bits modulo ``dim``, and the lowest bit."""
    bits = hashed(seed, tensor, start, stop)
    return ((bits >> np.uint64(32)) % np.uint64(dim)).astype(np.int64), 1.0 - 2.0 * (bits & np.uint64(1)).astype(np.float64)


def spread_of(shape: tuple[int, ...]) -> float:
    """What one coordinate changes a number of a tensor by: ``2^-floor(log2(columns)/2)``.

    >>> spread_of((10, 64)), spread_of((7,)), spread_of((3, 200))
    (0.125, 1.0, 0.125)
    """
    columns = int(shape[-1]) if len(shape) > 1 else 1
    return 2.0 ** -((columns.bit_length() - 1) // 2)


def pack_delta(kind: str, numbers: Mapping[str, np.ndarray], *, seed: int = 0, step: float = 0.3) -> QuantizedModel:
    """Round trained numbers into a package.

    Parameters
    ----------
    kind, numbers       as in the module docstring
    seed                of ``subspace``
    step                relative step: of matrices of a row's root mean square, of ``w`` of its median magnitude

    Raises
    ------
    UsageError          an unknown kind or a step out of range

    >>> pack_delta("subspace", {"w": np.array([0.5, -0.25, 0.125], dtype=np.float32)}, seed=7).config
    {'delta': 'subspace', 'seed': 7}
    """
    if kind not in KINDS:
        raise UsageError(f"delta = {kind!r}", expected=f"one of {', '.join(KINDS)}")
    config: dict[str, Any] = {"delta": kind, "seed": int(seed)} if kind == "subspace" else {"delta": kind}
    given = {name: np.asarray(value, dtype=np.float32) for name, value in numbers.items()}
    if kind == "subspace":
        return QuantizedModel(config, {"w": round_vector(given["w"], step, "w")})
    return quantize(config, given, step=step)


def apply_delta(config: Mapping[str, Any], numbers: Mapping[str, np.ndarray], base: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors ``base + delta``, float32, from a decoded delta package.

    Parameters
    ----------
    config, numbers         of the package (:func:`~scalebound.compress.package.read_package`)
    base : name -> array    floating point, in any order; the hash runs over their sorted names

    Raises
    ------
    InputError              not a delta, or one that does not fit this base
    """
    kind, out = config.get("delta"), {name: np.asarray(value, dtype=np.float32) for name, value in base.items()}
    if kind not in KINDS:
        raise InputError(f"says delta = {kind!r}", where="package", expected=f"one of {', '.join(KINDS)}")
    if kind == "subspace":
        seed, w = config.get("seed"), np.asarray(numbers.get("w", ()), dtype=np.float64)
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0 or w.ndim != 1 or not len(w) or set(numbers) != {"w"}:
            raise InputError("is no delta of a subspace", where="package", expected="a seed and one vector w")
        for tensor, name in enumerate(sorted(out)):
            flat, spread = out[name].reshape(-1).astype(np.float64), spread_of(out[name].shape)
            for start in range(0, len(flat), CHUNK):
                part = flat[start : start + CHUNK]
                which, sign = coordinates(seed, tensor, start, start + len(part), len(w))
                part += sign * (w[which] * spread)
            out[name] = flat.astype(np.float32).reshape(out[name].shape)
        return out
    targets = sorted(numbers) if kind == "full" else sorted({name[:-2] for name in numbers})
    for name in targets:
        parts = (name,) if kind == "full" else (f"{name}.a", f"{name}.b")
        shapes = [numbers[part].shape for part in parts if part in numbers]
        right = name in out and len(shapes) == len(parts)
        if right and kind == "lora":
            (rank, columns), (rows, other) = (shapes[0] if len(shapes[0]) == 2 else (0, 0)), (shapes[1] if len(shapes[1]) == 2 else (0, 1))
            right = rank == other and (rows, columns) == out[name].shape
        elif right:
            right = shapes[0] == out[name].shape
        if not right:
            raise InputError(f"changes {name!r} by numbers of shape {shapes}", where="package", expected=f"the shape {out[name].shape} of the base" if name in out else "a tensor of the base")
        total = np.zeros(out[name].shape)
        if kind == "full":
            total += numbers[name]
        else:
            a, b = (np.asarray(numbers[part], dtype=np.float64) for part in parts)
            for k in range(len(a)):
                total += b[:, k : k + 1] * a[k]
        out[name] = (out[name].astype(np.float64) + total).astype(np.float32)
    return out
