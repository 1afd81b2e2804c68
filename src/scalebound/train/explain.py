"""The formulas of a recipe, in words with their values, and a commented recipe file.

:data:`KEYS` says of every key what it is and what it follows from; :func:`formulas` prints the derivation of one recipe;
:func:`commented_recipe` is what ``scalebound config init`` writes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args, get_origin, get_type_hints

import msgspec

from scalebound.train.recipe import Recipe, toml

# key: (what it is, what it follows from; empty for a constant)
KEYS: dict[str, tuple[str, str]] = {
    "params": ("number of parameters", "V d + L (4 d^2 + 3 d f + 2 d) + d"),
    "vocab_size": ("token ids", "the tokenizer's"),
    "width": ("d, of the residual stream", "solves V d + 12 L d^2 = params, a multiple of 8"),
    "depth": ("L, layers", "the one whose width / depth is nearest to 24"),
    "heads": ("attention heads", "width / (widest of 64, 32, 16, 8 that leaves four); width / 16 under mup"),
    "feed_forward": ("f, inner width of the gated layer", "about 8/3 width, a multiple of 4 that closes the gap to params"),
    "context": ("tokens of a sequence", ""),
    "tokens": ("tokens of the run", "tokens per parameter x params, down to whole sequences"),
    "batch_sequences": ("sequences of a batch", "4, doubled while tokens / (context x batch) > 1500, at most 256"),
    "learning_rate": ("peak rate", "0.3 / width; 0.3 / base_width under mup; 0.03 / width from a given model"),
    "warmup": ("share of the steps", "2%, or 10 steps if that is more, at most 10%"),
    "decay": ("share of the steps in which a wsd schedule cools down", ""),
    "weight_decay": ("decoupled, on matrices", ""),
    "beta1": ("first moment; momentum of sgd and lion", ""),
    "beta2": ("second moment", ""),
    "clip": ("largest norm of a gradient", ""),
    "seed": ("initial weights", ""),
    "optimizer": ("method", ""),
    "schedule": ("of the learning rate", ""),
    "parametrization": ("how initial weights and rates depend on width", ""),
    "base_width": ("where mup and standard are the same", ""),
    "accumulation": ("passes a batch is split into: the same update in less memory", ""),
    "base": ("SHA-256 of the model to start from (--from)", "the model's"),
    "precision": ("of the passes; weights, head, losses and updates are float32", "bfloat16 from 0.19M parameters where the processor has its products, else float32"),
    "compile": ("the passes by torch.compile", "from 1e13 FLOPs where there is a C++ compiler"),
    "on_divergence": ("when half of what was gained over guessing is lost for 20 steps, or the loss is no number (ignore: only then, and it stops)", ""),
    "adapter": ("lora:RANK or subspace:DIM: train these numbers on top of the base and nothing else (--adapter)", ""),
    "qk_norm": ("queries and keys normalized: attention logits stay bounded (a Qwen3-style folder)", ""),
    "z_loss": ("coefficient of mean(log Z ^ 2), 1e-4 where it is used; keeps the output's log-normalizer near 0", ""),
    "average": ("decay of the weights' exponential moving average, e.g. 0.99; the averaged model is RUN/averaged; 0: none", ""),
    "noise_scale": ("steps between looks at the gradient noise scale (each costs a backward pass), e.g. 50; 0: never", ""),
    "watch": ("steps between looks at attention logits, log-normalizer, activations and update sizes; 0: never", ""),
    "checkpoints": ("shares of the run after which a checkpoint is kept to go on from, e.g. [0.5, 0.8]", ""),
    "pruning": ("zeros in hidden matrices: gradual, the smallest weights, ever more of them; spdf, random ones from the start, then none", ""),
    "sparsity": ("their share, e.g. 0.75", ""),
    "pruning_until": ("share of the run by which gradual pruning is done, or after which spdf is dense", ""),
}


def formulas(recipes: list[Recipe], *, tokens_per_param: float | None, given: Collection[str] = ()) -> list[list[str]]:
    """Rows ``[key, formula, value of each recipe]`` for every derived key; keys in ``given`` say that they were given.

    >>> from scalebound.train import derive_recipe
    >>> [row for row in formulas([derive_recipe(150_000)], tokens_per_param=20.0) if row[0] == "learning_rate"]
    [['learning_rate', '0.3 / width', '0.3 / 64 = 0.004687']]
    """
    rows = []
    for key, (_, formula) in KEYS.items():
        if not formula or key in ("vocab_size", "base") or (key == "params" and recipes[0].base):
            continue
        if recipes[0].base and key in ("width", "depth", "heads", "feed_forward"):
            formula = "the model's"
        if key == "learning_rate" and key not in given:
            formula, factor = ("0.03 / width", 0.03) if recipes[0].base else ("0.3 / base_width", 0.3) if recipes[0].parametrization == "mup" else ("0.3 / width", 0.3)
            values = [f"{factor} / {r.base_width if r.parametrization == 'mup' else r.width} = {r.learning_rate:.4g}" for r in recipes]
        elif key == "tokens" and key not in given and tokens_per_param is not None:
            values = [f"{tokens_per_param:g} x {r.params:,} = {r.tokens:,}" for r in recipes]
        elif key == "tokens" and recipes[0].base:
            formula, values = "as asked, or the whole text", [f"{r.tokens:,}" for r in recipes]
        elif key == "warmup":
            values = [f"{r.warmup:.3g} = {max(1, round(r.warmup * r.steps)):,} of {r.steps:,} steps" for r in recipes]
        elif key == "heads":
            values = [f"{r.width} / {r.width // r.heads} = {r.heads}" for r in recipes]
        else:
            found = [getattr(r, key) for r in recipes]
            values = [value if isinstance(value, str) else toml(value) if isinstance(value, bool) else f"{value:,}" for value in found]
        rows.append([key, "given" if key in given else formula, *values])
    return rows


def commented_recipe(example: Recipe) -> str:
    """A recipe file in which every key stands as a comment with its meaning, its formula and its value in ``example``; valid TOML as it is.

    Lines whose comment sign is removed win over the formulas; what follows from them is derived from them.
    """
    lines = [
        "# A recipe: give it to `scalebound train --recipe FILE`. Remove the comment sign of a line to fix its key; every other key is derived",
        f"# by its formula. The values below are those of a model of {example.params:,} parameters.", "",
    ]  # fmt: skip
    types, values = get_type_hints(Recipe), msgspec.to_builtins(example)
    for key, (meaning, formula) in KEYS.items():
        if key in ("params", "vocab_size", "base"):
            continue  # they follow from the others, the tokenizer and the model
        kind = types[key]
        choice = f"; one of {', '.join(map(str, get_args(kind)))}" if get_origin(kind) is not None and isinstance(get_args(kind)[0], str) else ""
        lines += [f"# {key}: {meaning}{choice}{'; ' + formula if formula else ''}", f"#{key} = {toml(values[key])}", ""]
    return "\n".join(lines)
