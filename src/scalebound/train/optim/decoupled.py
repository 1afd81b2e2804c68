"""What optimizers of our own share: an update for every parameter with a gradient, and weight decay decoupled from it.

With update u, rate eta and decay lambda of the parameter's group: ``theta <- theta - eta (u + lambda theta)`` (Loshchilov and Hutter,
arXiv 1711.05101). What u is, and what it remembers, is all that an optimizer here says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from scalebound.train.optim.groups import Group


class Decoupled(torch.optim.Optimizer, ABC):
    """Base class; a subclass gives :meth:`update`."""

    @abstractmethod
    def update(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        """u of one parameter, from its gradient and ``self.state[p]``, which holds tensors only."""

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    update = self.update(p, p.grad, group)
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])

    def momentum(self, p: Tensor) -> Tensor:
        """The parameter's one tensor of state, zero at first."""
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        return state["momentum"]
