"""Log-likelihoods of a test set in its published order and in random ones, shard by shard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from scalebound.core.errors import InputError, UsageError
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import generator
from scalebound.measure.statistics import token_statistics
from scalebound.models.language_model import LanguageModel


def order_likelihoods(model: LanguageModel, items: Sequence[np.ndarray], *, shards: int, orders: int, seed: int = 0, progress: Progress = silent) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood of each shard of consecutive items, published (shards,) and shuffled (orders, shards), for
    :func:`scalebound.certify.contamination.exchangeability`.

    A shard is read as one text of at most one context, and must fit: cutting it would drop other items in other orders.

    Raises :class:`InputError` when a shard is longer than the context, :class:`UsageError` for fewer than two items a shard.
    """
    if shards < 1 or orders < 1 or len(items) < 2 * shards:
        raise UsageError(f"{len(items):,} items in {shards} shards, {orders} orders", where="--shards", expected="at least two items a shard and one order")
    edges = np.linspace(0, len(items), shards + 1).astype(int)
    table = np.empty((orders + 1, shards))
    for k in range(shards):
        own = [np.asarray(item, dtype=np.int64) for item in items[edges[k] : edges[k + 1]]]
        length = sum(map(len, own))
        if length > model.max_context:
            raise InputError(f"shard {k} has {length:,} tokens", where="contamination", expected=f"at most {model.max_context:,}, the model's context", hint="use more --shards")
        rng = generator(seed, "orders", k)
        for row in range(orders + 1):
            order = range(len(own)) if row == 0 else rng.permutation(len(own))
            table[row, k] = -_loss(model, np.concatenate([own[i] for i in order]))
            progress(k * (orders + 1) + row + 1, shards * (orders + 1))
    return table[0], table[1:]


@torch.inference_mode()
def _loss(model: LanguageModel, tokens: np.ndarray) -> float:
    targets_T = torch.from_numpy(tokens).to(model.device)
    inputs_BT = F.pad(targets_T[None, :-1], (1, 0), value=model.first_token)
    return float(token_statistics(model, model.hidden(inputs_BT)[0], targets_T)[0].sum(dtype=torch.float64))
