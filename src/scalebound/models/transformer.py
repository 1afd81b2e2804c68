"""A plain decoder-only transformer: pre-norm, rotary positions, gated feed-forward, tied embeddings.

It computes what ``transformers``' Llama (with qk-norm: Qwen3) computes for the same folder (a test holds both to 1e-5), with the query, key and value
projections fused into one matrix and gate and up into another, which is what makes small models fast on one core.

Letters: B batch, T tokens, D width, H heads, K head width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalebound.core.hashing import canonical_config
from scalebound.models.language_model import Past
from scalebound.models.ranks import share_of, whole
from scalebound.models.shape import Shape
from scalebound.models.trainable import Trainable

EPS = 1e-5
WRITTEN_OUT = 512  # tokens up to which attention's products may be written out


def rotary_table(context: int, head_width: int, theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles, each (context, head width), halves repeated as Llama lays them out."""
    frequency = 1.0 / theta ** (torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angle_TK = torch.outer(torch.arange(context, dtype=torch.float32), frequency).repeat(1, 2)
    return angle_TK.cos(), angle_TK.sin()


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotate pairs (k, k + K/2) by the position's angle."""
    half = x_BHTK.shape[-1] // 2
    turned = torch.cat((-x_BHTK[..., half:], x_BHTK[..., :half]), dim=-1)
    return x_BHTK * cos_TK + turned * sin_TK


def attend(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """Causal attention, (B, H, T, K).

    PyTorch's fused kernel, but under bfloat16 autocast on a processor with short sequences, where its backward pass is two to three times slower than
    plain products (8 x 11 heads of 16, 256 tokens, one thread: 39 and 11 ms; benchmarks/LOG.md).
    """
    B, H, T, K = q_BHTK.shape
    if not (q_BHTK.device.type == "cpu" and T <= WRITTEN_OUT and torch.is_autocast_enabled("cpu")):
        return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
    q_NTK, k_NTK, v_NTK = (x.to(torch.bfloat16).reshape(B * H, T, K) for x in (q_BHTK / math.sqrt(K), k_BHTK, v_BHTK))
    hidden_TT = torch.full((T, T), -torch.inf, dtype=torch.bfloat16).triu(1)
    with torch.autocast("cpu", enabled=False):  # autocast would take the softmax through float32 arrays; its kernel adds up in float32 anyway
        weights_NTT = torch.baddbmm(hidden_TT.expand(B * H, T, T), q_NTK, k_NTK.transpose(1, 2)).softmax(-1)
        return (weights_NTT @ v_NTK).view(B, H, T, K)


class Layer(nn.Module):
    """Attention and feed-forward, each on the normalized residual stream."""

    qkv: nn.Parameter
    q_norm: nn.Parameter | None
    k_norm: nn.Parameter | None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d, f = shape.width, shape.feed_forward
        self.heads = shape.heads
        self.attention_norm = nn.Parameter(torch.ones(d))
        self.qkv = nn.Parameter(torch.empty(3 * d, d))
        self.q_norm = nn.Parameter(torch.ones(d // shape.heads)) if shape.qk_norm else None
        self.k_norm = nn.Parameter(torch.ones(d // shape.heads)) if shape.qk_norm else None
        self.attention_out = nn.Parameter(torch.empty(d, d))
        self.feed_forward_norm = nn.Parameter(torch.ones(d))
        self.gate_up = nn.Parameter(torch.empty(2 * f, d))
        self.down = nn.Parameter(torch.empty(d, f))

    def forward(self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
        q_BHTK, k_BHTK, v_BHTK = self.queries_keys_values(x_BTD, cos_TK, sin_TK)
        return self._mixed(x_BTD, attend(q_BHTK, k_BHTK, v_BHTK))

    def after(self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As ``forward`` for tokens that follow those of ``before``, whose keys and values are given; and the keys and values of both."""
        q_BHTK, k_BHTK, v_BHTK = self.queries_keys_values(x_BTD, cos_TK, sin_TK)
        if before is not None:
            k_BHTK, v_BHTK = torch.cat([before[0], k_BHTK], dim=2), torch.cat([before[1], v_BHTK], dim=2)
        T, S = q_BHTK.shape[2], k_BHTK.shape[2]
        seen_TS = torch.ones(T, S, dtype=torch.bool, device=x_BTD.device).tril(S - T)
        return self._mixed(x_BTD, F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, attn_mask=seen_TS)), (k_BHTK, v_BHTK)

    def queries_keys_values(self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, each (B, H, T, K)."""
        B, T, D = x_BTD.shape
        qkv = F.linear(F.rms_norm(x_BTD, (D,), self.attention_norm, EPS), self.qkv).view(B, T, 3, self.heads, D // self.heads)
        if self.q_norm is not None and self.k_norm is not None:
            width = (D // self.heads,)
            q_BTHK, k_BTHK = F.rms_norm(qkv[:, :, 0], width, self.q_norm, EPS), F.rms_norm(qkv[:, :, 1], width, self.k_norm, EPS)
            return rotate(q_BTHK.transpose(1, 2), cos_TK, sin_TK), rotate(k_BTHK.transpose(1, 2), cos_TK, sin_TK), qkv[:, :, 2].transpose(1, 2)
        qk_BHTK = rotate(qkv[:, :, :2].permute(2, 0, 3, 1, 4), cos_TK, sin_TK)
        return qk_BHTK[0], qk_BHTK[1], qkv[:, :, 2].transpose(1, 2)

    def _mixed(self, x_BTD: Tensor, mixed_BHTK: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        x_BTD = x_BTD + F.linear(mixed_BHTK.transpose(1, 2).reshape(B, T, D), self.attention_out)
        gate, up = F.linear(F.rms_norm(x_BTD, (D,), self.feed_forward_norm, EPS), self.gate_up).chunk(2, dim=-1)
        return x_BTD + F.linear(F.silu(gate) * up, self.down)


class Transformer(Trainable):
    """The model of a :class:`~scalebound.models.shape.Shape`, initialised from a generator.

    Every matrix starts normal with standard deviation 1/sqrt(fan in); those that write to the residual stream are divided by sqrt(2 L); the
    embedding, which is also the head, starts at 1/sqrt(D) so that first logits are of order one.
    """

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(self, shape: Shape, context: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.shape, self.context = shape, context
        self.embedding = nn.Parameter(torch.empty(shape.vocab_size, shape.width))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.depth))
        self.norm = nn.Parameter(torch.ones(shape.width))
        cos, sin = rotary_table(context, shape.width // shape.heads)
        self.register_buffer("cos_TK", cos, persistent=False)
        self.register_buffer("sin_TK", sin, persistent=False)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 2:
                    scale = 1 / math.sqrt(parameter.shape[1])
                    if name.endswith(("attention_out", "down")):
                        scale /= math.sqrt(2 * shape.depth)
                    parameter.normal_(0.0, scale, generator=generator)

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """Normalized final hidden states, (B, T, D)."""
        x_BTD = F.embedding(tokens_BT, self.embedding)
        T = tokens_BT.shape[1]
        for layer in self.layers:
            x_BTD = layer(x_BTD, self.cos_TK[:T], self.sin_TK[:T])
        return F.rms_norm(x_BTD, (x_BTD.shape[-1],), self.norm, EPS)

    def extend(self, tokens_BT: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """Hidden states of tokens that follow a past, and the past with them (see :class:`~scalebound.models.language_model.LanguageModel`)."""
        x_BTD, layers = F.embedding(tokens_BT, self.embedding), []
        start = len(past) if past is not None else 0
        stop = start + tokens_BT.shape[1]
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            x_BTD, kept = layer.after(x_BTD, self.cos_TK[start:stop], self.sin_TK[start:stop], past.layers[number] if past is not None else None)
            layers.append(kept)
        return F.rms_norm(x_BTD, (x_BTD.shape[-1],), self.norm, EPS), Past(layers)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states: (..., D) to (..., V)."""
        return F.linear(hidden, self.embedding)

    def forward(self, tokens_BT: Tensor, rounded: bool = False) -> Tensor:
        """Logits; ``rounded``: the matrix products before the head in bfloat16, everything else in float32."""
        if not rounded:
            return self.head(self.hidden(tokens_BT))
        with torch.autocast(tokens_BT.device.type, dtype=torch.bfloat16):
            hidden = self.hidden(tokens_BT)
        return self.head(hidden.float())

    def config(self) -> dict:
        """``config.json`` of a checkpoint."""
        return self.shape.config(self.context)

    def tensor_class(self, name: str) -> str:
        """ "embedding", "hidden", "gain" or "final gain": the row of a parametrization's table."""
        if name == "embedding":
            return "embedding"
        if name == "norm":
            return "final gain"
        return "gain" if name.endswith("_norm") else "hidden"

    def tensors(self) -> dict[str, Tensor]:
        """The weights under the names of a Llama-style folder; of a model in shards, gathered by all processes together."""
        out: dict[str, Tensor] = {"model.embed_tokens.weight": whole(self.embedding), "model.norm.weight": whole(self.norm)}
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            prefix = f"model.layers.{number}."
            q, k, v = whole(layer.qkv).chunk(3)
            gate, up = whole(layer.gate_up).chunk(2)
            out |= {
                prefix + "input_layernorm.weight": whole(layer.attention_norm), prefix + "self_attn.q_proj.weight": q,
                prefix + "self_attn.k_proj.weight": k, prefix + "self_attn.v_proj.weight": v,
                prefix + "self_attn.o_proj.weight": whole(layer.attention_out), prefix + "post_attention_layernorm.weight": whole(layer.feed_forward_norm),
                prefix + "mlp.gate_proj.weight": gate, prefix + "mlp.up_proj.weight": up, prefix + "mlp.down_proj.weight": whole(layer.down),
            }  # fmt: skip
            if layer.q_norm is not None and layer.k_norm is not None:
                out |= {prefix + "self_attn.q_norm.weight": whole(layer.q_norm), prefix + "self_attn.k_norm.weight": whole(layer.k_norm)}
        return {name: tensor.detach() for name, tensor in out.items()}

    @staticmethod
    def fused(tensors: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
        """The parameters of this module made of a folder's tensors, differentiably: what ``torch.func.functional_call`` takes."""
        out = {"embedding": tensors["model.embed_tokens.weight"], "norm": tensors["model.norm.weight"]}
        for number in range(depth):
            theirs, ours = f"model.layers.{number}.", f"layers.{number}."
            out |= {
                ours + "attention_norm": tensors[theirs + "input_layernorm.weight"],
                ours + "qkv": torch.cat([tensors[theirs + f"self_attn.{part}_proj.weight"] for part in "qkv"]),
                ours + "attention_out": tensors[theirs + "self_attn.o_proj.weight"],
                ours + "feed_forward_norm": tensors[theirs + "post_attention_layernorm.weight"],
                ours + "gate_up": torch.cat([tensors[theirs + f"mlp.{part}_proj.weight"] for part in ("gate", "up")]),
                ours + "down": tensors[theirs + "mlp.down_proj.weight"],
            } | {ours + part: tensors[theirs + f"self_attn.{part}.weight"] for part in ("q_norm", "k_norm") if theirs + f"self_attn.{part}.weight" in tensors}
        return out

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Copy the weights of a Llama-style folder into this model, or this process's share of them."""
        given = self.fused(tensors, self.shape.depth)
        with torch.no_grad():
            for name, own in self.named_parameters():
                own.copy_(share_of(given[name], own))


def own_shape(config: dict) -> Shape | None:
    """The shape of a configuration when it is one that :class:`Transformer` computes, else None."""
    try:
        shape = Shape(config["vocab_size"], config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"], config["intermediate_size"], config.get("model_type") == "qwen3")
    except KeyError:
        return None
    # every key must be one we write, with our value: anything else (scaled rotary angles, biases) is another function
    return shape if canonical_config(config) == canonical_config(shape.config(config.get("max_position_embeddings", 0))) else None
