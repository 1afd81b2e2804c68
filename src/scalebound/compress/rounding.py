"""Round-to-nearest: weights become integers on a symmetric uniform grid, every row with its own scale.

Two forms. ``bits=B``: integers in -(2^(B-1)-1) .. 2^(B-1)-1, clipping searched. ``step=R``: every row's scale is R times its root mean square
and nothing is clipped, since after entropy coding what counts is the step and not the number of levels.

Measured (files, loss in nats per token; the demo's model of 20,064 parameters, 2.012 in full precision; SmolLM2-135M on 2,048 tokens of Python's
documentation at context 512, 2.728):

* the clipping search minimises the sum of |error|^3: with squares, 2, 3 and 4 bits gave 1.545 bits per parameter at loss 2.728, 2.594 at 2.116
  and 3.610 at 2.036; with cubes 1.524 at 2.645, 2.538 at 2.109 and 3.543 at 2.031. Squares clip the few large weights that matter: on SmolLM2
  at 4 bits 5.52, with cubes 4.11. Such models want ``step``: 0.3 gives 3.72 bits at 3.0;
* scales are coded, and halving their spacing takes one more bit a row: with 3 bits and rows of 32, spacings of 1/8, 1/4 and 1/2 octave gave
  2.895, 2.864 and 2.820 bits at 2.126, 2.131 and 2.116 (before tables had classes). One step a matrix instead of a row: 3.12 bits, 2.202.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scalebound.compress.model import RAW_DTYPES, Coded, QuantizedModel, Raw, bfloat16, dtype_name, matrix_shape
from scalebound.core.errors import InputError, UsageError
from scalebound.core.progress import Progress, silent

# patterns that scales are kept between: all multiples of 128, and normal numbers with room for the product of an integer of 16 bits
LOWEST, HIGHEST = 0x0100, 0x7700
LARGEST_WEIGHT = 1e30
VECTOR_STEP = 1 / 16  # of the step of matrices, for which 2^-bits stands in where there are bits
MAX_INTEGER = (1 << 15) - 1  # with --step; 15 bits and a bfloat16 scale fit in float32's 24
# Row scales are bfloat16 patterns that are multiples of this, for rows of up to so many columns: 64 is half an octave apart, 8 a sixteenth
SPACINGS = ((64, 64), (256, 32), (1024, 16), (math.inf, 8))
DEEPEST = 3.5  # octaves below the scale that clips nothing, the end of the search
COARSE = 0.25  # octaves between the trials of its first pass, at least
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
        Floating point tensors of two or more dimensions are quantized (rows = the first dimension). Vectors (norms, biases) are rounded to
        a step 16 times finer than that of matrices, so that they cost a few bits each and next to no loss. Scalars and vectors whose
        largest entry is too far above the rest are stored in float16 (in another float where that one is exact, or where float16's range
        ends); tensors that are not floating point as they are.
    bits : 2 to 8
        Levels: 2^bits - 1, symmetric about 0. A scale for every row.
    step : > 0
        Instead of ``bits``: the step of every row, relative to its root mean square. Integers of up to 16 bits.

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
    ``bits``: about 16 trial scales a row, 30 million weights a second on one core; ``step``: three times as fast.

    Examples
    --------
    >>> model = quantize({}, {"w": np.eye(3, dtype=np.float32)}, bits=4)
    >>> model.tensors["w"].integers.tolist(), model.dequantized()["w"].diagonal().tolist()
    ([[5, 0, 0], [0, 5, 0], [0, 0, 5]], [0.9375, 0.9375, 0.9375])
    """
    if (bits is None) == (step is None):
        raise UsageError("give either bits or a step", expected="one of the two")
    if bits is not None and not 2 <= bits <= 8:
        raise UsageError(f"bits is {bits}", expected="2 to 8")
    if step is not None and not 1e-6 <= step <= 1e6:
        raise UsageError(f"step is {step}", expected="a number between 1e-6 and 1e6")
    out: dict[str, Raw | Coded] = {}
    multiple = scale_spacing(tensors)
    total = sum(data.size for data in tensors.values())
    done = 0
    for name, data in tensors.items():
        progress(done, total)
        if data.dtype.kind == "f":
            data = _finite(data, name)
        if data.dtype.kind != "f" or data.ndim < 1 or data.size == 0:
            out[name] = raw_tensor(data, name)
        elif data.ndim == 1:
            out[name] = round_vector(data, (2.0**-bits if bits is not None else step or 0.0) * VECTOR_STEP, name)
        elif bits is not None:
            out[name] = round_clipped(data, 2 ** (bits - 1) - 1, multiple)
        else:
            assert step is not None
            out[name] = round_step(data, step, multiple, name)
        done += data.size
    progress(total, total)
    return QuantizedModel(config, out)


