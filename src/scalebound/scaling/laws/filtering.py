"""``filtering``: data pools of different quality, repeated; which mix is best at which compute.

A pool has utility b and half-life tau: its worth falls by half every tau repetitions. Error (or reducible loss) falls along training as

.. math:: y_n = y_{n-1} (n_j/n_{j-1})^{-b_j}, \\qquad b_j = b\\, (1/2)^{(j-1)/\\tau}

with n_j the samples seen at the end of epoch j. Mixing pools averages their utilities by size, and an epoch over the mixture repeats each
pool less often per sample seen: half-lives are stretched by the mixture's size over the pool's. So the best pools alone are best for
little compute, and worse ones must join when compute grows.

Source
------
Goyal et al. 2024, arXiv 2404.07177 (written there with a negative b).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalebound.core.errors import InputError, UsageError
from scalebound.scaling.laws.formula import FormulaLaw, Parameters
from scalebound.scaling.laws.protocol import Inputs, Parameter

MOST_EPOCHS = 4096


class Filtering(FormulaLaw):
    """One pool: error after ``tokens`` samples from ``unique_tokens`` different ones.

    .. math:: \\log y = \\log a - b\\Big[\\log n_1 + \\sum_{j \\ge 2} 2^{-(j-1)/\\tau} \\log(n_j/n_{j-1})\\Big]

    Examples
    --------
    >>> rows = {"tokens": np.array([1e6, 4e6]), "unique_tokens": np.array([1e6, 1e6])}
    >>> Filtering().predict(np.array([10.0, 0.2, 2.0]), rows).round(4).tolist()
    [0.631, 0.5383]
    """

    name = "filtering"
    title = "Scaling law of a data pool under repetition"
    equation = "y = a n1^-b prod (n_j/n_(j-1))^-(b/2^((j-1)/tau))"
    source = "arXiv:2404.07177"
    inputs = ("tokens", "unique_tokens")
    varying = ("tokens",)
    parameters = (
        Parameter("a", 1e-12, 1e40, "error after one sample", "log"),
        Parameter("b", 0.0, 3.0, "utility of fresh data"),
        Parameter("tau", 1e-2, 1e4, "repetitions after which utility has halved", "log"),
    )

    def data(self, inputs: Inputs) -> dict[str, Any]:
        tokens, unique = (np.asarray(inputs[name], dtype=float) for name in self.inputs)
        unique = np.minimum(unique, tokens)
        epochs = int(np.ceil(np.max(tokens / unique) - 1e-9))
        if epochs > MOST_EPOCHS:
            raise InputError(f"a row repeats its data {epochs} times", expected=f"at most {MOST_EPOCHS} epochs")
        j = np.arange(1, epochs + 1)
        ends = np.minimum(np.maximum(unique[:, None] * j, unique[:, None]), tokens[:, None])
        growth = np.zeros_like(ends)
        growth[:, 0] = np.log(ends[:, 0])
        growth[:, 1:] = np.diff(np.log(ends), axis=1)
        return {"growth": growth, "epoch": (j - 1).astype(float)}

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"b": np.geomspace(0.01, 1.5, 24), "tau": np.geomspace(0.1, 300.0, 16)}

    linear = ("a",)

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        progress: Any = data["growth"][:, 0]
        for j in range(1, len(data["epoch"])):
            progress = progress + np.exp(-np.log(2.0) * data["epoch"][j] / parameters["tau"]) * data["growth"][:, j]
        return parameters["a"] * np.exp(-parameters["b"] * progress)


@dataclass(frozen=True)
class Pool:
    """A data pool: samples in it, utility of a fresh sample, repetitions to half of it."""

    name: str
    size: float
    utility: float
    half_life: float


def mixture_error(pools: Sequence[Pool], samples: float, *, scale: float = 1.0) -> float:
    """Error after ``samples`` samples from the union of ``pools``, relative to ``scale`` at one sample.

    Utilities are averaged by size; the half-life of each pool is stretched by the union's size over its own.
    """
    if not pools:
        raise UsageError("no pool is given", expected="at least one")
    if not samples >= 1:
        raise UsageError(f"samples is {samples}", expected="at least 1")
    total = sum(pool.size for pool in pools)
    share = np.array([pool.size / total for pool in pools])
    utility = np.array([pool.utility for pool in pools])
    half_life = np.array([pool.half_life * total / pool.size for pool in pools])
    epochs = int(np.ceil(samples / total))
    if epochs > 10 * MOST_EPOCHS:
        raise UsageError(f"{samples:g} samples repeat the pools {epochs} times", expected=f"at most {10 * MOST_EPOCHS} epochs")
    j = np.arange(max(epochs, 1))
    ends = np.minimum(total * (j + 1.0), samples)
    growth = np.diff(np.log(ends), prepend=0.0)
    b = (share * utility * 0.5 ** (j[:, None] / half_life)).sum(axis=1)
    return float(scale * np.exp(-(b * growth).sum()))


def best_mix(pools: Sequence[Pool], samples: float) -> tuple[tuple[str, ...], float]:
    """The union of pools with the least error after ``samples`` samples; all unions are tried (at most 12 pools).

    >>> pools = [Pool("best", 1e6, 0.30, 2.0), Pool("good", 1e6, 0.28, 2.0)]
    >>> best_mix(pools, 1e6)[0], best_mix(pools, 1e8)[0]
    (('best',), ('best', 'good'))
    """
    if not 1 <= len(pools) <= 12:
        raise UsageError(f"{len(pools)} pools", expected="1 to 12")
    unions = [chosen for size in range(1, len(pools) + 1) for chosen in itertools.combinations(pools, size)]
    errors = [mixture_error(chosen, samples) for chosen in unions]
    k = int(np.argmin(errors))
    return tuple(pool.name for pool in unions[k]), errors[k]
