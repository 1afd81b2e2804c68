"""Two processes train the run that one trains: the same losses up to the order of additions, resumable by either."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.torch import load_file

from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats
from scalebound.models import load_model
from scalebound.train import derive_recipe, parallel, train_run
from scalebound.train.sharded import check_sharding

RECIPE = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 5 * 200, batch_sequences=5, warmup=0.1)  # 5 sequences: 3 and 2


def in_two_processes(*arguments):
    """The command under two processes, as ``torchrun --nproc-per-node 2`` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    started = [subprocess.Popen([sys.executable, *arguments], env=base | {"RANK": str(k), "LOCAL_RANK": str(k)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for k in range(2)]
    return [(process.returncode, *out) for process in started for out in [process.communicate(timeout=120)]]


def code_for(recipe, stream, out, **more):
    given = "".join(f", {key}={value!r}" for key, value in ({"checkpoint_s": 0.0} | more).items())
    return f"from scalebound.train.recipe import load_recipe; from scalebound.train import train_run; train_run(load_recipe({str(recipe)!r}), {str(stream)!r}, {str(out)!r}{given})"


def losses_in(run):
    return np.array([json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()])


@pytest.mark.parametrize("steps", [24, pytest.param(200, marks=pytest.mark.nightly)])
def test_two_processes_agree_with_one(stream, tmp_path, steps):
    recipe = msgspec.structs.replace(RECIPE, tokens=32 * 5 * steps, average=0.9, checkpoints=(0.5,))
    recipe.save(tmp_path / "r.toml")
    train_run(recipe, stream.path, tmp_path / "one")
    for code, _, err in in_two_processes("-c", code_for(tmp_path / "r.toml", stream.path, tmp_path / "two")):
        assert code == 0, err
    losses = [losses_in(tmp_path / name) for name in ("one", "two")]
    assert len(losses[1]) == steps and np.abs(losses[0] - losses[1]).max() < 1e-4
    online = [Stats.load(tmp_path / name / "online.safetensors").read("nll") for name in ("one", "two")]
    assert np.abs(online[0][:160] - online[1][:160]).max() < 1e-5 and np.abs(online[0] - online[1]).max() < 1e-2  # every token's loss, in stream order
    other = train_run(msgspec.structs.replace(recipe, seed=1), stream.path, tmp_path / "other")
    assert abs(other.train_loss - losses[0][-steps // 10 :].mean()) > 1e-4  # the tolerance tells runs apart


@pytest.mark.parametrize("steps", [16, pytest.param(200, marks=pytest.mark.nightly)])
def test_two_processes_with_half_of_the_weights_each_agree_with_one(stream, tmp_path, steps):
    """Two layers, three sequences a batch in two passes: the second process is short of one, and makes it up."""
    recipe = msgspec.structs.replace(derive_recipe(20_000, context=32, overrides={"depth": 2, "batch_sequences": 3, "accumulation": 2, "tokens": 32 * 3 * steps}), warmup=0.1, checkpoints=(0.5, 1.0))
    recipe.save(tmp_path / "r.toml")
    right = train_run(recipe, stream.path, tmp_path / "one")
    for code, _, err in in_two_processes("-c", code_for(tmp_path / "r.toml", stream.path, tmp_path / "two", shard=True, checkpoint_s=1e9)):
        assert code == 0, err
    assert np.abs(losses_in(tmp_path / "one") - losses_in(tmp_path / "two")).max() < 1e-4 and len(losses_in(tmp_path / "two")) == steps
    info = train_run(recipe, stream.path, tmp_path / "two")  # finished: what it wrote about itself
    assert info.sharded and info.processes == 2 and not right.sharded
    last = f"checkpoints/step-{steps}"
    for file in ("model.safetensors", "training.safetensors"):  # the files of one process: names, shapes, and numbers up to the order of additions
        one, two = (load_file(tmp_path / name / last / file) for name in ("one", "two"))
        assert {name: (t.shape, t.dtype) for name, t in one.items()} == {name: (t.shape, t.dtype) for name, t in two.items()}
        assert max((one[name] - two[name]).abs().max() for name in one) < 1e-2
    assert load_model(tmp_path / "two").sha256 == info.model_sha256
    # one process goes on from what two in shards have written, and two in shards from what one has
    for name, begun, finish in (("a", "two", {}), ("b", "one", {"shard": True})):
        shutil.copytree(tmp_path / begun / f"checkpoints/step-{steps // 2}", tmp_path / name / f"checkpoints/step-{steps // 2}")
        shutil.copy(tmp_path / "one" / "recipe.toml", tmp_path / name)
        shutil.copy(tmp_path / "one" / "stream.json", tmp_path / name)
        whole = (tmp_path / "one" / "log.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / name / "log.jsonl").write_text("".join(whole[: steps // 2]))
        (tmp_path / name / "online.part").write_bytes(Stats.load(tmp_path / "one" / "online.safetensors").read("nll")[: 96 * (steps // 2)].astype("<f4").tobytes())
        if finish:
            for code, _, err in in_two_processes("-c", code_for(tmp_path / "r.toml", stream.path, tmp_path / name, **finish)):
                assert code == 0, err
        else:
            train_run(recipe, stream.path, tmp_path / name)
        assert np.abs(losses_in(tmp_path / name) - losses_in(tmp_path / "one")).max() < 1e-4
        assert not np.array_equal(losses_in(tmp_path / name), losses_in(tmp_path / "one"))  # it was trained, not copied


def test_what_cannot_be_spread_is_refused(monkeypatch):
    recipe = derive_recipe(20_000, context=32)
    check_sharding(False, msgspec.structs.replace(recipe, optimizer="muon"))
    with pytest.raises(UsageError, match="--shard with one process"):
        check_sharding(True, recipe)
    monkeypatch.setattr(parallel, "size", lambda: 2)
    check_sharding(True, recipe)
    for key, value in (("optimizer", "muon"), ("average", 0.9), ("noise_scale", 5), ("compile", True)):
        with pytest.raises(InputError, match=f"{key} = .* with --shard"):
            check_sharding(True, msgspec.structs.replace(recipe, **{key: value}))


@pytest.mark.nightly
def test_two_processes_go_back_together(stream, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, tokens=32 * 5 * 160, warmup=0.5, schedule="constant", learning_rate=3.0, on_divergence="backoff")
    recipe.save(tmp_path / "r.toml")
    infos = {}
    for name, more in (("replicated", {}), ("sharded", {"shard": True})):
        for code, _, err in in_two_processes("-c", code_for(tmp_path / "r.toml", stream.path, tmp_path / name, **more)):
            assert code == 0, err
        infos[name] = train_run(recipe, stream.path, tmp_path / name)
        assert infos[name].back_offs and len(losses_in(tmp_path / name)) == 160


@pytest.mark.nightly
@pytest.mark.parametrize("more", [[], ["--shard"]])
def test_the_command_speaks_once(tmp_path, more):
    (tmp_path / "t.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(1500)))
    found = in_two_processes("-m", "scalebound", "train", "--sizes", "15k", "--tokens-per-param", "0.1", "--context", "32", "--text", str(tmp_path / "t.txt"), "--out", str(tmp_path / "run"), "--json", *more)
    assert [code for code, _, _ in found] == [0, 0], found
    assert json.loads(found[0][1])["rungs"][0]["train_loss"] > 0 and found[1][1] == ""


def test_alone_it_does_nothing():
    batch = np.arange(6).reshape(3, 2)
    assert parallel.size() == 1 and parallel.rank() == 0 and parallel.share(batch) is batch and parallel.join_losses(1.0, b"x") == (1.0, b"x")
