"""Modules left out and shares of zeros chosen by trying: budgets kept, predictions against finite differences, files that run, what is refused."""

import json
from functools import partial

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scalebound.compress import decode, encode, quantize, read_checkpoint
from scalebound.compress.gptq import damage, factor
from scalebound.core.errors import InputError, UsageError
from scalebound.data.stream import Stream
from scalebound.models.load import transformers_from_config
from scalebound.train import derive_recipe, quantize_calibrated, train_run
from scalebound.train.calibration import Calibration
from scalebound.train.dropping import block_damages, blocks_of, drop_blocks, tensors_of, without_blocks
from scalebound.train.evolution import matrix_levels, sparsity_levels
from scalebound.train.posttraining import calibration_inputs
from scalebound.train.trials import Trials
from scalebound.train.tried import Tried

RECIPE = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 150, batch_sequences=4, warmup=0.1)
METHODS = ("evolution", "additive", "fisher")


@pytest.fixture(scope="module")
def made(tmp_path_factory, stream):
    folder = tmp_path_factory.mktemp("structure")
    recipe = derive_recipe(15_000, context=32, overrides={"depth": 3, "width": 24, "heads": 3, "feed_forward": 48, "tokens": RECIPE.tokens, "batch_sequences": 4, "warmup": 0.1})
    train_run(recipe, stream.path, folder / "run")
    return *read_checkpoint(folder / "run"), stream.path


def loss_of(config, tensors, path, sequences=32):
    stream = Stream(path)
    targets = torch.from_numpy(np.asarray(stream.tokens[: sequences * 32]).astype(np.int64).reshape(sequences, 32))
    model = transformers_from_config(config, {name: torch.from_numpy(np.array(data)) for name, data in tensors.items()}, "test").eval()
    with torch.no_grad():
        logits = model(F.pad(targets[:, :-1], (1, 0), value=stream.info.separator)).logits
    return float(F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, :-1].flatten()))


@pytest.mark.parametrize("method", METHODS)
def test_modules_are_left_out(made, method):
    config, tensors, path = made
    found = drop_blocks(config, tensors, path, share=0.3, method=method, sequences=16, generations=5)
    assert found == drop_blocks(config, tensors, path, share=0.3, method=method, sequences=16, generations=5)
    blocks = blocks_of([name.removesuffix(".weight") for name in tensors if name.endswith("proj.weight")])
    assert len(blocks) == 6 and set(found.dropped) < set(blocks) and found.share >= 0.3
    smaller = without_blocks(tensors, found.dropped)
    assert found.share == sum(tensors[name].size for block in found.dropped for name in tensors_of(block, tensors)) / sum(tensors[name].size for block in blocks for name in tensors_of(block, tensors))
    assert found.loss_chosen == pytest.approx(loss_of(config, smaller, path, 16), abs=1e-5) and found.loss_full == pytest.approx(loss_of(config, tensors, path, 16), abs=1e-5)
    if method == "evolution":
        assert found.divergence_chosen <= found.divergence_start
        worst = max(loss_of(config, without_blocks(tensors, (f"model.layers.{k}.mlp",)), path, 16) for k in range(3))
        assert found.loss_chosen < worst, "control: which module is left out matters"


def interrupted_after(monkeypatch, count):
    """Divergences raise after so many; returns the list that counts them."""
    asked, divergence = [], Trials.divergence

    def counted(self, levels, pieces=None):
        asked.append(levels)
        if len(asked) > count:
            raise KeyboardInterrupt
        return divergence(self, levels, pieces)

    monkeypatch.setattr(Trials, "divergence", counted)
    return asked


@pytest.mark.parametrize("search", [
    partial(drop_blocks, share=0.3, sequences=8, generations=4), partial(drop_blocks, share=0.3, sequences=8, generations=4, method="additive"),
    partial(sparsity_levels, bits=2.5, sparsity=0.6, sequences=8, generations=2), partial(matrix_levels, bits=2.5, sequences=8, generations=2),
])  # fmt: skip
def test_an_interrupted_search_goes_on(made, tmp_path, monkeypatch, search):
    """It ends where it would have and computes nothing twice; what belongs to another search is left unread; a file that is none is refused."""
    monkeypatch.setattr("scalebound.train.trials.Tried", partial(Tried, interval_s=0.0))
    whole, state = search(*made), tmp_path / "s"
    with monkeypatch.context() as patch:
        interrupted_after(patch, 9)
        with pytest.raises(KeyboardInterrupt):
            search(*made, state=state)
    kept = len(json.loads(state.read_bytes())["tried"])
    with monkeypatch.context() as patch:
        asked = interrupted_after(patch, 10**6)
        assert search(*made, state=state) == whole
        first = len(asked)
        assert search(*made, state=state) == whole and len(asked) - first == first - len(json.loads(state.read_bytes())["tried"]) + kept, "the second time no choice is computed at all"
    assert kept == 9
    other = search(*made, seed=1, state=state)
    assert other == search(*made, seed=1), "control: another draw of pieces, another search"
    state.write_text('{"tried": 3}')
    with pytest.raises(InputError, match="state of a search"):
        search(*made, state=state)


