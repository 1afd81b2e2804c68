"""Lion: the sign of an interpolated momentum (Chen et al., arXiv 2302.06675).

With gradient g, momentum m, rate eta and decay lambda: ``u = sign(b1 m + (1-b1) g)``, ``m <- b2 m + (1-b2) g``,
``theta <- theta - eta (u + lambda theta)``. Every entry moves by eta, so its rate is 3 to 10 times smaller than AdamW's and its decay as much
larger (section 5 of the paper); what the recipe derives is for AdamW. Decay applies to matrices only.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from scalebound.train.optim.decoupled import Decoupled
from scalebound.train.optim.groups import Group, as_groups


class Lion(Decoupled):
    """See the module; made by :func:`lion`."""

    def update(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        (b1, b2), momentum = group["betas"], self.momentum(p)
        found = momentum.lerp(grad, 1 - b1).sign_()
        momentum.lerp_(grad, 1 - b2)
        return found


def lion(parameters: Iterable[Tensor] | Iterable[Group], *, lr: float, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.1) -> torch.optim.Optimizer:
    """Lion with ``betas`` (the paper: 0.9 and 0.99, for language models 0.95 and 0.98). One number of state a parameter.

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.ones(2, 2))
    >>> optimizer = lion([x], lr=0.1, weight_decay=0.0)
    >>> (5 * x).sum().backward(); optimizer.step(); round(x[0, 0].item(), 4)
    0.9
    """
    return Lion(as_groups(parameters, weight_decay), {"lr": lr, "betas": betas})
