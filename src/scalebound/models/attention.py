"""Causal attention of whole texts, by the fastest of two ways that compute the same function.

On a processor with bfloat16 matrix instructions, PyTorch's fused kernel spends most of its time outside the matrix unit when heads are narrow.
There it pays to take a stretch of queries, multiply it with the keys up to its end (those of a group of query heads that share keys in one
product), and let one softmax and one more product follow: what lies above the diagonal is computed for one stretch only. Everywhere else the
fused kernel is used.

Letters: B batch, H query heads, G key heads, R query heads per key head, T tokens, K head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STRETCH = 128  # queries at once: long enough for the matrix unit, short enough that little is computed in vain


def causal_attention(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> Tensor:
    """Attention of every token to itself and those before it, (B, H, T, K); H is a multiple of G.

    In bfloat16 on a processor the scores are rounded to bfloat16 before the softmax, as in the plain form of every library; the softmax itself
    is computed in float32.
    """
    if q_BHTK.dtype == torch.bfloat16 and q_BHTK.device.type == "cpu":
        return by_stretches(q_BHTK, k_BGTK, v_BGTK)
    return F.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, is_causal=True, enable_gqa=q_BHTK.shape[1] != k_BGTK.shape[1])


def by_stretches(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, stretch: int | None = None) -> Tensor:
    """The same by matrix products over stretches of queries. Memory: one stretch of scores, B * H * stretch * T."""
    B, H, T, K = q_BHTK.shape
    G = k_BGTK.shape[1]
    R = H // G
    stretch = stretch or (STRETCH if T > 512 else STRETCH // 2)
    q_XRTK = (q_BHTK * K**-0.5).reshape(B * G, R, T, K)
    k_XKT = k_BGTK.reshape(B * G, T, K).transpose(1, 2).contiguous()  # turned once: each product copies what it reads
    v_XTK = v_BGTK.reshape(B * G, T, K)
    out_XRTK = torch.empty_like(q_XRTK)
    ahead = torch.ones(stretch, stretch, dtype=torch.bool, device=q_BHTK.device).triu(1)
    for start in range(0, T, stretch):
        stop = min(start + stretch, T)
        rows = stop - start
        scores = torch.bmm(q_XRTK[:, :, start:stop].reshape(B * G, R * rows, K), k_XKT[:, :, :stop])
        scores.view(B * G, R, rows, stop)[..., start:].masked_fill_(ahead[:rows, :rows], -torch.inf)
        out_XRTK[:, :, start:stop] = torch.bmm(torch.softmax(scores, -1), v_XTK[:, :stop]).view(B * G, R, rows, K)
    return out_XRTK.view(B, H, T, K)
