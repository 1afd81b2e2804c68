"""From a number of parameters to the shape of a transformer, by formula.

With vocabulary V, width d, depth L and feed-forward width f the tied-embedding model has ``V d + L (4 d^2 + 3 d f + 2 d) + d`` parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scalebound.core.errors import UsageError

HEAD_WIDTHS = (64, 32, 16, 8)  # the widest that leaves at least four heads
ASPECT = 24  # width over depth that the search prefers


@dataclass(frozen=True)
class Shape:
    """Width, depth, heads and feed-forward width of a decoder-only transformer."""

    vocab_size: int
    width: int
    depth: int
    heads: int
    feed_forward: int
    qk_norm: bool = False  # queries and keys of every head normalized, with gains: two more vectors of a head's width a layer

    @property
    def num_params(self) -> int:
        d, f = self.width, self.feed_forward
        return self.vocab_size * d + self.depth * (4 * d * d + 3 * d * f + 2 * d + (2 * (d // self.heads) if self.qk_norm else 0)) + d

    def config(self, context: int) -> dict:
        """The ``config.json`` of this shape: a Llama-style model (Qwen3-style with qk-norm) that ``transformers`` opens unchanged."""
        family = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "mlp_bias": False}
        if self.qk_norm:
            family = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "use_sliding_window": False, "sliding_window": None}
        return family | {
            "hidden_act": "silu", "hidden_size": self.width,
            "intermediate_size": self.feed_forward, "num_hidden_layers": self.depth, "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads, "head_dim": self.width // self.heads, "max_position_embeddings": context,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "attention_bias": False,
            "vocab_size": self.vocab_size, "bos_token_id": None, "eos_token_id": None, "torch_dtype": "float32",
        }  # fmt: skip


def heads_for(width: int, head_width: int | None = None) -> int:
    """Number of heads of a width: of ``head_width`` each, or of the widest in :data:`HEAD_WIDTHS` that leaves at least four."""
    return max(1, width // (head_width or next((h for h in HEAD_WIDTHS if width % h == 0 and width // h >= 4), 8)))


def shape_for(num_params: int, vocab_size: int = 256, *, head_width: int | None = None) -> Shape:
    """The shape closest to ``num_params``: for each depth the width that solves ``V d + 12 L d^2 = N`` (a multiple of 8),
    the depth whose width over depth is nearest to 24, and the feed-forward width (a multiple of 4, near 8/3 d) that closes the gap.

    With ``head_width`` every head has that width and the model's is a multiple of it; by default the head width follows the width.

    Raises
    ------
    UsageError
        Too few parameters for the vocabulary's embedding and one layer.

    >>> shape_for(150_000).num_params
    149248
    """
    candidates = []
    unit = 8 if head_width is None else head_width
    for depth in range(1, 65):
        exact = (-vocab_size + (vocab_size**2 + 48 * depth * num_params) ** 0.5) / (24 * depth)
        for width in {int(exact // unit) * unit, int(exact // unit) * unit + unit}:
            if width < 16:
                continue
            rest = num_params - vocab_size * width - depth * (4 * width * width + 2 * width) - width
            feed_forward = round(rest / (3 * depth * width) / 4) * 4
            if not 1.5 * width <= feed_forward <= 4.5 * width:
                continue
            shape = Shape(vocab_size, width, depth, heads_for(width, head_width), feed_forward)
            if abs(shape.num_params / num_params - 1) < 0.03:
                badness = abs(math.log(width / depth / ASPECT)) + abs(math.log(feed_forward / width / (8 / 3)))
                candidates.append((badness, abs(shape.num_params / num_params - 1), shape))
    if not candidates:
        raise UsageError(f"no transformer with a vocabulary of {vocab_size:,} has about {num_params:,} parameters", expected=f"at least {vocab_size * 24 + 8000:,}")
    return min(candidates, key=lambda item: item[:2])[2]
