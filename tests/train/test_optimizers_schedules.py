"""Every optimizer passes one contract, every schedule another; the defaults are what they were."""

import doctest
import importlib
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from scalebound.train.optim import OPTIMIZERS, set_rate
from scalebound.train.optim.muon import orthogonalize
from scalebound.train.recipe import Recipe
from scalebound.train.schedule import SCHEDULES

RATE = {"adamw": 0.05, "muon": 0.2, "lion": 0.04, "sgd": 0.05}


def steps(name, parameters, optimizer, start, stop, total=200):
    for step in range(start, stop):
        set_rate(optimizer.param_groups, RATE[name] * SCHEDULES["wsd"](step, total, warmup=0.0, decay=0.8))
        optimizer.zero_grad()
        sum((scale * (p - 1).square()).sum() for scale, p in zip((0.5, 2.0), parameters, strict=True)).backward()
        optimizer.step()


def fresh(name, dtype=torch.float32, **options):
    draw = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(*shape, generator=draw).to(dtype)) for shape in ((6, 4), (4,))]
    return parameters, OPTIMIZERS[name](parameters, lr=1.0, **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_solves_a_quadratic(name):
    parameters, optimizer = fresh(name, weight_decay=0.0)
    first = sum(float((p.detach() - 1).square().sum()) for p in parameters)
    steps(name, parameters, optimizer, 0, 200)
    assert sum(float((p.detach() - 1).square().sum()) for p in parameters) < 1e-3 * first


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_keeps_dtype(name, dtype):
    parameters, optimizer = fresh(name, dtype)
    steps(name, parameters, optimizer, 0, 3)
    assert {p.dtype for p in parameters} == {dtype}
    assert {value.dtype for entry in optimizer.state.values() for key, value in entry.items() if key != "step"} == {dtype}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumes_to_the_bit_from_tensors_alone(name):
    one, optimizer = fresh(name)
    steps(name, one, optimizer, 0, 40)
    two, before = fresh(name)
    steps(name, two, before, 0, 17)
    stored = load(save({f"{number}.{key}": value.contiguous() for number, entry in before.state_dict()["state"].items() for key, value in entry.items()}))
    after = OPTIMIZERS[name](two, lr=1.0)
    forgetful = OPTIMIZERS[name](copies := [torch.nn.Parameter(p.detach().clone()) for p in two], lr=1.0)
    state: dict = {}
    for label, tensor in stored.items():
        number, key = label.split(".")
        state.setdefault(int(number), {})[key] = tensor
    after.load_state_dict(after.state_dict() | {"state": state})
    steps(name, two, after, 17, 40)
    steps(name, copies, forgetful, 17, 40)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, copies, strict=True))  # the state matters, so the line above can fail


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rate_zero_moves_nothing_and_decay_only_matrices(name):
    parameters, optimizer = fresh(name, weight_decay=0.5)
    start = [p.detach().clone() for p in parameters]
    set_rate(optimizer.param_groups, 0.0)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(start, parameters, strict=True))
    parameters, optimizer = fresh(name, weight_decay=0.5)
    set_rate(optimizer.param_groups, 0.1)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(parameters[0].detach(), 0.95 * start[0])
    assert torch.equal(parameters[1].detach(), start[1])


def test_own_formulas():
    """Lion and SGD against their equations in numpy, Muon's AdamW part against PyTorch's AdamW."""
    gradients = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    runs = {}
    for name in ("lion", "sgd", "adamw", "muon"):
        p = torch.nn.Parameter(torch.ones(4))
        optimizer = OPTIMIZERS[name]([p], lr=0.1, weight_decay=0.0)
        for g in gradients:
            p.grad = torch.from_numpy(g.copy())
            optimizer.step()
        runs[name] = p.detach().numpy()
    m, lion, momentum, sgd = np.zeros(4), np.ones(4), np.zeros(4), np.ones(4)
    for g in gradients:
        lion = lion - 0.1 * np.sign(0.9 * m + 0.1 * g)
        m = 0.95 * m + 0.05 * g
        momentum = 0.9 * momentum + g
        sgd = sgd - 0.1 * (g + 0.9 * momentum)
    np.testing.assert_allclose(runs["lion"], lion, atol=1e-6)
    np.testing.assert_allclose(runs["sgd"], sgd, atol=1e-5)
    np.testing.assert_allclose(runs["muon"], runs["adamw"], atol=1e-5)


def test_muon_orthogonalizes_each_piece_of_a_stack():
    draw = torch.Generator().manual_seed(1)
    grads = [torch.randn(8, 8, generator=draw) * scale for scale in (1.0, 100.0, 0.01)]
    p = torch.nn.Parameter(torch.zeros(24, 8))
    p.grad = torch.cat(grads)
    optimizer = OPTIMIZERS["muon"]([{"params": [p], "pieces": 3, "hidden": True}], lr=1.0, weight_decay=0.0)
    optimizer.step()
    for moved, grad in zip(p.detach().chunk(3), grads, strict=True):
        torch.testing.assert_close(moved, -0.2 * 8**0.5 * orthogonalize(grad), rtol=1e-4, atol=1e-5)
    whole = orthogonalize(torch.cat(grads)).chunk(3)
    assert whole[2].norm() < 0.1 * whole[1].norm()  # as one matrix the small piece would hardly move


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_rise_to_one_and_stay_in_range(name):
    for steps_ in (1, 7, 100):
        rates = [SCHEDULES[name](s, steps_, warmup=0.1, decay=0.5) for s in range(steps_)]
        assert all(0 < rate <= 1 for rate in rates)
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0
    assert all(b <= a for a, b in zip(rates[9:], rates[10:], strict=False))
    if name.startswith("wsd"):
        assert rates[9:50] == [1.0] * 41 and rates[-1] < 0.05
    else:
        assert rates[-1] == (1.0 if name == "constant" else pytest.approx(0.1))


def test_cooldowns_have_their_shape():
    """At half of the cooldown: linear 1/2, cosine 1/2, one minus root 1 - sqrt(1/2), geometric sqrt(0.01)."""
    half = {name: SCHEDULES[name](75, 100, warmup=0.1, decay=0.5) for name in SCHEDULES if name.startswith("wsd")}
    assert half == pytest.approx({"wsd": 0.5, "wsd-cosine": 0.5, "wsd-sqrt": 1 - 0.5**0.5, "wsd-geometric": 0.1})


def test_the_recipe_names_what_exists():
    hints = get_type_hints(Recipe)
    assert set(get_args(hints["optimizer"])) == set(OPTIMIZERS) and set(get_args(hints["schedule"])) == set(SCHEDULES)


@pytest.mark.parametrize("module", [f"optim.{m}" for m in ("groups", "adamw", "sgd", "lion", "muon")] + [
    f"schedule.{m}" for m in ("warmup", "constant", "cosine", "warmup_stable_decay", "wsd_cosine", "wsd_sqrt", "wsd_geometric")
] + ["parametrization", "recipe", "coordinates"])  # fmt: skip
def test_examples(module):
    found = doctest.testmod(importlib.import_module(f"scalebound.train.{module}"))
    assert found.attempted and not found.failed
