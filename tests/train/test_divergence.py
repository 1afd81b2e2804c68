"""A run that diverges is noticed, healthy ones are left alone; it stops, or goes back at half the rate and ends in the same weights however often it is killed."""

import json
import math
import signal
import subprocess
import sys
import time

import msgspec
import numpy as np
import pytest
import torch

import scalebound.train.loop as loop
from scalebound.cli import main
from scalebound.core.stats import Stats
from scalebound.models import load_model
from scalebound.train import Diverged, branch_run, cooldown_recipe, derive_recipe, train_run
from scalebound.train.checkpoint import complete_checkpoints, step_of
from scalebound.train.divergence import MOST, PATIENCE, Divergence, place_to_return
from scalebound.train.passes import backward

GUESS = math.log(256)
# at a hundred times its rate this model first learns, then loses it again, without ever giving a loss that is no number
HEALTHY = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 160, batch_sequences=4, warmup=0.5, schedule="constant", watch=0)
WILD = msgspec.structs.replace(HEALTHY, learning_rate=3.0, average=0.9)


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def first_divergence(losses, steps=1000, rising=10):
    """The rule written out; the step at which it fires, or None."""
    smoothed, above = [], 0
    for step, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            return step
        smoothed.append(loss if not smoothed else 0.9 * smoothed[-1] + 0.1 * loss)
        lowest = min(smoothed)
        far = smoothed[-1] - lowest > max((GUESS - lowest) / 2, GUESS / 10)
        above = above + 1 if far and step > rising else 0
        if above == 20:
            return step
    return None


def test_the_rule_is_the_written_one():
    rng = np.random.default_rng(0)
    fired = 0
    for _ in range(200):
        losses = 3.5 + np.cumsum(rng.normal(0, 0.25, size=400))
        if rng.random() < 0.1:
            losses[rng.integers(400)] = math.nan
        watch = Divergence(GUESS, 1000, 10)
        found = next((step for step, loss in enumerate(losses, start=1) if watch.add(float(loss))), None)
        assert found == first_divergence(losses)
        fired += found is not None
    assert 20 < fired < 190


@pytest.mark.parametrize(
    "losses, fires",
    [
        ([6.0 - k * 0.001 for k in range(400)], False),  # learns slowly
        ([max(2.0, 6.0 - k * 0.1) for k in range(400)], False),  # stands still
        ([2.0] * 100 + [9.0] * 5 + [2.0] * 100, False),  # a spike
        ([2.0] * 100 + [2.0 + 0.01 * k for k in range(100)], False),  # gives back less than half
        ([2.0] * 100 + [5.0] * 40, True),
        ([6.0] * 40 + [7.0] * 40, True),  # never learned, gets worse
        ([2.0] * 10 + [math.inf], True),
    ],
)
def test_when_it_fires(losses, fires):
    watch = Divergence(GUESS, 1000, 10)
    assert any([watch.add(loss) for loss in losses]) == fires


def test_healthy_runs_are_left_alone(stream, tmp_path):
    """The same run whatever it would do about a divergence, at ten times the derived rate."""
    recipes = [msgspec.structs.replace(HEALTHY, learning_rate=HEALTHY.learning_rate * 10, on_divergence=word) for word in ("stop", "backoff", "ignore")]
    infos = [train_run(recipe, stream.path, tmp_path / recipe.on_divergence) for recipe in recipes]
    assert len({info.model_sha256 for info in infos}) == 1 and not infos[1].back_offs


def test_it_stops_and_names_the_last_good_checkpoint(stream, tmp_path):
    with pytest.raises(Diverged, match=r"half of the gain over guessing is lost at step \d+ of 160, on the sequences from") as error:
        train_run(WILD, stream.path, tmp_path / "run", checkpoint_s=0.0)
    assert error.value.status == 5 and "--on-divergence backoff" in error.value.hint
    losses = [line["loss"] for line in log_of(tmp_path / "run")]
    assert first_divergence([*losses, 99.0], rising=80) == len(losses) + 1  # the step that was not done is the one at which the rule fires
    smoothed = [losses[0]]
    for loss in losses[1:]:
        smoothed.append(0.9 * smoothed[-1] + 0.1 * loss)
    assert f"last good checkpoint: step-{int(np.argmin(smoothed)) + 1};" in error.value.hint
    assert (tmp_path / "run" / "checkpoints" / f"step-{int(np.argmin(smoothed)) + 1}" / "training.safetensors").is_file()  # kept, though not among the newest two


