"""Canaries are found and unseen text is not; departures are those of greedy generation; influence is a difference of means with its interval."""

import itertools
import json

import numpy as np
import pytest
import torch

from scalebound.cli.main import main
from scalebound.core.errors import InputError, UsageError
from scalebound.core.probe import load_probe
from scalebound.models import Transformer, save_folder, shape_for
from scalebound.models.language_model import LanguageModel
from scalebound.probe import departures, draw_spans, influences, permutation_p, probe_extraction, read_influence_table
from scalebound.probe.influence import welch
from scalebound.probe.memorization_case import LENGTH, PREFIX, ladder, planted


@pytest.fixture(scope="module")
def small():
    return planted(0, steps=90, documents=30, canaries=8)


def greedy(model, prefix, count):
    text = list(prefix)
    for _ in range(count):
        text.append(int(model.logits(torch.tensor([[model.first_token, *text]]))[0, -1].argmax()))
    return text


def test_departures_are_those_of_greedy_generation(small):
    spans = np.concatenate([found[:3] for found in small.spans.values()])
    true = np.array([sum(a != b for a, b in zip(greedy(small.model, span[:PREFIX], LENGTH - PREFIX)[PREFIX:], span[PREFIX:], strict=True)) for span in spans])
    assert len(set(true)) > 3  # none, few and many
    for limit in (0, 3, 40):
        assert np.array_equal(departures(small.model, spans, PREFIX, limit=limit), np.minimum(true, limit + 1))


def test_canaries_are_found_and_unseen_text_is_not(small):
    rows = {row.kind: row for row in probe_extraction(small.model, small.spans, prefix=PREFIX)}
    assert rows["canaries said 64 times"].exact > 0.8
    for null in ("text never seen", "canaries never seen"):
        assert rows[null].near == 0
    assert all(row.exact <= row.near for row in rows.values())
    assert rows["canaries said 64 times"].near_low > rows["text never seen"].near_high


def test_near_copies_count_as_near():
    text = np.arange(40)

    def hidden(tokens_BT):  # says what comes next in `text`, except at two places
        out = torch.zeros(*tokens_BT.shape, 50)
        for row, tokens in enumerate(tokens_BT.tolist()):
            for k in range(len(tokens)):
                out[row, k, 49 if k in (20, 30) else min(k, 48)] = 1.0
        return out

    model = LanguageModel("test", "", 0, 50, 64, 49, hidden, lambda x: x)
    assert departures(model, text[None], 10, limit=5).tolist() == [2]
    row = probe_extraction(model, {"a": text[None]}, prefix=10)[0]
    assert (row.exact, row.near) == (0.0, 1.0)
    assert departures(model, text[None], 32, limit=5).tolist() == [0]


def test_spans_are_of_the_text():
    spans = draw_spans(np.arange(50) * 2, np.random.default_rng(0), 300, 10)
    assert np.all(np.diff(spans, axis=1) == 2) and spans.min() == 0 and spans.max() == 98
    with pytest.raises(UsageError, match="9 tokens"):
        draw_spans(np.arange(9), np.random.default_rng(0), 1, 10)


def test_the_long_tail_has_influence_and_what_no_run_saw_has_none():
    found = ladder(0, runs=4, steps=45, documents=24)
    rows = {row.group: row for row in influences(found.groups, found.inside, found.scores)}
    rare, absent = ([row for name, row in rows.items() if name.startswith(kind)] for kind in ("rare", "absent"))
    assert all(row.low > 0.1 for row in rare) and all(row.low < 0 < row.high for row in absent)
    assert min(row.influence for row in rare) > max(row.influence for row in rows.values() if row.group.startswith("typical"))
    assert found.inside.sum(0).tolist() == [2] * len(found.groups)


