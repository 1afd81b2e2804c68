"""The planted effect (scaling) is found, the null (permutations, strength 0) is not, and theory agrees with what is measured."""

import numpy as np
import pytest
import torch

from scalebound.core.errors import MachineError, UsageError
from scalebound.probe import invariant, over_seeds, probe_finetune, small_model, tune
from scalebound.probe.finetune import OPTIMIZERS, markov_task
from scalebound.probe.reparametrize import TRANSFORMATIONS


@pytest.fixture(scope="module")
def model():
    return small_model(0, steps=15)


def test_what_is_invariant_is_the_same_and_what_is_not_is_not(model):
    rows = probe_finetune(*model, seeds=2, steps=15, batch=4, length=17, strength=1.5)
    assert {(row.optimizer, row.transformation) for row in rows} == {(o, t) for o in OPTIMIZERS for t in TRANSFORMATIONS}
    for row in rows:
        assert row.logit_gap < 1e-4 and (row.found == "same") == row.invariant == invariant(row.optimizer, row.transformation), row
        assert row.invariant == (row.largest_difference < 1e-4)


def test_scaling_by_one_is_the_null(model):
    rows = probe_finetune(*model, seeds=2, steps=5, strength=0.0, transformations=["query_key", "up_down"], optimizers=["sgd"])
    assert all(row.found == "same" and row.largest_difference == 0 and not row.separate for row in rows)


def test_the_task_has_its_transitions():
    task = markov_task(40, 0, states=3)
    tokens = task.sample(np.random.default_rng(0), 400, 50).numpy()
    states = np.searchsorted(task.ids, tokens)
    counts = np.zeros((3, 3))
    np.add.at(counts, (states[:, :-1].ravel(), states[:, 1:].ravel()), 1)
    assert np.abs(counts / counts.sum(1, keepdims=True) - task.transitions).max() < 0.03


def test_tuning_lowers_the_loss_and_lora_leaves_the_rest(model):
    config, weights = model
    batches = [torch.zeros(2, 9, dtype=torch.int64)] * 4
    out = tune(config, weights, batches, optimizer="lora", lr=0.01)
    moved = {name for name in out if not torch.equal(out[name], weights[name])}
    assert moved and all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in moved)


def test_bad_arguments(model):
    with pytest.raises(UsageError, match="at least 2"):
        probe_finetune(*model, seeds=1)
    with pytest.raises(UsageError, match="transformation"):
        probe_finetune(*model, transformations=["shear"])
    with pytest.raises(UsageError, match="optimizer"):
        tune(*model, [], optimizer="newton", lr=1.0)
    with pytest.raises(UsageError, match="strength"):
        probe_finetune(*model, strength=-1.0)
    with pytest.raises(UsageError, match="level"):
        over_seeds(np.ones(3), 1.0)
    config, weights = model
    with pytest.raises(MachineError, match="not finite"):
        tune(config, {k: v * float("nan") for k, v in weights.items()}, [torch.zeros(2, 9, dtype=torch.int64)], optimizer="sgd", lr=1.0)
