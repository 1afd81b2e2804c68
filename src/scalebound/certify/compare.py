"""Which of two models predicts a stream better: an e-process on the difference of their losses, with an interval for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalebound.certify.bound import check_confidence, log_weights, solve_product
from scalebound.certify.grid import peaked_grid
from scalebound.certify.logsums import LogSums
from scalebound.certify.parts import losses_of
from scalebound.certify.sampling import READ
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats

MIXED = 0.01


@dataclass(frozen=True)
class Comparison:
    """``difference`` is the observed mean loss of A minus that of B, both mixed; ``[low, high]`` holds its conditional mean with
    probability ``level``.

    ``e_value`` is evidence against equal conditional means, valid at every length; ``p_value = min(1, 1/e_value)``. Both stop at
    ``exp(700)``; ``log_e_value`` does not.
    """

    difference: float
    low: float
    high: float
    level: float
    e_value: float
    log_e_value: float
    p_value: float
    verdict: Literal["better_a", "better_b", "equal", "undecided"]
    n: int
    alpha: float


def mixed_difference(nll_a: np.ndarray, nll_b: np.ndarray, alpha: float) -> np.ndarray:
    """Loss of ``(1-alpha) A + alpha B`` minus loss of ``(1-alpha) B + alpha A``, token by token; at most ``log((1-alpha)/alpha)`` in size.

    >>> abs(float(mixed_difference(np.array([0.0]), np.array([900.0]), 0.1)[0]) + math.log(9)) < 1e-14
    True
    """
    gain = np.asarray(nll_b, dtype=np.float64) - np.asarray(nll_a, dtype=np.float64)
    ratio = np.exp(-np.abs(gain))
    return np.sign(gain) * np.log(((1 - alpha) * ratio + alpha) / ((1 - alpha) + alpha * ratio))


def compare(
    a: Stats,
    b: Stats,
    *,
    level: float = 0.95,
    alpha: float = MIXED,
    epsilon: float = 0.0,
    sigma: float | None = None,
    horizon: int | None = None,
) -> Comparison:
    """Compare two models on the same tokens.

    Each model is first mixed with a share ``alpha`` of the other, which bounds the difference of losses by ``log((1-alpha)/alpha)``; the
    claim is about the mixed pair.
    The null is that the *average* conditional difference is 0 (for "A is better": at least 0), so the bet s is the same at every token:

    .. math:: e_A = \\sum_s w_s \\prod_k (1 - s D_k/\\Delta), \\qquad e = (e_A + e_B)/2

    Parameters
    ----------
    a, b : losses of the two models on the same tokens of the same stream, in the same order
    level : in (0, 1)
    alpha : in (0, 1/2)        fixed in advance
    epsilon : nats, >= 0       when the interval lies within [-epsilon, epsilon] the verdict is "equal" (decided first); 0 never says so
    sigma, horizon             as in :func:`~scalebound.certify.interval.interval`, for the difference

    Returns
    -------
    Comparison                 verdict "better_a" when the whole interval is below 0 (A loses less), "better_b" above, "equal", else
                               "undecided"

    Raises
    ------
    UsageError                 level, alpha, epsilon, sigma or horizon out of range
    InputError                 different streams, windows, blocks or lengths; NaN or negative losses

    Source: docs/mathematics.md section 10; e-processes as in Ramdas, Grunwald, Vovk and Shafer 2023 (arXiv 2210.01948).

    >>> from scalebound.core.stats import StatsInfo
    >>> rng = np.random.default_rng(0)
    >>> losses = rng.gamma(2.0, 1.0, 20_000).astype(np.float32)
    >>> info = StatsInfo(kind="bare", tokens=20_000, window=(0, 20_000))
    >>> compare(Stats(info, {"nll": losses}), Stats(info, {"nll": losses + rng.gamma(1, 0.1, 20_000).astype(np.float32)})).verdict
    'better_a'
    """
    if not 0 < level < 1:
        raise UsageError(f"level is {level}", where="level", expected="inside (0, 1)")
    if not 0 < alpha < 0.5:
        raise UsageError(f"alpha is {alpha}", where="alpha", expected="inside (0, 1/2)")
    if not 0 <= epsilon < math.inf:
        raise UsageError(f"epsilon is {epsilon}", where="epsilon", expected="0 or more nats")
    _check_pair(a, b)
    half, range_ = (1 - level) / 2, math.log((1 - alpha) / alpha)
    n0 = a.info.window[1] - a.info.window[0] if horizon is None else horizon
    grid, weights = peaked_grid(range_=range_, sigma=sigma, horizon=n0, delta=half)
    upper, lower = LogSums(grid, [range_]), LogSums(grid, [range_])
    for start, stop in a.chunks(READ):
        difference = mixed_difference(losses_of(a, "nll", start, stop), losses_of(b, "nll", start, stop), alpha)
        upper.add(difference, [0.0])
        lower.add(-difference, [0.0])
    log_w, budget = log_weights(weights, 1, len(grid)), check_confidence(half, 0)
    high, low = solve_product(upper, log_w, budget).value, -solve_product(lower, log_w, budget).value
    evidence = np.concatenate([log_w + upper.safe_log_sums(), log_w + lower.safe_log_sums()])
    top = float(evidence.max())
    log_e = top + math.log(float(np.exp(evidence - top).sum())) - math.log(2)
    verdict: Literal["better_a", "better_b", "equal", "undecided"] = "undecided"
    if epsilon > 0 and -epsilon <= low and high <= epsilon:
        verdict = "equal"
    elif high < 0:
        verdict = "better_a"
    elif low > 0:
        verdict = "better_b"
    return Comparison(
        difference=upper.mean_x,
        low=low,
        high=high,
        level=level,
        e_value=math.exp(min(log_e, 700.0)),
        log_e_value=log_e,
        p_value=min(1.0, math.exp(-max(min(log_e, 700.0), 0.0))),
        verdict=verdict,
        n=len(a),
        alpha=alpha,
    )


def _check_pair(a: Stats, b: Stats) -> None:
    if not len(a):
        raise InputError("holds no token", where=a.path)
    if len(a) != len(b):
        raise InputError(
            f"holds {len(b):,} tokens", where=b.path, expected=f"{len(a):,} as {a.path or 'the other'}: the same tokens in the same order"
        )
    if a.info.stream.sha256 and b.info.stream.sha256 and a.info.stream.sha256 != b.info.stream.sha256:
        raise InputError("was measured on another stream", where=b.path, expected=f"stream {a.info.stream.sha256[:12]}.. of {a.path}")
    both = "bare" not in (a.info.kind, b.info.kind)
    if both and (
        a.info.window != b.info.window or (a.complete != b.complete) or (not a.complete and not np.array_equal(a.blocks, b.blocks))
    ):
        raise InputError("holds other tokens of the stream", where=b.path, expected=f"the same window and blocks as {a.path}")
    a.check_values()
    b.check_values()
