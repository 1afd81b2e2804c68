"""Reading tables, and every kind of bad input: a message that names the place, and status 3."""

import json

import numpy as np
import pytest

from scalebound import scaling
from scalebound.cli import main
from scalebound.core.errors import InputError, UsageError
from scalebound.scaling.table import to_csv, to_jsonl

N = np.tile(np.geomspace(1e7, 1e9, 4), 3)
D = np.repeat([1e9, 5e9, 3e10], 4)
L = 1.7 + 400 / N**0.34 + 2000 / D**0.36
COLUMNS = {"params": N, "tokens": D, "loss": L}


def write(tmp_path, columns=None, name="runs.csv"):
    path = tmp_path / name
    path.write_bytes(to_csv(COLUMNS if columns is None else columns))
    return path


def test_three_formats_give_the_same_numbers(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    csv = write(tmp_path)
    jsonl = tmp_path / "runs.jsonl"
    jsonl.write_bytes(to_jsonl({name: values.tolist() for name, values in COLUMNS.items()}))
    parquet.write_table(pyarrow.table(COLUMNS), tmp_path / "runs.parquet")
    for path in (csv, jsonl, tmp_path / "runs.parquet"):
        table = scaling.read_table(path)
        assert all(np.array_equal(table[name], values) for name, values in COLUMNS.items())


def test_renames_filters_guesses_are_noted(tmp_path):
    path = write(tmp_path, {"N": N, "D": D, "val_loss": L, "set": ["a"] * 6 + ["b"] * 6})
    found = scaling.fit(path, "power:params", where="set=a,N>1e7", bootstrap=0)
    assert found.n == 4 and found.data.columns == {"params": "N", "target": "val_loss"}
    assert any("4 of 12 rows" in note for note in found.notes) and any("params=N" in note for note in found.notes)
    either = scaling.read_table(path, where="set=a|b")
    assert len(either) == 12


def test_flops_and_tokens_are_derived(tmp_path):
    found = scaling.fit({"params": N, "tokens": D, "loss": L}, "power:flops", bootstrap=0)
    assert found.data.columns["flops"] == "6 * params * tokens"
    found = scaling.fit({"params": N, "flops": 6 * N * D, "loss": L}, "chinchilla", bootstrap=0)
    assert found.data.columns["tokens"] == "flops / (6 * params)" and found.params["E"] == pytest.approx(1.7, rel=1e-6)


def bad(change):
    columns = {name: values.copy() for name, values in COLUMNS.items()}
    change(columns)
    return columns


BAD = {
    "missing column": (bad(lambda c: c.pop("tokens")), "no column 'tokens'", "--columns tokens="),
    "missing target": (bad(lambda c: c.update(eval_nats_loss=c.pop("loss"))), "no column 'loss'", "eval_nats_loss"),
    "negative size": (bad(lambda c: c["params"].__setitem__(3, -1.0)), "row 4", "--drop-bad"),
    "nan": (bad(lambda c: c["loss"].__setitem__(5, np.nan)), "row 6", "--drop-bad"),
    "too few rows": ({name: values[::4] * (1 + np.arange(3)) for name, values in COLUMNS.items()}, "cannot determine", "fewer parameters"),
    "all sizes equal": (bad(lambda c: c["params"].fill(1e8)), "every row has params", ""),
    "duplicated rows": (
        {name: np.concatenate([values, values[:2]]) for name, values in COLUMNS.items()},
        "repeats an earlier row",
        "--drop-bad",
    ),
    "bits": (bad(lambda c: c.update(loss_bits=c.pop("loss") / np.log(2))), "no column 'loss'", "loss_bits"),
    "billions": (bad(lambda c: c["params"].__itruediv__(1e9)), "largest params is 1", "multiply"),
    "units mixed": (bad(lambda c: c["tokens"].__setitem__(slice(0, 6), c["tokens"][:6] / 1e9)), "units seem to be mixed", ""),
    "all in millions": (bad(lambda c: c["params"].__itruediv__(1e6)), "params runs from 10 to 1000", "multiply"),
    "a word": (bad(lambda c: c.update(tokens=["1e9"] * 6 + ["7B"] * 6)), "row 7", "7e9"),
    "perplexities": (bad(lambda c: c.update(loss=np.exp(c["loss"] + 1))), "guessing", "logarithm"),
    "nothing to explain": (bad(lambda c: c["loss"].fill(2.5)), "every row has loss = 2.5", ""),
    "flops in another unit": (bad(lambda c: c.update(flops=6e-15 * c["params"] * c["tokens"])), "flops are 1e-15 times", ""),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables(case, tmp_path, capsys):
    columns, what, hint = BAD[case]
    path = write(tmp_path, columns)
    assert main(["fit", str(path), "--law", "chinchilla", "--json"]) == 3
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert what in record["error"]["what"] + record["error"]["where"]
    assert hint in record["error"]["hint"]
    assert "Traceback" not in printed.err and str(path) in record["error"]["where"]


def test_a_loss_named_bits_is_refused_when_it_would_be_the_loss(tmp_path):
    with pytest.raises(InputError, match="in bits"):
        scaling.fit(write(tmp_path, bad(lambda c: c.update(loss_bits=c.pop("loss")))), "chinchilla", columns="loss=loss_bits")
    # asked for by its own name it is what it is
    assert (
        scaling.fit(write(tmp_path, bad(lambda c: c.update(loss_bits=c.pop("loss")))), "chinchilla", target="loss_bits", bootstrap=0).target
        == "loss_bits"
    )


def test_drop_bad_says_what_went(tmp_path):
    columns = bad(lambda c: c["loss"].__setitem__(5, np.nan))
    found = scaling.fit(write(tmp_path, columns), "power", drop_bad=True, bootstrap=0)
    assert found.n == 11 and any("1 of 12 rows left out: loss is not a number" in note for note in found.notes)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty"),
        (b"params,loss\n", "no rows"),
        (b"params,loss\n1,2,3\n", "row 1"),
        (b"params,params\n1,2\n", "stands twice"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b'params,loss\n"1,2\n', "row 1"),
    ],
)
def test_broken_csv(content, message, tmp_path, capsys):
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    assert main(["fit", str(path)]) == 3
    assert message in capsys.readouterr().err


