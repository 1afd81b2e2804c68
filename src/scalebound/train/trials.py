"""A network whose parts are exchanged for others, and how far its predictions move with a choice of them: what searches over structure judge by.

In: for each of some units (a matrix, a module) its variants at each level, finest first. Out: a level for each, within a budget, by one of three ways:

* ``evolution``: the divergence of whole choices, on samples that grow (:func:`scalebound.compress.selection.evolve`; EvoPress: Sieberling et al.,
  arXiv 2410.14649);
* ``additive``: dynamic programming on the divergence that each unit causes alone, as measured;
* ``fisher``: dynamic programming on what second-order damage predicts (only where the caller has predictions).

The divergence is Kullback and Leibler's, from the network as it was, on calibration text, in nats per token:

.. math:: \\frac1n\\sum_t\\sum_v p_{tv}\\log(p_{tv}/q_{tv})

EvoPress uses it too. The loss of the text is the same sum with the one token that came in place of p, and as noisy as that: choices made by it gained on
the text and lost elsewhere (benchmarks/LOG.md). As there, the first stages look at pieces drawn anew in every generation. The last looks at all
of the text, so the parent need not be tried again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.compress import Coded
from scalebound.compress.selection import additive, evolve
from scalebound.core.errors import UsageError
from scalebound.core.io import canonical_json
from scalebound.core.progress import Progress
from scalebound.core.seeds import generator
from scalebound.train.calibration import Calibration
from scalebound.train.tried import Tried

Method = Literal["evolution", "additive", "fisher"]
Variant = Mapping[str, Coded | np.ndarray]  # tensors by name; empty: the unit as it was
Levels = Sequence[int | None] | np.ndarray
STAGES = (8, 2, 1)  # one in so many pieces is looked at in each stage
OFFSPRING = 16
AT_ONCE = 4096  # tokens


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

    ``background``: tensors that are not tried, where they are not as they were. Memory: two bytes a calibration token and entry of the vocabulary.
    """

    def __init__(self, calibration: Calibration, variants: Sequence[Sequence[Variant]], background: Variant | None = None) -> None:
        self.calibration, self.variants = calibration, variants
        self.touched = [sorted({name for variant in unit for name in variant}) for unit in variants]
        self.current: list[int | None] = [None] * len(variants)
        calibration.module.float()
        for name in calibration.parameters:
            calibration.put(name, calibration.arrays[name])
        self.probability, self.information = self._as_it_was()
        for name, data in (background or {}).items():
            calibration.put(name, _array(data))

    def loss(self, levels: Levels) -> float:
        """Mean loss of the text with each unit at a level, over every token that is followed by another of its piece; None: as it was."""
        self._set(levels)
        inputs_ST = self.calibration.inputs_ST
        parts = [F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), torch.from_numpy(inputs_ST[rows, 1:]).flatten(), reduction="sum").item() for rows, logits_BTV in self._logits()]
        return float(np.sum(parts) / (inputs_ST.size - len(inputs_ST)))

    def divergence(self, levels: Levels, pieces: np.ndarray | None = None) -> float:
        """From the network as it was to this one, on some of the pieces, or on all. Nats per token."""
        self._set(levels)
        crossed = [-float(torch.einsum("btv,btv->", self.probability[rows].float(), logits_BTV.log_softmax(-1))) for rows, logits_BTV in self._logits(pieces)]
        chosen = slice(None) if pieces is None else pieces
        return float(np.sum(crossed) / self.calibration.inputs_ST[chosen].size + self.information[chosen].mean())

    def alone(self, tried: Tried | None = None) -> np.ndarray:
        """(units, levels): the divergence that each variant causes when nothing else changes, on all of the text."""
        tried, count = Tried(None, "") if tried is None else tried, range(len(self.variants))

        def one(unit: int, level: int) -> float:
            return tried((-1, unit, level), lambda: self.divergence([level if other == unit else None for other in count]))

        return np.array([[one(unit, level) for level in range(len(levels))] for unit, levels in enumerate(self.variants)])

    def choose(self, method: Method, bits: np.ndarray, start: np.ndarray, budget: float, *, seed: int, generations: int, progress: Progress, predicted: np.ndarray | None = None, state: str | os.PathLike | None = None) -> tuple[np.ndarray, int]:
        """A level for each unit, and how many divergences were computed.

        Parameters
        ----------
        bits : (units, levels)          what a unit takes, falling along levels
        start : (units,) int            where evolution begins; within the budget
        predicted : (units, levels)     damages, for ``fisher``
        state                           a file that keeps the divergences of an interrupted call (:mod:`~scalebound.train.tried`)
        """
        if method == "fisher":
            assert predicted is not None
            return additive(bits, predicted, budget), 0
        tried = Tried(state, self._identity(seed) if state is not None else "")
        if method == "additive":
            alone = self.alone(tried)
            tried.save()
            return additive(bits, alone, budget), bits.size
        done, total = 0, generations * (OFFSPRING + 5)
        pieces = len(self.calibration.inputs_ST)

        def damage(levels: np.ndarray, stage: int, generation: int) -> float:
            nonlocal done
            done += 1
            progress(min(done, total), total)
            whole = STAGES[stage] == 1
            key = (stage, 0 if whole else generation, *map(int, levels))  # few units have few choices, which come again
            return tried(key, lambda: self.divergence(levels, None if whole else generator(seed, f"pieces {generation}").permutation(pieces)[: max(1, pieces // STAGES[stage])]))

        found = evolve(bits, damage, start, budget, generator(seed, "evolution"), generations=generations, offspring=OFFSPRING)
        tried.save()
        return found.levels, len(tried)

    def _identity(self, seed: int) -> str:
        """Of all that a divergence depends on: the network as it was and with its background, the variants, the text, the draw of its pieces."""
        self._set([None] * len(self.variants))
        found = hashlib.sha256(canonical_json([seed, STAGES, self.calibration.inputs_ST.shape]))
        found.update(self.calibration.inputs_ST.tobytes())
        for name, parameter in self.calibration.parameters.items():
            found.update(self.calibration.arrays[name].tobytes())
            found.update(parameter.detach().numpy().tobytes())
        for name, data in ((name, data) for unit in self.variants for variant in unit for name, data in variant.items()):
            found.update(name.encode())
            for part in (data.integers, data.row_scales, data.col_scales) if isinstance(data, Coded) else (data,):
                if part is not None:
                    found.update(part.tobytes())
        return found.hexdigest()

    def _set(self, levels: Levels) -> None:
        for unit, (level, names) in enumerate(zip(levels, self.touched, strict=True)):
            if level != self.current[unit]:
                variant: Variant = {} if level is None else self.variants[unit][int(level)]
                for name in names:
                    self.calibration.put(name, _array(variant[name]) if name in variant else self.calibration.arrays[name])
                self.current[unit] = level

    @torch.inference_mode()
    def _logits(self, pieces: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Numbers of pieces, and their logits, float32."""
        inputs_ST = self.calibration.inputs_ST
        pieces = np.arange(len(inputs_ST)) if pieces is None else pieces
        at_once = max(1, AT_ONCE // inputs_ST.shape[1])
        for start in range(0, len(pieces), at_once):
            rows = pieces[start : start + at_once]
            yield rows, self.calibration.module(torch.from_numpy(inputs_ST[rows]), use_cache=False).logits.float()

    @torch.inference_mode()
    def _as_it_was(self) -> tuple[Tensor, np.ndarray]:
        """(S, T, V) probabilities in float16, and for every piece the mean of ``1 + sum (p log p - p)`` of those, which need not add up to 1 any more."""
        probability, information = [], []
        for _, logits_BTV in self._logits():
            probability.append(logits_BTV.softmax(-1).half())
            p_BTV = probability[-1].float()
            information.append((torch.special.xlogy(p_BTV, p_BTV).sum(-1) + 1 - p_BTV.sum(-1)).mean(-1))
        return torch.cat(probability), torch.cat(information).double().numpy()


def _array(data: Coded | np.ndarray) -> np.ndarray:
    return data.dequantized() if isinstance(data, Coded) else data
