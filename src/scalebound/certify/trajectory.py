"""The trajectory certificate while it is being earned: the bound after every batch, valid whenever one stops (docs/mathematics.md section 9).

A run is cut into tenths in advance. Within each, the loss of every token before the update that uses it goes into one martingale of section 3
(code length 0), and at any moment the bound on the mean expected loss of the predictions made since the tenth began holds with probability
1 - delta: no correction for looking at it while training, since Ville's inequality is uniform over stopping times. Each tenth is a
statement of its own; the last, complete, is the certificate that `certify --method trajectory` issues from the run's online losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scalebound.certify.bound import check_confidence, log_weights, solve_product
from scalebound.certify.grid import default_grid
from scalebound.certify.logsums import LogSums
from scalebound.certify.settings import STREAM_ALPHA
from scalebound.certify.smoothing import smooth_uniform, uniform_range
from scalebound.core.errors import UsageError

PIECES = 10  # of a run, each a window of its own; the last is the default window of a trajectory certificate
LOOKS = 10  # at each piece, evenly spaced: what is reported, not what is valid


@dataclass(frozen=True)
class Standing:
    """Where a piece of the run stands: ``bound`` holds for the tokens [start, stop) of the stream; the piece ends at ``end``."""

    start: int
    stop: int
    end: int
    mean: float  # observed, of the smoothed predictions
    bound: float
    delta: float
    alpha: float


class LiveTrajectory:
    """The bounds of a run in progress.

    Parameters
    ----------
    window              the run's stream tokens [low, high), known in advance
    vocab_size : >= 2
    pieces, looks       windows of equal length, and how often each is reported
    alpha, delta        share of uniform mixed in, and the probability that one piece's statement fails

    Feeding n tokens costs O(n) for all of them together and keeps a few dozen numbers. The bound of a piece at any stop equals that of
    ``certify(online, method="trajectory", window=(start, stop), horizon=end - start)``.

    >>> live = LiveTrajectory((0, 1000), 256)
    >>> seen = [s for k in range(10) for s in live.add(np.full(100, 2.0, dtype=np.float32))]
    >>> [(s.start, s.stop, s.bound > s.mean) for s in seen][-1]
    (900, 1000, True)
    """

    def __init__(self, window: tuple[int, int], vocab_size: int, *, pieces: int = PIECES, looks: int = LOOKS, alpha: float = STREAM_ALPHA, delta: float = 0.01) -> None:
        low, high = window
        if not (0 <= low < high and pieces >= 1 and looks >= 1):
            raise UsageError(f"window {window}, {pieces} pieces, {looks} looks", where="trajectory", expected="a window of at least one token, and at least 1 of each")
        self.range, self.vocab_size, self.alpha, self.delta, self.looks = uniform_range(vocab_size, alpha), vocab_size, alpha, delta, looks
        self.budget = check_confidence(delta, 0)
        # counted from the end, so that the last piece is the window `certify` takes; pieces too short for a token are none
        self.edges = sorted({low, *(high - max(1, round((high - low) * k / pieces)) for k in range(1, pieces)), high})
        self.at = low
        self._begin()

    def _begin(self) -> None:
        self.start, self.end = next((a, b) for a, b in zip(self.edges, self.edges[1:], strict=False) if a <= self.at < b)
        grid = default_grid(self.end - self.start)
        self.sums, self.log_w = LogSums(grid, [self.range]), log_weights(None, 1, len(grid))

    def standing(self) -> Standing:
        """The bound now; at least one token of the piece must have been seen."""
        found = solve_product(self.sums, self.log_w, self.budget)
        return Standing(self.start, self.at, self.end, self.sums.mean_x, found.value, self.delta, self.alpha)

    def add(self, losses: np.ndarray) -> Iterator[Standing]:
        """Take the next tokens' losses, in order; yields where a piece stands each time another of its ``looks`` is passed, and at its end."""
        losses = np.asarray(losses)
        while len(losses):
            taken, losses = losses[: self.end - self.at], losses[self.end - self.at :]
            length = self.end - self.start
            before = (self.at - self.start) * self.looks // length
            self.sums.add(smooth_uniform(np.maximum(taken, 0.0, dtype=np.float64), self.vocab_size, self.alpha), [0.0])
            self.at += len(taken)
            if (self.at - self.start) * self.looks // length > before:
                yield self.standing()
            if self.at == self.end and self.end < self.edges[-1]:
                self._begin()
