"""Forward and backward passes over a batch: the loss of every token and the gradient of their mean.

Compiled (recipe key ``compile``), the passes of a batch of the usual size go through ``torch.compile``; other sizes (the last batch, a piece of an uneven
split) take the ordinary way, so that one shape is compiled and no more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.core.errors import MachineError
from scalebound.models.trainable import Trainable
from scalebound.models.transformer import Transformer

Losses = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def backward(model: Trainable, batch: np.ndarray, separator: int, parts: int, *, z_loss: float = 0.0, whole: int | None = None, precision: str = "float32",
             losses_of: Losses | None = None, together: bool = False) -> tuple[float, bytes]:  # fmt: skip
    """Add the gradient of a batch's mean loss, in ``parts`` passes, and return that loss and the bytes of every token's loss in order.

    ``batch`` may be a part of a batch of ``whole`` sequences: losses are then weighted by its share, and an empty part adds nothing.
    With ``together`` every process makes as many passes as the others (weights in shards are gathered by all at once): what it lacks
    is made up by a sequence of weight 0.

    With ``z_loss`` the gradient is that of the loss plus ``z_loss * mean(log Z ^ 2)``, Z the sum of exponentiated logits (Chowdhery et al.,
    arXiv 2204.02311); what is returned and recorded is the loss alone.
    """
    total, losses = 0.0, []
    whole = len(batch) if whole is None else whole
    losses_of = losses_of or plain_losses(model, precision)
    device = next(model.parameters()).device
    for piece in np.array_split(batch, parts if together else min(parts, len(batch))) if len(batch) or together else []:
        weight = len(piece) / whole
        targets_BT = torch.from_numpy((piece if weight else np.zeros((1, *batch.shape[1:]))).astype(np.int64)).to(device)
        inputs_BT = F.pad(targets_BT[:, :-1], (1, 0), value=separator)
        losses_N, logits_NV = losses_of(inputs_BT, targets_BT)
        loss = losses_N.mean() * weight  # one part: times exactly 1
        if z_loss:
            (loss + z_loss * logits_NV.logsumexp(-1).square().mean() * weight).backward()
        else:
            loss.backward()
        total += loss.item()
        if weight:
            losses.append(losses_N.detach().cpu().numpy().astype("<f4").tobytes())
    return total, b"".join(losses)


def plain_losses(model: Trainable, precision: str) -> Losses:
    """Of inputs and targets (B, T): the loss of every token (B T,) and the logits (B T, V) it was read from."""

    def losses_of(inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        logits_NV = logits_of(model, inputs_BT, precision).flatten(0, 1)
        return F.cross_entropy(logits_NV, targets_BT.flatten(), reduction="none"), logits_NV

    return losses_of


def compiled_losses(model: Trainable, precision: str, rows: int) -> Losses:
    """:func:`plain_losses`, compiled for passes over ``rows`` sequences when the first of them comes.

    Raises
    ------
    MachineError
        From that pass: the compiler failed.
    """
    plain = plain_losses(model, precision)
    compiled = torch.compile(plain, dynamic=False)

    def losses_of(inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        if len(inputs_BT) != rows:
            return plain(inputs_BT, targets_BT)
        try:
            return compiled(inputs_BT, targets_BT)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise MachineError(f"the passes could not be compiled ({' '.join(str(error).split())[:150]})", hint="compile = false in the recipe") from error

    return losses_of


def logits_of(model: Trainable, inputs_BT: Tensor, precision: str) -> Tensor:
    """Logits in float32; with ``bfloat16`` the matrix products before the head (of a model that is not ours: all of them) are rounded to it."""
    if isinstance(model, Transformer):
        return model(inputs_BT, precision == "bfloat16")
    if precision == "float32":
        return model(inputs_BT)
    with torch.autocast(inputs_BT.device.type, dtype=torch.bfloat16):
        return model(inputs_BT).float()
