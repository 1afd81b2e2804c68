"""A holdout that can be asked many times: Thresholdout, with a guarantee counted from what its answers can say.

An analyst who tunes on a holdout overfits it. Here each question is first answered from the training set; only when training and holdout
disagree by more than a threshold is the holdout's (rounded) answer given, and such answers are a budget. What the analyst learns of the
holdout is then a short message, and the number of questions it can ever lead to is counted: all of them are close to the truth at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from scalebound.certify.evalues import log_sum_exp
from scalebound.core.errors import ClaimFails, InputError, UsageError

CLIP = 2.0  # noise is cut at this many of its scales, so that the stated error never depends on its luck


@dataclass(frozen=True)
class HoldoutRules:
    """Everything fixed before the first question.

    ``queries`` is the most questions that are answered and ``budget`` the most that are answered from the holdout; ``threshold`` and
    ``step`` (of the rounded answers) are in units of the statistic, which lies in [0, 1]; ``sigma`` scales the noise of Dwork et al. (0:
    none; the guarantee does not need it).
    """

    queries: int
    budget: int
    threshold: float = 0.05
    step: float = 0.01
    sigma: float = 0.0
    delta: float = 0.05

    def __post_init__(self) -> None:
        for name, ok, expected in (
            ("queries", self.queries >= 1, "at least 1"),
            ("budget", 1 <= self.budget <= self.queries, "between 1 and the number of queries"),
            ("threshold", 0 <= self.threshold < 1, "in [0, 1)"),
            ("step", 0 < self.step <= 0.5, "in (0, 1/2]"),
            ("sigma", 0 <= self.sigma < 1, "in [0, 1)"),
            ("delta", 0 < self.delta < 1, "inside (0, 1)"),
        ):
            if not ok:
                raise UsageError(f"{name} is {getattr(self, name)}", where=name, expected=expected)

    def log_questions(self) -> float:
        """Log of the number of questions that any transcript can lead to.

        Question t follows t - 1 answers, each "as in training" or one of ``1/step + 1`` numbers, the latter at most ``budget`` times.
        """
        symbols = math.log(round(1 / self.step) + 1)
        # sum over t < m of C(t, b) is C(m, b + 1)
        b = np.arange(min(self.budget, self.queries - 1) + 1, dtype=np.float64)
        log_ways = np.cumsum(np.log(self.queries - b) - np.log(b + 1))
        return log_sum_exp(log_ways + b * symbols)

    def sampling_error(self, items: int) -> float:
        """How far the holdout's mean of any such question is from the population's, with probability 1 - delta."""
        if items < 1:
            raise UsageError(f"{items} items", where="holdout", expected="at least one")
        return math.sqrt((math.log(2 / self.delta) + self.log_questions()) / (2 * items))

    def error(self, items: int) -> float:
        """How far any answer is from the population's mean, all answers at once, with probability 1 - delta."""
        from_training = self.threshold + (2 + 4) * CLIP * self.sigma
        from_holdout = self.step / 2 + CLIP * self.sigma
        return max(from_training, from_holdout) + self.sampling_error(items)


def affordable_budget(items: int, error: float, *, queries: int, threshold: float = 0.05, step: float = 0.01, sigma: float = 0.0, delta: float = 0.05) -> int | None:
    """The largest budget with which every one of ``queries`` answers is within ``error`` of the truth; None when none is.

    >>> affordable_budget(10_000, 0.15, queries=1000)
    20
    """
    low, high = 1, min(queries, 100_000)

    def fits(budget: int) -> bool:
        return HoldoutRules(queries, budget, threshold, step, sigma, delta).error(items) <= error

    if not fits(1):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


@dataclass(frozen=True)
class Answer:
    """``value`` is within ``error`` of the population's mean; ``source`` says which set it came from."""

    value: float
    source: Literal["training", "holdout"]
    error: float
    queries_left: int
    budget_left: int


@dataclass
class Thresholdout:
    """The mechanism of Dwork et al. 2015 on means of a statistic in [0, 1] over independent items.

    For all answers at once, with probability at least 1 - delta over the holdout, ``|answer - population mean| <= rules.error(items)``:

    .. math:: \\epsilon = \\sqrt{\\frac{\\log(2/\\delta) + \\log\\sum_{b\\le B}\\binom m{b+1} K^b}{2n}}, \\qquad K = 1/step + 1

    plus the threshold (or half a step) and the largest noise. The analyst may be adversarial and knows the training set; the items of the
    holdout are drawn independently, also of the training set. Tokens are not independent: never use tokens as items.

    Raises :class:`ClaimFails` when a question would exceed what the guarantee covers, :class:`InputError` for statistics outside [0, 1].

    Source: Dwork, Feldman, Hardt, Pitassi, Reingold and Roth 2015 (Science 349; arXiv 1411.2664, 1506.02629): the mechanism and the argument
    by description length; docs/mathematics.md section 16.

    >>> rules = HoldoutRules(queries=100, budget=5)
    >>> guard = Thresholdout(rules, items=10_000, rng=np.random.default_rng(0))
    >>> guard.ask(0.81, 0.80).source, guard.ask(0.95, 0.703).value
    ('training', 0.7)
    """

    rules: HoldoutRules
    items: int
    rng: np.random.Generator
    asked: int = 0
    spent: int = 0
    error: float = field(init=False)

    def __post_init__(self) -> None:
        self.error = self.rules.error(self.items)
        self._shift = self._noise(2)

    def _noise(self, scale: float) -> float:
        sigma = self.rules.sigma * scale
        return float(np.clip(self.rng.laplace(0, sigma), -CLIP * sigma, CLIP * sigma)) if sigma else 0.0

    def ask(self, training_mean: float, holdout_mean: float) -> Answer:
        """One question: the mean of its statistic over both sets; only the answer may reach the analyst."""
        for name, value in (("training", training_mean), ("holdout", holdout_mean)):
            if not 0 <= value <= 1:
                raise InputError(f"the {name} mean is {value}", where="holdout", expected="a statistic in [0, 1]")
        if self.asked >= self.rules.queries:
            raise ClaimFails(
                f"all {self.rules.queries:,} questions were asked", where="holdout", expected="a fresh holdout", hint="further answers would carry no guarantee"
            )
        if self.spent >= self.rules.budget:
            raise ClaimFails(
                f"the budget of {self.rules.budget} answers from the holdout is spent", where="holdout", expected="a fresh holdout", hint="further answers would carry no guarantee"
            )
        self.asked += 1
        if abs(holdout_mean - training_mean) > self.rules.threshold + self._shift + self._noise(4):
            self.spent += 1
            self._shift = self._noise(2)
            step = self.rules.step
            value = min(max(round(round((holdout_mean + self._noise(1)) / step) * step, 12), 0.0), 1.0)
            return Answer(value, "holdout", self.error, self.rules.queries - self.asked, self.rules.budget - self.spent)
        return Answer(training_mean, "training", self.error, self.rules.queries - self.asked, self.rules.budget - self.spent)
