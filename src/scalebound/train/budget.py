"""What a recipe will need: memory, disk; and the sizes that a budget of compute or time allows.

Memory is weights, gradients and optimizer state in float32 (4 bytes each: 1 + 1 + state), plus what the forward pass keeps for the backward pass,
which is counted, not guessed: one sequence is run and the tensors autograd saves are added up; and two arrays of the size of the logits. Arrays that live
only within the backward pass, and what the allocator does not give back, are a factor measured at 0.2M to 2M parameters (benchmarks/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from scalebound.core.errors import UsageError
from scalebound.models.trainable import Trainable
from scalebound.train.parametrization import build
from scalebound.train.passes import logits_of
from scalebound.train.recipe import Recipe

STATE = {"adamw": 2, "muon": 1, "lion": 1, "sgd": 1}  # numbers of state a parameter (Muon: of a hidden one)
PROCESS_BYTES = 320e6  # an interpreter with torch and its matrix library
TRANSIENT = 1.35  # peak over what is kept for the backward pass
RATIO = 2.0  # parameters of a rung over those of the next smaller
AIM = 0.9  # share of the time that is planned for: the rest is reading, checkpoints and a busy sibling core
SMALLEST, LARGEST = 15_000, 10**10


@dataclass(frozen=True)
class Memory:
    """Bytes of one process that trains."""

    weights: int  # with gradients and optimizer state
    activations: int

    @property
    def total(self) -> float:
        return self.weights + self.activations + PROCESS_BYTES


def memory_of(recipe: Recipe, *, model: Trainable | None = None) -> Memory:
    """Memory a run will take; one sequence is pushed through the model to count what is kept for the backward pass."""
    if model is None:
        model, _ = build(recipe, torch.Generator().manual_seed(0))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()} | {buffer.untyped_storage().data_ptr() for buffer in model.buffers()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens_BT = torch.zeros((1, recipe.context), dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = F.cross_entropy(logits_of(model, tokens_BT, recipe.precision).flatten(0, 1), tokens_BT.flatten())
    del loss
    rows = -(-recipe.batch_sequences // recipe.accumulation)
    logits = 4 * rows * recipe.context * recipe.vocab_size
    return Memory(4 * recipe.params * (2 + STATE[recipe.optimizer]), round(TRANSIENT * (sum(kept.values()) * rows + 2 * logits)))


def disk_of(recipes: Sequence[Recipe], stream_tokens: int) -> int:
    """Bytes on disk when all is trained: the stream, the online losses, the checkpoints asked for with their state, and the last."""
    stream = stream_tokens * (2 if recipes[0].vocab_size <= 1 << 16 else 4)
    return stream + sum(4 * r.tokens + 4 * r.params * (1 + len(r.checkpoints) * (1 + STATE[r.optimizer])) for r in recipes)


def rung_sizes(largest: float, rungs: int) -> list[int]:
    """Sizes of a ladder, smallest first: each rung has half the parameters of the next.

    >>> rung_sizes(80_000, 3)
    [20000, 40000, 80000]
    """
    sizes = [round(largest / RATIO**k) for k in range(rungs - 1, -1, -1)]
    if sizes[0] < SMALLEST * 0.97:
        raise UsageError(f"the smallest of {rungs} rungs would have {sizes[0]:,} parameters", expected=f"at least {SMALLEST:,}", hint="a larger budget, or fewer rungs")
    return sizes


def largest_for_flops(flops: float, *, tokens_per_param: float, rungs: int) -> float:
    """Parameters of the largest rung when all rungs together spend ``flops``: ``6 r N^2 (1 + 1/4 + 1/16 + ..) = flops``.

    >>> round(largest_for_flops(1e12, tokens_per_param=20, rungs=1))
    91287
    """
    return (flops / (6 * tokens_per_param * sum(RATIO ** (-2 * k) for k in range(rungs)))) ** 0.5


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Wall clock of jobs given to the first free worker, the longest first.

    >>> makespan([3.0, 5.0, 2.0], 2)
    5.0
    """
    ends = [0.0] * max(1, workers)
    for job in sorted(seconds, reverse=True):
        k = int(np.argmin(ends))
        ends[k] += job
    return max(ends)


def largest_for_seconds(budget_s: float, seconds_of: Callable[[int], float], *, rungs: int, workers: int) -> float:
    """Parameters of the largest rung when all rungs take :data:`AIM` of a budget of time.

    Parameters
    ----------
    seconds_of
        Time of one rung by its number of parameters; asked on a grid of factors of two and interpolated (log-log).

    Raises
    ------
    UsageError
        Not even the smallest ladder fits.
    """
    known: dict[int, float] = {}

    def at(size: float) -> float:
        k = np.log2(size / SMALLEST)
        low = int(np.floor(k + 1e-9))
        for j in (low, low + 1):
            if j not in known and (j == low or k - low > 1e-6):
                known[j] = seconds_of(round(SMALLEST * 2.0**j))
        share = k - low
        return known[low] if share <= 1e-6 else known[low] ** (1 - share) * known[low + 1] ** share

    def total(largest: float) -> float:
        return makespan([at(largest / RATIO**k) for k in range(rungs)], workers)

    smallest = SMALLEST * RATIO ** (rungs - 1)
    least = total(smallest)
    if least > AIM * budget_s:
        raise UsageError(f"{budget_s:,.0f} s are too few for {rungs} rung{'s' if rungs > 1 else ''}", expected=f"at least {least / AIM:,.0f} s on this machine", hint="more time, or fewer rungs")
    low, high = smallest, 2 * smallest
    while total(high) <= AIM * budget_s:
        low, high = high, 2 * high
        if high > LARGEST:
            raise UsageError(f"{budget_s:,.0f} s ask for more than {LARGEST:,} parameters", expected="less time")
    for _ in range(20):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if total(middle) <= AIM * budget_s else (low, middle)
    return low
