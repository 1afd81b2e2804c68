"""Two processes train the run that one trains: the same losses up to the order of additions, resumable by either."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from scalebound.core.stats import Stats
from scalebound.train import derive_recipe, parallel, train_run

RECIPE = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 5 * 200, batch_sequences=5, warmup=0.1)  # 5 sequences: 3 and 2


def in_two_processes(*arguments):
    """The command under two processes, as ``torchrun --nproc-per-node 2`` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    started = [subprocess.Popen([sys.executable, *arguments], env=base | {"RANK": str(k), "LOCAL_RANK": str(k)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for k in range(2)]
    return [(process.returncode, *out) for process in started for out in [process.communicate(timeout=120)]]


def code_for(recipe, stream, out):
    return f"from scalebound.train.recipe import load_recipe; from scalebound.train import train_run; train_run(load_recipe({str(recipe)!r}), {str(stream)!r}, {str(out)!r}, checkpoint_s=0.0)"


@pytest.mark.parametrize("steps", [24, pytest.param(200, marks=pytest.mark.nightly)])
def test_two_processes_agree_with_one(stream, tmp_path, steps):
    recipe = msgspec.structs.replace(RECIPE, tokens=32 * 5 * steps, average=0.9, checkpoints=(0.5,))
    recipe.save(tmp_path / "r.toml")
    train_run(recipe, stream.path, tmp_path / "one")
    for code, _, err in in_two_processes("-c", code_for(tmp_path / "r.toml", stream.path, tmp_path / "two")):
        assert code == 0, err
    losses = [np.array([json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]) for name in ("one", "two")]
    assert len(losses[1]) == steps and np.abs(losses[0] - losses[1]).max() < 1e-4
    online = [Stats.load(tmp_path / name / "online.safetensors").read("nll") for name in ("one", "two")]
    assert np.abs(online[0][:160] - online[1][:160]).max() < 1e-5 and np.abs(online[0] - online[1]).max() < 1e-2  # every token's loss, in stream order
    other = train_run(msgspec.structs.replace(recipe, seed=1), stream.path, tmp_path / "other")
    assert abs(other.train_loss - losses[0][-steps // 10 :].mean()) > 1e-4  # the tolerance tells runs apart


@pytest.mark.nightly
def test_the_command_speaks_once(tmp_path):
    (tmp_path / "t.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(1500)))
    found = in_two_processes("-m", "scalebound", "train", "--sizes", "15k", "--tokens-per-param", "0.1", "--context", "32", "--text", str(tmp_path / "t.txt"), "--out", str(tmp_path / "run"), "--json")
    assert [code for code, _, _ in found] == [0, 0], found
    assert json.loads(found[0][1])["rungs"][0]["train_loss"] > 0 and found[1][1] == ""


def test_alone_it_does_nothing():
    batch = np.arange(6).reshape(3, 2)
    assert parallel.size() == 1 and parallel.rank() == 0 and parallel.share(batch) is batch and parallel.join_losses(1.0, b"x") == (1.0, b"x")
