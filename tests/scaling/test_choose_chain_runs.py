"""Choosing a law, chains of fits, and run logs made into tables."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from scalebound import scaling
from scalebound.cli import main
from scalebound.core.errors import InputError, UsageError
from scalebound.scaling.table import from_columns, to_csv

sys.path.insert(0, str(Path(__file__).parent))
from planted import table

N = np.tile(np.geomspace(1e7, 1e10, 8), 6)
D = np.repeat(np.geomspace(1e9, 1e12, 6), 8)


def columns(law, truth, noise=0.002, seed=0):
    y = scaling.get_law(law).predict(np.array(truth), {"params": N, "tokens": D})
    return {"params": N, "tokens": D, "loss": y * np.exp(noise * np.random.default_rng(seed).standard_normal(len(N)))}


def test_the_simple_law_wins_when_it_is_true_and_loses_when_it_is_not():
    tied = scaling.choose(columns("overtraining", [1.7, 150.0, 250.0, 0.13]))
    assert tied.law == "overtraining" and {one.law for one in tied.candidates} == {"power:flops", "overtraining", "kaplan", "chinchilla"}
    free = scaling.choose(columns("chinchilla", [1.7, 4000.0, 500.0, 0.5, 0.25]))
    assert free.law == "chinchilla"
    errors = [one.error for one in free.candidates]
    assert errors == sorted(errors)


@pytest.mark.parametrize("dataset", ["C4", "RedPajama", "RefinedWeb"])
def test_the_law_chosen_among_small_runs_predicts_the_large_ones_best(dataset):
    """The testbed below 5e8 parameters chooses the over-training law; above 1e9 it is indeed the best of the candidates."""
    path = Path(__file__).parents[2] / "examples" / "data" / "gadre2024" / "testbed.csv"
    small, large = (scaling.read_table(path, where=f"dataset={dataset},multiplier_M>=10,params_N{cut}") for cut in ("<5e8", ">1e9"))
    choice = scaling.choose(small, target="loss_c4_val", bootstrap=0)
    assert choice.law == "overtraining"
    error = {}
    for law in ("power:flops", "overtraining", "kaplan", "chinchilla"):
        fit = scaling.fit(small, law, target="loss_c4_val", bootstrap=0)
        error[law] = np.mean(np.abs(scaling.forecast(fit, large).value / large["loss_c4_val"] - 1))
    assert min(error, key=error.get) == "overtraining"


def test_candidates_follow_the_columns():
    only = scaling.choose({"params": N[:8], "loss": 1.7 + 40 * N[:8] ** -0.3})
    assert only.law == "power:params"
    error = scaling.choose(table(scaling.get_law("exponential-error")), target="error")
    assert error.law == "exponential-error:loss"
    with pytest.raises(InputError, match="no law suits"):
        scaling.choose({"a": [1.0, 2.0], "loss": [3.0, 2.0]})


def test_auto_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    path.write_bytes(to_csv(columns("overtraining", [1.7, 150.0, 250.0, 0.13])))
    assert main(["fit", str(path), "--law", "auto", "--bootstrap", "50", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["law"] == "overtraining" and len(record["candidates"]) == 4
    assert main(["fit", str(path), "--law", "auto", "--bootstrap", "50"]) == 0
    assert "small predicts large" in capsys.readouterr().out


def test_a_chain_carries_uncertainty(tmp_path, capsys):
    data = columns("chinchilla", [1.7, 400.0, 2000.0, 0.34, 0.36], noise=0.003)
    data["error"] = 0.85 - 2.2 * np.exp(-0.75 * data["loss"]) + 0.002 * np.random.default_rng(5).standard_normal(len(N))
    loss, error = scaling.fit(data, "overtraining", bootstrap=300), scaling.fit(data, "exponential-error", bootstrap=300)
    ask = {"params": [3e10], "tokens": [2e12]}
    alone = scaling.forecast(loss, ask)
    chain = scaling.forecast(loss, ask, then=[error])
    assert chain.target == "error" and chain.value[0] == pytest.approx(0.85 - 2.2 * np.exp(-0.75 * alone.value[0]), abs=0.01)
    direct = scaling.forecast(error, {"loss": alone.value})
    assert chain.high[0] - chain.low[0] > direct.high[0] - direct.low[0]
    truth = 0.85 - 2.2 * np.exp(-0.75 * (1.7 + 400 / 3e10**0.34 + 2000 / 2e12**0.36))
    assert chain.low[0] < truth < chain.high[0]
    assert any("outside the range" in warning for warning in chain.warnings)
    loss.save(tmp_path / "a.json")
    error.save(tmp_path / "b.json")
    assert (
        main(["forecast", str(tmp_path / "a.json"), "--then", str(tmp_path / "b.json"), "--at", "params=3e10,tokens=2e12", "--json"]) == 0
    )
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["value"] == pytest.approx(chain.value[0])
    assert main(["forecast", str(tmp_path / "b.json"), "--then", str(tmp_path / "a.json"), "--at", "loss=2.5"]) == 2


def test_run_logs():
    log = from_columns(
        {
            "run": ["a"] * 5 + ["b"] * 5,
            "step": [*range(5), *range(5)],
            "loss": [9.0, 5, 4, 3, 2, 8, 6, 4, 2, 0],
            "params": [1e6] * 5 + [1e7] * 5,
            "tokens": [1e5 * k for k in range(1, 6)] * 2,
        }
    )
    last = scaling.last_mean(log, "run", 2)
    assert last["loss"].tolist() == [2.5, 1.0] and last["tokens"].tolist() == [5e5, 5e5] and len(last) == 2
    smooth = scaling.smoothed(log, "run", 3, 0.2)
    assert smooth["loss"].tolist() == pytest.approx([4.0, 3.0, 4.0, 2.0]) and smooth["step"].tolist() == [3, 4, 3, 4]
    for call in (lambda: scaling.last_mean(log, "run", 0), lambda: scaling.smoothed(log, "run", 2, 1.0)):
        with pytest.raises(UsageError):
            call()
    with pytest.raises(InputError):
        scaling.last_mean(log, "nothing", 2)
    with pytest.raises(InputError):
        scaling.smoothed(log, "run", 9)
