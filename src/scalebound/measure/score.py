"""One pass over a batch of texts: hidden states, then logits a few rows at a time, then the numbers per token.

For logits z with log-normalizer Z: ``nll = Z - z[target]``, ``entropy = -sum p log p``, ``varentropy = sum p (log p + entropy)^2``
(:mod:`~scalebound.measure.statistics`), in float32 or better whatever the precision of the weights. With an anchor q, smoothed to
``q~ = (1-eps) q + eps/V``, the centre for smoothing alpha is ``-KL(p' || q~)`` with ``p' = (1-alpha) p + alpha q~``: what the model itself
expects of the difference of the two losses (docs/mathematics.md, anchored certificates). The centre needs both normalizers first: with an
anchor the logits are computed twice, a stretch of the vocabulary at a time, so that no array of [tokens, vocabulary] exists there either.

Letters: B batch, T tokens, N scored tokens, D width, R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.measure.statistics import ROWS, STRETCH, log_totals, token_statistics, top_tokens
from scalebound.models.device import moved
from scalebound.models.language_model import LanguageModel


def score_pieces(model: LanguageModel, pieces: Sequence[np.ndarray], skips: Sequence[int], first_token: int, *, anchor: LanguageModel | None = None,
                 eps: float = 0.0, alphas: Sequence[float] = (), top_k: int = 0, rows: int = ROWS, stretch: int = STRETCH) -> dict[str, np.ndarray]:  # fmt: skip
    """Statistics of the tokens of some pieces of text, each scored from ``first_token`` and its own piece's earlier tokens.

    Parameters
    ----------
    pieces
        Token ids; shorter pieces are padded behind their end, which a causal model cannot see.
    skips
        How many tokens of each piece are context only.
    anchor, eps, alphas
        The reference, its share of uniform, and the smoothings to compute the centre for.
    top_k
        Also give ``top_log_p`` float32 and ``top_ids`` int32, (top_k, N): the likeliest tokens of each prediction, likeliest first.
    rows, stretch
        Predictions and vocabulary of one piece of logits.

    Returns
    -------
    dict
        ``nll``, ``entropy``, ``varentropy`` of shape (N,), and with an anchor ``reference_nll`` (N,) and ``centre`` (alphas, N);
        float32, piece after piece.
    """
    T = max(len(piece) for piece in pieces)
    padded = np.full((len(pieces), T), first_token, dtype=np.int64)
    wanted = np.zeros((len(pieces), T), dtype=bool)
    for row, (piece, skip) in enumerate(zip(pieces, skips, strict=True)):
        padded[row, : len(piece)], wanted[row, skip : len(piece)] = piece, True
    with torch.inference_mode():
        targets_BT = moved(torch.from_numpy(padded), model.device)
        inputs_BT = F.pad(targets_BT[:, :-1], (1, 0), value=first_token)
        where_N = None if wanted.all() else moved(torch.from_numpy(np.flatnonzero(wanted)), model.device)
        hidden_ND, targets_N = _chosen(model.hidden(inputs_BT), where_N), _chosen(targets_BT, where_N)
        table = token_statistics(model, hidden_ND, targets_N, rows=rows, stretch=stretch)
        if anchor is not None:
            other_ND = _chosen(anchor.hidden(inputs_BT), where_N)
            parts = [_against(model, anchor, hidden_ND[start : start + rows], other_ND[start : start + rows], targets_N[start : start + rows], eps, alphas, stretch)
                     for start in range(0, len(targets_N), rows)]  # fmt: skip
            table = torch.cat([table, torch.cat(parts, dim=1)])
        found = table.cpu().numpy()
        top = [part.cpu().numpy() for part in top_tokens(model, hidden_ND, top_k, rows=rows, stretch=stretch)] if top_k else []
    out = {"nll": found[0], "entropy": found[1], "varentropy": found[2]} | dict(zip(("top_log_p", "top_ids"), top, strict=False))
    return out if anchor is None else out | {"reference_nll": found[3], "centre": found[4:]}


def _chosen(values_BT: Tensor, where_N: Tensor | None) -> Tensor:
    """What belongs to the scored tokens, of (B, T, ...) by their numbers; no copy when that is all of them."""
    values = values_BT.flatten(0, 1)
    return values if where_N is None else values[where_N]


def _against(model: LanguageModel, anchor: LanguageModel, own_RD: Tensor, other_RD: Tensor, targets_R: Tensor, eps: float, alphas: Sequence[float], stretch: int) -> Tensor:
    """The anchor's loss and the centre of every smoothing, (1 + alphas, R), in two passes over the vocabulary."""
    V = model.vocab_size
    totals = [log_totals(m, hidden, stretch) for m, hidden in ((model, own_RD), (anchor, other_RD))]
    hit_R = torch.full(targets_R.shape, float("nan"), device=own_RD.device)
    centres = torch.zeros(len(alphas), len(targets_R), dtype=torch.float64, device=own_RD.device)
    for (start, own_RV), (_, other_RV) in zip(model.logits_in(own_RD, stretch), anchor.logits_in(other_RD, stretch), strict=True):
        log_p, log_q = (z_RV.to(torch.float32, copy=True).sub_(total[:, None]) for z_RV, total in zip((own_RV, other_RV), totals, strict=True))
        width = log_q.shape[1]
        inside = (targets_R >= start) & (targets_R < start + width)
        hit_R = torch.where(inside, log_q.gather(1, (targets_R - start).clamp(0, width - 1)[:, None])[:, 0], hit_R)
        p, smooth = log_p.exp_(), log_q.exp_().mul_(1 - eps).add_(eps / V)
        log_smooth = smooth.log()
        for row, alpha in enumerate(alphas):
            mixed = torch.lerp(p, smooth, alpha)
            centres[row] -= mixed.mul(mixed.log().sub_(log_smooth)).sum(1).double()
    return torch.cat([(-hit_R).clamp_min(0.0)[None], centres.clamp_max(0.0).float()])
