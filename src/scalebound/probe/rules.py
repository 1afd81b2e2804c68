"""Rule extrapolation: models of equal loss on a grammar, prompted where the training strings say nothing.

Several models are trained on strings of a :class:`~scalebound.probe.grammar.Grammar`: transformers and LSTMs of several seeds, and transformers
whose loss has a second term:

* ``penalty`` adds ``-log(1 - P(out))`` at every symbol, P(out) the probability of the symbols with which no string of the support goes on
  (unlikelihood). The true distribution gives them nothing, so both terms have the same minimizer on the support;
* ``keeps`` and ``breaks``, the planted pair, add the loss of completions of prompts that keep or break the rule. The prompts themselves are
  not part of that term, so that it asks nothing of the model on the support: by the theorem of :mod:`~scalebound.probe.grammar` both can have
  the least loss there is.

Losses are compared on fresh strings by :func:`scalebound.certify.compare`; the rule is counted on sampled completions.

Sources: Meszaros et al. 2024, arXiv 2409.13728; Reizinger et al. 2024, arXiv 2405.01964; Welleck et al. 2019 (unlikelihood), arXiv 1908.04319.

Letters: B batch, T positions, V symbols and the end mark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalebound.certify import compare
from scalebound.core.errors import UsageError
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import derive
from scalebound.core.stats import Stats, StatsInfo
from scalebound.models import Shape, Transformer
from scalebound.probe.exact import check_level, clopper_pearson
from scalebound.probe.grammar import END, Grammar, construction, divergence
from scalebound.train.optim.adamw import adamw

KINDS = ("transformer", "lstm", "penalty", "keeps", "breaks")
EQUAL = 0.01  # nats per token: losses whose difference is shown to be smaller are called equal
IGNORE = -100


class LSTM(nn.Module):
    """One recurrent layer between an embedding and a head."""

    def __init__(self, vocab_size: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.embedding, self.cell, self.head = (
            nn.Embedding(vocab_size, width),
            nn.LSTM(width, width, batch_first=True),
            nn.Linear(width, vocab_size),
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-(width**-0.5), width**-0.5, generator=generator)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.head(self.cell(self.embedding(tokens_BT))[0])


def encode(grammar: Grammar, texts: list[str], skip: list[int] | None = None) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T): 0 is the mark before and after a string. The first ``skip`` symbols of a string are no targets."""
    number = {symbol: k + 1 for k, symbol in enumerate(grammar.symbols)}
    T = max(map(len, texts)) + 1
    inputs, targets = torch.zeros(len(texts), T, dtype=torch.int64), torch.full((len(texts), T), IGNORE)
    for row, text in enumerate(texts):
        ids = torch.tensor([number[s] for s in text] + [0])
        inputs[row, 1 : len(ids)] = ids[:-1]
        targets[row, : len(ids)] = ids
        if skip:
            targets[row, : skip[row]] = IGNORE
    return inputs, targets


def going_on(grammar: Grammar, texts: list[str], length: int) -> Tensor:
    """(B, T, V): which next symbols (0 the end mark) continue each prefix of each text towards a string of the support; all after its end."""
    mask = torch.ones(len(texts), length, len(grammar.symbols) + 1, dtype=torch.bool)
    for row, text in enumerate(texts):
        for k in range(len(text) + 1):
            following = grammar.prefixes[text[:k]]
            mask[row, k] = torch.tensor([END in following, *(symbol in following for symbol in grammar.symbols)])
    return mask


