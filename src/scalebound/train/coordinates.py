"""Coordinate check: do activations, and what training changes in them, stay of order one as width grows?

The test of a parametrization (Yang et al., arXiv 2203.03466, appendix D.1): the same few steps at several widths; the mean absolute entry of every
activation, and of its change since the start, is plotted against width. Under maximal update the changes neither vanish nor blow up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from scalebound.train.optim import set_rate
from scalebound.train.parametrization import build
from scalebound.train.recipe import Recipe


@dataclass(frozen=True)
class Coordinates:
    """Mean absolute entries at one width: at the start, and of the change after the steps; keys are "layer 1", .., "hidden", "logits"."""

    width: int
    start: dict[str, float]
    change: dict[str, float]


@torch.no_grad()
def _activations(model, inputs_BT: torch.Tensor) -> dict[str, torch.Tensor]:
    """The residual stream after every layer, the normalized hidden state without its gain (which is part of the head), and the logits."""
    found, x_BTD = {}, F.embedding(inputs_BT, model.embedding)
    T = inputs_BT.shape[1]
    for number, layer in enumerate(model.layers, 1):
        x_BTD = layer(x_BTD, model.cos_TK[:T], model.sin_TK[:T])
        found[f"layer {number}"] = x_BTD
    found["hidden"] = F.rms_norm(x_BTD, (x_BTD.shape[-1],))
    found["logits"] = model(inputs_BT)
    return found


def coordinates(recipe: Recipe, tokens_BT: np.ndarray, *, steps: int = 4, seed: int = 0) -> Coordinates:
    """Train ``steps`` steps at the full rate, without warmup, on one batch, and measure what changed.

    Parameters
    ----------
    recipe
        Its shape, optimizer, rate and parametrization are used.
    tokens_BT
        (sequences, tokens) of ids; the same at every width.

    Returns
    -------
    Coordinates
        ``6 * params * tokens * steps`` FLOPs.
    """
    model, optimizer = build(recipe, torch.Generator().manual_seed(seed))
    targets_BT = torch.from_numpy(np.asarray(tokens_BT, dtype=np.int64))
    inputs_BT = F.pad(targets_BT[:, :-1], (1, 0), value=0)
    before = _activations(model, inputs_BT)
    set_rate(optimizer.param_groups, recipe.learning_rate)
    for _ in range(steps):
        F.cross_entropy(model(inputs_BT).flatten(0, 1), targets_BT.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    after = _activations(model, inputs_BT)
    return Coordinates(
        recipe.width, {name: float(x.abs().mean()) for name, x in before.items()}, {name: float((after[name] - x).abs().mean()) for name, x in before.items()}
    )


def growth(found: Sequence[Coordinates], name: str) -> float:
    """Exponent with which the change of an activation grows with width: slope of log change over log width by least squares; 0 is ideal.

    >>> [growth([Coordinates(w, {}, {"logits": w**p}) for w in (32, 64)], "logits") for p in (0.0, 1.0)]
    [0.0, 1.0]
    """
    return float(np.polyfit(np.log([c.width for c in found]), np.log([c.change[name] for c in found]), 1)[0].round(12)) + 0.0
