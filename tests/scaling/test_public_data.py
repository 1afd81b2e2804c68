"""Figures printed with the public data sets that an own fit can reproduce, and extrapolation inside what is visible."""

from pathlib import Path

import numpy as np
import pytest

from scalebound import scaling
from scalebound.scaling.table import select

DATA = Path(__file__).parents[2] / "examples" / "data"


def read(name, where=""):
    return scaling.read_table(DATA / name, where=where)


# --- gemstones -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, delta, objective, published, alpha, beta, E",
    [
        ("hot_100b+", 1e-4, 6.92329e-4, 6.92330e-4, 0.2577, 0.5895, 1.9457),
        ("hot_100b+", 1e-3, 6.592534e-3, 6.592534e-3, 0.2592, 0.5973, 1.9508),
        ("lr_ablation_hot", 1e-4, 2.05842e-4, 2.05902e-4, 0.3296, 0.6468, 2.2106),
    ],
)
def test_gemstones_optima_are_at_or_below_the_published_ones(kind, delta, objective, published, alpha, beta, E):
    found = scaling.fit(read("gemstones/train_losses.csv", f"set={kind}"), "chinchilla", delta=delta, bootstrap=0)
    assert found.optimum.established
    assert found.objective.value <= published * (1 + 1e-7) and found.objective.value == pytest.approx(objective, rel=2e-6)
    for name, value in {"alpha": alpha, "beta": beta, "E": E}.items():
        assert found.params[name] == pytest.approx(value, abs=1.01e-4), name


# --- over-training testbed -----------------------------------------------------------------------------------------------------

TABLE2 = {
    "C4": ((1.5083, 141.3, 189.5, 0.1212), (0.8497, 2.0789, 0.7561), (0.7589, 1.2885, 0.9722)),
    "RedPajama": ((1.8366, 212.2, 366.7, 0.1364), (0.8570, 2.2065, 0.7146), (0.7608, 1.3229, 0.8907)),
    "RefinedWeb": ((1.7345, 157.1, 246.2, 0.1272), (0.8653, 2.2148, 0.7070), (0.7677, 1.1281, 0.8215)),
}
SSE = {"C4": 4.1412e-4, "RedPajama": 4.2565e-4, "RefinedWeb": 8.2444e-5}


def five_models(table, error=False):
    small = ((table["multiplier_M"] == 20) & (table["params_N"] < 5e8)) | ((table["multiplier_M"] == 320) & (table["params_N"] < 2e7))
    large = (table["multiplier_M"] == 20) & (table["params_N"] > 1e9) & (table["params_N"] < 2e9)
    return table.take(small | large if error else small)


@pytest.mark.parametrize("dataset", TABLE2)
def test_gadre_table_2(dataset):
    table = read("gadre2024/testbed.csv", f"dataset={dataset}")
    loss = scaling.fit(five_models(table), "overtraining", target="loss_c4_val", objective="squares", bootstrap=0)
    expected = TABLE2[dataset]
    assert loss.objective.value == pytest.approx(SSE[dataset], rel=3e-5)
    for value, printed, digits in zip(loss.vector, expected[0], (4, 1, 1, 4), strict=True):
        assert value == pytest.approx(printed, abs=0.51 * 10**-digits)
    for tasks, printed in (("err_avg17", expected[1]), ("err_avg46", expected[2])):
        error = scaling.fit(five_models(table, error=True), "exponential-error:loss_c4_val", target=tasks, bootstrap=0)
        assert np.allclose(error.vector, printed, atol=5.1e-5), (tasks, error.vector)


def test_gadre_headline_errors():
    table = read("gadre2024/testbed.csv", "dataset=RedPajama")
    loss = scaling.fit(five_models(table), "overtraining", target="loss_c4_val", objective="squares", bootstrap=0)
    printed = {(640.0, "loss"): 0.007103, (20.0, "loss"): 0.007320, (640.0, "err_avg17"): 0.036365, (20.0, "err_avg17"): 0.000464}
    printed |= {(640.0, "err_avg46"): 0.034362, (20.0, "err_avg46"): 0.020969}
    for multiplier, size in ((640.0, 1.4e9), (20.0, 6.9e9)):
        big = table.take((table["multiplier_M"] == multiplier) & (abs(table["params_N"] / size - 1) < 0.05))
        assert len(big) == 1
        ahead = scaling.forecast(loss, big)
        assert abs(ahead.value[0] / big["loss_c4_val"][0] - 1) == pytest.approx(printed[multiplier, "loss"], abs=1e-5)
        for tasks in ("err_avg17", "err_avg46"):
            error = scaling.fit(five_models(table, error=True), "exponential-error:loss_c4_val", target=tasks, bootstrap=0)
            chain = scaling.forecast(loss, big, then=[error])
            assert abs(chain.value[0] / big[tasks][0] - 1) == pytest.approx(printed[multiplier, tasks], abs=2e-5), tasks


