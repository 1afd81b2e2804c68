"""A decoder compiled by ``torch.compile`` for batches of one shape.

Only that shape goes through the compiled code; every other batch is computed as before. So what a batch is computed by depends on its shape
alone and not on which shapes a process happened to see first, and two processes give the same bits.

Pays for our own small models on a processor (1.3 times as fast; benchmarks/LOG.md). Llama-style models there run on packed matrices
(:mod:`~scalebound.models.matrix`), which the compiler refuses with a ``TorchDynamoException``; calibration then leaves it out.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from scalebound.models.language_model import LanguageModel


def compiled(model: LanguageModel, rows: int, tokens: int) -> LanguageModel:
    """The model, its hidden states of ``(rows, tokens)`` compiled when they are first asked for (tens of seconds, once a process)."""
    plain = model.hidden
    fast = torch.compile(plain, dynamic=False)

    def hidden(tokens_BT: Tensor) -> Tensor:
        return fast(tokens_BT) if tokens_BT.shape == (rows, tokens) else plain(tokens_BT)

    return replace(model, hidden=hidden)