@pytest.fixture(scope="module")
def backed(stream, tmp_path_factory):
    """A run that goes back, uninterrupted."""
    out = tmp_path_factory.mktemp("backed") / "run"
    return out, train_run(msgspec.structs.replace(WILD, on_divergence="backoff", checkpoints=(1.0,)), stream.path, out)


def test_going_back(stream, backed):
    out, info = backed
    log = log_of(out)
    [back] = info.back_offs
    assert len(log) == info.steps == 160 and [line["step"] for line in log if "back_off" in line] == [back.step]
    assert back.rate == 0.5 and back.to % 8 == 0 and back.to < back.step
    assert [line["lr"] for line in log[100 : back.step]] == [3.0] * (back.step - 100) and log[back.step]["lr"] == 1.5
    assert np.mean([line["loss"] for line in log[-10:]]) < np.mean([line["loss"] for line in log[back.step - 10 : back.step]]) - 1
    online = Stats.load(out / "online.safetensors").read("nll").reshape(160, -1)
    np.testing.assert_allclose(online.mean(1), [line["loss"] for line in log], rtol=1e-5)  # one loss a token, in the stream's order, all of them


def test_after_going_back_the_stream_goes_on_with_the_old_weights(stream, tmp_path, backed):
    """The first losses after it are those of the checkpoint's weights on batches that were not read before: nothing is predicted by what was learned from it."""
    out, info = backed
    [back] = info.back_offs

    def stop(done, total):
        if done >= (back.step + 1) * 128:
            raise KeyboardInterrupt

    recipe = msgspec.structs.replace(WILD, on_divergence="backoff", checkpoints=(1.0,))
    with pytest.raises(KeyboardInterrupt):
        train_run(recipe, stream.path, tmp_path / "run", progress=stop)
    model = load_model(tmp_path / "run" / "checkpoints" / f"step-{back.to}")
    online = Stats.load(out / "online.safetensors").read("nll").reshape(160, -1)
    tokens = torch.from_numpy(np.asarray(stream.tokens[: 160 * 128]).astype(np.int64)).view(160, 4, 32)

    def losses(number):
        inputs = torch.nn.functional.pad(tokens[number][:, :-1], (1, 0), value=255)
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(model.logits(inputs).flatten(0, 1), tokens[number].flatten(), reduction="none").numpy()

    np.testing.assert_allclose(online[back.step], losses(back.step), atol=1e-4)
    assert np.abs(online[back.step] - losses(back.to)).max() > 0.1 and np.abs(online[back.step - 1] - losses(back.step - 1)).max() > 0.1


@pytest.mark.parametrize("share", [pytest.param(0.5, marks=pytest.mark.nightly), 0.7, pytest.param(0.95, marks=pytest.mark.nightly)])  # before it diverges, while it does, after it went back
def test_resumed_past_a_back_off_it_is_the_same_run(stream, tmp_path, backed, share):
    def kill(done, total):
        if done > total * share:
            raise KeyboardInterrupt

    recipe = msgspec.structs.replace(WILD, on_divergence="backoff", checkpoints=(1.0,))
    with pytest.raises(KeyboardInterrupt):
        train_run(recipe, stream.path, tmp_path / "run", checkpoint_s=0.0 if share != 0.7 else 1e9, progress=kill)
    info = train_run(recipe, stream.path, tmp_path / "run", checkpoint_s=0.01)
    same(backed, tmp_path / "run", info)


def same(backed, run, info):
    out, right = backed
    assert msgspec.structs.replace(info, train_s=0.0, stream=right.stream) == msgspec.structs.replace(right, train_s=0.0)
    for name in ("log.jsonl", "trajectory.jsonl", "averaged/model.safetensors", "checkpoints/step-160/training.safetensors"):
        assert (run / name).read_bytes() == (out / name).read_bytes()
    np.testing.assert_array_equal(Stats.load(run / "online.safetensors").read("nll"), Stats.load(out / "online.safetensors").read("nll"))
    assert [folder.name for folder in (run / "checkpoints").iterdir()] == ["step-160"]


def test_killed_past_a_back_off(stream, tmp_path, backed):
    """SIGKILL in a process of its own, after the back-off is in the log."""
    msgspec.structs.replace(WILD, on_divergence="backoff", checkpoints=(1.0,)).save(tmp_path / "r.toml")
    [back] = backed[1].back_offs
    code = f"from scalebound.train.recipe import load_recipe; from scalebound.train import train_run; train_run(load_recipe({str(tmp_path / 'r.toml')!r}), {str(stream.path)!r}, {str(tmp_path / 'run')!r}, checkpoint_s=0.05)"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    try:
        while not any(step_of(folder) > back.step for folder in complete_checkpoints(tmp_path / "run")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "run" / "run.json").exists()
    same(backed, tmp_path / "run", train_run(msgspec.structs.replace(WILD, on_divergence="backoff", checkpoints=(1.0,)), stream.path, tmp_path / "run"))


