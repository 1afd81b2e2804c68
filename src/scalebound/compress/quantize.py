"""Round-to-nearest: weights become integers on a symmetric uniform grid, with the scale that makes the squared error smallest.

Two forms. ``bits=B``: every row has its own scale, clipping searched, integers in -(2^(B-1)-1) .. 2^(B-1)-1. ``step=R``: one step for a whole
matrix, R times its root mean square, and no clipping: after entropy coding what counts is the step, not the number of levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scalebound.compress.model import RAW_DTYPES, Coded, QuantizedModel, Raw, bfloat16, dtype_name, matrix_shape
from scalebound.core.errors import InputError, UsageError
from scalebound.core.progress import Progress, silent

MAX_INTEGER = (1 << 15) - 1  # with --step; 15 bits and a bfloat16 scale fit in float32's 24
SCALE_STEP = 16  # row scales keep three bits after the leading one: bfloat16 patterns that are multiples of 16, eight an octave
COARSE = tuple(range(0, 28, 2))  # the first search: a quarter octave apart, down to 1/11 of the scale that clips nothing
CHUNK_ELEMENTS = 1 << 16  # rows are searched in blocks that stay in the cache


def quantize(
    config: dict[str, Any], tensors: dict[str, np.ndarray], bits: int | None = None, *, step: float | None = None, progress: Progress = silent
) -> QuantizedModel:
    """Round a model to nearest.

    Parameters
    ----------
    config
        As in ``config.json``.
    tensors : name -> array
        Floating point tensors of two or more dimensions are quantized (rows = the first dimension); vectors and scalars are stored as float16
        where that is exact, as bfloat16 where that is, else rounded to float16, or kept in float32 when beyond float16's range; others raw.
    bits : 2 to 8
        Levels: 2^bits - 1, symmetric about 0. A scale for every row.
    step : > 0
        Instead of ``bits``: the step of every matrix, relative to its root mean square. Integers of up to 16 bits.

    Returns
    -------
    QuantizedModel

    Raises
    ------
    UsageError
        Not exactly one of bits and step, or out of range; a step so small that an integer would leave 16 bits (the tensor is named).
    InputError
        NaN or an infinity in a tensor (name and index are given); a dtype that is none of safetensors' plain ones.

    Notes
    -----
    ``bits``: 17 trial scales a row, about 3 million weights a second and core; ``step``: about 100 million.

    Examples
    --------
    >>> model = quantize({}, {"w": np.eye(3, dtype=np.float32)}, bits=4)
    >>> model.dequantized()["w"].tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if (bits is None) == (step is None):
        raise UsageError("give either bits or a step", expected="one of the two")
    if bits is not None and not 2 <= bits <= 8:
        raise UsageError(f"bits is {bits}", expected="2 to 8")
    if step is not None and not 1e-6 <= step <= 1e6:
        raise UsageError(f"step is {step}", expected="a number between 1e-6 and 1e6")
    out: dict[str, Raw | Coded] = {}
    total = sum(data.size for data in tensors.values())
    done = 0
    for name, data in tensors.items():
        progress(done, total)
        if data.dtype.kind == "f":
            data = _finite(data, name)
        if data.dtype.kind != "f" or data.ndim < 2 or data.size == 0:
            out[name] = raw_tensor(data, name)
        elif bits is not None:
            out[name] = round_rows(data, 2 ** (bits - 1) - 1)
        else:
            assert step is not None
            out[name] = round_matrix(data, step, name)
        done += data.size
    progress(total, total)
    return QuantizedModel(config, out)


def _finite(data: np.ndarray, name: str) -> np.ndarray:
    """float32, checked."""
    with np.errstate(over="ignore"):
        data = np.ascontiguousarray(data, dtype=np.float32)
    if not np.isfinite(data).all():
        index = tuple(int(k) for k in np.argwhere(~np.isfinite(data))[0])
        raise InputError(f"{name}{list(index)} is {data[index]}", where=name, expected="finite float32 weights", hint="the checkpoint is damaged or its training diverged")
    return data


