"""A ladder on a Ray cluster of this machine: the files of one process, also when a rung's worker is killed; progress; refusals."""

import importlib.util
import os
import signal
import threading
import time

import msgspec
import pytest

from scalebound.cli import main
from scalebound.core.errors import MissingExtra, UsageError
from scalebound.train import derive_recipe, train_ladder, train_run
from scalebound.train.record import losses_so_far

there = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'scalebound[ray]'")
RECIPES = [msgspec.structs.replace(derive_recipe(size, context=32), tokens=32 * 4 * 60, batch_sequences=4, warmup=0.1) for size in (15_000, 24_000)]
FILES = ("online.safetensors", "log.jsonl", "trajectory.jsonl", "recipe.toml", "checkpoints/step-60/model.safetensors")


def test_without_ray_the_extra_is_named(stream, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ray" else find(name, *a))
    with pytest.raises(MissingExtra, match="'ray' is not installed") as error:
        train_ladder([(RECIPES[0], stream.path, tmp_path / "run")], ray_address="auto", fresh=True)
    assert error.value.status == 4 and "scalebound[ray]" in error.value.hint and not list(tmp_path.iterdir())


def test_what_contradicts_a_cluster_is_refused(stream, tmp_path, capsys):
    with pytest.raises(UsageError, match="--ray-address with --workers"):
        train_ladder([(RECIPES[0], stream.path, tmp_path / "run")], ray_address="local", workers=2)
    assert main(["train", "--sizes", "15k", "--shard", "--text", __file__, "--context", "32", "--tokens-per-param", "0.01", "--out", str(tmp_path / "run")]) == 2
    assert "--shard with one process" in capsys.readouterr().err


@there
@pytest.mark.filterwarnings("ignore")
def test_the_files_are_those_of_one_process(stream, tmp_path):
    """The longest first, each rung from its checkpoint: one was begun and given up before."""
    right = [train_run(recipe, stream.path, tmp_path / "one" / str(recipe.params)) for recipe in RECIPES]

    def give_up(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(RECIPES[1], stream.path, tmp_path / "ray" / str(RECIPES[1].params), checkpoint_s=0.0, progress=give_up)
    seen = []
    found = train_ladder([(r, stream.path, tmp_path / "ray" / str(r.params)) for r in RECIPES], ray_address="local", progress=lambda done, total: seen.append((done, total)))
    assert [info.model_sha256 for info in found] == [info.model_sha256 for info in right]
    for recipe in RECIPES:
        for name in FILES:
            assert (tmp_path / "ray" / str(recipe.params) / name).read_bytes() == (tmp_path / "one" / str(recipe.params) / name).read_bytes()
    whole = sum(recipe.tokens for recipe in RECIPES)
    assert seen[-1] == (whole, whole) and found[1].train_s == 0.0  # it went on, it did not start over


@there
@pytest.mark.filterwarnings("ignore")
def test_a_rung_whose_worker_is_killed_goes_on(stream, tmp_path):
    recipe = msgspec.structs.replace(RECIPES[0], tokens=32 * 4 * 450, on_divergence="backoff")  # a checkpoint at every 20th of the run
    right, out, killed = train_run(recipe, stream.path, tmp_path / "one" / "run"), tmp_path / "ray" / "run", []

    def kill():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed and not (out / "run.json").exists():
            if losses_so_far(out) > recipe.tokens / 3:
                for number in filter(str.isdecimal, os.listdir("/proc")):  # Ray names a worker after the function it runs
                    try:
                        with open(f"/proc/{number}/cmdline", "rb") as file:
                            name = file.read()
                        if name.startswith(b"ray::_rung") and str(os.getpid()).encode() in _ancestors(int(number)):
                            os.kill(int(number), signal.SIGKILL)
                            killed.append(losses_so_far(out))
                    except OSError:
                        continue
            time.sleep(0.002)

    thread = threading.Thread(target=kill)
    thread.start()
    [info] = train_ladder([(recipe, stream.path, out)], ray_address="local")
    thread.join()
    assert killed and killed[0] < recipe.tokens
    assert info.model_sha256 == right.model_sha256 and info.train_s == 0.0 < right.train_s
    for name in ("online.safetensors", "log.jsonl", "trajectory.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "one" / "run" / name).read_bytes()


def _ancestors(number: int) -> list[bytes]:
    """Processes above one, as decimal bytes: only workers of this test's own cluster may be killed."""
    found = []
    while number > 1:
        with open(f"/proc/{number}/stat", "rb") as file:
            number = int(file.read().rsplit(b")", 1)[1].split()[1])
        found.append(str(number).encode())
    return found
