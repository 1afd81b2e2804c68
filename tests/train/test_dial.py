"""One dial: sizes from a budget, formulas in words, needs counted, the next rung's loss, a commented recipe that means what it says."""

import doctest
import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from scalebound.cli import main
from scalebound.cli.train import _predict
from scalebound.core.errors import UsageError
from scalebound.core.io import sha256_file
from scalebound.train import commented_recipe, derive_recipe, disk_of, formulas, memory_of
from scalebound.train.budget import AIM, largest_for_flops, largest_for_seconds, makespan, rung_sizes
from scalebound.train.explain import KEYS
from scalebound.train.recipe import Recipe


@pytest.mark.parametrize("module", ["budget", "explain"])
def test_examples(module):
    found = doctest.testmod(importlib.import_module(f"scalebound.train.{module}"))
    assert found.attempted and not found.failed


@pytest.mark.parametrize("rungs, workers", [(1, 1), (4, 1), (4, 2)])
def test_a_budget_is_spent(rungs, workers):
    def seconds(n):
        return 1e-9 * n**2 + 0.2

    found = rung_sizes(largest_for_seconds(600.0, seconds, rungs=rungs, workers=workers), rungs)
    assert makespan([seconds(n) for n in found], workers) == pytest.approx(AIM * 600, rel=0.05)
    flops = [6 * 20 * n**2 for n in rung_sizes(largest_for_flops(1e14, tokens_per_param=20, rungs=rungs), rungs)]
    assert sum(flops) == pytest.approx(1e14, rel=1e-3)
    with pytest.raises(UsageError, match="too few"):
        largest_for_seconds(0.1, seconds, rungs=rungs, workers=workers)
    with pytest.raises(UsageError, match="more than"):
        largest_for_seconds(600.0, lambda n: 1e-6, rungs=rungs, workers=workers)


def test_too_many_rungs_are_refused():
    with pytest.raises(UsageError, match="smallest of 5 rungs"):
        rung_sizes(100_000, 5)


def test_makespan_against_all_schedules():
    from itertools import product

    jobs = [5.0, 3.0, 3.0, 2.0, 2.0]
    best = min(max(sum(j for j, w in zip(jobs, who, strict=True) if w == k) for k in range(2)) for who in product(range(2), repeat=5))
    assert best <= makespan(jobs, 2) <= 7 / 6 * best  # Graham's bound for longest first on two machines


def test_memory_counts_what_it_should():
    one, two = (memory_of(derive_recipe(60_000, overrides={"batch_sequences": b})) for b in (4, 8))
    assert two.activations == pytest.approx(2 * one.activations, rel=1e-6) and one.weights == two.weights == 16 * derive_recipe(60_000).params
    assert memory_of(derive_recipe(60_000, overrides={"batch_sequences": 8, "accumulation": 2})).activations == one.activations
    assert memory_of(derive_recipe(60_000, overrides={"optimizer": "lion"})).weights == 12 * derive_recipe(60_000).params
    plain = derive_recipe(60_000)
    assert disk_of([msgspec.structs.replace(plain, checkpoints=(0.5,))], plain.tokens) - disk_of([plain], plain.tokens) == 12 * plain.params


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc: run it on Linux")
def test_memory_is_what_a_process_takes():
    """The estimate against the peak of a process that trains, within a quarter."""
    code = (
        "import numpy as np, torch; from scalebound.train import derive_recipe; from scalebound.train.passes import backward\n"
        "from scalebound.train.parametrization import build\n"
        "torch.set_num_threads(1); r = derive_recipe(200_000, overrides={'batch_sequences': 16}); model, optimizer = build(r, torch.Generator().manual_seed(0))\n"
        "for _ in range(2): backward(model, np.zeros((16, 256), dtype=np.int64), 255, 1, precision=r.precision); optimizer.step(); optimizer.zero_grad(set_to_none=True)\n"
        "print(1024 * int(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))))"  # ru_maxrss would count the parent
    )
    measured = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert memory_of(derive_recipe(200_000, overrides={"batch_sequences": 16})).total == pytest.approx(measured, rel=0.25)


