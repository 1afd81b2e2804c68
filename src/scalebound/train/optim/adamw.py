"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).

With gradient g, moments ``m = b1 m + (1-b1) g`` and ``v = b2 v + (1-b2) g^2`` (bias-corrected: m^, v^), rate eta and decay lambda:
``theta <- theta - eta (m^ / (sqrt(v^) + eps) + lambda theta)``. Decay applies to matrices only, never to norm gains.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from scalebound.train.optim.groups import Group, as_groups


def adamw(parameters: Iterable[Tensor] | Iterable[Group], *, lr: float, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.1, eps: float = 1e-8) -> torch.optim.Optimizer:
    """PyTorch's fused AdamW with decay on matrices only. Two numbers of state a parameter.

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.ones(2, 2))
    >>> optimizer = adamw([x], lr=0.1, weight_decay=0.0)
    >>> x.square().sum().backward(); optimizer.step(); round(x[0, 0].item(), 4)  # the first step is the rate, whatever the gradient
    0.9
    """
    return torch.optim.AdamW(as_groups(parameters, weight_decay), lr=lr, betas=betas, eps=eps, fused=True)
