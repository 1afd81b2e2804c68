"""Calibrated prediction sets: how many misses a calibration set may show, and the threshold that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import InputError, UsageError


def allowed_misses(items: int, epsilon: float, delta: float) -> int | None:
    """``k* = max{k: BinCDF(k; n, epsilon) <= delta}``; None when not even 0 misses among n prove anything.

    Items are independent. If each item's set missed with probability above epsilon, k* or fewer misses among n would have probability at
    most delta.

    Raises :class:`UsageError` when a number is out of range. Source: Park et al. 2020 (arXiv 2001.00106); docs/mathematics.md section 17.

    >>> allowed_misses(100, 0.1, 0.05), allowed_misses(20, 0.1, 0.05)
    (4, None)
    """
    if items < 1 or not 0 < epsilon < 1 or not 0 < delta < 1:
        raise UsageError(f"{items} items, epsilon {epsilon}, delta {delta}", where="allowed_misses", expected="at least one item, the others inside (0, 1)")
    # log terms of the binomial, summed upwards: exact enough far into the tail
    k = np.arange(items + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log(items - k[:-1]) - np.log(k[:-1] + 1))])
    cdf = np.cumsum(np.exp(log_choose + k * np.log(epsilon) + (items - k) * np.log1p(-epsilon)))
    allowed = np.flatnonzero(cdf <= delta)
    return int(allowed[-1]) if len(allowed) else None


@dataclass(frozen=True)
class Calibration:
    """Sets ``{y : score(y) >= threshold}`` miss with probability at most ``epsilon``, with confidence ``1 - delta`` over the calibration items.

    ``misses`` of the ``items`` calibration items lie outside, at most ``allowed`` (None: nothing can be promised but the full set, and
    ``threshold`` is minus infinity).
    """

    threshold: float
    allowed: int | None
    misses: int
    items: int
    epsilon: float
    delta: float


def calibrate(scores: Sequence[float] | np.ndarray, *, epsilon: float, delta: float) -> Calibration:
    """The largest threshold, so the smallest sets, that the calibration items allow.

    Parameters
    ----------
    scores : (items,)         for each item the largest threshold whose set still holds the truth; plus infinity when every set does
    epsilon, delta            the promise: coverage at least 1 - epsilon, with confidence 1 - delta

    Raises :class:`InputError` for NaN, :class:`UsageError` for numbers out of range.

    >>> calibrate(np.arange(100.0), epsilon=0.1, delta=0.05).threshold
    4.0
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise InputError(f"scores of shape {values.shape}", where="calibrate", expected="one number for each item, none NaN")
    allowed = allowed_misses(len(values), epsilon, delta)
    threshold = -np.inf if allowed is None else float(np.sort(values)[allowed]) if allowed < len(values) else np.inf
    return Calibration(threshold, allowed, int((values < threshold).sum()), len(values), epsilon, delta)