def _finite(data: np.ndarray, name: str) -> np.ndarray:
    """float32, checked."""
    with np.errstate(over="ignore"):
        data = np.asarray(data, dtype=np.float32, order="C")
    if not np.isfinite(data).all():
        index = tuple(int(k) for k in np.argwhere(~np.isfinite(data))[0])
        raise InputError(f"{name}{list(index)} is {data[index]}", where=name, expected="finite float32 weights", hint="the checkpoint is damaged or its training diverged")
    if data.size and max(float(data.max()), -float(data.min())) > LARGEST_WEIGHT:
        raise InputError("a weight is beyond 1e30", where=name, expected="weights whose scale a bfloat16 number holds")
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
    return np.clip((exact + unit // 2) // unit * multiple, LOWEST, HIGHEST)


def scale_spacing(tensors: dict[str, np.ndarray]) -> int:
    """The spacing of row scales that suits a model's mean number of columns (one for all, so that they share a table)."""
    matrices = [data for data in tensors.values() if data.dtype.kind == "f" and data.ndim >= 2 and data.size]
    cols = sum(data.size for data in matrices) / max(1, sum(len(data) for data in matrices))
    return next(multiple for widest, multiple in SPACINGS if cols <= widest)


def round_step(data: np.ndarray, step: float, multiple: int, name: str = "") -> Coded:
    """Every row divided by ``step`` times its root mean square, and rounded."""
    rows, cols = matrix_shape(data.shape)
    matrix = data.reshape(rows, cols)
    rms = np.sqrt(np.mean(np.square(matrix, dtype=np.float64), axis=1))
    patterns = patterns_of(step * rms, multiple)
    largest = np.abs(matrix).max(axis=1) / bfloat16(patterns)
    if largest.max() > MAX_INTEGER:
        needed = float(largest.max())
        raise UsageError(f"step {step} needs integers up to {needed:,.0f}", where=name, expected=f"at most {MAX_INTEGER:,}", hint=f"try a step of {step * needed / MAX_INTEGER:.3g} or more")
    scaled = matrix / bfloat16(patterns)[:, None]
    integers = np.rint(scaled, out=scaled).astype(np.int8 if largest.max() < 127 else np.int16)
    return Coded(integers.reshape(data.shape), free_scales(integers, patterns))


def round_vector(data: np.ndarray, step: float, name: str = "") -> Coded | Raw:
    """A vector divided by ``step`` times its median magnitude and rounded; raw when that leaves 15 bits."""
    pattern = patterns_of(np.array([max(step, 2.0**-10) * float(np.median(np.abs(data)))]))
    scaled = data.astype(np.float64) / float(bfloat16(pattern)[0])
    if not np.abs(scaled).max() <= MAX_INTEGER:
        return raw_tensor(data, name)
    return Coded(np.rint(scaled).astype(np.int16), pattern.astype(np.uint16))


def round_clipped(data: np.ndarray, largest: int, multiple: int) -> Coded:
    """Integers in -Q .. Q (Q = ``largest``), and for every row the scale of smallest cubic error.

    .. math:: \\min_s \\sum_j |w_j - s\\,\\mathrm{clip}(\\mathrm{round}(w_j / s), -Q, Q)|^3

    Searched from the scale that clips nothing downwards, first in coarse trials, then among the neighbours of the best.
    """
    rows, cols = matrix_shape(data.shape)
    matrix = data.reshape(rows, cols)
    integers = np.empty((rows, cols), dtype=np.int8)
    patterns = np.empty(rows, dtype=np.int64)
    octave = 128 // multiple  # trials an octave has
    stride = max(1, round(COARSE * octave))
    block = max(1, CHUNK_ELEMENTS // cols)
    for at in range(0, rows, block):
        part = matrix[at : at + block]
        widest = patterns_of(np.abs(part).max(axis=1) / np.float32(largest), multiple) + multiple  # rounding down might clip
        best = np.full(len(part), np.inf)
        chosen = widest.copy()

        def search(trial: np.ndarray, part=part, best=best, chosen=chosen) -> None:
            trial = np.clip(trial, LOWEST, HIGHEST)
            error = _cubic_error(part, trial, largest)
            better = error < best
            best[better], chosen[better] = error[better], trial[better]

        for offset in range(0, round(DEEPEST * octave), stride):
            search(widest - multiple * offset)
        centre = chosen.copy()
        for offset in range(1, stride):
            search(centre - multiple * offset)
            search(centre + multiple * offset)
        patterns[at : at + block] = chosen
        integers[at : at + block] = _integers(part, chosen, largest)
    return Coded(integers.reshape(data.shape), free_scales(integers, patterns))


def free_scales(integers: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """The scale of a row of zeros is free: give it the commonest, which is the cheapest to code."""
    used = integers.any(axis=1)
    values, counts = np.unique(patterns[used], return_counts=True)
    return np.where(used, patterns, values[np.argmax(counts)] if len(values) else 0x3F80).astype(np.uint16)


def _integers(part: np.ndarray, patterns: np.ndarray, largest: int) -> np.ndarray:
    scaled = part / bfloat16(patterns)[:, None]
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -largest, largest, out=scaled)


def _cubic_error(part: np.ndarray, patterns: np.ndarray, largest: int) -> np.ndarray:
    """(rows,) float64."""
    scales = bfloat16(patterns)
    exact = part / scales[:, None]
    error = np.rint(exact)
    np.clip(error, -largest, largest, out=error)
    error -= exact  # in units of the scale: powers of very small or very large weights would leave float32
    np.abs(error, out=error)
    return np.einsum("ij,ij,ij->i", error, error, error) * scales.astype(np.float64) ** 3
