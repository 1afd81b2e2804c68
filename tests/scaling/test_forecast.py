"""Forecasts: saved and loaded, in order, with noise, with the distance said."""

import json
import sys

import numpy as np
import pytest

from scalebound import scaling
from scalebound.cli import main
from scalebound.core.errors import InputError
from scalebound.scaling.rows import decades_beyond
from scalebound.scaling.table import to_csv

N = np.geomspace(1e6, 1e9, 24)
LOSS = (1.7 + 40 * N**-0.3) * np.exp(0.004 * np.random.default_rng(0).standard_normal(24))


@pytest.fixture(scope="module")
def found():
    return scaling.fit({"params": N, "loss": LOSS}, "power", bootstrap=400)


def test_round_trip_is_exact(found, tmp_path):
    found.save(tmp_path / "f.json")
    again = scaling.load_fit(tmp_path / "f.json")
    assert again == found
    a, b = scaling.forecast(found, {"params": [1e10]}), scaling.forecast(tmp_path / "f.json", {"params": [1e10]})
    assert a.low[0] == b.low[0] and a.high[0] == b.high[0]


def test_noise_widens_and_far_warns(found):
    points = {"params": [1e7, 1e9, 1e12]}
    curve, run = scaling.forecast(found, points, noise=False), scaling.forecast(found, points)
    assert np.all(run.high - run.low > curve.high - curve.low)
    assert run.decades_beyond.tolist() == pytest.approx([0, 0, 3]) and any("3.0 decades" in w for w in run.warnings)
    assert np.all((run.low <= run.value) & (run.value <= run.high))
    narrow = scaling.forecast(found, points, level=0.5)
    assert np.all(narrow.high - narrow.low < run.high - run.low)


def test_decades_count_both_directions():
    assert decades_beyond({"x": np.array([1.0, 10.0, 1e5])}, {"x": (10.0, 1e3)}).tolist() == pytest.approx([1, 0, 2])


def test_command_line(found, tmp_path, capsys):
    fit = tmp_path / "fit.json"
    found.save(fit)
    assert main(["forecast", str(fit), "--at", "params=1e10", "--at", "params=2e10", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {"target", "level", "rows"} <= set(record) and [row["params"] for row in record["rows"]] == [1e10, 2e10]
    assert {"value", "low", "high", "decades_beyond"} <= set(record["rows"][0])
    table = tmp_path / "ask.csv"
    table.write_bytes(to_csv({"N": [1e10, 1e8]}))
    assert main(["forecast", str(fit), str(table), "--columns", "params=N"]) == 0
    assert "power" not in capsys.readouterr().err
    for arguments, status in (
        ([str(fit)], 2),
        ([str(fit), "--at", "params=abc"], 2),
        ([str(fit), "--at", "tokens=1e9"], 3),
        ([str(fit), "--at", "params=-5"], 3),
        ([str(table), "--at", "params=1e9"], 3),
    ):
        assert main(["forecast", *arguments]) == status, arguments
        assert "Traceback" not in capsys.readouterr().err


def test_fit_json_keys(tmp_path, capsys):
    table = tmp_path / "runs.csv"
    table.write_bytes(to_csv({"params": N, "loss": LOSS}))
    assert main(["fit", str(table), "--law", "power", "--bootstrap", "50", "--out", str(tmp_path / "f.json"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {"law", "target", "params", "intervals", "level", "objective", "n", "optimum", "warnings"} <= set(record)
    assert {"established", "gradient_norm", "basins"} <= set(record["optimum"])
    assert main(["fit", str(table), "--law", "power", "--bootstrap", "50"]) == 0
    assert "irreducible" in capsys.readouterr().out


def test_tampered_files_are_refused(found, tmp_path):
    good = json.loads((found.save(tmp_path / "f.json")).read_text())
    for change in ({"schema": "scalebound.fit/9"}, {"draws": [[1.0]]}, {"surprise": 1}, {"level": "high"}):
        (tmp_path / "g.json").write_text(json.dumps({**good, **change}))
        with pytest.raises(InputError):
            scaling.load_fit(tmp_path / "g.json")


def test_three_rows_for_three_parameters_say_so():
    few = scaling.fit({"params": N[::8], "loss": LOSS[::8]}, "power")
    assert few.intervals["c"] is None and any("passes through" in w for w in few.warnings)
    ahead = scaling.forecast(few, {"params": [1e10]})
    assert ahead.low is None and any("unknown" in w for w in ahead.warnings)


def test_few_rows_use_residual_noise():
    few = scaling.fit({"params": N[::4], "loss": LOSS[::4]}, "power", bootstrap=300)
    assert few.bootstrap.method == "residuals" and few.intervals["b"][0] < 0.3 < few.intervals["b"][1]


def test_refits_beyond_floating_point_are_left_out(tmp_path, monkeypatch):
    """A refit whose factor leaves floating point (seen on four noisy rows) must not reach the saved fit, which holds finite numbers only."""
    module = sys.modules["scalebound.scaling.fit"]
    original = module.draw_parameters

    def with_one_too_large(*args, **kwargs):
        draws, method = original(*args, **kwargs)
        draws[3] = 1e4
        return draws, method

    monkeypatch.setattr(module, "draw_parameters", with_one_too_large)
    sizes = np.geomspace(1e4, 1e6, 6)
    loss = 1.0 + 30 * sizes**-0.3 * np.exp(0.01 * np.array([1, -1, 1, 1, -1, 1]))
    found = scaling.fit({"params": sizes, "loss": loss}, "power", level=0.95)
    assert found.bootstrap.count == len(found.draws) == 999
    assert scaling.load_fit(found.save(tmp_path / "f.json")).params == found.params
