"""Training a few numbers on top of a base: low-rank factors or a random subspace (docs/mathematics.md section 6).

The base's weights stay as they are; what is trained is what a delta package will hold (:mod:`scalebound.compress.delta`). Which of the two, and
how large, is written ``lora:RANK`` (Hu et al. 2021, arXiv 2106.09685: every matrix but the embedding; ``b`` starts at 0) or ``subspace:DIM``
(Li et al. 2018, arXiv 1804.08838; Aghajanyan et al. 2020, arXiv 2012.13255: a sparse random projection of the vector ``w``, started at 0).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from scalebound.compress.delta import coordinates, spread_of
from scalebound.core.errors import UsageError
from scalebound.models.start import Adopted
from scalebound.models.trainable import Trainable
from scalebound.models.transformer import Transformer

LORA_START = 1.0  # standard deviation of ``a`` times the square root of its columns


def parse_adapter(text: str) -> tuple[str, int]:
    """Kind and size of ``lora:8`` or ``subspace:512``.

    >>> parse_adapter("lora:8")
    ('lora', 8)
    """
    kind, _, size = text.partition(":")
    if kind not in ("lora", "subspace") or not size.isdecimal() or int(size) < 1:
        raise UsageError(f"{text!r} is no way to train a part of a model", where="adapter", expected="lora:RANK or subspace:DIM")
    return kind, int(size)


class Partial(Trainable):
    """``base + delta`` under training: ``named_parameters`` are the delta's numbers, ``tensors`` the merged weights.

    Parameters
    ----------
    base
        Its own parameters no longer ask for gradients. One that is neither ours nor adopted has ``tensors`` named as its parameters.
    adapter, seed
        As in the module docstring; the seed draws the subspace, or the start of ``a``.
    """

    def __init__(self, base: Trainable, adapter: str, seed: int) -> None:
        super().__init__()
        self.kind, self.size = parse_adapter(adapter)
        self.seed = seed
        self.base = [base]  # in a list, so that its parameters are not this module's
        base.requires_grad_(False)
        self.fixed = {name: tensor.detach().clone().float() for name, tensor in base.tensors().items()}
        self.numbers = nn.ParameterDict()
        if self.kind == "subspace":
            self.numbers["w"] = nn.Parameter(torch.zeros(self.size))
            self.drawn: dict[str, tuple[Tensor, Tensor]] = {}
            for number, name in enumerate(sorted(self.fixed)):
                which, sign = coordinates(seed, number, 0, self.fixed[name].numel(), self.size)
                factor = (sign * spread_of(tuple(self.fixed[name].shape))).astype(np.float32)
                self.drawn[name] = (torch.from_numpy(which.astype(np.int32)), torch.from_numpy(factor))
            return
        drawn = torch.Generator().manual_seed(seed)
        for name, tensor in self.fixed.items():
            if tensor.ndim == 2 and "embed" not in name and "lm_head" not in name:
                rows, columns = tensor.shape
                key = name.replace(".", "/")  # torch allows no dots in the names of parameters
                self.numbers[key + "/a"] = nn.Parameter(torch.randn(self.size, columns, generator=drawn) * LORA_START / columns**0.5)
                self.numbers[key + "/b"] = nn.Parameter(torch.zeros(rows, self.size))

    def merged(self) -> dict[str, Tensor]:
        """The weights with their deltas, differentiable in the trained numbers."""
        if self.kind == "subspace":
            w = self.numbers["w"]
            return {name: fixed + (w[self.drawn[name][0]] * self.drawn[name][1]).view(fixed.shape) for name, fixed in self.fixed.items()}
        out = dict(self.fixed)
        for name in self.fixed:
            key = name.replace(".", "/")
            if key + "/a" in self.numbers:
                out[name] = self.fixed[name] + self.numbers[key + "/b"] @ self.numbers[key + "/a"]
        return out

    def forward(self, tokens_BT: Tensor) -> Tensor:
        base, weights = self.base[0], self.merged()
        if isinstance(base, Transformer):
            return functional_call(base, Transformer.fused(weights, base.shape.depth), (tokens_BT,))
        if isinstance(base, Adopted):
            return functional_call(base.model, weights, (tokens_BT,), {"use_cache": False}).logits
        return functional_call(base, weights, (tokens_BT,))

    def config(self) -> dict:
        return self.base[0].config()

    def tensors(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.merged()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Nothing: the numbers themselves are beside, and the base does not change."""

    def beside(self) -> dict[str, Tensor]:
        return {name.replace("/", "."): value.detach() for name, value in self.numbers.items()}

    def load_beside(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.numbers.items():
                value.copy_(tensors[name.replace("/", ".")])

    def tensor_class(self, name: str) -> str:
        return "hidden" if self.get_parameter(name).ndim == 2 else "gain"
