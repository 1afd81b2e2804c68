"""What ``probe room`` starts from: a small model trained on a grammar, or a user's checkpoint with a text and a file of items."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.core.errors import InputError
from scalebound.core.io import MAX_JSON_BYTES, parse_json, read_bytes, sha256_bytes
from scalebound.core.seeds import derive, generator
from scalebound.data.tokenizer import Tokenizer
from scalebound.measure import stream_of, tokenizer_of
from scalebound.models import load_model
from scalebound.probe.finetune import tune
from scalebound.probe.grammar import Grammar, anbn
from scalebound.probe.llama import Weights, random_llama, read_llama
from scalebound.probe.room import Item

SMALL = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
         "intermediate_size": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A checkpoint, blocks (blocks, T) of its stream, named sets of items, and the token fed before blocks and prompts."""

    config: dict
    weights: Weights
    blocks: Tensor
    items: Mapping[str, Sequence[Item]]
    first: int = 0
    inputs: dict[str, str] = dataclasses.field(default_factory=dict)


def grammar_blocks(grammar: Grammar, rng: np.random.Generator, count: int, length: int) -> Tensor:
    """Strings of the grammar, each closed by token 0, packed into blocks that begin with a string: (count, length)."""
    number = {symbol: k + 1 for k, symbol in enumerate(grammar.symbols)}
    out = np.zeros((count, length), dtype=np.int64)
    for row in out:
        text: list[int] = []
        while len(text) < length:
            for string in grammar.sample(rng, 8):
                text += [*(number[symbol] for symbol in string), 0]
        row[:] = text[:length]
    return torch.from_numpy(out)


def grammar_items(grammar: Grammar) -> dict[str, list[Item]]:
    """Two sets of items: after prompts off the support, a completion that keeps the rule against one that breaks it (the stream says nothing
    of these: the planted effect); after prefixes of the support, the language's own next symbol against another (the stream decides: the null).
    """
    number = {symbol: k + 1 for k, symbol in enumerate(grammar.symbols)}

    def ids(text: str) -> tuple[int, ...]:
        return tuple(number[symbol] for symbol in text)

    off, on = [], []
    for prompt in grammar.prompts():
        keep, spoil = grammar.completion(prompt, keep=True), grammar.completion(prompt, keep=False)
        if keep is not None and spoil is not None:
            off.append(Item(ids(prompt), (*ids(keep), 0), (*ids(spoil), 0)))
    for prefix, following in sorted(grammar.prefixes.items()):
        wrong = [symbol for symbol in grammar.symbols if symbol not in following]
        if len(following) == 1 and wrong:
            right = next(iter(following))
            on.append(Item(ids(prefix), ids(right) or (0,), ids(wrong[0])))
    return {"off the support": off, "on the support": on}


def standard_case(seed: int, *, grammar: Grammar | None = None, steps: int = 300, blocks: int = 600, length: int = 64) -> Case:
    """A two-layer model trained on a grammar (a^n b^n with prompts of up to six symbols), and a stream of the grammar that it was not trained on."""
    grammar = dataclasses.replace(anbn(), prompt_length=6, prefixes={}) if grammar is None else grammar
    config = SMALL | {"vocab_size": len(grammar.symbols) + 1, "max_position_embeddings": length}
    rng = generator(seed, "room strings")
    start = random_llama(config, torch.Generator().manual_seed(derive(seed, "room model")))
    weights = tune(config, start, [F.pad(grammar_blocks(grammar, rng, 16, length), (1, 0)) for _ in range(steps)], optimizer="adamw", lr=5e-3)
    return Case(config, weights, grammar_blocks(grammar, generator(seed, "room stream"), blocks, length), grammar_items(grammar))


def own_case(model: str | os.PathLike, items: str | os.PathLike, text: str | os.PathLike, *, context: int, max_tokens: int) -> Case:
    """A user's Llama-style checkpoint, the first ``max_tokens`` tokens of a text or stream in blocks of ``context``, and items of a ``.jsonl`` file.

    Raises
    ------
    InputError
        Another architecture; a text shorter than ten blocks; a line without prompt, a and b, or with a continuation of no token.
    """
    config, weights = read_llama(model)
    loaded = load_model(model)
    if context + 1 > loaded.max_context:
        raise InputError(f"takes {loaded.max_context:,} tokens", where=str(model), expected=f"more than the blocks' {context:,}", hint="a smaller --context")
    with tempfile.TemporaryDirectory() as folder:
        stream = stream_of(text, loaded, Path(folder) / "stream", context=context, max_tokens=max_tokens)
        count = min(len(stream), max_tokens) // context
        blocks = torch.from_numpy(np.asarray(stream.tokens[: count * context], dtype=np.int64).reshape(count, context))
        sha256 = stream.sha256
    if count < 10:
        raise InputError(f"gives {count} blocks of {context} tokens", where=str(text), expected="at least 10", hint="a longer text, or a smaller --context")
    data = read_bytes(items, limit=MAX_JSON_BYTES)
    words = tokenizer_of(loaded)
    found = [_item(line, words, f"{items}, line {number}") for number, line in enumerate(data.splitlines(), start=1) if line.strip()]
    if len(found) < 4:
        raise InputError(f"holds {len(found)} items", where=str(items), expected="at least 4: half are trained on, half are read")
    return Case(config, weights, blocks, {"items": found}, loaded.first_token, {"model": loaded.sha256, "text": sha256, "items": sha256_bytes(data)})


def _item(line: bytes, words: Tokenizer, where: str) -> Item:
    value = parse_json(line, where=where)
    if not isinstance(value, dict) or any(not isinstance(value.get(key), str) for key in ("prompt", "a", "b")):
        raise InputError("is no item", where=where, expected='an object with texts under "prompt", "a" and "b"')
    prompt, a, b = (tuple(int(token) for token in words.encode(value[key].encode())) for key in ("prompt", "a", "b"))
    if not a or not b or a == b:
        raise InputError("has an empty continuation, or twice the same", where=where, expected="two different continuations")
    return Item(prompt, a, b)
