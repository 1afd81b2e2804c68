"""Exponential moving average of the weights along a run (Polyak and Juditsky 1992; as used for language models in arXiv 2306.03241).

With decay beta, ``a_t = beta a_{t-1} + (1 - beta) w_t`` from ``a_0 = 0``; the average is ``a_t / (1 - beta^t)``, so that early weights do not count
more than their share. One more copy of the weights in memory; training does not depend on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scalebound.models.trainable import Trainable

PREFIX = "average."
STEPS = "averaged"  # updates behind the sums


class WeightAverage:
    """The running average of a model's trained parameters.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> average = WeightAverage(model, 0.5)
    >>> for value in (1.0, 3.0):
    ...     _ = model.weight.data.fill_(value)
    ...     average.update(model)
    >>> round(average.weights()["weight"].item(), 6)  # (0.5 * 1 + 1 * 3) / 1.5
    2.333333
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._sums = {name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in model.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Count the weights after one more step."""
        self.steps += 1
        for name, parameter in model.named_parameters():
            if name in self._sums:
                self._sums[name].lerp_(parameter, 1 - self.decay)

    def weights(self) -> dict[str, Tensor]:
        """The average under the parameters' names; at least one update must have been counted."""
        share = 1 - self.decay**self.steps
        return {name: total / share for name, total in self._sums.items()}

    def state(self) -> dict[str, Tensor]:
        """Tensors from which :meth:`load` goes on."""
        return {STEPS: torch.tensor(self.steps)} | {PREFIX + name: total for name, total in self._sums.items()}

    def load(self, stored: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        self.steps = int(stored[STEPS])
        for name, total in self._sums.items():
            total.copy_(stored[PREFIX + name])

    @torch.no_grad()
    def tensors_of(self, model: Trainable) -> dict[str, Tensor]:
        """The averaged model as a folder holds it."""
        own = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if name in self._sums}
        parameters = dict(model.named_parameters())
        for name, value in self.weights().items():
            parameters[name].copy_(value)
        found = {name: tensor.clone() for name, tensor in model.tensors().items()}
        for name, value in own.items():
            parameters[name].copy_(value)
        return found
