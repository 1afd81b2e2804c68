"""How long a run will take on this machine: a few steps of it, timed, nothing written."""

from __future__ import annotations

import time

import numpy as np
import torch

from scalebound.models.trainable import Trainable
from scalebound.train.device import find_device
from scalebound.train.optim import set_rate
from scalebound.train.parametrization import build, optimizer_for
from scalebound.train.passes import backward
from scalebound.train.recipe import Recipe

BUDGET_S = 0.5
PIECE = 16  # sequences of a batch that are timed; a larger batch takes as much longer
COMPILED_GAIN, COMPILE_S = 1.25, 30.0  # measured at 0.2M to 1M parameters (benchmarks/LOG.md)
FEWEST_STEPS = 2  # timed, after one that is not: the first pays for allocations


def seconds_for(recipe: Recipe, *, budget_s: float = BUDGET_S, model: Trainable | None = None, threads: int = 1, device: str = "cpu") -> float:
    """Seconds this recipe's training will take in one process, from steps on random tokens. A ``model`` that is given is changed by them.

    The median pass over (a part of) a batch and the median update, times the number of steps: an estimate for a machine as busy as it is now, without reading, checkpoints or a busy sibling core.
    A compiled run is not compiled for it: its passes are counted as :data:`COMPILED_GAIN` times as fast, after :data:`COMPILE_S` seconds.

    Raises
    ------
    InputError
        The recipe contradicts itself.

    Examples
    --------
    >>> from scalebound.train import derive_recipe
    >>> seconds_for(derive_recipe(15_000, context=32), budget_s=0.0) > 0
    True
    """
    torch.set_num_threads(threads)
    if model is None:
        model, _ = build(recipe, torch.Generator().manual_seed(0))
    model.to(find_device(device))
    optimizer = optimizer_for(model, recipe)
    whole = min(recipe.batch_sequences, recipe.tokens // recipe.context)
    rows = min(whole, PIECE)
    batch = np.random.default_rng(0).integers(0, recipe.vocab_size, size=(rows, recipe.context))
    set_rate(optimizer.param_groups, recipe.learning_rate)
    began = time.monotonic()
    passes: list[float] = []
    updates: list[float] = []
    while len(passes) <= FEWEST_STEPS or time.monotonic() - began < budget_s:
        start = time.perf_counter()
        backward(model, batch, 0, recipe.accumulation, precision=recipe.precision)
        middle = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        passes.append(middle - start)
        updates.append(time.perf_counter() - middle)
    a_pass = float(np.median(passes[1:])) * whole / rows / (COMPILED_GAIN if recipe.compile else 1.0)
    return (a_pass + float(np.median(updates[1:]))) * recipe.steps + (COMPILE_S if recipe.compile else 0.0)
