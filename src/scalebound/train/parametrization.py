"""Standard and maximal-update parametrization: how initial weights and learning rates depend on width.

An abc-parametrization (Yang and Hu, arXiv 2011.14522; Tensor Programs V, arXiv 2203.03466) says for every class of tensors what the stored weight is
multiplied by, how large it starts, and its learning rate. Let ``r = width / base_width``. For optimizers that do not see the size of the
gradient (AdamW, Lion, Muon), depth and head width held fixed, the maximal-update table relative to the standard parametrization at ``base_width`` is

===========================  ==========  ========================  ============  =================
tensor class                 multiplier  initial sd                learning rate decay x rate
===========================  ==========  ========================  ============  =================
embedding (input)            1           1/sqrt(base_width)        eta           eta lambda
embedding (as output)        1/r         (the same tensor)         eta           eta lambda
hidden matrix, fan in F      1           1/sqrt(F), /sqrt(2L) *    eta/r **      eta lambda
gains of hidden norms        1           1 (constant)              eta           0
gain of the final norm       1           1 (constant)              eta           0
===========================  ==========  ========================  ============  =================

``*`` for matrices that write to the residual stream. ``**`` ``eta/sqrt(r)`` under Muon, whose update with entries of root mean square rho has
spectral norm ``rho sqrt(width)`` where AdamW's, being of low rank, reaches ``rho width`` (spectral condition: Yang, Simon and Bernstein,
arXiv 2310.17813). The last column: decay is decoupled and its product with the rate is kept, so that weights forget at the same speed at every
width (Wang and Aitchison, arXiv 2405.13698).

**Folding.** ``logits = (1/r) E (g * n)``, n the normalized hidden state and g the final gain, is ``E (g' * n)`` with ``g' = g/r``. Multiplying a tensor's
multiplier by c, and dividing its initial size and its rate by c, changes nothing for these optimizers (up to their eps): so g' starts at 1/r, has
rate eta/r, and **no multiplier is left**. The model computes what it always computes and its checkpoint is a plain Llama-style folder. The same
symmetry is why the table is not offered for SGD, whose update scales with the gradient.

Attention logits are divided by sqrt(head width), not by the head width: ``derive_recipe`` therefore holds the head width at 16 under "mup" and
widens by adding heads. A recipe that changes the head width with the width is outside the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scalebound.core.errors import UsageError
from scalebound.models.trainable import Trainable
from scalebound.models.transformer import Transformer
from scalebound.train.optim import OPTIMIZERS
from scalebound.train.optim.groups import Group
from scalebound.train.recipe import Recipe

PARAMETRIZATIONS = ("standard", "mup")


@dataclass(frozen=True)
class Rule:
    """One row of the folded table: factors on the standard initial size, on the recipe's learning rate and on its weight decay."""

    initial: float
    rate: float
    decay: float


def abc_table(parametrization: str, *, width: int, base_width: int, optimizer: str = "adamw") -> dict[str, Rule]:
    """The folded table (no multipliers), for the classes "embedding", "hidden", "gain" and "final gain".

    >>> abc_table("mup", width=256, base_width=64)["hidden"]
    Rule(initial=1.0, rate=0.25, decay=4.0)
    >>> abc_table("mup", width=64, base_width=64) == abc_table("standard", width=64, base_width=64)
    True

    Raises
    ------
    UsageError
        Unknown parametrization, or "mup" with SGD.
    """
    classes = ("embedding", "hidden", "gain", "final gain")
    if parametrization == "standard":
        return {name: Rule(1.0, 1.0, 0.0 if name.endswith("gain") else 1.0) for name in classes}
    if parametrization != "mup":
        raise UsageError(f"parametrization = {parametrization!r}", expected=f"one of {', '.join(PARAMETRIZATIONS)}")
    if optimizer == "sgd":
        raise UsageError('parametrization = "mup" with optimizer = "sgd"', expected="an optimizer whose update does not grow with the gradient: adamw, lion or muon")
    r = width / base_width
    hidden = math.sqrt(r) if optimizer == "muon" else r
    # the standard embedding starts at 1/sqrt(width); sqrt(r) brings it to 1/sqrt(base_width)
    return {"embedding": Rule(math.sqrt(r), 1.0, 1.0), "hidden": Rule(1.0, 1 / hidden, hidden), "gain": Rule(1.0, 1.0, 0.0), "final gain": Rule(1 / r, 1 / r, 0.0)}


def build(recipe: Recipe, generator: torch.Generator) -> tuple[Transformer, torch.optim.Optimizer]:
    """The model of a recipe with its initial weights, and the optimizer with a group for every kind of tensor (:func:`optimizer_for`).

    Parameters
    ----------
    recipe
        Its keys ``parametrization``, ``base_width``, ``optimizer``, ``learning_rate``, ``beta1``, ``beta2`` and ``weight_decay`` are used.
    generator
        Source of the initial weights; the same draws whatever the parametrization, scaled afterwards.
    """
    table = abc_table(recipe.parametrization, width=recipe.width, base_width=recipe.base_width, optimizer=recipe.optimizer)
    model = Transformer(recipe.shape, recipe.context, generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            factor = table[model.tensor_class(name)].initial
            if factor != 1.0:
                parameter.mul_(factor)
    return model, optimizer_for(model, recipe)


def optimizer_for(model: Trainable, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over every parameter of the model that requires a gradient."""
    table = abc_table(recipe.parametrization, width=recipe.width, base_width=recipe.base_width, optimizer=recipe.optimizer)
    return OPTIMIZERS[recipe.optimizer](_groups(model, table, recipe), lr=recipe.learning_rate, betas=(recipe.beta1, recipe.beta2), weight_decay=recipe.weight_decay)


def _groups(model: Trainable, table: dict[str, Rule], recipe: Recipe) -> list[Group]:
    """Parameters with the same treatment in one group; standard AdamW has two, matrices and gains, in the model's order."""
    groups: dict[tuple, Group] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = model.tensor_class(name)
        rule = table[kind]
        hidden = recipe.optimizer == "muon" and kind == "hidden"
        pieces = (3 if name.endswith("qkv") else 2 if name.endswith("gate_up") else 1) if hidden else 1
        key = (parameter.ndim < 2, hidden, pieces, rule.rate, rule.decay)
        group = groups.setdefault(key, {"params": [], "weight_decay": recipe.weight_decay * rule.decay, "rate": rule.rate, "pieces": pieces, "hidden": hidden})
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]  # matrices first, a stable sort
