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
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from scalebound.compress.model import Coded, QuantizedModel
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


def laplace_bits(distance: Tensor, scale: Tensor) -> Tensor:
    """``-log2`` of a Laplace distribution's mass on an interval of length 1 whose middle is ``distance >= 0`` away from its centre.

    .. math:: |x| \\ge \\tfrac12:\\ e^{-|x|/b} \\sinh\\tfrac1{2b},\\qquad |x| < \\tfrac12:\\ 1 - e^{-1/(2b)} \\cosh\\tfrac xb

    ``scale`` b at least 0.14 (t = 1e-3), so that nothing here leaves float32.
    """
    near = -torch.log1p(-torch.exp(-0.5 / scale) * torch.cosh(distance.clamp_max(0.5) / scale))
    far = distance.clamp_min(0.5) / scale - torch.log(torch.sinh(0.5 / scale))
    return torch.where(distance < 0.5, near, far) / math.log(2)


class Latent(nn.Module):
    """The latent weights and steps of a model's tensors, all floating point, each a matrix or a vector.

    Parameters
    ----------
    tensors : name -> float32 tensor, not empty
        What to start from. Row steps start at the row's root mean square (times :data:`MATRIX_STEP`), on the grid.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.names = list(tensors)
        self.spacing = scale_spacing({name: tensor.numpy() for name, tensor in tensors.items()})
        self.weights = nn.ParameterList(tensor.detach().clone() for tensor in tensors.values())
        self.log_steps = nn.ParameterList(_start(tensor).log() for tensor in tensors.values())

    def forward(self) -> tuple[dict[str, Tensor], Tensor]:
        """The tensors the package would hold now, by name, and the bits of their integers by the stand-in; both differentiable."""
        tensors, vectors = {}, []
        bits = torch.zeros(())
        for name, weight, log_step in zip(self.names, self.weights, self.log_steps, strict=True):
            step, hard = log_step.exp(), self._on_grid(log_step)
            step = hard + (step - step.detach())  # the value of the grid, the gradient of the step
            ratio = weight / step
            integers = ratio.detach().round().clamp(-MAX_INTEGER, MAX_INTEGER)
            soft = weight + step * (integers - ratio.detach())
            tensors[name] = integers * hard + (soft - soft.detach())  # exactly what the file decodes to
            if weight.ndim == 1:
                vectors.append((ratio, integers))
            else:
                bits = bits + laplace_bits(ratio.abs(), _laplace_scales(integers.abs())).sum()
        if vectors:
            ratio, integers = (torch.cat(parts) for parts in zip(*vectors, strict=True))
            middle = integers.median()
            mean = ((integers - middle).abs().sum() + 0.5) / (len(integers) + 1)
            bits = bits + laplace_bits((ratio - middle).abs(), -1 / torch.log(geometric_ratio(mean))).sum()
        return tensors, bits

    @torch.no_grad()
    def quantized(self, config: dict) -> QuantizedModel:
        """The integers and scales of this moment."""
        tensors = {}
        for name, weight, log_step in zip(self.names, self.weights, self.log_steps, strict=True):
            step = self._on_grid(log_step)
            integers = (weight / step).round().clamp(-MAX_INTEGER, MAX_INTEGER).numpy().astype(np.int16)
            patterns = (step.reshape(-1).view(torch.int32) >> 16).numpy().astype(np.uint16)
            tensors[name] = Coded(integers, free_scales(integers, patterns) if weight.ndim == 2 else patterns)
        return QuantizedModel(config, dict(tensors))

    def _on_grid(self, log_step: Tensor) -> Tensor:
        """The nearest scale a package holds: a bfloat16 number, for rows a multiple of the spacing (in bit patterns, so nearly in logarithms)."""
        unit = (self.spacing if log_step.ndim == 2 else 1) << 16
        found = (log_step.detach().exp().view(torch.int32).long() + unit // 2) // unit * unit
        return found.clamp(LOWEST << 16, HIGHEST << 16).int().view(torch.float32)


def _start(tensor: Tensor) -> Tensor:
    """(rows, 1) or (1,): steps to start from."""
    rms = tensor.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
    return rms * (VECTOR_STEP if tensor.ndim == 1 else MATRIX_STEP)


def _laplace_scales(magnitudes: Tensor) -> Tensor:
    """b for every column, (1, cols), or every row, (rows, 1): the axis along which the integers are shorter."""
    found = []
    for axis in (0, 1):
        count = magnitudes.shape[axis]
        mean = (magnitudes.sum(axis, keepdim=True) + 0.5) / (count + 1)  # never 0
        found.append((float(geometric_bits(mean).sum()) * count, mean))
    _, mean = min(found, key=lambda item: item[0])
    return -1 / torch.log(geometric_ratio(mean))