def raw_tensor(data: np.ndarray, name: str) -> Raw:
    """Store a tensor as it is; floats in the shortest form that is exact, else float16 (float32 outside its range)."""
    if data.dtype.kind == "f":
        data = data.astype(np.float32)
        with np.errstate(over="ignore", under="ignore"):
            half = data.astype(np.float16)
        upper = (data.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        if data.size == 0:
            return Raw("F32", data)
        if not np.array_equal(half.astype(np.float32), data) and np.array_equal(bfloat16(upper), data):
            return Raw("BF16", upper)
        lost = (half == 0) & (data != 0)
        return Raw("F16", half) if np.isfinite(half).all() and not lost.any() else Raw("F32", data)
    try:
        dtype = dtype_name(data)
    except KeyError:
        raise InputError(f"has dtype {data.dtype}", where=name, expected="a floating point, integer or boolean tensor") from None
    return Raw(dtype, data.astype(RAW_DTYPES[dtype]))


def patterns_of(values: np.ndarray, multiple: int = 1) -> np.ndarray:
    """bfloat16 patterns nearest to positive values, as multiples of ``multiple``, kept in the normal range.

    >>> bfloat16(patterns_of(np.array([1.0, 3.0, 0.0])))[:2]
    array([1., 3.], dtype=float32)
    """
    exact = np.maximum(np.asarray(values, dtype=np.float32), np.finfo(np.float32).tiny).view(np.uint32).astype(np.int64)
    unit = multiple << 16
    return np.clip((exact + unit // 2) // unit * multiple, 0x0080, 0x7F00).astype(np.int64)


def round_matrix(data: np.ndarray, step: float, name: str = "") -> Coded:
    """One step for the tensor: ``step`` times its root mean square, rounded to bfloat16."""
    rms = float(np.sqrt(np.mean(np.square(data, dtype=np.float64))))
    pattern = patterns_of(np.array([step * rms]))
    scale = bfloat16(pattern)[0]
    largest = float(np.abs(data).max()) / float(scale)
    if largest > MAX_INTEGER:
        raise UsageError(f"step {step} needs integers up to {largest:,.0f}", where=name, expected=f"at most {MAX_INTEGER:,}", hint=f"try --step {step * largest / MAX_INTEGER:.3g}")
    integers = np.rint(data * np.float32(1 / scale))
    return Coded(integers.astype(np.int8 if largest < 127 else np.int16), pattern.astype(np.uint16))


def round_rows(data: np.ndarray, largest: int) -> Coded:
    """A scale for every row, the one of smallest squared error among scales an eighth of an octave apart.

    .. math:: \\min_s \\sum_j (w_j - s\\,\\mathrm{clip}(\\mathrm{round}(w_j / s), -Q, Q))^2

    Searched from the scale that clips nothing downwards: first a quarter octave apart, then the two neighbours of the best.
    """
    rows, cols = matrix_shape(data.shape)
    matrix = data.reshape(rows, cols)
    integers = np.empty((rows, cols), dtype=np.int8)
    patterns = np.empty(rows, dtype=np.uint16)
    block = max(1, CHUNK_ELEMENTS // cols)
    for at in range(0, rows, block):
        part = matrix[at : at + block]
        tops = np.abs(part).max(axis=1)
        widest = patterns_of(tops / np.float32(largest), SCALE_STEP) + SCALE_STEP  # rounding down might clip
        best = np.full(len(part), np.inf)
        chosen = widest.copy()

        def search(trial: np.ndarray, part=part, best=best, chosen=chosen) -> None:
            trial = np.clip(trial, 0x0080, 0x7F00)
            error = _squared_error(part, trial, largest)
            better = error < best
            best[better], chosen[better] = error[better], trial[better]

        for offset in COARSE:
            search(widest - SCALE_STEP * offset)
        centre = chosen.copy()
        for offset in (-1, 1):
            search(centre + SCALE_STEP * offset)
        patterns[at : at + block] = chosen
        integers[at : at + block] = _integers(part, chosen, largest)
    empty = ~integers.any(axis=1)
    if empty.any() and not empty.all():
        # the scale of a row of zeros is free: take the commonest, which is the cheapest to code
        values, counts = np.unique(patterns[~empty], return_counts=True)
        patterns[empty] = values[np.argmax(counts)]
    elif empty.all():
        patterns[:] = 0x3F80
    return Coded(integers.reshape(data.shape), patterns)


def _integers(part: np.ndarray, patterns: np.ndarray, largest: int) -> np.ndarray:
    scaled = part / bfloat16(patterns)[:, None]
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -largest, largest, out=scaled)


def _squared_error(part: np.ndarray, patterns: np.ndarray, largest: int) -> np.ndarray:
    """In units of the row's largest weight squared is not needed: rows are compared with themselves, in float64."""
    scale = bfloat16(patterns)[:, None]
    rounded = _integers(part, patterns, largest)
    rounded *= scale
    rounded -= part
    with np.errstate(over="ignore", under="ignore"):
        return np.einsum("ij,ij->i", rounded, rounded, dtype=np.float64)
