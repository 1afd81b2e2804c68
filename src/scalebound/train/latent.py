"""Weights that are trained as what a package will hold: integers times scales, with the bits they will take as a differentiable number.

Every matrix W has latent weights w and a step s_i for each row, kept on the coarse bfloat16 grid that the package's scales use; a vector
has one step. The model computes with ``q s``, ``q = round(w / s)``. Gradients pass the rounding as if it were not there (straight through:
Bengio et al., arXiv 1308.3432), and reach the steps as ``d(q s)/ds = q - w/s`` (learned step sizes: Esser et al., arXiv 1902.08153).

The bits. A package draws the integers of a matrix from a few tables, one for the whole matrix or one for each class of rows or of columns
(:mod:`scalebound.compress.sharing`). Stand-in: for every column (or every row, whichever is shorter) the integers are two-sided
geometric, ``P(q) = (1-t)/(1+t) t^|q|``, with t fitted to the column's mean magnitude m: ``t = (sqrt(1+m^2) - 1)/m``, which takes

    h(m) = -log2((1-t)/(1+t)) - m log2(t)    bits an integer.

For gradients the integer becomes the real number ``w/s`` and the distribution the Laplace density of scale ``b = -1/log t`` integrated over
``[w/s - 1/2, w/s + 1/2]``, which has the same tails. t is held fixed in the gradient; since it minimises the length, its own derivative
adds nothing. Vectors share one such distribution about their median. Scales and header are not part of the stand-in: their bits change little.

All tensors lie one after the other in one long vector, and its derivative is written out: small models have many small tensors, whose
operations one by one would take as long as the network itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scalebound.compress.model import Coded, QuantizedModel, bfloat16
from scalebound.compress.rounding import HIGHEST, LOWEST, MAX_INTEGER, free_scales, scale_spacing

MATRIX_STEP = 1.0  # of a row's root mean square, to start from: about 2 bits a weight
VECTOR_STEP = 1 / 8  # of a vector's
STEEPEST, FLATTEST = 1e-3, 0.999  # of t: a column of zeros must be able to hold something else again


def geometric_ratio(mean_magnitude: Tensor) -> Tensor:
    """t of the two-sided geometric distribution whose mean magnitude is m > 0, kept between 1e-3 and 0.999.

    >>> geometric_ratio(torch.tensor([4 / 3]))
    tensor([0.5000])
    """
    return (((mean_magnitude.square() + 1).sqrt() - 1) / mean_magnitude).clamp(STEEPEST, FLATTEST)


def geometric_bits(mean_magnitude: Tensor) -> Tensor:
    """h(m): bits of an integer of the two-sided geometric distribution fitted to a mean magnitude m > 0."""
    t = geometric_ratio(mean_magnitude)
    return -torch.log2((1 - t) / (1 + t)) - mean_magnitude * torch.log2(t)


def relaxed_slope(ratio: Tensor, steepness: Tensor, edge: Tensor) -> Tensor:
    """Derivative by x of ``-log2`` of the mass that a Laplace distribution of scale b about 0 has between x - 1/2 and x + 1/2.

    .. math:: \\frac{1}{b\\log 2}\\,\\frac{\\sinh(c/b)}{e^{1/(2b)} - \\cosh(c/b)},\\qquad c = \\min(\\max(x, -\\tfrac12), \\tfrac12),

    which is ``+-1/(b log 2)`` outside of the middle. ``steepness`` is 1/b, at most 6.9 (t = 1e-3), ``edge`` ``e^(1/2b)``.
    """
    grown = ratio.clamp(-0.5, 0.5).mul_(steepness).exp_()
    shrunk = grown.reciprocal()
    rest = torch.add(edge, grown + shrunk, alpha=-0.5)
    return grown.sub_(shrunk).div_(rest).mul_(steepness).mul_(0.5 / math.log(2))


class Latent(nn.Module):
    """The latent weights and steps of a model's tensors, all floating point, each a matrix or a vector.

    Parameters
    ----------
    tensors : name -> float32 tensor, not empty
        What to start from.
    steps : name -> float32 (rows,) or (1,)
        To start from; by default the row's root mean square (times :data:`MATRIX_STEP`), on the grid.
    """

    step_of: Tensor  # of every weight, the number of its step
    line_of: Tensor  # (2, weights): of every weight, the number of its row, and of its column, among those of all matrices; 0 for all vectors
    line_size: Tensor  # of every row and column
    unit: Tensor  # of every step, what its bit pattern is a multiple of
    in_vectors: Tensor  # which weights are those of vectors

    def __init__(self, tensors: dict[str, Tensor], steps: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.weights = nn.Parameter(torch.cat([tensor.detach().reshape(-1) for tensor in tensors.values()]))
        started = steps or {name: _start(tensor) for name, tensor in tensors.items()}
        self.log_steps = nn.Parameter(torch.cat([started[name].log() for name in tensors]))
        self.num_steps = [shape[0] if len(shape) == 2 else 1 for shape in self.shapes.values()]
        spacing = scale_spacing({name: tensor.numpy() for name, tensor in tensors.items()})
        units = [torch.full((count,), (spacing if len(shape) == 2 else 1) << 16) for shape, count in zip(self.shapes.values(), self.num_steps, strict=True)]
        lengths = torch.tensor([shape[-1] for shape in self.shapes.values()])
        self._index(unit=torch.cat(units), step_of=torch.arange(len(self.log_steps)).repeat_interleave(lengths.repeat_interleave(torch.tensor(self.num_steps))))
        lines, self.line_counts, sizes = [], [1], [0]
        for shape in self.shapes.values():
            line = torch.zeros(2, *shape, dtype=torch.int64)
            if len(shape) == 2:
                line[0] = torch.arange(shape[0])[:, None] + len(sizes)
                line[1] = torch.arange(shape[1]) + len(sizes) + shape[0]
                sizes += [shape[1]] * shape[0] + [shape[0]] * shape[1]
                self.line_counts += shape
            else:
                sizes[0] += len(line[0])
            lines.append(line.view(2, -1))
        self._index(line_of=torch.cat(lines, dim=1), line_size=torch.tensor(sizes))
        self._index(in_vectors=torch.nonzero(self.line_of[0] == 0).squeeze(1))
        self.by_columns: tuple[bool, ...] = ()  # which matrices take the distributions of their columns, and what of every weight follows from it
        self.group_of = self.line_of[0]

    @classmethod
    def of_package(cls, model: QuantizedModel) -> Latent:
        """Latents in the middle of a package's integers. Its tensors are all :class:`~scalebound.compress.Coded`, without column scales.

        >>> package = QuantizedModel({}, {"w": Coded(np.array([[1, -2]], np.int16), np.array([0x3F80], np.uint16))})
        >>> Latent.of_package(package).quantized({}).tensors["w"].integers.tolist()
        [[1, -2]]
        """
        scales = {name: torch.from_numpy(bfloat16(tensor.row_scales)) for name, tensor in model.tensors.items() if isinstance(tensor, Coded)}
        return cls({name: torch.from_numpy(data) for name, data in model.dequantized().items()}, scales)

    def _index(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self) -> tuple[dict[str, Tensor], Tensor]:
        """The tensors the package would hold now, by name, and the bits of their integers by the stand-in; both differentiable."""
        values, bits = _Rounded.apply(self.weights, self.log_steps, self)  # type: ignore[no-untyped-call]
        return self._tensors(values), bits

    @torch.no_grad()
    def quantized(self, config: dict) -> QuantizedModel:
        """The integers and scales of this moment."""
        ratios, steps = self.ratios()
        found = {}
        for (name, part), step in zip(self._tensors(_whole(ratios)).items(), steps.split(self.num_steps), strict=True):
            integers = part.numpy().astype(np.int16)
            patterns = (step.view(torch.int32) >> 16).numpy().astype(np.uint16)
            found[name] = Coded(integers, free_scales(integers, patterns) if part.ndim == 2 else patterns)
        return QuantizedModel(config, dict(found))

    def ratios(self) -> tuple[Tensor, Tensor]:
        """w/s of every weight, and every step s: the nearest scale a package holds, a bfloat16 number, for rows a multiple of the spacing (in bit
        patterns, so nearly in logarithms)."""
        near = (self.log_steps.detach().exp().view(torch.int32).long() + self.unit // 2) // self.unit * self.unit
        steps = near.clamp(LOWEST << 16, HIGHEST << 16).int().view(torch.float32)
        return self.weights.detach() / steps.index_select(0, self.step_of), steps

    def bits(self, ratios: Tensor, integers: Tensor) -> tuple[float, Tensor]:
        """Bits of the integers by the stand-in, and their derivative by every w/s."""
        if len(self.in_vectors):
            middle = integers[self.in_vectors].median()
            ratios, integers = (part.index_add(0, self.in_vectors, -middle.expand(len(self.in_vectors))) for part in (ratios, integers))
        magnitudes = integers.abs()
        rows, cols = (torch.zeros(len(self.line_size)).scatter_add_(0, line, magnitudes) for line in self.line_of)
        mean = (torch.where(rows > 0, rows, cols) + 0.5) / (self.line_size + 1)  # never 0; an entry is that of a row, of a column or of all vectors
        taken = geometric_bits(mean) * self.line_size
        parts = [float(part.sum()) for part in taken.split(self.line_counts)]
        by_columns = tuple(col < row for row, col in zip(parts[1::2], parts[2::2], strict=True))
        if by_columns != self.by_columns:  # seldom
            matrices = iter(by_columns)
            chosen = [int(next(matrices)) if len(shape) == 2 else 0 for shape in self.shapes.values()]
            self.by_columns, self.group_of = by_columns, torch.cat([part[k] for k, part in zip(chosen, self.line_of.split(self.sizes, dim=1), strict=True)])
        steepness = -torch.log(geometric_ratio(mean))
        slope = relaxed_slope(ratios, steepness.index_select(0, self.group_of), torch.exp(0.5 * steepness).index_select(0, self.group_of))
        return sum(map(min, parts[1::2], parts[2::2]), parts[0]), slope

    def _tensors(self, flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split(self.sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


class _Rounded(torch.autograd.Function):
    """Latent weights and log steps to what the file decodes to and its bits, with the derivatives that the module's docstring states."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, log_steps: Tensor, latent: Latent) -> tuple[Tensor, Tensor]:
        ratios, steps = latent.ratios()
        integers, of_weight = _whole(ratios), steps.index_select(0, latent.step_of)
        bits, slope = latent.bits(ratios, integers)
        slope.div_(of_weight)
        ctx.save_for_backward(integers - ratios, slope, slope * ratios, log_steps)
        ctx.step_of = latent.step_of
        return of_weight.mul_(integers), torch.tensor(bits)

    @staticmethod
    def backward(ctx: Any, by_value: Tensor, by_bits: Tensor) -> tuple[Tensor, Tensor, None]:
        error, slope, along, log_steps = ctx.saved_tensors
        by_step = torch.zeros_like(log_steps).scatter_add_(0, ctx.step_of, by_value * error - by_bits * along)
        return by_value + by_bits * slope, by_step * log_steps.exp(), None


def _whole(ratios: Tensor) -> Tensor:
    return ratios.round().clamp_(-MAX_INTEGER, MAX_INTEGER)


def _start(tensor: Tensor) -> Tensor:
    """(rows,) or (1,): steps to start from."""
    rms = tensor.square().mean(-1).sqrt().clamp_min(1e-12).reshape(-1)
    return rms * (VECTOR_STEP if tensor.ndim == 1 else MATRIX_STEP)
