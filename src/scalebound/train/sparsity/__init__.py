"""Weights that are zero while a model trains, one method a file: a class made of a model and a recipe, whose masks the loop applies.

In: a model under training and its :class:`~scalebound.train.recipe.Recipe`. Out: zeros, a stated share of every hidden matrix; embeddings and
gains keep all their weights. The recipe's key ``pruning`` names a row of :data:`METHODS`. Start reading at
:mod:`~scalebound.train.sparsity.masks`. A package holds zeros as integers like any others, so that the entropy coder pays for a mask what it is worth;
``compress --quantizer gptq --prune kept`` keeps them zero while errors are passed on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalebound.train.sparsity.gradual import GradualPruning as GradualPruning
from scalebound.train.sparsity.gradual import cubic_sparsity as cubic_sparsity
from scalebound.train.sparsity.masks import Masks as Masks
from scalebound.train.sparsity.spdf import SparsePretraining as SparsePretraining

if TYPE_CHECKING:
    from scalebound.models.trainable import Trainable
    from scalebound.train.recipe import Recipe

METHODS: dict[str, type[Masks]] = {"gradual": GradualPruning, "spdf": SparsePretraining}


def masks_for(model: Trainable, recipe: Recipe) -> Masks | None:
    """What a recipe asks for; None without pruning."""
    return None if recipe.pruning == "none" else METHODS[recipe.pruning](model, recipe)
