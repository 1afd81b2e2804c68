"""Gradual magnitude pruning: the smallest weights go, a few at a time, while the others learn to do without.

From the end of warmup, t0 updates, to t1 = ``pruning_until`` of the run, the share of zeros in every hidden matrix is

.. math:: s_t = s\\,\\Big(1 - \\big(1 - \\tfrac{t - t_0}{t_1 - t_0}\\big)^3\\Big)

fast at first, when there is much to spare, and slow at the end (Zhu and Gupta, arXiv 1710.01878, equation 1, from 0). Masks change at 32 evenly
spaced steps, the last at t1, and are frozen between them and afterwards. What is gone stays gone: a masked weight is 0, the smallest there is. The paper
keeps the value a weight had when it was masked and may bring it back; here the zeros are those of the model whose losses are recorded.
"""

from __future__ import annotations

import torch

from scalebound.compress.pruning import keep_largest
from scalebound.train.schedule.warmup import rising_steps
from scalebound.train.sparsity.masks import Masks

CHANGES = 32


def cubic_sparsity(step: int, *, first: int, last: int, final: float) -> float:
    """The share of zeros after ``step`` updates: 0 up to ``first``, ``final`` from ``last`` on.

    >>> [cubic_sparsity(step, first=10, last=20, final=0.8) for step in (10, 15, 20, 99)]
    [0.0, 0.7, 0.8, 0.8]
    """
    if step >= last:
        return final
    return final * (1 - (1 - max(0, step - first) / (last - first)) ** 3)


class GradualPruning(Masks):
    """The recipe's ``sparsity`` is reached after ``pruning_until`` of its steps, to the weight: ``int(sparsity * size)`` zeros a matrix.

    Cost: a sort of every matrix at each of the 32 changes.
    """

    @property
    def first(self) -> int:
        return min(rising_steps(self.recipe.steps, self.recipe.warmup), self.last - 1)

    def changes_at(self, step: int) -> bool:
        """Whether masks change after so many updates."""
        every = -(-(self.last - self.first) // CHANGES)
        return step == self.last or (self.first < step < self.last and (self.last - step) % every == 0)

    @torch.no_grad()
    def choose(self, step: int) -> None:
        if self.changes_at(step):
            share = cubic_sparsity(step, first=self.first, last=self.last, final=self.recipe.sparsity)
            self.keep = {name: torch.from_numpy(keep_largest(matrix.numpy(), share)) for name, matrix in self.matrices.items()}
