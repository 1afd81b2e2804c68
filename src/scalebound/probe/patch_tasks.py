"""Pairs of prompts for activation patching: a clean one with its answer, and a corrupted one of equal length with another.

Positions are patched one for one, so both prompts of a pair, and all pairs of a run, have the same number of tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from scalebound.core.errors import InputError, UsageError
from scalebound.core.io import parse_json, read_bytes, to_struct
from scalebound.core.seeds import derive


@dataclass(frozen=True)
class Pairs:
    """``clean``, ``corrupted`` (N, T) int64; ``answers``, ``wrong`` (N,): the token right after the clean and after the corrupted prompt.

    ``labels`` (T,) names the positions for people.

    Raises
    ------
    InputError
        Shapes that do not agree, or an answer equal to the wrong one.
    """

    clean: np.ndarray
    corrupted: np.ndarray
    answers: np.ndarray
    wrong: np.ndarray
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        N, T = self.clean.shape
        if self.corrupted.shape != (N, T) or self.answers.shape != (N,) or self.wrong.shape != (N,) or len(self.labels) != T or not N or not T:
            raise InputError("prompts, answers and labels have different numbers", where="pairs", expected="one length for all prompts")
        if (same := np.flatnonzero(self.answers == self.wrong)).size:
            raise InputError("the answer and the wrong answer begin with the same token", where=f"pair {same[0]}", expected="different ones")

    @property
    def first_difference(self) -> int:
        """The first position at which some pair differs (T where none does): nothing before it can carry an effect in a causal model."""
        differs = np.flatnonzero((self.clean != self.corrupted).any(0))
        return int(differs[0]) if differs.size else self.clean.shape[1]


def repeated_pairs(vocab_size: int, count: int, seed: int, *, half: int = 6, first: int | None = None) -> Pairs:
    """Random tokens said twice: a task for any vocabulary, solved by looking up what followed the last token (induction).

    A clean prompt is ``r1 .. rm r1 .. rk`` with answer ``r(k+1)``; the corrupted one has another random token in the place of the first
    ``r(k+1)``, which is then its answer. Here m = ``half`` and k = m - 2: the looked-up place is neither the first nor the last of its half.

    Parameters
    ----------
    count : pairs, independent draws
    half : >= 4, distinct tokens
    first : a token put before every prompt (the model's beginning of text), or None

    Source: Elhage et al. 2021 (A mathematical framework for transformer circuits); Olsson et al. 2022, arXiv 2209.11895.

    >>> pairs = repeated_pairs(50, 3, 0)
    >>> bool((pairs.clean[:, 4] == pairs.answers).all() and (pairs.corrupted[:, 4] == pairs.wrong).all()), pairs.first_difference
    (True, 4)
    """
    if half < 4 or count < 1 or vocab_size < half + 1:
        raise UsageError(f"{count} pairs of {half} tokens from a vocabulary of {vocab_size}", where="repeated_pairs", expected="4 tokens or more, 1 pair or more")
    rng = np.random.default_rng(derive(seed, "patch pairs"))
    k = half - 2
    draws = np.stack([rng.choice(vocab_size, size=half + 1, replace=False) for _ in range(count)]).astype(np.int64)
    clean = np.concatenate((draws[:, :half], draws[:, :k]), 1)
    corrupted = clean.copy()
    corrupted[:, k] = draws[:, half]
    labels = [f"r{i + 1}" for i in range(half)] + [f"r{i + 1} again" for i in range(k)]
    if first is not None:
        clean, corrupted = (np.concatenate((np.full((count, 1), first, dtype=np.int64), x), 1) for x in (clean, corrupted))
        labels = ["begin", *labels]
    return Pairs(clean, corrupted, draws[:, k], draws[:, half], tuple(labels))


class Line(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A line of a pairs file."""

    clean: str
    corrupted: str
    answer: str
    wrong: str


def read_pairs(path: str | os.PathLike, encode: Callable[[str], Sequence[int]], decode: Callable[[int], str], *, first: int | None = None) -> Pairs:
    """Pairs from a JSON Lines file with the texts ``clean``, ``corrupted``, ``answer`` and ``wrong``.

    ``answer`` follows the clean prompt as it stands there, leading space included; of both answers the first token counts.

    Raises
    ------
    InputError
        No such file, a line that is no such object, prompts of different numbers of tokens (both numbers are said), no pair.
    """
    rows: list[tuple[list[int], list[int], int, int]] = []
    for number, text in enumerate(read_bytes(path, limit=16 << 20).splitlines(), 1):
        if not text.strip():
            continue
        where = f"{path}: line {number}"
        line = to_struct(parse_json(text, where=where), Line, where=where)
        ids = [list(encode(words)) for words in (line.clean, line.corrupted, line.answer, line.wrong)]
        if not all(ids):
            raise InputError("an empty text", where=where, expected="clean, corrupted, answer and wrong of at least one token each")
        size = len(rows[0][0]) if rows else len(ids[0])
        for name, tokens in zip(("clean", "corrupted"), ids, strict=False):
            if len(tokens) != size:
                raise InputError(f"the {name} prompt has {len(tokens)} tokens", where=where, expected=f"{size}: positions are patched one for one",
                                 hint="replace a word by one of as many tokens")  # fmt: skip
        rows.append((ids[0], ids[1], ids[2][0], ids[3][0]))
    if not rows:
        raise InputError("holds no pair", where=str(path), expected='lines such as {"clean": "..", "corrupted": "..", "answer": "..", "wrong": ".."}')
    clean, corrupted = (np.array([row[k] for row in rows], dtype=np.int64) for k in (0, 1))
    # where all prompts agree the token names the position, elsewhere the first pair's and how it was corrupted
    labels = [decode(int(a)) if (clean[:, k] == a).all() and a == b else f"{decode(int(a))}|{decode(int(b))}"
              for k, (a, b) in enumerate(zip(clean[0], corrupted[0], strict=True))]  # fmt: skip
    if first is not None:
        clean, corrupted = (np.concatenate((np.full((len(rows), 1), first, dtype=np.int64), x), 1) for x in (clean, corrupted))
        labels = ["begin", *labels]
    return Pairs(clean, corrupted, np.array([row[2] for row in rows]), np.array([row[3] for row in rows]), tuple(labels))
