"""Weights rewritten so that the function stays exactly the same.

Each function takes a Llama-style model's configuration and weights and returns new weights with equal logits (in exact arithmetic; to 1e-5 in
float32). What makes each exact, and where it stops being exact:

=================  =========================================================  =================================================
transformation     why the logits stay                                        not exact for
=================  =========================================================  =================================================
query_key          q.k is kept when q is multiplied and k divided by s;       a factor per channel (rotary positions mix channel
                   rotary positions rotate the pair (j, j + K/2), so both     j with j + K/2); models that normalize queries and
                   channels of a pair share one s                             keys (qk-norm)
value_output       attention mixes tokens, never channels of v                biases on v that are not scaled along
up_down            silu(gate) * up is linear in up                            scaling *gate* (SiLU is not homogeneous); ReLU
                                                                              networks without a gate allow positive factors only
permute_neurons    the sum over hidden neurons has no order                   -
permute_heads      the sum over heads has no order; grouped queries move      moving one query head to another key/value group
                   with their key/value head
fold               gain g before a matrix W equals gain 1 before W diag(g)    a tied head (the final gain cannot enter the
                                                                              embedding): weights must be untied first
rotate_residual    RMS norm with gain 1 commutes with every orthogonal Q      LayerNorm (it subtracts the mean), gains not folded,
                                                                              a tied head with a gain
=================  =========================================================  =================================================

Sources: Ashkboos et al. 2024 (SliceGPT, arXiv 2401.15024) for the rotation; Dinh et al. 2017 (arXiv 1703.04933) for scaling and why flatness
is not a property of the function; Reizinger et al. 2024 (arXiv 2405.01964) for what this means for language models.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scalebound.core.errors import UsageError
from scalebound.probe.llama import Weights, head_counts

Transformation = Callable[[dict, Weights, torch.Generator, float], Weights]


def _factors(count: int, generator: torch.Generator, strength: float) -> Tensor:
    """Log-normal factors, or with strength 0 ones."""
    return torch.exp(strength * torch.randn(count, generator=generator))


def _layers(config: dict) -> list[str]:
    return [f"model.layers.{number}." for number in range(config["num_hidden_layers"])]


def query_key(config: dict, weights: Weights, generator: torch.Generator, strength: float = 1.0) -> Weights:
    """Multiply each rotary pair of queries by s and divide the pair of keys by s, one s per key/value head and pair."""
    H, G, K = head_counts(config)
    out = dict(weights)
    for p in _layers(config):
        s_GK = _factors(G * K // 2, generator, strength).view(G, K // 2).repeat(1, 2)  # the pair (j, j + K/2) shares its factor
        s_HK = s_GK.repeat_interleave(H // G, 0)
        out[p + "self_attn.q_proj.weight"] = weights[p + "self_attn.q_proj.weight"] * s_HK.reshape(-1, 1)
        out[p + "self_attn.k_proj.weight"] = weights[p + "self_attn.k_proj.weight"] / s_GK.reshape(-1, 1)
    return out


def value_output(config: dict, weights: Weights, generator: torch.Generator, strength: float = 1.0) -> Weights:
    """Multiply each value channel by s and divide the columns of the output matrix that read it."""
    H, G, K = head_counts(config)
    out = dict(weights)
    for p in _layers(config):
        s_GK = _factors(G * K, generator, strength).view(G, K)
        out[p + "self_attn.v_proj.weight"] = weights[p + "self_attn.v_proj.weight"] * s_GK.reshape(-1, 1)
        out[p + "self_attn.o_proj.weight"] = weights[p + "self_attn.o_proj.weight"] / s_GK.repeat_interleave(H // G, 0).reshape(1, -1)
    return out


def up_down(config: dict, weights: Weights, generator: torch.Generator, strength: float = 1.0) -> Weights:
    """Multiply each row of ``up`` by s and divide the column of ``down`` that reads it."""
    out = dict(weights)
    for p in _layers(config):
        s_F = _factors(config["intermediate_size"], generator, strength)
        out[p + "mlp.up_proj.weight"] = weights[p + "mlp.up_proj.weight"] * s_F[:, None]
        out[p + "mlp.down_proj.weight"] = weights[p + "mlp.down_proj.weight"] / s_F
    return out


def permute_neurons(config: dict, weights: Weights, generator: torch.Generator, strength: float = 1.0) -> Weights:
    """Reorder the hidden neurons of every feed-forward block; ``strength`` has no meaning here."""
    out = dict(weights)
    for p in _layers(config):
        order = torch.randperm(config["intermediate_size"], generator=generator)
        for name in ("gate", "up"):
            out[f"{p}mlp.{name}_proj.weight"] = weights[f"{p}mlp.{name}_proj.weight"][order]
        out[p + "mlp.down_proj.weight"] = weights[p + "mlp.down_proj.weight"][:, order]
    return out


def permute_heads(config: dict, weights: Weights, generator: torch.Generator, strength: float = 1.0) -> Weights:
    """Reorder the key/value heads with the query heads that read them, and those among themselves; ``strength`` has no meaning here."""
    H, G, K = head_counts(config)
    out = dict(weights)
    for p in _layers(config):
        order_G = torch.randperm(G, generator=generator)
        order_H = torch.cat([g * (H // G) + torch.randperm(H // G, generator=generator) for g in order_G])
        rows = {"k": torch.arange(G * K).view(G, K)[order_G].flatten(), "q": torch.arange(H * K).view(H, K)[order_H].flatten()}
        for name, key in (("q", "q"), ("k", "k"), ("v", "k")):
            out[f"{p}self_attn.{name}_proj.weight"] = weights[f"{p}self_attn.{name}_proj.weight"][rows[key]]
        out[p + "self_attn.o_proj.weight"] = weights[p + "self_attn.o_proj.weight"][:, rows["q"]]
    return out


def _readers(config: dict) -> list[tuple[str, list[str]]]:
    """Every norm and the matrices that read what it normalized."""
    pairs = [("model.norm.weight", ["lm_head.weight"])]
    for p in _layers(config):
        pairs.append((p + "input_layernorm.weight", [f"{p}self_attn.{name}_proj.weight" for name in "qkv"]))
        pairs.append((p + "post_attention_layernorm.weight", [p + "mlp.gate_proj.weight", p + "mlp.up_proj.weight"]))
    return pairs


def fold(config: dict, weights: Weights, generator: torch.Generator | None = None, strength: float = 1.0) -> Weights:
    """Move every norm's gain into the matrices that read it, leaving gains of 1. Needs an untied head.

    Raises
    ------
    UsageError
        The head is tied to the embedding.
    """
    if "lm_head.weight" not in weights:
        raise UsageError("the output matrix is tied to the embedding", expected="untied weights", hint="scalebound.probe.untied(weights)")
    out = dict(weights)
    for norm, readers in _readers(config):
        for name in readers:
            out[name] = weights[name] * weights[norm]
        out[norm] = torch.ones_like(weights[norm])
    return out


def rotate_residual(config: dict, weights: Weights, generator: torch.Generator, strength: float = 1.0) -> Weights:
    """Fold the gains, then turn the residual stream by a random orthogonal matrix; ``strength`` has no meaning here.

    Writers W (embedding rows, ``o``, ``down``) become Q W, readers W become W Q^T. Needs an untied head.
    """
    folded = fold(config, weights)
    d = config["hidden_size"]
    # float64: the product of float32 matrices with a float32 Q would already cost half of the 1e-5
    Q, R = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    Q = Q * R.diagonal().sign()  # uniformly distributed, not LAPACK's choice of signs
    out = dict(folded)
    for name, tensor in folded.items():
        if tensor.ndim == 1:
            continue
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            out[name] = (Q @ tensor.double()).to(tensor.dtype)
        else:  # readers, and the embedding, whose rows are vectors of the residual stream
            out[name] = (tensor.double() @ Q.T).to(tensor.dtype)
    return out


TRANSFORMATIONS: dict[str, Transformation] = {
    "permute_neurons": permute_neurons, "permute_heads": permute_heads, "query_key": query_key, "value_output": value_output,
    "up_down": up_down, "rotate_residual": rotate_residual,
}  # fmt: skip
