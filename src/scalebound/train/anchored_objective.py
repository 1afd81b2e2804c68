"""What training minimises so that an anchored certificate becomes small: the bound itself, up to constants.

Anchored (docs/mathematics.md sections 3 and 4): ``X'_k - R_k = -log((1-alpha) exp(R_k - u_k) + alpha)`` with R the reference's smoothed
losses, ``Delta = log(1/alpha)``, ``A_k = -(X'_k - R_k)/Delta``. For one s, ``g = mean log(1 + s A_k)`` and C nats of code per token, the
bound on the difference is

.. math:: T = \\frac{\\Delta}{s}\\,(1 - e^{\\,g - C}),

which falls in ``g - C`` and in nothing else. So its mean, its spread and its code trade at exactly the certificate's own rates when

.. math:: \\min\\ \\frac{\\Delta}{s}\\Big(-\\frac1n\\sum_k\\log(1+sA_k) + \\frac{L\\log2}{n}\\Big)

is trained; the factor in front only makes it nats of bound. The reference's own part does not depend on the model.

Said in nats of loss: if the model's losses all fall by a little, the objective falls by ``mean(pi_k / (1 + s A_k))`` times that, where ``pi_k``
is the model's share of the mixture's probability of token k. So what a nat of code per token costs in loss is

.. math:: \\frac{\\Delta/s}{\\operatorname{mean}\\,\\pi_k/(1+sA_k)},

which for the demo's package of 148,928 parameters (1.96 bits each) is 2.7 to 3.7 at the s that is best for alpha = 0.05 to 0.6, and 4.0 to 4.7
with half its bits and 0.12 nats less: less than the product form's 8, and more than alpha = 0.4 with s = 0.9 makes of it (2.0).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats

ALPHA, S = 0.2, 0.6  # near what is best for files of one to two bits a parameter (benchmarks/LOG.md)
EPS = 0.01


class AnchoredObjective:
    """The anchored bound on a window as a training objective.

    Parameters
    ----------
    reference : Stats       losses of the reference on the window, every token: ``reference_nll`` where there is one, else ``nll``
    alpha, s : in (0, 1)    fixed for training; the certificate may pick others, and pays for picking
    eps : in (0, 1)         share of uniform inside the reference

    Raises
    ------
    UsageError              a share out of range
    InputError              losses of another window or of a part of it

    Cost: one float32 per token kept; nothing per step worth naming.
    """

    def __init__(self, reference: Stats, window: tuple[int, int], *, alpha: float = ALPHA, s: float = S, eps: float = EPS) -> None:
        for share, value in (("alpha", alpha), ("s", s), ("eps", eps)):
            if not 0 < value < 1:
                raise UsageError(f"{share} = {value}", expected="a number inside (0, 1)")
        if not reference.complete or reference.info.window != window:
            raise InputError(f"is about the tokens {reference.info.window[0]:,} to {reference.info.window[1]:,}", where=reference.path, expected=f"losses of every token from {window[0]:,} to {window[1]:,}")
        name = "reference_nll" if "reference_nll" in reference else "nll"
        likely = np.exp(-np.maximum(reference.read(name), 0.0, dtype=np.float64))
        self.losses = (-np.log((1 - eps) * likely + eps / reference.info.vocab_size)).astype(np.float32)  # R_k
        self.alpha, self.s, self.range = alpha, s, math.log(1 / alpha)
        self.price = self.range / s  # nats of objective for a nat of code per token

    def sequences(self, context: int) -> np.ndarray:
        """The reference's losses of whole sequences, (sequences, context)."""
        return self.losses[: len(self.losses) // context * context].reshape(-1, context)

    def __call__(self, nll: Tensor, reference: Tensor) -> Tensor:
        """``(Delta/s) mean(-log(1 + s A))`` of some tokens' losses, nats.

        At ``A = -1``, the model infinitely worse than its reference, a token costs ``-(Delta/s) log(1 - s)`` and no more.

        >>> import scalebound.core.stats as stats
        >>> one = stats.Stats(stats.StatsInfo(kind="bare", tokens=2, window=(0, 2), vocab_size=4), {"nll": np.array([1.0, 2.0], "f4")})
        >>> objective = AnchoredObjective(one, (0, 2), alpha=0.5)
        >>> same = torch.from_numpy(objective.losses)
        >>> abs(float(objective(same, same)))  # as good as the reference: A = 0
        0.0
        """
        gain = torch.logaddexp(math.log1p(-self.alpha) + reference - nll, torch.full_like(nll, math.log(self.alpha)))
        return -self.price * torch.log1p(self.s / self.range * gain).mean()
