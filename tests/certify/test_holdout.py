"""Thresholdout: its count against enumeration, its guarantee against an adaptive analyst with a naive holdout as control, the guarded file."""

import io
import itertools
import json
import math
import os
import stat

import numpy as np
import pytest

from scalebound.certify import Guarded, HoldoutRules, Thresholdout, affordable_budget, create_holdout
from scalebound.cli import main
from scalebound.core.errors import ClaimFails, InputError, UsageError


def test_number_of_questions_by_enumeration():
    for queries, budget, step in itertools.product((1, 2, 5), (1, 2, 3), (0.5, 0.25)):
        if budget > queries:
            continue
        symbols = round(1 / step) + 1
        count = sum(sum(answer > 0 for answer in answers) <= budget for t in range(queries) for answers in itertools.product(range(symbols + 1), repeat=t))
        assert HoldoutRules(queries, budget, step=step).log_questions() == pytest.approx(math.log(count), rel=1e-12)
    rules = HoldoutRules(1000, 20, threshold=0.04, step=0.01, delta=0.05)
    assert rules.sampling_error(10_000) == pytest.approx(math.sqrt((math.log(40) + rules.log_questions()) / 20_000))
    assert rules.error(10_000) == pytest.approx(0.04 + rules.sampling_error(10_000))
    assert HoldoutRules(10, 1, threshold=0.0, sigma=0.01).error(10**9) == pytest.approx(0.12, abs=1e-3)


def test_budget_is_the_largest_that_fits():
    budget = affordable_budget(5000, 0.2, queries=300)
    assert HoldoutRules(300, budget).error(5000) <= 0.2 < HoldoutRules(300, budget + 1).error(5000)
    assert affordable_budget(50, 0.1, queries=300) is None and affordable_budget(10**9, 0.2, queries=7) == 7


