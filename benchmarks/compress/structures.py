"""What stands in for the latent weights of `compress --finetune` in the trials of ``further.py``: structures and prices that the library does not have.

Each is a :class:`~scalebound.train.latent.Latent` with something changed. Where a structure's numbers are made of others (shared matrices, factors), those are
encoded as matrices of the file, names included, and the model is judged with the sums: a real length, of a file that would need a decoder's step.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scalebound.compress import Coded, QuantizedModel
from scalebound.compress.rounding import free_scales
from scalebound.train.latent import Latent, _whole, geometric_bits, geometric_ratio, relaxed_slope

MATRIX = re.compile(r"model\.layers\.(\d+)\.(.*)_proj\.weight")


class PricedSteps(Latent):
    """The bits of row scales are in the objective: of a matrix, two-sided geometric about the median, in units of the grid's spacing."""

    def forward(self) -> tuple[dict[str, Tensor], Tensor]:
        tensors, bits = super().forward()
        for part, unit, shape in zip(self.log_steps.split(self.num_steps), self.unit.split(self.num_steps), self.shapes.values(), strict=True):
            if len(shape) == 2:
                symbols = part * (128 * 65536 / math.log(2) / unit[0])  # a bfloat16 octave has 128 patterns
                near = symbols.detach()
                near = near - near.median()
                mean = near.round().abs().mean() + 0.5 / len(near)
                steepness = -geometric_ratio(mean).log()
                slope = relaxed_slope(near, steepness.expand(len(near)), (0.5 * steepness).exp().expand(len(near)))
                bits = bits + (slope * (symbols - symbols.detach())).sum() + geometric_bits(mean) * len(near)
        return tensors, bits


class CoarseSteps(Latent):
    """Row scales are powers of two."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.unit = torch.where(self.unit > 1 << 16, 128 << 16, self.unit)


class OneStep(Latent):
    """One step for every matrix, on a grid of 1/128 of an octave; with ``embeddings``, for those too."""

    def __init__(self, tensors: dict[str, Tensor], embeddings: bool = True) -> None:
        super().__init__(tensors)
        single = [len(shape) == 2 and (embeddings or "embed" not in name) for name, shape in self.shapes.items()]
        parts = [part.exp().square().mean().sqrt().log().view(1) if one else part for part, one in zip(self.log_steps.detach().split(self.num_steps), single, strict=True)]
        units = [unit[:1] * 0 + (1 << 16) if one else unit for unit, one in zip(self.unit.split(self.num_steps), single, strict=True)]
        starts = torch.tensor([0, *np.cumsum([len(part) for part in parts])[:-1]])
        old = torch.cat([torch.zeros(count, dtype=torch.int64) if one else torch.arange(count) for count, one in zip(self.num_steps, single, strict=True)])
        of_old = old + starts.repeat_interleave(torch.tensor(self.num_steps))
        self.step_of = of_old[self.step_of]
        self.num_steps, self.log_steps, self.unit = [len(part) for part in parts], nn.Parameter(torch.cat(parts)), torch.cat(units)

    @torch.no_grad()
    def quantized(self, config: dict) -> QuantizedModel:
        ratios, steps = self.ratios()
        found = {}
        for (name, part), step in zip(self._tensors(_whole(ratios)).items(), steps.split(self.num_steps), strict=True):
            integers, patterns = part.numpy().astype(np.int16), (step.view(torch.int32) >> 16).numpy().astype(np.uint16)
            found[name] = Coded(integers, patterns if len(patterns) == 1 else free_scales(integers, patterns))
        return QuantizedModel(config, dict(found))


class Groups(Latent):
    """A share of the bits' slope is that of whole neurons and heads: one geometric distribution for all weights that go with a group.

    A neuron's are its rows of gate and up and its column of down, a head's its rows of query, key and value and its columns of the output.
    """

    def __init__(self, tensors: dict[str, Tensor], share: float = 0.5, heads: int = 4) -> None:
        super().__init__(tensors)
        self.share = share
        numbers: dict[tuple[str, str, int], int] = {}
        lines = []
        for name, shape in self.shapes.items():
            found = MATRIX.fullmatch(name)
            if not found:
                lines.append(torch.full((math.prod(shape),), -1))
                continue
            layer, part = found.groups()
            kind = "neuron" if part.startswith("mlp") else "head"
            columns = part in ("mlp.down", "self_attn.o")
            units = torch.arange(shape[columns]) // (1 if kind == "neuron" else shape[columns] // heads)
            group = torch.tensor([numbers.setdefault((layer, kind, int(unit)), len(numbers)) for unit in units])
            lines.append((group[None, :] if columns else group[:, None]).expand(shape).reshape(-1))
        line = torch.cat(lines)
        self.grouped = torch.nonzero(line >= 0).squeeze(1)
        self.group = line[self.grouped]
        self.group_size = torch.bincount(self.group).float()

    def bits(self, ratios: Tensor, integers: Tensor) -> tuple[float, Tensor]:
        taken, slope = super().bits(ratios, integers)
        magnitudes = torch.zeros(len(self.group_size)).scatter_add_(0, self.group, integers[self.grouped].abs())
        steepness = -geometric_ratio((magnitudes + 0.5) / (self.group_size + 1)).log()
        whole = relaxed_slope(ratios[self.grouped], steepness[self.group], (0.5 * steepness).exp()[self.group])
        slope[self.grouped] = slope[self.grouped].mul_(1 - self.share).add_(whole, alpha=self.share)
        return taken, slope


@dataclass(frozen=True)
class Made(QuantizedModel):
    """A model of which some tensors are sums of others of the file, or products."""

    terms: dict[str, list[tuple[str, ...]]]  # name -> what is added up, each a matrix or two factors

    def dequantized(self) -> dict[str, np.ndarray]:
        found = super().dequantized()
        return {name: sum(found[t[0]] if len(t) == 1 else found[t[0]] @ found[t[1]] for t in self.terms[name]).astype(np.float32) for name in self.terms}


class Composed(Latent):
    """Tensors that are sums of latent matrices and of products of two."""

    def __init__(self, parts: dict[str, Tensor], terms: dict[str, list[tuple[str, ...]]]) -> None:
        super().__init__(parts)
        self.terms = terms

    def forward(self) -> tuple[dict[str, Tensor], Tensor]:
        found, bits = super().forward()
        return {name: sum(found[t[0]] if len(t) == 1 else found[t[0]] @ found[t[1]] for t in terms) for name, terms in self.terms.items()}, bits

    def quantized(self, config: dict) -> QuantizedModel:
        return Made(config, super().quantized(config).tensors, self.terms)


def shared(tensors: dict[str, Tensor]) -> Composed:
    """A matrix of all layers plus one of each layer, which begin as a tenth of the layers' mean and what is left."""
    parts, terms, layers = dict(tensors), {name: [(name,)] for name in tensors}, defaultdict(list)
    for name in tensors:
        if found := MATRIX.fullmatch(name):
            layers[found[2]].append(name)
    for part, names in layers.items():
        parts[f"shared.{part}.weight"] = 0.1 * torch.stack([tensors[name] for name in names]).mean(0)
        for name in names:
            parts[name] = tensors[name] - parts[f"shared.{part}.weight"]
            terms[name].append((f"shared.{part}.weight",))
    return Composed(parts, terms)


