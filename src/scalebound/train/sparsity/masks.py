"""Masks over the hidden matrices of a model under training.

A masked weight is zero, its gradient is set to zero before norms are taken, and it is set to zero again after every update, whatever the
optimizer's momentum and weight decay did. So the masked model is the one whose losses are recorded, and the one that is saved.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalebound.models.trainable import Trainable

if TYPE_CHECKING:
    from scalebound.train.recipe import Recipe

PREFIX = "mask."


class Masks(ABC):
    """``keep[name]``: True where a parameter's weights live; a name that is absent has no zeros imposed.

    The share of zeros is that of every matrix as the model holds it: queries, keys and values are one matrix where they are one parameter.
    """

    def __init__(self, model: Trainable, recipe: Recipe) -> None:
        self.recipe = recipe
        self.matrices = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad and model.tensor_class(name) == "hidden"}
        self.keep: dict[str, Tensor] = {}

    @property
    def last(self) -> int:
        """Updates after which ``pruning_until`` of the run is over."""
        return max(1, round(self.recipe.pruning_until * self.recipe.steps))

    @abstractmethod
    def choose(self, step: int) -> None:
        """Put another ``keep`` in place where masks change after ``step`` updates; called for every step in turn."""

    def after_update(self, step: int) -> None:
        """Impose the zeros of ``step`` updates; with 0 before the first."""
        self._impose()  # the update moved what is masked; a choice looks at sizes
        before = self.keep
        self.choose(step)
        if self.keep is not before:
            self._impose()

    @torch.no_grad()
    def _impose(self) -> None:
        for name, keep in self.keep.items():
            self.matrices[name].masked_fill_(~keep, 0.0)

    @torch.no_grad()
    def hide_gradients(self) -> None:
        """What is masked does not move and does not count in the gradient's norm."""
        for name, keep in self.keep.items():
            gradient = self.matrices[name].grad
            if gradient is not None:
                gradient.masked_fill_(~keep, 0.0)

    @property
    def sparsity(self) -> float:
        """The share of the hidden matrices' weights that is held at zero now."""
        return sum(int((~keep).sum()) for keep in self.keep.values()) / sum(parameter.numel() for parameter in self.matrices.values())

    def state(self) -> dict[str, Tensor]:
        """Tensors from which :meth:`load` goes on."""
        return {PREFIX + name: keep for name, keep in self.keep.items()}

    def load(self, stored: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        self.keep = {name.removeprefix(PREFIX): keep.bool() for name, keep in stored.items() if name.startswith(PREFIX)}