def train_on(grammar: Grammar, kind: str, seed: int, *, steps: int = 300, batch: int = 48, width: int = 32) -> nn.Module:
    """Train one model on fresh strings of the grammar; ``penalty``, ``keeps`` and ``breaks`` are transformers with a second term.

    AdamW, linear decay to 0 over the last half. Raises UsageError for an unknown kind.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind of model {kind!r}", expected=f"one of {', '.join(KINDS)}")
    generator = torch.Generator().manual_seed(derive(seed, "init", kind))
    rng = np.random.default_rng(derive(seed, "strings", kind))
    V = len(grammar.symbols) + 1
    context = 3 * grammar.longest + 2 * grammar.prompt_length + 2  # a prompt, a completion twice as long as any string, the marks
    model: nn.Module = LSTM(V, width, generator) if kind == "lstm" else Transformer(Shape(V, width, 2, 4, 2 * width), context, generator)
    lr = 1e-2 if kind == "lstm" else 4e-3
    optimizer = adamw(model.parameters(), lr=lr, weight_decay=0.0)
    planted = (
        [(p, p + (grammar.completion(p, keep=kind == "keeps") or "")) for p in grammar.prompts()] if kind in ("keeps", "breaks") else []
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - step / steps))
        texts, skip = grammar.sample(rng, batch), [0] * batch
        for k in rng.integers(len(planted), size=batch // 3) if planted else ():
            texts.append(planted[k][1])
            skip.append(len(planted[k][0]))
        inputs, targets = encode(grammar, texts, skip)
        logits_BTV = model(inputs)
        losses = F.cross_entropy(logits_BTV.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none").view(targets.shape)
        loss = losses[:batch].sum() / (targets[:batch] != IGNORE).sum()
        if kind == "penalty":  # -log(1 - P(out)) = -log P(in)
            inside = logits_BTV.masked_fill(~going_on(grammar, texts, targets.shape[1]), -torch.inf)
            loss = loss + (logits_BTV.logsumexp(-1) - inside.logsumexp(-1)).sum() / (targets != IGNORE).sum()
        if planted:
            loss = loss + losses[batch:].sum() / (targets[batch:] != IGNORE).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval().requires_grad_(False)


def losses_on(grammar: Grammar, model: nn.Module, texts: list[str]) -> np.ndarray:
    """Loss of every symbol and end mark, string after string."""
    different = sorted(set(texts))
    inputs, targets = encode(grammar, different)
    with torch.no_grad():
        losses = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none").view(targets.shape)
    of = {text: losses[row, : len(text) + 1].numpy() for row, text in enumerate(different)}
    return np.concatenate([of[text] for text in texts])


def complete(grammar: Grammar, model: nn.Module, prompts: list[str], generator: torch.Generator) -> list[str | None]:
    """One sampled completion (temperature 1) of each prompt, prompt included; None when no end mark came in time.

    The limit is twice the longest string of the support. O(limit^2) per prompt: nothing is cached between positions.
    """
    out: list[str | None] = [None] * len(prompts)
    for length in sorted({len(prompt) for prompt in prompts}):
        rows = [k for k, prompt in enumerate(prompts) if len(prompt) == length]
        tokens = encode(grammar, [prompts[k] for k in rows])[0]
        alive = np.arange(len(rows))
        for _ in range(2 * grammar.longest):
            with torch.no_grad():
                following = torch.multinomial(model(tokens[alive])[:, -1].softmax(-1), 1, generator=generator)
            tokens = torch.cat((tokens, torch.zeros(len(tokens), 1, dtype=torch.int64)), 1)
            tokens[alive, -1] = following[:, 0]
            ended = following[:, 0].numpy() == 0
            for row in alive[ended]:
                out[rows[row]] = "".join(grammar.symbols[int(k) - 1] for k in tokens[row, 1:-1])
            alive = alive[~ended]
            if not len(alive):
                break
    return out


@dataclass(frozen=True)
class RuleRow:
    """One model: its loss on fresh strings, the least possible one, how often the rule was kept after prompts off the support (with an exact
    interval), and how often completions of prefixes of the support were in the language."""

    grammar: str
    model: str
    loss: float
    least_loss: float
    kept: float
    low: float
    high: float
    n: int
    on_support: float
    on_support_low: float
    on_support_high: float


@dataclass(frozen=True)
class PairRow:
    """Two models: difference of losses with its interval, whether it lies inside +-0.01, and whether the rates' intervals are disjoint."""

    grammar: str
    a: str
    b: str
    difference: float
    low: float
    high: float
    equal_loss: bool
    different_rule: bool

    @property
    def found(self) -> bool:
        return self.equal_loss and self.different_rule


@dataclass(frozen=True)
class Exact:
    """The construction: divergences on the support (0 exactly) and rates after prompts (1 and 0 exactly), all by enumeration."""

    grammar: str
    total_variation: float
    kl: float
    kept_by_one: float
    kept_by_other: float
    prompts: int


