"""Levels for every matrix found by trying: evolution on the loss of calibration text, or dynamic programming on what each matrix costs alone.

Water-filling gives all matrices one level, which is best where the damage is what second moments and Fisher information say, and where
damages add up. This module does not assume either: every matrix is rounded at five levels around that one, half an octave apart, their bits
taken from their integers, and a choice is judged by the loss of the network that computes with it. The result is a factor on the level of
each matrix, with which :func:`~scalebound.train.posttraining.quantize_calibrated` writes the file, of the length asked for.

Which wins at equal bytes is in benchmarks/LOG.md. Source: EvoPress, Sieberling et al., arXiv 2410.14649, whose levels are bit widths.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.compress import Coded
from scalebound.compress.gptq import Factor, gptq
from scalebound.compress.rates import Rates, estimated_bits
from scalebound.compress.selection import additive, evolve
from scalebound.core.errors import UsageError
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import generator
from scalebound.data.stream import Stream
from scalebound.train.posttraining import PENALTY, SCALE_BITS, SEQUENCES, Rounding, calibration_inputs, level_at

FACTORS = tuple(2.0 ** (k / 2) for k in (-2, -1, 0, 1, 2))  # of the common level, finest first
MIDDLE = 2
STAGES = (8, 2, 1)  # one in so many sequences is looked at in each stage


@dataclass(frozen=True)
class MatrixLevels:
    """``factors``: by tensor name, on the level of the group it is rounded with. Losses are those of the calibration text, in nats per token."""

    factors: dict[str, float]
    loss_full: float
    loss_common: float
    loss_chosen: float
    evaluations: int


def matrix_levels(config: dict[str, Any], tensors: dict[str, np.ndarray], stream: str | os.PathLike, *, bits: float, method: Literal["evolution", "additive"] = "evolution",
                  penalty: float = PENALTY, sequences: int = SEQUENCES, start: int = 0, seed: int = 0, generations: int = 40, threads: int = 1, progress: Progress = silent) -> MatrixLevels:  # fmt: skip
    """Find them.

    Parameters
    ----------
    config, tensors, stream, bits, penalty, sequences, start, seed, threads
        As for :func:`~scalebound.train.posttraining.quantize_calibrated`.
    method
        ``evolution``: by the loss of whole choices. ``additive``: by what each matrix alone at each level adds to the loss.
    generations
        Of 16 children each.

    Raises
    ------
    UsageError, InputError
        As there.

    Notes
    -----
    About 18 * generations passes over an eighth of the calibration text, 4 over half of it and one over all of it a generation; additive:
    5 passes over all of it a matrix. All matrices are kept at all levels, as integers.
    """
    if generations < 1 or method not in ("evolution", "additive"):
        raise UsageError(f"method = {method}, generations = {generations}", expected="evolution or additive, at least 1")
    torch.set_num_threads(threads)
    arrays = {name: np.asarray(data, dtype=np.float32) if data.dtype.kind == "f" else data for name, data in tensors.items()}
    inputs = calibration_inputs(Stream(stream), config, sequences, start)
    rounding = Rounding(config, arrays, inputs, "fisher", penalty, (None, 0.0), seed, silent)
    level = level_at(rounding.pilot(bits), bits)
    tried = _Tried(rounding, level)
    base = tried.loss(None, 0)
    common = np.full(len(tried.names), MIDDLE)
    budget = float(tried.bits[:, MIDDLE].sum())
    loss_common = tried.loss(common, len(STAGES) - 1)
    if method == "additive":
        errors = np.array([[tried.loss_of_one(m, k) for k in range(len(FACTORS))] for m in range(len(tried.names))]) - base
        chosen = additive(tried.bits, errors, budget)
        evaluations = errors.size
    else:
        total = generations * 21

        def damage(levels: np.ndarray, stage: int) -> float:
            tried.count += 1
            progress(min(tried.count, total), total)
            return tried.loss(levels, stage)

        found = evolve(tried.bits, damage, common, budget, generator(seed, "evolution"), generations=generations)
        chosen, evaluations = found.levels, found.evaluations
    factors = {name: FACTORS[k] for names, k in zip(tried.names, chosen, strict=True) for name in names}
    return MatrixLevels(factors, base, loss_common, tried.loss(chosen, len(STAGES) - 1), evaluations)


class _Tried:
    """Every matrix at every level, calibrated on the full-precision network, and the network to try them in."""

    def __init__(self, rounding: Rounding, level: float) -> None:
        self.calibration = calibration = rounding.calibration
        self.names: list[list[str]] = []
        self.coded: list[list[dict[str, Coded]]] = []
        self.count = 0
        bits: list[list[float]] = []
        rates = [Rates() for _ in FACTORS]

        def add(names: list[str], weight: np.ndarray, made: Factor, row_weights: np.ndarray, number: int | None) -> None:
            found = [gptq(weight, made, rounding.steps(level * factor, weight, made, row_weights), penalty=rounding.penalty, rates=rate) for factor, rate in zip(FACTORS, rates, strict=True)]
            self.names.append(names)
            self.coded.append([{names[0]: coded} if number is None else calibration.split(number, coded) for coded in found])
            bits.append([estimated_bits(coded.integers) + SCALE_BITS * sum(weight.shape) for coded in found])

        for name in sorted({calibration.embedding, calibration.head}):
            add([name], calibration.arrays[name], *calibration.cost_of_embedding(name), None)
        calibration.forward(lambda number, inputs: add([f"{key}.weight" for key in calibration.groups[number]], calibration.weight(number), *calibration.cost_of_group(number, inputs), number))
        self.bits = np.array(bits)
        self.current: list[int | None] = [None] * len(self.names)
        calibration.module.float()  # differences of losses are small: bfloat16 would drown them
        for name in calibration.names:
            calibration.put(name, calibration.arrays[name])

    def loss(self, levels: np.ndarray | None, stage: int) -> float:
        """Mean loss of the calibration text with a choice of levels (None: full precision, on all of the text)."""
        return self._with([None] * len(self.names), 1) if levels is None else self._with([int(k) for k in levels], STAGES[stage])

    def _with(self, wanted: list[int | None], share: int) -> float:
        """One in ``share`` of the pieces, with some matrices rounded."""
        for m, k in enumerate(wanted):
            if k != self.current[m]:
                for name in self.names[m]:
                    self.calibration.put(name, self.calibration.arrays[name] if k is None else self.coded[m][k][name].dequantized())
                self.current[m] = k
        return self._mean(self.calibration.inputs_ST[::share])

    def loss_of_one(self, matrix: int, level: int) -> float:
        """All of the text, with only one matrix rounded."""
        return self._with([level if m == matrix else None for m in range(len(self.names))], 1)

    @torch.inference_mode()
    def _mean(self, inputs_ST: np.ndarray) -> float:
        """Of every token that is followed by another of its piece."""
        parts = []
        for start in range(0, len(inputs_ST), 16):
            tokens_BT: Tensor = torch.from_numpy(np.ascontiguousarray(inputs_ST[start : start + 16]))
            logits = self.calibration.module(tokens_BT[:, :-1], use_cache=False).logits
            parts.append(F.cross_entropy(logits.float().flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="sum").item())
        return float(np.sum(parts) / (inputs_ST.size - len(inputs_ST)))
