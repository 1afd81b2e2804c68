"""What ``probe dimension`` is asked about: a model whose intrinsic dimension is known, or a user's model and items."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scalebound.core.errors import InputError
from scalebound.core.io import sha256_file
from scalebound.core.seeds import generator
from scalebound.data import load_tokenizer
from scalebound.measure.items import read_items
from scalebound.models import open_trainable
from scalebound.models.trainable import Trainable
from scalebound.probe.choosing import Question, questions

HELD = 1 / 3  # of the items
PARTS = 64  # numbers whose sum decides about one prompt
LOG_ODDS = 2.0
PLANTED: dict[str, Any] = {"dimensions": (2, 4, 8, 16, 32, 64), "steps": 300, "batch": 64, "lr": 0.1, "full_lr": 0.003}  # what its few numbers want


@dataclass(frozen=True)
class Case:
    """A model, its items to train on and held out, and the SHA-256 of what was given."""

    model: Trainable
    params: int
    width: int
    train: list[Question]
    held: list[Question]
    inputs: dict[str, str]


class Sums(Trainable):
    """Prompts 0 .. k-1, each answered by token k or k+1; the log-odds of the second after prompt c are the sum of row c of ``theta`` (k, 64).

    The loss depends on k sums of 64 k numbers, so a subspace of k dimensions reaches every value it has and a smaller one does not: the
    toy problem of Li et al. with prompts for its sums.
    """

    def __init__(self, prompts: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(prompts, PARTS))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        prompts = len(self.theta)
        odds_BT = torch.cat([self.theta.sum(1), self.theta.new_zeros(2)])[tokens_BT]
        return nn.functional.pad(odds_BT[..., None], (prompts + 1, 0))

    def config(self) -> dict:
        return {"model_type": "sums", "vocab_size": len(self.theta) + 2}

    def tensors(self) -> dict[str, Tensor]:
        return {"theta": self.theta.detach()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.theta.copy_(tensors["theta"])

    def tensor_class(self, name: str) -> str:
        return "hidden"


def planted(seed: int, *, prompts: int = 32, items: int = 100) -> Case:
    """A task of intrinsic dimension ``prompts``: each prompt's answer is drawn with log-odds of +2 or -2, ``items`` answers a prompt."""
    rng = generator(seed, "dimension", "planted")
    signs = rng.permutation(np.arange(prompts) % 2 * 2 - 1)
    asked = np.repeat(np.arange(prompts), items)
    golds = rng.random(len(asked)) < 1 / (1 + np.exp(-LOG_ODDS * signs[asked]))
    found = [Question((((int(c),), (prompts,)), ((int(c),), (prompts + 1,))), int(gold)) for c, gold in zip(asked, golds, strict=True)]
    return Case(Sums(prompts), prompts * PARTS, PARTS, *_split(found, seed), {})


def own_case(model: str | os.PathLike, items: str | os.PathLike, *, seed: int) -> Case:
    """A user's model and its items (:mod:`scalebound.measure.items`), a third of which, drawn by the seed, is held out.

    Raises :class:`InputError` for a model without a tokenizer, or fewer than 60 items.
    """
    start = open_trainable(model)
    if start.tokenizer == "byte" and start.vocab_size != 256:
        raise InputError(f"predicts {start.vocab_size:,} tokens and comes without a tokenizer", where=str(model), expected="a folder with its tokenizer.json, or a .gguf file")
    words = load_tokenizer(start.tokenizer)
    given = read_items(items)
    if len(given) < 60:
        raise InputError(f"holds {len(given)} items", where=str(items), expected="at least 60: two thirds are trained on, a third is held out")
    found = questions(given, words, first_token=words.separator, max_context=start.max_context)
    return Case(start.model, start.num_params, start.width, *_split(found, seed), {"model": start.sha256, Path(items).name: sha256_file(items)})


def _split(found: list[Question], seed: int) -> tuple[list[Question], list[Question]]:
    order = generator(seed, "dimension", "held out").permutation(len(found))
    held = max(1, round(HELD * len(found)))
    return [found[k] for k in order[held:]], [found[k] for k in order[:held]]
