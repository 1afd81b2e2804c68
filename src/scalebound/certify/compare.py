"""Which of two models predicts a stream better: an e-process on the difference of their losses, with an interval for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalebound.certify.bound import check_confidence, log_weights, solve_product
from scalebound.certify.evalues import e_value, log_sum_exp, p_value
from scalebound.certify.grid import peaked_grid
from scalebound.certify.logsums import LogSums
from scalebound.certify.parts import losses_of
from scalebound.certify.sampling import READ
from scalebound.certify.units import unit_means
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats

MIXED = 0.01
Verdict = Literal["better_a", "better_b", "equal", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """``difference`` is the observed mean loss of A minus that of B, both mixed; ``[low, high]`` holds its conditional mean with
    probability ``level``.

    ``e_value`` is evidence against equal conditional means, valid at every length; ``p_value = min(1, 1/e_value)``. Both stop at
    ``exp(700)``; ``log_e_value`` does not. ``more``: when undecided, about how many more tokens like these would decide (no guarantee).
    """

    difference: float
    low: float
    high: float
    level: float
    e_value: float
    log_e_value: float
    p_value: float
    verdict: Verdict
    n: int
    alpha: float
    more: int | None = None


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
    units: np.ndarray | None = None,
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
    sigma, horizon, units      as in :func:`~scalebound.certify.interval.interval`, for the difference

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
    if not 0 <= epsilon < math.inf:
        raise UsageError(f"epsilon is {epsilon}", where="epsilon", expected="0 or more nats")
    _check_pair(a, b)
    paired = Paired.of(a, b, level=level, alpha=alpha, sigma=sigma, horizon=horizon, units=units)
    low, high = paired.ends((1 - level) / 2)
    log_e = float(np.logaddexp(paired.log_e_a, paired.log_e_b)) - math.log(2)
    verdict = verdict_of(low, high, epsilon)
    return Comparison(
        difference=paired.difference,
        low=low,
        high=high,
        level=level,
        e_value=e_value(log_e),
        log_e_value=log_e,
        p_value=p_value(log_e),
        verdict=verdict,
        n=paired.n,
        alpha=alpha,
        more=paired.more((1 - level) / 2, epsilon) if verdict == "undecided" else None,
    )


def verdict_of(low: float, high: float, epsilon: float) -> Verdict:
    """What an interval for A minus B says; within epsilon of 0 comes first.

    >>> verdict_of(-0.2, -0.1, 0.0), verdict_of(-0.2, -0.1, 0.5), verdict_of(-0.1, 0.1, 0.0)
    ('better_a', 'equal', 'undecided')
    """
    if epsilon > 0 and -epsilon <= low and high <= epsilon:
        return "equal"
    return "better_a" if high < 0 else "better_b" if low > 0 else "undecided"


@dataclass(frozen=True)
class Paired:
    """The sums over a pair of models from which e-values and intervals at any level follow; the bets s are fixed when it is made."""

    upper: LogSums  # of the difference A - B: large when A loses less
    lower: LogSums  # of B - A
    log_w: np.ndarray

    @classmethod
    def of(
        cls,
        a: Stats,
        b: Stats,
        *,
        level: float,
        alpha: float = MIXED,
        sigma: float | None = None,
        horizon: int | None = None,
        units: np.ndarray | None = None,
    ) -> Paired:
        """Read both files once. Arguments and errors as in :func:`compare`."""
        if not 0 < level < 1:
            raise UsageError(f"level is {level}", where="level", expected="inside (0, 1)")
        if not 0 < alpha < 0.5:
            raise UsageError(f"alpha is {alpha}", where="alpha", expected="inside (0, 1/2)")
        _check_pair(a, b)
        range_ = math.log((1 - alpha) / alpha)
        whole = a.info.window[1] - a.info.window[0] if units is None else len(units) - 1
        n0 = whole if horizon is None else horizon
        grid, weights = peaked_grid(range_=range_, sigma=sigma, horizon=n0, delta=(1 - level) / 2)
        upper, lower = LogSums(grid, [range_]), LogSums(grid, [range_])
        for start, stop in a.chunks(READ) if units is None else [(int(units[0]), int(units[-1]))]:
            difference = mixed_difference(losses_of(a, "nll", start, stop), losses_of(b, "nll", start, stop), alpha)
            if units is not None:
                difference = unit_means(difference, np.asarray(units[:-1]) - start)
            upper.add(difference, [0.0])
            lower.add(-difference, [0.0])
        return cls(upper, lower, log_weights(weights, 1, len(grid)))

    @property
    def n(self) -> int:
        return self.upper.n

    @property
    def difference(self) -> float:
        return self.upper.mean_x

    @property
    def log_e_a(self) -> float:
        """Log e-value against "A is not better" (the average conditional difference is 0 or more)."""
        return log_sum_exp(self.log_w + self.upper.safe_log_sums())

    @property
    def log_e_b(self) -> float:
        """Log e-value against "B is not better"."""
        return log_sum_exp(self.log_w + self.lower.safe_log_sums())

    def ends(self, half: float) -> tuple[float, float]:
        """Lower and upper end for the mean conditional difference, each failing with probability at most ``half``."""
        budget = check_confidence(half, 0)
        return -solve_product(self.lower, self.log_w, budget).value, solve_product(self.upper, self.log_w, budget).value

    def more(self, half: float, epsilon: float) -> int | None:
        """About how many more tokens (units) like these would decide; None when 10,000 times as many would not. A forecast, no guarantee."""

        def decided(factor: float) -> bool:
            n = round(self.n * factor)
            scaled = Paired(self.upper.scaled(n), self.lower.scaled(n), self.log_w)
            if max(scaled.log_e_a, scaled.log_e_b) >= math.log(1 / half):  # an end has left 0: no equation to solve
                return True
            if epsilon == 0:
                return False
            return verdict_of(*scaled.ends(half), epsilon) != "undecided"

        factor = 1.0
        while not decided(factor):
            if factor > 1e4:
                return None
            factor *= 2
        low, high = factor / 2, factor
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (low, middle) if decided(middle) else (middle, high)
        return max(1, math.ceil((high - 1) * self.n))


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
