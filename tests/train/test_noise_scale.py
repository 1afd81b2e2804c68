"""The gradient noise scale: unbiased on known noise, right on a real model, no change to training; the batch sweep finds a planted critical batch."""

import doctest
import json

import msgspec
import numpy as np
import pytest
import torch

import scalebound.scaling.laws.critical_batch
import scalebound.train.noise_scale
from scalebound.cli import main
from scalebound.cli.train_sweep import common_targets, tradeoff_at
from scalebound.core.errors import InputError
from scalebound.core.sweep import SweepRun
from scalebound.models import Transformer
from scalebound.scaling.laws.critical_batch import steps_to_loss
from scalebound.train import derive_recipe, train_run
from scalebound.train.noise_scale import look, noise_scale, read_noise_scale

RECIPE = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 8 * 30, batch_sequences=8, warmup=0.1, noise_scale=3)


def test_unbiased_on_gaussian_gradients():
    """Dimension 50, |G|^2 = 2, tr(Sigma) = 30: the noise scale is 15; the mean of ratios, the control, is not."""
    rng, G = np.random.default_rng(0), np.full(50, 0.2)
    looks = []
    for _ in range(4000):
        each = G + rng.normal(size=(8, 50)) * np.sqrt(30 / 50)
        looks.append({"big": 8, "small": 1, "big_sq": float((each.mean(0) ** 2).sum()), "small_sq": float((each**2).sum(1).mean())})
    value, low, high = noise_scale(looks)
    assert low < 15 < high and value == pytest.approx(15, rel=0.1) and high / low < 1.4
    wrong = np.mean([noise_scale([entry])[0] for entry in looks[:500] if np.isfinite(noise_scale([entry])[0])])
    assert abs(wrong / 15 - 1) > 0.2


def test_against_the_gradient_of_every_sequence(stream):
    model = Transformer(RECIPE.shape, 32, torch.Generator().manual_seed(0))
    batch = np.asarray(stream.tokens[: 8 * 32]).reshape(8, 32)
    grads = []
    for row in batch:
        targets = torch.from_numpy(row.astype(np.int64))[None]
        loss = torch.nn.functional.cross_entropy(model(torch.nn.functional.pad(targets[:, :-1], (1, 0), value=255)).flatten(0, 1), targets.flatten())
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]).double())
    each = torch.stack(grads)
    found = look(model, batch, 255)
    assert found["big"] == 8 and found["small"] == 1
    assert found["big_sq"] == pytest.approx(float(each.mean(0).square().sum()), rel=1e-4) and found["small_sq"] == pytest.approx(float(each.square().sum(1).mean()), rel=1e-4)
    covariance = float(each.var(0, unbiased=True).sum())  # the same estimate, the direct way
    assert (found["small_sq"] - found["big_sq"]) / (1 - 1 / 8) == pytest.approx(covariance, rel=1e-4)
    assert look(model, batch[:1], 255) is None and all(p.grad is None for p in model.parameters())


def test_it_is_logged_and_training_is_untouched(stream, tmp_path):
    info = train_run(RECIPE, stream.path, tmp_path / "a")
    assert info.model_sha256 == train_run(msgspec.structs.replace(RECIPE, noise_scale=0), stream.path, tmp_path / "b").model_sha256
    along = read_noise_scale(tmp_path / "a" / "log.jsonl", context=32, stretches=2)
    assert [part.looks for part in along] == [5, 5] and along[0].first_step == 1 and along[0].tokens == 32 * along[0].sequences > 0
    with pytest.raises(InputError, match="no look"):
        read_noise_scale(tmp_path / "b" / "log.jsonl", context=32)
    with pytest.raises(InputError, match="at least two sequences"):
        train_run(msgspec.structs.replace(RECIPE, batch_sequences=1), stream.path, tmp_path / "c")


def test_a_planted_critical_batch_is_found():
    assert doctest.testmod(scalebound.scaling.laws.critical_batch).failed == doctest.testmod(scalebound.train.noise_scale).failed == 0
    rng, batch = np.random.default_rng(0), 64.0 * 2 ** np.arange(6)
    hits = 0
    for _ in range(50):
        found = steps_to_loss(batch, 100 * (1 + 500 / batch) * np.exp(0.05 * rng.normal(size=6)))
        hits += found.low < 500 < found.high
        assert found.critical_batch == pytest.approx(500, rel=0.6)
    assert hits >= 40
    with pytest.raises(InputError, match="three different"):
        steps_to_loss(batch[:2], batch[:2])
    curves = []  # loss falls from 4 as 4 - 0.01 s / (1 + 500 / B): 100 (1 + 500 / B) steps to a loss of 3
    for size in batch.astype(int):
        for worse in (1.0, 1.5):
            steps = int(200 * (1 + 500 / size))
            run = SweepRun(parametrization="standard", width=32, params=1000, lr=worse, batch_tokens=int(size), steps=steps, loss=2.0, max_logit=None, run="x")
            curves.append((run, [4 - 0.01 * (k + 1) / (1 + 500 / size) / worse for k in range(steps)]))
    entry = tradeoff_at(curves, 32, 3.0)
    assert entry["critical_batch"] == pytest.approx(500, rel=0.02) and entry["min_steps"] == pytest.approx(100, rel=0.02)
    assert common_targets(curves)[32][-1] == pytest.approx(2.0, abs=0.05)


def test_the_batch_sweep_command(tmp_path, capsys, monkeypatch):
    import scalebound.train.sweep as sweep

    monkeypatch.setattr(sweep.batch_sweep_recipes, "__defaults__", ((32, 64), (2, 4, 8)))
    monkeypatch.setattr(sweep.batch_sweep_recipes, "__kwdefaults__", sweep.batch_sweep_recipes.__kwdefaults__ | {"fewest": 10})
    (tmp_path / "t.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(1500)))
    assert main(["train", "--sweep", "batch", "--widths", "16", "--text", str(tmp_path / "t.txt"), "--workers", "1", "--out", str(tmp_path / "s"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["targets"]) == 4 and record["advice_tokens"] > 0 and (tmp_path / "s" / "batches.csv").read_text().startswith("params,step,batch_tokens,loss")
    assert record["law"] is None  # one width says nothing of the law's exponent in size
    for entry in record["targets"]:
        assert entry["batch_tokens"] == [128, 256, 512] and sorted(entry["steps"], reverse=True) == entry["steps"] and entry["low"] is None
    assert main(["train", "--sweep", "batch", "--rates", "0.1,0.2,0.3", "--out", str(tmp_path / "x")]) == 2
