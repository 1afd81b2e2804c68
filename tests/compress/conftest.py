"""Models to compress: small Llama-style ones with the configuration our own training writes."""

import numpy as np
import pytest

from scalebound.compress import decode, encode
from scalebound.compress.foreign import keep_folder
from scalebound_verify.package import decode as checker_decode


@pytest.fixture(scope="session")
def decoded_alike():
    """``decoded_alike(folder)`` -> (tensors of its package with integers kept, the model); the checker's decoder has the same to the bit."""

    def decoded(path):
        model = keep_folder(path)
        package = encode(model)
        found, checked = decode(package)[1], checker_decode(package, model.num_params)[1]
        assert {name: value.tobytes() for name, value in found.items()} == {name: value.tobytes() for name, (_, value) in checked.items()}
        return found, model

    return decoded


@pytest.fixture
def llama():
    """``llama(width, depth, feed_forward, seed)`` -> (config, tensors) with rows of unequal size and norms near 1."""

    def make(width=32, depth=1, feed_forward=64, seed=0, vocab=256):
        rng = np.random.default_rng(seed)
        config = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": width, "intermediate_size": feed_forward,
            "num_hidden_layers": depth, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": width // 4, "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
            "vocab_size": vocab, "bos_token_id": None, "eos_token_id": None, "torch_dtype": "float32",
        }  # fmt: skip
        shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
        for k in range(depth):
            p = f"model.layers.{k}."
            shapes |= {p + "input_layernorm.weight": (width,), p + "post_attention_layernorm.weight": (width,)}
            shapes |= {p + f"self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
            shapes |= {p + f"mlp.{name}_proj.weight": (feed_forward, width) for name in ("gate", "up")} | {p + "mlp.down_proj.weight": (width, feed_forward)}
        tensors = {}
        for name, shape in shapes.items():
            rows = np.exp(0.3 * rng.normal(size=(shape[0],) + (1,) * (len(shape) - 1)))
            tensors[name] = (rows * rng.normal(size=shape) * 0.1 if len(shape) == 2 else 1 + 0.1 * rng.normal(size=shape)).astype(np.float32)
        return config, tensors

    return make
