"""Observational laws on public models: components instead of compute, tested above the compute of what was fitted."""

from pathlib import Path

import numpy as np
import pytest

from scalebound import scaling
from scalebound.core.errors import InputError
from scalebound.scaling.observational import Observational, principal_components

DATA = Path(__file__).parents[2] / "examples" / "data" / "obsscaling"
BENCHMARKS = ("MMLU", "ARC-C", "HellaSwag", "Winograd", "TruthfulQA", "GSM8K", "XWinograd", "HumanEval")


# the families with published evaluations, as in the source's constants; other models of the tables came later
FAMILIES = (
    "Llama-2,Llama,Llama-3,Qwen1.5,Qwen,Mistral,Mixtral,Yi,Gemma,Falcon,Phi,Pythia,BLOOM,GPT-Neo/J,OPT,MPT,XGLM,CodeLlama,StarCoder,"
    "StarCoder2,DeepSeek-Coder"
).split(",")
LARGEST = 84.0  # 1e21 FLOPs: Llama-2 7B


def joined(task):
    """Scores (models, 8), FLOPs in 1e21 (NaN where unknown) and accuracies of the models both tables have."""
    base, tasks = (scaling.read_table(DATA / f"base_llm_{name}_eval.csv") for name in ("benchmark", "emergent_capability"))
    where = {model: k for k, model in enumerate(base["Model"]) if base["Model Family"][k] in FAMILIES}
    rows = [(where[model], k) for k, model in enumerate(tasks["Model"]) if model in where and np.isfinite(tasks[task][k])]
    at, task_rows = (np.array(part) for part in zip(*rows, strict=True))
    return np.stack([base[name] for name in BENCHMARKS], axis=1)[at], base["FLOPs (1E21)"][at], tasks[task][task_rows]


def error_above(x, y, train, test):
    """Mean squared error above the limit of the law fitted below it."""
    law = Observational(x.shape[1], top=1.0)
    columns = {f"pc{j + 1}": x[:, j] for j in range(x.shape[1])}
    fit = scaling.fit({**{n: v[train] for n, v in columns.items()}, "accuracy": y[train]}, law, bootstrap=0, drop_bad=True)
    assert fit.optimum.established
    return float(np.mean((law.predict(fit.vector, {n: v[test] for n, v in columns.items()}) - y[test]) ** 2)), fit


def errors(task):
    """By three components and by log FLOPs. Components come from the models below the limit; unknown FLOPs count as above it."""
    scores, flops, y = joined(task)
    train = flops <= LARGEST
    seen = principal_components(scores[train], 3, limits=(0.0, 1.0))
    by_components, _ = error_above(seen.project(scores), y, train, ~train)
    by_compute, _ = error_above(np.log(flops)[:, None], y, train, flops > LARGEST)
    return by_components, by_compute


@pytest.mark.parametrize(
    "task, components, compute",
    [
        # 0.00242 is the published figure. 0.0843 for compute is that of a start that did not move (a constant); the optimum is far better
        ("word_unscrambling_2_exact_match", 0.00242, 0.0185),
        ("arithmetic_2dm_2_acc", 0.0116, 0.0265),  # published 0.0130 and 0.0597
        ("arithmetic_3ds_2_acc", 0.0237, 0.0027),  # published 0.0271 and 0.0034: compute wins
    ],
)
def test_published_errors_are_met_or_bettered(task, components, compute):
    by_components, by_compute = errors(task)
    assert by_components == pytest.approx(components, rel=0.01) and by_compute == pytest.approx(compute, rel=0.02)


@pytest.mark.parametrize(("task", "printed"), [("arithmetic_2dm_2_acc", 0.0597), ("arithmetic_3ds_2_acc", 0.0034)])
def test_the_published_errors_of_compute_are_those_of_flops_themselves(task, printed):
    """Not of their logarithm: 0.0597 and 0.0034 come out when FLOPs enter as they are (in 1e21, here in 1e23 to be of size one)."""
    _, flops, y = joined(task)
    plain, _ = error_above(flops[:, None] / 100, y, flops <= LARGEST, flops > LARGEST)
    assert plain == pytest.approx(printed, rel=0.02)


def test_the_published_error_of_word_unscrambling_by_compute_is_no_optimum():
    """0.0843 is the error of predicting the mean of the small models, whose sum of squares the fit undercuts."""
    _, flops, y = joined("word_unscrambling_2_exact_match")
    train, test = flops <= LARGEST, flops > LARGEST
    constant = float(np.mean((y[train].mean() - y[test]) ** 2))
    assert constant == pytest.approx(0.0843, rel=0.005)
    _, fit = error_above(np.log(flops)[:, None], y, train, test)
    assert fit.objective.value < 0.4 * float(np.sum((y[train] - y[train].mean()) ** 2))


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
    assert np.allclose(found.project(holes), found.scores, atol=1e-7)  # the same models, filled the same way
    with pytest.raises(InputError):
        principal_components(np.full((3, 2), np.nan))
    with pytest.raises(InputError):
        principal_components(table, 9)
    for wrong in (np.full((1, 4), np.nan), np.zeros((2, 3))):
        with pytest.raises(InputError):
            found.project(wrong)


def test_planted_weights_are_recovered():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 3))
    y = 0.7 / (1 + np.exp(-(1.5 * x[:, 0] - 0.8 * x[:, 1] + 0.3 * x[:, 2] - 1.0))) + 0.1
    fit = scaling.fit({"pc1": x[:, 0], "pc2": x[:, 1], "pc3": x[:, 2], "accuracy": y}, Observational(3), bootstrap=0)
    assert np.allclose(fit.vector, [0.7, 0.1, -1.0, 1.5, -0.8, 0.3], atol=1e-6)
