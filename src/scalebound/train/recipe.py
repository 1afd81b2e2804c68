"""The recipe: everything that decides a run, derived from the number of parameters by stated formulas.

==================  =====================================================================================================
tokens              tokens_per_param * N, rounded down to whole sequences
shape               :func:`scalebound.models.shape.shape_for`
batch               4 sequences, doubled while tokens / (context * batch) is above 1500, at most 256
learning rate       0.3 / width, within a factor of 1.6 of the best of three to five tried at widths 24 to 64 (benchmarks/LOG.md);
                    0.3 / base_width at every width under ``parametrization = "mup"`` (:mod:`~scalebound.train.parametrization`)
schedule            2% warmup (at least 10 steps), linear decay over the last half (``"wsd"``; others in :mod:`~scalebound.train.schedule`)
optimizer           AdamW, betas 0.9 and 0.95, weight decay 0.1 on matrices, gradient norm clipped at 1 (others: :mod:`~scalebound.train.optim`;
                    the derived rate is AdamW's: Muon shares it, Lion wants 3 to 10 times less, SGD its own)
from a given model  its shape and vocabulary; learning rate 0.03 / width (:func:`derive_continuation`)
precision           float32; from 0.19M parameters, on processors with bfloat16 products, those (weights, head, losses and updates stay float32)
compile             on from 1e13 FLOPs of a run (some minutes on a core), where there is a C++ compiler: the time it takes comes back
accumulation        1: a batch is one forward and backward pass; k splits it into k, for the same update in less memory
==================  =====================================================================================================

Any key of a recipe can be given (``--recipe R.toml``, or ``overrides``); what follows from it by the formulas is then derived from it.
"""

from __future__ import annotations

import difflib
import os
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from scalebound.core.errors import InputError, from_os_error
from scalebound.core.io import atomic_write, to_struct
from scalebound.models.load import has_bfloat16
from scalebound.models.partial import parse_adapter
from scalebound.models.shape import Shape, heads_for, shape_for
from scalebound.models.start import Start

