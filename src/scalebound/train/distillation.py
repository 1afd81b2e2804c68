"""Distillation: part of the loss replaced by how far the model's distributions are from a teacher's.

With p the teacher's and q the model's distribution over the next token, a token's loss becomes

.. math:: (1-\\kappa)\\,(-\\log q_{\\text{token}}) + \\kappa\\,d(p, q)

forward     ``d = KL(p || q)``, whose gradient is that of the cross entropy with p in place of the token: Hinton et al., arXiv 1503.02531, at
            temperature 1, since what is certified is the distribution itself.
balanced    ``d = w KL(p || q) + (1-w) KL(q || p)``, both divergences, weighted token by token by which of the two is surer of itself: where
            the model is surer than its teacher, ``H(q) < H(p)``, the forward one counts twice as much (w = 2/3), which spreads the model's
            probability; elsewhere the reverse one does (w = 1/3), which gathers it. w is held fixed in the gradient.

The balance is that of BD-KD, Amara et al., arXiv 2212.12965 (abstract and section 1: sample-wise weights of forward and reverse divergence
from the entropies of teacher and student), of which this is the student's half: the teacher here is finished and does not learn. The ratio of
two to one is ours.

The teacher is any model of the same vocabulary, larger or the very model that is being compressed. It is read once more than the certificate
knows: a bound holds for every model of the code, however its weights were found.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from scalebound.core.errors import InputError, UsageError
from scalebound.models import load_model

Divergence = Literal["forward", "balanced"]
SHARE = 0.5  # of the loss, where none is said
FAVOUR = 2 / 3  # weight of the divergence that a token's entropies ask for; the other has the rest


def forward_divergence(teacher: Tensor, model: Tensor) -> Tensor:
    """``KL(p || q)`` of every token.

    Parameters
    ----------
    teacher, model : (..., vocabulary) log-probabilities, nats

    Returns
    -------
    (...) nats, at least 0 up to rounding; differentiable by ``model``

    Examples
    --------
    >>> round(float(forward_divergence(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log())), 3)
    0.511
    """
    return (teacher.exp() * (teacher - model)).sum(-1)


def balanced_divergence(teacher: Tensor, model: Tensor) -> Tensor:
    """``w KL(p || q) + (1-w) KL(q || p)`` of every token, w = 2/3 where the model's entropy is below the teacher's and 1/3 elsewhere.

    Parameters and returns as :func:`forward_divergence`.

    Examples
    --------
    >>> sure, unsure = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.5, 0.5]).log()
    >>> round(float(balanced_divergence(unsure, sure)), 3), round(float(balanced_divergence(sure, unsure)), 3)
    (0.463, 0.463)
    """
    likely, ours = teacher.exp(), model.exp()
    apart = teacher - model
    with torch.no_grad():
        surer = (ours * model).sum(-1) > (likely * teacher).sum(-1)  # minus the entropies
        weight = surer.to(model.dtype) * (2 * FAVOUR - 1) + (1 - FAVOUR)
    return weight * (likely * apart).sum(-1) - (1 - weight) * (ours * apart).sum(-1)


DIVERGENCES: dict[Divergence, Callable[[Tensor, Tensor], Tensor]] = {"forward": forward_divergence, "balanced": balanced_divergence}


class Teacher:
    """A finished model whose distributions another one learns.

    Parameters
    ----------
    path
        Whatever :func:`~scalebound.models.load_model` opens.
    share : in (0, 1]
        kappa.
    kind
        Which divergence.
    vocab_size, context
        What the pupil's tokens and sequences are.

    Raises
    ------
    UsageError
        A share or a divergence that is none of these.
    InputError
        No model there, another vocabulary, a shorter context.

    Cost: one forward pass of the teacher a step.
    """

    def __init__(self, path: str | os.PathLike, *, share: float = SHARE, kind: Divergence = "forward", vocab_size: int, context: int) -> None:
        if not 0 < share <= 1:
            raise UsageError(f"teacher_share = {share}", expected="above 0 and at most 1")
        if kind not in DIVERGENCES:
            raise UsageError(f"divergence = {kind}", expected=" or ".join(DIVERGENCES))
        self.model, self.share, self.kind = load_model(path), share, kind
        if self.model.vocab_size != vocab_size:
            raise InputError(f"has a vocabulary of {self.model.vocab_size:,}", where=str(path), expected=f"{vocab_size:,} as the model it is to teach")
        if self.model.max_context < context:
            raise InputError(f"reads at most {self.model.max_context:,} tokens", where=str(path), expected=f"at least {context:,}, the context of the model it is to teach")

    def mixed(self, loss: Tensor, inputs_BT: Tensor, logits_BTV: Tensor) -> Tensor:
        """``(1 - kappa) loss + kappa mean d``, for what a model computes of these inputs and the loss that it has by its targets."""
        with torch.no_grad():
            teacher_BTV = torch.log_softmax(self.model.head(self.model.hidden(inputs_BT)).float(), dim=-1)
        return (1 - self.share) * loss + self.share * DIVERGENCES[self.kind](teacher_BTV, torch.log_softmax(logits_BTV, dim=-1)).mean()

    def record(self) -> dict:
        """Who it is and how it teaches."""
        return {"sha256": self.model.sha256, "share": self.share, "divergence": self.kind}
