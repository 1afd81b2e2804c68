"""Multiple choice as something to learn: items as token ids, a model's log-probabilities of the choices, and training on them.

The loss of an item is ``-log p(right choice)`` when one of its choices must come: the softmax of the choices' summed log-probabilities. It starts
near the logarithm of their number for a model that does not know the task. Evaluation is in float32; training rounds matrix products to
bfloat16 where recipes do (:mod:`scalebound.train.recipe`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scalebound.core.errors import InputError, MachineError
from scalebound.core.seeds import generator
from scalebound.data.tokenizer import Tokenizer
from scalebound.measure.choices import encode_pair
from scalebound.measure.items import Item
from scalebound.models.load import has_bfloat16
from scalebound.models.trainable import Trainable
from scalebound.train.optim.adamw import adamw
from scalebound.train.passes import logits_of
from scalebound.train.recipe import ROUNDED_FROM

PIECE = 64  # items scored at once
WARMUP = 0.1


@dataclass(frozen=True)
class Question:
    """``texts``: for every choice the token ids before it and its own; ``gold`` the place of the right one."""

    texts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    gold: int


def questions(items: Sequence[Item], tokenizer: Tokenizer, *, first_token: int, max_context: int) -> list[Question]:
    """Items as token ids, context and choice cut as :func:`~scalebound.measure.choices.encode_pair` cuts them; a context too long loses its beginning.

    Raises :class:`InputError` for a choice without a token of its own, or longer than the model reads.
    """
    out = []
    for item in items:
        texts = []
        for context, choice in zip(item.contexts, item.choices, strict=True):
            before, after = encode_pair(tokenizer, context, choice, first_token)
            if not after or len(after) > max_context:
                raise InputError(f"has the choice {choice[:40]!r} of {len(after):,} tokens", where=item.name, expected=f"between 1 and {max_context:,}")
            texts.append((tuple(before[-(max_context + 1 - len(after)) :]), tuple(after)))
        out.append(Question(tuple(texts), item.gold))
    return out


def choice_log_p(model: Trainable, asked: Sequence[Question], precision: str = "float32") -> Tensor:
    """(items, choices) summed log-probabilities, differentiable; items of fewer choices have -inf behind them. Choices of one input are read once."""
    rows: dict[tuple[int, ...], int] = {}
    for question in asked:
        for before, after in question.texts:
            rows.setdefault((before + after)[:-1], len(rows))
    width = max(map(len, rows))
    logits_RTV = logits_of(model, torch.tensor([row + (0,) * (width - len(row)) for row in rows]), precision)  # what is behind a row's end is never read
    wide = max(len(question.texts) for question in asked)
    where: list[int] = []
    at: list[int] = []
    of: list[int] = []
    for number, question in enumerate(asked):
        for place, (before, after) in enumerate(question.texts):
            row = rows[(before + after)[:-1]]
            where += [row * width + len(before) - 1 + k for k in range(len(after))]
            at += after
            of += [number * wide + place] * len(after)
    log_p = logits_RTV.flatten(0, 1)[torch.tensor(where)].log_softmax(-1).gather(1, torch.tensor(at)[:, None])[:, 0]
    out = torch.zeros(len(asked) * wide).index_add(0, torch.tensor(of), log_p).view(len(asked), wide)
    missing = torch.tensor([[place >= len(question.texts) for place in range(wide)] for question in asked])
    return out.masked_fill(missing, -torch.inf)


@torch.no_grad()
def scored(model: Trainable, asked: Sequence[Question]) -> tuple[np.ndarray, np.ndarray]:
    """(items,) losses in nats, and (items,) bool: was the right choice the likeliest (the first among equals)?"""
    losses, right = [], []
    for start in range(0, len(asked), PIECE):
        part = asked[start : start + PIECE]
        gold = torch.tensor([question.gold for question in part])
        log_p = choice_log_p(model, part)
        losses.append(-log_p.log_softmax(1).gather(1, gold[:, None])[:, 0])
        right.append(log_p.argmax(1) == gold)
    return torch.cat(losses).double().numpy(), torch.cat(right).numpy()


def learn(model: Trainable, asked: Sequence[Question], *, params: int, steps: int, batch: int, lr: float, seed: int) -> None:
    """Train in place with AdamW (no decay, warmup over a tenth, linear decay to 0, norm clipped at 1) on batches dealt out in epochs of an order drawn by the seed.

    Raises :class:`MachineError` when the gradient is no longer finite.
    """
    precision = "bfloat16" if params >= ROUNDED_FROM and has_bfloat16() else "float32"
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = adamw(trained, lr=lr, weight_decay=0.0)
    rng = generator(seed, "dimension", "order")
    order = np.concatenate([rng.permutation(len(asked)) for _ in range(-(-steps * batch // len(asked)))])
    for step in range(steps):
        part = [asked[k] for k in order[step * batch : (step + 1) * batch]]
        gold = torch.tensor([question.gold for question in part])
        rate = lr * min((step + 1) / max(1.0, WARMUP * steps), (steps - step) / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = -choice_log_p(model, part, precision).log_softmax(1).gather(1, gold[:, None]).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        if not torch.isfinite(norm):
            raise MachineError(f"the gradient is not finite at step {step + 1} of {steps}", where="probe dimension", hint="choose a smaller --lr")
        optimizer.step()