@pytest.mark.parametrize("dataset", TABLE2)
def test_gadre_other_evaluation_sets_are_as_hard_as_said(dataset):
    """Mean relative error over all models: 1.3 to 2.2% on web text, 2 to 4% on mixed and other text, 5.7 to 7.0% on programming languages."""
    table = read("gadre2024/testbed.csv", f"dataset={dataset}")
    said = {
        (0.013, 0.022): ("c4_val", "paloma_c4", "paloma_refinedweb"),
        (0.02, 0.04): ("openlm", "paloma_ptb", "c4_german"),
        (0.057, 0.070): ("paloma_100pl",),
    }
    for (low, high), sets in said.items():
        for name in sets:
            fit = scaling.fit(five_models(table), "overtraining", target=f"loss_{name}", objective="squares", bootstrap=0)
            error = np.mean(np.abs(scaling.forecast(fit, table).value / table[f"loss_{name}"] - 1))
            assert low - 5e-4 <= error <= high + 5e-4, name


def test_gadre_larger_runs_are_predicted_better_than_by_the_published_rule():
    ours, published = [], []
    for dataset in TABLE2:
        table = read("gadre2024/testbed.csv", f"dataset={dataset}")
        small, large = select(table, where="params_N<5e8,multiplier_M>=10"), select(table, where="params_N>1e9,multiplier_M>=20")
        fit = scaling.fit(small, "overtraining", target="loss_c4_val", bootstrap=200)
        ahead = scaling.forecast(fit, large)
        truth = large["loss_c4_val"]
        assert np.all((ahead.low <= truth) & (truth <= ahead.high))
        ours += np.abs(ahead.value / truth - 1).tolist()
        rule = scaling.fit(five_models(table), "overtraining", target="loss_c4_val", objective="squares", bootstrap=0)
        published += np.abs(scaling.forecast(rule, large).value / truth - 1).tolist()
    assert len(ours) == 5 and np.mean(ours) < 0.6 * np.mean(published) < 0.004


# --- repeated data -------------------------------------------------------------------------------------------------------------

PUBLISHED = {"E": np.exp(0.6254804), "A": np.exp(6.255414), "B": np.exp(7.3049974), "alpha": 0.3526596, "beta": 0.3526596}


def test_datablations_two_parameter_fit_and_its_flat_profile():
    found = scaling.fit(read("datablations/runs.csv"), "repetition", fix=PUBLISHED, bootstrap=0, diagnose=True)
    assert found.params["RD"] == pytest.approx(15.329, abs=2e-3) and found.params["RN"] == pytest.approx(5.337, abs=2e-3)
    assert found.objective.value <= 0.01536883 * (1 + 1e-7) and found.optimum.established
    profile = {one.name: one for one in found.diagnosis.profiles}["RD"]
    assert profile.high is None and "not bounded above" in profile.words
    assert profile.flat_high > 200


def test_datablations_own_constants_predict_the_largest_runs_better():
    large = read("datablations/runs.csv", "params_N>4e9")
    ours = scaling.fit(read("datablations/runs.csv", "params_N<=4e9,params_N>1e8,epochs<=60"), "repetition", bootstrap=0)
    theirs = scaling.fit(read("datablations/runs.csv", "params_N<=4e9"), "repetition", fix=PUBLISHED, bootstrap=0)
    errors = [np.mean(np.abs(scaling.forecast(fit, large).value / large["val_loss"] - 1)) for fit in (ours, theirs)]
    assert errors[0] < 0.015 and errors[1] > 0.06


# --- learning-rate schedules ---------------------------------------------------------------------------------------------------

AUTHORS = {
    25: ([3.0405, 0.5247, 0.5079, 363.79, 2.0656, 0.5828, 0.6414], 1.38e-4),
    100: ([2.6514, 0.6012, 0.4530, 437.95, 2.1325, 0.5979, 0.6552], 3.0e-5),
    400: ([2.3747, 0.6542, 0.4288, 523.42, 2.0246, 0.5935, 0.6347], 7.9e-5),
}


@pytest.mark.parametrize("size", AUTHORS)
def test_multipower_optimum_lies_below_the_published_one(size):
    table = read("multipower_law/curves.csv", f"size_M={size},paper_role=train")
    found = scaling.fit(table, "multipower", group="schedule", bootstrap=0)
    law = scaling.get_law("multipower")
    inputs = {
        "step": table["step"],
        "lr": table["lr"],
        "curve": np.unique(table["schedule"].astype(str), return_inverse=True)[1].astype(float),
    }
    authors = float(found.how().total(table["loss"], law.predict(np.array(AUTHORS[size][0]), inputs), np.ones(len(table))))
    printed = {25: 2.912e-4, 100: 2.810e-4, 400: 5.770e-4}[size]
    # the rates between logged steps are not in the table, and the printed parameters are rounded
    assert authors == pytest.approx(printed, rel=0.05)
    assert found.objective.value <= AUTHORS[size][1] and found.optimum.established