def adaptive_analyst(rng, n, features, guarded):
    """Science 2015 in small: labels are coins, features are noise; keep what agrees with the labels on both sets, vote, ask for accuracy.

    Returns the reported and the true accuracy, and what the worst answer missed by."""
    x = rng.normal(size=(2, n, features)) > 0
    y = rng.random((2, n)) > 0.5
    agree = (x == y[:, :, None]).mean(axis=1)  # (set, features)
    rules = HoldoutRules(features + 1, 30, threshold=0.06, step=0.01)
    guard = Thresholdout(rules, n, rng)
    answers = np.empty(features)
    for k in range(features):
        try:
            answers[k] = guard.ask(agree[0, k], agree[1, k]).value if guarded else agree[1, k]
        except ClaimFails:
            return None
    both = np.sign(answers - 0.5) == np.sign(agree[0] - 0.5)
    strength = np.where(both, np.abs(agree[0] - 0.5), 0)
    chosen = np.argsort(-strength)[: features // 4]
    votes = np.where(agree[0, chosen] > 0.5, 1, -1)
    accuracy = [(((np.where(x[s][:, chosen], 1, -1) @ votes) > 0) == y[s]).mean() for s in (0, 1)]
    said = guard.ask(accuracy[0], accuracy[1]).value if guarded else accuracy[1]
    return said, 0.5, float(np.abs(answers - 0.5).max()), guard.error


def test_an_adaptive_analyst_overfits_a_naive_holdout_and_not_this_one():
    rng = np.random.default_rng(0)
    naive = [adaptive_analyst(rng, 1000, 400, guarded=False) for _ in range(5)]
    guarded = [adaptive_analyst(rng, 1000, 400, guarded=True) for _ in range(10)]
    assert all(said > 0.57 for said, *_ in naive)  # coins cannot be predicted: the truth is 1/2
    assert all(found is not None and abs(found[0] - 0.5) <= found[3] and found[2] <= found[3] for found in guarded)
    # what it says of the final classifier comes from the holdout and is close to the truth
    assert np.mean([abs(found[0] - 0.5) for found in guarded]) < 0.06 < np.mean([said for said, *_ in naive]) - 0.5


def test_rules_of_the_game():
    guard = Thresholdout(HoldoutRules(4, 2, threshold=0.1), 1000, np.random.default_rng(0))
    first = guard.ask(0.70, 0.75)
    assert first.value == 0.70 and first.source == "training" and (first.queries_left, first.budget_left) == (3, 2)
    second = guard.ask(0.9, 0.6123)
    assert second.value == pytest.approx(0.61) and second.source == "holdout" and second.budget_left == 1
    guard.ask(0.9, 0.1)
    with pytest.raises(ClaimFails, match="budget of 2"):
        guard.ask(0.5, 0.5)
    few = Thresholdout(HoldoutRules(1, 1), 10, np.random.default_rng(0))
    few.ask(0.5, 0.5)
    with pytest.raises(ClaimFails, match="all 1 questions"):
        few.ask(0.5, 0.5)
    with pytest.raises(InputError):
        guard.ask(1.2, 0.5)
    for wrong in ({"queries": 0}, {"budget": 0}, {"budget": 11}, {"threshold": 1.0}, {"step": 0.0}, {"sigma": -1}, {"delta": 1.0}):
        with pytest.raises(UsageError):
            HoldoutRules(**{"queries": 10, "budget": 2, **wrong})
    noisy = [Thresholdout(HoldoutRules(10, 2, sigma=0.02), 1000, np.random.default_rng(s)).ask(0.9, 0.5).value for s in range(50)]
    assert len(set(noisy)) > 3 and max(abs(v - 0.5) for v in noisy) <= 0.045


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    rows = [f"{'training' if k < 500 else 'holdout'},{rng.integers(0, 3)}" for k in range(2500)]
    (tmp_path / "labels.csv").write_text("split,label\n" + "\n".join(rows) + "\n")
    return tmp_path, [row.split(",")[1] for row in rows]


def lines(capsys, monkeypatch, guard, *questions, words=()):
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(q if isinstance(q, str) else json.dumps(q) + "\n" for q in questions)))
    status = main(["holdout", guard, *words])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_guarded_file_and_command(folder, capsys, monkeypatch):
    path, labels = folder
    assert main(["holdout", "g.json", "--create", "labels.csv", "--error", "0.16", "--queries", "50", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["budget"] >= 2 and record["error"] <= 0.16 and record["holdout_items"] == 2000
    assert stat.S_IMODE(os.stat("g.json").st_mode) == 0o600
    right = {"name": "right", "training": labels[:500], "holdout": labels[500:]}
    memorised = {"name": "memorised", "training": labels[:500], "holdout": ["0"] * 2000}
    status, answers = lines(capsys, monkeypatch, "g.json", right, "not json\n", {"training": [1]}, memorised, {**right, "holdout": [1]})
    assert status == 0 and answers[0]["answer"] == 1.0 and answers[0]["source"] == "training"
    assert answers[1]["status"] == answers[2]["status"] == answers[4]["status"] == 3
    assert answers[3]["source"] == "holdout" and answers[3]["answer"] == pytest.approx(labels[500:].count("0") / 2000, abs=0.005)
    assert main(["holdout", "g.json", "--status", "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["asked"], seen["spent"]) == (2, 1)
    status, answers = lines(capsys, monkeypatch, "g.json", *[memorised] * record["budget"])
    assert status == 1 and "refused" in answers[-1] and "budget" in answers[-1]["refused"]
    with pytest.raises(ClaimFails):
        Guarded("g.json").ask("x", labels[:500], labels[500:])
    assert main(["holdout", "g.json", "--create", "labels.csv"]) == 3  # no second budget
    assert main(["holdout", "h.json", "--create", "labels.csv", "--error", "0.01"]) == 2
    (path / "bad.csv").write_text("split,label\ntest,1\n")
    assert main(["holdout", "h.json", "--create", "bad.csv"]) == 3
    (path / "broken.json").write_text('{"schema": "scalebound.holdout/1"}')
    assert main(["holdout", "broken.json"]) == 3 and main(["holdout", "none.json"]) == 3


def test_a_question_is_written_before_it_is_answered(folder, monkeypatch):
    _, labels = folder
    create_holdout("g.json", labels[:500], labels[500:], HoldoutRules(10, 3, sigma=0.02), seed=5)
    guarded, memorised = Guarded("g.json"), (labels[:500], ["0"] * 2000)

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("scalebound.certify.guarded.save_struct", disk_full)
        with pytest.raises(OSError):
            guarded.ask("lost", *memorised)
    assert guarded.file.log == ()
    first = guarded.ask("a", *memorised)
    assert len(guarded.file.log) == 1 and guarded.file.log[0].source == "holdout"
    # the noise belongs to the position: a crash before the answer cannot draw another
    os.remove("g.json")
    create_holdout("g.json", labels[:500], labels[500:], HoldoutRules(10, 3, sigma=0.02), seed=5)
    assert Guarded("g.json").ask("a", *memorised).value == first.value
