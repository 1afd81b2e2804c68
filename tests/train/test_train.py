"""A run: learns, keeps every loss before its update, resumes to the bit, refuses what does not fit."""

import json

import msgspec
import numpy as np
import pytest
import torch

import scalebound.train.loop as loop
from scalebound.core.errors import InputError, MachineError
from scalebound.core.stats import Stats
from scalebound.models import Transformer, load_model
from scalebound.train import derive_recipe, train_ladder, train_run
from scalebound.train.recipe import load_recipe
from scalebound.train.schedule.warmup_stable_decay import warmup_stable_decay

RECIPE = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 60, batch_sequences=4, warmup=0.1)


def test_it_learns_and_writes_what_it_promises(stream, tmp_path):
    info = train_run(RECIPE, stream.path, tmp_path / "run")
    online = Stats.load(tmp_path / "run" / "online.safetensors")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert info.steps == 60 == len(log) and log[-1]["tokens"] == RECIPE.tokens
    assert log[-1]["loss"] < 2.0 < 5.0 < log[0]["loss"]
    assert online.info.kind == "online" and online.complete and len(online) == RECIPE.tokens
    np.testing.assert_allclose(online.read("nll").reshape(60, -1).mean(1), [line["loss"] for line in log], rtol=1e-5)
    assert load_recipe(tmp_path / "run" / "recipe.toml") == RECIPE
    assert load_model(tmp_path / "run").sha256 == info.model_sha256
    assert not (tmp_path / "run" / "online.part").exists()


def test_online_losses_are_those_of_the_weights_before_the_update(stream, tmp_path):
    """The losses of the first batch are the untrained model's; those of the second are not (a loss taken after the update would be lower)."""
    train_run(RECIPE, stream.path, tmp_path / "run")
    losses = Stats.load(tmp_path / "run" / "online.safetensors").read("nll").reshape(-1, 32)
    fresh = Transformer(RECIPE.shape, 32, torch.Generator().manual_seed(loop.derive(0, "init", RECIPE.params)))
    tokens = torch.from_numpy(np.asarray(stream.tokens[: 8 * 32]).astype(np.int64)).view(8, 32)
    inputs = torch.nn.functional.pad(tokens[:, :-1], (1, 0), value=255)
    with torch.no_grad():
        untrained = torch.nn.functional.cross_entropy(fresh(inputs).flatten(0, 1), tokens.flatten(), reduction="none").view(8, 32).numpy()
    np.testing.assert_allclose(losses[:4], untrained[:4], atol=1e-5)
    assert np.abs(losses[4:8] - untrained[4:]).max() > 1e-4


