"""Rounding with calibration text: the length asked for, better than plain rounding at it, resumable, any architecture, what is refused."""

import importlib

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scalebound.compress import Coded, decode, encode, quantize, read_checkpoint
from scalebound.compress.pruning import keep_largest
from scalebound.core.errors import InputError, UsageError
from scalebound.data.stream import Stream
from scalebound.models.load import from_tensors, transformers_from_config
from scalebound.train import derive_recipe, quantize_calibrated, train_run
from scalebound.train.curvature import curvature, sampled_labels
from scalebound.train.evolution import FACTORS, matrix_levels

module = importlib.import_module("scalebound.train.posttraining")
RECIPE = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 150, batch_sequences=4, warmup=0.1)
BITS = 3.0  # at fewer, scales for rows and columns are too large a part of so small a model
HELD_OUT = 16_000  # tokens that calibration does not see


@pytest.fixture(scope="module")
def made(tmp_path_factory, stream):
    folder = tmp_path_factory.mktemp("posttraining")
    train_run(RECIPE, stream.path, folder / "run")
    return *read_checkpoint(folder / "run"), stream.path


def loss(config, tensors, path):
    stream = Stream(path)
    targets = torch.from_numpy(np.asarray(stream.tokens[HELD_OUT : HELD_OUT + 64 * 32]).astype(np.int64).reshape(64, 32))
    model = from_tensors(config, {name: torch.from_numpy(np.array(data)) for name, data in tensors.items()}, name="test")
    logits = model.logits(F.pad(targets[:, :-1], (1, 0), value=stream.info.separator))
    return float(F.cross_entropy(logits.flatten(0, 1), targets.flatten()))


def test_the_file_is_as_long_as_asked_for_and_better_than_plain_rounding(made):
    config, tensors, path = made
    full = loss(config, tensors, path)
    found = {allocation: quantize_calibrated(config, tensors, path, bits=BITS, allocation=allocation, sequences=128) for allocation in ("fisher", "uniform")}
    for result in found.values():
        package = encode(result.model)
        assert 8 * len(package) / result.model.num_params == result.bits_per_parameter and 0.96 * BITS < result.bits_per_parameter <= BITS
        assert (result.level, result.bits_per_parameter) in result.passes and len(result.passes) <= 8 and result.window == (0, 128 * 32)
    lost = {name: loss(config, decode(encode(result.model))[1], path) - full for name, result in found.items()}
    plain = min((quantize(config, tensors, step=step) for step in np.geomspace(0.4, 1.8, 25)), key=lambda model: abs(8 * len(encode(model)) / model.num_params - BITS))
    lost["plain"] = loss(config, plain.dequantized(), path) - full
    assert lost["fisher"] < 0.9 * min(lost["plain"], lost["uniform"]), lost  # in so small a model one step for all is about as good as plain rounding


@pytest.mark.parametrize("rule", ["magnitude", "wanda", "sparsegpt"])
def test_pruned_maps_have_their_zeros(made, rule):
    config, tensors, path = made
    found = quantize_calibrated(config, tensors, path, bits=2.5, prune=rule, sparsity=0.6, sequences=8).model.tensors
    linear = [tensor.integers for name, tensor in found.items() if isinstance(tensor, Coded) and name.endswith("proj.weight")]
    assert len(linear) == 7 * config["num_hidden_layers"] and np.mean(np.concatenate([integers.ravel() for integers in linear]) == 0) >= 0.59
    assert np.mean(found["model.embed_tokens.weight"].integers == 0) < 0.6, "control: the embedding is not pruned"


def test_zeros_of_a_pruned_model_stay_zero(made):
    config, tensors, path = made
    pruned = {name: data * keep_largest(data, 0.6) if name.endswith("proj.weight") else data for name, data in tensors.items()}
    found, free = (quantize_calibrated(config, pruned, path, bits=2.0, penalty=0.0, prune=prune, sequences=8).model.dequantized() for prune in ("kept", None))
    assert all(not np.any(found[name][pruned[name] == 0]) for name in pruned if name.endswith("proj.weight"))
    name = "model.layers.0.mlp.down_proj.weight"
    assert np.any(free[name][pruned[name] == 0]), "control: errors that are passed on fill zeros again"


