"""One pass over a batch of texts: hidden states, then logits a few rows at a time, then the numbers per token.

For logits z with log-normalizer Z: ``nll = Z - z[target]``, ``entropy = -sum p log p``, ``varentropy = sum p (log p + entropy)^2``
(:mod:`~scalebound.measure.statistics`), in float32 or better whatever the precision of the weights. With an anchor q, smoothed to
``q~ = (1-eps) q + eps/V``, the centre for smoothing alpha is ``-KL(p' || q~)`` with ``p' = (1-alpha) p + alpha q~``: what the model itself
expects of the difference of the two losses (docs/mathematics.md, anchored certificates). The centre needs both normalizers first, so with
an anchor rows are chunked and the vocabulary is not.

Letters: B batch, T tokens, N scored tokens, D width, R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.measure.statistics import token_statistics
from scalebound.models.language_model import LanguageModel

CHUNK_ELEMENTS = 1 << 21  # with an anchor: logits held at once, 8 MB in float32
MIN_ROWS = 64  # fewer rows would leave the matrix multiplication without reuse of the head's weights


def score_blocks(model: LanguageModel, tokens_BT: np.ndarray, first_token: int, *, anchor: LanguageModel | None = None,
                 eps: float = 0.0, alphas: Sequence[float] = ()) -> dict[str, np.ndarray]:  # fmt: skip
    """Statistics of every token of some blocks of equal length: :func:`score_pieces` with nothing skipped."""
    return score_pieces(model, list(tokens_BT), [0] * len(tokens_BT), first_token, anchor=anchor, eps=eps, alphas=alphas)


def score_pieces(model: LanguageModel, pieces: Sequence[np.ndarray], skips: Sequence[int], first_token: int, *, anchor: LanguageModel | None = None,
                 eps: float = 0.0, alphas: Sequence[float] = ()) -> dict[str, np.ndarray]:  # fmt: skip
    """Statistics of the tokens of some pieces of text, each scored from ``first_token`` and its own piece's earlier tokens.

    Parameters
    ----------
    pieces
        Token ids; shorter pieces are padded behind their end, which a causal model cannot see.
    skips
        How many tokens of each piece are context only.
    anchor, eps, alphas
        The reference, its share of uniform, and the smoothings to compute the centre for.

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
        targets_BT = torch.from_numpy(padded).to(model.device)
        inputs_BT = F.pad(targets_BT[:, :-1], (1, 0), value=first_token)
        where = torch.from_numpy(wanted).to(model.device)
        hidden_ND, targets_N = _chosen(model, inputs_BT, where), targets_BT[where]
        table = token_statistics(model, hidden_ND, targets_N)
        if anchor is not None:
            other_ND = _chosen(anchor, inputs_BT, where)
            rows = max(MIN_ROWS, CHUNK_ELEMENTS // model.vocab_size)
            parts = []
            for start in range(0, len(targets_N), rows):
                own, other = (F.log_softmax(m.head(h[start : start + rows]).float(), dim=-1) for m, h in ((model, hidden_ND), (anchor, other_ND)))
                parts.append(torch.stack(_against(own, other, targets_N[start : start + rows], eps, alphas)))
            table = torch.cat([table, torch.cat(parts, dim=1)])
        found = table.cpu().numpy()
    out = {"nll": found[0], "entropy": found[1], "varentropy": found[2]}
    return out if anchor is None else out | {"reference_nll": found[3], "centre": found[4:]}


def _chosen(model: LanguageModel, inputs_BT: Tensor, where_BT: Tensor) -> Tensor:
    """Hidden states that predict the tokens ``where_BT``; no copy when that is all of them."""
    hidden_BTD = model.hidden(inputs_BT)
    return hidden_BTD.flatten(0, 1) if bool(where_BT.all()) else hidden_BTD[where_BT]


def _against(log_p_RV: Tensor, log_q_RV: Tensor, targets_R: Tensor, eps: float, alphas: Sequence[float]) -> list[Tensor]:
    reference_nll = -log_q_RV.gather(1, targets_R[:, None])[:, 0]
    p_RV, smooth_RV = log_p_RV.exp(), (1 - eps) * log_q_RV.exp() + eps / log_q_RV.shape[1]
    log_smooth_RV = smooth_RV.log()
    out = [reference_nll.clamp_min(0.0)]
    for alpha in alphas:
        mixed_RV = torch.lerp(p_RV, smooth_RV, alpha)
        out.append(-(mixed_RV * (mixed_RV.log() - log_smooth_RV)).sum(1).clamp_min(0.0))
    return out
