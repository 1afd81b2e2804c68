"""emergence, resample, mix and critical-batch from the command line, with controls that must fail."""

import json

import numpy as np
import pytest

from scalebound import scaling
from scalebound.cli import main
from scalebound.scaling.laws.critical_batch import CriticalBatch, tradeoff
from scalebound.scaling.table import to_csv

N = np.geomspace(1e7, 1e9, 9)


def write(path, columns):
    path.write_bytes(to_csv(columns))
    return str(path)


def rate(size, seed=0, jump=1.0):
    return np.minimum(np.exp(-2e3 * size**-0.35 + 0.03 * np.random.default_rng(seed).standard_normal(len(size))) * jump, 1.0)


def test_emergence_finds_a_jump_and_only_a_jump(tmp_path, capsys):
    size = np.append(N, [2e9, 4e9])
    for jump, direction in ((1.0, "none"), (2.0, "above"), (0.4, "below")):
        path = write(tmp_path / "r.csv", {"params": size, "pass_rate": rate(size) * np.where(size > 1e9, jump, 1)})
        assert main(["emergence", path, "--above", "1e9", "--bootstrap", "300", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["direction"] == direction and [row["tested"] for row in record["rows"]] == [False] * 9 + [True] * 2
    assert main(["emergence", path, "--bootstrap", "300"]) == 0
    assert "PU = exp" in capsys.readouterr().out


def test_emergence_from_samples_and_from_draws(tmp_path, capsys):
    rng = np.random.default_rng(3)
    sizes = np.geomspace(1e8, 1e9, 6)
    size, p = np.repeat(sizes, 400), np.repeat(rate(sizes), 400)
    draws = 3 + rng.negative_binomial(3, p)
    for columns, flags in (({"passed": (rng.random(len(p)) < p) * 1.0}, []), ({"draws": draws}, ["--until", "3"])):
        rows = {"params": size, "sample": np.arange(len(size)), **columns}
        assert main(["emergence", write(tmp_path / "s.csv", rows), "--bootstrap", "100", "--json", *flags]) == 0
        record = json.loads(capsys.readouterr().out)
        assert np.array([row["pass_rate"] for row in record["rows"]]) == pytest.approx(rate(sizes), abs=0.06)
    path = write(tmp_path / "s.csv", {"params": size, "draws": draws})
    assert main(["emergence", path]) == 2 and "--until" in capsys.readouterr().err
    assert main(["emergence", path, "--until", "900"]) == 3
    assert main(["emergence", write(tmp_path / "s.csv", {"params": N, "passed": 0 * N})]) == 3
    assert main(["emergence", write(tmp_path / "s.csv", {"params": N, "loss": N})]) == 3
    assert main(["emergence", write(tmp_path / "s.csv", {"params": N, "pass_rate": rate(N)}), "--above", "1e12"]) == 2
    capsys.readouterr()


def test_resample(tmp_path, capsys):
    path = write(tmp_path / "i.csv", {"correct": [0.5, 0.01, 0.0], "false_positive": [0.0, 0.01, 0.02]})
    assert main(["resample", path, "--wrong-cost", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["ceiling"] == pytest.approx(0.5) and record["best"]["finite"]
    accuracy = [row["accuracy"] for row in record["rows"]]
    assert accuracy == sorted(accuracy, reverse=True) and accuracy[0] == pytest.approx(0.51 / 0.54)
    assert main(["resample", path]) == 0 and "tends to 0.5000" in capsys.readouterr().out
    assert main(["resample", write(tmp_path / "i.csv", {"correct": [0.9], "false_positive": [0.5]})]) == 3
    assert main(["resample", write(tmp_path / "i.csv", {"correct": [np.nan], "false_positive": [0.5]})]) == 3
    assert "row 1" in capsys.readouterr().err


def test_the_best_mix_changes_with_compute(tmp_path, capsys):
    columns = {"name": ["top", "middle", "rest"], "size": [1e6] * 3, "utility": [0.30, 0.26, 0.15], "half_life": [2.0] * 3}
    path = write(tmp_path / "p.csv", columns)
    assert main(["mix", path, "--samples", "5e5,1e9", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["pools"] == ["top"] and "middle" in rows[1]["pools"] and rows[1]["relative_error"] < rows[1]["best_single_error"]
    assert main(["mix", path, "--samples", "1e9"]) == 0 and "top + middle" in capsys.readouterr().out
    assert main(["mix", path, "--samples", "none"]) == 2
    assert main(["mix", write(tmp_path / "p.csv", {**columns, "half_life": [2.0, 0.0, 2.0]}), "--samples", "1e9"]) == 3
    assert "middle" in capsys.readouterr().err


def test_critical_batch_tradeoff_with_intervals(tmp_path, capsys):
    truth = np.array([6.5e13, 0.077, 2.1e3, 0.76, 2e8, 0.21])
    size, step, batch = (axis.ravel() for axis in np.meshgrid([1e7, 1e8, 1e9], np.geomspace(1e3, 1e5, 4), [1e4, 1e5, 1e6], indexing="ij"))
    rows = {"params": size, "step": step, "batch_tokens": batch}
    rows["loss"] = CriticalBatch().predict(truth, rows) * np.exp(0.001 * np.random.default_rng(0).standard_normal(len(size)))
    scaling.fit(rows, "critical-batch", bootstrap=60, widen=False).save(tmp_path / "b.json")
    ask = ["critical-batch", str(tmp_path / "b.json"), "--params", "1e8", "--batch", "1e4,1e6"]
    assert main([*ask, "--loss", "3.5", "--json"]) == 0
    for row in json.loads(capsys.readouterr().out)["rows"]:
        way = tradeoff(dict(zip(CriticalBatch().names, truth, strict=True)), params=1e8, loss=3.5, batch_tokens=row["batch_tokens"])
        assert row["steps"]["value"] == pytest.approx(way.steps, rel=0.1)
        assert row["steps"]["low"] <= row["steps"]["value"] <= row["steps"]["high"]
    assert main([*ask, "--loss", "3.5"]) == 0 and main([*ask, "--loss", "1.5"]) == 3
    scaling.fit({"params": N, "loss": 1.7 + 40 * N**-0.3}, "power", bootstrap=0).save(tmp_path / "p.json")
    assert main(["critical-batch", str(tmp_path / "p.json"), "--params", "1e8", "--loss", "3"]) == 2
    capsys.readouterr()
