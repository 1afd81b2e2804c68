"""Own laws: parsed, never evaluated as Python, and fitted to the same optimum as the built-in form."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from scalebound import scaling
from scalebound.cli import main
from scalebound.core.errors import UsageError
from scalebound.scaling.laws.expression import expression_law, parse
from scalebound.scaling.table import to_csv

sys.path.insert(0, str(Path(__file__).parent))
from planted import table

HOSTILE = (
    "__import__('os').system('true')",
    "params.__class__",
    "(lambda x: x)(params)",
    "[1 for _ in params]",
    "open('x')",
    "E if params else A",
    "E := 1",
    "A @ params",
    "'a' + params",
    "E + A/params**a; B",
    "exp(A, B)",
    "exp(x=1)",
    "params and A",
    "A[0]",
    "f'{A}'",
    "True + params*A",
    "1j*params*A",
    "(" * 200 + "params" + ")" * 200,
    "-" * 100 + "params*A",
    "A+" * 600 + "params",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_expressions_are_refused(text):
    with pytest.raises(UsageError):
        law = expression_law(text)
        raise AssertionError(f"accepted as {law.names}")


@pytest.mark.parametrize("text", ["A + B", "2*params", "E + A/params**a + b*c*d*e*f*g*h*i*j"])
def test_useless_expressions_are_refused(text):
    with pytest.raises(UsageError):
        expression_law(text)


def test_values_are_python_arithmetic():
    node, names = parse("-(a + 2)**2 / b - min(a, b) * exp(-c)")
    assert names == ["a", "b", "c"]
    assert node({"a": 1.0, "b": 3.0, "c": 0.5}) == pytest.approx(-((1 + 2) ** 2) / 3 - 1 * np.exp(-0.5))


def test_same_optimum_as_chinchilla():
    data = table(scaling.get_law("chinchilla"))
    own, built = scaling.fit(data, "E + A/params**a + B/tokens**b", bootstrap=50), scaling.fit(data, "chinchilla", bootstrap=50)
    assert own.objective.value == pytest.approx(built.objective.value, rel=1e-9)
    assert np.allclose(own.vector, built.vector[[0, 1, 3, 2, 4]], rtol=1e-5)
    ahead = [scaling.forecast(fit, {"params": [1e11], "tokens": [1e12]}).value[0] for fit in (own, built)]
    assert ahead[0] == pytest.approx(ahead[1], rel=1e-7)


def test_a_function_gets_the_same_treatment():
    def mine(params, tokens, *, E, A, B, eta):
        return E + A * params ** (-2 * eta) + B * np.exp(-2 * eta * np.log(tokens))

    data = table(scaling.get_law("overtraining"))
    law = scaling.function_law(mine)
    assert law.linear == ("E", "A", "B")
    own, built = scaling.fit(data, law, bootstrap=30), scaling.fit(data, "overtraining", bootstrap=0)
    assert own.objective.value == pytest.approx(built.objective.value, rel=1e-9) and own.optimum.established
    with pytest.raises(UsageError):
        scaling.forecast(own, {"params": [1e11], "tokens": [1e12]})
    assert scaling.forecast(own, {"params": [1e11], "tokens": [1e12]}, law=law).low is not None


def test_other_targets_columns_and_starts(tmp_path, capsys):
    x = np.geomspace(10, 1e4, 20)
    path = tmp_path / "t.csv"
    path.write_bytes(to_csv({"width": x, "score": 0.9 - 0.5 * np.exp(-x / 900.0)}))
    fit = tmp_path / "f.json"
    assert main(["fit", str(path), "--law", "score = a - b*exp(-width/w)", "--start", "a=1,b=1,w=500", "--bootstrap", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["params"]["w"] == pytest.approx(900, rel=1e-5)
    assert main(["fit", str(path), "--law", "score = a - b*exp(-width*w)", "--bootstrap", "50", "--out", str(fit), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["params"]["w"] == pytest.approx(1 / 900, rel=1e-5) and record["target"] == "score"
    assert main(["forecast", str(fit), "--at", "width=2e4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["value"] == pytest.approx(0.9, abs=1e-6)
