"""Sweeps: the same short training at several widths and learning rates (or batch sizes), to see where the optimum is and when runs go unstable.

The default learning-rate sweep is made for two cores and a few minutes: depth 2, heads of 16, context 64, 200 steps of 4 sequences, the trapezoid of
the recipe with a tenth of warmup; ``base_width`` is the smallest width, where both parametrizations are the same model.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import scalebound
from scalebound.core.io import save_struct
from scalebound.core.progress import Progress, silent
from scalebound.core.sweep import Sweep, SweepRun
from scalebound.core.workers import run_tasks
from scalebound.data.stream import Stream
from scalebound.train.divergence import Diverged
from scalebound.train.loop import train_run
from scalebound.train.recipe import Recipe, derive_recipe

WIDTHS = (32, 64, 128, 256)
RATES = tuple(0.000625 * 2**k for k in range(9))  # 0.000625 to 0.16
STEPS = 200
SEQUENCES = 4
CONTEXT = 64
HEAD_WIDTH = 16
DEPTH = 2


def sweep_recipe(width: int, rate: float, parametrization: str, *, base_width: int, steps: int = STEPS, sequences: int = SEQUENCES, context: int = CONTEXT,
                 seed: int = 0, overrides: Mapping[str, Any] | None = None) -> Recipe:  # fmt: skip
    """The recipe of one run of a sweep; ``overrides`` win."""
    keys = {
        "width": width, "depth": DEPTH, "heads": width // HEAD_WIDTH, "feed_forward": round(8 * width / 3 / 4) * 4, "tokens": steps * sequences * context,
        "batch_sequences": sequences, "learning_rate": rate, "parametrization": parametrization, "base_width": base_width, "warmup": 0.1,
        "precision": "float32", "compile": False,  # the same at every width
        "on_divergence": "ignore",  # how bad a rate is, is what is asked
    }  # fmt: skip
    return derive_recipe(100_000, context=context, seed=seed, overrides=keys | dict(overrides or {}))


def sweep_tokens(steps: int = STEPS, sequences: int = SEQUENCES, context: int = CONTEXT) -> int:
    """Tokens of text that one run of a sweep needs."""
    return steps * sequences * context


BATCHES = (1, 2, 4, 8, 16, 32)  # sequences
BATCH_WIDTHS = (32, 64)
FACTORS = (0.5, 1.0, 2.0)  # of the square-root rule's rate
FEWEST = 120  # steps of a very large batch; one of B sequences gets 1 + 8/B times as many, which reach about the same loss


def batch_sweep_recipes(widths: Sequence[int] = BATCH_WIDTHS, batches: Sequence[int] = BATCHES, *, fewest: int = FEWEST, context: int = CONTEXT, seed: int = 0,
                        overrides: Mapping[str, Any] | None = None) -> list[Recipe]:  # fmt: skip
    """The runs of a batch-size sweep: every batch size at three rates around ``0.3 / width * sqrt(B / 4)``, at a constant rate after warmup.

    The rate grows with the square root of the batch because AdamW's update does not grow with the gradient (Malladi et al., arXiv 2205.10287).
    """
    out = []
    for width in widths:
        for sequences in batches:
            steps = round(fewest * (1 + 8 / sequences))
            for factor in FACTORS:
                rate = 0.3 / width * math.sqrt(sequences / 4) * factor
                keys = {"schedule": "constant", "watch": 0, "warmup": min(0.5, 20 / steps)} | dict(overrides or {})
                out.append(sweep_recipe(width, rate, "standard", base_width=width, steps=steps, sequences=sequences, context=context, seed=seed, overrides=keys))
    return out


def train_sweep(recipes: Sequence[Recipe], stream: str | os.PathLike, out: str | os.PathLike, *, kind: Literal["lr", "batch"], workers: int | None = None, fresh: bool = False, progress: Progress = silent) -> Sweep:
    """Train every recipe, the longest first, and write ``sweep.json``; runs that are finished are not done again, a run that diverges to no number is a result.

    Raises
    ------
    InputError
        What :func:`~scalebound.train.train_run` raises, but for divergence.
    """
    out = Path(out)
    order = sorted(range(len(recipes)), key=lambda k: -recipes[k].flops)
    tasks = [(recipes[k], str(stream), str(out / _name(recipes[k])), fresh) for k in order]
    done = run_tasks(_one, tasks, workers=workers, progress=progress)
    found = dict(zip(order, done, strict=True))
    opened = Stream(stream)
    sweep = Sweep(kind=kind, runs=tuple(found[k] for k in range(len(recipes))), initial_loss=math.log(recipes[0].vocab_size), stream_sha256=opened.sha256, seed=recipes[0].seed, version=scalebound.__version__)
    save_struct(out / "sweep.json", sweep)
    return sweep


def _name(recipe: Recipe) -> str:
    return f"runs/{recipe.parametrization}-{recipe.width}-{recipe.batch_sequences}x{recipe.context}-{recipe.learning_rate:.6g}"


def _one(recipe: Recipe, stream: str, out: str, fresh: bool, *, progress: Progress) -> SweepRun:
    try:
        loss: float | None = train_run(recipe, stream, out, fresh=fresh, progress=progress).train_loss
    except Diverged:
        loss = None
        progress(recipe.tokens, recipe.tokens)
    return SweepRun(
        parametrization=recipe.parametrization, width=recipe.width, params=recipe.params, lr=recipe.learning_rate, batch_tokens=recipe.batch_sequences * recipe.context,
        steps=recipe.steps, loss=loss, max_logit=largest_logged(Path(out) / "log.jsonl"), run=_name(recipe),
    )  # fmt: skip


def largest_logged(log: Path) -> float | None:
    """The largest attention logit that a run's log shows, over layers and looks."""
    largest = None
    with open(log) as lines:
        for line in lines:
            for value in json.loads(line).get("max_attention_logit", ()):
                if value is not None and (largest is None or value > largest):
                    largest = value
    return largest
