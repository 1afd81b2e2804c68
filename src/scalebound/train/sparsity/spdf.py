"""Sparse pre-training, dense fine-tuning (SPDF: Thangarasu et al., arXiv 2303.10464).

A mask drawn at random before the first step holds the recipe's ``sparsity`` of every hidden matrix at zero for ``pruning_until`` of the run; then it is
lifted, and the weights that were never there start from zero and learn with the rest. The paper lifts it where pre-training ends and training on a task
begins: that is a run with ``pruning_until = 1``, which ends sparse, and `train --from` that run, which is dense.

What it saves is arithmetic, on machines that skip zeros; this loop computes with them and takes as long as ever.
"""

from __future__ import annotations

import numpy as np
import torch

from scalebound.core.seeds import generator
from scalebound.models.trainable import Trainable
from scalebound.train.recipe import Recipe
from scalebound.train.sparsity.masks import Masks


class SparsePretraining(Masks):
    """A static random mask, a matrix at a time, by the recipe's seed; none after ``pruning_until`` of the steps (of a run that ends there: kept)."""

    def __init__(self, model: Trainable, recipe: Recipe) -> None:
        super().__init__(model, recipe)
        for name, matrix in self.matrices.items():
            keep = np.ones(matrix.numel(), dtype=bool)
            keep[generator(recipe.seed, "sparse", name).permutation(len(keep))[: int(recipe.sparsity * len(keep))]] = False
            self.keep[name] = torch.from_numpy(keep.reshape(matrix.shape))

    def choose(self, step: int) -> None:
        if self.last <= step < self.recipe.steps:
            self.keep = {}
