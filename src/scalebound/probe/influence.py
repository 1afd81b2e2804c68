"""Counterfactual influence: what a model gets right of a group of documents because the group was trained on.

The memorization score of a group g under a training procedure A and a score M in [0, 1] (here the share of tokens that are the model's argmax) is

    mem(g) = E[ M(A(S), g) | g in S ] - E[ M(A(S), g) | g not in S ]

over the training set S and the randomness of A. It is estimated from runs, of which each has some of the groups and not others: the difference
of two means. A group that says what all others say scores near 0 however often it was seen; one that nothing else explains (the long tail)
scores high. Interval: Welch's, over runs, all groups together by a union bound; it assumes normal scores, which few runs cannot show. Beside it
stands an exact p-value: were there no influence, which runs have the group would be exchangeable with any other choice of as many runs.

Source: Feldman 2020, arXiv 1906.05271; Feldman and Zhang 2020, arXiv 2008.03703; for language models Zhang et al. 2021, arXiv 2112.12938.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scalebound.core.errors import InputError, UsageError, from_os_error
from scalebound.core.seeds import generator
from scalebound.probe.exact import check_level

ENUMERATE = 20_000  # choices of runs up to which all are looked at; above, that many random ones


@dataclass(frozen=True)
class InfluenceRow:
    """One group: mean score of the runs with it and of those without, their difference with its interval, and the exact p-value."""

    group: str
    runs_with: int
    runs_without: int
    score_with: float
    score_without: float
    influence: float
    low: float
    high: float
    p_value: float


def welch(a: np.ndarray, b: np.ndarray, level: float) -> tuple[float, float, float]:
    """Difference of means and Welch's interval for it; degrees of freedom by Welch and Satterthwaite.

    >>> [round(x, 3) for x in welch(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0]), 0.95)]
    [1.0, -1.267, 3.267]
    """
    from scipy.special import stdtrit

    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    gap = float(a.mean() - b.mean())
    if va + vb == 0:
        return gap, gap, gap
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    radius = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(va + vb)
    return gap, gap - radius, gap + radius


def permutation_p(scores: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> float:
    """Share of choices of as many runs whose difference of means is at least as large in size as the one observed (the observed one counted).

    >>> permutation_p(np.array([1.0, 1.1, 0.0, 0.1]), np.array([True, True, False, False]), np.random.default_rng(0))  # 2 of 6 choices
    0.3333333333333333
    """
    n, k = len(scores), int(inside.sum())

    def size(chosen: Sequence[int]) -> float:
        part = scores[list(chosen)].sum()
        return abs(part / k - (scores.sum() - part) / (n - k))

    seen = size(np.flatnonzero(inside).tolist()) - 1e-12  # the same sum in another order may round differently
    if math.comb(n, k) <= ENUMERATE:
        sizes = [size(chosen) for chosen in itertools.combinations(range(n), k)]
        return float(np.mean([one >= seen for one in sizes]))
    hits = sum(size(rng.permutation(n)[:k].tolist()) >= seen for _ in range(ENUMERATE))
    return (hits + 1) / (ENUMERATE + 1)


def influences(groups: Sequence[str], inside: np.ndarray, scores: np.ndarray, *, level: float = 0.95, seed: int = 0) -> list[InfluenceRow]:
    """Memorization scores of groups from runs with and without them.

    Parameters
    ----------
    groups : names
    inside : (runs, groups) bool          whether the run had the group
    scores : (runs, groups) in [0, 1]     how well the run does on the group; any scale will do for the interval
    level : in (0, 1)                     of all intervals together

    Raises
    ------
    UsageError                            a group with fewer than two runs with it or without it, shapes that do not fit, scores that are not finite
    """
    check_level(level)
    if inside.shape != scores.shape or inside.ndim != 2 or inside.shape[1] != len(groups) or not np.all(np.isfinite(scores)):
        raise UsageError(f"inside {inside.shape}, scores {scores.shape}, {len(groups)} groups", where="influences", expected="(runs, groups) twice, finite scores")
    rows = []
    for k, group in enumerate(groups):
        have = inside[:, k]
        if min(have.sum(), (~have).sum()) < 2:
            raise UsageError(f"{int(have.sum())} runs with it and {int((~have).sum())} without", where=group, expected="at least 2 of each: an interval over runs needs them")
        a, b = scores[have, k], scores[~have, k]
        gap = welch(a, b, 1 - (1 - level) / len(groups))
        rows.append(InfluenceRow(group, len(a), len(b), float(a.mean()), float(b.mean()), *gap, permutation_p(scores[:, k], have, generator(seed, "permutations", group))))
    return rows


def read_influence_table(path: str | os.PathLike) -> tuple[list[str], np.ndarray, np.ndarray]:
    """``groups, inside, scores`` from a CSV table with the columns ``run, group, included`` (0 or 1) and ``score``, a row per run and group.

    Raises
    ------
    InputError
        A column missing, a number that is none, a run without a group, or one twice.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise from_os_error(error, path) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"is not a CSV table ({error})", where=str(path)) from error
    found: dict[tuple[str, str], tuple[bool, float]] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{Path(path)}, line {number}"
        try:
            key, value = (line["run"], line["group"]), (line["included"], float(line["score"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"is no row ({error})", where=where, expected="columns run, group, included, score") from error
        if value[0] not in ("0", "1") or not math.isfinite(value[1]) or key in found:
            raise InputError(f"included is {value[0]!r}, score {value[1]}" if key not in found else f"has run {key[0]!r} and group {key[1]!r} again", where=where, expected="0 or 1, a finite score, once for every run and group")
        found[key] = (value[0] == "1", value[1])
    runs, groups = (list(dict.fromkeys(key[k] for key in found)) for k in (0, 1))
    missing = next(((run, group) for run in runs for group in groups if (run, group) not in found), None)
    if not found or missing:
        raise InputError("holds no row" if not found else f"lacks run {missing[0]!r} for group {missing[1]!r}", where=str(path))  # type: ignore[index]
    values = [[found[run, group] for group in groups] for run in runs]
    return groups, np.array([[one[0] for one in row] for row in values]), np.array([[one[1] for one in row] for row in values])