def test_same_seed_same_bytes_and_an_interrupted_call_goes_on(made, tmp_path, monkeypatch):
    config, tensors, path = made
    whole = quantize_calibrated(config, tensors, path, bits=2.0, sequences=16)
    calls = []
    real = module.gptq

    def stopping(*arguments, **options):
        calls.append(1)
        if len(calls) == 32:  # 27 of the pilot, and some of the first pass
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(module, "gptq", stopping)
    with pytest.raises(KeyboardInterrupt):
        quantize_calibrated(config, tensors, path, bits=2.0, sequences=16, state=tmp_path / "s", checkpoint_s=0.0)
    assert (tmp_path / "s").is_file()
    before = len(calls)
    again = quantize_calibrated(config, tensors, path, bits=2.0, sequences=16, state=tmp_path / "s", checkpoint_s=0.0)
    rounds = len(calls) - before
    assert encode(again.model) == encode(whole.model) and again.record() == whole.record() and not (tmp_path / "s").exists()
    calls[:] = [1] * 1000
    quantize_calibrated(config, tensors, path, bits=2.0, sequences=16)
    assert rounds < len(calls) - 1000, "what was done is not done again"
    monkeypatch.setattr(module, "gptq", real)
    assert encode(quantize_calibrated(config, tensors, path, bits=2.0, sequences=16, seed=1).model) != encode(whole.model), "control: other labels"


@pytest.mark.parametrize("method", ["evolution", "additive"])
def test_levels_for_every_matrix(made, method):
    config, tensors, path = made
    found = matrix_levels(config, tensors, path, bits=2.0, method=method, sequences=16, generations=4)
    again = matrix_levels(config, tensors, path, bits=2.0, method=method, sequences=16, generations=4)
    assert again == found and found.loss_full < found.loss_common
    assert set(found.factors) == {name for name in tensors if tensors[name].ndim == 2} and set(found.factors.values()) <= set(FACTORS)
    if method == "evolution":
        assert found.divergence_chosen <= found.divergence_common, "the parent competes on all of the text"
    one = {"model.layers.0.mlp.down_proj.weight": 0.25}
    finer, plain = (quantize_calibrated(config, tensors, path, bits=2.5, factors=factors, sequences=16).model.tensors for factors in (one, None))
    size = {key: [float(np.abs(model[f"model.layers.0.mlp.{key}_proj.weight"].integers).mean()) for model in (finer, plain)] for key in ("down", "up")}
    assert size["down"][0] > 1.5 * size["down"][1] and size["up"][0] < size["up"][1], "bits go to one and are taken from the others"


def test_labels_are_drawn_from_the_model():
    probability = torch.tensor([0.1, 0.0, 0.6, 0.25, 0.05])
    found = sampled_labels(probability.expand(100_000, 5).contiguous(), torch.Generator().manual_seed(0))
    assert found.shape == (100_000, 1)
    assert torch.allclose(torch.bincount(found[:, 0], minlength=5) / 100_000, probability, atol=0.007) and not (found == 1).any()


