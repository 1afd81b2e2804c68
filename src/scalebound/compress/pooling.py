"""Which messages share a table: the scales, or the classes, of a model's matrices.

Rows of one matrix have scales near each other, those of another are elsewhere: one table for all costs about twice the bits, a table for each
costs more bytes than it saves in a small model. From one table each, two are merged at a time, those whose merging costs least, until one is left;
the writer tries the last few of these groupings in real bytes (:mod:`~scalebound.compress.plan`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

MOST_GROUPS = 10  # that are yielded
SYMBOL_BITS, TABLE_BITS = 8.0, 24.0  # what a table costs: a weight byte a symbol, its length, its number where it is used


def groupings(histograms: list[tuple[int, np.ndarray]]) -> Iterator[list[int]]:
    """Ways to give messages to fewer and fewer tables, from ten (or as many as there are messages) to two.

    Parameters
    ----------
    histograms
        Of every message, its smallest symbol and the counts from it on.

    Yields
    ------
    The number of its table, from 0, for every message.

    Notes
    -----
    O(messages^2 x distinct symbols) time.

    Examples
    --------
    >>> near, far = (5, np.array([90, 10])), (70, np.array([20, 80]))
    >>> list(groupings([near, far, near]))[-1]
    [0, 1, 0]
    """
    symbols = np.unique(np.concatenate([[], *(low + np.flatnonzero(counts) for low, counts in histograms)]))
    counts = np.zeros((len(histograms), len(symbols)))
    for row, (low, part) in zip(counts, histograms, strict=True):
        used = np.flatnonzero(part)
        row[np.searchsorted(symbols, low + used)] = part[used]
    group_of = np.arange(len(counts))  # named by its first message
    alone = _cost(counts)
    merged = np.full((len(counts), len(counts)), np.inf)  # what merging two costs, the later one into the earlier
    for k in range(len(counts)):
        merged[:k, k] = _cost(counts[:k] + counts[k]) - alone[:k] - alone[k]
    for num_groups in range(len(counts), 1, -1):
        if num_groups <= MOST_GROUPS:
            yield np.unique(group_of, return_inverse=True)[1].tolist()
        into, gone = np.unravel_index(np.argmin(merged), merged.shape)
        group_of[group_of == gone] = into
        counts[into] += counts[gone]
        merged[gone], merged[:, gone] = np.inf, np.inf
        rest = np.unique(group_of)
        costs = _cost(counts[rest] + counts[into]) - alone[rest]
        alone[into] = _cost(counts[into : into + 1])[0]
        before, after = rest < into, rest > into
        merged[rest[before], into], merged[into, rest[after]] = costs[before] - alone[into], costs[after] - alone[into]


def _cost(counts: np.ndarray) -> np.ndarray:
    """(groups,): bits of every row of counts under its own frequencies, and of the table that holds them."""
    total = counts.sum(axis=1)
    return total * np.log2(np.maximum(total, 1)) - (counts * np.log2(np.maximum(counts, 1))).sum(axis=1) + SYMBOL_BITS * (counts > 0).sum(axis=1) + TABLE_BITS
