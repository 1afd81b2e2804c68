"""A Llama-style model as a function of its named tensors, so that weights can be rewritten and trained without a module in between.

Letters: B batch, T tokens, D width, H query heads, G key/value heads, K head width.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.core.errors import InputError
from scalebound.models.folder import read_config, read_tensors
from scalebound.models.load import newest_checkpoint, read_transformers
from scalebound.models.transformer import rotary_table, rotate

Weights = dict[str, Tensor]
Edit = Callable[[Tensor], Tensor]


def check_config(config: dict, where: str = "") -> None:
    """Refuse what :func:`logits_of` does not compute: another architecture, biases, scaled rotary angles.

    Raises
    ------
    InputError
        The key of ``config.json`` and what it should be.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    wrong = {
        "model_type": config.get("model_type") != "llama",
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "rope_scaling": (rope.get("rope_type") or rope.get("type") or "default") != "default",
    }
    for key, bad in wrong.items():
        if bad:
            expected = "a Llama-style folder: model_type llama, SiLU, no biases, plain rotary positions"
            raise InputError(f"{key} = {config.get(key)!r} is not supported by this probe", where=where, expected=expected)
    for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size"):
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise InputError(f"{key} = {config.get(key)!r}", where=where or "config.json", expected="a positive integer")


def read_llama(path: str | os.PathLike) -> tuple[dict, Weights]:
    """Configuration and float32 weights of a Llama-style folder, a ``.gguf`` file, a checkpoint, or the newest checkpoint of a run.

    Raises
    ------
    InputError
        Nothing there, another architecture, or a tensor missing.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        return _read_gguf(path)
    if not path.is_dir():
        raise InputError("no such folder", where=str(path), expected="a Llama-style folder, a run or a checkpoint")
    if (path / "checkpoints").is_dir():
        path = newest_checkpoint(path)
    config = read_config(path)
    check_config(config, str(path / "config.json"))
    weights = {name: tensor.float() for name, tensor in read_tensors(path).items()}
    needed = ["model.embed_tokens.weight", "model.norm.weight"]
    layer = [
        "input_layernorm",
        "post_attention_layernorm",
        *(f"self_attn.{k}_proj" for k in "qkvo"),
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ]
    needed += [f"model.layers.{number}.{name}.weight" for number in range(config["num_hidden_layers"]) for name in layer]
    for name in needed:
        if name not in weights:
            raise InputError(f"lacks the tensor {name!r}", where=str(path))
    return config, weights


def _read_gguf(path: Path) -> tuple[dict, Weights]:
    """The model ``transformers`` makes of a ``.gguf`` file, its weights as the numbers they stand for."""
    model = read_transformers(path)
    config = model.config.to_dict()
    check_config(config, str(path))
    return config, {name: tensor.detach() for name, tensor in model.state_dict().items()}


def untied(weights: Weights) -> Weights:
    """A copy whose output matrix is a tensor of its own; the function is unchanged."""
    return {"lm_head.weight": weights["model.embed_tokens.weight"].clone()} | {name: tensor.clone() for name, tensor in weights.items()}


def head_counts(config: dict) -> tuple[int, int, int]:
    """Query heads H, key/value heads G, head width K."""
    heads = config["num_attention_heads"]
    return heads, config.get("num_key_value_heads") or heads, config.get("head_dim") or config["hidden_size"] // heads


def rotary_of(config: dict, weights: Weights, length: int) -> tuple[Tensor, Tensor]:
    """The model's rotary cosines and sines, (T, K) each, in the precision of its weights."""
    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 10000.0
    cos_TK, sin_TK = rotary_table(length, head_counts(config)[2], theta)
    return cos_TK.to(weights["model.norm.weight"].dtype), sin_TK.to(weights["model.norm.weight"].dtype)


def unchanged(activation: Tensor) -> Tensor:
    """The edit that edits nothing."""
    return activation


