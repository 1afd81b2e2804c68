"""What precedes an instability, looked at every few steps and written to ``log.jsonl``.

====================  ================================================================================================================
max_attention_logit   per layer, the largest query-key product divided by sqrt(head width), over heads and causal pairs
log_normalizer        mean of log Z, Z the sum of exponentiated output logits; drifts from 0 before output divergence
activation            per layer, root mean square of the residual stream after it
update_ratio          per class of tensors, largest ratio of an update's norm to its tensor's
====================  ================================================================================================================

All but the last are of the weights before the step, on the first sequence of its batch, by a forward pass of its own without gradients:
with batches of 4 and a look every 20 steps less than 1% of the arithmetic. Training is not touched: the weights are the same to the bit. Gradient
norms stand in the log for every step. Of a model that ``transformers`` computes the attention logits are not seen.

Source: Wortsman et al. 2023, arXiv 2309.14322 (attention logits, output log-normalizer, what extrapolates); Zhai et al. 2023, arXiv 2303.06296.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.models.start import Adopted
from scalebound.models.trainable import Trainable
from scalebound.models.transformer import Layer, Transformer


@dataclass
class Look:
    """What was seen before a step, and the weights it started from."""

    seen: dict[str, Any]
    weights: dict[str, Tensor]

    def after(self, model: Trainable) -> dict[str, Any]:
        """The fields of the log's line, once the step is done."""
        ratios: dict[str, float] = {}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and parameter.ndim >= 2:
                    old = self.weights[name]
                    kind = model.tensor_class(name)
                    ratios[kind] = max(ratios.get(kind, 0.0), float((parameter - old).norm() / old.norm().clamp_min(1e-30)))
        return self.seen | {"update_ratio": {kind: _round(value) for kind, value in ratios.items()}}


@torch.no_grad()
def before(model: Trainable, batch: np.ndarray, separator: int) -> Look:
    """Look at the weights before a step, on the first sequence of its batch."""
    tokens_BT = torch.from_numpy(batch[:1].astype(np.int64)).to(next(model.parameters()).device)
    inputs_BT = F.pad(tokens_BT[:, :-1], (1, 0), value=separator)
    seen: dict[str, Any] = {}
    if isinstance(model, Transformer):
        x_BTD, logits, scales = F.embedding(inputs_BT, model.embedding), [], []
        T = inputs_BT.shape[1]
        cos_TK, sin_TK = model.cos_TK[:T], model.sin_TK[:T]
        for layer in model.layers:
            assert isinstance(layer, Layer)
            logits.append(largest_logit(layer, x_BTD, cos_TK, sin_TK))
            x_BTD = layer(x_BTD, cos_TK, sin_TK)
            scales.append(_rms(x_BTD))
        out = model.head(F.rms_norm(x_BTD, (x_BTD.shape[-1],), model.norm, 1e-5))
        seen = {"max_attention_logit": logits}
    elif isinstance(model, Adopted):
        found = model.model(inputs_BT, use_cache=False, output_hidden_states=True)
        out, scales = found.logits, [_rms(x) for x in (found.hidden_states or ())[1:]]
    else:
        out, scales = model(inputs_BT), []
    seen |= {"log_normalizer": _round(float(out.logsumexp(-1).mean()))} | ({"activation": scales} if scales else {})
    return Look(seen, {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.ndim >= 2})


def largest_logit(layer: Layer, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> float | None:
    """The largest attention logit of a layer on a residual stream, over heads and pairs of a position with itself and earlier ones."""
    q_BHTK, k_BHTK, _ = layer.queries_keys_values(x_BTD, cos_TK, sin_TK)
    products_BHTT = q_BHTK @ k_BHTK.transpose(-1, -2) / math.sqrt(q_BHTK.shape[-1])
    T = products_BHTT.shape[-1]
    return _round(float(products_BHTT.masked_fill_(torch.ones(T, T, dtype=torch.bool, device=products_BHTT.device).triu(1), -torch.inf).max()))


def _rms(x: Tensor) -> float | None:
    return _round(float(x.square().mean().sqrt()))


def _round(value: float) -> float | None:
    """Five digits are plenty for a log; what is no number is null there."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
