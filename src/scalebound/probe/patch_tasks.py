"""Pairs of prompts for activation patching: a clean one with its answer, and a corrupted one of equal length with another.

Positions are patched one for one, so both prompts of a pair, and all pairs of a run, have the same number of tokens.
"""

from __future__ import annotations

import os
import string
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import torch

from scalebound.core.errors import InputError, UsageError
from scalebound.core.io import parse_json, read_bytes, to_struct
from scalebound.core.seeds import derive
from scalebound.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from scalebound.models.load import newest_checkpoint
from scalebound.probe.finetune import tune
from scalebound.probe.llama import Weights, random_llama


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


@dataclass(frozen=True)
class Words:
    """How a model's tokens are written: its tokenizer (None: it has none), the token put before every prompt (None: none), and the tokens that
    random prompts are made of."""

    tokenizer: Tokenizer | None
    first: int | None
    pool: np.ndarray

    @cached_property
    def _texts(self) -> dict[int, str]:
        return {number: text for text, number in self.tokenizer.vocabulary().items()} if self.tokenizer else {}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text.

        Raises
        ------
        UsageError
            The model has no tokenizer.
        """
        if self.tokenizer is None:
            raise UsageError("texts need a tokenizer", where="pairs", expected="a model with a tokenizer.json", hint="leave --pairs out")
        return [int(token) for token in self.tokenizer.encode(text.encode())]

    def write(self, token: int) -> str:
        """A token for people, with its spaces to be seen."""
        return self._texts.get(token, str(token)).replace("\u0120", "\u2423").replace("\u2581", "\u2423").replace(" ", "\u2423")


def words_of(model: str | os.PathLike | None, config: dict) -> Words:
    """The words of a model that :func:`~scalebound.probe.llama.read_llama` has read. Random prompts of byte models are letters."""
    V, begin = config["vocab_size"], config.get("bos_token_id")
    pool = np.arange(V)
    if model is None:
        return Words(None, None, pool)
    path = Path(model)
    path = newest_checkpoint(path) if (path / "checkpoints").is_dir() else path
    if V == ByteTokenizer.vocab_size and begin is None:  # a byte model of ours: documents begin with the separator
        return Words(ByteTokenizer(), ByteTokenizer.separator, np.array([ord(letter) for letter in string.ascii_letters]))
    known = path.suffix == ".gguf" or (path / "tokenizer.json").is_file()
    return Words(load_tokenizer(path) if known else None, begin, pool)


def repeated_pairs(pool: np.ndarray, count: int, seed: int, *, half: int = 6, first: int | None = None) -> Pairs:
    """Random tokens said twice: a task for any vocabulary, solved by looking up what followed the last token (induction).

    A clean prompt is ``r1 .. rm r1 .. rk`` with answer ``r(k+1)``; the corrupted one has another random token in the place of the first
    ``r(k+1)``, which is then its answer. Here m = ``half`` and k = m - 2: the looked-up place is neither the first nor the last of its half.

    Parameters
    ----------
    pool : token ids to draw from
    count : pairs, independent draws
    half : >= 4, distinct tokens
    first : a token put before every prompt (the model's beginning of text), or None

    Source: Elhage et al. 2021 (A mathematical framework for transformer circuits); Olsson et al. 2022, arXiv 2209.11895.

    >>> pairs = repeated_pairs(np.arange(50), 3, 0)
    >>> bool((pairs.clean[:, 4] == pairs.answers).all() and (pairs.corrupted[:, 4] == pairs.wrong).all()), pairs.first_difference
    (True, 4)
    """
    if half < 4 or count < 1 or len(pool) < half + 1:
        raise UsageError(f"{count} pairs of {half} tokens out of {len(pool)}", where="repeats", expected="1 pair or more, of 4 tokens or more")
    rng = np.random.default_rng(derive(seed, "patch pairs"))
    k = half - 2
    draws = np.stack([rng.choice(pool, size=half + 1, replace=False) for _ in range(count)]).astype(np.int64)
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


def read_pairs(path: str | os.PathLike, words: Words) -> Pairs:
    """Pairs from a JSON Lines file with the texts ``clean``, ``corrupted``, ``answer`` and ``wrong``.

    ``answer`` follows the clean prompt as it stands there, leading space included; of both answers the first token counts.

    Raises
    ------
    InputError
        No such file, a line that is no such object, prompts of different numbers of tokens (both numbers are said), no pair.
    """
    rows: list[tuple[list[int], list[int], int, int]] = []
    for number, written in enumerate(read_bytes(path, limit=16 << 20).splitlines(), 1):
        if not written.strip():
            continue
        where = f"{path}: line {number}"
        line = to_struct(parse_json(written, where=where), Line, where=where)
        ids = [words.encode(text) for text in (line.clean, line.corrupted, line.answer, line.wrong)]
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
    # positions are named by the first pair's token, and by how it was corrupted
    labels = [words.write(int(a)) if a == b else f"{words.write(int(a))} / {words.write(int(b))}" for a, b in zip(clean[0], corrupted[0], strict=True)]
    if words.first is not None:
        clean, corrupted = (np.concatenate((np.full((len(rows), 1), words.first, dtype=np.int64), x), 1) for x in (clean, corrupted))
        labels = ["begin", *labels]
    return Pairs(clean, corrupted, np.array([row[2] for row in rows]), np.array([row[3] for row in rows]), tuple(labels))


REPEATING = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16,
             "intermediate_size": 128, "vocab_size": 32, "rms_norm_eps": 1e-5, "rope_theta": 10000.0}  # fmt: skip


def repeating_model(seed: int, *, steps: int = 1000) -> tuple[dict, Weights]:
    """A two-layer model trained on random sequences said over and over, of a period that changes, so that it must look up what came before.

    AdamW at 3e-3, 32 sequences of 24 tokens a step; about 15 s at the default.
    """
    rng = np.random.default_rng(derive(seed, "repeating"))
    V: int = REPEATING["vocab_size"]  # type: ignore[assignment]
    batches = []
    for _ in range(steps):
        period = int(rng.integers(4, 13))
        once = np.argsort(rng.random((32, V)), axis=1)[:, :period]  # distinct tokens
        batches.append(torch.from_numpy(np.tile(once, 24 // period + 1)[:, :24].astype(np.int64)))
    weights = random_llama(REPEATING, torch.Generator().manual_seed(derive(seed, "repeating model")))
    return REPEATING, tune(REPEATING, weights, batches, optimizer="adamw", lr=3e-3)
