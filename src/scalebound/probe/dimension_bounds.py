"""What a trained subspace vector proves: the bound of its real file beside the one published papers derive from its dimension.

Items drawn independently; the error is the share of them whose right choice is not the likeliest. The base and the held-out items were
there before the training items were drawn, so they cost nothing (docs/mathematics.md section 6).

* **Ours.** The vector is rounded and packaged (:mod:`scalebound.compress.delta`); L is the length of that file as a prefix-free code, its header,
  scale, seed and dimension included. For every file at once, with probability 1 - delta,

  .. math:: \\mathrm{err} \\le \\max\\{p : \\mathrm{BinCDF}(k; m, p) \\ge \\delta 2^{-L}\\},

  k errors of m training items of the model that is decoded from the file (:func:`scalebound.certify.binomial_upper`). Because it holds for all files
  at once, the dimension with the least bound may be picked for nothing.
* **From d.** Theorem 1 of Aghajanyan et al., ``R <= R_train + O(sqrt(d/m))``, is Theorem 2.1 of Arora et al. for d numbers of r values each. With its
  constants (Hoeffding's inequality and a union over r^d vectors)

  .. math:: \\mathrm{err} \\le k/m + \\sqrt{(d \\log r + \\log(1/\\delta))/(2m)}.

  It assumes r, the scale of the values and the projection fixed before the data. Here r is how many values the rounded vector spans and the scale
  its own, neither paid for: the published bound is given more than it may take, and the same rounded model.
* **Held out.** The binomial bound on items the training never saw, with a share of delta for every vector they could have picked.

A bound at or above the error of guessing among the choices says nothing and is called vacuous.

Source: Aghajanyan et al. 2020, arXiv 2012.13255; Arora et al. 2018, arXiv 1802.05296; Langford 2005 (JMLR 6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scalebound.certify import binomial_upper, package_code_bits
from scalebound.compress import Coded, QuantizedModel, decode_model, encode_with_breakdown
from scalebound.compress.delta import apply_delta, pack_delta
from scalebound.models.trainable import Trainable
from scalebound.probe.choosing import Question, scored

STEP = 1.0  # of rounding, over the vector's median magnitude: of 0.3 to 3 on three vectors never far from the least bound (benchmarks/LOG.md)


@dataclass(frozen=True)
class DimensionBound:
    """Bounds on the error of a rounded vector. ``header_bytes`` of the file say what it is, ``levels`` is the r above, ``error`` that on the training items."""

    file_bytes: int
    header_bytes: int
    code_bits: int
    levels: int
    error: float
    items: int
    held_error: float
    ours: float
    from_dimension: float
    held_out: float
    guessing: float

    @property
    def vacuous(self) -> tuple[bool, bool]:
        """Of ours, and of the one from d."""
        return self.ours >= self.guessing, self.from_dimension >= self.guessing


def union_bound(error: float, dimension: int, levels: int, items: int, delta: float) -> float:
    """``error + sqrt((d log r + log(1/delta)) / (2 m))``; above 1 it says nothing.

    >>> round(union_bound(0.2, 100, 16, 10_000, 0.05), 4)
    0.3184
    """
    return error + math.sqrt((dimension * math.log(levels) + math.log(1 / delta)) / (2 * items))


def bound_of(base: Trainable, vector: np.ndarray, train: Sequence[Question], held: Sequence[Question], *, seed: int, delta: float, candidates: int = 1, step: float = STEP) -> DimensionBound:
    """Round a trained vector, decode its file, read the items. ``base`` is left as it was.

    ``candidates`` is how many vectors the held-out items could have picked this one from, which their bound pays for.
    """
    package = pack_delta("subspace", {"w": vector}, seed=seed, step=step)
    file, parts = encode_with_breakdown(package)
    own = {name: tensor.clone() for name, tensor in base.tensors().items()}
    base.load_tensors(rebuilt(file, own))
    try:
        wrong, held_wrong = (int((~scored(base, items)[1]).sum()) for items in (train, held))
    finally:
        base.load_tensors(own)
    bits, levels, m = package_code_bits(len(file)), _levels(package), len(train)
    return DimensionBound(
        file_bytes=len(file), header_bytes=parts.header_bytes, code_bits=bits, levels=levels, error=wrong / m, items=m, held_error=held_wrong / len(held),
        ours=binomial_upper(wrong, m, code_bits=bits, delta=delta),
        from_dimension=union_bound(wrong / m, len(vector), levels, m, delta),
        held_out=binomial_upper(held_wrong, len(held), code_bits=math.log2(candidates), delta=delta),
        guessing=1 - float(np.mean([1 / len(question.texts) for question in train])),
    )  # fmt: skip


def rebuilt(file: bytes, own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that a delta file stands for on a base of the tensors ``own``: exactly those of :func:`scalebound.models.relative.rebuild`."""
    package = decode_model(file)
    arrays = apply_delta(package.config, package.dequantized(), {name: tensor.float().numpy() for name, tensor in own.items()})
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _levels(package: QuantizedModel) -> int:
    """Values that the rounded vector spans; of one left in bfloat16, all there are."""
    w = package.tensors["w"]
    return max(2, int(w.integers.max()) - int(w.integers.min()) + 1) if isinstance(w, Coded) else 1 << 16
