"""What the rest of the library needs of a language model: hidden states, a head, and who it is.

Splitting the forward pass at the head lets measuring turn hidden states into logits a few rows at a time, so that an array of
[tokens, vocabulary] never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Past:
    """Keys and values of tokens already read, a pair a layer, each (B, heads, T, width): what lets their text be shared by what follows.

    >>> past = Past([(torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4))])
    >>> len(past), len(past.cut(3)), past.repeat(6).layers[0][0].shape[0]
    (5, 3, 6)
    """

    layers: list[tuple[Tensor, Tensor]]

    def __len__(self) -> int:
        return self.layers[0][0].shape[2]

    def cut(self, length: int) -> Past:
        """The first ``length`` tokens of it, without a copy."""
        return Past([(keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers])

    def repeat(self, rows: int) -> Past:
        """The past of one text as that of ``rows`` texts that begin with it, without a copy."""
        return Past([(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in self.layers])


@dataclass
class LanguageModel:
    """A causal model that scores tokens.

    Attributes
    ----------
    name, sha256, num_params
        Who it is; the hash is :func:`scalebound.core.hashing.model_sha256` over the stored tensors.
    vocab_size
        Number of token ids it predicts (width of the logits).
    max_context
        Longest input it takes.
    first_token
        What is fed before the first token of a block when the stream does not say (byte streams use their separator).
    hidden
        tokens (B, T) to hidden states (B, T, D).
    head
        hidden states (..., D) to logits (..., V), in the weights' precision.
    tokenizer
        Path of the tokenizer that goes with it, or ``"byte"``.
    dtype
        Precision of the weights in memory and of the arithmetic up to the logits.
    head_part
        The head for a stretch [start, stop) of the vocabulary; None for a head that cannot be cut.
    extend
        Tokens (B, T) that follow what a :class:`Past` holds (None: nothing), to their hidden states and a past that holds them too; None for
        models without keys and values to keep, such as Mamba.
    """

    name: str
    sha256: str
    num_params: int
    vocab_size: int
    max_context: int
    first_token: int
    hidden: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]
    tokenizer: str = "byte"
    device: str = "cpu"
    dtype: str = "float32"
    head_part: Callable[[Tensor, int, int], Tensor] | None = None
    extend: Callable[[Tensor, Past | None], tuple[Tensor, Past]] | None = None

    @torch.inference_mode()
    def logits(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, T, V); meant for short inputs, see :mod:`scalebound.measure` for whole streams."""
        return self.head(self.hidden(tokens_BT))

    def logits_in(self, hidden: Tensor, stretch: int) -> Iterator[tuple[int, Tensor]]:
        """The logits of hidden states (..., D), a stretch of the vocabulary at a time: its first token and (..., stretch).

        A head that cannot be cut is computed once and its result cut."""
        part = self.head_part
        if part is None:
            whole = self.head(hidden)
            part = lambda _, start, stop: whole[..., start:stop]  # noqa: E731
        for start in range(0, self.vocab_size, stretch):
            yield start, part(hidden, start, min(start + stretch, self.vocab_size))


def first_token(bos: int | list[int] | None, eos: int | list[int] | None) -> int:
    """What a configuration says a text begins with: its first opening token, else its first closing one, else 0.

    >>> first_token(None, [2, 7]), first_token(0, 2), first_token(None, None)
    (2, 0, 0)
    """
    found = eos if bos is None else bos
    return int(found[0] if isinstance(found, list) else found or 0)


def linear_head(weight_VD: Tensor, bias_V: Tensor | None = None, softcap: float | None = None) -> Callable[[Tensor, int, int], Tensor]:
    """A head that is a matrix, perhaps with a bias and with logits squashed to ``softcap * tanh(z / softcap)``, cut by vocabulary."""

    def part(hidden: Tensor, start: int, stop: int) -> Tensor:
        z = torch.nn.functional.linear(hidden, weight_VD[start:stop], None if bias_V is None else bias_V[start:stop])
        return z if softcap is None else torch.tanh(z / softcap) * softcap

    return part
