"""One pass over a batch of blocks: hidden states, then logits a few rows at a time, then the numbers per token.

For logits z with log-normalizer Z: ``nll = Z - z[target]``, ``entropy = -sum p log p``, ``varentropy = sum p (log p + entropy)^2``, all in
float32 whatever the precision of the weights. With an anchor q, smoothed to ``q~ = (1-eps) q + eps/V``, the centre for smoothing alpha is
``-KL(p' || q~)`` with ``p' = (1-alpha) p + alpha q~``: what the model itself expects of the difference of the two losses
(docs/mathematics.md, anchored certificates).

Letters: B batch, T tokens, D width, R rows (of B x T), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.models.language_model import LanguageModel

CHUNK_ELEMENTS = 1 << 21  # logits held at once: 8 MB in float32, which stays in a core's share of the cache
MIN_ROWS = 64  # fewer rows would leave the matrix multiplication without reuse of the head's weights


def score_blocks(model: LanguageModel, tokens_BT: np.ndarray, first_token: int, *, anchor: LanguageModel | None = None,
                 eps: float = 0.0, alphas: Sequence[float] = ()) -> dict[str, np.ndarray]:  # fmt: skip
    """Statistics of every token of some blocks, each scored from ``first_token`` and its own earlier tokens.

    Parameters
    ----------
    tokens_BT : (B, T) int
        Blocks of equal length.
    anchor, eps, alphas
        The reference, its share of uniform, and the smoothings to compute the centre for.

    Returns
    -------
    dict
        ``nll``, ``entropy``, ``varentropy`` of shape (B*T,), and with an anchor ``reference_nll`` (B*T,) and ``centre`` (alphas, B*T);
        float32.
    """
    with torch.inference_mode():
        targets_BT = torch.from_numpy(tokens_BT.astype(np.int64)).to(model.device)
        inputs_BT = F.pad(targets_BT[:, :-1], (1, 0), value=first_token)
        hidden = model.hidden(inputs_BT).flatten(0, 1)
        other = anchor.hidden(inputs_BT).flatten(0, 1) if anchor else None
        targets = targets_BT.flatten()
        rows = max(MIN_ROWS, CHUNK_ELEMENTS // model.vocab_size)
        parts = []
        for start in range(0, len(targets), rows):
            piece = slice(start, start + rows)
            log_p = F.log_softmax(model.head(hidden[piece]).float(), dim=-1)
            columns = list(_own(log_p, targets[piece]))
            if anchor is not None and other is not None:
                log_q = F.log_softmax(anchor.head(other[piece]).float(), dim=-1)
                columns += _against(log_p, log_q, targets[piece], eps, alphas)
            parts.append(torch.stack(columns))
        table = torch.cat(parts, dim=1).cpu().numpy()
    out = {"nll": table[0], "entropy": table[1], "varentropy": table[2]}
    if anchor is not None:
        out |= {"reference_nll": table[3], "centre": table[4:]}
    return out


def _own(log_p_RV: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    nll = -log_p_RV.gather(1, targets_R[:, None])[:, 0]
    p_RV = log_p_RV.exp()
    # a probability of exactly 0 has log -inf; its product with 0 must be 0
    entropy = -(p_RV * log_p_RV.clamp_min(-1e4)).sum(1)
    varentropy = (p_RV * (log_p_RV.clamp_min(-1e4) + entropy[:, None]).square()).sum(1)
    return nll.clamp_min(0.0), entropy.clamp_min(0.0), varentropy


def _against(log_p_RV: Tensor, log_q_RV: Tensor, targets_R: Tensor, eps: float, alphas: Sequence[float]) -> list[Tensor]:
    reference_nll = -log_q_RV.gather(1, targets_R[:, None])[:, 0]
    p_RV, smooth_RV = log_p_RV.exp(), (1 - eps) * log_q_RV.exp() + eps / log_q_RV.shape[1]
    log_smooth_RV = smooth_RV.log()
    out = [reference_nll.clamp_min(0.0)]
    for alpha in alphas:
        mixed_RV = torch.lerp(p_RV, smooth_RV, alpha)
        out.append(-(mixed_RV * (mixed_RV.log() - log_smooth_RV)).sum(1).clamp_min(0.0))
    return out
