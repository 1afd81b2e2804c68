"""Training for the certificate: the stand-in for the bits, exactness of what is written, resumption to the bit, refusals."""

import importlib
import json
import math

import msgspec
import numpy as np
import pytest
import torch

from scalebound.compress import Coded, QuantizedModel, code_bits, encode, load_package, quantize, read_checkpoint, save_package
from scalebound.core.errors import InputError, UsageError
from scalebound.core.workers import cores
from scalebound.models import Transformer, load_model
from scalebound.train import derive_recipe, finetune, train_run
from scalebound.train.latent import Latent, geometric_bits, geometric_ratio, relaxed_slope

module = importlib.import_module("scalebound.train.finetune")  # the package's attribute of this name is the function
RECIPE = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 150, batch_sequences=4, warmup=0.1)


@pytest.fixture(scope="module")
def made(tmp_path_factory, stream):
    folder = tmp_path_factory.mktemp("finetune")
    train_run(RECIPE, stream.path, folder / "run")
    return folder / "run", stream


@pytest.mark.parametrize("t", [0.01, 0.3, 0.9])
def test_bits_of_the_geometric_distribution(t):
    """Against the sum over its integers."""
    q = np.arange(-3000, 3001)
    p = (1 - t) / (1 + t) * t ** np.abs(q).astype(float)
    mean = torch.tensor([float(p @ np.abs(q))], dtype=torch.float64)
    assert float(geometric_ratio(mean)) == pytest.approx(t, rel=1e-9)
    entropy = -(p[p > 0] @ np.log2(p[p > 0]))
    assert float(geometric_bits(mean)) == pytest.approx(entropy, rel=1e-9)


@pytest.mark.parametrize("scale", [0.15, 1.0, 30.0])
def test_slope_of_an_interval(scale):
    """Against autograd of the distribution function's difference, on both sides of the middle."""
    b = torch.tensor(scale, dtype=torch.float64)
    x = torch.linspace(0, 8, 102, dtype=torch.float64, requires_grad=True)  # no point at 1/2, where the two forms meet

    def below(y):  # the distribution function, from its lower end, where it keeps its digits
        return torch.where(y < 0, 0.5 * torch.exp(-y.abs() / b), 1 - 0.5 * torch.exp(-y.abs() / b))

    (expected,) = torch.autograd.grad(-torch.log2(below(0.5 - x) - below(-0.5 - x)).sum(), x)
    for sign in (1, -1):
        found = relaxed_slope(sign * x.detach(), 1 / b.expand(len(x)), torch.exp(0.5 / b))
        torch.testing.assert_close(sign * found, expected, rtol=1e-9, atol=1e-12)


def test_fused_parameters_compute_the_same_function():
    model = Transformer(RECIPE.shape, 32, torch.Generator().manual_seed(0))
    other = Transformer.fused(model.tensors(), RECIPE.depth)
    own = dict(model.named_parameters())
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def test_the_tensors_trained_are_those_the_package_decodes_to():
    model = Transformer(RECIPE.shape, 32, torch.Generator().manual_seed(0))
    latent = Latent(model.tensors())
    with torch.no_grad():
        latent.log_steps.add_(torch.randn(latent.log_steps.shape, generator=torch.Generator().manual_seed(1)) * 0.5)
    tensors, _ = latent()
    stored = latent.quantized({}).dequantized()
    assert tensors.keys() == stored.keys() and all(np.array_equal(tensors[name].detach().numpy(), stored[name]) for name in tensors)


