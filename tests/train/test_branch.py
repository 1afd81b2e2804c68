"""A cooldown branched off a stable run is the uninterrupted run to the bit; averaged weights are their average and do not touch training."""

import doctest
import json

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import scalebound.train.average
from scalebound.cli import main
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats
from scalebound.models import load_model
from scalebound.train import branch_run, cooldown_recipe, derive_recipe, train_run
from scalebound.train.branch import find_trunk
from scalebound.train.recipe import load_recipe

RECIPE = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 40, batch_sequences=4, warmup=0.1, average=0.9)
TRUNK = msgspec.structs.replace(RECIPE, schedule="constant", checkpoints=(0.5, 0.8))


@pytest.fixture(scope="module")
def trunk(stream, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trunk") / "run"
    train_run(TRUNK, stream.path, folder)
    return folder


@pytest.mark.parametrize("schedule", ["wsd", "wsd-sqrt"])
def test_a_branch_is_the_uninterrupted_run(stream, trunk, tmp_path, schedule):
    checkpoint = trunk / "checkpoints" / "step-20"
    recipe = cooldown_recipe(TRUNK, 20, share=0.2, schedule=schedule)
    assert recipe.steps == 25 and recipe.decay == 0.2
    branched = branch_run(checkpoint, recipe, stream.path, tmp_path / "branch")
    whole = train_run(recipe, stream.path, tmp_path / "whole")
    assert branched.model_sha256 == whole.model_sha256 != train_run(TRUNK, stream.path, trunk).model_sha256
    np.testing.assert_array_equal(*(Stats.load(tmp_path / name / "online.safetensors").read("nll") for name in ("branch", "whole")))
    seen = [[{k: v for k, v in json.loads(line).items()} for line in (tmp_path / name / "log.jsonl").read_text().splitlines()] for name in ("branch", "whole")]
    assert seen[0] == seen[1] and len(seen[0]) == 25
    assert (tmp_path / "branch" / "averaged" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "averaged" / "model.safetensors").read_bytes()
    assert branch_run(checkpoint, recipe, stream.path, tmp_path / "branch") == branched  # finished: as it is
    assert json.loads((tmp_path / "branch" / "branch.json").read_text())["step"] == 20


def test_an_interrupted_branch_goes_on(stream, trunk, tmp_path):
    recipe = cooldown_recipe(TRUNK, 32, share=0.2)

    def kill(done, total):
        if done > 0.9 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        branch_run(trunk, recipe, stream.path, tmp_path / "b", progress=kill)
    assert branch_run(trunk, recipe, stream.path, tmp_path / "b").model_sha256 == train_run(recipe, stream.path, tmp_path / "whole").model_sha256


def test_what_is_no_branch_is_refused(stream, trunk, tmp_path):
    good = cooldown_recipe(TRUNK, 20, share=0.2)
    for keys, what in (({"clip": 0.5}, "clip = 0.5"), ({"decay": 0.9}, "another rate than its trunk at step"), ({"warmup": 0.3}, "another rate"), ({"tokens": 32 * 4 * 20}, "another rate|ends at step")):
        with pytest.raises(InputError, match=what):
            branch_run(trunk / "checkpoints" / "step-20", msgspec.structs.replace(good, **keys), stream.path, tmp_path / "x")
    with pytest.raises(InputError, match="no run"):
        find_trunk(tmp_path / "nothing")
    with pytest.raises(InputError, match="no checkpoint to go on from"):
        find_trunk(trunk / "checkpoints" / "step-40")  # the last one, without state
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        branch_run(trunk / "checkpoints" / "step-20", good, stream.path, tmp_path / "full")
    for share, schedule in ((0.0, "wsd"), (1.0, "wsd"), (0.2, "cosine")):
        with pytest.raises(UsageError):
            cooldown_recipe(TRUNK, 20, share=share, schedule=schedule)


def test_the_command(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(1500)))
    (tmp_path / "r.toml").write_text('schedule = "constant"\ncheckpoints = [0.8]\nwarmup = 0.1\n')
    args = ["train", "--text", str(tmp_path / "t.txt"), "--context", "32", "--tokens-per-param", "0.5", "--sizes", "15k", "--json"]
    assert main([*args, "--recipe", str(tmp_path / "r.toml"), "--out", str(tmp_path / "trunk")]) == 0
    assert main(["train", "--cooldown-from", str(tmp_path / "trunk"), "--out", str(tmp_path / "cool"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    trunk, cool = (load_recipe(tmp_path / name / "recipe.toml") for name in ("trunk", "cool"))
    assert record["step"] == round(0.8 * trunk.steps) and abs(cool.steps - trunk.steps) <= 1 and cool.schedule == "wsd" and cool.decay == pytest.approx(0.2, abs=0.02)
    (tmp_path / "bad.toml").write_text("clip = 0.5\n")
    assert main(["train", "--cooldown-from", str(tmp_path / "trunk"), "--recipe", str(tmp_path / "bad.toml"), "--out", str(tmp_path / "y")]) == 2
    assert main(["train", "--cooldown-from", str(tmp_path / "trunk"), "--sizes", "15k", "--out", str(tmp_path / "y")]) == 2
    assert main(["train", "--cooldown-from", str(tmp_path), "--out", str(tmp_path / "y")]) == 3 and not (tmp_path / "y").exists()


def test_the_average_is_that_of_the_steps(stream, trunk, tmp_path):
    """Against a run whose every checkpoint is kept; and a resumed run has the same."""
    assert doctest.testmod(scalebound.train.average).failed == 0
    plain = msgspec.structs.replace(RECIPE, average=0.0)
    kept = msgspec.structs.replace(RECIPE, checkpoints=tuple(k / 40 for k in range(1, 41)))
    info = train_run(kept, stream.path, tmp_path / "kept")
    assert info.model_sha256 == train_run(plain, stream.path, tmp_path / "plain").model_sha256 and not (tmp_path / "plain" / "averaged").exists()
    steps = [load_file(tmp_path / "kept" / "checkpoints" / f"step-{k}" / "model.safetensors") for k in range(1, 41)]
    averaged = load_file(tmp_path / "kept" / "averaged" / "model.safetensors")
    for name, found in averaged.items():
        total, weight = torch.zeros_like(found, dtype=torch.float64), 0.0
        for tensors in steps:
            total, weight = 0.9 * total + 0.1 * tensors[name].double(), 0.9 * weight + 0.1
        torch.testing.assert_close(found.double(), total / weight, atol=1e-6, rtol=1e-5)
    assert load_model(tmp_path / "kept" / "averaged").sha256 != info.model_sha256

    def kill(done, total):
        if done > 0.6 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(RECIPE, stream.path, tmp_path / "broken", checkpoint_s=0.0, progress=kill)
    train_run(RECIPE, stream.path, tmp_path / "broken")
    assert (tmp_path / "broken" / "averaged" / "model.safetensors").read_bytes() == (tmp_path / "kept" / "averaged" / "model.safetensors").read_bytes()
