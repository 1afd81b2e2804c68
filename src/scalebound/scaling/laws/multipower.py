"""``multipower``: a whole loss curve from its schedule, every change of rate answered by its own power law."""

from __future__ import annotations

import numpy as np

from scalebound.scaling.laws.protocol import Bound, Curvature, Inputs, Law, Parameter, profile_coefficients
from scalebound.scaling.laws.schedule import schedules
from scalebound.scaling.objective import Objective


class MultiPower(Law):
    """Loss along training under any schedule.

    .. math::
        L(t) = L_0 + A S_1(t)^{-\\alpha}
        - B \\sum_{k \\le t} (\\eta_{k-1} - \\eta_k)\\big[1 - (1 + C \\eta_k^{-\\gamma} S_k(t))^{-\\beta}\\big]

    with :math:`S_1(t) = \\sum_{i\\le t}\\eta_i` and :math:`S_k(t) = \\sum_{k\\le i\\le t}\\eta_i`.
    Columns ``step``, ``lr`` and, for several curves, a group column. The sum runs over changes as listed
    by :mod:`~scalebound.scaling.laws.schedule`, warmup included.

    Notes
    -----
    With :math:`w = \\log C - \\gamma\\log\\eta + \\log S` and :math:`\\phi = 1 - (1+e^w)^{-\\beta}`
    every derivative is a sum over changes of :math:`\\phi_w, \\phi_{ww}, \\phi_\\beta, \\phi_{\\beta\\beta}, \\phi_{w\\beta}`
    times powers of :math:`-\\log\\eta`.
    Cost: about 30 operations per (row, change) pair; three curves of 24,000 steps logged every 128 have 25,000 pairs.

    Source
    ------
    Luo et al. 2025, arXiv 2503.12811.

    Examples
    --------
    >>> rows = {"step": np.array([100.0, 200.0, 300.0]), "lr": np.array([1e-3, 1e-3, 1e-4]), "curve": np.zeros(3)}
    >>> values = MultiPower().predict(np.array([2.0, 1.0, 0.5, 300.0, 2.0, 0.6, 0.6]), rows)
    >>> bool(values[2] < values[1] < values[0])
    True
    """

    name = "multipower"
    title = "Multi-power law of the loss curve"
    equation = "L = L0 + A S1^-alpha - B sum (lr_before - lr_after) [1 - (1 + C lr_after^-gamma S)^-beta]"
    source = "arXiv:2503.12811"
    inputs = ("step", "lr", "curve")
    positive = ("lr",)
    varying = ("step",)
    most_refits = 100
    polished = 4
    parameters = (
        Parameter("L0", 0.0, 1e6, "loss after endless training at a constant rate"),
        Parameter("A", 1e-12, 1e12, "size of the part that falls with progress", "log"),
        Parameter("alpha", 0.0, 3.0, "exponent of progress"),
        Parameter("B", 1e-9, 1e12, "loss gained per unit of rate given up, in the end", "log"),
        Parameter("C", 1e-6, 1e6, "how soon it is gained", "log"),
        Parameter("beta", 1e-3, 5.0, "exponent of the response to a change of rate"),
        Parameter("gamma", 0.0, 3.0, "how the response depends on the rate itself"),
    )

    def bind(self, inputs: Inputs) -> BoundMultiPower:
        return BoundMultiPower(self, inputs)


