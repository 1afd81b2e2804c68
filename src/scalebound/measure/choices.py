"""Multiple choice: the log-probability of every choice after its context, with the text that choices and items share read once.

A choice's score is the sum of its tokens' log-probabilities, or that sum per byte of the choice. Context and choice meet as in
lm-evaluation-harness 0.4: white space at the end of the context moves to the choice; both together are encoded, and what stands behind the
length of the encoded context is the choice's, read behind the encoded context. Special tokens that the tokenizer puts before a text are put there; an empty context is the
model's first token; a text too long for the model loses its beginning. So accuracies equal the harness's ``acc`` and ``acc_bytes``.

What is shared: the tokens that all choices of an item begin with are read once and their keys and values kept; of these, the next item
reads only what differs (worked examples at the start of every context are read once a file). Choices of the same input, such as letters,
are one row.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scalebound.core.errors import InputError
from scalebound.core.progress import Progress, silent
from scalebound.data.tokenizer import Tokenizer
from scalebound.measure.items import Item
from scalebound.measure.statistics import token_statistics
from scalebound.measure.text import tokenizer_of
from scalebound.models.language_model import LanguageModel, Past


@dataclass(frozen=True)
class ItemScore:
    """``log_probabilities``: of each choice, nats. ``tokens``: how many each has."""

    item: Item
    log_probabilities: np.ndarray
    tokens: tuple[int, ...]

    @property
    def chosen(self) -> int:
        """The choice of the largest summed log-probability, the first among equals."""
        return int(np.argmax(self.log_probabilities))

    @property
    def chosen_per_byte(self) -> int:
        """The choice of the largest log-probability per byte."""
        return int(np.argmax(self.log_probabilities / np.asarray(self.item.choice_bytes)))

    @property
    def nll(self) -> float:
        """``-log p(gold)`` when one of the choices must come: a loss of the answer that can be compared between models."""
        return float(np.logaddexp.reduce(self.log_probabilities) - self.log_probabilities[self.item.gold])


def encode_pair(tokenizer: Tokenizer, context: str, choice: str, first_token: int) -> tuple[list[int], list[int]]:
    """Tokens of a context and of the choice behind it, as lm-evaluation-harness cuts them.

    >>> from scalebound.data.tokenizer import ByteTokenizer
    >>> before, after = encode_pair(ByteTokenizer(), "Is it? ", "Yes", 255)
    >>> bytes(before), bytes(after)
    (b'Is it?', b' Yes')
    """
    if not context.strip():
        tokens = tokenizer.encode((context + choice).encode()).tolist()
        return (tokens[:1], tokens[1:]) if tokens[:1] == [first_token] else ([first_token], tokens)
    stripped = context.rstrip()
    context, choice = stripped, context[len(stripped) :] + choice
    whole, before = (tokenizer.encode(text.encode()).tolist() for text in (context + choice, context))
    opening = tokenizer.opening()
    if opening and whole[: len(opening)] != opening:  # a context that says it itself gets no second one
        whole, before = opening + whole, opening + before
    return before, whole[len(before) :]


@torch.inference_mode()
def score_items(model: LanguageModel, items: Sequence[Item], *, tokenizer: Tokenizer | None = None, share: bool = True, progress: Progress = silent) -> list[ItemScore]:
    """Score every choice of every item.

    Parameters
    ----------
    tokenizer
        Default: the model's own.
    share
        False reads every choice with its whole context anew: for comparison.

    Raises
    ------
    InputError
        No tokenizer, or one of another vocabulary; a choice that adds no token to its context; a log-probability that is not a number.

    Notes
    -----
    With shared prefixes the numbers are those without within float32 rounding (a test holds both to 2e-5). Memory: the keys and values of one context and of its choices.
    """
    tokenizer = tokenizer or tokenizer_of(model)
    if tokenizer.vocab_size > model.vocab_size:
        raise InputError(f"knows {tokenizer.vocab_size:,} tokens", where=tokenizer.path or "the tokenizer", expected=f"the model's ({model.vocab_size:,})")
    reader = _Reader(model, share)
    out = []
    for number, item in enumerate(items):
        pairs = [encode_pair(tokenizer, context, choice, model.first_token) for context, choice in zip(item.contexts, item.choices, strict=True)]
        for choice, (_, tokens) in zip(item.choices, pairs, strict=True):
            if not tokens or len(tokens) > model.max_context:
                raise InputError(f"has the choice {choice[:40]!r} of {len(tokens):,} tokens", where=item.name, expected=f"between 1 and {model.max_context:,}")
        scores = reader.scores(pairs)
        if not np.isfinite(scores).all():
            raise InputError(f"gives choice {int(np.argmax(~np.isfinite(scores)))} of {item.name} the log-probability {scores[~np.isfinite(scores)][0]}", where=model.name, expected="finite predictions")
        out.append(ItemScore(item, scores, tuple(len(tokens) for _, tokens in pairs)))
        progress(number + 1, len(items))
    return out


class _Reader:
    """Reads choices behind their contexts, keeping what it has read last."""

    def __init__(self, model: LanguageModel, share: bool) -> None:
        self.model, self.share = model, share and model.extend is not None
        self.read: list[int] = []  # the tokens whose keys and values are in ``past``
        self.past: Past | None = None

    def scores(self, pairs: Sequence[tuple[list[int], list[int]]]) -> np.ndarray:
        """Log-probability of every choice of one item."""
        limit = self.model.max_context
        inputs = [(before + after)[-(limit + 1) :][:-1] for before, after in pairs]
        answers = [after for _, after in pairs]
        # every input keeps at least the token before its choice for the second reading
        shared = min(_common(inputs), *(len(text) - len(answer) for text, answer in zip(inputs, answers, strict=True))) if self.share else 0
        past = self._past_of(inputs[0][:shared]) if shared > 0 else None
        shared = len(past) if past is not None else 0
        rows: dict[tuple[int, ...], int] = {}
        for text in inputs:
            rows.setdefault(tuple(text[shared:]), len(rows))
        width = max(map(len, rows))
        tokens_BT = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self.model.device)  # padding behind the end is never seen
        hidden_BTD = self._hidden(tokens_BT, past)
        states, targets, sizes = [], [], []
        for text, answer in zip(inputs, answers, strict=True):
            last = len(text) - shared
            states.append(hidden_BTD[rows[tuple(text[shared:])], last - len(answer) : last])
            targets += answer
            sizes.append(len(answer))
        nll = token_statistics(self.model, torch.cat(states), torch.tensor(targets, device=self.model.device))[0].double().cpu().numpy()
        return -np.add.reduceat(nll, np.cumsum([0, *sizes[:-1]]))

    def _hidden(self, tokens_BT: Tensor, past: Past | None) -> Tensor:
        if past is None or self.model.extend is None:
            return self.model.hidden(tokens_BT)
        return self.model.extend(tokens_BT, past.repeat(len(tokens_BT)))[0]

    def _past_of(self, tokens: list[int]) -> Past | None:
        assert self.model.extend is not None
        known = _common([self.read, tokens]) if self.read else 0
        past = self.past.cut(known) if self.past is not None and known else None
        if known < len(tokens):
            _, past = self.model.extend(torch.tensor([tokens[known:]], device=self.model.device), past)
        self.read, self.past = list(tokens), past
        return past


def _common(texts: Sequence[list[int]]) -> int:
    """Number of tokens that all texts begin with."""
    return len(os.path.commonprefix(list(texts)))
