"""The room a loss leaves: models within epsilon nats of a checkpoint on its stream that differ most on a stated probe.

A probe is a list of items: a prompt and two continuations a and b. A model's *preference* on an item is log p(a | prompt) - log p(b | prompt).
From one checkpoint theta_0 two models are trained, one towards a, one towards b, each under the constraint that the loss on the stream stays:

    minimize  mean_i softplus(-s * preference_i(theta))      subject to  L(theta) - L(theta_0) <= epsilon / 5,       s = +1 or -1

The constraint is a hinge on the same batch for both models, with a multiplier that grows while it is violated and shrinks while it is not.
Of ten models on the way the last one is taken that loses at most epsilon / 3 more on a second part of the stream. On a third part, which
nothing was chosen on, :func:`scalebound.certify.compare` bounds the difference of losses; the verdict "equal" within epsilon is what counts.
The probe is read on items that were not trained on.

This shows room, not the most room there is: the optimum of a non-convex problem is not claimed. Norm gains are trained too; a tied head
stays tied.

Source: the question is that of Reizinger et al. 2024, arXiv 2405.01964; the same idea for accuracy: Marx, Calmon and Ustun 2020, arXiv 1909.06677
(predictive multiplicity), D'Amour et al. 2020, arXiv 2011.03395 (underspecification).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.certify import compare
from scalebound.core.errors import MachineError, UsageError
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import derive, generator
from scalebound.core.stats import Stats, StatsInfo
from scalebound.probe.exact import check_level, clopper_pearson
from scalebound.probe.llama import Weights, logits_of

AIM, ACCEPT = 1 / 5, 1 / 3  # of epsilon: what training keeps to, and what the second part of the stream may show; the rest is for the interval
STOPS = 10  # models on the way
PARTS = (0.6, 0.1, 0.3)  # of the stream's blocks: to train on, to choose t on, to compare on
PIECE = 32  # blocks scored at once


@dataclass(frozen=True)
class Item:
    """Token ids of a prompt and of two continuations, each of at least one token."""

    prompt: tuple[int, ...]
    a: tuple[int, ...]
    b: tuple[int, ...]


def preferences(config: dict, weights: Weights, items: Sequence[Item], first: int) -> Tensor:
    """log p(a | prompt) - log p(b | prompt) of every item: (items,). ``first`` is fed before every prompt."""
    texts = [[first, *item.prompt, *end] for item in items for end in (item.a, item.b)]
    T = max(map(len, texts))
    tokens = torch.tensor([text + [0] * (T - len(text)) for text in texts])
    scored = torch.zeros(len(texts), T - 1)
    for row, item in enumerate(items):
        start = len(item.prompt)
        scored[2 * row, start : start + len(item.a)] = 1.0
        scored[2 * row + 1, start : start + len(item.b)] = 1.0
    log_p = logits_of(config, weights, tokens[:, :-1]).log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    sums = (log_p * scored).sum(1).view(-1, 2)
    return sums[:, 0] - sums[:, 1]


def token_losses(config: dict, weights: Weights, blocks_BT: Tensor, first: int) -> Tensor:
    """Loss of every token of every block (B, T), ``first`` fed before each block."""
    inputs_BT = F.pad(blocks_BT[:, :-1], (1, 0), value=first)
    return F.cross_entropy(logits_of(config, weights, inputs_BT).transpose(1, 2), blocks_BT, reduction="none")


def _scored(config: dict, weights: Weights, blocks: Tensor, first: int) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([token_losses(config, weights, part, first) for part in blocks.split(PIECE)]).double().numpy()


def pushed(config: dict, weights: Weights, items: Sequence[Item], blocks: Tensor, before: Tensor, *, sign: float, epsilon: float, steps: int, lr: float, batch: int, first: int, seed: int) -> Iterator[Weights]:
    """Train towards a (``sign`` 1) or b (-1) under the hinge on the loss of ``blocks``; weights at up to ten stops, the last one at the end.

    ``before`` (blocks,) are the mean losses under ``weights``: the excess is that of the same blocks, so that it is small where nothing changed.
    """
    parameters = {name: tensor.clone().requires_grad_(True) for name, tensor in weights.items()}
    stepper = torch.optim.AdamW(list(parameters.values()), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    rng = generator(seed, "room", sign)
    multiplier = 1.0
    for step in range(steps):
        stepper.param_groups[0]["lr"] = lr * min(1.0, 2 * (1 - step / steps))
        rows = rng.integers(len(blocks), size=batch)
        asked = [items[k] for k in rng.integers(len(items), size=min(len(items), 2 * batch))]
        excess = (token_losses(config, parameters, blocks[rows], first).mean() - before[rows].mean()) / epsilon - AIM
        loss = F.softplus(-sign * preferences(config, parameters, asked, first)).mean() + multiplier * F.relu(excess)
        stepper.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        if not torch.isfinite(norm):
            raise MachineError(f"the gradient is not finite at step {step}", hint="choose a smaller --lr")
        stepper.step()
        multiplier = min(max(multiplier * (1.1 if excess > 0 else 0.95), 0.1), 100.0)
        if (step + 1) * STOPS // steps > step * STOPS // steps:
            yield {name: tensor.detach().clone() for name, tensor in parameters.items()}


@dataclass(frozen=True)
class NeighbourRow:
    """One model on one set of items: its loss difference from the checkpoint with its interval, and the share of items on which it prefers a.

    ``equal_loss``: the interval lies within +-epsilon. ``preference`` is the mean, in nats.
    """

    model: str
    items: str
    loss: float
    difference: float
    low: float
    high: float
    equal_loss: bool
    preference: float
    prefers_a: float
    rate_low: float
    rate_high: float
    n: int


@dataclass(frozen=True)
class Room:
    """What :func:`probe_room` found: rows, and the weights of every neighbour by set of items and "up" or "down"."""

    rows: tuple[NeighbourRow, ...]
    models: dict[tuple[str, str], Weights]
    epsilon: float

    def found(self, items: str) -> bool:
        """Both neighbours have equal loss, and their rates' intervals do not overlap."""
        of = {row.model: row for row in self.rows if row.items == items}
        return of["up"].equal_loss and of["down"].equal_loss and of["up"].rate_low > of["down"].rate_high


