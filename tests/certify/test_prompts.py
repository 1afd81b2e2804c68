"""Prompts: the binomial inversion against its definition, coverage of every prompt at once with a control, search, the command."""

import json
import math

import mpmath
import numpy as np
import pytest
from scipy.stats import binom

from scalebound.certify import binomial_upper, certify_prompts, search_prompt
from scalebound.cli import main
from scalebound.core.errors import InputError, UsageError


def test_inversion_against_fifty_digits():
    mpmath.mp.dps = 50
    for k, n, bits, delta in ((0, 100, 0, 0.05), (7, 50, 12.5, 0.01), (40, 200, 300.0, 0.05), (199, 200, 5, 0.1)):
        p = mpmath.mpf(binomial_upper(k, n, code_bits=bits, delta=delta))
        share = mpmath.mpf(delta) * mpmath.mpf(2) ** -mpmath.mpf(bits)
        tail = mpmath.fsum(mpmath.binomial(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
        assert tail <= share  # rounded outwards
        q = p * (1 - mpmath.mpf(10) ** -8)
        assert mpmath.fsum(mpmath.binomial(n, i) * q**i * (1 - q) ** (n - i) for i in range(k + 1)) > share
    assert binomial_upper(5, 5, code_bits=0, delta=0.1) == 1.0
    assert binomial_upper(10, 100, code_bits=900, delta=0.05) < binomial_upper(10, 100, code_bits=1100, delta=0.05) <= 1.0
    for wrong in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(UsageError):
            binomial_upper(*wrong, code_bits=0, delta=0.1)


def test_every_prompt_is_covered_at_once_and_none_for_free():
    """512 prompts that all err with probability 0.4 on 60 items; lengths of Elias' gamma code. Control: no bits."""
    rng, trials, prompts, p, delta = np.random.default_rng(0), 400, 512, 0.4, 0.1
    bits = 2 * np.floor(np.log2(np.arange(1, prompts + 1))) + 1
    bound = {(b, k): binomial_upper(k, 60, code_bits=b, delta=delta) for b in {*bits, 0.0} for k in range(61)}
    paid = free = 0
    for _ in range(trials):
        k = rng.binomial(60, p, prompts)
        paid += any(bound[b, e] < p for b, e in zip(bits, k, strict=True))
        free += any(bound[0.0, e] < p for e in k)
    assert binom.sf(paid - 1, trials, delta) > 1e-6 and free > 0.9 * trials


def test_choice_search_and_refusals():
    rng = np.random.default_rng(1)
    losses = (rng.random((3, 400)) < np.array([[0.5], [0.2], [0.18]])).astype(float)
    found = certify_prompts(["a", "b", "c"], losses, [5.0, 20.0, 90.0])
    assert found.prompts[found.best].prompt == "b" and found.value > losses[1].mean()
    assert found.prompts[1].uniform_bound < found.prompts[1].bound  # a list of three is shorter than a language model's code
    fit = rng.random((64, 100)) < 0.5  # searching noise: the bound stays above the truth
    table = {"".join(c): (fit[k], 8.0 * len(c)) for k, c in enumerate(np.ndindex(4, 4, 4)) for c in [tuple("wxyz"[i] for i in c)]}
    table |= {"".join(c): (rng.random(100) < 0.5, 8.0 * len(c)) for n in (0, 1, 2) for c in ([tuple("wxyz"[i] for i in t) for t in np.ndindex(*[4] * n)])}
    best, seen = search_prompt("", lambda p: [p + w for w in "wxyz"] if len(p) < 3 else [], lambda p: table[p])
    assert best.bound >= 0.5 and len(seen) >= 5 and best.bound == min(s.bound for s in seen)
    for prompts, rows, bits in ((["a", "a"], losses[:2], [1, 1]), (["a"], losses, [1]), (["a"], losses[:1] * 2, [1]), (["a"], losses[:1], [1, 2])):
        with pytest.raises(InputError):
            certify_prompts(prompts, rows, bits)
    with pytest.raises(UsageError):
        certify_prompts(["a"], losses[:1], [-1.0])
    assert math.isfinite(found.heldout_bound)


def test_which_bound_is_said_and_not_seen():
    """The same zeros and ones have the exact bound as errors and the wider one as graded losses; the form never follows from the numbers."""
    rng = np.random.default_rng(1)
    errors = (rng.random((1, 300)) < 0.3).astype(float)
    exact, graded = certify_prompts(["a"], errors, [8.0]), certify_prompts(["a"], errors, [8.0], graded=True)
    assert errors.mean() < exact.value < graded.value < 0.6
    assert exact.value == binomial_upper(int(errors.sum()), 300, code_bits=8, delta=0.05)
    nearly = np.maximum(errors, 1e-12)  # continuous there: no jump to another form
    assert certify_prompts(["a"], nearly, [8.0], graded=True).value == pytest.approx(graded.value, abs=1e-9)
    with pytest.raises(InputError, match="neither 0 nor 1"):
        certify_prompts(["a"], nearly, [8.0])
    assert search_prompt("a", lambda _: [], lambda _: (nearly[0], 8.0), graded=True)[0].bound == pytest.approx(graded.value, abs=1e-9)


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    good = {"prompts": ["a {text}", "b {text}"], "code_bits": [10.0, 20.0], "errors": (rng.random((2, 50)) < 0.3).astype(int).tolist()}
    (tmp_path / "t.json").write_text(json.dumps(good))

    def run(*words):
        status = main(["certify-prompt", *words, "--json"])
        return status, json.loads(capsys.readouterr().out)

    status, record = run("t.json")
    assert status == 0 and record["bound"] == record["prompts"][record["best"]]["bound"] and record["items"] == 50
    for k, wrong in enumerate(({"prompts": []}, {**good, "prompts": ["a", "a"]}, {**good, "errors": [[1], [0, 1]]}, {**good, "errors": [[2] * 50] * 2}, {**good, "errors": [[0.5] * 50] * 2}, {**good, "losses": good["errors"]}, {"items": 1, "a": 2}, [1])):
        (tmp_path / f"w{k}.json").write_text(json.dumps(wrong))
        assert run(f"w{k}.json")[0] == 3
    (tmp_path / "g.json").write_text(json.dumps({"prompts": good["prompts"], "code_bits": good["code_bits"], "losses": good["errors"]}))
    assert record["bound"] < run("g.json")[1]["bound"] < 1 and run("g.json", "--certificate", "c.json")[0] == 3
    assert run("i.jsonl")[0] == 2 and run("t.json", "--model", "x")[0] == 2 and run("t.json", "--delta", "0")[0] == 2
    assert main(["certify-prompt", "t.json"]) == 0 and "all prompts at once" in capsys.readouterr().out
