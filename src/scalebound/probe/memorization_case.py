"""What ``probe memorization`` asks: small models trained to remember (canaries, a ladder of runs), or a user's model and texts.

Documents are walks of one Markov chain over 32 letters: whoever knows the chain predicts them as well as anyone. What is planted among them are
random strings of the same letters, which nothing explains but having seen them.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from scalebound.core.errors import InputError, UsageError
from scalebound.core.io import MAX_JSON_BYTES, read_bytes, sha256_bytes
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import derive, generator
from scalebound.measure import stream_of, tokenizer_of
from scalebound.models import LanguageModel, Shape, Transformer, load_model
from scalebound.models.load import from_tensors
from scalebound.probe.finetune import Task, markov_task
from scalebound.probe.memorization import draw_spans
from scalebound.train.optim.adamw import adamw

LETTERS = 32
FIRST = LETTERS  # fed before every document; no letter
LENGTH = 48
PREFIX = 16
REPEATS = (1, 8, 64)
TYPICAL, RARE, ABSENT = 4, 3, 2  # groups of the ladder


def train_on(documents: np.ndarray, seed: int, *, steps: int, width: int = 64, batch: int = 24, lr: float = 4e-3) -> LanguageModel:
    """A two-layer transformer trained on batches drawn from the documents (N, LENGTH), linear decay over the last half."""
    shape = Shape(LETTERS + 1, width, 2, 4, 2 * width)
    model = Transformer(shape, LENGTH + 2, torch.Generator().manual_seed(derive(seed, "init")))
    rng, tokens = generator(seed, "batches"), torch.from_numpy(documents)
    optimizer = adamw(model.parameters(), lr=lr, weight_decay=0.0)
    order = np.concatenate([rng.permutation(len(documents)) for _ in range(steps * batch // len(documents) + 1)])
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - step / steps))
        rows = tokens[order[step * batch : (step + 1) * batch]]
        loss = F.cross_entropy(model(F.pad(rows[:, :-1], (1, 0), value=FIRST)).flatten(0, 1), rows.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return from_tensors(shape.config(LENGTH + 2) | {"bos_token_id": FIRST}, model.tensors(), name="trained in the probe", tokenizer="none")


def _random(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(LETTERS, size=(count, LENGTH))


def _walks(task: Task, rng: np.random.Generator, count: int) -> np.ndarray:
    return task.sample(rng, count, LENGTH).numpy()


@dataclass(frozen=True)
class Planted:
    """A model and the spans it was and was not trained on, by kind."""

    model: LanguageModel
    spans: dict[str, np.ndarray]


def planted(seed: int, *, steps: int = 700, documents: int = 400, canaries: int = 12) -> Planted:
    """Train on walks and on canaries said 1, 8 and 64 times. Never trained on: fresh walks, and canaries of the same kind (the nulls)."""
    task = markov_task(LETTERS, derive(seed, "memorization chain"), states=LETTERS)
    rng = generator(seed, "memorization documents")
    seen, unseen = _walks(task, rng, documents), _walks(task, rng, documents)
    strings = {repeats: _random(rng, canaries) for repeats in (0, *REPEATS)}
    corpus = np.concatenate([seen, *(np.repeat(strings[repeats], repeats, axis=0) for repeats in REPEATS)])
    model = train_on(corpus, derive(seed, "memorization model"), steps=steps)
    spans = {"text seen once per pass": seen, "text never seen": unseen, "canaries never seen": strings[0]}
    return Planted(model, spans | {"canaries said once" if repeats == 1 else f"canaries said {repeats} times": strings[repeats] for repeats in REPEATS})


@dataclass(frozen=True)
class Ladder:
    """``inside`` and ``scores`` (runs, groups), see :func:`scalebound.probe.influence.influences`."""

    groups: tuple[str, ...]
    inside: np.ndarray
    scores: np.ndarray


def ladder(seed: int, *, runs: int = 12, steps: int = 150, documents: int = 96, size: int = 4, progress: Progress = silent) -> Ladder:
    """Train ``runs`` models, each with a random half of the groups beside documents that all have.

    Typical groups are walks like all others; rare ones random strings (the planted effect); absent ones are random strings too, which no run
    is given although the table says that half of them were (the null). Every group is in exactly half of the runs.
    """
    # nearly deterministic: what is typical can be known without having seen it
    task = markov_task(LETTERS, derive(seed, "ladder chain"), states=LETTERS, concentration=0.01)
    rng = generator(seed, "ladder documents")
    common = _walks(task, rng, documents)
    groups = {f"typical {k}": _walks(task, rng, size) for k in range(TYPICAL)} | {f"rare {k}": _random(rng, size) for k in range(RARE)} | {f"absent {k}": _random(rng, size) for k in range(ABSENT)}
    names = tuple(groups)
    half = np.arange(runs) < runs // 2
    inside = np.stack([rng.permutation(half) for _ in names], axis=1)
    scores = np.empty(inside.shape)
    for run in range(runs):
        given = [groups[name] for k, name in enumerate(names) if inside[run, k] and not name.startswith("absent")]
        model = train_on(np.concatenate([common, *given]), derive(seed, "ladder run", run), steps=steps, width=48)
        scores[run] = [accuracy(model, groups[name]) for name in names]
        progress(run + 1, runs)
    return Ladder(names, inside, scores)


@torch.inference_mode()
def accuracy(model: LanguageModel, documents: np.ndarray) -> float:
    """Share of tokens that are the model's argmax."""
    tokens = torch.from_numpy(documents)
    return float((model.logits(F.pad(tokens[:, :-1], (1, 0), value=FIRST)).argmax(-1) == tokens).double().mean())


def own_spans(model: str | os.PathLike, text: str | os.PathLike | None, unseen: str | os.PathLike | None, canaries: str | os.PathLike | None, *, count: int, prefix: int,
              suffix: int, seed: int) -> tuple[dict[str, np.ndarray], LanguageModel, dict[str, str]]:  # fmt: skip
    """Spans of a user's texts in the tokens of a user's model: the spans by kind, the model, and the SHA-256 of what was given.

    Raises
    ------
    UsageError
        Numbers out of range, a text shorter than a span.
    InputError
        Unreadable files, a canary shorter than a span.
    """
    if count < 1 or prefix < 1 or suffix < 1:
        raise UsageError(f"spans {count}, prefix {prefix}, suffix {suffix}", where="probe memorization", expected="at least 1 each")
    loaded = load_model(model)
    length = prefix + suffix
    kinds, inputs = {}, {"model": loaded.sha256}
    for kind, path in (("training text", text), ("text never seen", unseen)):
        if path is not None:
            with tempfile.TemporaryDirectory() as folder:
                stream = stream_of(path, loaded, Path(folder) / "stream", context=length)
                kinds[kind] = draw_spans(stream.tokens, generator(seed, "spans", kind), count, length)
                inputs[kind] = stream.sha256
    if canaries is not None:
        data = read_bytes(canaries, limit=MAX_JSON_BYTES)
        words = tokenizer_of(loaded)
        lines = [words.encode(line) for line in data.splitlines() if line.strip()]
        short = next((k for k, line in enumerate(lines, start=1) if len(line) < length), None)
        if not lines or short is not None:
            raise InputError("holds no canary" if not lines else f"canary {short} has {len(lines[short - 1])} tokens", where=str(canaries), expected=f"lines of at least prefix + suffix = {length} tokens")  # type: ignore[operator]
        kinds["canaries"], inputs["canaries"] = np.stack([line[:length].astype(np.int64) for line in lines]), sha256_bytes(data)
    return kinds, loaded, inputs