def test_a_module_of_zeros_adds_nothing_costs_next_to_nothing_and_runs(made):
    config, tensors, path = made
    smaller = without_blocks(tensors, ("model.layers.1.mlp", "model.layers.2.self_attn"))
    model = transformers_from_config(config, {name: torch.from_numpy(np.array(data)) for name, data in smaller.items()}, "test").eval()
    seen = {}
    for block in ("model.layers.1.mlp", "model.layers.2.self_attn", "model.layers.0.mlp"):
        model.get_submodule(block).register_forward_hook(lambda _, __, output, block=block: seen.update({block: output[0] if isinstance(output, tuple) else output}))
    model(torch.arange(32)[None])
    assert [bool((seen[block] == 0).all()) for block in seen] == [block != "model.layers.0.mlp" for block in seen]
    found = quantize_calibrated(config, smaller, path, bits=3.0, sequences=16).model
    zeros = [name for name in smaller if not smaller[name].any()]
    decoded = decode(encode(found))[1]
    assert len(zeros) == 7 and not any(decoded[name].any() for name in zeros) and np.isfinite(loss_of(config, decoded, path))
    with_zeros, without = (len(encode(quantize(config, kept, step=0.3))) for kept in (smaller, {name: data for name, data in smaller.items() if name not in zeros}))
    assert with_zeros - without < 0.05 * sum(smaller[name].size for name in zeros) / 8 + 40 * len(zeros)


def test_the_divergence_against_a_readable_one(made):
    config, tensors, path = made
    inputs = calibration_inputs(Stream(path), config, 12, 0)
    calibration = Calibration(config, tensors, inputs, curved=False, seed=0, progress=lambda done, of: None)
    name = "model.layers.1.mlp.down_proj.weight"
    trials = Trials(calibration, [[{}, {name: 0.5 * tensors[name]}, {name: 0 * tensors[name]}]])

    def logs(scale):
        model = transformers_from_config(config, {key: torch.from_numpy(np.array(data) * (scale if key == name else 1)) for key, data in tensors.items()}, "test").eval()
        with torch.no_grad():
            return model(torch.from_numpy(inputs)).logits.log_softmax(-1).double()

    before = logs(1.0)
    for level, scale in enumerate((1.0, 0.5, 0.0)):
        each = (before.exp() * (before - logs(scale))).sum(-1).mean(-1)
        assert trials.divergence([level]) == pytest.approx(float(each.mean()), rel=2e-3, abs=1e-6)
        assert trials.divergence([level], np.array([7, 2])) == pytest.approx(float(each[[7, 2]].mean()), rel=5e-3, abs=1e-6)
    found = trials.alone()
    assert found.shape == (1, 3) and found[0, 0] < 1e-6 < found[0, 1] < found[0, 2]


def test_the_prediction_of_a_module_against_a_small_change(made):
    """Scale a module's output by 1 - e: the mean divergence from the model's own distribution is e^2 times the prediction where tokens do not interact."""
    config, tensors, path = made
    inputs = np.asarray(Stream(path).tokens[: 256 * 32]).astype(np.int64).reshape(256, 32)
    model = transformers_from_config(config, {name: torch.from_numpy(np.array(data)) for name, data in tensors.items()}, "test").eval().requires_grad_(False)
    block = "model.layers.2.mlp"  # the last: what it changes at a token stays there
    predicted = np.mean([block_damages(model, [block], inputs, torch.Generator().manual_seed(seed))[0] for seed in range(8)])  # one draw of labels is 12% off
    with torch.no_grad():
        before = model(torch.from_numpy(inputs)).logits.log_softmax(-1)
        hook = model.get_submodule(block).register_forward_hook(lambda _, __, output: output * 0.95)
        after = model(torch.from_numpy(inputs)).logits.log_softmax(-1)
        hook.remove()
    divergence = float((before.exp() * (before - after)).sum(-1).mean()) / 0.05**2
    assert predicted == pytest.approx(divergence, rel=0.15)


def test_the_prediction_of_an_error_against_loops():
    rng = np.random.default_rng(0)
    error, x, g = rng.normal(size=(4, 6)), rng.normal(size=(50, 6)), rng.uniform(1, 2, 4)
    hessian = x.T @ x / 50
    want = 0.5 * sum(g[i] * (error[i] @ token) ** 2 for i in range(4) for token in x) / 50
    assert damage(error, factor(hessian, 0.0), g) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_shares_of_zeros(made, method):
    config, tensors, path = made
    found = sparsity_levels(config, tensors, path, bits=2.5, sparsity=0.6, method=method, sequences=16, generations=4)
    assert found == sparsity_levels(config, tensors, path, bits=2.5, sparsity=0.6, method=method, sequences=16, generations=4)
    maps = [name for name in tensors if name.endswith("proj.weight")]
    assert set(found.shares) == set(maps) and found.loss_full < found.loss_common
    zeros = sum(found.shares[name] * tensors[name].size for name in maps) / sum(tensors[name].size for name in maps)
    assert 0.6 - 1e-3 <= zeros < 0.62 and len(set(found.shares.values())) > (1 if method != "evolution" else 0)
    if method == "evolution":
        assert found.divergence_chosen <= found.divergence_common
    one = {"model.layers.0.mlp.down_proj.weight": 0.9}
    model = quantize_calibrated(config, tensors, path, bits=2.5, prune="sparsegpt", sparsity=0.3, shares=one, penalty=0.0, sequences=16).model.tensors
    assert np.mean(model["model.layers.0.mlp.down_proj.weight"].integers == 0) >= 0.899 > 0.75 > np.mean(model["model.layers.1.mlp.down_proj.weight"].integers == 0)


def test_refusals(made):
    config, tensors, path = made
    for share in (0.0, 1.0):
        with pytest.raises(UsageError, match="share"):
            drop_blocks(config, tensors, path, share=share)
    with pytest.raises(UsageError, match="method"):
        drop_blocks(config, tensors, path, share=0.5, method="magic")
    with pytest.raises(UsageError, match="sparsity"):
        sparsity_levels(config, tensors, path, bits=2.0, sparsity=0.0)
    with pytest.raises(InputError, match="modules of their own"):
        blocks_of(["layers.0.attn.q", "layers.0.fc1"])
    with pytest.raises(InputError, match="no tensors"):
        without_blocks(tensors, ("model.layers.7.mlp",))
