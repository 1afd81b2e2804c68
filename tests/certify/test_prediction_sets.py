"""Prediction sets: the binomial rule, coverage by simulation with a control, partial programs nested and matched as defined, the command."""

import ast
import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from scalebound.certify import allowed_misses, calibrate
from scalebound.certify.partial_programs import fits, kept_share, predicted_program, render, score
from scalebound.cli import main
from scalebound.core.errors import InputError, UsageError

SOURCE = "def f(x, y=2):\n    total = x + y\n    for k in range(x):\n        total += g(k, y)\n    return total * 2\n"


def program(source, seed=0, doubts=None):
    """A program cut into small tokens with random losses."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(1, len(source)), min(len(source) - 1, 40), replace=False))
    pieces = [source[a:b] for a, b in zip([0, *cuts], [*cuts, len(source)], strict=True)]
    return predicted_program(pieces, rng.exponential(1.0, len(pieces)) if doubts is None else [doubts] * len(pieces))


def test_allowed_misses_is_the_binomial_rule():
    for n in (1, 10, 59, 200, 3000):
        for epsilon in (0.05, 0.2):
            for delta in (0.01, 0.1):
                right = [k for k in range(n + 1) if binom.cdf(k, n, epsilon) <= delta]
                assert allowed_misses(n, epsilon, delta) == (right[-1] if right else None)
    with pytest.raises(UsageError):
        allowed_misses(0, 0.1, 0.1)
    with pytest.raises(InputError):
        calibrate([math.nan], epsilon=0.1, delta=0.1)
    assert calibrate([1.0, 2.0], epsilon=0.1, delta=0.1).threshold == -math.inf


def test_coverage_is_promised_and_the_plain_quantile_does_not_keep_it():
    """Scores uniform on (0, 1): a threshold t misses with probability t. The control takes the empirical quantile itself."""
    rng, trials, n, epsilon, delta = np.random.default_rng(0), 2000, 150, 0.1, 0.1
    ours = plain = 0
    for scores in rng.random((trials, n)):
        ours += calibrate(scores, epsilon=epsilon, delta=delta).threshold > epsilon
        plain += np.quantile(scores, epsilon) > epsilon
    assert binom.sf(ours - 1, trials, delta) > 1e-6 and ours > 0.2 * delta * trials
    assert binom.sf(plain - 1, trials, delta) < 1e-6


def test_sets_are_nested_and_end_at_everything_and_one():
    one = program(SOURCE)
    levels = sorted({0.0, *one.doubts.values()})
    shares = [kept_share(one, t) for t in [-1.0, *levels]]
    assert shares[0] == 0.0 and shares[-1] == 1.0 and shares == sorted(shares)
    assert render(one, math.inf) == ast.unparse(ast.parse(SOURCE)) and render(one, -1.0) == "__"
    others = [SOURCE, SOURCE.replace("* 2", "* 3"), SOURCE.replace("    return total * 2\n", ""), SOURCE.replace("g(k, y)", "h(k)"), "pass", "x = 1\ny = 2\n"]
    for text in others:
        tree = ast.parse(text)
        inside = [fits(one, t, tree) for t in [-1.0, *levels]]
        assert inside == sorted(inside, reverse=True) and inside[0]
        limit = score(one, text)
        assert (limit == math.inf) == (text == SOURCE)
        assert all(fits(one, t, tree) == (t <= limit) for t in levels)


def test_holes_are_where_the_doubt_is():
    pieces = ["def f(x):\n    y = ", "x", " + ", "1", "\n    z = y\n    return ", "y", "\n"]
    one = predicted_program(pieces, [0.1, 0.2, 3.0, 0.1, 0.1, 2.0, 0.1])
    assert render(one, 2.5) == "def f(x):\n    y = __\n    z = y\n    return y"
    assert render(one, 1.0) == "def f(x):\n    y = __\n    z = y\n    return __"
    statement = predicted_program(["a = 1\n", "b", " = ", "2", "\nc = 3\n"], [0.0, 0.0, 4.0, 0.0, 0.0])
    assert render(statement, 1.0) == "a = 1\n__\nc = 3"
    for text, right in (("a = 1\nc = 3", True), ("a = 1\nq()\nr()\nc = 3", True), ("a = 1\nb = 2\nc = 4", False), ("c = 3", False)):
        assert fits(statement, 1.0, ast.parse(text)) == right
    assert score(predicted_program(["def ("], [0.1]), "x = 1") == math.inf and render(predicted_program(["def ("], [0.1]), 9.0) == "__"
    text = 'x = f"{a}-{b}"'
    assert score(program(text, doubts=0.5), text) == math.inf and score(program(text, doubts=0.5), 'x = f"{a}+{b}"') < 0.5
    accents = program('név = "árvíz"\ny = név\n', doubts=1.0)
    assert all(d == 1.0 for p, d in accents.doubts.items() if len(p) == 2)
    decorated = program("@d\ndef f():\n    pass\n", doubts=1.0)
    assert render(decorated, 2.0).startswith("@d")
    with pytest.raises(InputError):
        predicted_program(["x"], [math.nan])
    with pytest.raises(InputError):
        score(one, "def (")


def simulated(rng):
    """A predictor that is wrong in a leaf as often as its doubt says, so that calibration has something to find."""
    pieces, nll, truth = ["v = f("], [0.01], "v = f("
    for k in range(4):
        p = rng.uniform(0.3, 1.0)
        pieces += [f"a{k}", ", "]
        nll += [-math.log(p), 0.01]
        truth += (f"a{k}" if rng.random() < p else "other") + ", "
    return predicted_program([*pieces, ")"], [*nll, 0.01]), truth + ")"


def test_partial_programs_cover_new_items():
    rng, epsilon = np.random.default_rng(1), 0.2
    items = [simulated(rng) for _ in range(1500)]
    found = calibrate([score(p, t) for p, t in items[:500]], epsilon=epsilon, delta=0.05)
    missed = sum(score(p, t) < found.threshold for p, t in items[500:])
    assert binom.sf(missed - 1, 1000, epsilon) > 1e-6
    kept = np.mean([kept_share(p, found.threshold) for p, _ in items[500:]])
    assert 0.3 < kept < 1.0
    assert sum(score(p, t) < math.inf for p, t in items[500:]) > 500  # the control: without holes most are wrong


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)

    def row(seed):
        p = rng.uniform(0.3, 1.0)
        return {"tokens": [["x = ", 0.01], ["a", -math.log(p)], ["\n", 0.01]], "truth": "x = a" if rng.random() < p else "x = b"}

    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row(k)) + "\n" for k in range(200)))
    (tmp_path / "n.jsonl").write_text(json.dumps({"tokens": [["x = ", 0.01], ["a", 9.0]]}) + "\n")

    def run(*words):
        status = main(["prediction-set", *words, "--json"])
        return status, json.loads(capsys.readouterr().out)

    status, record = run("c.jsonl", "--apply", "n.jsonl")
    assert status == 0 and record["sets"] == [{"partial": "x = __", "kept": pytest.approx(2 / 3), "covered": None}]
    assert record["misses"] <= record["allowed"]
    assert run("n.jsonl")[0] == 3 and run("c.jsonl", "--epsilon", "2")[0] == 2 and run("none.jsonl")[0] == 3
    (tmp_path / "bad.jsonl").write_text('{"tokens": [["x", NaN]]}\n')
    assert run("bad.jsonl")[0] == 3
    (tmp_path / "bad.jsonl").write_text('{"tokens": ["x"], "truth": "x"}\n')
    assert run("bad.jsonl")[0] == 3
    assert main(["prediction-set", "c.jsonl"]) == 0 and "holes" in capsys.readouterr().out
