"""``scalebound train``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, progress_bar, table


def train(*, out: Path, sizes: str | None = None, tokens: str | None = None, flops: str | None = None, text: Path | None = None, tokens_per_param: float = 20.0, recipe: Path | None = None,
          tokenizer: str = "byte", context: int = 256, seed: int = 0, workers: int | None = None, dry_run: bool = False, fresh: bool = False) -> Result:  # fmt: skip
    """Train one model or a ladder of them, in a single pass over a text, and keep the loss of every token.

    Give exactly one of --sizes, --tokens and --flops; width, depth, batch, learning rate and schedule follow from the number of parameters by
    formulas (docs: the recipe). Interrupted, it goes on where it was.

    Parameters
    ----------
    out
        A run folder for one model; a folder of runs, one per size, for several.
    sizes
        Numbers of parameters, separated by commas: 20k,60k,150k.
    tokens
        Tokens to train on; the size is tokens / tokens-per-param.
    flops
        Compute to spend on one model, 6 x parameters x tokens.
    text
        A file or folder. Default: the Python sources of the installed packages this project pins.
    tokens_per_param
        Length of training.
    recipe
        A TOML file with any keys of a run's recipe.toml, which win over the formulas: optimizer = "adamw|muon|lion|sgd",
        schedule = "wsd|wsd-cosine|wsd-sqrt|wsd-geometric|cosine|constant", parametrization = "standard|mup", learning_rate, accumulation, ...
    tokenizer
        "byte", or the path of a tokenizer.json.
    context
        Tokens of a sequence.
    seed
        Decides initial weights, the split of the text and the order of sequences.
    workers
        Processes, one model each at a time. Default: one per core.
    dry_run
        Print what would be trained and how long it would take (a few steps are timed), and stop.
    fresh
        Start over.

    Examples
    --------
    scalebound train --text docs/ --sizes 20k,60k,150k --out runs/ladder

    scalebound train --flops 1e12 --recipe muon.toml --dry-run --out runs/one

    next: scalebound measure runs/one TEXT --out stats.safetensors, or scalebound fit on the losses of a ladder
    """
    from scalebound.cli.numbers import parse_number, parse_numbers
    from scalebound.core.errors import UsageError, require_extra

    require_extra("torch")
    from scalebound.data import build_stream, load_tokenizer, read_corpus, split_documents
    from scalebound.data.stream import SourceRef
    from scalebound.train import derive_recipe, seconds_for, train_ladder
    from scalebound.train.recipe import read_toml

    if sum(value is not None for value in (sizes, tokens, flops)) != 1:
        raise UsageError("one of --sizes, --tokens and --flops is needed, and only one", hint="scalebound train --sizes 20k,60k --out runs/ladder")
    if tokens_per_param <= 0 or not 2 <= context <= 1 << 16:
        raise UsageError(f"--tokens-per-param {tokens_per_param} --context {context}", expected="a positive ratio and a context between 2 and 65536")
    if sizes is not None:
        wanted = parse_numbers(sizes, "--sizes")
    elif tokens is not None:
        wanted = (parse_number(tokens, "--tokens") / tokens_per_param,)
    else:
        wanted = ((parse_number(flops or "", "--flops") / (6 * tokens_per_param)) ** 0.5,)
    overrides = read_toml(recipe) if recipe is not None else {}
    words = load_tokenizer(tokenizer)
    recipes = [derive_recipe(int(n), tokens_per_param=tokens_per_param, vocab_size=words.vocab_size, context=context, seed=seed, overrides=overrides, where=str(recipe)) for n in sorted(wanted)]
    if len({r.params for r in recipes}) < len(recipes):
        fixed = [key for key in ("width", "depth", "heads", "feed_forward") if key in overrides]
        raise UsageError(f"--sizes {sizes} gives the same shape twice", expected=f"a recipe without {fixed[0]}" if fixed else "sizes further apart")
    context, seed = recipes[0].context, recipes[0].seed  # the file may have set them
    needed = max(r.tokens for r in recipes)
    plan = [[f"{r.params:,}", f"{r.tokens:,}", f"{r.width} x {r.depth}", r.heads, r.feed_forward, f"{r.batch_sequences} x {r.context}", f"{r.steps:,}", f"{r.learning_rate:.4g}", f"{r.optimizer}, {r.schedule}, {r.parametrization}", f"{r.flops:.3g}"] for r in recipes]
    shown = table(["parameters", "tokens", "width x depth", "heads", "feed-forward", "batch", "steps", "peak rate", "method", "FLOPs"], plan, title="Recipe")
    if dry_run:
        times = [seconds_for(r) for r in recipes]
        disk = sum(4 * r.params + 4 * r.tokens for r in recipes) + needed * (2 if words.vocab_size <= 1 << 16 else 4)
        record = {"rungs": [_record(r) | {"estimated_s": s} for r, s in zip(recipes, times, strict=True)], "disk_bytes": disk}
        spent = ", ".join(f"{r.params:,}: {s:,.0f} s" for r, s in zip(recipes, times, strict=True))
        words_of = f"Time on one core, from a few steps on this machine as busy as it is now (no interval): {spent}."
        return Result(record, [shown, words_of, f"Disk: about {disk / 1e6:,.0f} MB. Nothing was written."])
    with progress_bar("read text", "documents") as progress:
        corpus = read_corpus(text)
        splits = split_documents(corpus, {"heldout": min(400_000, corpus.num_bytes // 20)}, seed=seed)
        source = SourceRef(corpus.name, corpus.sha256)
        stream = build_stream(splits["train"], words, out / "streams" / "train", sequence_tokens=context, source=source, split="train", seed=seed, max_tokens=-(-needed // context) * context, progress=progress)
        build_stream(splits["heldout"], words, out / "streams" / "heldout", sequence_tokens=context, source=source, split="heldout")
    folders = [out if len(recipes) == 1 else out / f"{r.params}" for r in recipes]
    with progress_bar("train") as progress:
        infos = train_ladder([(r, stream.path, folder) for r, folder in zip(recipes, folders, strict=True)], workers=workers, fresh=fresh, progress=progress)
    rows = [[f"{i.params:,}", f"{i.tokens:,}", f"{i.train_loss:.4f}", f"{i.train_s:,.1f}" if i.train_s else "resumed", str(f)] for i, f in zip(infos, folders, strict=True)]
    record = {"rungs": [_record(r) | {"run": str(f), "train_loss": i.train_loss, "model_sha256": i.model_sha256} for r, i, f in zip(recipes, infos, folders, strict=True)], "stream": str(stream.path)}
    return Result(record, [shown, table(["parameters", "tokens", "loss (nats/token, last tenth)", "time (s)", "run"], rows, title="Trained")])


def _record(recipe) -> dict:
    keys = ("params", "tokens", "steps", "width", "depth", "learning_rate", "batch_sequences", "flops", "optimizer", "schedule", "parametrization")
    return {key: getattr(recipe, key) for key in keys}