def exact_pair(grammar: Grammar) -> Exact:
    """Evaluate :func:`~scalebound.probe.grammar.construction` on the support and after every prompt, by enumeration."""
    pair = construction(grammar)
    variation, kl = divergence(grammar, *pair)
    prompts, rates = grammar.prompts(), []
    for predictor in pair:
        kept = 0
        for prompt in prompts:
            text = prompt
            while symbol := next(iter(predictor(text))):  # off the support every prediction is certain
                text += symbol
            kept += grammar.kept(text)
        rates.append(kept / len(prompts))
    return Exact(grammar.name, float(variation), kl, rates[0], rates[1], len(prompts))


def probe_rules(grammar: Grammar, *, models: tuple[str, ...] = ("transformer", "transformer", "lstm", "lstm", "penalty", "keeps", "breaks"), steps: int = 300,
                prompts: int = 300, strings: int = 3000, level: float = 0.95, seed: int = 0, progress: Progress = silent) -> tuple[list[RuleRow], list[PairRow], Exact]:  # fmt: skip
    """Train models on one grammar and compare their losses and what they do off its support.

    Parameters
    ----------
    grammar : see :mod:`~scalebound.probe.grammar`
    models : kinds, two or more; a kind named again is trained with another seed
    steps : of training       batches of 48 strings
    prompts : >= 1            drawn uniformly from the grammar's prompts off the support, one completion each: independent trials
    strings : >= 1            fresh strings on which losses are compared
    level : in (0, 1)         of all intervals of one grammar together (union bound: half for the rates, half for the loss differences)

    Returns
    -------
    (rows, pairs, exact)      a row per model, a row per pair of models, the construction

    Raises
    ------
    UsageError                fewer than two models, unknown kinds, level out of range
    """
    check_level(level)
    if len(models) < 2:
        raise UsageError("fewer than two models", where="models", expected=f"two or more of {', '.join(KINDS)}")
    if min(steps, prompts, strings) < 1:
        raise UsageError("steps, prompts and strings must be at least 1", where="probe_rules")
    rng = np.random.default_rng(derive(seed, "fresh", grammar.name))
    texts = grammar.sample(rng, strings)
    possible = grammar.prompts()
    off = [possible[k] for k in rng.integers(len(possible), size=prompts)]
    on = [text[: int(rng.integers(len(text) + 1))] for text in grammar.sample(rng, prompts)]
    names = [f"{kind} {models[:k].count(kind)}" if models.count(kind) > 1 else kind for k, kind in enumerate(models)]
    rate_level = 1 - (1 - level) / 2 / (2 * len(models))
    rows, stats = [], []
    for k, (kind, name) in enumerate(zip(models, names, strict=True)):
        model = train_on(grammar, kind, derive(seed, grammar.name, models[:k].count(kind)), steps=steps)
        nll = losses_on(grammar, model, texts)
        stats.append(Stats(StatsInfo(kind="bare", tokens=len(nll), window=(0, len(nll))), {"nll": nll}))
        generator = torch.Generator().manual_seed(derive(seed, "completions", grammar.name, k))
        kept = sum(text is not None and grammar.kept(text) for text in complete(grammar, model, off, generator))
        inside = sum(text is not None and grammar.kept(text) and grammar.broken(text) for text in complete(grammar, model, on, generator))
        least = grammar.entropy / math.fsum(float(w) * (len(text) + 1) for text, w in grammar.support.items())
        rows.append(RuleRow(grammar.name, name, float(nll.mean(dtype=np.float64)), least, kept / prompts, *clopper_pearson(kept, prompts, rate_level), prompts,
                            inside / prompts, *clopper_pearson(inside, prompts, rate_level)))  # fmt: skip
        progress(k + 1, len(models))
    count = len(models) * (len(models) - 1) // 2
    pairs = []
    for i in range(len(models)):
        for j in range(i + 1, len(models)):
            found = compare(stats[i], stats[j], level=1 - (1 - level) / 2 / count, epsilon=EQUAL, sigma=0.05)
            disjoint = rows[i].low > rows[j].high or rows[j].low > rows[i].high
            pairs.append(
                PairRow(grammar.name, names[i], names[j], found.difference, found.low, found.high, found.verdict == "equal", disjoint)
            )
    return rows, pairs, exact_pair(grammar)
