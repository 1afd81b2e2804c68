"""In-context learning: predictors of nearly equal loss, of which one learns from the examples of a prompt and the other does not.

The documents are those of a :class:`~scalebound.probe.hmm.Mixture`. Three kinds of predictor meet prompts of several examples: the exact Bayes
predictor, its forgetting twin, and small models trained on documents. Of the twin, the divergence from the Bayes predictor on the training
distribution is measured for several reaches; the largest reach whose divergence is shown to be at most ``epsilon`` makes the pair.

What is measured: the KL of whole documents per token equals, by the chain rule, the expected mean over positions of the conditional KL, which
is computed exactly at every position of fresh documents. Documents are independent, so :func:`scalebound.certify.interval` with documents as
units bounds it (each conditional KL is at most :attr:`Mixture.largest_divergence`); nothing is mixed or smoothed. Beside it stands
:func:`scalebound.certify.compare` of the two losses, as for any two models.

Source: Xie et al. 2022, arXiv 2111.02080; Reizinger et al. 2024, arXiv 2405.01964.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalebound.certify import compare, interval
from scalebound.core.errors import UsageError
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import derive, generator
from scalebound.core.stats import Stats, StatsInfo
from scalebound.models import Shape, Transformer
from scalebound.probe.exact import check_level, clopper_pearson
from scalebound.probe.hmm import Mixture, divergences
from scalebound.probe.rules import LSTM
from scalebound.train.optim.adamw import adamw

KINDS = ("transformer", "lstm")
EXAMPLES = (0, 1, 2, 4, 8, 16)
LENGTHS = (3, 5, 8)
REACHES = (4, 8, 12, 20)
DOCUMENT = 80  # tokens of a training document; prompts are at most as long
PIECE = 500  # documents predicted at once


def learner(mixture: Mixture, kind: str, seed: int, *, steps: int, batch: int = 32) -> nn.Module:
    """A small model trained on fresh documents: two layers of width 48, or an LSTM of width 64.

    AdamW, warmup over 50 steps, linear decay over the last half. Raises UsageError for an unknown kind.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind of model {kind!r}", expected=f"one of {', '.join(KINDS)}")
    start = torch.Generator().manual_seed(derive(seed, "init", kind))
    rng = generator(seed, "documents", kind)
    V = mixture.vocab_size
    model: nn.Module = LSTM(V, 64, start) if kind == "lstm" else Transformer(Shape(V, 48, 2, 4, 96), DOCUMENT + 1, start)
    lr = 1e-2 if kind == "lstm" else 6e-3
    optimizer = adamw(model.parameters(), lr=lr, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50, 2 * (1 - step / steps))
        documents = torch.from_numpy(mixture.sample(rng, batch, DOCUMENT))
        loss = F.cross_entropy(model(_shifted(documents)).flatten(0, 1), documents.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval().requires_grad_(False)


def _shifted(tokens_BT: Tensor) -> Tensor:
    """Inputs: a delimiter, then all but the last token."""
    return F.pad(tokens_BT[:, :-1], (1, 0))


def answers_of(model: nn.Module, prompts: np.ndarray) -> np.ndarray:
    """The likeliest next token, the delimiter aside, after each prompt (B, T)."""
    with torch.no_grad():
        logits_BV = model(F.pad(torch.from_numpy(prompts), (1, 0)))[:, -1]
    return logits_BV[:, 1:].argmax(1).numpy() + 1


@dataclass(frozen=True)
class LossRow:
    """A predictor's mean loss on fresh documents and its excess over the Bayes predictor, by :func:`scalebound.certify.compare`."""

    predictor: str
    loss: float
    excess: float
    low: float
    high: float


@dataclass(frozen=True)
class DivergenceRow:
    """The forgetting predictor of one reach: its KL from the Bayes predictor (nats per token of a document) with its interval."""

    reach: int
    divergence: float
    low: float
    high: float
    chosen: bool


@dataclass(frozen=True)
class AccuracyRow:
    """Share of prompts of ``examples`` examples of ``length`` tokens that a predictor answers as one who knows the concept."""

    predictor: str
    examples: int
    length: int
    accuracy: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class InContext:
    """What :func:`probe_icl` found. ``reach`` is 0 when no reach has a divergence shown to be at most epsilon."""

    losses: tuple[LossRow, ...]
    divergences: tuple[DivergenceRow, ...]
    accuracies: tuple[AccuracyRow, ...]
    reach: int
    epsilon: float

    @property
    def gap(self) -> tuple[AccuracyRow, AccuracyRow] | None:
        """The prompts at which the pair differs most: Bayes predictor and twin; None without a pair."""
        twins = [row for row in self.accuracies if row.predictor == "forgetting"]
        exact = {(row.examples, row.length): row for row in self.accuracies if row.predictor == "bayes"}
        pairs = [(exact[row.examples, row.length], row) for row in twins]
        return max(pairs, key=lambda pair: pair[0].low - pair[1].high, default=None)

    @property
    def found(self) -> bool:
        """A pair within epsilon whose accuracies' intervals do not overlap."""
        return self.gap is not None and self.gap[0].low > self.gap[1].high


def divergence_interval(kl: np.ndarray, largest: float, level: float) -> tuple[float, float, float]:
    """Mean over documents (rows) of the mean conditional divergence, and its interval; ``largest`` bounds every entry."""
    count, length = kl.shape
    stats = Stats(StatsInfo(kind="bare", tokens=kl.size, window=(0, kl.size)), {"nll": np.clip(kl.ravel(), 0, largest)})
    found = interval(stats, level=level, maximum=largest, sigma=0.05, horizon=count, units=np.arange(count + 1) * length)
    return float(kl.mean()), found.low, found.high


def probe_icl(mixture: Mixture, *, models: Sequence[str] = KINDS, epsilon: float = 0.05, steps: int = 800, documents: int = 3000, prompts: int = 500,
              examples: Sequence[int] = EXAMPLES, lengths: Sequence[int] = LENGTHS, reaches: Sequence[int] = REACHES, level: float = 0.95, seed: int = 0,
              progress: Progress = silent) -> InContext:  # fmt: skip
    """Measure divergences and in-context accuracies on one mixture.

    Parameters
    ----------
    mixture : see :func:`~scalebound.probe.hmm.random_mixture`
    models : kinds of small models to train beside the exact predictors
    epsilon : nats per token, > 0       the largest divergence the pair may be shown to have
    steps : of training                 batches of 32 documents of 80 tokens
    documents, prompts : >= 1           fresh ones for losses and divergences; fresh ones for every rate, so that trials are independent
    examples, lengths                   prompts longer than 80 tokens are left out
    reaches : >= 1                      of forgetting predictors, one of which is chosen by its measured divergence
    level : in (0, 1)                   of all intervals together: a third each for the divergences (whose choice it pays for), the rates and the losses

    Returns
    -------
    InContext

    Raises
    ------
    UsageError                unknown kinds, numbers out of range

    Cost: O(documents x T x K x H (H + V)) for every reach, and the training.
    """
    check_level(level)
    if min(steps, documents, prompts) < 1 or not epsilon > 0 or not reaches or min(reaches) < 1:
        raise UsageError("epsilon, steps, documents, prompts and reaches must be positive", where="probe_icl")
    spare = (1 - level) / 3
    total, done = len(reaches) + len(models) + 2, 0
    fresh = mixture.sample(generator(seed, "fresh documents"), documents, DOCUMENT)
    pieces = [fresh[k : k + PIECE] for k in range(0, documents, PIECE)]
    bayes = [mixture.predict(piece) for piece in pieces]
    of_bayes = _losses(bayes, pieces)
    rows, twins = [], {}
    for reach in sorted(reaches):
        twin = [mixture.predict(piece, reach=reach) for piece in pieces]
        kl = np.concatenate([divergences(p, q) for p, q in zip(bayes, twin, strict=True)])
        twins[reach] = _losses(twin, pieces)
        rows.append((reach, *divergence_interval(kl, mixture.largest_divergence, 1 - spare / len(reaches))))
        progress(done := done + 1, total)
    chosen = max((reach for reach, _, _, high in rows if high <= epsilon), default=0)
    trained = {}
    for kind in models:
        trained[kind] = learner(mixture, kind, seed, steps=steps)
        progress(done := done + 1, total)
    losses = {"bayes": of_bayes} | ({"forgetting": twins[chosen]} if chosen else {}) | {kind: _model_losses(model, fresh) for kind, model in trained.items()}
    accuracies = _accuracies(mixture, trained, chosen, examples, lengths, prompts, spare, seed)
    progress(total, total)
    return InContext(
        losses=tuple(_loss_row(name, nll, of_bayes, 1 - spare / max(1, len(losses) - 1)) for name, nll in losses.items()),
        divergences=tuple(DivergenceRow(*row, chosen=row[0] == chosen) for row in rows),
        accuracies=tuple(accuracies),
        reach=chosen,
        epsilon=epsilon,
    )


def _accuracies(mixture: Mixture, trained: dict[str, nn.Module], reach: int, examples: Sequence[int], lengths: Sequence[int], prompts: int, spare: float, seed: int) -> list[AccuracyRow]:
    cells = [(length, n) for length in lengths for n in examples if n * (length + 1) + length - 1 <= DOCUMENT]
    if not cells:
        raise UsageError("no prompt fits", where="examples", expected=f"prompts of at most {DOCUMENT} tokens")
    names = ["bayes", *(["forgetting"] if reach else []), *trained]
    one = 1 - spare / (len(cells) * len(names))
    rows = []
    for length, n in cells:
        asked, answers = mixture.prompts(generator(seed, "prompts", length, n), prompts, examples=n, length=length)
        for name in names:
            if name in trained:
                said = answers_of(trained[name], asked)
            else:
                said = mixture.after(asked, reach=reach if name == "forgetting" else 0)[:, 1:].argmax(1) + 1
            right = int((said == answers).sum())
            rows.append(AccuracyRow(name, n, length, right / prompts, *clopper_pearson(right, prompts, one), prompts))
    return rows


def _losses(predictions: list[np.ndarray], pieces: list[np.ndarray]) -> np.ndarray:
    picked = [np.take_along_axis(p, piece[..., None], -1)[..., 0] for p, piece in zip(predictions, pieces, strict=True)]
    return -np.log(np.concatenate(picked)).ravel()


def _model_losses(model: nn.Module, documents: np.ndarray) -> np.ndarray:
    tokens = torch.from_numpy(documents)
    with torch.no_grad():
        parts = [F.cross_entropy(model(_shifted(part)).flatten(0, 1), part.flatten(), reduction="none") for part in tokens.split(PIECE)]
    return torch.cat(parts).double().numpy()


def _loss_row(name: str, nll: np.ndarray, reference: np.ndarray, level: float) -> LossRow:
    if name == "bayes":
        return LossRow(name, float(nll.mean()), 0.0, 0.0, 0.0)
    a, b = (Stats(StatsInfo(kind="bare", tokens=len(values), window=(0, len(values))), {"nll": values}) for values in (nll, reference))
    found = compare(a, b, level=level, sigma=0.3)
    return LossRow(name, float(nll.mean()), found.difference, found.low, found.high)
