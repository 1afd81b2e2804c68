"""Context policies: which earlier tokens each token of a window is scored from.

A window is cut into blocks of ``block_tokens`` whatever the policy, and every token of a block gets exactly one loss, from ``first_token``
followed by some earlier tokens of the window. The policies differ in which:

``packed``
    Those of its own block (``block_tokens`` = context). The cheapest: nothing is computed twice.
``documents``
    Those of its own document; a document longer than the context is cut into pieces of that length, counted from its start. In a stream
    whose sequence order was drawn, a sequence counts as a document of its own: what stands before it is another text. ``block_tokens`` =
    context, and a piece that two parts of the work share is computed by both.
``sliding``
    The context that ends with its block, ``block_tokens`` = stride: every token but the first ones of the window sees at least
    ``context - stride`` tokens before it. Costs ``context / stride`` times ``packed``; with stride = context it is ``packed``.

All three are causal and use nothing from before the window, so the losses of each can be certified (docs/mathematics.md section 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

POLICIES = ("packed", "documents", "sliding")


class Span(NamedTuple):
    """Tokens [start, stop) of the stream, of which [scored, stop) get their loss."""

    start: int
    scored: int
    stop: int


def spans_of(policy: str, blocks: Sequence[int] | np.ndarray, *, window: tuple[int, int], context: int, block_tokens: int, boundaries: np.ndarray) -> list[Span]:
    """The spans that score some blocks.

    Parameters
    ----------
    policy
        One of :data:`POLICIES`.
    blocks
        Ascending ids; block b covers tokens [b, b+1) * block_tokens of the window.
    context
        Most tokens of a span.
    boundaries
        Ascending positions at which a text starts (``documents`` only), the window's start among them.

    Returns
    -------
    list
        Their scored ranges, joined, are the tokens of the blocks, each once, in order.

    >>> spans_of("sliding", [0, 1, 2], window=(0, 10), context=6, block_tokens=4, boundaries=np.array([0]))
    [Span(start=0, scored=0, stop=4), Span(start=2, scored=4, stop=8), Span(start=4, scored=8, stop=10)]
    """
    ranges = [(window[0] + int(b) * block_tokens, min(window[0] + (int(b) + 1) * block_tokens, window[1])) for b in blocks]
    if policy == "packed":
        return [Span(start, start, stop) for start, stop in ranges]
    if policy == "sliding":
        return [Span(max(window[0], min(start, stop - context)), start, stop) for start, stop in ranges]
    joined: list[tuple[int, int]] = []  # neighbouring blocks as one range, so that a piece inside it is computed once
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    spans = []
    for start, stop in joined:
        at = start
        while at < stop:
            index = int(np.searchsorted(boundaries, at, side="right"))
            begins, ends = int(boundaries[index - 1]), int(boundaries[index]) if index < len(boundaries) else window[1]
            piece = begins + (at - begins) // context * context
            until = min(piece + context, ends, stop)
            spans.append(Span(piece, at, until))
            at = until
    return spans


def text_boundaries(documents: Sequence[int], sequence_tokens: int, drawn: bool, window: tuple[int, int]) -> np.ndarray:
    """Positions in the window at which a text starts: its own start, documents, and the sequences of a drawn order."""
    starts = [np.asarray(documents, dtype=np.int64), np.array([window[0]], dtype=np.int64)]
    if drawn:
        starts.append(np.arange(window[0] // sequence_tokens * sequence_tokens, window[1], sequence_tokens, dtype=np.int64))
    found = np.unique(np.concatenate(starts))
    return found[(found >= window[0]) & (found < window[1])]


def batches_of(spans: Sequence[Span], batch_tokens: int) -> list[list[int]]:
    """Indices of spans that are computed together: the longest first, at most ``batch_tokens`` with padding, which is at most a quarter.

    A function of the spans alone, so the numbers do not depend on who computes them.
    """
    order = sorted(range(len(spans)), key=lambda k: (spans[k].start - spans[k].stop, k))
    batches: list[list[int]] = []
    for k in order:
        length = spans[k].stop - spans[k].start
        if batches:
            longest = spans[batches[-1][0]].stop - spans[batches[-1][0]].start
            if (len(batches[-1]) + 1) * longest <= batch_tokens and 4 * length >= 3 * longest:
                batches[-1].append(k)
                continue
        batches.append([k])
    return batches
