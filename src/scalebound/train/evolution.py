"""Levels for every matrix found by trying: evolution on the divergence from the full model, or dynamic programming on what each matrix causes alone.

Water-filling gives all matrices one level, which is best where the damage is what second moments and Fisher information say, and where
damages add up. This module does not assume either. :func:`matrix_levels`: every matrix is rounded at five levels around that one, half an octave apart,
their bits taken from their integers, and a choice is judged by how far it moves the predictions of the network that computes with it (:mod:`~scalebound.train.trials`). The result is a
factor on the level of each matrix. :func:`sparsity_levels`: every matrix is pruned of five shares around a common one, and the result is a share for each.
With either :func:`~scalebound.train.posttraining.quantize_calibrated` writes the file, of the length asked for.

Which wins at equal bytes is in benchmarks/LOG.md. Source: EvoPress, Sieberling et al., arXiv 2410.14649, whose levels are bit widths and sparsities.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from scalebound.compress import Coded
from scalebound.compress.gptq import Factor, damage, gptq
from scalebound.compress.pruning import Pruning
from scalebound.compress.rates import Rates, estimated_bits
from scalebound.core.errors import UsageError
from scalebound.core.progress import Progress, silent
from scalebound.data.stream import Stream
from scalebound.train.posttraining import PENALTY, SCALE_BITS, SEQUENCES, Rounding, calibration_inputs
from scalebound.train.trials import Method, Trials, Variant, check_search

FACTORS = tuple(2.0 ** (k / 2) for k in (-2, -1, 0, 1, 2))  # of the common level, finest first
SHARE_STEPS = (-2, -1, 0, 1, 2)  # of a fifth of what is kept or of what goes, whichever is less
MIDDLE = 2


@dataclass(frozen=True)
class MatrixLevels:
    """``factors``: by tensor name, on the level of the group it is rounded with. Losses and divergences (from the full model) are those of the calibration text, in nats per token."""

    factors: dict[str, float]
    loss_full: float
    loss_common: float
    loss_chosen: float
    divergence_common: float
    divergence_chosen: float
    evaluations: int


def matrix_levels(config: dict[str, Any], tensors: dict[str, np.ndarray], stream: str | os.PathLike, *, bits: float, method: Literal["evolution", "additive"] = "evolution",
                  penalty: float = PENALTY, sequences: int = SEQUENCES, start: int = 0, seed: int = 0, generations: int = 40, threads: int = 1, state: str | os.PathLike | None = None, progress: Progress = silent) -> MatrixLevels:  # fmt: skip
    """A factor on the level of every matrix, such that all together take as many bits as one level for all would.

    Parameters
    ----------
    config, tensors, stream, bits, penalty, sequences, start, seed, threads
        As for :func:`~scalebound.train.posttraining.quantize_calibrated`.
    method
        ``evolution``: by the divergence of whole choices. ``additive``: by what each matrix alone at each level causes.
    generations
        Of 16 children each.
    state
        A file that keeps what an interrupted call had computed; a later call with the same settings goes on from it. It is not removed.

    Raises
    ------
    UsageError, InputError
        As there.

    Notes
    -----
    About 18 * generations passes over an eighth of the calibration text, 4 over half of it and one over all of it a generation; additive:
    5 passes over all of it a matrix. All matrices are kept at all levels, as integers.
    """
    check_search(method, generations, ("evolution", "additive"))
    rounding = _rounding(config, tensors, stream, penalty, (None, 0.0), sequences, start, seed, threads)
    level = rounding.pilot(bits).next_level(bits * sum(data.size for data in rounding.arrays.values() if data.dtype.kind == "f"))
    units = _Units(rounding)
    rates = [Rates() for _ in FACTORS]
    sizes: list[list[float]] = []

    def variants(weight: np.ndarray, made: Factor, row_weights: np.ndarray) -> list[Coded]:
        found = [gptq(weight, made, rounding.steps(level * factor, weight, made, row_weights), penalty=penalty, rates=rate) for factor, rate in zip(FACTORS, rates, strict=True)]
        sizes.append([estimated_bits(coded.integers) + SCALE_BITS * sum(weight.shape) for coded in found])
        return found

    units.visit(variants, embeddings=True)
    trials, common = Trials(rounding.calibration, units.variants), np.full(len(units.names), MIDDLE)
    taken = np.array(sizes)
    base, loss_common = trials.loss([None] * len(common)), trials.loss(common)
    chosen, evaluations = trials.choose(method, taken, common, float(taken[:, MIDDLE].sum()), seed=seed, generations=generations, progress=progress, state=state)
    factors = {name: FACTORS[k] for names, k in zip(units.names, chosen, strict=True) for name in names}
    return MatrixLevels(factors, base, loss_common, trials.loss(chosen), trials.divergence(common), trials.divergence(chosen), evaluations)


@dataclass(frozen=True)
class SparsityLevels:
    """``shares``: of zeros, by tensor name, in the group it is rounded with. Losses and divergences are those of the calibration text, in nats per token, with a rounded embedding."""

    shares: dict[str, float]
    loss_full: float
    loss_common: float
    loss_chosen: float
    divergence_common: float
    divergence_chosen: float
    evaluations: int


def sparsity_levels(config: dict[str, Any], tensors: dict[str, np.ndarray], stream: str | os.PathLike, *, bits: float, sparsity: float, prune: Pruning = "sparsegpt", method: Method = "evolution",
                    penalty: float = PENALTY, sequences: int = SEQUENCES, start: int = 0, seed: int = 0, generations: int = 40, threads: int = 1, state: str | os.PathLike | None = None, progress: Progress = silent) -> SparsityLevels:  # fmt: skip
    """A share of zeros for every matrix, such that of all together no more than a given share stays.

    ``sparsity`` and ``prune`` are those of :func:`~scalebound.train.posttraining.quantize_calibrated`; matrices are pruned and rounded at once, at
    the level of ``bits``. ``method`` is one of :mod:`~scalebound.train.trials`; ``fisher`` predicts damages by :func:`scalebound.compress.gptq.damage`
    and computes no losses but those of the record. Everything else, errors and costs too, as for :func:`matrix_levels`.
    """
    check_search(method, generations)
    if prune not in ("magnitude", "wanda", "sparsegpt") or not 0 < sparsity < 1:
        raise UsageError(f"prune = {prune}, sparsity = {sparsity}", expected="magnitude, wanda or sparsegpt with a share between 0 and 1")
    rounding = _rounding(config, tensors, stream, penalty, (prune, sparsity), sequences, start, seed, threads)
    level = rounding.pilot(bits).next_level(bits * sum(data.size for data in rounding.arrays.values() if data.dtype.kind == "f"))
    units, step = _Units(rounding), min(sparsity, 1 - sparsity) / 5
    shares = [sparsity + k * step for k in SHARE_STEPS]
    rates, dense = [Rates() for _ in shares], Rates()
    left: list[list[float]] = []
    predicted: list[list[float]] = []
    background: dict[str, Coded] = {}

    def variants(weight: np.ndarray, made: Factor, row_weights: np.ndarray) -> list[Coded]:
        steps = rounding.steps(level, weight, made, row_weights)
        found = [gptq(weight, made, steps, penalty=penalty, rates=rate, **rounding.mask(weight, made, False, share)) for share, rate in zip(shares, rates, strict=True)]
        left.append([weight.size - int(share * weight.size) for share in shares])
        predicted.append([damage(weight - coded.dequantized(), made, row_weights) for coded in found])
        return found

    units.visit(variants, embeddings=False)
    for name in sorted({rounding.calibration.embedding, rounding.calibration.head}):
        weight, (made, row_weights) = rounding.calibration.arrays[name], rounding.calibration.cost_of_embedding(name)
        background[name] = gptq(weight, made, rounding.steps(level, weight, made, row_weights), penalty=penalty, rates=dense)
    trials, common = Trials(rounding.calibration, units.variants, background), np.full(len(units.names), MIDDLE)
    taken = np.array(left, dtype=np.float64)
    base, loss_common = trials.loss([None] * len(common)), trials.loss(common)
    chosen, evaluations = trials.choose(method, taken, common, float(taken[:, MIDDLE].sum()), seed=seed, generations=generations, progress=progress, state=state, predicted=np.array(predicted))
    found = {name: shares[k] for names, k in zip(units.names, chosen, strict=True) for name in names}
    return SparsityLevels(found, base, loss_common, trials.loss(chosen), trials.divergence(common), trials.divergence(chosen), evaluations)


def _rounding(config: dict, tensors: dict, stream: str | os.PathLike, penalty: float, pruning: tuple[Pruning | None, float], sequences: int, start: int, seed: int, threads: int) -> Rounding:
    torch.set_num_threads(threads)
    arrays = {name: np.asarray(data, dtype=np.float32) if data.dtype.kind == "f" else data for name, data in tensors.items()}
    return Rounding(config, arrays, calibration_inputs(Stream(stream), config, sequences, start), "fisher", penalty, pruning, seed, silent)


class _Units:
    """Every matrix with what is tried in its place, calibrated on the full-precision network."""

    def __init__(self, rounding: Rounding) -> None:
        self.calibration = rounding.calibration
        self.names: list[list[str]] = []
        self.variants: list[list[Variant]] = []

    def visit(self, make: Callable[[np.ndarray, Factor, np.ndarray], list[Coded]], *, embeddings: bool) -> None:
        calibration = self.calibration
        for name in sorted({calibration.embedding, calibration.head}) if embeddings else ():
            self.names.append([name])
            self.variants.append([{name: coded} for coded in make(calibration.arrays[name], *calibration.cost_of_embedding(name))])

        def group(number: int, inputs: Tensor) -> None:
            self.names.append([f"{key}.weight" for key in calibration.groups[number]])
            self.variants.append([calibration.split(number, coded) for coded in make(calibration.weight(number), *calibration.cost_of_group(number, inputs))])

        calibration.forward(group)