class BoundMultiPower(Bound):
    def __init__(self, law: MultiPower, inputs: Inputs) -> None:
        self.law = law
        sums = schedules(inputs)
        self.n = len(sums.total)
        self.log_s1 = np.log(sums.total)
        changes = sums.changes
        self.first, self.drop, self.log_since = changes.first, changes.drop, changes.log_since
        self.pull = -changes.log_lr  # d w / d gamma

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Sum over the changes of every row: (..., pairs) to (..., n)."""
        return np.add.reduceat(values, self.first, axis=-1)

    def _response(self, log_c: np.ndarray, beta: np.ndarray, gamma: np.ndarray) -> np.ndarray:
        w = log_c[:, None] + gamma[:, None] * self.pull + self.log_since
        return self._sum(self.drop * -np.expm1(-beta[:, None] * np.logaddexp(0.0, w)))

    def value(self, theta: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            base = theta[:, :1] + np.exp(theta[:, 1:2] - theta[:, 2:3] * self.log_s1)
            return base - np.exp(theta[:, 3:4]) * self._response(theta[:, 4], theta[:, 5], theta[:, 6])

    def derivatives(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, Curvature]:
        beta = theta[:, 5, None]
        power = np.exp(theta[:, 1:2] - theta[:, 2:3] * self.log_s1)
        b = np.exp(theta[:, 3:4])
        w = theta[:, 4, None] + theta[:, 6, None] * self.pull + self.log_since
        log1 = np.logaddexp(0.0, w)  # log(1 + u)
        q = np.exp(-beta * log1)  # (1 + u)^-beta
        s = np.exp(w - log1)  # u / (1 + u)
        phi_w = beta * q * s
        phi_ww = phi_w * (1 - s - beta * s)
        phi_wb = q * s * (1 - beta * log1)
        d, pull = self.drop, self.pull
        # sums over changes: the response and its derivatives in (log C, beta, gamma)
        r = self._sum(d * (1 - q))
        r_c, r_g = self._sum(d * phi_w), self._sum(d * pull * phi_w)
        r_b = self._sum(d * (q * log1))
        r_cc, r_cg, r_gg = self._sum(d * phi_ww), self._sum(d * pull * phi_ww), self._sum(d * pull**2 * phi_ww)
        r_bb = self._sum(d * (-q * log1**2))
        r_cb, r_gb = self._sum(d * phi_wb), self._sum(d * pull * phi_wb)
        f = theta[:, :1] + power - b * r
        jacobian = np.stack([np.ones_like(f), power, -self.log_s1 * power, -b * r, -b * r_c, -b * r_b, -b * r_g], axis=1)

        def curvature(v: np.ndarray) -> np.ndarray:
            def total(values: np.ndarray) -> np.ndarray:
                return np.einsum("bn,bn->b", v, values)

            out = np.zeros((len(theta), 7, 7))
            entries = {
                (1, 1): power,
                (1, 2): -self.log_s1 * power,
                (2, 2): self.log_s1**2 * power,
                (3, 3): -b * r,
                (3, 4): -b * r_c,
                (3, 5): -b * r_b,
                (3, 6): -b * r_g,
                (4, 4): -b * r_cc,
                (4, 5): -b * r_cb,
                (4, 6): -b * r_cg,
                (5, 5): -b * r_bb,
                (5, 6): -b * r_gb,
                (6, 6): -b * r_gg,
            }
            for (i, j), values in entries.items():
                out[:, i, j] = out[:, j, i] = total(values)
            return out

        return f, jacobian, curvature

    def starts(self, y: np.ndarray, weights: np.ndarray, objective: Objective) -> tuple[np.ndarray, tuple[int, ...]]:
        alphas = np.geomspace(0.15, 1.2, 5)
        # C and gamma act through C lr^-gamma: the grid is over that product at the middle rate, from slow to immediate
        middle = float(np.median(self.pull))
        speed, betas, gammas = np.geomspace(3.0, 3e4, 5), np.array([0.15, 0.4, 0.9]), np.array([0.0, 0.4, 0.9])
        v, beta, gamma = (axis.ravel() for axis in np.meshgrid(np.log(speed), betas, gammas, indexing="ij"))
        log_c = v - gamma * middle
        response = np.concatenate([self._response(log_c[k : k + 8], beta[k : k + 8], gamma[k : k + 8]) for k in range(0, len(v), 8)])
        K = len(v)
        basis = np.ones((len(alphas) * K, 3, self.n))
        size = np.sqrt((response**2).mean(axis=1)) + 1e-300
        for i, alpha in enumerate(alphas):
            part = slice(i * K, (i + 1) * K)
            basis[part, 1] = np.exp(-alpha * (self.log_s1 - self.log_s1.mean()))
            basis[part, 2] = -response / size[:, None]
        c = profile_coefficients(basis, y, weights, objective, lowest=np.array([0.0, 1e-9, 1e-9]), rounds=4)
        alpha = np.repeat(alphas, K)
        log_a = np.log(c[:, 1]) + alpha * self.log_s1.mean()
        log_b = np.log(c[:, 2] / np.tile(size, len(alphas)))
        theta = np.stack([c[:, 0], log_a, alpha, log_b, *(np.tile(x, len(alphas)) for x in (log_c, beta, gamma))], axis=1)
        low, high = self.law.limits()
        return np.clip(theta, low, high), (len(alphas), len(speed), len(betas), len(gammas))