def test_the_commented_recipe_says_every_key_and_means_it(tmp_path, capsys):
    assert set(KEYS) == set(Recipe.__struct_fields__)
    recipe = derive_recipe(150_000)
    text = commented_recipe(recipe)
    assert tomllib.loads(text) == {}
    bare = tomllib.loads("\n".join(line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in text.splitlines()))
    assert derive_recipe(60_000, overrides=bare) == recipe  # every line uncommented: that recipe, whatever size is asked for
    path = tmp_path / "r.toml"
    assert main(["config", "init", "--out", str(path), "--size", "150k", "--json"]) == 0
    assert path.read_text() == text and json.loads(capsys.readouterr().out)["params"] == recipe.params
    assert main(["config", "init", "--out", str(path)]) == 2 and "exists" in capsys.readouterr().err
    assert main(["train", "--recipe", str(path), "--sizes", "20k", "--dry-run", "--out", str(tmp_path / "x"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["disk_bytes"] > 0 and not (tmp_path / "x").exists()


def test_formulas_give_the_values():
    recipe = derive_recipe(150_000, overrides={"clip": 0.5, "batch_sequences": 16})
    rows = {row[0]: row[1:] for row in formulas([recipe], tokens_per_param=20, given=("batch_sequences",))}
    assert rows["batch_sequences"] == ["given", "16"] and rows["tokens"][1].endswith(f"= {recipe.tokens:,}")
    for key in ("width", "depth", "feed_forward"):
        assert rows[key][1] == f"{getattr(recipe, key):,}"


def test_the_next_rung_is_predicted_from_three():
    known = [(n, 20 * n, 1.2 + 80 * n**-0.4) for n in (20_000, 40_000, 80_000)]
    found = _predict(known, 160_000, 20 * 160_000)
    assert found is not None and found["value"] == pytest.approx(1.2 + 80 * 160_000**-0.4, rel=1e-4) and found["rungs"] == 3 and found["low"] is None
    noisy = [(n, t, loss * (1 + e)) for (n, t, loss), e in zip([(n, 20 * n, 1.2 + 80 * n**-0.4) for n in np.geomspace(1e4, 1e5, 8)], 0.003 * np.random.default_rng(0).normal(size=8), strict=True)]
    found = _predict(noisy, 160_000, 20 * 160_000)
    assert found["low"] < 1.2 + 80 * 160_000**-0.4 < found["high"]
    assert _predict(known[:2], 160_000, 20 * 160_000) is None and _predict(known, 160_000, 100 * 160_000) is None


def test_a_ladder_grows_and_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(9000)))
    args = ["--text", str(tmp_path / "t.txt"), "--context", "32", "--tokens-per-param", "0.5", "--out", str(tmp_path / "ladder"), "--workers", "1", "--json"]
    assert main(["train", "--sizes", "15k,18k,21k", *args]) == 0
    capsys.readouterr()
    before = sha256_file(tmp_path / "ladder" / "streams" / "train.json")
    assert main(["train", "--sizes", "24k", *args, "--dry-run"]) == 0
    entry = json.loads(capsys.readouterr().out)["rungs"][0]
    assert entry["predicted_loss"]["rungs"] == 3 and entry["memory_bytes"] > 3e8 and entry["estimated_s"] > 0
    assert main(["train", "--sizes", "15k,24k", *args]) == 0
    record = json.loads(capsys.readouterr().out)
    assert sha256_file(tmp_path / "ladder" / "streams" / "train.json") == before
    assert "streams/train-" in record["stream"] and len(list((tmp_path / "ladder").glob("*/run.json"))) == 4
    assert main(["train", "--sizes", "15k,20k", *args, "--seed", "1"]) == 3 and "another text, seed" in capsys.readouterr().err


def test_the_dial_on_the_command_line(tmp_path, capsys, monkeypatch):
    import scalebound.train

    monkeypatch.setattr(scalebound.train, "seconds_for", lambda recipe, **_: 1e-8 * recipe.params**2)
    args = ["--out", str(tmp_path / "x"), "--dry-run", "--json"]
    assert main(["train", "--time", "10min", "--rungs", "3", "--workers", "1", *args]) == 0
    rungs = json.loads(capsys.readouterr().out)["rungs"]
    assert sum(r["estimated_s"] for r in rungs) == pytest.approx(540, rel=0.1) and len(rungs) == 3
    assert main(["train", "--flops", "1e13", "--rungs", "2", *args]) == 0
    assert sum(r["flops"] for r in json.loads(capsys.readouterr().out)["rungs"]) == pytest.approx(1e13, rel=0.1)
    for wrong in (["--time", "10min", "--flops", "1e13"], ["--sizes", "20k", "--rungs", "2"], ["--time", "0s"], ["--time", "10min", "--rungs", "0"], []):
        assert main(["train", *wrong, *args]) == 2
        capsys.readouterr()
