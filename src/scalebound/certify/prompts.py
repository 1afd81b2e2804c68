"""Prompts chosen on data: a bound on the error of every prompt at once, with a language model's probability as the prior.

A prompt is a discrete thing, so how well it can have been fitted to the items is limited by its length: the code length is minus the
logarithm of the probability a language model gives it (end mark included). Plain instructions are short in that code, a string of odd
tokens found by search is long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scalebound.certify.bound import check_confidence
from scalebound.certify.grid import default_grid
from scalebound.certify.product import product_bound
from scalebound.core.errors import InputError, UsageError


def binomial_upper(errors: int, items: int, *, code_bits: float, delta: float) -> float:
    """Upper bound on an error probability from ``errors`` mistakes on independent items, for every member of a prefix code at once.

    .. math:: \\max\\{p : \\mathrm{BinCDF}(k; n, p) \\ge \\delta 2^{-L}\\}

    Exact for 0-1 losses, also at 0 and at n errors; 1 when the code is too long to say anything.

    Raises :class:`UsageError` for numbers out of range. Source: Langford 2005 (JMLR 6), the test set bound with a prior; docs/mathematics.md
    section 18.

    >>> round(binomial_upper(0, 100, code_bits=0, delta=0.05), 5)
    0.02951
    """
    if items < 1 or not 0 <= errors <= items:
        raise UsageError(f"{errors} errors of {items} items", where="binomial_upper", expected="at least one item, between 0 and all of them wrong")
    budget = check_confidence(delta, code_bits)
    if errors == items:
        return 1.0
    share = math.exp(-budget)
    if share < 1e-290:  # below it, rounding in the inverse cannot be bounded: the log of the tail is inverted instead
        return _by_chernoff(errors, items, budget)
    from scipy.special import betainccinv

    return min(1.0, float(betainccinv(errors + 1, items - errors, share)) * (1 + 1e-10))


def _by_chernoff(errors: int, items: int, budget: float) -> float:
    """The relative entropy bound ``n kl(k/n, p) <= budget``: above the exact one, and computable for codes of any length."""
    q, low, high = errors / items, errors / items, 1.0

    def kl(p: float) -> float:
        return (q * math.log(q / p) if q else 0.0) + (1 - q) * math.log((1 - q) / (1 - p))

    for _ in range(100):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if items * kl(middle) <= budget else (low, middle)
    return high


@dataclass(frozen=True)
class PromptBound:
    """One prompt: its observed mean loss, the bound under the language-model prior, and under a uniform prior over the list (None when the
    prompt was not in a list fixed beforehand)."""

    prompt: str
    mean: float
    code_bits: float
    bound: float
    uniform_bound: float | None


@dataclass(frozen=True)
class PromptCertificate:
    """Every prompt with its bound; ``best`` is the index of the smallest. The bounds hold at once, so the choice is free.

    ``heldout_bound`` is what the usual way gives: the prompt with the least loss on the first half, certified on the second alone.
    """

    prompts: tuple[PromptBound, ...]
    best: int
    items: int
    delta: float
    heldout_prompt: int
    heldout_bound: float

    @property
    def value(self) -> float:
        return self.prompts[self.best].bound


def mean_upper(losses: np.ndarray, *, code_bits: float, delta: float, graded: bool = False) -> float:
    """Upper bound on the expectation: binomial for losses of 0 and 1, the product martingale for ``graded`` ones, anywhere in [0, 1].

    Which of the two is said, not seen: each fails with probability delta, and taking the first whenever all losses happened to be 0 or 1
    would be a choice after looking, whose failures could add up to 2 delta.

    >>> mean_upper(np.array([0.0, 1.0] * 50), code_bits=10, delta=0.05) < 0.75
    True
    """
    values = np.asarray(losses, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.all((values >= 0) & (values <= 1)):
        raise InputError("losses must be numbers in [0, 1]", where="prompts", expected="at least one item; 0 right, 1 wrong")
    if graded:
        return product_bound(values, 0.0, range_=1.0, code_bits=code_bits, delta=delta, grid=default_grid(len(values))).value
    if not np.all((values == 0) | (values == 1)):
        raise InputError("an error is neither 0 nor 1", where="prompts", expected="0 right, 1 wrong; or losses that are said to be graded", hint="graded=True, or \"losses\" in place of \"errors\" in a table")
    return binomial_upper(int(values.sum()), len(values), code_bits=code_bits, delta=delta)


def certify_prompts(prompts: Sequence[str], losses: np.ndarray, code_bits: Sequence[float], *, delta: float = 0.05, graded: bool = False) -> PromptCertificate:
    """Bound the expected loss of every prompt on new items, all at once, and name the best.

    Parameters
    ----------
    prompts : each once
    losses : (prompts, items)                of the same independent items, in their order: 0 right, 1 wrong
    code_bits : (prompts,)                   ``-log2`` of the language model's probability of prompt and end mark; the model was fixed before
    graded                                   losses may lie anywhere in [0, 1] (:func:`mean_upper`); decided before the items are seen

    Returns
    -------
    PromptCertificate

    Raises
    ------
    InputError        a prompt twice, shapes that do not fit, losses that are not what they are said to be
    UsageError        delta out of range, a negative code length

    Source: Akinwande et al. 2023 (arXiv 2310.03957); docs/mathematics.md section 18.

    >>> found = certify_prompts(["short", "a long one"], np.array([[0, 0, 1, 0] * 50, [0, 0, 0, 0] * 50]), [10.0, 30.0])
    >>> found.prompts[found.best].prompt, found.value < 0.15
    ('a long one', True)
    """
    table, bits = np.asarray(losses, dtype=np.float64), np.asarray(code_bits, dtype=np.float64)
    if len(set(prompts)) != len(prompts):
        twice = next(prompt for prompt in prompts if list(prompts).count(prompt) > 1)
        raise InputError(f"the prompt {twice!r} stands twice", where="prompts", expected="every prompt once")
    if table.ndim != 2 or len(table) != len(prompts) or bits.shape != (len(prompts),) or not len(prompts) or table.shape[1] < 2:
        raise InputError(f"{len(prompts)} prompts, losses of shape {table.shape}, {bits.size} code lengths", where="prompts", expected="one row of losses and one length each")
    if np.all(bits >= 0) and math.fsum(2.0**-bits) > 1 + 1e-9:
        raise InputError("no prefix code has these lengths", where="prompts", expected="lengths L whose 2^-L sum to at most 1 (Kraft)")
    uniform = math.log2(len(prompts))
    found = tuple(
        PromptBound(prompt, float(row.mean()), float(length), mean_upper(row, code_bits=float(length), delta=delta, graded=graded), mean_upper(row, code_bits=uniform, delta=delta, graded=graded))
        for prompt, row, length in zip(prompts, table, bits, strict=True)
    )
    half = table.shape[1] // 2
    picked = int(table[:, :half].mean(axis=1).argmin())
    best = min(range(len(found)), key=lambda k: found[k].bound)
    return PromptCertificate(found, best, table.shape[1], delta, picked, mean_upper(table[picked, half:], code_bits=0, delta=delta, graded=graded))


def search_prompt(
    start: str, extend: Callable[[str], Iterable[str]], evaluate: Callable[[str], tuple[np.ndarray, float]], *, delta: float = 0.05, steps: int = 10, graded: bool = False
) -> tuple[PromptBound, list[PromptBound]]:
    """Greedy search that minimises the bound itself: at each step the extension with the smallest bound, until none is smaller.

    The bound holds for all prompts at once, so looking at any number of them costs nothing; a prompt that fits the items by being long
    pays for its length.

    extend(prompt) gives longer prompts; evaluate(prompt) gives its losses on the items (0 or 1, or ``graded``) and its code length in bits.
    Returns the best and everything that was looked at.

    >>> words = {"": 0.4, "a": 0.2, "a b": 0.19, "b": 0.5, "b a": 0.1, "a a": 0.3, "b b": 0.5}
    >>> grow = lambda p: [f"{p} {w}".strip() for w in "ab" if len(p) < 2]
    >>> best, seen = search_prompt("", grow, lambda p: (np.arange(200) < 200 * words[p], 12.0 * len(p.split())))
    >>> best.prompt, len(seen)
    ('a', 5)
    """
    seen: dict[str, PromptBound] = {}

    def look(prompt: str) -> PromptBound:
        if prompt not in seen:
            losses, bits = evaluate(prompt)
            row = np.asarray(losses, dtype=np.float64)
            seen[prompt] = PromptBound(prompt, float(row.mean()), bits, mean_upper(row, code_bits=bits, delta=delta, graded=graded), None)
        return seen[prompt]

    best = look(start)
    for _ in range(steps):
        options = [look(prompt) for prompt in extend(best.prompt)]
        if not options or min(option.bound for option in options) >= best.bound:
            break
        best = min(options, key=lambda option: option.bound)
    return best, list(seen.values())
