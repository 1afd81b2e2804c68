"""The training objective is the anchored bound: its value against the product form, its gradient, and what training with it gives."""

import math

import numpy as np
import pytest
import torch

from scalebound.certify import product_bound, smooth_anchored, smooth_reference
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats, StatsInfo
from scalebound.train.anchored_objective import AnchoredObjective

N, V = 4_000, 256
INFO = StatsInfo(kind="bare", tokens=N, window=(0, N), vocab_size=V)


def draw(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    nll = rng.gamma(1.0, 1.5, N)
    return nll.astype("f4"), np.maximum(nll + rng.normal(0.4, 0.5, N), 0).astype("f4")


@pytest.mark.parametrize(("alpha", "s"), [(0.4, 0.9), (0.1, 0.5)])
def test_the_bound_is_a_function_of_the_objective(alpha, s):
    """For one s the product form is ``(Delta/s)(1 - exp(-(objective + code) s/Delta))`` exactly."""
    nll, reference = draw()
    objective = AnchoredObjective(Stats(INFO, {"nll": reference}), (0, N), alpha=alpha, s=s)
    value = float(objective(torch.from_numpy(nll).double(), torch.from_numpy(objective.losses).double()))
    r = smooth_reference(reference, V, 0.01)
    difference = smooth_anchored(nll, r, alpha) - r
    bits, delta = 900.0, 0.01
    bound = product_bound(difference, 0.0, range_=math.log(1 / alpha), code_bits=bits, delta=delta, grid=[s])
    code = objective.price * (math.log(1 / delta) + bits * math.log(2)) / N
    assert bound.value == pytest.approx(objective.price * -math.expm1(-(value + code) / objective.price), abs=1e-7)
    assert not bound.at_ceiling


def test_gradient_and_extremes():
    objective = AnchoredObjective(Stats(INFO, {"nll": draw()[1]}), (0, N))
    nll = torch.tensor([0.0, 0.7, 3.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: objective(x, reference), (nll,))
    worst = float(objective(torch.tensor([1e4]), torch.tensor([1.0])))
    assert worst == pytest.approx(-objective.price * math.log(1 - objective.s), rel=1e-6)


def test_refusals():
    stats = Stats(INFO, {"nll": draw()[1]})
    with pytest.raises(UsageError, match="inside"):
        AnchoredObjective(stats, (0, N), alpha=1.0)
    with pytest.raises(InputError, match="every token"):
        AnchoredObjective(stats, (0, N + 1))
