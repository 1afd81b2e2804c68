"""Which weights become zero, in one shot; zeros are integers like others, and the entropy coder makes them cheap.

Four rules. Three, each for a given share of every matrix (maps that read one tensor count as one). ``magnitude``: the smallest of the matrix. ``wanda``: in every row those with the
smallest ``|w_ij| sqrt(H_jj)``, their size times that of the input they meet (Sun et al., arXiv 2306.11695). ``sparsegpt``: chosen block by
block while errors are passed on, those with the smallest ``r_ij^2 D_j`` (Frantar and Alistarh, arXiv 2301.00774), inside
:func:`scalebound.compress.gptq.gptq`. ``kept``: those that are zero already, of a model that was pruned while it was trained
(:mod:`scalebound.train.sparsity`). Whatever the rule, the weights that stay are rounded by that function, so they make up for those that went.

Rounding with a price (:mod:`scalebound.compress.gptq`) makes zeros as well, where a bit saves more than it harms; measured at equal bytes that
is better than any of the three (benchmarks/LOG.md), which are for programs that compute with sparse matrices. Zeros made by training do pay
below 3 bits (docs/gallery/compression.md).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from scalebound.core.errors import UsageError

Pruning = Literal["magnitude", "wanda", "sparsegpt", "kept"]


def keep_largest(weight: np.ndarray, sparsity: float) -> np.ndarray:
    """True for all but the ``sparsity`` share of a matrix that is smallest; of equal ones the first go. (rows, cols) bool

    >>> keep_largest(np.array([[1.0, -4.0], [0.5, 3.0]]), 0.5).tolist()
    [[False, True], [False, True]]
    """
    _check(sparsity)
    keep = np.ones(weight.size, dtype=bool)
    keep[np.argsort(np.abs(weight), axis=None, kind="stable")[: int(sparsity * weight.size)]] = False
    return keep.reshape(weight.shape)


def keep_wanda(weight: np.ndarray, moments: np.ndarray, sparsity: float) -> np.ndarray:
    """True for all but the ``sparsity`` share of each row whose products with the inputs' sizes are smallest. (rows, cols) bool

    ``moments`` (cols,): mean squares of the inputs.

    >>> keep_wanda(np.array([[1.0, -4.0]]), np.array([100.0, 1.0]), 0.5).tolist()
    [[True, False]]
    """
    _check(sparsity)
    order = np.argsort(np.abs(weight) * np.sqrt(moments), axis=1, kind="stable")
    keep = np.ones(weight.shape, dtype=bool)
    np.put_along_axis(keep, order[:, : int(sparsity * weight.shape[1])], False, axis=1)
    return keep


def _check(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise UsageError(f"sparsity is {sparsity}", expected="a share from 0 up to, not including, 1")
