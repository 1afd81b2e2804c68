"""Which tensors share a table of frequencies: a table costs bytes, a shared one costs bits where distributions differ.

Three answers are offered to the writer, which keeps the one whose file is shortest: one table for all integers and one for all scales;
tables shared among the tensors of a kind (all layers of one matrix) and merged while that saves bits; the same by single tensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scalebound.compress.tables import MAX_SYMBOLS, Table, bucket, fit_table
from scalebound.core.errors import InputError

CHUNK = 1 << 20
# what naming another table costs in the header, in bits, about: for an entry, for one layer of an entry
ENTRY_BITS, LAYER_BITS = 32.0, 12.0

Key = tuple[str, str]  # name of the tensor; "integers", "rows" or "cols"


@dataclass(frozen=True)
class Message:
    """Symbols that are coded with one table. ``key`` is the tensor's name and the part of it."""

    key: Key
    symbols: np.ndarray

    @cached_property
    def histogram(self) -> tuple[int, np.ndarray]:
        """The smallest symbol, and the counts from it to the largest."""
        flat = self.symbols.reshape(-1)
        low, high = int(flat.min()), int(flat.max())
        if high - low >= MAX_SYMBOLS or max(-low, high) >= MAX_SYMBOLS:
            raise InputError(f"its {self.key[1]} run from {low:,} to {high:,}", where=self.key[0], expected=f"magnitudes below {MAX_SYMBOLS:,}", hint="use a larger step")
        counts = np.zeros(high - low + 1, dtype=np.int64)
        for at in range(0, flat.size, CHUNK):  # numpy counts in 64-bit copies: by parts, so that they stay small
            counts += np.bincount(flat[at : at + CHUNK].astype(np.int32) - low, minlength=len(counts))
        return low, counts

    def bits(self, table: Table) -> float:
        return table.bits(*self.histogram)


def share_tables(messages: list[Message], kind: dict[str, int]) -> Iterator[tuple[dict[Key, int], list[Table], float]]:
    """Ways to share tables: ``(number of the table of every message, tables, bits of the coded messages)``.

    Parameters
    ----------
    messages
        Everything that is to be coded.
    kind
        For every tensor's name, the number of the header entry it belongs to.
    """
    roles: dict[str, list[Message]] = defaultdict(list)
    for message in messages:
        roles["integers" if message.key[1] == "integers" else "scales"].append(message)
    order = [roles[role] for role in ("integers", "scales") if roles[role]]
    if not order:
        yield {}, [], 0.0
        return
    yield _build([[group] for group in order])
    by_kind = []
    for group in order:
        kinds: dict[tuple[int, str], list[Message]] = defaultdict(list)
        for message in group:
            kinds[kind[message.key[0]], message.key[1]].append(message)
        by_kind.append(_merge(list(kinds.values()), ENTRY_BITS))
    if any(len(clusters) > 1 for clusters in by_kind):
        yield _build(by_kind)
    if len(messages) > len({(kind[message.key[0]], message.key[1]) for message in messages}):
        yield _build([_merge([[message] for message in group], LAYER_BITS) for group in order])


def _build(clusters: list[list[list[Message]]]) -> tuple[dict[Key, int], list[Table], float]:
    numbers: dict[Key, int] = {}
    tables: list[Table] = []
    bits = 0.0
    for cluster in (cluster for role in clusters for cluster in role):
        low, counts = _pool(cluster)
        tables.append(fit_table(low, counts))
        bits += tables[-1].bits(low, counts)
        numbers |= {message.key: len(tables) - 1 for message in cluster}
    return numbers, tables, bits


def _pool(cluster: list[Message]) -> tuple[int, np.ndarray]:
    low = min(message.histogram[0] for message in cluster)
    high = max(message.histogram[0] + len(message.histogram[1]) for message in cluster)
    counts = np.zeros(high - low, dtype=np.int64)
    for message in cluster:
        first, part = message.histogram
        counts[first - low : first - low + len(part)] += part
    return low, counts


def _merge(clusters: list[list[Message]], other_bits: float) -> list[list[Message]]:
    """Merge the pair that saves most, again and again, until no pair saves anything; the largest cluster comes first.

    The saving is estimated on signed buckets of magnitudes (within a bucket, merging costs nothing that tables could avoid).
    """
    pooled = [_pool(cluster) for cluster in clusters]
    width = int(bucket(np.array(max(max(-low, low + len(counts)) for low, counts in pooled)))) + 1
    histograms = np.zeros((len(clusters), 2 * width + 1))
    for row, (low, counts) in zip(histograms, pooled, strict=True):
        symbols = np.arange(low, low + len(counts))
        np.add.at(row, width + np.sign(symbols) * bucket(np.abs(symbols)), counts)

    def bits(rows: np.ndarray) -> np.ndarray:
        total = rows.sum(axis=-1)
        inside = np.where(rows > 0, rows * np.log2(np.maximum(rows, 1)), 0.0).sum(axis=-1)
        used = (rows > 0).sum(axis=-1)
        return total * np.log2(total) - inside + np.where(used > 1, 4.0 * used + 16, 16)  # half a byte a symbol: most are symmetric

    alive = list(range(len(clusters)))
    own = bits(histograms)
    saved = np.full((len(clusters), len(clusters)), -np.inf)
    for i in alive:
        later = np.arange(i + 1, len(clusters))
        if len(later):
            saved[i, later] = own[i] + own[later] + other_bits - bits(histograms[i] + histograms[later])
    members = [list(cluster) for cluster in clusters]
    while len(alive) > 1:
        i, j = divmod(int(np.argmax(saved)), len(clusters))
        if saved[i, j] <= 0:
            break
        members[i] += members[j]
        histograms[i] += histograms[j]
        own[i] = bits(histograms[i])
        alive.remove(j)
        saved[j, :] = saved[:, j] = -np.inf
        others = np.array([k for k in alive if k != i], dtype=int)
        if len(others):
            gains = own[i] + own[others] + other_bits - bits(histograms[i] + histograms[others])
            saved[np.minimum(i, others), np.maximum(i, others)] = gains
    return sorted((members[k] for k in alive), key=lambda cluster: -sum(message.symbols.size for message in cluster))
