"""Llama-style models inside ``.gguf`` files: their configuration and the names and order of their tensors.

The file stores rotary pairs next to each other where a folder stores them half a head apart, so the rows of queries and keys of the
architecture ``llama`` are put back in a folder's order. A tensor or a setting not known here leaves the file to ``transformers``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from scalebound.models.gguf_file import GgufFile

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
INSIDE = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
KEYS = {
    "context_length": "max_position_embeddings", "embedding_length": "hidden_size", "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim", "vocab_size": "vocab_size",
}  # fmt: skip
WITHOUT_EFFECT = ("rope.freq_base", "rope.dimension_count", "attention.value_length")  # beside KEYS, when they say what KEYS imply


def folder_config(file: GgufFile) -> dict[str, Any] | None:
    """The ``config.json`` of the same model in a folder; None when the file says more than that can."""
    kind = file.fields.get("general.architecture")
    if kind not in ARCHITECTURES or "token_embd.weight" not in file.tensors:
        return None
    own = {key.removeprefix(f"{kind}."): value for key, value in file.fields.items() if key.startswith(f"{kind}.")}
    if set(own) - set(KEYS) - set(WITHOUT_EFFECT) or any(folder_name(name) is None for name in file.tensors):
        return None
    config = {KEYS[key]: value for key, value in own.items() if key in KEYS}
    if not all(isinstance(config.get(key), int) for key in ("hidden_size", "num_attention_heads")) or "rope.freq_base" not in own:
        return None
    width = config.setdefault("head_dim", config["hidden_size"] // max(1, config["num_attention_heads"]))
    if own.get("rope.dimension_count", width) != width or own.get("attention.value_length", width) != width:
        return None
    config.setdefault("num_key_value_heads", config["num_attention_heads"])
    config.setdefault("vocab_size", file.tensors["token_embd.weight"].shape[0])
    return config | {
        "model_type": kind, "hidden_act": "silu", "rope_parameters": {"rope_theta": own["rope.freq_base"], "rope_type": "default"},
        "bos_token_id": file.fields.get("tokenizer.ggml.bos_token_id"), "eos_token_id": file.fields.get("tokenizer.ggml.eos_token_id"),
    }  # fmt: skip


def folder_name(name: str) -> str | None:
    """The name of a tensor in a folder; None for one that is not known.

    >>> folder_name("blk.3.attn_q.weight"), folder_name("rope_freqs.weight")
    ('model.layers.3.self_attn.q_proj.weight', None)
    """
    if name in OUTSIDE:
        return OUTSIDE[name]
    found = re.fullmatch(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)", name)
    return f"model.layers.{found[1]}.{INSIDE[found[2]]}.{found[3]}" if found and found[2] in INSIDE else None


def folder_order(config: dict[str, Any], name: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """What puts the rows of tensor ``name`` (in the file) in a folder's order; None where they are."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(name.split(".")[2] if name.startswith("blk.") else "")
    if config["model_type"] != "llama" or heads is None:
        return None
    return lambda rows: rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def folder_pieces(file: GgufFile, config: dict[str, Any], name: str) -> Iterator[np.ndarray]:
    """The numbers of tensor ``name`` (in the file) in a folder's order, float32, piece by piece."""
    order = folder_order(config, name)
    if order is None:
        yield from file.pieces(name)
    else:
        yield order(file.read(name))