def test_multipower_shape_carries_over_sizes():
    """(C, beta, gamma) of the other size's six curves, the rest from three curves: unseen schedules within 0.1%."""
    keep = ("C", "beta", "gamma")
    small = scaling.fit(read("multipower_law/curves.csv", "size_M=25"), "multipower", group="schedule", bootstrap=0)
    fit = scaling.fit(
        read("multipower_law/curves.csv", "size_M=100,paper_role=train"),
        "multipower",
        group="schedule",
        fix={name: small.params[name] for name in keep},
        bootstrap=0,
    )
    test = read("multipower_law/curves.csv", "size_M=100,paper_role=test")
    ahead = scaling.forecast(fit, test, group="schedule")
    assert np.mean(np.abs(ahead.value / test["loss"] - 1)) < 0.001


def test_annealing_from_two_curves():
    fit = scaling.fit(
        read("multipower_law/curves.csv", "size_M=100,schedule=cosine_24000|constant_24000"), "annealing", group="schedule", bootstrap=100
    )
    test = read("multipower_law/curves.csv", "size_M=100,schedule=wsd_20000_24000")
    assert np.mean(np.abs(scaling.forecast(fit, test, group="schedule").value / test["loss"] - 1)) < 0.002


# --- task ladder, cooldowns, perplexity ----------------------------------------------------------------------------------------


def test_olmo_two_steps_predict_the_3B_runs():
    runs = "|".join(f"{size}-{k}xC" for size in ("190M", "370M", "760M", "1B") for k in (1, 2, 5, 10))
    table = read("olmo_ladder/ladder_runs.csv", f"run={runs}")
    large = scaling.last_mean(read("olmo_ladder/ladder_runs.csv", "run=" + "|".join(f"3B-{k}xC" for k in (1, 2, 5, 10))), "run", 5)
    errors = {"chinchilla": [], "overtraining": []}
    for task in ("mmlu_avg", "hellaswag", "arc_challenge", "arc_easy", "piqa", "csqa", "socialiqa", "openbookqa"):
        smooth = scaling.smoothed(table, "run", 5, 0.1)
        ideal = {f"{task}_bpb": np.append(smooth[f"{task}_bpb"], 0.0), "accuracy": np.append(smooth[f"{task}_acc"], 1.0)}
        accuracy = scaling.fit(ideal, f"sigmoid:{task}_bpb", bootstrap=0, drop_bad=True)
        for law, seen in errors.items():
            bpb = scaling.fit(scaling.last_mean(table, "run", 5), law, target=f"{task}_bpb", bootstrap=0)
            chain = scaling.forecast(bpb, large, then=[accuracy])
            seen += np.abs(chain.value / large[f"{task}_acc"] - 1).tolist()
    assert np.mean(errors["chinchilla"]) < 0.03  # the published form
    assert np.mean(errors["overtraining"]) < 0.02  # tied exponents extrapolate better


def cooldowns():
    table = read("gemstones/train_losses.csv")
    begin, end = select(table, where="set=cool_begin"), select(table, where="set=cool_end")
    starts = {(name, round(tokens / 1e10)): k for k, (name, tokens) in enumerate(zip(begin["run_name"], begin["tokens_D"], strict=True))}
    pairs = [
        (starts[name, round(tokens / 1.1e10)], k) for k, (name, tokens) in enumerate(zip(end["run_name"], end["tokens_D"], strict=True))
    ]
    at = np.array([pair[0] for pair in pairs])
    return {
        "params": begin["params_N"][at],
        "tokens": begin["tokens_D"][at],
        "begin": begin["loss"][at],
        "end": end["loss"][[pair[1] for pair in pairs]],
    }


def test_cooldown_losses_of_larger_shapes_from_their_constant_rate_losses():
    data = cooldowns()
    big = data["params"] > 9e8
    small = {name: values[~big] for name, values in data.items()}
    fit = scaling.fit(small, "end = s*begin + m*tokens**(-b)", objective=scaling.Objective(), bootstrap=200)
    ahead = scaling.forecast(fit, {name: values[big] for name, values in data.items()})
    error = np.abs(ahead.value / data["end"][big] - 1)
    assert np.median(error) < 1e-3
    plain = scaling.fit(small, "end = E + A/params**a + B/tokens**b", objective=scaling.Objective(), bootstrap=0)
    other = np.abs(scaling.forecast(plain, {name: values[big] for name, values in data.items()}).value / data["end"][big] - 1)
    assert np.median(other) > 5e-3  # without the constant-rate loss: far worse


def test_pythia_perplexity_of_a_larger_model():
    table = read("pythia/lambada.csv")
    columns = {"params": table["params_total"], "loss": np.log(table["value"])}
    small = columns["params"] < 4e9
    fit = scaling.fit({name: values[small] for name, values in columns.items()}, "power", bootstrap=300)
    ahead = scaling.forecast(fit, {"params": columns["params"][~small]})
    assert np.all(np.abs(np.exp(ahead.value) / table["value"][~small] - 1) < 0.06)
    assert np.all((ahead.low <= columns["loss"][~small]) & (columns["loss"][~small] <= ahead.high))