def test_a_state_of_other_settings_is_not_used(made, tmp_path):
    config, tensors, path = made
    state = tmp_path / "s"
    state.write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="state of a rounding"):
        quantize_calibrated(config, tensors, path, bits=2.0, sequences=4, state=state)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_any_architecture(kind, made):
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    torch.manual_seed(0)
    if kind == "gpt2":  # transposed linear maps with biases, position embeddings, tied
        shape = GPT2Config(vocab_size=256, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    else:  # grouped queries, an output matrix of its own
        shape = LlamaConfig(vocab_size=256, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False)
    theirs = AutoModelForCausalLM.from_config(shape)
    tensors = {name: data.detach().numpy() for name, data in theirs.state_dict().items() if not (kind == "gpt2" and name == "lm_head.weight")}
    tensors = {name: 10 * data if data.ndim == 2 else data for name, data in tensors.items()}  # logits that differ, so that there is something to lose
    config = shape.to_dict()
    found = quantize_calibrated(config, tensors, made[2], bits=5.0, sequences=8)
    decoded = decode(encode(found.model))[1]
    assert set(decoded) == set(tensors) and all(decoded[name].shape == tensors[name].shape for name in tensors)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 30)))

    def probabilities(weights):
        net = transformers_from_config(dict(config), {name: torch.from_numpy(np.array(data)) for name, data in weights.items()}, "test").eval()
        with torch.no_grad():
            return net(tokens).logits.log_softmax(-1)

    full = probabilities(tensors)
    divergence = [float((full.exp() * (full - probabilities(weights))).sum(-1).mean()) for weights in (decoded, {name: np.roll(data, 1) for name, data in decoded.items()})]
    assert 0 < divergence[0] < 0.15 * divergence[1], divergence
    coded = [name for name, tensor in found.model.tensors.items() if isinstance(tensor, Coded) and tensor.col_scales is not None]
    assert len(coded) == (9 if kind == "gpt2" else 16), "every linear map and embedding, but not the positions"


def test_a_tied_matrix_that_is_stored_twice_stays_tied(made):
    config, tensors, path = made
    twice = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    found = decode(encode(quantize_calibrated(config, twice, path, bits=4.0, sequences=4).model))[1]
    assert np.array_equal(found["lm_head.weight"], found["model.embed_tokens.weight"]) and set(found) == set(twice)


def test_curvature_against_gradients_of_each_label(made):
    """E over labels of delta^2, exactly by enumeration on few tokens, against the mean over many drawn ones."""
    config, tensors, _ = made
    net = transformers_from_config(dict(config), {name: torch.from_numpy(np.array(data)) for name, data in tensors.items()}, "test").eval().requires_grad_(False)
    name = "model.layers.0.mlp.down_proj"
    part = dict(net.named_modules())[name]
    tokens = np.array([[255, 100, 101]])
    drawn = curvature(net, {name: part}, np.repeat(tokens, 20_000, axis=0), torch.Generator().manual_seed(0))
    kept = []
    handle = part.register_forward_hook(lambda _, inputs, output: kept.append(output.requires_grad_()) or output)
    embedded = net.get_input_embeddings().register_forward_hook(lambda _, inputs, output: output.requires_grad_())
    log_p = net(torch.from_numpy(tokens)).logits.log_softmax(-1)[0]
    exact = torch.zeros(log_p.shape[0], kept[0].shape[-1])
    for position in range(3):  # labels of different positions are independent, so their curvatures add up
        for label in range(256):
            gradient = torch.autograd.grad(log_p[position, label], kept[0], retain_graph=True)[0][0]
            exact += log_p[position, label].exp().detach() * gradient.square()
    handle.remove()
    embedded.remove()
    assert np.allclose(drawn.rows[name], (exact.sum(0) / 3).numpy(), rtol=0.15)
    p = log_p.exp().detach()
    assert np.allclose(drawn.spread, (p * (1 - p)).sum(0).numpy() / 3, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("setting", [{"bits": 0.0}, {"bits": 20.0}, {"bits": 3.0, "penalty": -1.0}, {"bits": 3.0, "penalty": 1.0, "allocation": "uniform"},
                                     {"bits": 3.0, "allocation": "other"}, {"bits": 3.0, "sequences": 0}, {"bits": 3.0, "start": -1},
                                     {"bits": 3.0, "sparsity": 0.5}, {"bits": 3.0, "prune": "wanda"}, {"bits": 3.0, "prune": "wanda", "sparsity": 1.0}])  # fmt: skip
def test_settings_out_of_range(made, setting):
    with pytest.raises(UsageError):
        quantize_calibrated(*made, **setting)


def test_streams_that_do_not_fit(made):
    config, tensors, path = made
    with pytest.raises(InputError, match="tokens"):
        quantize_calibrated(config, tensors, path, bits=3.0, sequences=100_000)
    with pytest.raises(InputError, match="token ids"):
        quantize_calibrated(config | {"vocab_size": 100}, tensors, path, bits=3.0)
