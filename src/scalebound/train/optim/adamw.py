"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).

With gradient g, moments ``m = b1 m + (1-b1) g`` and ``v = b2 v + (1-b2) g^2`` (bias-corrected: m^, v^), rate eta and decay lambda:
``theta <- theta - eta (m^ / (sqrt(v^) + eps) + lambda theta)``. Decay applies to matrices only, never to norm gains.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def adamw(parameters: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.1, eps: float = 1e-8) -> torch.optim.Optimizer:
    """PyTorch's fused AdamW with decay on matrices only."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
