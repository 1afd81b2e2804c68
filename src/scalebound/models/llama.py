"""The decoder of Llama and its relatives (Mistral, Qwen2, Qwen3), computed here instead of by ``transformers``.

Pre-norm, rotary positions, grouped keys, gated feed-forward; optionally biases and normalised queries and keys. It exists because a model of
this shape then loads tensor by tensor into its final precision, needs 150 MB less than with ``transformers`` imported, and runs with
:mod:`~scalebound.models.matrix` and :mod:`~scalebound.models.attention`. A test holds it to ``transformers``' numbers for every family; a configuration with
anything else in it (scaled rotary angles, a sliding window, other activations) is left to ``transformers``.

Letters: B batch, T tokens, D width, H query heads, G key heads, K head width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.models.attention import causal_attention
from scalebound.models.language_model import Past
from scalebound.models.matrix import Matrix
from scalebound.models.ranks import ALONE, Ranks

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROWS = 1024  # of the feed-forward part at once: more is no faster, and memory counts
PROJECTIONS = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}


@dataclass(frozen=True)
class LlamaShape:
    """Sizes of a decoder, read from a ``config.json``."""

    vocab_size: int
    width: int
    depth: int
    heads: int
    key_heads: int
    head_width: int
    feed_forward: int
    context: int
    eps: float
    theta: float

    @classmethod
    def of(cls, config: dict[str, Any]) -> LlamaShape | None:
        """The shape of a configuration whose function :class:`Llama` computes; None for any other."""
        rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta"), "rope_type": "default"}
        slides = config.get("use_sliding_window", config.get("model_type") == "mistral")
        plain = (
            config.get("model_type") in FAMILIES and config.get("hidden_act") == "silu" and not config.get("rope_scaling")
            and rope.get("rope_type", "default") == "default" and rope.get("partial_rotary_factor", 1.0) == 1.0 and set(rope) <= {"rope_theta", "rope_type", "partial_rotary_factor"}
            and not (slides and (config.get("sliding_window") or 1 << 60) < (config.get("max_position_embeddings") or 0))
            and set(config.get("layer_types") or ["full_attention"]) == {"full_attention"} and config.get("pretraining_tp", 1) == 1 and not config.get("quantization_config")
        )  # fmt: skip
        try:
            heads, width = config["num_attention_heads"], config["hidden_size"]
            sizes = (config["vocab_size"], width, config["num_hidden_layers"], heads, config.get("num_key_value_heads") or heads, config.get("head_dim") or width // heads,
                     config["intermediate_size"], config["max_position_embeddings"])  # fmt: skip
            found = cls(*sizes, eps=float(config["rms_norm_eps"]), theta=float(rope["rope_theta"]))
        except (KeyError, TypeError):
            return None
        right = all(isinstance(size, int) and size > 0 for size in sizes) and found.heads % found.key_heads == 0 and found.head_width % 2 == 0
        return found if plain and right else None


@dataclass
class Slot:
    """Where a tensor of ``shape`` goes: rows from ``row`` on and columns from ``column`` on into ``view``; of one process alone, all of it."""

    view: Tensor
    shape: tuple[int, ...]
    row: int = 0
    column: int = 0

    def put(self, at: int, piece: Tensor) -> None:
        """Copy rows [at, at + len(piece)) of the tensor, as far as they belong here."""
        low, high = max(at, self.row), min(at + len(piece), self.row + len(self.view))
        if low < high:
            part = piece[low - at : high - at]
            self.view[low - self.row : high - self.row].copy_(part if part.ndim == 1 else part[:, self.column : self.column + self.view.shape[1]])


class Llama:
    """A decoder whose weights are filled in one by one, in any order.

    Parameters
    ----------
    shape
    names
        The tensors it will be given, under the names of a folder; biases and norms of queries and keys exist when they are named.
    ranks
        The processes that share its heads and feed-forward units, whose numbers they divide.
    """

    def __init__(self, shape: LlamaShape, names: Iterable[str], *, dtype: torch.dtype, device: str, ranks: Ranks = ALONE) -> None:
        self.shape, self.ranks = shape, ranks
        self.slots: dict[str, Slot] = {}  # by name in the folder
        wanted = set(names)
        D, K = shape.width, shape.head_width
        rows_q, rows_k, rows_f = shape.heads * K // ranks.world, shape.key_heads * K // ranks.world, shape.feed_forward // ranks.world

        def vector(name: str, size: int) -> Tensor:
            values = torch.empty(size, dtype=dtype, device=device)
            self.slots[name] = Slot(values, (size,))
            return values

        def joined(*parts: tuple[str, int]) -> Matrix:
            """Matrices that read the same input, one below the other, of each this process's rows."""
            total = sum(rows for _, rows in parts)
            weight = torch.empty(total, D, dtype=dtype, device=device)
            bias = torch.empty(total, dtype=dtype, device=device) if f"{parts[0][0]}.bias" in wanted else None
            start = 0
            for part, rows in parts:
                self.slots[f"{part}.weight"] = Slot(weight[start : start + rows], (rows * ranks.world, D), ranks.rank * rows)
                if bias is not None:
                    self.slots[f"{part}.bias"] = Slot(bias[start : start + rows], (rows * ranks.world,), ranks.rank * rows)
                start += rows
            return Matrix(weight, bias)

        def back(name: str, columns: int) -> Matrix:
            """A matrix that writes to the residual stream: of it this process's columns; its bias is added by the first process."""
            weight = torch.empty(D, columns, dtype=dtype, device=device)
            self.slots[f"{name}.weight"] = Slot(weight, (D, columns * ranks.world), 0, ranks.rank * columns)
            bias = vector(f"{name}.bias", D) if f"{name}.bias" in wanted else None
            return Matrix(weight, bias if ranks.first else None)

        self.embedding = torch.empty(shape.vocab_size, D, dtype=dtype, device=device)
        self.slots["model.embed_tokens.weight"] = Slot(self.embedding, (shape.vocab_size, D))
        self.output = self.embedding
        if "lm_head.weight" in wanted:
            self.output = torch.empty(shape.vocab_size, D, dtype=dtype, device=device)
            self.slots["lm_head.weight"] = Slot(self.output, (shape.vocab_size, D))
        self.norm = vector("model.norm.weight", D)
        self.layers = []
        for number in range(shape.depth):
            at = f"model.layers.{number}."
            q, k, v, o = (f"{at}self_attn.{name}" for name in PROJECTIONS["self_attn"])
            gate, up, down = (f"{at}mlp.{name}" for name in PROJECTIONS["mlp"])
            normed = tuple(vector(f"{at}self_attn.{name}_norm.weight", K) for name in "qk") if f"{at}self_attn.q_norm.weight" in wanted else None
            self.layers.append(_Layer(
                shape, ranks, vector(at + "input_layernorm.weight", D), joined((q, rows_q), (k, rows_k), (v, rows_k)), normed, back(o, rows_q),
                vector(at + "post_attention_layernorm.weight", D), joined((gate, rows_f)), joined((up, rows_f)), back(down, rows_f),
            ))  # fmt: skip
        frequency = 1.0 / shape.theta ** (torch.arange(0, K, 2, dtype=torch.int64).float() / K)
        angle = torch.outer(torch.arange(shape.context, dtype=torch.float32), frequency)
        self.cos, self.sin = (wave.to(device, dtype)[:, None, :] for wave in (angle.cos(), angle.sin()))  # (context, 1, K/2)

    def settle(self) -> None:
        """All weights are in place: pack the layers' matrices, one at a time, so that little more than the weights is ever in memory."""
        self.slots.clear()  # their views would keep the plain weights
        for layer in self.layers:
            for matrix in (layer.qkv, layer.attention_out, layer.gate, layer.up, layer.down):
                matrix.pack()

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """Normalised final hidden states, (B, T, D)."""
        x, T = F.embedding(tokens_BT, self.embedding), tokens_BT.shape[1]
        for layer in self.layers:
            q, k, v = layer.projected(x, self.cos[:T], self.sin[:T])
            x = layer.mixed(x, causal_attention(q, k, v))
        return F.rms_norm(x, (self.shape.width,), self.norm, self.shape.eps)

    def extend(self, tokens_BT: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """As in :class:`~scalebound.models.language_model.LanguageModel`."""
        x, layers, start = F.embedding(tokens_BT, self.embedding), [], len(past) if past is not None else 0
        T = tokens_BT.shape[1]
        seen_TS = torch.ones(T, start + T, dtype=torch.bool, device=x.device).tril(start)
        for number, layer in enumerate(self.layers):
            q, k, v = layer.projected(x, self.cos[start : start + T], self.sin[start : start + T])
            if past is not None:
                k, v = (torch.cat([before, now], dim=2) for before, now in zip(past.layers[number], (k, v), strict=True))
            x = layer.mixed(x, F.scaled_dot_product_attention(q, k, v, attn_mask=seen_TS, enable_gqa=q.shape[1] != k.shape[1]))
            layers.append((k, v))
        return F.rms_norm(x, (self.shape.width,), self.norm, self.shape.eps), Past(layers)


@dataclass
class _Layer:
    shape: LlamaShape
    ranks: Ranks
    attention_norm: Tensor
    qkv: Matrix
    qk_norms: tuple[Tensor, ...] | None
    attention_out: Matrix
    feed_forward_norm: Tensor
    gate: Matrix
    up: Matrix
    down: Matrix

    def projected(self, x_BTD: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, K), keys and values (B, G, T, K), the first two turned by their positions."""
        s = self.shape
        B, T, D = x_BTD.shape
        heads, key_heads = s.heads // self.ranks.world, s.key_heads // self.ranks.world
        all_BTJK = self.qkv(F.rms_norm(x_BTD, (D,), self.attention_norm, s.eps)).view(B, T, heads + 2 * key_heads, s.head_width)
        q, k, v = all_BTJK.split([heads, key_heads, key_heads], dim=2)
        if self.qk_norms is not None:
            qk = torch.cat([F.rms_norm(part, (s.head_width,), norm, s.eps) for part, norm in zip((q, k), self.qk_norms, strict=True)], dim=2)
        else:
            qk = all_BTJK[:, :, : heads + key_heads]
        turned = _turned(qk, cos, sin).transpose(1, 2)
        return turned[:, :heads], turned[:, heads:], v.transpose(1, 2)

    def mixed(self, x_BTD: Tensor, mixed_BHTK: Tensor) -> Tensor:
        """The rest of the layer: the attention's output and the feed-forward part, each added."""
        B, T, D = x_BTD.shape
        x_ND = self._added(self.attention_out, mixed_BHTK.transpose(1, 2).reshape(B * T, -1), x_BTD.flatten(0, 1))
        pieces = []
        for rows in x_ND.split(ROWS):  # the widest arrays of the model, a few rows at a time
            normed = F.rms_norm(rows, (D,), self.feed_forward_norm, self.shape.eps)
            pieces.append(self._added(self.down, self.up.times(normed, self.gate.silu(normed)), rows))
        return (torch.cat(pieces) if len(pieces) > 1 else pieces[0]).view(B, T, D)

    def _added(self, matrix: Matrix, x_NF: Tensor, to_ND: Tensor) -> Tensor:
        """What a matrix writes to the residual stream, added to it: of several processes, by the first one before the sum over all."""
        return self.ranks.sum(matrix.plus(x_NF, to_ND) if self.ranks.first else matrix(x_NF))


def _turned(x_BTJK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (k, k + K/2) rotated by the position's angle, into fresh memory laid out by head."""
    B, T, J, K = x_BTJK.shape
    low, high = x_BTJK.chunk(2, dim=-1)
    out = x_BTJK.new_empty(B, J, T, K).transpose(1, 2)
    first, second = out.chunk(2, dim=-1)
    torch.mul(low, cos, out=first)
    first.addcmul_(high, sin, value=-1)
    torch.mul(high, cos, out=second)
    second.addcmul_(low, sin)
    return out