def probe_room(config: dict, weights: Weights, blocks: Tensor, items: Mapping[str, Sequence[Item]], *, first: int, epsilon: float = 0.01, steps: int = 300, lr: float = 4e-3,
               batch: int = 16, level: float = 0.95, seed: int = 0, progress: Progress = silent) -> Room:  # fmt: skip
    """Push one checkpoint up and down on each set of items, within epsilon nats of its loss.

    Parameters
    ----------
    config, weights : a Llama-style model, see :func:`~scalebound.probe.llama.read_llama`
    blocks : (blocks, T) int64 tokens of the stream, in order; at least 10
    items : named sets, each of at least 4 items; every second one is trained on, the others are read
    first : token fed before blocks and prompts
    epsilon : nats per token, > 0
    steps, lr, batch : of each push
    level : in (0, 1)         of all intervals together: half for the losses, half for the rates

    Returns
    -------
    Room                      for every set: the checkpoint, "up" (towards a) and "down" (towards b)

    Raises
    ------
    UsageError                too few blocks or items, numbers out of range
    MachineError              training diverged

    Cost: per set 2 x steps x (a pass over a batch and one over its items), and the stream scored once by the checkpoint, its later parts by all.
    """
    check_level(level)
    if not epsilon > 0 or steps < 1 or not lr > 0 or batch < 1:
        raise UsageError("epsilon, steps, lr and batch must be positive", where="probe_room")
    if len(blocks) < 10 or any(len(group) < 4 for group in items.values()) or not items:
        raise UsageError(f"{len(blocks)} blocks and sets of {[len(group) for group in items.values()]} items", where="probe_room", expected="at least 10 blocks and 4 items in every set")
    edges = np.round(np.cumsum((0.0, *PARTS)) * len(blocks)).astype(int)
    train, choose, hold = (blocks[a:b] for a, b in zip(edges, edges[1:], strict=False))
    base_train, base_choose, base_hold = (_scored(config, weights, part, first) for part in (train, choose, hold))
    before = torch.from_numpy(base_train.mean(1)).float()
    spare = (1 - level) / 2
    rows, models, done = [], {}, 0
    for name, group in items.items():
        learn, read = group[::2], group[1::2]
        one = 1 - spare / (3 * len(items))
        found = {"checkpoint": weights}
        for model, sign in (("up", 1.0), ("down", -1.0)):
            found[model] = weights
            for stop in pushed(config, weights, learn, train, before, sign=sign, epsilon=epsilon, steps=steps, lr=lr, batch=batch, first=first, seed=derive(seed, name)):
                if (_scored(config, stop, choose, first) - base_choose).mean() <= ACCEPT * epsilon:
                    found[model] = stop
            models[name, model] = found[model]
            progress(done := done + 1, 2 * len(items))
        for model, own in found.items():
            nll = _scored(config, own, hold, first)
            a, b = (Stats(StatsInfo(kind="bare", tokens=x.size, window=(0, x.size)), {"nll": x.ravel()}) for x in (nll, base_hold))
            bound = compare(a, b, level=1 - spare / (2 * len(items)), epsilon=epsilon, sigma=0.1)
            with torch.no_grad():
                values = preferences(config, own, read, first)
            prefers = int((values > 0).sum())
            same = model == "checkpoint"
            rows.append(NeighbourRow(model, name, float(nll.mean()), *((0.0, 0.0, 0.0, True) if same else (bound.difference, bound.low, bound.high, bound.verdict == "equal")),
                                     float(values.mean()), prefers / len(read), *clopper_pearson(prefers, len(read), one), len(read)))  # fmt: skip
    return Room(tuple(rows), models, epsilon)
