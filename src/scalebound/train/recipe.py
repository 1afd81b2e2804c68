"""The recipe: everything that decides a run, derived from the number of parameters by stated formulas.

==================  =====================================================================================================
tokens              tokens_per_param * N, rounded down to whole sequences
shape               :func:`scalebound.models.shape.shape_for`
batch               4 sequences, doubled while tokens / (context * batch) is above 1500, at most 256
learning rate       0.3 / width, within a factor of 1.6 of the best of three to five tried at widths 24 to 64 (benchmarks/LOG.md)
schedule            2% warmup (at least 10 steps), linear decay over the last half
optimizer           AdamW, betas 0.9 and 0.95, weight decay 0.1 on matrices, gradient norm clipped at 1
==================  =====================================================================================================
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import msgspec

from scalebound.core.errors import InputError, from_os_error
from scalebound.core.io import atomic_write, to_struct
from scalebound.models.shape import Shape, shape_for


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run, resolved: what is not in here does not influence the weights (but for the stream and the machine)."""

    params: int
    vocab_size: int
    width: int
    depth: int
    heads: int
    feed_forward: int
    context: int
    tokens: int
    batch_sequences: int
    learning_rate: float
    warmup: float
    decay: float
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    seed: int = 0

    @property
    def shape(self) -> Shape:
        return Shape(self.vocab_size, self.width, self.depth, self.heads, self.feed_forward)

    @property
    def steps(self) -> int:
        return -(-self.tokens // (self.batch_sequences * self.context))

    @property
    def flops(self) -> float:
        return 6.0 * self.params * self.tokens

    def save(self, path: str | os.PathLike) -> Path:
        lines = ["# Everything that decides this run, but for the stream and the machine. Times are not part of it."]
        lines += [f"{key} = {value!r}" for key, value in msgspec.to_builtins(self).items()]
        return atomic_write(path, ("\n".join(lines) + "\n").encode())


def load_recipe(path: str | os.PathLike) -> Recipe:
    """Read a ``recipe.toml``; an unknown or missing key is named."""
    try:
        with open(path, "rb") as file:
            return to_struct(tomllib.load(file), Recipe, where=str(path))
    except OSError as error:
        raise from_os_error(error, path) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is not valid TOML ({error})", where=str(path)) from error


def derive_recipe(params: int, *, tokens_per_param: float = 20.0, vocab_size: int = 256, context: int = 256, seed: int = 0) -> Recipe:
    """The recipe of a rung of about ``params`` parameters, by the formulas of the module docstring.

    >>> recipe = derive_recipe(150_000)
    >>> recipe.tokens // recipe.params, recipe.tokens % recipe.context
    (19, 0)
    """
    shape = shape_for(params, vocab_size)
    tokens = max(1, int(tokens_per_param * shape.num_params) // context) * context
    batch = 4
    while batch < 256 and tokens / (context * 1000) > batch * 1.5:
        batch *= 2
    steps = -(-tokens // (batch * context))
    return Recipe(
        params=shape.num_params, vocab_size=vocab_size, width=shape.width, depth=shape.depth, heads=shape.heads, feed_forward=shape.feed_forward,
        context=context, tokens=tokens, batch_sequences=batch, learning_rate=0.3 / shape.width, warmup=max(0.02, min(0.1, 10 / steps)),
        decay=0.5, seed=seed,
    )  # fmt: skip
