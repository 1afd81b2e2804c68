"""A two-sided interval for a mean loss that holds at every length at once and asks nothing of how tokens depend on each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scalebound.certify.bound import check_confidence, log_weights, solve_product
from scalebound.certify.grid import peaked_grid
from scalebound.certify.logsums import LogSums
from scalebound.certify.parts import losses_of
from scalebound.certify.sampling import READ
from scalebound.certify.settings import STREAM_ALPHA
from scalebound.certify.smoothing import smooth_uniform, uniform_range
from scalebound.certify.units import unit_means
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats

OWN_WEIGHT = 0.9  # of the entropy centre, where there is one; the rest is on zero


@dataclass(frozen=True)
class Interval:
    """``[low, high]`` holds the mean conditional loss with probability ``level``; ``mean`` is the observed one, ``mean_smoothed`` that of
    the smoothed prediction.

    ``unit`` and ``target`` say in words what the numbers are about.
    """

    mean: float
    mean_smoothed: float
    low: float
    high: float
    level: float
    n: int
    unit: str
    target: str
    alpha: float


def interval(
    stats: Stats,
    *,
    level: float = 0.95,
    alpha: float = STREAM_ALPHA,
    vocab_size: int = 0,
    maximum: float | None = None,
    sigma: float | None = None,
    horizon: int | None = None,
    units: np.ndarray | None = None,
) -> Interval:
    """Interval for the mean conditional loss ``(1/n) sum_k E[X_k | F_{k-1}]`` of the evaluated tokens.

    Each end is a product bound at code length 0 and half of ``1 - level``. The lower end is for the raw loss; the upper for the loss after
    mixing in a share ``alpha`` of uniform, since a raw loss has no upper limit. An overconfident model loses less when smoothed: the lower
    end is therefore the lower of the bounds for the raw and for the smoothed loss. Valid at every n at once, so at any stopping time;
    which tokens are evaluated must not depend on their losses.

    Parameters
    ----------
    stats : losses in stream order; with an ``entropy`` array, 0.9 of the weight lies on the entropy as centre, which shortens the interval
    level : in (0, 1)          confidence of the two-sided interval
    alpha : in (0, 1)          fixed in advance; not used with ``maximum``
    vocab_size                 V, when the file does not know it
    maximum : nats             for losses that cannot exceed it by construction (0-1 losses: 1): no smoothing, both ends are for the loss
                               itself
    sigma : nats, or None      standard deviation named in advance; a right one brings the width at n = horizon within a few percent of the
                               best there is
    horizon : tokens           n at which the interval should be shortest, named in advance; default: the window's length
    units : (units + 1,)       positions where documents or items start, and one past the last: each unit counts once, with the mean of its
                               tokens' losses (:mod:`~scalebound.certify.units`); ``sigma`` and ``horizon`` are then about units

    Returns
    -------
    Interval

    Raises
    ------
    UsageError                 level, alpha, sigma, horizon or maximum out of range; vocabulary unknown
    InputError                 NaN, negative losses, a loss above ``maximum``, another vocabulary

    Source: docs/mathematics.md sections 3 and 10; the form of the martingale is that of betting confidence sequences (Waudby-Smith and
    Ramdas, arXiv 2010.09686) with a bet that does not depend on the token.

    >>> from scalebound.core.stats import StatsInfo
    >>> losses = np.random.default_rng(0).gamma(2.0, 1.0, 10_000).astype(np.float32)
    >>> found = interval(Stats(StatsInfo(kind="bare", tokens=10_000, window=(0, 10_000), vocab_size=256), {"nll": losses}), sigma=1.4)
    >>> found.low < 2.0 < found.high, round(found.high - found.low, 2)
    (True, 0.08)
    """
    if not 0 < level < 1:
        raise UsageError(f"level is {level}", where="level", expected="inside (0, 1)")
    vocab = stats.info.vocab_size or vocab_size
    if stats.info.vocab_size and vocab_size and stats.info.vocab_size != vocab_size:
        raise InputError(
            f"was measured with a vocabulary of {stats.info.vocab_size:,}", where=stats.path, expected=f"{vocab_size:,} as stated"
        )
    if maximum is not None and not 0 < maximum < math.inf:
        raise UsageError(f"maximum is {maximum}", where="maximum", expected="a positive number of nats")
    if maximum is None and vocab < 2:
        raise UsageError(
            "the vocabulary size is not known",
            where="--vocab-size",
            expected="at least 2",
            hint="add --vocab-size V, or --maximum B for losses that cannot exceed B",
        )
    if not len(stats):
        raise InputError("holds no token", where=stats.path)
    stats.check_values()
    own = "entropy" in stats and maximum is None
    top = uniform_range(vocab, alpha) if maximum is None else maximum
    floor = math.log(vocab) if maximum is None else maximum
    half = (1 - level) / 2
    count = len(stats) if units is None else len(units) - 1
    whole = stats.info.window[1] - stats.info.window[0] if units is None else count
    n0 = whole if horizon is None else horizon
    own = own and units is None  # what a document's mean is expected to be before it is read, nobody stored
    shares = np.array([OWN_WEIGHT, 1 - OWN_WEIGHT]) if own else np.ones(1)
    sides, weights = [], []
    for range_ in (top, floor, floor):
        grid, w = peaked_grid(range_=range_, sigma=sigma, horizon=n0, delta=half)
        sides.append(LogSums(grid, [range_] * len(shares)))
        weights.append(log_weights(shares[:, None] * w, len(shares), len(grid)))
    upper, lower, lower_smooth = sides
    for start, stop in stats.chunks(READ) if units is None else [(int(units[0]), int(units[-1]))]:
        raw = losses_of(stats, "nll", start, stop)
        entropy = np.minimum(stats.read("entropy", start, stop), math.log(vocab), dtype=np.float64) if own else None
        smooth = raw if maximum is not None else smooth_uniform(raw, vocab, alpha)
        if units is not None:
            inside = np.asarray(units[:-1]) - start
            raw, smooth = unit_means(raw, inside), unit_means(smooth, inside)
        upper.add(smooth, [0.0] if entropy is None else [(1 - alpha) * entropy + alpha * math.log(vocab), 0.0])
        # losses in [0, maximum] are mirrored, so that the lower end is as sharp at the maximum as the upper end is at 0
        below: list[np.ndarray | float] = [0.0 if maximum is None else -maximum] if entropy is None else [-entropy, 0.0]
        lower.add(-raw, below)
        if maximum is None:
            lower_smooth.add(-smooth, below)
    budget = check_confidence(half, 0)
    high, low = solve_product(upper, weights[0], budget).value, -solve_product(lower, weights[1], budget).value
    if maximum is None:
        low = min(low, -solve_product(lower_smooth, weights[2], budget).value)
    which = (
        "both ends for the loss itself"
        if maximum is not None
        else f"lower end for the raw loss, upper end for the prediction mixed with {alpha:.4g} of uniform"
    )
    about = f"mean conditional loss, each token in its own context, of the {len(stats):,} evaluated tokens of this stream"
    if units is not None:
        about = f"mean over {count:,} units of the mean loss of a unit given the earlier ones; the population's when units were drawn independently"
    return Interval(
        mean=-lower.mean_x,
        mean_smoothed=upper.mean_x,
        low=max(low, 0.0),
        high=high,
        level=level,
        n=count,
        unit="nats/token" if maximum is None else "loss/item",
        target=f"{about}; {which}",
        alpha=0.0 if maximum is not None else alpha,
    )
