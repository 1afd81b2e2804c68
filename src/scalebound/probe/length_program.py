"""Counting at every length, with weights set by hand: what the trained models of ``probe length`` could have found and mostly do not.

The decoder has one layer, no positions, and the stream's channels in stretches: A (one-hot of the token's own number), B and C, a constant, and
one channel for END. With q, k linear in the normalized stream, as everywhere in :class:`~scalebound.probe.positions.Decoder`:

* head 1 has a constant query and keys that grow with the number: it reads the largest number so far and writes its one-hot into B. Answers never
  exceed ``last``, so that B is ``last``;
* head 2 has keys that fall with the number and writes the smallest, ``first``, into C;
* hidden neuron j of the feed-forward is ``gelu(s (A_j + B_j - 3/2))``, which is 0 up to rounding unless both are 1: the token equals ``last``,
  and END is written;
* the head gives 3 to the number after A's, 1 to C's, and 10 times END's channel to END: after ``>`` the first number, then the next, then END.

This is a program in the sense of RASP: a construction, not a training result. Source of the idea: Weiss et al. 2021, arXiv 2106.06981; Zhou
et al. 2023, arXiv 2310.16028.
"""

from __future__ import annotations

import math
from typing import cast

import torch

from scalebound.probe.length_tasks import END, SYMBOLS, VOCABULARY
from scalebound.probe.positions import Block, Decoder

SHARP = 60.0  # difference of scores between neighbouring numbers: e^-60 is what leaks


def counting_program() -> Decoder:
    """The decoder that counts from any first to any last number.

    >>> from scalebound.probe.length_tasks import ARROW
    >>> counting_program()(torch.tensor([[5, 7, ARROW, 5, 6, 7]])).argmax(-1)[0, 2:].tolist() == [5, 6, 7, END]
    True
    """
    heads, K = 4, SYMBOLS + 2
    width = heads * K
    model = Decoder("none", VOCABULARY, width=width, heads=heads, depth=1, generator=torch.Generator())
    n = torch.arange(SYMBOLS)
    A, B, C, constant, end, other = n, SYMBOLS + n, 2 * SYMBOLS + n, 3 * SYMBOLS, 3 * SYMBOLS + 1, 3 * SYMBOLS + 2
    # every token has two channels at 1, so the norm multiplies all streams by the same number; after attention there are four
    before, after = math.sqrt(width / 2), math.sqrt(width / 4)
    block = cast(Block, model.blocks[0])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.zero_()
        model.embedding[n, A] = 1.0
        model.embedding[SYMBOLS:, other] = 1.0
        model.embedding[:, constant] = 1.0
        qkv = block.qkv.view(3, heads, K, width)
        for head, (sign, stretch) in enumerate(((1.0, B), (-1.0, C))):
            qkv[0, head, 0, constant] = SHARP * math.sqrt(K) / before**2
            qkv[1, head, 0, A] = sign * n.float()
            qkv[1, head, 0, other] = -2.0 * SYMBOLS  # marks that are no numbers are never read
            qkv[2, head, n, A] = 1.0 / before
            block.out[stretch, head * K + n] = 1.0
        steep = 40.0 / after
        block.up[n, A] = block.up[n, B] = steep
        block.up[n, constant] = -1.5 * steep
        block.down[end, n] = 1.0 / 20.0  # gelu(20) = 20
        model.head[n[1:], A[:-1]] = 3.0
        model.head[n, C] = 1.0
        model.head[END, end] = 10.0
    return model.eval().requires_grad_(False)
