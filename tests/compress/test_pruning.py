"""One-shot masks against loops, and what they cost against each other on correlated inputs."""

import numpy as np
import pytest

from scalebound.compress.gptq import factor, gptq
from scalebound.compress.pruning import keep_largest, keep_wanda
from scalebound.core.errors import UsageError


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.99])
def test_masks_against_loops(sparsity):
    rng = np.random.default_rng(0)
    weight, moments = rng.normal(size=(7, 20)), np.exp(rng.normal(size=20))
    keep = keep_largest(weight, sparsity)
    gone = sorted((abs(weight[i, j]), i, j) for i in range(7) for j in range(20))[: int(sparsity * 140)]
    assert {(i, j) for _, i, j in gone} == set(zip(*np.nonzero(~keep), strict=True))
    keep = keep_wanda(weight, moments, sparsity)
    for i in range(7):
        gone = sorted((abs(weight[i, j]) * moments[j] ** 0.5, j) for j in range(20))[: int(sparsity * 20)]
        assert {j for _, j in gone} == set(np.flatnonzero(~keep[i]))


def test_which_rule_harms_less():
    """Inputs of very different sizes: wanda beats magnitude; choosing while errors are passed on beats both."""
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(80, 128)).astype(np.float32)
    x = rng.normal(size=(600, 128)) @ (rng.normal(size=(128, 128)) * 0.3 + np.eye(128)) * np.exp(rng.normal(size=128))
    hessian = x.T @ x / len(x)
    made = factor(hessian)
    assert np.allclose(made.moments, np.diagonal(hessian) + 0.05 * np.diagonal(hessian).mean(), rtol=1e-4)
    steps = (np.full(80, 0x3F80), np.full(128, 0x3C00))  # 1/128: fine enough for zeros to be what costs

    def damage(coded):
        error = weight - coded.dequantized()
        return float(np.einsum("ij,jk,ik->", error, hessian, error))

    plain = factor(np.diag(np.diagonal(hessian)))  # passes nothing on
    costs = {
        "magnitude": damage(gptq(weight, plain, steps, keep=keep_largest(weight, 0.5))), "wanda": damage(gptq(weight, plain, steps, keep=keep_wanda(weight, made.moments, 0.5))),
        "wanda, passed on": damage(gptq(weight, made, steps, keep=keep_wanda(weight, made.moments, 0.5))), "sparsegpt": damage(gptq(weight, made, steps, sparsity=0.5)),
    }  # fmt: skip
    assert costs["sparsegpt"] < costs["wanda, passed on"] < costs["wanda"] < costs["magnitude"], costs


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_refusals(sparsity):
    with pytest.raises(UsageError, match="sparsity"):
        keep_largest(np.ones((2, 2)), sparsity)
    with pytest.raises(UsageError, match="sparsity"):
        keep_wanda(np.ones((2, 2)), np.ones(2), sparsity)
