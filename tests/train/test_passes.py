"""Passes: compiled ones compute the same and are resumed to the bit; nothing stays behind on the processor when a model is elsewhere."""

import json

import msgspec
import numpy as np
import pytest
import torch

import scalebound.train.passes as passes
from scalebound.cli import main
from scalebound.core.errors import InputError, MachineError, UsageError
from scalebound.models import Transformer
from scalebound.train import derive_recipe, seconds_for, train_run
from scalebound.train.device import find_device
from scalebound.train.passes import backward, compiled_losses, plain_losses
from scalebound.train.recipe import COMPILED_FROM

RECIPE = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 20, batch_sequences=4, warmup=0.1, compile=True)


def test_only_the_usual_batch_is_compiled(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: lambda inputs, targets: asked.append(tuple(inputs.shape)) or function(inputs, targets))
    model = Transformer(RECIPE.shape, 32, torch.Generator().manual_seed(0))
    losses_of = compiled_losses(model, "float32", 4)
    for rows in (4, 3, 4):
        batch = np.random.default_rng(rows).integers(0, 255, size=(rows, 32))
        found = backward(model, batch, 255, 1, losses_of=losses_of)
        assert found == backward(model, batch, 255, 1)
    assert asked == [(4, 32), (4, 32)]


def test_a_compiler_that_fails_is_named(monkeypatch):
    def broken(*given):
        raise torch._dynamo.exc.TorchDynamoException("no such\n compiler")

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: broken)
    losses_of = compiled_losses(Transformer(RECIPE.shape, 32), "float32", 2)
    with pytest.raises(MachineError, match=r"could not be compiled \(no such compiler\)") as error:
        losses_of(torch.zeros((2, 32), dtype=torch.int64), torch.zeros((2, 32), dtype=torch.int64))
    assert "compile = false" in error.value.hint


def test_what_is_derived(monkeypatch):
    import scalebound.train.recipe as module

    for there, size, found in ((True, 1_000_000, True), (True, 100_000, False), (False, 1_000_000, False)):
        monkeypatch.setattr(module, "has_compiler", lambda there=there: there)
        recipe = derive_recipe(size)
        assert recipe.compile == found and (recipe.flops >= COMPILED_FROM) == (size > 500_000)
    with pytest.raises(InputError, match="compile = true with a model to start from"):
        module.check_recipe(msgspec.structs.replace(RECIPE, base="0" * 64))


def test_time_of_a_compiled_run_is_estimated_without_compiling(monkeypatch):
    monkeypatch.setattr(passes.torch, "compile", lambda *a, **k: pytest.fail("compiled"))
    assert 30.0 < seconds_for(msgspec.structs.replace(RECIPE, tokens=32 * 4), budget_s=0.0) < 60.0


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_compiled_it_is_the_same_run_up_to_rounding_and_resumes_to_the_bit(stream, tmp_path):
    plain = train_run(msgspec.structs.replace(RECIPE, compile=False), stream.path, tmp_path / "plain")
    right = train_run(RECIPE, stream.path, tmp_path / "a")

    def kill(done, total):
        if done > total * 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(RECIPE, stream.path, tmp_path / "b", checkpoint_s=0.0, progress=kill)
    assert train_run(RECIPE, stream.path, tmp_path / "b").model_sha256 == right.model_sha256 != plain.model_sha256
    losses = [[json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()] for name in ("plain", "a")]
    assert 0 < np.abs(np.subtract(*losses)).max() < 1e-3


def test_everything_is_where_the_model_is():
    """On torch's device without memory, which like CUDA refuses an operation between its tensors and the processor's."""
    model = Transformer(msgspec.structs.replace(RECIPE, qk_norm=True).shape, 32).to("meta")
    tokens = torch.zeros((2, 32), dtype=torch.int64, device="meta")
    losses, logits = plain_losses(model, "float32")(tokens, tokens)
    losses.mean().backward()
    assert losses.device.type == logits.device.type == "meta" and all(p.grad.device.type == "meta" for p in model.parameters())
    with pytest.raises(RuntimeError, match="device"):
        plain_losses(model, "float32")(tokens, torch.zeros((2, 32), dtype=torch.int64))


def test_devices(monkeypatch, tmp_path, capsys):
    with pytest.raises(UsageError, match="expected one of auto, cpu, cuda"):
        find_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match="finds no CUDA device"):
        find_device("cuda")
    assert main(["train", "--sizes", "15k", "--device", "cuda", "--out", str(tmp_path / "run")]) == 2
    assert "--device auto" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert main(["train", "--from", "X", "--device", "auto", "--shard", "--out", str(tmp_path / "run")]) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_cuda_device(stream, tmp_path, precision):
    """The same recipe: losses near the processor's, the same twice, resumed to the bit."""
    recipe = msgspec.structs.replace(RECIPE, compile=False, precision=precision)
    here, there = train_run(recipe, stream.path, tmp_path / "cpu"), train_run(recipe, stream.path, tmp_path / "a", device="cuda")
    assert there.device == "cuda" and there.train_loss == pytest.approx(here.train_loss, abs=0.02)

    def kill(done, total):
        if done > total * 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(recipe, stream.path, tmp_path / "b", device="cuda", checkpoint_s=0.0, progress=kill)
    assert train_run(recipe, stream.path, tmp_path / "b", device="cuda").model_sha256 == there.model_sha256
