"""Was this text sampled from this model: a game against the null in which no wealth can be expected, at any length.

Under "token k was sampled from A's own distribution" the loss X_k has mean H_k (the entropy of that distribution) and variance v_k, both
known before the token. Three ways to bet, each a non-negative martingale under the null, so ``1/e`` is an exact p-value whenever one stops:

* *too surprising* (text of someone else): ``1 + l (X - H)`` with ``l < 1/H``, as a loss is never negative;
* *too predictable* (a colder sampler, memorised text): ``1 - a (X - H) + b ((X - H)^2 - v)``, whose square keeps it positive although X has
  no upper limit: with ``a^2 <= 4 b (1 - m - b v)`` it is never below m. No clipping and no array beyond ``varentropy`` is needed;
* *sampled from B instead*: the likelihood ratio ``p_B/p_A``, against which no bet grows faster when B is true.

The bet l (a) is the same at every token up to its limit, and several share the wealth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalebound.certify.evalues import e_bh, e_value, p_value
from scalebound.core.errors import InputError, UsageError
from scalebound.core.scored import Scored as Scored

BETS = np.geomspace(0.005, 1.0, 12)
RESERVE = 0.05  # the share of its wealth that no single token can take below
ROUNDING = 1e-5  # how far a stored loss, entropy or variance may be from the exact one, relative to 1 + its size
CHUNK = 1 << 14
CERTAIN = 1e5  # log of what a token brings that the null calls impossible


def _mixture(logs: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log wealth after every token of a chunk for an equal mixture of bets, (bets, tokens) log factors; and what each bet holds at its end."""
    total = before[:, None] + np.cumsum(logs, axis=1)
    top = total.max(axis=0)
    return top + np.log(np.exp(total - top).mean(axis=0)), total[:, -1]


def wealth(scored: Scored, *, side: Literal["surprising", "predictable"], bets: np.ndarray = BETS) -> np.ndarray:
    """Log wealth after every token of the game against "sampled from A", for one side; (tokens,).

    Under the null the expected wealth after any token, or at any stopping time, is at most 1. Stored values are moved by :data:`ROUNDING`
    against the player, so that rounding in the measurement cannot make it a winning game.

    bets : (bets,) > 0            l or a; at each token cut to what is allowed there

    >>> rng = np.random.default_rng(0)
    >>> x = rng.exponential(2.0, 2000)  # mean 2 where the model expects 1
    >>> bool(wealth(Scored(x, np.ones(2000)), side="surprising")[-1] > 100)
    True
    """
    if side == "predictable" and scored.varentropy is None:
        raise InputError("has no array 'varentropy'", where="detect", expected="the variance of the loss, to bet that it is too small")
    held, out = np.zeros(len(bets)), np.empty(len(scored))
    for start in range(0, len(scored), CHUNK):
        piece = scored.part(start, start + CHUNK)
        x, h = np.maximum(piece.nll, 0.0, dtype=np.float64), np.maximum(piece.entropy, 0.0, dtype=np.float64)
        slack = ROUNDING * (1 + h)
        impossible = ~np.isfinite(x)
        x = np.where(impossible, 0.0, x)
        if side == "surprising":
            h = h + slack
            stake = np.minimum(bets[:, None], (1 - RESERVE) / h)
            logs = np.log1p(stake * (x - h))
        else:
            assert piece.varentropy is not None
            y = x - np.maximum(h - slack, 0.0)
            v = np.maximum(piece.varentropy, 0.0, dtype=np.float64)
            v = v + ROUNDING * (1 + v) + (2 * slack) ** 2
            keep = 1 - RESERVE
            a = np.minimum(bets[:, None], 0.999 * keep / np.sqrt(v))
            b = a**2 / 2 / (keep + np.sqrt(keep**2 - a**2 * v))  # the smaller root of b^2 v - keep b + a^2/4 = 0
            logs = np.log1p(-a * y + b * (y**2 - v))
        logs = np.where(impossible, CERTAIN, logs)
        if piece.bet is not None:
            logs = np.where(piece.bet, logs, 0.0)
        out[start : start + len(x)], held = _mixture(logs, held)
    return out


def likelihood_ratio(null: Scored, other: Scored) -> np.ndarray:
    """Log of ``prod p_other/p_null`` after every token: the game against "sampled from the null" that grows fastest when ``other`` is true.

    Nothing is staked where either says so.

    >>> likelihood_ratio(Scored(np.ones(2), np.ones(2)), Scored(np.zeros(2), np.ones(2))).round(3).tolist()
    [1.0, 2.0]
    """
    if len(null) != len(other):
        raise InputError(f"{len(null):,} tokens and {len(other):,}", where="detect", expected="the same tokens under both models")
    a, b = (np.minimum(s.nll, CERTAIN, dtype=np.float64) for s in (null, other))
    steps = a - b - ROUNDING * (1 + np.where(np.isfinite(null.nll), np.maximum(null.entropy, a), 0.0))
    for scored in (null, other):
        if scored.bet is not None:
            steps = np.where(scored.bet, steps, 0.0)
    return np.cumsum(steps)


