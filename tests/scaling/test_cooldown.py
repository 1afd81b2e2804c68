"""Cooldowns: beginnings and ends joined, fitted, forecast for larger shapes, and at the end of a chain, each in one command."""

import json
from pathlib import Path

import numpy as np
import pytest

from scalebound import scaling
from scalebound.cli import main
from scalebound.core.errors import InputError
from scalebound.scaling.table import from_columns, select, to_csv

LOG = Path(__file__).parents[2] / "examples" / "data" / "gemstones" / "train_losses.csv"
JOIN = {"begin": "set=cool_begin", "end": "set=cool_end", "group": "run_name"}
FLAGS = ["--group", "run_name", "--begin", "set=cool_begin", "--end", "set=cool_end"]


def test_join_finds_the_share_and_pairs_within_runs():
    table = scaling.read_table(LOG)
    joined = scaling.cooldowns(table, **JOIN)
    assert len(joined) == 170 and any("0.0999 of the tokens" in note or "0.1 of the tokens" in note for note in joined.notes)
    # the readable reference: a loop over all pairs
    begin, end = select(table, where=JOIN["begin"]), select(table, where=JOIN["end"])
    expected = set()
    for k in range(len(end)):
        for j in range(len(begin)):
            ratio = end["tokens_D"][k] / begin["tokens_D"][j]
            if end["run_name"][k] == begin["run_name"][j] and abs(ratio - 1.1) < 0.01:
                expected.add((begin["run_name"][j], begin["tokens_D"][j], begin["loss"][j], end["loss"][k]))
    assert set(zip(joined["run_name"], joined["tokens_D"], joined["loss"], joined["cooldown_loss"], strict=True)) == expected
    assert len(scaling.cooldowns(table, **JOIN, share=0.1)) == 170
    with pytest.raises(InputError, match="continues"):
        scaling.cooldowns(table, **JOIN, share=0.5)
    with pytest.raises(InputError, match="group"):
        scaling.cooldowns(table, begin=JOIN["begin"], end=JOIN["end"], group="nothing")


def test_larger_shapes_in_one_command_each(tmp_path, capsys):
    """Shapes below 9e8 predict the cooldowns of the larger ones from their constant-rate losses."""
    table = select(scaling.read_table(LOG), where="set=cool_begin|cool_end")
    big = scaling.cooldowns(select(table, where="params_N>9e8"), **JOIN)
    law = str(tmp_path / "cooldown.json")
    assert main(["fit", str(LOG), "--law", "cooldown", *FLAGS, "--where", "params_N<9e8", "--out", law, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["optimum"]["established"]
    assert main(["forecast", law, str(LOG), "--where", "set=cool_begin,params_N>9e8", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    truth = {(loss, tokens): end for loss, tokens, end in zip(big["loss"], big["tokens_D"], big["cooldown_loss"], strict=True)}
    scored = [(row, truth[row["loss"], row["tokens"]]) for row in rows if (row["loss"], row["tokens"]) in truth]
    error = [abs(row["value"] / end - 1) for row, end in scored]
    assert len(scored) == len(big) == 30 and np.median(error) < 1e-3
    assert np.mean([row["low"] <= end <= row["high"] for row, end in scored]) >= 0.9
    assert main(["backtest", str(LOG), "--law", "cooldown", *FLAGS, "--bootstrap", "50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_abs_relative_error"] < 0.003


def test_chain_from_sizes_to_cooldown_reads_the_tokens_twice():
    """Planted: chinchilla at constant rate, then a cooldown; the chain meets the truth and its interval holds both steps."""
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 8), np.geomspace(1e9, 3e10, 6)))
    ask = {"params": [3e9], "tokens": [1e11]}
    truth = 0.95 * (1.8 + 480 / 3e9**0.35 + 2100 / 1e11**0.37) + 100 * 1e11**-0.35
    inside = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        hot = (1.8 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(0.002 * rng.standard_normal(len(N)))
        cold = (0.95 * hot + 100 * D**-0.35) * np.exp(0.001 * rng.standard_normal(len(N)))
        first = scaling.fit({"params": N, "tokens": D, "val_loss": hot}, "chinchilla", bootstrap=100)
        second = scaling.fit({"loss": hot, "tokens": D, "cooldown_loss": cold}, "cooldown", bootstrap=100)
        alone, chain = scaling.forecast(first, ask), scaling.forecast(first, ask, then=[second])
        assert chain.target == "cooldown_loss" and abs(chain.value[0] / truth - 1) < 0.01
        assert chain.decades_beyond[0] == pytest.approx(max(alone.decades_beyond[0], np.log10(1e11 / 3e10)))
        known = scaling.forecast(second, {"loss": alone.value, "tokens": [1e11]})
        assert chain.high[0] - chain.low[0] > 1.2 * (known.high[0] - known.low[0])
        inside += bool(chain.low[0] < truth < chain.high[0])
    assert inside >= 7


def test_a_chain_hands_on_the_widening_of_its_first_step():
    import msgspec

    N = np.geomspace(1e6, 1e9, 30)
    rng = np.random.default_rng(1)
    loss = (1.7 + 40 * N**-0.3) * np.exp(0.003 * rng.standard_normal(30))
    first = scaling.fit({"params": N, "loss": loss}, "power", bootstrap=300, widen=False)
    second = scaling.fit({"loss": loss, "error": 0.85 - 2.2 * np.exp(-0.75 * loss)}, "exponential-error", bootstrap=300, widen=False)
    wide = msgspec.structs.replace(first, widening=3.0)
    plain, widened = (scaling.forecast(one, {"params": [1e10]}, then=[second]) for one in (first, wide))
    ratio = (widened.high[0] - widened.low[0]) / (plain.high[0] - plain.low[0])
    assert 2.7 < ratio < 3.3 and widened.value[0] == plain.value[0]


def test_wrong_use(tmp_path, capsys):
    for arguments, status in (
        (["--law", "chinchilla", *FLAGS], 2),
        (["--law", "cooldown", "--group", "run_name", "--begin", "set=cool_begin"], 2),
        (["--law", "cooldown", "--begin", "set=cool_begin", "--end", "set=cool_end"], 2),
        (
            [
                "--law",
                "cooldown",
                "--group",
                "run_name",
                "--begin",
                "set=cool_end",
                "--end",
                "set=cool_begin",
                "--where",
                "tokens_D<1.5e10",
            ],
            3,
        ),
        (["--law", "cooldown"], 3),  # no column cooldown_loss
    ):
        assert main(["fit", str(LOG), *arguments]) == status, arguments
        assert "Traceback" not in capsys.readouterr().err
    one = tmp_path / "one.csv"
    one.write_bytes(to_csv(from_columns({"loss": [3.0, 2.9], "tokens": [1e9, 2e9], "cooldown_loss": [2.9, 2.8]}).columns))
    assert main(["fit", str(one), "--law", "cooldown"]) == 3
