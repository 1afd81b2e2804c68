"""Did a reference see the tokens it is to predict, whatever its papers say: a test on its losses.

Provenance is a statement in a file, and files can be forged. What cannot be forged is how well a model knows text: documents dealt at random
to the certified window and to a part that is known to be fresh are exchangeable for a model that saw neither, and a model trained on the
window loses less there. A rejection shows a leak at the level named; no rejection proves nothing, least of all for a model that saw the
window once among much else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalebound.core.errors import InputError, UsageError
from scalebound.core.seeds import generator

PERMUTATIONS = 9_999


@dataclass(frozen=True)
class Leakage:
    """``p_value`` is exact at the permutations drawn; ``advantage`` is how many nats per token the reference loses less on the window's documents."""

    p_value: float
    advantage: float
    window: int  # documents
    fresh: int
    permutations: int
    verdict: Literal["saw the window", "undecided"]


def leakage(window: np.ndarray, fresh: np.ndarray, *, level: float = 0.01, permutations: int = PERMUTATIONS, seed: int = 0) -> Leakage:
    """Test that documents of the window and fresh ones are exchangeable for a reference.

    .. math:: p = \\frac{1 + \\#\\{\\pi : T_\\pi \\ge T\\}}{1 + B},\\qquad T = \\overline{X}_{fresh} - \\overline{X}_{window}

    over B random reassignments of the documents to the two parts.

    Parameters
    ----------
    window, fresh : (documents,) nats     the reference's mean loss on each document of the certified window, and on documents that nobody
                                          trained on; both dealt from one collection at random (as ``train`` and ``demo`` split text)
    level : in (0, 1)                     probability of a false alarm
    permutations : >= 1                   B; no p-value is below 1/(B + 1)
    seed                                  draws the reassignments

    Raises
    ------
    UsageError                            level or permutations out of range
    InputError                            fewer than two documents in a part, a loss that is not finite

    Notes
    -----
    O(permutations x documents). Source: the permutation test of two samples (Fisher 1935); used on a model's losses to tell what it was
    trained on: Maini et al. 2024, LLM Dataset Inference (arXiv 2406.06443), who compare by a t-test.

    >>> rng = np.random.default_rng(0)
    >>> leakage(rng.normal(1.5, 0.4, 60), rng.normal(2.0, 0.4, 60)).verdict, leakage(rng.normal(2.0, 0.4, 60), rng.normal(2.0, 0.4, 60)).verdict
    ('saw the window', 'undecided')
    """
    if not 0 < level < 1:
        raise UsageError(f"level is {level}", where="level", expected="inside (0, 1)")
    if permutations < 1:
        raise UsageError(f"permutations is {permutations}", where="permutations", expected="at least 1")
    first, second = (np.asarray(part, dtype=np.float64) for part in (window, fresh))
    for name, part in (("window", first), ("fresh", second)):
        if part.ndim != 1 or len(part) < 2 or not np.isfinite(part).all():
            raise InputError(f"the {name} part has {part.size} documents", where="leakage", expected="at least two, each with a finite mean loss")
    every, count = np.concatenate([first, second]), len(first)
    total, observed = every.sum(), first.sum()
    rng = generator(seed, "leakage")
    # T falls in the window's sum alone, so that is compared; ties count against the claim
    below = sum(int(rng.permutation(every)[:count].sum() <= observed + 1e-12 * abs(total)) for _ in range(permutations))
    p = (1 + below) / (1 + permutations)
    return Leakage(p, float(second.mean() - first.mean()), count, len(second), permutations, "saw the window" if p <= level else "undecided")