def keys_values(config: dict, weights: Weights, number: int, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Keys, turned to their positions, and values of layer ``number``, (B, G, T, K) each, from the residual stream before it."""
    B, T, D = x_BTD.shape
    p = f"model.layers.{number}."
    y_BTD = F.rms_norm(x_BTD, (D,), weights[p + "input_layernorm.weight"], config.get("rms_norm_eps", 1e-5))
    k, v = (F.linear(y_BTD, weights[f"{p}self_attn.{name}_proj.weight"]).view(B, T, -1, head_counts(config)[2]).transpose(1, 2) for name in "kv")
    return rotate(k, *rotary), v


def block(config: dict, weights: Weights, number: int, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], *, past: tuple[Tensor, Tensor] | None = None,
          heads: Edit = unchanged, attention: Edit = unchanged, mlp: Edit = unchanged) -> Tensor:  # fmt: skip
    """Layer ``number``: residual stream (B, T, D) before it to the one after it.

    ``past`` holds keys and values of positions before the first of ``x_BTD`` (``rotary`` then begins at that one). ``heads`` is given what the heads read (B, T, H, K) before the output matrix, ``attention`` and ``mlp`` what is added to the stream
    (B, T, D); what they return is used instead.
    """
    H, G, K = head_counts(config)
    B, T, D = x_BTD.shape
    eps, p = config.get("rms_norm_eps", 1e-5), f"model.layers.{number}."
    y_BTD = F.rms_norm(x_BTD, (D,), weights[p + "input_layernorm.weight"], eps)
    q = rotate(F.linear(y_BTD, weights[p + "self_attn.q_proj.weight"]).view(B, T, H, K).transpose(1, 2), *rotary)
    k, v = keys_values(config, weights, number, x_BTD, rotary)
    if past is not None:
        k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
    mask = None if past is None else torch.ones(T, k.shape[2], dtype=torch.bool).tril(k.shape[2] - T)
    k, v = k.repeat_interleave(H // G, 1), v.repeat_interleave(H // G, 1)
    read_BTHK = heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None).transpose(1, 2))
    x_BTD = x_BTD + attention(F.linear(read_BTHK.reshape(B, T, H * K), weights[p + "self_attn.o_proj.weight"]))
    y_BTD = F.rms_norm(x_BTD, (D,), weights[p + "post_attention_layernorm.weight"], eps)
    gated = F.silu(F.linear(y_BTD, weights[p + "mlp.gate_proj.weight"])) * F.linear(y_BTD, weights[p + "mlp.up_proj.weight"])
    return x_BTD + mlp(F.linear(gated, weights[p + "mlp.down_proj.weight"]))


def readout(config: dict, weights: Weights, x_BTD: Tensor) -> Tensor:
    """Logits of a residual stream after the last layer."""
    x_BTD = F.rms_norm(x_BTD, x_BTD.shape[-1:], weights["model.norm.weight"], config.get("rms_norm_eps", 1e-5))
    return F.linear(x_BTD, weights.get("lm_head.weight", weights["model.embed_tokens.weight"]))


def logits_of(config: dict, weights: Weights, tokens_BT: Tensor) -> Tensor:
    """Logits (B, T, V) of tokens (B, T): pre-norm, rotary, grouped queries, gated SiLU; equal to ``transformers``' Llama.

    O(B T (parameters + T D)) time. Source: Touvron et al. 2023, arXiv 2302.13971.
    """
    rotary = rotary_of(config, weights, tokens_BT.shape[1])
    x_BTD = F.embedding(tokens_BT, weights["model.embed_tokens.weight"])
    for number in range(config["num_hidden_layers"]):
        x_BTD = block(config, weights, number, x_BTD, rotary)
    return readout(config, weights, x_BTD)


def random_llama(config: dict, generator: torch.Generator) -> Weights:
    """Fresh weights of a configuration: normal with standard deviation 1/sqrt(fan in), gains 1, embedding and head apart."""
    d, f, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    H, G, K = head_counts(config)
    shapes: dict[str, tuple[int, ...]] = {"lm_head.weight": (V, d), "model.embed_tokens.weight": (V, d), "model.norm.weight": (d,)}
    for number in range(config["num_hidden_layers"]):
        p = f"model.layers.{number}."
        shapes |= {p + "input_layernorm.weight": (d,), p + "post_attention_layernorm.weight": (d,), p + "self_attn.q_proj.weight": (H * K, d),
                   p + "self_attn.k_proj.weight": (G * K, d), p + "self_attn.v_proj.weight": (G * K, d), p + "self_attn.o_proj.weight": (d, H * K),
                   p + "mlp.gate_proj.weight": (f, d), p + "mlp.up_proj.weight": (f, d), p + "mlp.down_proj.weight": (d, f)}  # fmt: skip
    return {
        name: torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator) / shape[1] ** 0.5
        for name, shape in shapes.items()
    }
