"""A network whose parts are exchanged for others, and the loss of calibration text with a choice of them: what searches over structure judge by.

In: for each of some units (a matrix, a module) its variants at each level, finest first. Out: a level for each, within a budget, by one of three ways:

* ``evolution``: the loss of whole choices, on samples that grow (:func:`scalebound.compress.selection.evolve`; EvoPress: Sieberling et al., arXiv 2410.14649);
* ``additive``: dynamic programming on what each unit alone adds to the loss, as measured;
* ``fisher``: dynamic programming on what second-order damage predicts (only where the caller has predictions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.compress import Coded
from scalebound.compress.selection import additive, evolve
from scalebound.core.errors import UsageError
from scalebound.core.progress import Progress
from scalebound.core.seeds import generator
from scalebound.train.calibration import Calibration

Method = Literal["evolution", "additive", "fisher"]
Variant = Mapping[str, Coded | np.ndarray]  # tensors by name; empty: the unit as it was
STAGES = (8, 2, 1)  # one in so many sequences is looked at in each stage
OFFSPRING = 16


def check_search(method: str, generations: int, known: Sequence[str] = get_args(Method)) -> None:
    """Refuse what :meth:`Trials.choose` cannot do.

    Raises
    ------
    UsageError
    """
    if generations < 1 or method not in known:
        raise UsageError(f"method = {method}, generations = {generations}", expected=f"{' or '.join(known)}, at least 1")


class Trials:
    """Units, their variants, and the network to try them in, in float32: differences of losses are small, and bfloat16 would drown them.

    ``background``: tensors that are not tried, where they are not as they were.
    """

    def __init__(self, calibration: Calibration, variants: Sequence[Sequence[Variant]], background: Variant | None = None) -> None:
        self.calibration, self.variants = calibration, variants
        self.touched = [sorted({name for variant in unit for name in variant}) for unit in variants]
        self.current: list[int | None] = [None] * len(variants)
        calibration.module.float()
        for name in calibration.parameters:
            calibration.put(name, calibration.arrays[name])
        for name, data in (background or {}).items():
            calibration.put(name, _array(data))

    def loss(self, levels: Sequence[int | None] | np.ndarray, share: int = 1) -> float:
        """Mean loss of one in ``share`` of the pieces with each unit at a level; None: as it was."""
        for unit, (level, names) in enumerate(zip(levels, self.touched, strict=True)):
            if level != self.current[unit]:
                variant: Variant = {} if level is None else self.variants[unit][int(level)]
                for name in names:
                    self.calibration.put(name, _array(variant[name]) if name in variant else self.calibration.arrays[name])
                self.current[unit] = level
        return self._mean(self.calibration.inputs_ST[::share])

    def alone(self) -> np.ndarray:
        """(units, levels): what each variant adds to the loss when nothing else changes, on all of the text."""
        base = self.loss([None] * len(self.variants))
        return np.array([[self.loss([level if other == unit else None for other in range(len(self.variants))]) for level in range(len(levels))] for unit, levels in enumerate(self.variants)]) - base

    def choose(self, method: Method, bits: np.ndarray, start: np.ndarray, budget: float, *, seed: int, generations: int, progress: Progress, predicted: np.ndarray | None = None) -> tuple[np.ndarray, int]:
        """A level for each unit, and how many losses were computed.

        Parameters
        ----------
        bits : (units, levels)          what a unit takes, falling along levels
        start : (units,) int            where evolution begins; within the budget
        predicted : (units, levels)     damages, for ``fisher``
        """
        if method == "fisher":
            assert predicted is not None
            return additive(bits, predicted, budget), 0
        if method == "additive":
            return additive(bits, self.alone(), budget), bits.size
        done, total = 0, generations * (OFFSPRING + 5)
        known: dict[tuple[int, ...], float] = {}  # few units have few choices, which come again

        def damage(levels: np.ndarray, stage: int) -> float:
            nonlocal done
            done += 1
            progress(min(done, total), total)
            key = (stage, *map(int, levels))
            if key not in known:
                known[key] = self.loss(levels, STAGES[stage])
            return known[key]

        found = evolve(bits, damage, start, budget, generator(seed, "evolution"), generations=generations, offspring=OFFSPRING)
        return found.levels, len(known)

    @torch.inference_mode()
    def _mean(self, inputs_ST: np.ndarray) -> float:
        """Of every token that is followed by another of its piece."""
        parts = []
        for start in range(0, len(inputs_ST), 16):
            tokens_BT: Tensor = torch.from_numpy(np.ascontiguousarray(inputs_ST[start : start + 16]))
            logits = self.calibration.module(tokens_BT[:, :-1], use_cache=False).logits
            parts.append(F.cross_entropy(logits.float().flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="sum").item())
        return float(np.sum(parts) / (inputs_ST.size - len(inputs_ST)))


def _array(data: Coded | np.ndarray) -> np.ndarray:
    return data.dequantized() if isinstance(data, Coded) else data
