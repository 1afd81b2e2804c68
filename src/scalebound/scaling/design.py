"""Which runs to train next: the ones that narrow a stated forecast most for their cost.

Near the fit the law is linear in its parameters, so that a run at x with gradient g(x) and noise sigma turns the covariance S into
:math:`S - S g g^T S / (\\sigma^2 + g^T S g)`, and the variance of the forecast :math:`c^T S c` falls by
:math:`(c^T S g)^2 / (\\sigma^2 + g^T S g)`. Runs are chosen greedily from a grid within a budget, each by the reduction it brings
per unit of compute raised to a small power, so that one dear run is not preferred to a cheap one that does nearly as well.

Source
------
c-optimal design: Atkinson, Donev and Tobias 2007, Optimum Experimental Designs, chapter 10.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import UsageError
from scalebound.scaling.fitted import Fit, load_fit
from scalebound.scaling.forecast import law_of


@dataclass(frozen=True)
class Run:
    """A proposed run, its cost, and the standard deviation of the forecast (relative) once it is trained."""

    inputs: dict[str, float]
    flops: float
    spread_after: float


@dataclass(frozen=True)
class Design:
    """Proposed runs in order; ``spread_now`` is the forecast's relative standard deviation before them."""

    runs: tuple[Run, ...]
    spread_now: float


def next_runs(fit: Fit | str | os.PathLike, *, at: Mapping[str, float], count: int = 3, budget: float, thrift: float = 0.25) -> Design:
    """Propose ``count`` runs that narrow the forecast at ``at`` and cost at most ``budget`` FLOPs together.

    Parameters
    ----------
    at : the point to be forecast, the law's inputs (params, tokens)
    budget : > 0, FLOPs at 6 per parameter and token
    thrift : >= 0                 the reduction of variance is divided by (flops / budget) ** thrift

    Raises
    ------
    UsageError                    the fit has no covariance, or does not read params and tokens
    """
    fit = fit if isinstance(fit, Fit) else load_fit(fit)
    law = law_of(fit)
    if set(law.inputs) != {"params", "tokens"}:
        raise UsageError(f"{fit.law} reads {', '.join(fit.inputs)}", expected="a fit of a law of params and tokens")
    if fit.covariance is None or fit.scale is None:
        raise UsageError("the fit has no covariance", expected="a fit with bootstrap draws", hint="fit again with --bootstrap 1000")
    if count < 1 or not budget > 0:
        raise UsageError(f"count {count}, budget {budget}", expected="at least one run and a positive budget")
    ranges = fit.data.ranges
    # sizes from the smallest seen to ten times the largest, ratios as wide as seen
    n = np.geomspace(ranges["params"][0], ranges["params"][1] * 10, 28)
    d = np.geomspace(ranges["tokens"][0], ranges["tokens"][1] * 10, 28)
    N, D = (axis.ravel() for axis in np.meshgrid(n, d, indexing="ij"))
    C = 6 * N * D
    keep = budget / C >= 1
    N, D, C = N[keep], D[keep], C[keep]
    if not len(C):
        raise UsageError(f"a budget of {budget:.3g} FLOPs is less than the smallest run seen", expected=f"at least {6 * n[0] * d[0]:.3g}")
    theta = law.internal(fit.vector)[None]

    def gradient(params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        f, jacobian, _ = law.bind({"params": params, "tokens": tokens}).derivatives(theta)
        return (jacobian[0] / f[0]).T  # relative: noise is relative too

    g = gradient(N, D)
    c = gradient(np.array([at["params"]]), np.array([at["tokens"]]))[0]
    S = np.array(fit.covariance)
    noise = max(fit.scale if fit.objective.residual == "log" else fit.scale / np.mean(fit.data.target_range), 1e-6) ** 2
    now = math.sqrt(max(float(c @ S @ c), 0.0))
    left = budget
    runs: list[Run] = []
    for _ in range(count):
        affordable = left >= C
        if not affordable.any():
            break
        pull = g @ S @ c
        own = np.einsum("ni,ij,nj->n", g, S, g)
        gain = pull**2 / (noise + own)
        score = np.where(affordable, gain / (C / budget) ** thrift, -np.inf)
        k = int(np.argmax(score))
        S = S - np.outer(S @ g[k], g[k] @ S) / (noise + own[k])
        left -= C[k]
        runs.append(Run({"params": float(N[k]), "tokens": float(D[k])}, float(C[k]), math.sqrt(max(float(c @ S @ c), 0.0))))
    return Design(tuple(runs), now)
