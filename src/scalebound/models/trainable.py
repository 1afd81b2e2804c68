"""What a training loop needs of a model: logits with gradients, and its weights as a folder holds them.

**The seam for partial training** (low-rank or random-subspace changes of a base): a subclass whose ``named_parameters`` are the few numbers
that are trained, whose ``tensors`` are the merged weights, and whose ``beside`` keeps the trained numbers themselves, so that a run resumes
to the bit although its checkpoints are ordinary folders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Trainable(nn.Module, ABC):
    """A causal model under training: ``forward`` takes tokens (B, T) to logits (B, T, V); every parameter that requires a gradient is trained."""

    @abstractmethod
    def config(self) -> dict:
        """``config.json`` of a checkpoint."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The weights under the names of a folder, tied ones once."""

    @abstractmethod
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take the weights of a folder."""

    def beside(self) -> dict[str, Tensor]:
        """What resumption needs that :meth:`tensors` does not hold; nothing when the weights themselves are trained."""
        return {}

    def load_beside(self, tensors: dict[str, Tensor]) -> None:
        """Take back what :meth:`beside` gave."""

    @abstractmethod
    def tensor_class(self, name: str) -> str:
        """Which row of a parametrization's table a parameter belongs to: "embedding", "hidden", "gain" or "final gain"."""
