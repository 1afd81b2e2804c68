"""Intrinsic dimension: how many numbers of a random subspace a task needs to gain what training all weights gains.

A model ``theta_0`` is trained on a task within ``theta = theta_0 + P w``, P a random sparse projection of d numbers (:mod:`scalebound.models.partial`),
for growing d, and once with all of its weights. With L the loss on held-out items,

.. math:: r(d) = \\frac{L(\\theta_0) - L(\\theta_0 + P w_d)}{L(\\theta_0) - L(\\theta_\\text{all})}, \\qquad d_{90} = \\min\\{d\\text{ tried} : r(d) \\ge 0.9\\}.

The papers take the share of the accuracy that training everything reaches instead of the share of the gain in loss; that number stands beside
(``by_accuracy``). Every run has the same steps and batches; d is an upper estimate of what a better optimizer in the subspace would need.

Source: Li et al. 2018, arXiv 1804.08838; Aghajanyan et al. 2020, arXiv 2012.13255.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from scalebound.core.errors import UsageError
from scalebound.core.progress import Progress, silent
from scalebound.models.partial import Partial
from scalebound.models.trainable import Trainable
from scalebound.probe.choosing import Question, learn, scored
from scalebound.probe.dimension_bounds import DimensionBound, bound_of
from scalebound.probe.exact import check_level

DIMENSIONS = (64, 512, 4096, 32768)
CLOSE = 3.0  # the last dimension below and the first above end at most this factor apart
RATE = 0.03  # of subspace coordinates, whatever the width: their scale is in their definition
FULL_RATE = 0.1  # of all weights, over the width

T = TypeVar("T")


@dataclass(frozen=True)
class DimensionRow:
    """One dimension. ``loss`` (nats an item) and ``accuracy`` on held-out items; ``gain`` is r(d) with its interval; ``bound`` what the rounded vector proves."""

    dimension: int
    loss: float
    accuracy: float
    gain: float
    low: float
    high: float
    bound: DimensionBound


@dataclass(frozen=True)
class Dimension:
    """What was found. ``before`` and ``full`` are (loss, accuracy) on held-out items of the base and of the model with all weights trained.

    ``value`` is the smallest dimension tried with ``gain >= share``, None when none has it; ``above`` the largest tried whose interval lies
    below the share. ``learned``: training everything gained more than its interval leaves open; without that, gains are no shares of anything.
    """

    rows: tuple[DimensionRow, ...]
    before: tuple[float, float]
    full: tuple[float, float]
    learned: bool
    share: float
    params: int
    items: tuple[int, int]  # trained on, held out

    @property
    def value(self) -> int | None:
        return next((row.dimension for row in self.rows if row.gain >= self.share), None) if self.learned else None

    @property
    def above(self) -> int | None:
        return max((row.dimension for row in self.rows if row.high < self.share), default=None) if self.learned else None

    @property
    def by_accuracy(self) -> int | None:
        """The papers' own: the smallest dimension tried whose accuracy is ``share`` times that of training everything."""
        return next((row.dimension for row in self.rows if row.accuracy >= self.share * self.full[1]), None) if self.learned else None


def relative_gain(before: np.ndarray, losses: np.ndarray, full: np.ndarray, level: float) -> tuple[float, float, float]:
    """Share of the gain and its normal interval by the delta method, paired by item: of ``mean(before - losses) / mean(before - full)``.

    It holds the training, its data and the subspace fixed: what is uncertain is which items were held out.

    >>> before, full = np.array([2.0, 1.0, 2.0, 1.0]), np.array([1.0, 0.5, 1.0, 0.5])
    >>> relative_gain(before, (before + full) / 2, full, 0.95)
    (0.5, 0.5, 0.5)
    """
    from scipy.special import ndtri

    whole = float((before - full).mean())
    share = float((before - losses).mean()) / whole
    radius = float(ndtri((1 + level) / 2)) * float(((before - losses) - share * (before - full)).std(ddof=1)) / math.sqrt(len(before)) / abs(whole)
    return share, share - radius, share + radius


def search(measure: Callable[[int], T], reached: Callable[[T], bool], dimensions: Sequence[int], *, close: float = CLOSE) -> list[T]:
    """Try dimensions upwards until one is enough, then geometric means between it and the last that was not, down to a factor ``close``; in order of dimension.

    >>> search(lambda d: d, lambda d: d >= 100, [16, 128, 1024], close=2.0)
    [16, 45, 76, 128]
    """
    found: dict[int, T] = {}
    low = 0
    for dimension in sorted(set(dimensions)):
        found[dimension] = measure(dimension)
        if reached(found[dimension]):
            high = dimension
            while low and high / low > close:
                middle = round(math.sqrt(low * high))
                found[middle] = measure(middle)
                low, high = (low, middle) if reached(found[middle]) else (middle, high)
            break
        low = dimension
    return [found[dimension] for dimension in sorted(found)]


