"""When a run has diverged, and the place it goes back to when told to.

**The rule.** Let s be the losses of the batches smoothed over about ten (``s <- 0.9 s + 0.1 loss``), m the lowest s so far and log V the loss of a uniform
guess. A run has diverged when, after warmup, for 20 steps on end

.. math:: s > m + \\max\\Big(\\tfrac12(\\log V - m),\\ \\tfrac1{10}\\log V\\Big),

that is, when it has given back half of what it had gained over guessing (a run that had gained little: when it has lost a tenth of log V); or at once when a
loss is not a number. A spike that is over within 20 steps is none, nor is a run that learns slowly or stands still.

**Going back.** With ``on_divergence = "backoff"`` a checkpoint is kept at every 20th of the run; the last one from no later than the step of m is
taken, weights and optimizer state, and training goes on from it *where the stream stands*, at half the rate. The batches between are not read again
(as Chowdhery et al., arXiv 2204.02311, section 5.1, skipped those around a spike): every token keeps the one loss it was given before it was
learned, by weights that are a function of the tokens before it, and so is the decision to go back. That is what trajectory certificates need; a second pass over the same
tokens would have been chosen with knowledge of them. At most :data:`MOST` times; then the run stops.

Everything here follows from the losses in the log alone, so a resumed run, or one with more processes, decides the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from scalebound.core.errors import MachineError

SMOOTHING = 0.9
PATIENCE = 20  # steps on end
GIVEN_BACK = 0.5  # of the gain over guessing
LEAST = 0.1  # of log V
PLACES = 20  # to go back to, evenly over the run
CUT = 0.5  # of the rate
MOST = 5  # times


class Diverged(MachineError):
    """The loss left what had been reached, or is no longer a number."""


class Divergence:
    """The rule along one run.

    Parameters
    ----------
    guess : nats            log V, the loss of a uniform guess
    steps, rising           of the run, and of its warmup
    places                  more steps to go back to, beside those at every 20th

    >>> watch = Divergence(math.log(256), 1000, 10)
    >>> any(watch.add(5.5 - k / 100) for k in range(300))
    False
    >>> [watch.add(6.0) for _ in range(40)].index(True)
    24
    """

    def __init__(self, guess: float, steps: int, rising: int, places: Collection[int] = ()) -> None:
        self.guess, self.rising = guess, rising
        self.every = max(1, -(-steps // PLACES))
        self.places = set(places)
        self.step, self.above, self.lowest_at, self.times = 0, 0, 0, 0
        self.smoothed = self.lowest = math.nan
        self._kept: dict[int, tuple[float, float, int]] = {0: (math.nan, math.nan, 0)}

    def add(self, loss: float) -> bool:
        """Take the loss of the next batch; whether the run has now diverged."""
        self.step += 1
        if not math.isfinite(loss):
            return True
        self.smoothed = loss if math.isnan(self.smoothed) else SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss
        if not self.smoothed >= self.lowest:  # the first is compared with nan
            self.lowest, self.lowest_at = self.smoothed, self.step
        margin = max(GIVEN_BACK * (self.guess - self.lowest), LEAST * self.guess)
        self.above = self.above + 1 if self.step > self.rising and self.smoothed > self.lowest + margin else 0
        if self.is_place(self.step):
            self._kept[self.step] = (self.smoothed, self.lowest, self.lowest_at)
        return self.above >= PATIENCE

    def is_place(self, step: int) -> bool:
        """Whether one may go back to the weights after ``step`` steps."""
        return step % self.every == 0 or step in self.places

    def good(self, among: Collection[int]) -> int | None:
        """The last step of ``among`` from no later than the lowest smoothed loss."""
        return max((step for step in among if step <= self.lowest_at), default=None)

    def candidates(self) -> list[int]:
        """Steps one may still go back to, ascending: the last good one and those after it, which may become good."""
        best = self.good(self._kept)
        return sorted(step for step in self._kept if best is None or step >= best)

    def go_back(self, to: int) -> None:
        """The weights are again those after step ``to``; the next loss is that of the next batch of the stream."""
        self.smoothed, self.lowest, self.lowest_at = self._kept[to]
        self._kept = {step: kept for step, kept in self._kept.items() if step <= to}
        self.above, self.times = 0, self.times + 1
        if self.is_place(self.step):
            self._kept[self.step] = self._kept[to]

    def replay(self, lines: list[dict]) -> None:
        """Take the log of the steps so far."""
        for line in lines:
            back = line.get("back_off")
            if back is None:
                self.add(line["loss"])
            else:
                self.add(math.nan if back["not_a_number"] else line["loss"])
                self.go_back(back["to"])

    @property
    def factor(self) -> float:
        """What the rate is multiplied by after all the times it was cut."""
        return CUT**self.times

    def words(self, loss: float) -> str:
        """What happened at this step."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        return f"the loss is {self.smoothed:.3f} (mean of the last batches), after {self.lowest:.3f} at step {self.lowest_at:,}: half of the gain over guessing is lost"


def place_to_return(watch: Divergence, exists: Callable[[int], bool]) -> int | None:
    """The step whose checkpoint a diverged run goes on from: the last good one that is there, else the first after it; None when there is none."""
    there = [step for step in watch.candidates() if exists(step)]
    good = watch.good(there)
    return good if good is not None else min(there, default=None)