def test_other_files(tmp_path, capsys):
    for name, content in {"x.jsonl": b'{"a": 1}\n[2]\n', "x.json": b'{"a": NaN}', "x.xlsx": b"PK", "x.parquet": b"PAR1 no"}.items():
        (tmp_path / name).write_bytes(content)
        assert main(["fit", str(tmp_path / name)]) == 3
        assert "Traceback" not in capsys.readouterr().err
    assert main(["fit", str(tmp_path / "absent.csv")]) == 3


def test_bad_usage(tmp_path, capsys):
    path = str(write(tmp_path))
    for arguments in (
        ["--law", "nonsense"],
        ["--level", "1.5"],
        ["--huber", "-1"],
        ["--squares", "--absolute"],
        ["--bootstrap", "-1"],
        ["--where", "params"],
        ["--columns", "a"],
    ):
        assert main(["fit", path, *arguments]) == 2, arguments
        assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(UsageError):
        scaling.get_law("chinchilla:tokens")


def test_weights_and_groups(tmp_path):
    run = np.repeat(np.arange(6), 2).astype(float)
    columns = {**COLUMNS, "w": np.where(np.arange(12) < 11, 1.0, 0.0), "run": run}
    columns["loss"] = columns["loss"].copy()
    columns["loss"][11] = 9.0  # an outlier of weight zero changes nothing
    found = scaling.fit(columns, "power", weights="w", bootstrap=50, group="run")
    without = scaling.fit({name: values[:11] for name, values in columns.items()}, "power", bootstrap=0)
    assert np.allclose(found.vector, without.vector, rtol=1e-6)
    assert found.bootstrap.method == "groups" and found.data.groups == 6
    with pytest.raises(InputError, match="negative"):
        scaling.fit({**COLUMNS, "w": -np.ones(12)}, "power", weights="w")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {**t, "loss": t["loss"] / np.log(2), "perplexity": np.exp(t["loss"])}, "the column is in bits"),
        (lambda t: {**t, "loss": np.where(np.arange(8) < 3, 1 / np.log(2), 1) * t["loss"], "ppl": np.exp(t["loss"])}, "units are mixed"),
        (lambda t: {**t, "loss": 2 * t["loss"], "vocab_size": np.full(8, 256.0)}, "above that of guessing"),
        (lambda t: {**t, "loss": np.where(np.arange(8) == 2, np.exp(3 + t["loss"]), t["loss"])}, "units seem to be mixed"),
    ],
)
def test_losses_in_other_units_are_told_by_their_values(change, words, tmp_path, capsys):

    n = np.geomspace(1e6, 1e9, 8)
    good = {"params": n, "loss": 1.7 + 100 * n**-0.3}
    path = tmp_path / "t.csv"
    path.write_bytes(to_csv({**good, "perplexity": np.exp(good["loss"]), "vocab_size": np.full(8, 256.0)}))
    assert main(["fit", str(path), "--law", "power", "--bootstrap", "0"]) == 0
    path.write_bytes(to_csv(change(good)))
    assert main(["fit", str(path), "--law", "power", "--bootstrap", "0"]) == 3
    assert words in capsys.readouterr().err


