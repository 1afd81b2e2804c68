"""Named seeds, model identity, and tasks on several cores."""

import os
import time

import numpy as np
import pytest

from scalebound.core.errors import InputError, MachineError
from scalebound.core.hashing import model_sha256
from scalebound.core.seeds import derive, generator
from scalebound.core.workers import run_tasks


def test_seeds_of_different_purposes_are_independent():
    draws = np.array([generator(seed, name).random(1000) for seed in range(4) for name in ("a", "b")])
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 0.15
    assert derive(3, "a", 1) == derive(3, "a", 1) != derive(3, "a1")


def test_model_identity_ignores_order_and_transient_keys_only():
    a = ("a", "F32", (2,), np.array([1.0, 2.0], dtype="<f4"))
    b = ("b", "F32", (1, 1), np.array([[3.0]], dtype="<f4"))
    base = model_sha256({"hidden_size": 2}, [a, b])
    assert base == model_sha256({"hidden_size": 2, "transformers_version": "5"}, [b, a])
    assert base != model_sha256({"hidden_size": 3}, [a, b])
    assert base != model_sha256({"hidden_size": 2}, [("a", "F32", (2,), np.array([1.0, 2.5], dtype="<f4")), b])
    assert base != model_sha256({"hidden_size": 2}, [("a", "F32", (1, 2), a[3]), b])
    assert base != model_sha256({"hidden_size": 2}, [("a", "F16", (2,), a[3]), b])


def square(value, *, progress):
    progress(value, 10)
    time.sleep(0.01)
    return value * value, os.getpid()


def fail(value, *, progress):
    if value == 2:
        raise InputError("bad", where="row 2", hint="fix it")
    if value == 3:
        os._exit(9)
    return value


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_return_in_order(workers):
    seen = []
    results = run_tasks(square, [(k,) for k in range(5)], workers=workers, progress=lambda done, total: seen.append((done, total)))
    assert [value for value, _ in results] == [0, 1, 4, 9, 16]
    assert seen[-1] == (10, 50)
    assert (len({pid for _, pid in results}) > 1 or results[0][1] != os.getpid()) == (workers > 1)


def test_an_error_keeps_its_parts_across_processes():
    with pytest.raises(InputError) as caught:
        run_tasks(fail, [(1,), (2,)], workers=2)
    assert (caught.value.where, caught.value.hint) == ("row 2", "fix it")


def test_a_killed_worker_is_reported():
    with pytest.raises(MachineError, match="worker process was killed"):
        run_tasks(fail, [(1,), (3,)], workers=2)