def low_rank(tensors: dict[str, Tensor], rank: int, rest: bool, only: str = "") -> Composed:
    """Linear maps as a product of two matrices, from the singular values; with ``rest`` plus a matrix that begins as what the product lacks."""
    parts, terms = dict(tensors), {name: [(name,)] for name in tensors}
    for name, tensor in tensors.items():
        found = MATRIX.fullmatch(name)
        if not found or only not in found[2]:
            continue
        u, s, v = torch.linalg.svd(tensor, full_matrices=False)
        root = s[:rank].sqrt()
        left, right = f"{name.removesuffix('weight')}left", f"{name.removesuffix('weight')}right"
        parts[left], parts[right] = (u[:, :rank] * root).contiguous(), (root[:, None] * v[:rank]).contiguous()
        terms[name] = [(left, right)]
        if rest:
            parts[name] = tensor - parts[left] @ parts[right]
            terms[name].append((name,))
        else:
            del parts[name]
    return Composed(parts, terms)


# name: what is changed, share of the control's steps, settings of finetune, what stands in for Latent
TRIALS: dict[str, tuple[str, float, dict[str, Any], Any]] = {
    "priced-scales": ("bits of row scales in the objective", 0.95, {}, PricedSteps),
    "coarse-scales": ("row scales are powers of two", 1.0, {}, CoarseSteps),
    "one-step": ("one step a matrix", 1.0, {}, OneStep),
    "one-step-linear": ("one step a linear map, the embedding one a row", 1.0, {}, partial(OneStep, embeddings=False)),
    "groups-0.5": ("half of the bits' slope that of whole neurons and heads", 0.95, {}, partial(Groups, share=0.5)),
    "groups-1": ("all of it", 0.95, {}, partial(Groups, share=1.0)),
    "shared": ("a matrix of both layers and one of each, from a tenth of the mean", 1.0, {}, shared),
    "low-rank-plus-4": ("a product of rank 4 and a matrix", 0.85, {}, partial(low_rank, rank=4, rest=True)),
    "low-rank-16": ("feed-forward maps of rank 16", 0.95, {}, partial(low_rank, rank=16, rest=False, only="mlp")),
}  # fmt: skip
