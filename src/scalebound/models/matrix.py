"""A matrix that is only multiplied with, and what follows the product for free.

On a processor, oneDNN copies a matrix into the order its kernels read before every product; done once and kept ("packed") a product takes 4%
less time in bfloat16 and 15% less in float32, with the same bits for any number of rows. Its products also apply an activation, or add or
multiply by another array, before the result is rounded: a pass over memory less each, and the error of one rounding less.

PyTorch's compiler uses the same operators; they have no public name, so where they are missing the plain ones take over.

Letters: N tokens, D inputs, F outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Matrix:
    """``x -> x W^T + b`` for W (F, D); ``weight`` may be filled in until :meth:`pack` is called."""

    def __init__(self, weight_FD: Tensor, bias_F: Tensor | None = None) -> None:
        self.weight, self.bias, self.packed = weight_FD, bias_F, False

    def pack(self) -> None:
        """Change to the form that products are fastest in; whoever still holds the plain weights keeps them alive."""
        if not self.packed and can_pack(self.weight):
            self.weight, self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, None), True

    def __call__(self, x_ND: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x_ND, self.weight, self.bias, "none", [], "") if self.packed else F.linear(x_ND, self.weight, self.bias)

    def silu(self, x_ND: Tensor) -> Tensor:
        """SiLU of the product."""
        return torch.ops.mkldnn._linear_pointwise(x_ND, self.weight, self.bias, "swish", [], "") if self.packed else F.silu(self(x_ND))

    def times(self, x_ND: Tensor, other_NF: Tensor) -> Tensor:
        """The product times another array, elementwise."""
        return torch.ops.mkldnn._linear_pointwise.binary(x_ND, other_NF, self.weight, self.bias, "mul") if self.packed else self(x_ND) * other_NF

    def plus(self, x_ND: Tensor, other_NF: Tensor) -> Tensor:
        """The product plus another array."""
        return torch.ops.mkldnn._linear_pointwise.binary(x_ND, other_NF, self.weight, self.bias, "add") if self.packed else self(x_ND) + other_NF


def can_pack(weight: Tensor) -> bool:
    """Whether this machine's PyTorch multiplies by packed matrices of this kind."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return weight.dtype in (torch.bfloat16, torch.float32) and all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