@pytest.mark.parametrize("when", ["after a checkpoint", "before any"])
def test_an_interrupted_run_equals_an_uninterrupted_one(stream, tmp_path, when):
    right = train_run(RECIPE, stream.path, tmp_path / "a")

    class Killed(Exception):
        pass

    def kill(done, total):
        if done > total * 0.6:
            raise Killed

    with pytest.raises(Killed):
        train_run(RECIPE, stream.path, tmp_path / "b", checkpoint_s=0.0 if when == "after a checkpoint" else 1e9, progress=kill)
    assert bool(list((tmp_path / "b").glob("checkpoints/*/training.safetensors"))) == (when == "after a checkpoint")
    steps = []
    info = train_run(RECIPE, stream.path, tmp_path / "b", progress=lambda done, total: steps.append(done))
    assert len(steps) < 30 if when == "after a checkpoint" else len(steps) == 60
    assert info.model_sha256 == right.model_sha256
    for name in ("log.jsonl", "recipe.toml", f"checkpoints/step-{right.steps}/model.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    np.testing.assert_array_equal(Stats.load(tmp_path / "b" / "online.safetensors").read("nll"), Stats.load(tmp_path / "a" / "online.safetensors").read("nll"))


def test_a_finished_run_is_not_done_again(stream, tmp_path):
    first = train_run(RECIPE, stream.path, tmp_path / "run")
    assert train_run(RECIPE, stream.path, tmp_path / "run") == first


def test_another_recipe_or_stream_is_refused(stream, tmp_path):
    train_run(RECIPE, stream.path, tmp_path / "run")
    with pytest.raises(InputError, match="another recipe"):
        train_run(msgspec.structs.replace(RECIPE, seed=1), stream.path, tmp_path / "run")
    with pytest.raises(InputError, match="another stream"):
        train_run(RECIPE, stream.path, tmp_path / "run", window_start=32)


def test_a_stream_too_short_is_refused(stream, tmp_path):
    with pytest.raises(InputError, match="expected at least 3,200,000"):
        train_run(msgspec.structs.replace(RECIPE, tokens=3_200_000), stream.path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_divergence_stops_with_step_and_checkpoint(stream, tmp_path):
    with pytest.raises(MachineError, match="the loss is (nan|inf) at step"):
        train_run(msgspec.structs.replace(RECIPE, learning_rate=1e30), stream.path, tmp_path / "run")


def test_ladder_does_not_depend_on_workers(stream, tmp_path):
    recipes = [RECIPE, msgspec.structs.replace(RECIPE, seed=1)]
    one = train_ladder([(r, stream.path, tmp_path / f"a{k}") for k, r in enumerate(recipes)], workers=1)
    two = train_ladder([(r, stream.path, tmp_path / f"b{k}") for k, r in enumerate(recipes)], workers=2)
    assert [info.model_sha256 for info in one] == [info.model_sha256 for info in two] and one[0].model_sha256 != one[1].model_sha256


def test_recipes_are_saved_whole_and_read_strictly(tmp_path):
    recipe = derive_recipe(60_000)
    path = recipe.save(tmp_path / "r.toml")
    assert load_recipe(path) == recipe and recipe.tokens % recipe.context == 0 and abs(recipe.tokens / recipe.params - 20) < 0.1
    path.write_text(path.read_text() + "learnin_rate = 1.0\n")
    with pytest.raises(InputError, match="learnin_rate"):
        load_recipe(path)


def test_schedule_rises_stays_and_falls():
    rates = [warmup_stable_decay(s, 100, warmup=0.1, decay=0.5) for s in range(100)]
    assert rates[0] == 0.1 and rates[9:50] == [1.0] * 41 and rates[-1] == pytest.approx(0.02) and min(rates) > 0


def test_the_trajectory_is_certified_as_it_goes(stream, tmp_path):
    """trajectory.jsonl: the last line is the certificate of the finished run, and an interrupted run leaves the same file."""
    from scalebound.certify import certify

    train_run(RECIPE, stream.path, tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "trajectory.jsonl").read_text().splitlines()]
    right = certify(Stats.load(tmp_path / "whole" / "online.safetensors"), method="trajectory")
    assert lines[-1]["stop"] == lines[-1]["end"] == right.window[1] and lines[-1]["start"] == right.window[0]
    assert lines[-1]["bound"] == pytest.approx(right.bound, rel=1e-12) and len(lines) > 30

    class Killed(Exception):
        pass

    def kill(done, total):
        if done > total * 0.6:
            raise Killed

    with pytest.raises(Killed):
        train_run(RECIPE, stream.path, tmp_path / "cut", checkpoint_s=0.0, progress=kill)
    train_run(RECIPE, stream.path, tmp_path / "cut")
    assert (tmp_path / "cut" / "trajectory.jsonl").read_text() == (tmp_path / "whole" / "trajectory.jsonl").read_text()


def test_bfloat16_passes_are_near_float32_and_resume_to_the_bit(stream, tmp_path):
    rounded = msgspec.structs.replace(RECIPE, precision="bfloat16")
    plain, right = train_run(RECIPE, stream.path, tmp_path / "plain"), train_run(rounded, stream.path, tmp_path / "a")
    assert right.model_sha256 != plain.model_sha256 and right.train_loss == pytest.approx(plain.train_loss, abs=0.03)
    first = [Stats.load(tmp_path / name / "online.safetensors").read("nll", 0, 128) for name in ("plain", "a")]
    assert 0 < np.abs(first[0] - first[1]).max() < 0.1  # rounded, not float32

    def kill(done, total):
        if done > total * 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(rounded, stream.path, tmp_path / "b", checkpoint_s=0.0, progress=kill)
    assert train_run(rounded, stream.path, tmp_path / "b").model_sha256 == right.model_sha256
    assert load_model(tmp_path / "a").dtype == "float32"


def test_precision_follows_from_the_size(monkeypatch):
    import scalebound.train.recipe as module

    for has, size, found in ((True, 1_000_000, "bfloat16"), (True, 200_000, "bfloat16"), (True, 150_000, "float32"), (False, 1_000_000, "float32")):
        monkeypatch.setattr(module, "has_bfloat16", lambda device, has=has: has)
        assert derive_recipe(size).precision == found
    assert derive_recipe(1_000_000, overrides={"precision": "bfloat16"}).precision == "bfloat16"
