"""How fine each row and column of a matrix is rounded.

The damage of an error is ``1/2 sum_i g_i sum_j D_j r_ij^2`` (:mod:`scalebound.compress.gptq`). On a uniform grid with step s_ij and
entropy coding, r_ij is about uniform and costs ``g_i D_j s_ij^2 / 12``, while the bits fall by ``log2 s_ij``. The sum is least when every
weight costs the same:

.. math:: s_{ij} = \\frac{level}{\\sqrt{g_i D_j}}

This is reverse water-filling (Cover and Thomas, Elements of Information Theory, section 10.3.3) on the diagonal of the triangular factor:
a column whose weights are below its step becomes zeros and costs nothing. One number, ``level``, is left for all matrices of a model, so
the allocation of bits between matrices by Fisher information comes with it.
"""

from __future__ import annotations

import numpy as np

from scalebound.compress.model import bfloat16
from scalebound.compress.rounding import patterns_of

SPACING = 32  # of scale patterns: a quarter of an octave; what steps so lose is 0.1% of the damage
LARGEST = 1 << 10  # no column is rounded more finely than this many levels on each side
FLOOR = 1e-3  # of the mean row weight, added to each: rows the calibration did not touch are kept, coarsely


def water_filling(level: float, row_weights: np.ndarray, diagonal: np.ndarray, spacing: int = SPACING) -> tuple[np.ndarray, np.ndarray]:
    """bfloat16 patterns of the scales of rows and columns whose products are the steps above, in the order of the arguments.

    Parameters
    ----------
    level : > 0
    row_weights : (rows,) >= 0     g, Fisher information of the outputs
    diagonal : (cols,) > 0         D
    spacing                        of the patterns: coarser ones are shorter

    >>> rows, cols = water_filling(1.0, np.ones(2), np.array([1.0, 4.0]))
    >>> from scalebound.compress.model import bfloat16
    >>> (bfloat16(rows)[:, None] * bfloat16(cols)).tolist()
    [[1.0, 0.5], [1.0, 0.5]]
    """
    weights = np.asarray(row_weights, dtype=np.float64)
    weights = weights + FLOOR * (weights.mean() or 1.0)
    middle = np.exp(np.mean(np.log(weights)))  # rows' scales lie around 1, so that both tables of scales are short
    return patterns_of(np.sqrt(middle / weights), spacing), patterns_of(level / np.sqrt(middle * diagonal), spacing)


def no_finer(steps: tuple[np.ndarray, np.ndarray], weight: np.ndarray, spacing: int = SPACING) -> tuple[np.ndarray, np.ndarray]:
    """The same steps, coarser in columns that would need integers beyond 1,024.

    A few inputs of large models are thousands of times larger than the rest (at the first token of a text, above all), and the damage of
    second order then asks for steps that no loss calls for.

    >>> rows, cols = no_finer((np.array([0x3F80]), np.array([0x3000, 0x3F80])), np.array([[1.0, 1.0]]))
    >>> bfloat16(cols).tolist()
    [0.0009765625, 1.0]
    """
    row_patterns, col_patterns = steps
    size = np.abs(weight / bfloat16(row_patterns)[:, None]).max(axis=0)
    return row_patterns, np.maximum(col_patterns, patterns_of(size / LARGEST, spacing))


def relative_steps(level: float, weight: np.ndarray, spacing: int) -> tuple[np.ndarray, np.ndarray]:
    """One step for each row, ``level`` times its root mean square, as ``compress --step`` has it; columns all 1."""
    rms = np.sqrt(np.mean(np.square(weight, dtype=np.float64), axis=1))
    return patterns_of(level * rms, spacing), np.full(weight.shape[1], 0x3F80, dtype=np.int64)