@dataclass(frozen=True)
class Detection:
    """What the games found after n tokens.

    ``e_value`` is against "sampled from A", ``p_value`` valid whenever one stops: one over the most wealth there ever was. ``crossed`` is
    the token at which it passed ``1/level`` (None: never). With B, ``*_b`` is the same against "sampled from B". ``verdict``: ``not_a``,
    ``not_b``, ``neither``, ``undecided``; nothing proves that a text *is* from a model. ``mean_excess`` is the mean of loss minus entropy
    under A where bets were placed.
    """

    e_value: float
    log_e_value: float
    p_value: float
    verdict: Literal["not_a", "not_b", "neither", "undecided"]
    n: int
    level: float
    crossed: int | None
    mean_excess: float
    impossible: int
    e_value_b: float | None = None
    log_e_value_b: float | None = None
    p_value_b: float | None = None


def detect(a: Scored, b: Scored | None = None, *, level: float = 0.05) -> Detection:
    """Test "this text was sampled from A" (and "from B") at an exact level.

    The wealth is shared equally between "too surprising" and, where ``varentropy`` is known, "too predictable"; with B, half of it goes to
    the likelihood ratio. Each null fails to be kept with probability at most ``level`` when true, whatever the length, and however often one
    looked. The null is sampling as scored: temperature, nucleus, and context the same.

    Raises
    ------
    UsageError        level outside (0, 1)
    InputError        NaN, negative values, different lengths, no token

    Cost: about 0.4 microseconds a token and game.

    Source: docs/mathematics.md section 13; the statistic ``X - H`` as in arXiv 2501.02406, which judges it asymptotically.

    >>> rng = np.random.default_rng(0)
    >>> own = Scored(rng.exponential(1.0, 3000), np.ones(3000), np.ones(3000))
    >>> detect(own).verdict, detect(Scored(0.7 * own.nll, own.entropy, own.varentropy)).verdict
    ('undecided', 'not_a')
    """
    if not 0 < level < 1:
        raise UsageError(f"level is {level}", where="level", expected="inside (0, 1)")
    path = _path(a, b)
    other = _path(b, a) if b is not None else None
    best, best_b = float(path.max()), float(other.max()) if other is not None else -math.inf
    limit = math.log(1 / level)
    not_a, not_b = best >= limit, best_b >= limit
    placed = np.isfinite(a.nll) if a.bet is None else a.bet & np.isfinite(a.nll)
    return Detection(
        e_value=e_value(float(path[-1])),
        log_e_value=float(path[-1]),
        p_value=p_value(best),
        verdict="neither" if not_a and not_b else "not_a" if not_a else "not_b" if not_b else "undecided",
        n=len(a),
        level=level,
        crossed=int(np.argmax(path >= limit)) if not_a else None,
        mean_excess=float((a.nll[placed].astype(np.float64) - a.entropy[placed]).mean()) if placed.any() else 0.0,
        impossible=int((~np.isfinite(a.nll) & (True if a.bet is None else a.bet)).sum()),
        e_value_b=None if other is None else e_value(float(other[-1])),
        log_e_value_b=None if other is None else float(other[-1]),
        p_value_b=None if other is None else p_value(best_b),
    )


def _path(null: Scored, other: Scored | None) -> np.ndarray:
    """Log wealth after every token of everything staked against one null."""
    games = [wealth(null, side="surprising")]
    if null.varentropy is not None:
        games.append(wealth(null, side="predictable"))
    own = np.logaddexp.reduce(games, axis=0) - math.log(len(games))
    return own if other is None else np.logaddexp(own, likelihood_ratio(null, other)) - math.log(2)


def detect_documents(parts: Sequence[tuple[Scored, Scored | None]], *, level: float = 0.05) -> tuple[list[Detection], np.ndarray]:
    """Each document by itself, and which to call "not sampled from A" so that the expected share of false calls is at most ``level``.

    >>> rng = np.random.default_rng(0)
    >>> texts = [Scored(rng.exponential(mean, 500), np.ones(500), np.ones(500)) for mean in (1.0, 2.0, 1.0)]
    >>> detect_documents([(text, None) for text in texts])[1].tolist()
    [False, True, False]
    """
    found = [detect(a, b, level=level) for a, b in parts]
    return found, e_bh([one.log_e_value for one in found], level)


def combine(found: Sequence[Detection], *, of_b: bool = False) -> float:
    """Log e-value against "all documents were sampled from A": the sum, as each is an e-value given those before it.

    >>> combine([])
    0.0
    """
    return math.fsum((one.log_e_value_b if of_b else one.log_e_value) or 0.0 for one in found)


def z_statistic(scored: Scored) -> float:
    """``sum (X - H) / sqrt(sum v)``, normal in the limit: the asymptotic statistic, for comparison. It is not valid when one looks more than
    once, and at the levels people want (0.001) its tail is not normal at the lengths people have.

    >>> round(z_statistic(Scored(np.full(4, 2.0), np.ones(4), np.ones(4))), 6)
    2.0
    """
    if scored.varentropy is None:
        raise InputError("has no array 'varentropy'", where="detect")
    use = np.isfinite(scored.nll) if scored.bet is None else scored.bet & np.isfinite(scored.nll)
    spread = math.sqrt(float(scored.varentropy[use].sum(dtype=np.float64)))
    excess = float((scored.nll[use].astype(np.float64) - scored.entropy[use]).sum())
    return excess / spread if spread else 0.0