def test_intervals_are_welchs_and_p_values_count_choices():
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 1, 7), rng.normal(0, 3, 5)
    ends = ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    assert np.allclose(welch(a, b, 0.9), (a.mean() - b.mean(), *ends), atol=1e-12)
    scores = rng.normal(size=7)
    inside = np.array([1, 0, 1, 0, 1, 0, 0], dtype=bool)
    gaps = [abs(scores[list(c)].mean() - np.delete(scores, c).mean()) for c in itertools.combinations(range(7), 3)]
    seen = abs(scores[inside].mean() - scores[~inside].mean())
    assert permutation_p(scores, inside, rng) == np.mean([gap >= seen - 1e-12 for gap in gaps])
    many = permutation_p(rng.normal(size=40), np.arange(40) < 20, rng)  # too many choices to look at all
    assert 0 < many <= 1


def test_false_alarms_and_power_of_influence():
    """Under the null the p-value is at most 0.1 in a tenth of cases (alarm of this test: 1e-6); a shift of two deviations is found."""
    rng = np.random.default_rng(2)
    inside = np.arange(10) < 5
    null = sum(permutation_p(rng.normal(size=10), rng.permutation(inside), rng) <= 0.1 for _ in range(200))
    assert null <= 45  # Bin(200, 0.1) exceeds this with probability below 1e-6
    found = sum(influences(["g"], inside[:, None], (rng.normal(size=10) + 4 * inside)[:, None])[0].low > 0 for _ in range(50))
    assert found > 40


def test_tables_of_runs(tmp_path, capsys):
    lines = ["run,group,included,score"] + [f"{run},{group},{int((run + k) % 2)},{0.5 + 0.4 * ((run + k) % 2) + 0.01 * run}" for run in range(6) for k, group in enumerate("ab")]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    groups, inside, scores = read_influence_table(path)
    assert groups == ["a", "b"] and inside.shape == scores.shape == (6, 2) and inside[1, 0] and not inside[1, 1]
    assert main(["probe", "memorization", "--influence", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "influence_found"
    for wrong, said in ((lines[:-1], "lacks run"), ([*lines, lines[-1]], "again"), ([lines[0], "1,a,2,0.5"], "included"), (["run,group,score", "1,a,0.5"], "columns"), ([lines[0]], "no row")):
        path.write_text("\n".join(wrong) + "\n")
        with pytest.raises(InputError, match=said):
            read_influence_table(path)
    path.write_text("\n".join([lines[0], "0,a,1,0.5", "1,a,0,0.5"]) + "\n")
    assert main(["probe", "memorization", "--influence", str(path)]) == 2


def test_a_model_of_ones_own(tmp_path, capsys):
    shape = shape_for(16_000)
    save_folder(tmp_path / "model", shape.config(64), Transformer(shape, 64, torch.Generator().manual_seed(0)).tensors())
    for name in ("seen", "unseen"):
        (tmp_path / name).write_text(f"{name} text of some words. " * 30)
    (tmp_path / "canaries").write_text("a line that was planted, long enough\nand another one of at least a span\n")
    call = ["probe", "memorization", str(tmp_path / "model"), "--prefix", "8", "--suffix", "10", "--spans", "20"]
    texts = ["--text", str(tmp_path / "seen"), "--unseen", str(tmp_path / "unseen"), "--canaries", str(tmp_path / "canaries")]
    assert main([*call, *texts, "--out", str(tmp_path / "r.json"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in printed["rows"]] == ["training text", "text never seen", "canaries"] and printed["verdict"] == "nothing_remembered"
    assert set(load_probe(tmp_path / "r.json").inputs) == {"model", "training text", "text never seen", "canaries"}
    assert main([*call, *texts[:2], "--json"]) == 0 and json.loads(capsys.readouterr().out)["verdict"] == "no_null_given"
    (tmp_path / "canaries").write_text("short\n")
    assert main([*call, *texts]) == 3
    assert main(call) == 2 and main(["probe", "memorization", *texts]) == 2 and main(["probe", "memorization", "--runs", "5"]) == 2 and main(["probe", "memorization", "--spans", "5"]) == 2
    assert main([*call, *texts[:4], "--prefix=60"]) == 2
