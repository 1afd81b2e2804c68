"""``cooldown``: the loss after the learning rate has come down, from the loss just before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalebound.scaling.laws.formula import FormulaLaw, Parameters
from scalebound.scaling.laws.protocol import Parameter


class Cooldown(FormulaLaw):
    """Loss at the end of a cooldown that starts from a run at constant rate.

    .. math:: L_{\\mathrm{end}} = s\\, L_{\\mathrm{begin}} + m\\, D^{-b}

    Columns ``loss`` (where the cooldown begins, nats per token) and ``tokens`` (D, there); target ``cooldown_loss``. The cooldown is the
    same share of every run. What a cooldown gains is close to a fixed share of the loss, and less for runs that have seen little data;
    shape and size enter through the loss alone, so that it carries over to shapes that never had a cooldown.
    :func:`scalebound.scaling.cooldowns` joins the beginnings and ends of a log.

    Source
    ------
    An empirical law of this library, chosen among nine forms by predicting larger shapes from smaller ones (benchmarks/LOG.md) on the
    cooldowns of McLeish et al. 2025, arXiv 2502.06857.

    Examples
    --------
    >>> rows = {"loss": np.array([2.8]), "tokens": np.array([1e10])}
    >>> round(float(Cooldown().predict(np.array([0.95, 100.0, 0.3]), rows)[0]), 3)
    2.76
    """

    name = "cooldown"
    title = "Cooldown from a constant rate"
    equation = "L_end = s L_begin + m D^-b"
    source = "arXiv:2502.06857"
    inputs = ("loss", "tokens")
    target = "cooldown_loss"
    parameters = (
        Parameter("s", 0.0, 10.0, "share of the loss that stays"),
        Parameter("m", 1e-12, 1e40, "size of what short runs gain less", "log"),
        Parameter("b", 0.0, 3.0, "how fast that fades with tokens"),
    )
    linear = ("s", "m")

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"b": np.geomspace(0.02, 2.0, 30)}

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        return parameters["s"] * data["loss"] + parameters["m"] * np.exp(-parameters["b"] * np.log(data["tokens"]))