def test_sizes_in_millions_are_told_by_tokens_per_parameter():
    n = np.geomspace(125, 13_000, 12)
    with pytest.raises(InputError, match="params seem to be in"):
        scaling.fit({"params": n, "tokens": n * 2e7, "loss": 1.7 + 3 * n**-0.3}, "overtraining", bootstrap=0)


@pytest.mark.parametrize("which", ["every tenth", "half", "nine of ten", "the large ones"])
def test_bits_among_nats_are_told_by_the_law_itself(which, tmp_path, capsys):
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e9, 1e12, 6)))
    rng = np.random.default_rng(0)
    loss = (1.8 + 480 / n**0.35 + 2100 / d**0.37) * np.exp(0.003 * rng.standard_normal(48))
    share = {"every tenth": 0.1, "half": 0.5, "nine of ten": 0.9}.get(which)
    odd = n > 5e8 if share is None else rng.random(48) < share
    path = tmp_path / "t.csv"
    path.write_bytes(to_csv({"params": n, "tokens": d, "loss": np.where(odd, loss / np.log(2), loss)}))
    assert main(["fit", str(path), "--bootstrap", "0"]) == 3
    message = capsys.readouterr().err
    assert f"{odd.sum()} of 48" in message and f"rows {1 + int(np.flatnonzero(odd)[0])}," in message
    assert main(["fit", str(path), "--bootstrap", "0", "--target", "loss"]) == 0  # asked for by name: fitted as it is


def test_scatter_that_is_not_another_unit_passes():
    """The control: noise of the same size, two runs that diverged, or a factor of 1.6 are left to the fit and its warnings."""
    n = np.geomspace(1e6, 1e10, 40)
    rng = np.random.default_rng(0)
    loss = 1.7 + 400 * n**-0.35
    diverged = loss * np.where(np.isin(np.arange(40), (5, 30)), [1.2] * 20 + [1.9] * 20, 1.0)
    for y in (loss * np.exp(0.15 * rng.standard_normal(40)), diverged, loss * np.where(np.arange(40) % 4 == 0, 1.6, 1.0)):
        assert scaling.fit({"params": n, "loss": y}, "power", bootstrap=0).n == 40


def test_a_column_of_units_is_read(tmp_path, capsys):
    path = tmp_path / "t.csv"
    for units, words in ((["bits"] * 12, "'bits'"), (["nats"] * 9 + ["bits"] * 3, "units are mixed")):
        path.write_bytes(to_csv({**COLUMNS, "loss_unit": units}))
        assert main(["fit", str(path), "--bootstrap", "0"]) == 3
        assert words in capsys.readouterr().err
    path.write_bytes(to_csv({**COLUMNS, "loss_unit": ["nats/token"] * 12}))
    assert main(["fit", str(path), "--bootstrap", "0"]) == 0
