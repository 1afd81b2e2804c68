"""Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013, ICML) and decoupled weight decay.

With gradient g, buffer ``m <- mu m + g``, rate eta and decay lambda: ``theta <- theta - eta (g + mu m + lambda theta)``; ``mu = betas[0]``. Decay
applies to matrices only. The step grows with the gradient, so its rate has nothing to do with AdamW's, and for transformers it is a
baseline rather than a choice.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from scalebound.train.optim.groups import Group, as_groups


class SGD(torch.optim.Optimizer):
    """See the module; made by :func:`sgd`."""

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"].mul_(group["mu"]).add_(p.grad)
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(p.grad.add(momentum, alpha=group["mu"]), alpha=-group["lr"])


def sgd(parameters: Iterable[Tensor] | Iterable[Group], *, lr: float, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.1) -> torch.optim.Optimizer:
    """SGD with momentum ``betas[0]``. One number of state a parameter.

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.ones(2, 2))
    >>> optimizer = sgd([x], lr=0.1, betas=(0.0, 0.0), weight_decay=0.0)
    >>> x.square().sum().backward(); optimizer.step(); round(x[0, 0].item(), 4)  # 1 - 0.1 * 2
    0.8
    """
    return SGD(as_groups(parameters, weight_decay), {"lr": lr, "mu": betas[0]})