BASE_WIDTH = 64
MUP_HEAD_WIDTH = 16
COMPILED_FROM = 1e13  # FLOPs of a run that is so long that compiling pays (benchmarks/LOG.md)
ROUNDED_FROM = 190_000  # parameters from which matrix products in bfloat16 pay on processors that have them
ADAPTER_RATE = 0.01  # of low-rank factors and subspace coordinates, whatever the width: their scale is in their definition


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
    optimizer: Literal["adamw", "muon", "lion", "sgd"] = "adamw"
    schedule: Literal["wsd", "wsd-cosine", "wsd-sqrt", "wsd-geometric", "cosine", "constant"] = "wsd"
    parametrization: Literal["standard", "mup"] = "standard"
    base_width: int = BASE_WIDTH  # where "mup" and "standard" are the same
    accumulation: int = 1
    base: str = ""  # SHA-256 of the model training starts from; empty: from random weights
    precision: Literal["float32", "bfloat16"] = "float32"  # of the forward and backward pass; weights, head, losses and updates are float32
    adapter: str = ""  # "lora:RANK" or "subspace:DIM": train these numbers on top of the base, and nothing else
    qk_norm: bool = False  # queries and keys normalized (a Qwen3-style folder)
    z_loss: float = 0.0  # coefficient of mean(log Z ^ 2), Z the sum of exponentiated logits
    average: float = 0.0  # decay of the weights' moving average, kept beside the run; 0: none
    noise_scale: int = 0  # steps between looks at the gradient noise; 0: never
    watch: int = 20  # steps between looks at what precedes an instability; 0: never
    compile: bool = False  # the passes by torch.compile: other kernels, so another order of additions
    on_divergence: Literal["stop", "backoff", "ignore"] = "stop"  # what a diverged run does (train/divergence.py)
    checkpoints: tuple[float, ...] = ()  # shares of the run after which a checkpoint is kept, with the state to go on from it
    pruning: Literal["none", "gradual", "spdf"] = "none"  # zeros in hidden matrices: :mod:`scalebound.train.sparsity`
    sparsity: float = 0.0  # their share
    pruning_until: float = 0.5  # share of the run by which gradual pruning is done, or after which spdf is dense

    @property
    def shape(self) -> Shape:
        return Shape(self.vocab_size, self.width, self.depth, self.heads, self.feed_forward, self.qk_norm)

    @property
    def steps(self) -> int:
        return -(-self.tokens // (self.batch_sequences * self.context))

    @property
    def flops(self) -> float:
        return 6.0 * self.params * self.tokens

    def save(self, path: str | os.PathLike) -> Path:
        lines = ["# Everything that decides this run, but for the stream and the machine. Times are not part of it."]
        lines += [f"{key} = {toml(value)}" for key, value in msgspec.to_builtins(self).items()]
        return atomic_write(path, ("\n".join(lines) + "\n").encode())


def toml(value: object) -> str:
    """A value as a TOML file writes it (double quotes, lower-case booleans)."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple | list) else repr(value)


def read_toml(path: str | os.PathLike) -> dict[str, Any]:
    """The keys of a recipe file, all known; an unknown one is refused with the nearest that exists."""
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise from_os_error(error, path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"is not valid TOML ({error})", where=str(path)) from error
    _refuse_unknown_names(found, str(path))
    return found


def _refuse_unknown_names(keys: Mapping[str, Any], where: str) -> None:
    known, types = Recipe.__struct_fields__, get_type_hints(Recipe)
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise InputError(f"unknown key {key!r}", where=where, expected=f"{near!r}, perhaps", hint=f"the keys are {', '.join(known)}")
        names = get_args(types[key]) if get_origin(types[key]) is Literal else ()  # of the methods, for keys that name one
        if names and keys[key] not in names:
            raise InputError(f"{key} = {keys[key]!r}", where=where, expected=f"one of {', '.join(names)}")


def load_recipe(path: str | os.PathLike) -> Recipe:
    """Read a ``recipe.toml``; an unknown, missing or mistyped key, or values that contradict each other, are named."""
    recipe = to_struct(read_toml(path), Recipe, where=str(path))
    check_recipe(recipe, where=str(path))
    return recipe


def check_recipe(recipe: Recipe, *, where: str = "recipe") -> None:
    """Refuse values out of range or at odds with each other.

    Raises
    ------
    InputError
        The key, its value and what would be right.
    """
    _refuse_unknown_names(msgspec.to_builtins(recipe), where)
    to_struct(msgspec.to_builtins(recipe), Recipe, where=where)  # names of methods and types, for recipes made in Python
    for key in ("params", "vocab_size", "width", "depth", "heads", "feed_forward", "context", "tokens", "batch_sequences", "base_width", "accumulation"):
        if getattr(recipe, key) < 1:
            raise InputError(f"{key} = {getattr(recipe, key)}", where=where, expected="at least 1")
    for key, low, high in (("learning_rate", 0.0, float("inf")), ("clip", 0.0, float("inf"))):
        if not low < getattr(recipe, key) <= high:
            raise InputError(f"{key} = {getattr(recipe, key)}", where=where, expected="above 0")
    for key, high in (("warmup", 1.0), ("decay", 1.0), ("weight_decay", float("inf")), ("beta1", 1.0), ("beta2", 1.0), ("average", 1.0)):
        value = getattr(recipe, key)
        if not 0.0 <= value <= high or (key in ("beta1", "beta2", "average") and value == 1.0):
            raise InputError(f"{key} = {value}", where=where, expected="at least 0" if high > 1 else "between 0 and 1")
    if recipe.adapter:
        parse_adapter(recipe.adapter)
        if not recipe.base:
            raise InputError(f"adapter = {recipe.adapter!r} without a base", where=where, expected="a model to start from", hint="scalebound train --from MODEL")
    for key in ("z_loss", "watch", "noise_scale"):
        if not 0 <= getattr(recipe, key) < float("inf"):
            raise InputError(f"{key} = {getattr(recipe, key)}", where=where, expected="at least 0")
    if recipe.noise_scale and recipe.batch_sequences < 2:
        raise InputError(f"noise_scale = {recipe.noise_scale} with batch_sequences = 1", where=where, expected="a batch of at least two sequences: the noise is read off its parts")
    if recipe.base and recipe.qk_norm:
        raise InputError("qk_norm = true with a model to start from", where=where, expected="false: the model has its own architecture")
    for share in recipe.checkpoints:
        if not 0.0 < share <= 1.0:
            raise InputError(f"checkpoints = {list(recipe.checkpoints)}", where=where, expected="shares of the run, above 0 and at most 1")
    if recipe.base:
        if recipe.parametrization != "standard":
            raise InputError(f"parametrization = {recipe.parametrization!r} with a model to start from", where=where, expected="'standard': the initial weights are given")
    elif recipe.width % (2 * recipe.heads):
        raise InputError(f"width = {recipe.width} with heads = {recipe.heads}", where=where, expected="a width that is an even multiple of the heads")
    if not recipe.base and recipe.params != recipe.shape.num_params:
        raise InputError(f"params = {recipe.params:,} contradicts the shape, which has {recipe.shape.num_params:,}", where=where, hint="leave params out: it follows from the shape")
    if recipe.tokens % recipe.context:
        raise InputError(f"tokens = {recipe.tokens:,} is no multiple of the context {recipe.context}", where=where, expected=f"{max(1, recipe.tokens // recipe.context) * recipe.context:,}")
    if recipe.compile and recipe.base:
        raise InputError("compile = true with a model to start from", where=where, expected="false: only models made here are compiled")
    if recipe.accumulation > recipe.batch_sequences:
        raise InputError(f"accumulation = {recipe.accumulation} with batch_sequences = {recipe.batch_sequences}", where=where, expected="at most one part a sequence")
    _check_pruning(recipe, where)
    if recipe.parametrization == "mup" and recipe.optimizer == "sgd":
        raise InputError('parametrization = "mup" with optimizer = "sgd"', where=where, expected="adamw, muon or lion")


def has_compiler() -> bool:
    """Whether ``torch.compile`` finds the C++ compiler it needs."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def _check_pruning(recipe: Recipe, where: str) -> None:
    if (recipe.pruning == "none") != (recipe.sparsity == 0) or not 0 <= recipe.sparsity < 1:
        raise InputError(f"sparsity = {recipe.sparsity} with pruning = {recipe.pruning!r}", where=where, expected="a share between 0 and 1 with gradual or spdf, and 0 without pruning")
    if not 0 < recipe.pruning_until <= 1:
        raise InputError(f"pruning_until = {recipe.pruning_until}", where=where, expected="a share of the run, above 0 and at most 1")
    if recipe.pruning != "none" and (recipe.adapter or recipe.average):
        raise InputError(f"pruning = {recipe.pruning!r} with {'adapter' if recipe.adapter else 'average'}", where=where, expected="one of them: zeros are of the trained weights themselves")
    if recipe.pruning != "none" and recipe.on_divergence == "backoff":
        raise InputError(f"pruning = {recipe.pruning!r} with on_divergence = 'backoff'", where=where, expected="'stop': masks that change on the way would be skipped")
    if recipe.pruning == "spdf" and recipe.base:
        raise InputError("pruning = 'spdf' with a model to start from", where=where, expected="random weights: a random mask would cut what the model has learned", hint="pruning = 'gradual'")


def batch_for(tokens: int, context: int) -> int:
    """Sequences of a step by the formula of the module.

    >>> batch_for(760_832, 256), batch_for(2_978_560, 256)
    (4, 8)
    """
    batch = 4
    while batch < 256 and tokens / (context * 1000) > batch * 1.5:
        batch *= 2
    return batch


def derive_recipe(params: int, *, tokens_per_param: float = 20.0, vocab_size: int = 256, context: int = 256, seed: int = 0,
                  overrides: Mapping[str, Any] | None = None, where: str = "overrides", device: str = "cpu") -> Recipe:  # fmt: skip
    """The recipe of a rung of about ``params`` parameters, by the formulas of the module docstring.

    Parameters
    ----------
    params
        Size aimed at; the shape decides.
    tokens_per_param
        Length of training.
    vocab_size, context, seed
        Of the stream and the run; ``overrides`` win, but for the vocabulary, which the tokenizer decides.
    overrides
        Keys of :class:`Recipe` with the values they shall have; what depends on them is derived from them.
    where
        How errors name the source of the overrides.
    device
        "cpu" or "cuda": precision and compilation depend on what it can do.

    Raises
    ------
    InputError
        An override that is unknown, out of range, or contradicts another.
    UsageError
        No shape has about this size.

    >>> recipe = derive_recipe(150_000)
    >>> recipe.tokens // recipe.params, recipe.tokens % recipe.context
    (20, 0)
    >>> derive_recipe(150_000, overrides={"parametrization": "mup"}).learning_rate == 0.3 / 64
    True
    """
    given = dict(overrides or {})
    _refuse_unknown_names(given, where)
    if given.get("vocab_size", vocab_size) != vocab_size:
        raise InputError(f"vocab_size = {given['vocab_size']}", where=where, expected=f"{vocab_size}, the tokenizer's")
    for key in ("context", "base_width", "tokens", "batch_sequences", "width", "depth", "heads", "feed_forward", "params"):
        if key in given and (type(given[key]) is not int or given[key] < 1):
            raise InputError(f"{key} = {given[key]!r}", where=where, expected="a whole number, at least 1")
    context, mup = given.get("context", context), given.get("parametrization") == "mup"
    shape = shape_for(params, vocab_size, head_width=MUP_HEAD_WIDTH if mup else None)
    if "width" in given:  # heads and feed-forward width of the size aimed at were chosen for its own width
        width = given["width"]
        shape = Shape(vocab_size, width, shape.depth, heads_for(width, MUP_HEAD_WIDTH if mup else None), round(8 * width / 3 / 4) * 4)
    shape = Shape(vocab_size, *(given.get(key, getattr(shape, key)) for key in ("width", "depth", "heads", "feed_forward", "qk_norm")))
    tokens = given.get("tokens", max(1, int(tokens_per_param * shape.num_params) // context) * context)
    batch = given.get("batch_sequences", batch_for(tokens, context))
    steps = -(-tokens // (batch * context))
    derived = {
        "params": shape.num_params, "vocab_size": vocab_size, "width": shape.width, "depth": shape.depth, "heads": shape.heads, "feed_forward": shape.feed_forward,
        "context": context, "tokens": tokens, "batch_sequences": batch, "learning_rate": 0.3 / (given.get("base_width", BASE_WIDTH) if mup else shape.width),
        "warmup": max(0.02, min(0.1, 10 / steps)), "decay": 0.5, "seed": seed,
        "precision": "bfloat16" if shape.num_params >= ROUNDED_FROM and has_bfloat16(device) else "float32",
        "compile": 6.0 * shape.num_params * tokens >= COMPILED_FROM and has_compiler(),
    }  # fmt: skip
    recipe = to_struct(derived | given, Recipe, where=where)
    check_recipe(recipe, where=where)
    return recipe


def derive_continuation(start: Start, tokens: int, *, context: int = 256, seed: int = 0, overrides: Mapping[str, Any] | None = None, where: str = "overrides") -> Recipe:
    """The recipe that goes on training a given model: its shape, a tenth of the learning rate of a fresh one, the other formulas as they are.

    Parameters
    ----------
    start
        From :func:`scalebound.models.open_trainable`.
    tokens
        Length of training, rounded down to whole sequences.
    context, seed, overrides, where
        As in :func:`derive_recipe`; a context beyond the model's is shortened to it unless an override asks for it. Keys of the shape are the
        model's and cannot be given.

    Raises
    ------
    InputError
        An override that is unknown, out of range, contradicts another or the model; fewer tokens than one sequence.
    """
    given = dict(overrides or {})
    _refuse_unknown_names(given, where)
    rate = ADAPTER_RATE if given.get("adapter") else 0.03 / start.width
    fixed = {"params": start.num_params, "vocab_size": start.vocab_size, "width": start.width, "depth": start.depth, "heads": start.heads, "feed_forward": start.feed_forward, "base": start.sha256}
    for key, value in fixed.items():
        if given.get(key, value) != value:
            raise InputError(f"{key} = {given[key]!r}", where=where, expected=f"{value!r}, the model's", hint="leave it out")
    for key in ("context", "tokens", "batch_sequences"):
        if key in given and (type(given[key]) is not int or given[key] < 1):
            raise InputError(f"{key} = {given[key]!r}", where=where, expected="a whole number, at least 1")
    context = given.get("context", min(context, start.max_context))
    if context > start.max_context:
        raise InputError(f"context = {context:,}", where=where, expected=f"at most {start.max_context:,}, the model's")
    if tokens < context and "tokens" not in given:
        raise InputError(f"{tokens:,} tokens are shorter than one sequence of {context:,}", where=where, expected="at least one sequence", hint="give more text, or a shorter context")
    tokens = given.get("tokens", tokens // context * context)
    batch = given.get("batch_sequences", batch_for(tokens, context))
    steps = -(-tokens // (batch * context))
    derived = fixed | {
        "context": context, "tokens": tokens, "batch_sequences": batch, "learning_rate": rate, "warmup": max(0.02, min(0.1, 10 / steps)), "decay": 0.5, "seed": seed,
    }  # fmt: skip
    recipe = to_struct(derived | given, Recipe, where=where)
    check_recipe(recipe, where=where)
    return recipe
