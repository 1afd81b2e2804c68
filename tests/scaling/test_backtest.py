"""Backtests: nothing of the rows above a limit reaches the fit; coverage is what it says; widening repairs it."""

import msgspec
import numpy as np
import pytest

from scalebound import scaling
from scalebound.scaling.backtest import backtest, widening
from scalebound.scaling.forecast import widening_at

N = np.geomspace(1e6, 1e10, 40)


def columns(seed=0, bend=0.0, noise=0.004):
    rng = np.random.default_rng(seed)
    loss = 1.7 + 40 * N**-0.3 + bend * np.log10(N / 1e6) ** 3
    return {"params": N, "loss": loss * np.exp(noise * rng.standard_normal(len(N)))}


def test_rows_above_the_limit_do_not_reach_the_fit():
    clean = backtest(columns(), "power", limit=1e8, bootstrap=50)
    spoiled = columns()
    spoiled["loss"][N > 1e8] *= 3
    other = backtest(spoiled, "power", limit=1e8, bootstrap=50)
    assert np.array_equal(clean.value, other.value) and np.array_equal(clean.low, other.low)
    assert other.mean_abs_relative_error > 0.5


def test_rolling_limits_and_order():
    seen = backtest(columns(), "power", folds=3, bootstrap=50)
    assert len(seen.limits) == 3 and list(seen.trained) == sorted(seen.trained)
    assert np.all(seen.size > seen.limit) and seen.order == "params"


def test_coverage_of_a_true_law_and_of_a_wrong_one():
    inside = total = 0
    for seed in range(12):
        seen = backtest(columns(seed), "power", folds=2, bootstrap=150, level=0.9, seed=seed)
        inside += int(np.sum((seen.low <= seen.truth) & (seen.truth <= seen.high)))
        total += len(seen.row)
    assert 0.8 < inside / total < 0.99
    wrong = backtest(columns(bend=0.02), "power", folds=3, bootstrap=150)
    assert wrong.coverage < 0.6 and widening(wrong) > 2


def test_widening_repairs_the_backtest_and_grows_with_distance():
    data = columns(bend=0.004)
    seen = backtest(data, "power", folds=3, bootstrap=150)
    fit = scaling.widened(scaling.fit(data, "power", bootstrap=150, widen=False), seen)
    extra = (fit.widening - 1) * np.clip(np.log10(seen.size / seen.limit) / fit.widening_reach, 0.5, 2) * (seen.high - seen.low) / 2
    covered = np.mean((seen.low - extra <= seen.truth) & (seen.truth <= seen.high + extra))
    assert seen.coverage < 0.75 and covered >= 0.9
    assert fit.widening_reach == pytest.approx(np.mean(np.log10(seen.size / seen.limit)))
    assert "backtest" in fit.widening_reason and "decades beyond" in fit.widening_reason
    # at the distance of the backtest the factor itself; half of what exceeds one inside the data, twice at most far outside
    largest, factor = max(data["params"]), fit.widening
    for decades, share in ((0.0, 0.5), (fit.widening_reach, 1.0), (30.0, 2.0)):
        at = widening_at(fit, {"params": np.array([largest * 10**decades])})
        assert at[0] == pytest.approx(1 + share * (factor - 1))
    plain = scaling.forecast(msgspec.structs.replace(fit, widening=1.0), {"params": [largest * 10**fit.widening_reach]})
    wide = scaling.forecast(fit, {"params": [largest * 10**fit.widening_reach]})
    assert (wide.high - wide.low)[0] == pytest.approx(factor * (plain.high - plain.low)[0], rel=1e-6)


def test_fit_widens_by_itself_says_so_and_never_narrows():
    bent = scaling.fit(columns(bend=0.02), "power", bootstrap=150)
    assert bent.widening > 2 and "limits" in bent.widening_reason
    ask = {"params": [1e11]}
    plain = scaling.forecast(scaling.fit(columns(bend=0.02), "power", bootstrap=150, widen=False), ask)
    wide = scaling.forecast(bent, ask)
    assert wide.low[0] < plain.low[0] and wide.high[0] > plain.high[0]
    for seed in range(4):  # a true law: the factor stays near one and is never below
        assert 1 <= scaling.fit(columns(seed), "power", bootstrap=150).widening < 2.5


def test_small_tables_are_left_alone_in_words():
    data = {name: values[:5] for name, values in columns().items()}
    few, asked_not = scaling.fit(data, "power", bootstrap=100), scaling.fit(data, "power", bootstrap=100, widen=False)
    assert few.widening == 1 and "not widened" in few.widening_reason and few.warnings == asked_not.warnings
    assert asked_not.widening_reason == ""
    assert "no bootstrap draws" in scaling.fit(columns(), "power", bootstrap=0).widening_reason


def test_no_widen_on_the_command_line(tmp_path, capsys):
    import json

    from scalebound.cli import main
    from scalebound.scaling.table import to_csv

    path = tmp_path / "runs.csv"
    path.write_bytes(to_csv(columns(bend=0.02)))
    seen = []
    for flags in ([], ["--no-widen"]):
        assert main(["fit", str(path), "--law", "power", "--bootstrap", "100", "--json", *flags]) == 0
        seen.append(json.loads(capsys.readouterr().out))
    assert seen[0]["widening"] > 2 and seen[1]["widening"] == 1


def test_curve_laws_are_tested_curve_by_curve():
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent))
    from planted import table

    data = table(scaling.get_law("annealing"))
    seen = backtest(data, "annealing", group="curve", bootstrap=100)
    assert len(seen.limits) == 8 and seen.order == "curve left out" and seen.mean_abs_relative_error < 0.01


def test_rows_that_err_alike_are_told_and_independent_ones_are_not():
    """Level of the warning on independent noise, power on a curve that is wrong in places; the correlation is that of a plain loop."""
    from scalebound.scaling.identifiability import neighbour_correlation

    words = "neighbouring rows err alike"
    said = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n, d = 10 ** rng.uniform(6, 9, 60), 10 ** rng.uniform(9, 11, 60)
        data = {"params": n, "tokens": d, "loss": (1.7 + 400 / n**0.34 + 2000 / d**0.36) * np.exp(0.004 * rng.standard_normal(60))}
        said += any(words in warning for warning in scaling.fit(data, "chinchilla", bootstrap=30, widen=False).warnings)
    assert said <= 1
    bent = columns(bend=0.004, noise=0.001)
    bent["loss"] = bent["loss"] * np.exp(0.02 * np.sin(4 * np.log10(N)))
    assert any(words in warning for warning in scaling.fit(bent, "power", bootstrap=30, widen=False).warnings)
    r, x = np.random.default_rng(0).standard_normal(25), {"params": np.random.default_rng(1).uniform(1, 9, 25)}
    spread = 1.4826 * np.median(np.abs(r - np.median(r)))
    c = np.clip(r - np.median(r), -3 * spread, 3 * spread)
    c = c - c.mean()
    total = 0.0
    for i in range(25):
        j = min((k for k in range(25) if k != i), key=lambda k: abs(np.log(x["params"][k]) - np.log(x["params"][i])))
        total += c[i] * c[j]
    assert neighbour_correlation(x, r) == pytest.approx(total / np.sum(c * c), rel=1e-9)
    assert neighbour_correlation({"params": np.ones(5)}, np.ones(5)) is None
