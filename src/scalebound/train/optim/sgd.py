"""Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013, ICML) and decoupled weight decay.

With gradient g, buffer ``m <- mu m + g``, rate eta and decay lambda: ``theta <- theta - eta (g + mu m + lambda theta)``; ``mu = betas[0]``. Decay
applies to matrices only. The step grows with the gradient, so its rate has nothing to do with AdamW's, and for transformers it is a
baseline rather than a choice.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from scalebound.train.optim.decoupled import Decoupled
from scalebound.train.optim.groups import Group, as_groups


class SGD(Decoupled):
    """See the module; made by :func:`sgd`."""

    def update(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        momentum = self.momentum(p).mul_(group["mu"]).add_(grad)
        return grad.add(momentum, alpha=group["mu"])


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
