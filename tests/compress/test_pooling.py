"""Which scales and classes share a table: merging against a loop over sets, real files, and a control that must not gain."""

import math

import numpy as np
import pytest

from scalebound.compress import Coded, QuantizedModel, decode_model, encode_with_breakdown
from scalebound.compress import plan as plan_module
from scalebound.compress.pooling import MOST_GROUPS, SYMBOL_BITS, TABLE_BITS, groupings


def by_sets(messages: list[dict[int, int]]) -> list[list[int]]:
    """The same merging, of dictionaries of counts, everything computed anew each time."""

    def cost(group: tuple[int, ...]) -> float:
        counts: dict[int, int] = {}
        for k in group:
            for symbol, count in messages[k].items():
                counts[symbol] = counts.get(symbol, 0) + count
        total = sum(counts.values())
        return -sum(count * math.log2(count / total) for count in counts.values()) + SYMBOL_BITS * len(counts) + TABLE_BITS

    groups = [(k,) for k in range(len(messages))]
    found = []
    while len(groups) > 1:
        if len(groups) <= MOST_GROUPS:
            found.append([next(number for number, group in enumerate(groups) if k in group) for k in range(len(messages))])
        pairs = [(cost(a + b) - cost(a) - cost(b), i, j) for i, a in enumerate(groups) for j, b in enumerate(groups) if i < j]
        _, i, j = min(pairs)
        groups[i] += groups.pop(j)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_merging_against_sets(seed):
    rng = np.random.default_rng(seed)
    histograms, messages = [], []
    for _ in range(13):
        symbols = (rng.normal(size=rng.integers(5, 200)) * rng.uniform(0.5, 5) + rng.choice([0, 20, 40])).round().astype(int)
        low = int(symbols.min())
        counts = np.bincount(symbols - low)
        histograms.append((low, counts))
        messages.append({low + k: int(count) for k, count in enumerate(counts) if count})
    found = list(groupings(histograms))
    assert found == by_sets(messages) and [len(set(numbers)) for numbers in found] == list(range(MOST_GROUPS, 1, -1))


@pytest.mark.parametrize("histograms", [[], [(3, np.array([4]))]])
def test_nothing_to_share(histograms):
    assert list(groupings(histograms)) == []


def model(centres: list[float], cols: bool = False) -> QuantizedModel:
    rng = np.random.default_rng(0)

    def scales(centre: float, count: int) -> np.ndarray:
        return (0x3F80 + 32 * np.round(centre + rng.normal(size=count))).astype(np.uint16)

    return QuantizedModel({}, {f"w{k}": Coded(rng.integers(-2, 3, (96, 80)), scales(centre, 96), scales(centre + 40, 80) if cols else None) for k, centre in enumerate(centres)})


@pytest.mark.parametrize("cols", [False, True])
def test_files_with_scales_apart_are_shorter(cols, monkeypatch):
    """Against the same file with one table for all; where all scales are of one kind the writer keeps one table, and the bytes are the same."""
    apart, alike = model([0, 0, -20, -20, -40, -40], cols), model([0] * 6)
    package, parts = encode_with_breakdown(apart)
    assert decode_model(package).sha256() == apart.sha256()
    control = encode_with_breakdown(alike)[0]
    monkeypatch.setattr(plan_module, "POOLED", ())
    pooled, before = encode_with_breakdown(apart)
    assert len(package) < len(pooled) - 50 and parts.scale_bytes < 0.75 * before.scale_bytes
    assert encode_with_breakdown(alike)[0] == control


def test_rows_and_columns_have_tables_of_their_own():
    """Row scales near 1 and column scales far away: in one table every scale would pay a bit for the other kind."""
    parts = encode_with_breakdown(model([0, 0], cols=True))[1]
    entropy_bits = 2 * (96 + 80) * 2.05  # of a rounded standard normal number
    assert 8 * parts.scale_bytes < 1.15 * entropy_bits
