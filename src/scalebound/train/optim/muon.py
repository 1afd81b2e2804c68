"""Muon: momentum whose singular values are all set to about one, for hidden matrices; AdamW for the rest (Jordan et al. 2024, "Muon: an
optimizer for hidden layers in neural networks"; scaled as in Liu et al., arXiv 2502.16982).

With gradient g, momentum ``m <- mu m + g``, ``O = NS(g + mu m)``, an r x c matrix: ``theta <- theta - eta (0.2 sqrt(max(r, c)) O + lambda theta)``.
NS applies the quintic ``X <- a X + (b A + c A^2) X``, ``A = X X'``, five times to the matrix scaled to Frobenius norm one: singular values end
between about 0.7 and 1.2. The factor makes the root mean square of an update's entries about 0.2, which is AdamW's, so that one learning rate
serves both parts. Matrices stacked in one tensor (query, key, value) are orthogonalized one by one: that is what ``pieces`` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from scalebound.train.optim.decoupled import Decoupled
from scalebound.train.optim.groups import Group, as_groups

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
MOMENTUM = 0.95
MATCHED_RMS = 0.2  # of an AdamW update's entries


def orthogonalize(matrix: Tensor) -> Tensor:
    """The matrix with its singular values moved near one, in float32 at least. ``10 r^2 c + 5 r^3`` multiply-adds for r <= c.

    >>> s = torch.linalg.svdvals(orthogonalize(torch.randn(8, 20, generator=torch.Generator().manual_seed(0))))
    >>> bool(s.min() > 0.6 and s.max() < 1.3)
    True
    """
    a, b, c = COEFFICIENTS
    X = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    tall = X.shape[0] > X.shape[1]
    X = X.T if tall else X
    X = X / (X.norm() + 1e-12)
    for _ in range(ROUNDS):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return (X.T if tall else X).to(matrix.dtype)


class Muon(Decoupled):
    """See the module; made by :func:`muon`. Groups say ``hidden``: True for Muon, False for AdamW."""

    def update(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        return self._hidden(p, grad, group) if group["hidden"] else self._other(p, grad, group)

    def _hidden(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        momentum = self.momentum(p).mul_(MOMENTUM).add_(grad)
        pieces = grad.add(momentum, alpha=MOMENTUM).chunk(group["pieces"])
        return torch.cat([MATCHED_RMS * math.sqrt(max(piece.shape)) * orthogonalize(piece) for piece in pieces])

    def _other(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        state = self.state[p]
        if "step" not in state:
            state |= {"step": torch.zeros((), dtype=torch.float32), "first": torch.zeros_like(p), "second": torch.zeros_like(p)}
        b1, b2 = group["betas"]
        state["step"] += 1
        count = float(state["step"])
        first, second = state["first"].lerp_(grad, 1 - b1), state["second"].mul_(b2).addcmul_(grad, grad, value=1 - b2)
        return (first / (1 - b1**count)) / ((second / (1 - b2**count)).sqrt_() + group["eps"])


def muon(parameters: Iterable[Tensor] | Iterable[Group], *, lr: float, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.1, eps: float = 1e-8) -> torch.optim.Optimizer:
    """Muon for groups with ``hidden`` true, AdamW with ``betas`` and ``eps`` for the others.

    Plain tensors: matrices are hidden, vectors are not (an embedding among them should be given in a group that says so). One number of
    state a hidden parameter, two for others; 20 to 30 times ``r c min(r, c)`` FLOPs a hidden matrix and step.

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.eye(4))
    >>> optimizer = muon([x], lr=0.1, weight_decay=0.0)
    >>> x.square().sum().backward(); optimizer.step(); 0.9 < x[0, 0].item() < 1  # 0.1 * 0.2 * sqrt(4) * (0.7 to 1.2)
    True
    """
    groups = as_groups(parameters, weight_decay)
    groups = [{"hidden": bool(group["params"]) and all(p.ndim == 2 for p in group["params"])} | group for group in groups]
    return Muon(groups, {"lr": lr, "betas": betas, "eps": eps})
