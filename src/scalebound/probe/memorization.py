"""Memorization: spans of the training stream that a model gives back when prompted with what precedes them.

A span is a prefix and a suffix of the stream. The model continues the prefix greedily; the span counts as *exact* when the continuation is the
suffix, and as *near* when it differs from it at no more than a tenth of the places. Spans are drawn uniformly and independently, so the rate
over all positions of the stream has an exact interval. The same is done with text the model never saw: what is given back there is
predictable, not remembered. *Canaries* are texts planted in the training stream on purpose; they are to be found.

The greedy continuation is not generated token by token. Its first place of departure from the suffix is where the argmax under the true
suffix first differs; with that token put in, the next departure follows from another pass, and so on: one pass per departure, at most one
more than may be. Departures are counted at the same place of the suffix, so a continuation that drops a token and goes on is not near.

Source: Carlini et al. 2021, arXiv 2012.07805, and 2023, arXiv 2202.07646 (extractable with k tokens of context); near-verbatim: Ippolito et al.
2023, arXiv 2210.17546 (by BLEU there).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from scalebound.core.errors import UsageError
from scalebound.core.progress import Progress, silent
from scalebound.models.language_model import LanguageModel
from scalebound.probe.exact import check_level, clopper_pearson

NEAR = 0.1  # share of places at which a near copy may differ
PIECE = 32  # spans in one pass


@dataclass(frozen=True)
class SpanRow:
    """Spans of one kind: how many were given back exactly, how many nearly (exact ones included), with exact intervals of the rates."""

    kind: str
    n: int
    exact: float
    exact_low: float
    exact_high: float
    near: float
    near_low: float
    near_high: float


@torch.inference_mode()
def departures(model: LanguageModel, spans: np.ndarray, prefix: int, *, limit: int) -> np.ndarray:
    """At how many places of the suffix the greedy continuation of the prefix differs from it: (spans,), ``limit + 1`` standing for any more.

    Parameters
    ----------
    spans : (N, prefix + suffix) token ids
    prefix : >= 1 tokens given
    limit : >= 0              departures up to which they are counted

    Cost: at most limit + 1 passes over the spans; spans that are settled drop out.
    """
    out = np.zeros(len(spans), dtype=np.int64)
    for start in range(0, len(spans), PIECE):
        rows = np.arange(start, min(start + PIECE, len(spans)))
        truth = torch.from_numpy(np.asarray(spans[rows], dtype=np.int64)).to(model.device)
        said, settled = truth.clone(), torch.full((len(rows),), prefix, device=model.device)
        alive = torch.arange(len(rows), device=model.device)
        for _ in range(limit + 1):
            inputs = F.pad(said[alive, :-1], (1, 0), value=model.first_token)
            greedy = model.head(model.hidden(inputs)[:, prefix:]).argmax(-1)
            places = torch.arange(prefix, truth.shape[1], device=model.device)
            wrong = (greedy != truth[alive, prefix:]) & (places >= settled[alive, None])
            some = wrong.any(1)
            at = wrong.int().argmax(1) + prefix  # the first departure not yet put in
            alive, at, greedy = alive[some], at[some], greedy[some]
            if not len(alive):
                break
            out[rows[alive.cpu().numpy()]] += 1
            said[alive, at] = greedy.gather(1, (at - prefix)[:, None])[:, 0]
            settled[alive] = at + 1
    return out


def draw_spans(tokens: np.ndarray, rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Spans (count, length) at independent uniform places. Raises UsageError when the stream is shorter than a span."""
    if len(tokens) < length:
        raise UsageError(f"the text has {len(tokens):,} tokens", where="--prefix, --suffix", expected=f"at least a span of {length:,}")
    starts = rng.integers(len(tokens) - length + 1, size=count)
    return np.stack([np.asarray(tokens[s : s + length], dtype=np.int64) for s in starts])


def probe_extraction(model: LanguageModel, spans: Mapping[str, np.ndarray], *, prefix: int, level: float = 0.95, progress: Progress = silent) -> list[SpanRow]:
    """Count what a model gives back of several kinds of spans.

    Parameters
    ----------
    spans : by kind, (N, prefix + suffix) token ids; spans of one kind have one length
    prefix : tokens given, at least 1 and fewer than a span has
    level : in (0, 1)         of all intervals together (union bound over Clopper-Pearson intervals, two per kind)

    Raises
    ------
    UsageError                no spans, a prefix that leaves no suffix, a span longer than the model's context
    """
    check_level(level)
    one = 1 - (1 - level) / (2 * max(1, len(spans)))
    rows = []
    for kind, found in spans.items():
        block = np.asarray(found)
        if block.ndim != 2 or not len(block) or not 1 <= prefix < block.shape[1]:
            raise UsageError(f"{kind}: spans of shape {block.shape} and a prefix of {prefix}", where="probe_extraction", expected="spans, each longer than the prefix")
        if block.shape[1] + 1 > model.max_context:
            raise UsageError(f"a span has {block.shape[1]:,} tokens", where="--prefix, --suffix", expected=f"fewer than the model's context of {model.max_context:,}")
        limit = int(NEAR * (block.shape[1] - prefix))
        away = departures(model, block, prefix, limit=limit)
        exact, near, n = int((away == 0).sum()), int((away <= limit).sum()), len(block)
        rows.append(SpanRow(kind, n, exact / n, *clopper_pearson(exact, n, one), near / n, *clopper_pearson(near, n, one)))
        progress(len(rows), len(spans))
    return rows