def test_gradients_of_weights_pass_and_those_of_steps_are_the_rounding_error():
    torch.manual_seed(0)
    latent = Latent({"w": torch.randn(3, 5)})
    tensors, _ = latent()
    upstream = torch.randn(3, 5)
    (tensors["w"] * upstream).sum().backward()
    assert torch.equal(latent.weights.grad.view(3, 5), upstream)
    ratios = latent.ratios()[0].view(3, 5)
    expected = ((ratios.round() - ratios) * upstream).sum(1) * latent.log_steps.detach().exp()
    torch.testing.assert_close(latent.log_steps.grad, expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_bits_and_their_gradient_against_a_loop(axis):
    """Two matrices and two vectors, one matrix shorter by its columns and one by its rows."""
    rng = torch.Generator().manual_seed(4)
    sizes = torch.tensor([4.0, 1.0, 0.1, 0.02, 0.3, 2.0])
    wide = torch.randn(6, 6, generator=rng) * (sizes if axis else sizes[:, None])
    tensors = {"a": wide, "v": torch.rand(6, generator=rng) + 1, "b": wide.T.contiguous(), "u": torch.rand(3, generator=rng)}
    latent = Latent(tensors)
    with torch.no_grad():
        latent.log_steps.fill_(math.log(0.5))
    _, bits = latent()
    bits.backward()
    ratios, steps = latent.ratios()
    parts = dict(zip(tensors, ratios.double().split([36, 6, 36, 3]), strict=True))
    vectors = torch.cat([parts["v"], parts["u"]])
    pooled = vectors - vectors.round().median()
    groups = {"vectors": [pooled]}
    for name in "ab":
        matrix = parts[name].view(6, 6)
        groups[name] = min(([*matrix], [*matrix.T]), key=lambda lines: sum(_bits(line) for line in lines))
    total = sum(_bits(line) for lines in groups.values() for line in lines)
    assert float(bits.detach()) == pytest.approx(total, rel=1e-5)
    for name in "ab":
        expected = torch.stack([_slope(line) for line in groups[name]])
        rows = torch.equal(groups[name][0], parts[name].view(6, 6)[0])
        assert rows == ((name == "a") ^ bool(axis))  # the planted axis
        found = dict(zip(tensors, (latent.weights.grad * steps[latent.step_of]).split([36, 6, 36, 3]), strict=True))[name].view(6, 6)
        torch.testing.assert_close(found.double(), expected if rows else expected.T, rtol=1e-4, atol=1e-5)
    by_step = -(latent.weights.grad * latent.weights.detach())
    torch.testing.assert_close(latent.log_steps.grad, torch.stack([part.sum() for n, part in zip(latent.num_steps, by_step.split(latent.sizes), strict=True) for part in part.chunk(n)]), rtol=1e-4, atol=1e-4)


def _mean(line):
    return (line.round().abs().sum() + 0.5) / (len(line) + 1)


def _bits(line) -> float:
    return len(line) * float(geometric_bits(_mean(line)))


def _slope(line):
    steepness = -torch.log(geometric_ratio(_mean(line)))
    return relaxed_slope(line, steepness.expand(len(line)), torch.exp(0.5 * steepness))


def test_the_stand_in_is_near_the_bits_of_the_file(made):
    """On a trained model: the integers' bits, within a fifth of the weights' bytes in the file (above them, as ``w/s`` is wider than ``q``)."""
    from scalebound.compress import encode_with_breakdown

    config, tensors = read_checkpoint(made[0])
    latent = Latent({name: torch.from_numpy(np.array(data)) for name, data in tensors.items()})
    _, bits = latent()
    assert float(bits.detach()) == pytest.approx(8 * encode_with_breakdown(latent.quantized(config))[1].weight_bytes, rel=0.2)


def test_fewer_bits_at_a_better_loss_than_rounding(made, tmp_path):
    """What it is for: against the start, and against plain rounding to 3 bits on the same tokens. And the price matters."""
    run, stream = made
    done = finetune(run, stream.path, steps=200, price=3.0)
    assert done.bits_after < 0.8 * done.bits_start and done.tokens == RECIPE.tokens
    config, tensors = read_checkpoint(run)
    plain = quantize(config, tensors, bits=3)
    work = module._Work(Transformer(RECIPE.shape, 32), config, stream, (0, RECIPE.tokens), 32, None, "")
    judged = work.sequences[module.generator(0, "finetune judged").permutation(len(work.sequences))[: module.JUDGED_SEQUENCES]]
    assert done.loss_before < done.loss_after < work._judge(plain.dequantized(), judged) and done.bits_after < code_bits(len(encode(plain))) / RECIPE.params
    free = finetune(run, stream.path, steps=200, price=0.0)
    assert free.loss_after < done.loss_after and free.bits_after > done.bits_after
    save_package(tmp_path / "m.sbz", done.model)
    assert load_package(tmp_path / "m.sbz").sha256() == done.model.sha256() == load_model(tmp_path / "m.sbz").sha256
    assert done.loss_after == work._judge(load_package(tmp_path / "m.sbz").dequantized(), judged)
    assert json.loads(json.dumps(done.record()))["steps"] == 200


def test_an_interrupted_call_equals_an_uninterrupted_one(made, tmp_path):
    run, stream = made
    right = finetune(run, stream.path, steps=40, seed=3)  # the price is taken every other step, and comes back with the state
    state = tmp_path / "state"

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(run, stream.path, steps=40, seed=3, state=state, checkpoint_s=0.0, progress=stop)
    assert state.is_file()
    seen = []
    again = finetune(run, stream.path, steps=40, seed=3, state=state, progress=lambda done, total: seen.append(done))
    assert seen[0] == 7 and encode(again.model) == encode(right.model) and not state.exists()
    with pytest.raises(KeyboardInterrupt):
        finetune(run, stream.path, steps=40, seed=3, state=state, checkpoint_s=0.0, progress=stop)
    seen.clear()
    other = finetune(run, stream.path, steps=40, seed=4, state=state, progress=lambda done, total: seen.append(done))
    assert seen[0] == 0 and encode(other.model) != encode(right.model)  # another seed starts over


def test_a_package_is_trained_further(made, tmp_path):
    """From its own integers: the same model before the first step, and fewer bits after; a control started anew has neither."""
    run, stream = made
    first = finetune(run, stream.path, steps=60, price=3.0)
    save_package(tmp_path / "first.sbz", first.model)
    further = finetune(run, stream.path, steps=60, price=3.0, start=tmp_path / "first.sbz", seed=1)
    same = finetune(run, stream.path, steps=1, price=0.0, start=tmp_path / "first.sbz")
    assert same.loss_start == first.loss_after and same.bits_start == first.bits_after
    assert further.bits_after < 0.9 * first.bits_after and same.loss_before == first.loss_before
    assert finetune(run, stream.path, steps=1, price=0.0).bits_start > 1.2 * first.bits_after
    save_package(tmp_path / "other.sbz", quantize({}, {"w": np.ones((2, 2), np.float32)}, bits=3))
    with pytest.raises(InputError, match="not a package of this model"):
        finetune(run, stream.path, steps=1, start=tmp_path / "other.sbz")
    scaled = {name: Coded(data.integers, data.row_scales, np.full(data.matrix.shape[1], 0x3F80, np.uint16)) for name, data in first.model.tensors.items()}
    save_package(tmp_path / "columns.sbz", QuantizedModel(first.model.config, scaled))
    with pytest.raises(InputError, match="scale for each row"):
        finetune(run, stream.path, steps=1, start=tmp_path / "columns.sbz")


def test_refusals(made, tmp_path):
    run, stream = made
    for wrong in ({"steps": 0}, {"price": -1.0}, {"price": math.nan}, {"batch_sequences": 0}):
        with pytest.raises(UsageError):
            finetune(run, stream.path, **wrong)
    for window in ((0, 10**9), (5, 5), (-1, 100), (0, 31)):
        with pytest.raises(InputError, match="window"):
            finetune(run, stream.path, window=window)
    with pytest.raises(InputError):
        finetune(tmp_path / "nothing", stream.path)
    (tmp_path / "state").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="state"):
        finetune(run, stream.path, steps=2, state=tmp_path / "state")
    folder = tmp_path / "other"
    folder.mkdir()
    config = json.loads((run / "checkpoints" / "step-150" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    (folder / "model.safetensors").write_bytes((run / "checkpoints" / "step-150" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="architecture"):
        finetune(folder, stream.path, steps=2)


def test_the_command(made, tmp_path, capsys):
    from scalebound.cli import main

    run, stream = made
    out = tmp_path / "m.sbz"
    assert main(["compress", str(run), "--finetune", "--steps", "3", "--stream", str(stream.path), "--tokens", "640", "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["file_bytes"] == out.stat().st_size and record["finetune"]["steps"] == 3 and record["loss_before"] < record["loss_after"]
    assert load_package(out).sha256() == record["model_sha256"] and not list(tmp_path.glob("*.state"))
    torch.set_num_threads(cores())
    for wrong in (["--finetune"], ["--steps", "3"], ["--finetune", "--bits", "4", "--stream", str(stream.path)]):
        assert main(["compress", str(run), *wrong, "--out", str(tmp_path / "x.sbz"), "--json"]) == 2
        capsys.readouterr()
    assert not (tmp_path / "x.sbz").exists()
