"""Observational laws on public models: components instead of compute, tested above the compute of what was fitted."""

from pathlib import Path

import numpy as np
import pytest

from scalebound import scaling
from scalebound.core.errors import InputError
from scalebound.scaling.observational import Observational, principal_components

DATA = Path(__file__).parents[2] / "examples" / "data" / "obsscaling"
BENCHMARKS = ("MMLU", "ARC-C", "HellaSwag", "Winograd", "TruthfulQA", "GSM8K", "XWinograd", "HumanEval")


def joined():
    base, tasks = (scaling.read_table(DATA / f"base_llm_{name}_eval.csv") for name in ("benchmark", "emergent_capability"))
    scores = np.stack([base[name] for name in BENCHMARKS], axis=1)
    components = principal_components(scores, 3)
    where = {model: k for k, model in enumerate(base["Model"])}
    rows = [
        (where[model], k) for k, model in enumerate(tasks["Model"]) if model in where and np.isfinite(base["FLOPs (1E21)"][where[model]])
    ]
    at, task = (np.array(part) for part in zip(*rows, strict=True))
    return components.scores[at], base["FLOPs (1E21)"][at], {name: tasks[name][task] for name in tasks.columns if name != "Model"}


def mean_squared_error(task):
    pcs, flops, targets = joined()
    y = targets[task]
    train = flops <= 84
    errors = []
    for x in (pcs, np.log(flops)[:, None]):
        law = Observational(x.shape[1])
        columns = {f"pc{j + 1}": x[:, j] for j in range(x.shape[1])}
        fit = scaling.fit(
            {**{n: v[train] for n, v in columns.items()}, "accuracy": y[train]}, law, bootstrap=0, drop_bad=True, fix={"h": 1.0}
        )
        predicted = law.predict(fit.vector, {n: v[~train] for n, v in columns.items()})
        errors.append(float(np.mean((predicted - y[~train]) ** 2)))
    return errors


def test_components_predict_multiplication_better_than_compute():
    """The published re-run has 0.0130 against 0.0597; the height is fixed at 1, since the smaller models do not show it."""
    by_components, by_compute = mean_squared_error("arithmetic_2dm_2_acc")
    assert by_components < 0.0130 and by_compute > 2 * by_components


def test_and_where_compute_wins_the_comparison_says_so():
    by_components, by_compute = mean_squared_error("arithmetic_3ds_2_acc")
    assert by_compute < by_components


def test_principal_components_fill_what_is_missing():
    rng = np.random.default_rng(0)
    ability = rng.standard_normal(60)
    table = 0.5 + 0.1 * np.outer(ability, [1.0, 0.8, 1.2, 0.9]) + 0.001 * rng.standard_normal((60, 4))
    holes = table.copy()
    holes[rng.random((60, 4)) < 0.15] = np.nan
    holes[np.all(~np.isfinite(holes), axis=1), 0] = 0.5
    found = principal_components(holes, 1)
    assert abs(np.corrcoef(found.scores[:, 0], ability)[0, 1]) > 0.999 and found.explained[0] > 0.99
    assert np.allclose(found.project(table)[:, 0], found.scores[:, 0], atol=0.02)
    with pytest.raises(InputError):
        principal_components(np.full((3, 2), np.nan))
    with pytest.raises(InputError):
        principal_components(table, 9)


def test_planted_weights_are_recovered():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 3))
    y = 0.7 / (1 + np.exp(-(1.5 * x[:, 0] - 0.8 * x[:, 1] + 0.3 * x[:, 2] - 1.0))) + 0.1
    fit = scaling.fit({"pc1": x[:, 0], "pc2": x[:, 1], "pc3": x[:, 2], "accuracy": y}, Observational(3), bootstrap=0)
    assert np.allclose(fit.vector, [0.7, 0.1, -1.0, 1.5, -0.8, 0.3], atol=1e-6)
