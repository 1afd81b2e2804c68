"""Unigram and n-gram models that learn as they read: the loss of each token before the model has counted it.

Witten-Bell interpolation (Witten & Bell 1991; Moffat's PPM method C with full interpolation). For a context of length l that was followed
by something ``n`` times before, by ``d`` different tokens, ``c`` times by x:

    p_l(x) = (c + d p_{l-1}(x)) / (n + d)   if n > 0, else p_{l-1}(x);     p_{-1}(x) = 1 / V

so that the probabilities of all V tokens sum to 1 at every position, and a context never met backs off to the shorter one. All counts are
those of the tokens before the one predicted: the predictor is known before the token is, which is what a reference must be.

Counting at every position at once: let ``order`` list the positions sorted by their last l tokens, earlier positions first among equals.
Then order + 1, sorted stably by the token there, is the list for l + 1; in it the counts before each position are ranks inside groups of
equals. Each sort is a radix sort of one token per position (8 or 16 bits), so time is linear.
"""

from __future__ import annotations

import numpy as np

from scalebound.core.errors import InputError, UsageError

MAX_ORDER = 12


def ngram_losses(tokens: np.ndarray, *, vocab_size: int, order: int, restart: int | None = None) -> np.ndarray:
    """Loss of every token under an n-gram model updated online.

    Parameters
    ----------
    tokens : (tokens,) integers in [0, vocab_size)
    order
        The longest context plus one, 1 (unigram) to 12.
    restart
        Forget all counts after every so many tokens, which bounds memory; None never does.

    Returns
    -------
    (tokens,) float64, nats        at most about log(vocab_size) + log(tokens) each

    Raises
    ------
    InputError
        A token outside the vocabulary, with its place.
    UsageError
        An order or restart out of range.

    Notes
    -----
    Time O(order * tokens); memory about 60 bytes a token (of ``restart``).

    Examples
    --------
    >>> np.exp(-ngram_losses(np.array([0, 0, 1]), vocab_size=2, order=1)).round(3).tolist()
    [0.5, 0.75, 0.167]
    """
    tokens = np.asarray(tokens)
    if not 1 <= order <= MAX_ORDER:
        raise UsageError(f"order = {order}", expected=f"between 1 (unigram) and {MAX_ORDER}")
    if restart is not None and restart < 1:
        raise UsageError(f"restart = {restart}", expected="at least 1 token")
    if len(tokens) and (int(tokens.max()) >= vocab_size or int(tokens.min()) < 0):
        wrong = int(np.argmax((tokens >= vocab_size) | (tokens < 0)))
        raise InputError(f"token {wrong:,} is {int(tokens[wrong]):,}", expected=f"ids below {vocab_size:,}")
    small = tokens.astype(np.uint8 if vocab_size <= 1 << 8 else np.uint16 if vocab_size <= 1 << 16 else np.uint32)
    step = restart or max(1, len(small))
    parts = [_losses(small[start : start + step], vocab_size, order) for start in range(0, len(small), step)]
    return np.concatenate(parts) if parts else np.empty(0)


def _losses(tokens: np.ndarray, vocab_size: int, order: int) -> np.ndarray:
    length = len(tokens)
    index = np.int32 if length < 1 << 31 else np.int64
    probability = np.full(length, 1.0 / vocab_size)
    # positions by context (all equal at first), and for each the place where its context's group starts
    place = _places(length, index)
    starts = np.zeros(length, dtype=index)
    for _ in range(order):
        here = tokens[place]
        by_token = np.argsort(here, kind="stable").astype(index, copy=False)
        # positions with equal context and token are now neighbours, in the order of time: their ranks are the counts c
        next_starts = _group_starts(starts[by_token], here[by_token])
        rank = np.empty(len(place), dtype=index)
        rank[by_token] = _places(len(place), index) - next_starts
        seen = _places(len(place), index) - starts
        new = rank == 0
        kinds = np.cumsum(new, dtype=index) - new  # different pairs in all groups before and in this one so far
        kinds = kinds - kinds[starts]
        lower = probability[place]
        lower *= kinds
        lower += rank
        lower /= np.maximum(seen + kinds, 1)
        met = seen > 0
        if met.all():
            probability[place] = lower
        else:
            probability[place[met]] = lower[met]
        # the groups of (context, token) are the contexts, one longer, of the positions that follow
        after = place[by_token] + 1
        inside = after < length
        if not inside.all():  # one position has none after it: close the gap it leaves
            gap = int(np.argmin(inside))
            after = np.delete(after, gap)
            next_starts = np.delete(next_starts, gap)
            next_starts[gap:] -= next_starts[gap:] > gap
        place, starts = after, next_starts
    np.log(probability, out=probability)
    return np.negative(probability, out=probability)


def _places(length: int, index: type) -> np.ndarray:
    return np.arange(length, dtype=index)


def _group_starts(group: np.ndarray, token: np.ndarray) -> np.ndarray:
    """For each place the first place of its run of equal (group, token)."""
    begins = np.zeros(len(group), dtype=group.dtype)
    changed = (group[1:] != group[:-1]) | (token[1:] != token[:-1])
    begins[1:][changed] = np.flatnonzero(changed) + 1
    return np.maximum.accumulate(begins, out=begins)
