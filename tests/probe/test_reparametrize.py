"""Every transformation keeps the logits; what the docstring calls not exact does change them."""

import pytest
import torch

from scalebound.core.errors import InputError, UsageError
from scalebound.models import Transformer, save_folder, shape_for
from scalebound.probe import TRANSFORMATIONS, fold, logits_of, read_llama, untied
from scalebound.probe.llama import head_counts, random_llama

GROUPED = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
           "intermediate_size": 48, "vocab_size": 40, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "head_dim": 8}  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def shaken(weights):
    """Gains away from 1, so that a forgotten one shows."""
    g = generator(1)
    return {name: t * (1 + 0.2 * torch.randn(t.shape, generator=g)) if t.ndim == 1 else t for name, t in weights.items()}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    shape = shape_for(20_000)
    model = Transformer(shape, 64, generator())
    model.load_tensors(shaken(model.tensors()))
    save_folder(path, shape.config(64), model.tensors())
    return path, model


def tokens(vocab):
    return torch.randint(0, vocab, (3, 24), generator=generator(5))


def test_the_function_is_our_transformer(own):
    path, model = own
    config, weights = read_llama(path)
    assert (logits_of(config, weights, tokens(256)) - model(tokens(256))).abs().max() < 1e-5
    assert (logits_of(config, untied(weights), tokens(256)) - model(tokens(256))).abs().max() < 1e-5


def test_the_function_is_llama_with_grouped_queries():
    transformers = pytest.importorskip("transformers")
    weights = shaken(random_llama(GROUPED, generator()))
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{k: v for k, v in GROUPED.items() if k != "model_type"})).eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        assert (model(tokens(40)).logits - logits_of(GROUPED, weights, tokens(40))).abs().max() < 1e-5


@pytest.mark.parametrize("name", [*TRANSFORMATIONS, "fold"])
@pytest.mark.parametrize("which", ["own", "grouped"])
def test_logits_stay(name, which, own):
    config, weights = read_llama(own[0]) if which == "own" else (GROUPED, shaken(random_llama(GROUPED, generator())))
    weights = untied(weights)
    changed = ({"fold": fold} | TRANSFORMATIONS)[name](config, weights, generator(4), 1.0)
    assert any((changed[key] - weights[key]).abs().max() > 0.1 for key in weights)
    before, after = (logits_of(config, w, tokens(config["vocab_size"])) for w in (weights, changed))
    assert (before - after).abs().max() < 1e-5
    exact = logits_of(config, {k: v.double() for k, v in changed.items()}, tokens(config["vocab_size"]))
    assert (before - exact).abs().max() < 1e-5


def test_what_is_not_exact_changes_the_logits():
    weights = untied(shaken(random_llama(GROUPED, generator())))
    before = logits_of(GROUPED, weights, tokens(40))

    def change(**new):
        return (
            (
                logits_of(GROUPED, weights | {f"model.layers.0.{k.replace('__', '.')}.weight": v for k, v in new.items()}, tokens(40))
                - before
            )
            .abs()
            .max()
        )

    H, G, K = head_counts(GROUPED)
    q, k = (weights[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qk")
    one_channel = torch.ones(G, K)
    one_channel[:, 0] = 2  # the partner of the rotary pair is left alone
    assert (
        change(
            self_attn__q_proj=q * one_channel.repeat_interleave(H // G, 0).reshape(-1, 1), self_attn__k_proj=k / one_channel.reshape(-1, 1)
        )
        > 1e-3
    )
    gate, down = weights["model.layers.0.mlp.gate_proj.weight"], weights["model.layers.0.mlp.down_proj.weight"]
    assert change(mlp__gate_proj=2 * gate, mlp__down_proj=down / 2) > 1e-3
    tied = {name: t for name, t in weights.items() if name != "lm_head.weight"}
    with pytest.raises(UsageError, match="tied"):
        fold(GROUPED, tied)


def test_other_architectures_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_llama(tmp_path / "none")
    save_folder(tmp_path, GROUPED | {"attention_bias": True}, random_llama(GROUPED, generator()))
    with pytest.raises(InputError, match="attention_bias"):
        read_llama(tmp_path)
    save_folder(tmp_path, GROUPED, {"model.norm.weight": torch.ones(32)})
    with pytest.raises(InputError, match="lacks the tensor"):
        read_llama(tmp_path)