def candidates(dimensions: Sequence[int], *, close: float = CLOSE) -> set[int]:
    """Every dimension that :func:`search` may try, whatever it finds: what a bound for the one it ends at has to pay for.

    >>> sorted(candidates([16, 128], close=2.0))
    [16, 27, 45, 76, 128]
    """

    def between(low: int, high: int) -> set[int]:
        middle = round(math.sqrt(low * high))
        return {middle} | between(low, middle) | between(middle, high) if high / low > close else set()

    ordered = sorted(set(dimensions))
    return set(ordered).union(*(between(low, high) for low, high in zip(ordered, ordered[1:], strict=False)))


def probe_dimension(base: Trainable, train: Sequence[Question], held: Sequence[Question], *, params: int, width: int, dimensions: Sequence[int] = DIMENSIONS, share: float = 0.9, steps: int = 200,
                    batch: int = 16, lr: float | None = None, full_lr: float | None = None, level: float = 0.95, seed: int = 0, progress: Progress = silent) -> Dimension:  # fmt: skip
    """Sweep the dimension of the subspace a model is trained in, and bound the error of what each dimension gave.

    Parameters
    ----------
    base, params, width : of :func:`~scalebound.models.open_trainable`; the model is left as it was
    train, held : items to learn and to read the result on; at least 20 each
    dimensions : below params; tried upwards until one is enough
    share : in (0, 1)             of the gain of training everything
    steps, batch : of every run
    lr, full_lr : > 0             in the subspace (default 0.03) and of all weights (default 0.1 / width)
    level : in (0, 1)             of the gains' intervals together, of the bounds from files together, and of the held-out bounds together

    Returns
    -------
    Dimension

    Raises
    ------
    UsageError                    too few items, numbers out of range, a dimension not below the parameters
    MachineError                  training diverged

    Cost: a training of all weights, and one per dimension tried, each with the held-out items read twice and the others once. Memory: six copies of the weights beside the base.
    """
    check_level(level)
    rates = (RATE if lr is None else lr, FULL_RATE / width if full_lr is None else full_lr)
    if len(train) < 20 or len(held) < 20:
        raise UsageError(f"{len(train)} items to train on and {len(held)} held out", where="probe dimension", expected="at least 20 of each")
    if not 0 < share < 1 or steps < 1 or batch < 1 or not all(0 < rate < math.inf for rate in rates):
        raise UsageError("share, steps, batch or learning rate out of range", where="probe dimension", expected="a share inside (0, 1), the others positive")
    if not dimensions or not all(1 <= dimension < params for dimension in dimensions):
        raise UsageError(f"dimensions {', '.join(map(str, dimensions)) or 'none'}", where="--dims", expected=f"from 1 to below the {params:,} parameters")
    base = copy.deepcopy(base).requires_grad_(False)
    possible = len(candidates(dimensions))
    total, done = 2 + len(dimensions), 0

    def step_on() -> None:
        nonlocal done
        done += 1
        progress(min(done, total), total)

    before, right_before = scored(base, held)
    model = copy.deepcopy(base).requires_grad_(True)
    learn(model, train, params=params, steps=steps, batch=batch, lr=rates[1], seed=seed)
    full, right_full = scored(model, held)
    del model
    step_on()
    gained = before - full
    learned = bool(gained.mean() > 4 * gained.std(ddof=1) / math.sqrt(len(gained)))

    def measure(dimension: int) -> DimensionRow:
        part = Partial(base, f"subspace:{dimension}", seed)
        learn(part, train, params=params, steps=steps, batch=batch, lr=rates[0], seed=seed)
        losses, right = scored(part, held)
        gains = relative_gain(before, losses, full, 1 - (1 - level) / possible) if learned else (math.nan, math.nan, math.nan)
        vector = part.beside()["w"].numpy()
        del part
        step_on()
        return DimensionRow(dimension, float(losses.mean()), float(right.mean()), *gains, bound_of(base, vector, train, held, seed=seed, delta=1 - level, candidates=possible))

    rows = search(measure, lambda row: row.gain >= share, dimensions) if learned else []
    progress(total, total)
    return Dimension(tuple(rows), (float(before.mean()), float(right_before.mean())), (float(full.mean()), float(right_full.mean())), learned, share, params, (len(train), len(held)))
