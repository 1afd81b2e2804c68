"""Five ways for attention to know where a token stands, and the small decoder that takes any of them.

With query q_i, key k_j (j <= i, head width K, head h of H), the score before the softmax is

=========  ==============================================================  =========================================================
scheme     score                                                           source
=========  ==============================================================  =========================================================
none       q_i.k_j / sqrt(K); order enters through the causal mask only    Kazemnejad et al. 2023, arXiv 2305.19466 (NoPE)
absolute   the same; sinusoids of i are added to the embedding of token i  Vaswani et al. 2017, arXiv 1706.03762
rotary     (R_i q_i).(R_j k_j) / sqrt(K) = q_i.(R_{j-i} k_j) / sqrt(K)     Su et al. 2021, arXiv 2104.09864
alibi      q_i.k_j / sqrt(K) - 2^(-8h/H) (i - j), h = 1..H                 Press et al. 2021, arXiv 2108.12409
t5         q_i.k_j / sqrt(K) + b_h(bucket(i - j)), b learned               Raffel et al. 2020, arXiv 1910.10683
=========  ==============================================================  =========================================================

A scheme has three places to act: :meth:`Positions.embed`, :meth:`Positions.turn`, :meth:`Positions.bias`. None of the five has a largest
length, so that every model can be asked at any length; a table of learned absolute embeddings has one and is left out for that reason.

Letters: B batch, T tokens, D width, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalebound.core.errors import UsageError
from scalebound.models.transformer import rotary_table, rotate

EPS = 1e-5


class Positions(nn.Module):
    """No positions (NoPE): what the four others change."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads

    def embed(self, length: int) -> Tensor | None:
        """(T, D), added to the embeddings, or None."""
        return None

    def turn(self, x_BHTK: Tensor) -> Tensor:
        """What is done to queries and keys alike."""
        return x_BHTK

    def bias(self, length: int) -> Tensor | None:
        """(H, T, T), added to the scores, or None."""
        return None


class Absolute(Positions):
    """Sinusoids of the position, ``sin(i 10000^(-2k/D))`` and ``cos`` of the same, divided by sqrt(D/2): each position has norm 1, as embeddings have."""

    def embed(self, length: int) -> Tensor:
        frequency = 10000.0 ** (-torch.arange(0, self.width, 2) / self.width)
        angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency)
        return torch.cat((angle.sin(), angle.cos()), 1) * (2 / self.width) ** 0.5


class Rotary(Positions):
    """Channels (k, k + K/2) of queries and keys turned by the angle ``i 10000^(-2k/K)``: scores depend on distances alone."""

    def turn(self, x_BHTK: Tensor) -> Tensor:
        return rotate(x_BHTK, *rotary_table(x_BHTK.shape[2], x_BHTK.shape[3]))


def distances(length: int) -> Tensor:
    """(T, T): how far key j lies behind query i; 0 for the future, which the mask hides anyway."""
    at = torch.arange(length)
    return (at[:, None] - at[None, :]).clamp(min=0)


class Alibi(Positions):
    """Attention with linear biases: each head forgets at its own fixed rate, 2^(-8h/H) a token."""

    def bias(self, length: int) -> Tensor:
        slopes_H = 2.0 ** (-8.0 * torch.arange(1, self.heads + 1) / self.heads)
        return -slopes_H[:, None, None] * distances(length)


class T5(Positions):
    """A learned number per head and bucket of distance, one table for all layers, as in T5.

    Of 32 buckets the first 16 hold one distance each; the others are spaced logarithmically up to 128, and the last takes all beyond. Unlike
    T5, scores are divided by sqrt(K), as in the four other schemes.
    """

    BUCKETS, LARGEST = 32, 128

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.table = nn.Parameter(torch.zeros(heads, self.BUCKETS))

    @classmethod
    def bucket(cls, distance: Tensor) -> Tensor:
        """Distances >= 0 to buckets 0..31.

        >>> T5.bucket(torch.tensor([0, 15, 16, 127, 128, 1000])).tolist()
        [0, 15, 16, 31, 31, 31]
        """
        exact = cls.BUCKETS // 2
        beyond = (distance.clamp(min=1) / exact).log() / math.log(cls.LARGEST / exact) * (cls.BUCKETS - exact)
        return torch.where(distance < exact, distance, (exact + beyond.long()).clamp(max=cls.BUCKETS - 1))

    def bias(self, length: int) -> Tensor:
        return self.table[:, self.bucket(distances(length))]


POSITIONS: dict[str, type[Positions]] = {"none": Positions, "absolute": Absolute, "rotary": Rotary, "alibi": Alibi, "t5": T5}


class Block(nn.Module):
    """Pre-norm causal attention with the scheme's changes, then a feed-forward of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_forward_norm = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.qkv, self.out = nn.Parameter(torch.empty(3 * width, width)), nn.Parameter(torch.empty(width, width))
        self.up, self.down = nn.Parameter(torch.empty(4 * width, width)), nn.Parameter(torch.empty(width, 4 * width))

    def forward(self, x_BTD: Tensor, positions: Positions, mask: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        qkv = F.linear(F.rms_norm(x_BTD, (D,), self.attention_norm, EPS), self.qkv).view(B, T, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed_BHTK = F.scaled_dot_product_attention(positions.turn(q), positions.turn(k), v, attn_mask=mask)
        x_BTD = x_BTD + F.linear(mixed_BHTK.transpose(1, 2).reshape(B, T, D), self.out)
        return x_BTD + F.linear(F.gelu(F.linear(F.rms_norm(x_BTD, (D,), self.feed_forward_norm, EPS), self.up)), self.down)


class Decoder(nn.Module):
    """A causal decoder that knows positions by the named scheme only; the rest is the same for all schemes, first weights included.

    Raises
    ------
    UsageError
        Unknown scheme, or a width that the heads do not divide into even parts.

    >>> Decoder("alibi", 20, generator=torch.Generator().manual_seed(0))(torch.zeros(2, 7, dtype=torch.int64)).shape
    torch.Size([2, 7, 20])
    """

    def __init__(self, positions: str, vocab_size: int, *, width: int = 64, heads: int = 4, depth: int = 2, generator: torch.Generator) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise UsageError(f"unknown positions {positions!r}", where="positions", expected=f"one of {', '.join(POSITIONS)}")
        if width % (2 * heads):
            raise UsageError(f"width {width} and {heads} heads", expected="heads of even width")
        self.embedding, self.head = nn.Parameter(torch.empty(vocab_size, width)), nn.Parameter(torch.empty(vocab_size, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.Parameter(torch.ones(width))
        self.positions = POSITIONS[positions](width, heads)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 2 and not name.startswith("positions"):
                    shrink = (2 * depth) ** 0.5 if name.endswith(("out", "down")) else 1.0
                    parameter.normal_(0.0, parameter.shape[1] ** -0.5 / shrink, generator=generator)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        T = tokens_BT.shape[1]
        x_BTD = F.embedding(tokens_BT, self.embedding)
        placed = self.positions.embed(T)
        if placed is not None:
            x_BTD = x_BTD + placed
        mask = torch.full((T, T), -math.inf).triu(1)
        bias = self.positions.bias(T)
        if bias is not None:
            mask = mask + bias
        for block in self.blocks:
            x_BTD = block(x_BTD, self.positions, mask)
        return F.linear(F.rms_norm(x_BTD, x_BTD.shape[-1:], self.norm, EPS), self.head)
