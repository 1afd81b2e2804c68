"""``train --mix``: losses per source, the gain of raising a source at the end against the flat mixture, refusals."""

import json

import numpy as np
import pytest

from scalebound.cli import main
from scalebound.cli.train_mix import paired_gain

MIX = """[sources]
code = "code.txt"
numbers = "numbers.txt"
[[phase]]
until = 0.8
weights = {code = 0.9, numbers = 0.1}
[[phase]]
weights = {numbers = 1.0}
"""


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "code.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(2500)))
    (tmp_path / "numbers.txt").write_text("".join(f"{k * k % 97} {k * 7 % 89} ;;\n" for k in range(3000)))
    (tmp_path / "mix.toml").write_text(MIX)
    (tmp_path / "r.toml").write_text('schedule = "constant"\n')
    return tmp_path


def test_late_weight_helps_the_late_source(texts, capsys):
    args = ["train", "--mix", str(texts / "mix.toml"), "--against-flat", "--sizes", "15k", "--tokens-per-param", "1", "--recipe", str(texts / "r.toml"), "--context", "32", "--workers", "1", "--out", str(texts / "out"), "--json"]
    assert main(args) == 0
    record = json.loads(capsys.readouterr().out)
    code, numbers = record["sources"]
    assert code["last_tenth_share"] == 0.0 and numbers["share"] == pytest.approx(0.28, abs=0.01)
    assert numbers["gain"]["low"] > 0 > code["gain"]["high"]  # at a constant rate what was met last is known best, and the other is forgotten
    assert record["unique_tokens"] == record["tokens"] and code["epochs"] == 1.0
    assert main(args) == 0 and json.loads(capsys.readouterr().out) == record  # resumed: the same


def test_gain_against_a_reference():
    rng = np.random.default_rng(0)
    before = rng.normal(2, 1, 6400)
    found = paired_gain(before, before - 0.1 + 0.01 * rng.normal(size=6400), 64)
    assert found["low"] < 0.1 < found["high"] and found["high"] - found["low"] < 0.01
    same = paired_gain(before, before, 64)
    assert same["value"] == same["low"] == same["high"] == 0


@pytest.mark.parametrize("change, what", [
    (("[sources]", "[source]"), "unknown key 'source'"), (("numbers = 1.0", "number = 1.0"), "'number'"), (("until = 0.8", "until = 1.8"), "rising shares"), (("weights = {code = 0.9, numbers = 0.1}", ""), "no phases"),
    (("until = 0.8", "until = 'x'"), "no number"), (("[sources]", "max_epochs = 0\n[sources]"), "max_epochs"), (("[sources]", "[sources"), "not valid TOML"), (('"code.txt"', '"nothing.txt"'), "no such file"),
])  # fmt: skip
def test_bad_mixtures_are_refused(texts, capsys, change, what):
    (texts / "mix.toml").write_text(MIX.replace(*change, 1))
    assert main(["train", "--mix", str(texts / "mix.toml"), "--sizes", "15k", "--context", "32", "--out", str(texts / "out")]) == 3
    assert what in capsys.readouterr().err


def test_bad_usage(texts):
    for wrong in (["--sizes", "15k,20k"], ["--sizes", "15k", "--text", "x"], ["--sizes", "15k", "--dry-run"]):
        assert main(["train", "--mix", str(texts / "mix.toml"), "--out", str(texts / "x"), *wrong]) == 2
    assert main(["train", "--sizes", "15k", "--against-flat", "--out", str(texts / "x")]) == 2
