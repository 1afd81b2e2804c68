"""Hidden states to the numbers per token, without an array of [tokens, vocabulary].

Rows are taken a few at a time and, for each, the vocabulary in stretches. Of a stretch c with logits z only four numbers per row are kept:
``Z_c = logsumexp z``, the mean and variance of z under the stretch's own softmax, and the target's logit where it lies in it. They join by
the law of total variance, with weights ``w_c = exp(Z_c - Z)``:

    Z = logsumexp_c Z_c        nll = Z - z[target]
    mean = sum_c w_c mean_c    entropy = Z - mean
    varentropy = sum_c w_c (variance_c + (mean_c - mean)^2)

Each variance is taken about its own mean, so nothing large cancels; stretches are summed in float32, joined in float64.

Letters: N tokens, R rows, D width, V vocabulary, C stretches of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scalebound.models.language_model import LanguageModel

ROWS = 256  # rows at once: enough that the head's weights, read once per stretch, are worth reading
STRETCH = 4096  # of the vocabulary: 4 MB of float32 logits, which stay in a core's share of the cache


def token_statistics(model: LanguageModel, hidden_ND: Tensor, targets_N: Tensor, *, rows: int = ROWS, stretch: int = STRETCH) -> Tensor:
    """``nll``, ``entropy`` and ``varentropy`` of every token, (3, N) float32, from the hidden states that predict them.

    Memory O(rows * stretch); the precision of the logits is that of the weights, of everything after them float32 or better.
    """
    parts = [_rows(model, hidden_ND[start : start + rows], targets_N[start : start + rows], stretch) for start in range(0, len(targets_N), rows)]
    return torch.cat(parts, dim=1)


def _rows(model: LanguageModel, hidden_RD: Tensor, targets_R: Tensor, stretch: int) -> Tensor:
    columns = []
    hit_R = torch.full(targets_R.shape, float("nan"), device=hidden_RD.device)  # every target lies in one stretch
    for start, z_RV in model.logits_in(hidden_RD, stretch):
        z_RV = z_RV.to(torch.float32, copy=True)
        width = z_RV.shape[1]
        inside = (targets_R >= start) & (targets_R < start + width)
        found = z_RV.gather(1, (targets_R - start).clamp(0, width - 1)[:, None])[:, 0]
        hit_R = torch.where(inside, found, hit_R)
        top_R = z_RV.amax(1, keepdim=True).clamp_min(-1e30)  # a stretch may hold nothing but minus infinity
        x_RV = z_RV.sub_(top_R).clamp_min_(-1e4)  # at most 0; a logit of minus infinity has probability 0 and must add 0
        p_RV = torch.softmax(x_RV, dim=1)  # in one pass; its largest entry is exp(0) over the sum
        log_sum_R = -p_RV.amax(1).double().log()
        mean_R = (p_RV * x_RV).sum(1)
        variance_R = x_RV.sub_(mean_R[:, None]).square_().mul_(p_RV).sum(1)
        top_R = top_R[:, 0].double()
        columns.append(torch.stack([top_R + log_sum_R, top_R + mean_R.double(), variance_R.double()]))
    log_total_CR, mean_CR, variance_CR = torch.stack(columns, dim=1)
    log_total_R = log_total_CR.logsumexp(0)
    weight_CR = (log_total_CR - log_total_R).exp()
    mean_R = (weight_CR * mean_CR).sum(0)
    varentropy_R = (weight_CR * (variance_CR + (mean_CR - mean_R).square())).sum(0)
    # rounding may leave a certain prediction slightly below 0; nan stays nan and is reported
    nll_R, entropy_R = (log_total_R - hit_R.double()).clamp_min(0.0), (log_total_R - mean_R).clamp_min(0.0)
    return torch.stack([nll_R, entropy_R, varentropy_R]).float()


def top_tokens(model: LanguageModel, hidden_ND: Tensor, k: int, *, rows: int = ROWS, stretch: int = STRETCH) -> tuple[Tensor, Tensor]:
    """The k likeliest tokens of every prediction, likeliest first: log-probabilities (k, N) float32 and ids (k, N) int32.

    Of equally likely tokens the order is torch's. Costs a second pass of the head."""
    found = []
    for first in range(0, len(hidden_ND), rows):
        hidden_RD = hidden_ND[first : first + rows]
        best, ids = None, None
        for start, z_RV in model.logits_in(hidden_RD, stretch):
            values, places = z_RV.float().topk(min(k, z_RV.shape[1]), dim=1)
            places = places + start
            if best is not None and ids is not None:
                values, places = torch.cat([best, values], 1), torch.cat([ids, places], 1)
                values, order = values.topk(min(k, values.shape[1]), dim=1)
                places = places.gather(1, order)
            best, ids = values, places
        assert best is not None and ids is not None
        found.append(((best - log_totals(model, hidden_RD, stretch)[:, None]).T, ids.T.int()))
    return torch.cat([log_p for log_p, _ in found], 1), torch.cat([ids for _, ids in found], 1)


def log_totals(model: LanguageModel, hidden_RD: Tensor, stretch: int = STRETCH) -> Tensor:
    """The normalizer ``logsumexp z`` of each row's logits, (R,) float32, a stretch of the vocabulary at a time."""
    parts = [z_RV.float().logsumexp(1).double() for _, z_RV in model.logits_in(hidden_RD, stretch)]
    return torch.stack(parts).logsumexp(0).float()