def test_losses_that_are_no_numbers(stream, tmp_path, monkeypatch):
    """One such batch: every token still has a loss, that of a guess where there was none, and the weights go back."""
    calls = []

    def broken(model, batch, *given, **more):
        mean, losses = backward(model, batch, *given, **more)
        calls.append(batch)
        if len(calls) != 50:
            return mean, losses
        damaged = np.frombuffer(losses, dtype="<f4").copy()
        damaged[7:] = np.nan
        return math.nan, damaged.tobytes()

    monkeypatch.setattr(loop, "backward", broken)
    info = train_run(msgspec.structs.replace(HEALTHY, on_divergence="backoff"), stream.path, tmp_path / "run")
    assert [(back.step, back.rate) for back in info.back_offs] == [(50, 0.5)] and info.back_offs[0].to == 48
    online = Stats.load(tmp_path / "run" / "online.safetensors").read("nll")
    assert len(calls) == 160 and np.isfinite(online).all()
    assert np.all(online[49 * 128 + 7 : 50 * 128] >= GUESS) and online[49 * 128 + 7] == pytest.approx(GUESS, abs=1e-6) and np.all(online[49 * 128 : 49 * 128 + 7] != online[49 * 128 + 7])


def test_the_command_goes_back_when_told_to(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(2000)))
    (tmp_path / "r.toml").write_text('learning_rate = 3.0\nschedule = "constant"\nwarmup = 0.5\ntokens = 20480\nbatch_sequences = 4\nwatch = 0\n')
    command = ["train", "--sizes", "15k", "--context", "32", "--text", str(tmp_path / "t.txt"), "--recipe", str(tmp_path / "r.toml"), "--json", "--out"]
    assert main([*command, str(tmp_path / "stop")]) == 5
    assert "half of the gain over guessing is lost" in json.loads(capsys.readouterr().out)["error"]["what"]
    assert main([*command, str(tmp_path / "run"), "--on-divergence", "backoff"]) == 0
    assert json.loads(capsys.readouterr().out)["rungs"][0]["back_offs"] == 1
    assert main([*command, str(tmp_path / "run")]) == 3  # a run that stops is another recipe than one that goes back
    assert "another recipe" in json.loads(capsys.readouterr().out)["error"]["what"]


def test_a_branch_goes_back_to_where_it_began(stream, tmp_path, monkeypatch):
    """Its trunk's other checkpoints are not in its folder."""
    trunk = msgspec.structs.replace(HEALTHY, on_divergence="backoff", checkpoints=(0.33,), warmup=0.1)
    train_run(trunk, stream.path, tmp_path / "trunk")
    recipe = cooldown_recipe(trunk, 53, share=0.2)
    calls = []

    def broken(*given, **more):
        mean, losses = backward(*given, **more)
        calls.append(mean)
        return (math.nan if len(calls) == 2 else mean), losses

    monkeypatch.setattr(loop, "backward", broken)
    info = branch_run(tmp_path / "trunk" / "checkpoints" / "step-53", recipe, stream.path, tmp_path / "branch")
    assert [(back.step, back.to) for back in info.back_offs] == [(55, 53)] and len(calls) == recipe.steps - 53


def test_it_gives_up(stream, tmp_path):
    with pytest.raises(Diverged, match=f"the loss is (nan|inf) at step .* after going back {MOST} times"):
        train_run(msgspec.structs.replace(HEALTHY, learning_rate=1e30, on_divergence="backoff"), stream.path, tmp_path / "run")


def test_places_to_return_to():
    watch = Divergence(GUESS, 100, 5)
    for k in range(50):
        watch.add(5.0 - k * 0.05)
    for _ in range(30):
        if watch.add(6.0):
            break
    assert watch.lowest_at == 50 and watch.candidates()[0] == 50
    assert place_to_return(watch, lambda step: True) == 50 and place_to_return(watch, lambda step: step != 50) == 55 and place_to_return(watch, lambda step: False) is None
    watch.go_back(50)
    assert (watch.times, watch.factor, watch.above, watch.lowest_at) == (1, 0.5, 0, 50) and watch.good(range(200)) == 50
    assert PATIENCE <= 50  # the loop above had to fire
