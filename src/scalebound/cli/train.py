"""``scalebound train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scalebound.cli.output import Result, progress_bar, table


def train(*, out: Path, sizes: str | None = None, tokens: str | None = None, flops: str | None = None, text: Path | None = None, tokens_per_param: float = 20.0, recipe: Path | None = None,
          base: Annotated[Path | None, Parameter(name="--from")] = None, threads: int = 1, tokenizer: str = "byte", context: int = 256, seed: int = 0, workers: int | None = None, dry_run: bool = False, fresh: bool = False) -> Result:  # fmt: skip
    """Train one model or a ladder of them, in a single pass over a text, and keep the loss of every token.

    Give exactly one of --sizes, --tokens and --flops; width, depth, batch, learning rate and schedule follow from the number of parameters by
    formulas (docs: the recipe). With --from training starts from a model you have, all of its weights, on its own tokenizer, at a tenth of a
    fresh model's learning rate; --tokens or --flops limit it, and without them it is one pass over the text. Interrupted, it goes on where it was.

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
    base
        A Hugging Face folder, a .gguf file, a run, a checkpoint or a package to start from.
    threads
        Threads of a single run (a ladder has one a model). Results are equal for equal machine and thread count.
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

    scalebound train --from SmolLM2-135M/ --text notes/ --tokens 1e6 --out runs/tuned

    next: scalebound measure runs/one TEXT --out stats.safetensors, or scalebound fit on the losses of a ladder
    """
    from scalebound.cli.numbers import parse_number, parse_numbers
    from scalebound.core.errors import UsageError, require_extra

    require_extra("torch")
    from scalebound.data import build_stream, load_tokenizer, read_corpus, split_documents
    from scalebound.data.stream import SourceRef
    from scalebound.train import derive_recipe, seconds_for, train_ladder
    from scalebound.train.recipe import read_toml

    if base is not None:
        return _continue(base, out, sizes=sizes, tokens=tokens, flops=flops, text=text, recipe=recipe, tokenizer=tokenizer, context=context, seed=seed, threads=threads, dry_run=dry_run, fresh=fresh)
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
    shown = _recipe_table(recipes)
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


def _recipe_table(recipes):
    rows = [[f"{r.params:,}", f"{r.tokens:,}", f"{r.width} x {r.depth}", r.heads, r.feed_forward, f"{r.batch_sequences} x {r.context}", f"{r.steps:,}", f"{r.learning_rate:.4g}", f"{r.optimizer}, {r.schedule}, {r.parametrization}", f"{r.flops:.3g}"] for r in recipes]
    return table(["parameters", "tokens", "width x depth", "heads", "feed-forward", "batch", "steps", "peak rate", "method", "FLOPs"], rows, title="Recipe")


def _continue(base: Path, out: Path, *, sizes: str | None, tokens: str | None, flops: str | None, text: Path | None, recipe: Path | None, tokenizer: str, context: int, seed: int, threads: int, dry_run: bool, fresh: bool) -> Result:
    """Go on training a given model."""
    from scalebound.cli.numbers import parse_number
    from scalebound.core.errors import UsageError
    from scalebound.data import build_stream, load_tokenizer, read_corpus, split_documents
    from scalebound.data.stream import SourceRef
    from scalebound.models import open_trainable
    from scalebound.train import derive_continuation, seconds_for, train_run
    from scalebound.train.recipe import read_toml

    if sizes is not None or tokenizer != "byte":
        raise UsageError("--from with " + ("--sizes" if sizes is not None else "--tokenizer"), expected="neither: the model has its size and its tokenizer")
    if tokens is not None and flops is not None:
        raise UsageError("--tokens and --flops", expected="at most one of them")
    if threads < 1 or not 2 <= context <= 1 << 16:
        raise UsageError(f"--threads {threads} --context {context}", expected="at least one thread and a context between 2 and 65536")
    overrides = read_toml(recipe) if recipe is not None else {}
    start = open_trainable(base)
    words = load_tokenizer(start.tokenizer)
    if start.tokenizer == "byte" and start.vocab_size != 256:
        raise UsageError(f"{base} predicts {start.vocab_size:,} tokens and comes without a tokenizer", expected="a folder with its tokenizer.json")
    context, seed = overrides.get("context", min(context, start.max_context)), overrides.get("seed", seed)
    limit = parse_number(tokens, "--tokens") if tokens is not None else parse_number(flops, "--flops") / (6 * start.num_params) if flops is not None else None
    corpus = read_corpus(text)
    splits = split_documents(corpus, {"heldout": min(400_000, corpus.num_bytes // 20)}, seed=seed)
    if dry_run:
        count = int(limit) if limit is not None else sum(d.num_bytes for d in splits["train"])
        found = derive_continuation(start, count, context=context, seed=seed, overrides=overrides, where=str(recipe))
        spent = seconds_for(found, model=start.model, threads=threads)
        about = "" if limit is not None else " The number of tokens is that of the text's bytes, an upper limit."
        return Result({"rungs": [_record(found) | {"estimated_s": spent}]}, [_recipe_table([found]), f"Time, from a few steps on this machine as busy as it is now (no interval): {spent:,.0f} s.{about} Nothing was written."])
    source = SourceRef(corpus.name, corpus.sha256)
    with progress_bar("read text", "documents") as progress:
        stream = build_stream(splits["train"], words, out / "streams" / "train", sequence_tokens=context, source=source, split="train", seed=seed, max_tokens=None if limit is None else max(context, int(limit) // context * context), progress=progress)
        build_stream(splits["heldout"], words, out / "streams" / "heldout", sequence_tokens=context, source=source, split="heldout")
    found = derive_continuation(start, len(stream), context=context, seed=seed, overrides=overrides, where=str(recipe))
    with progress_bar("train") as progress:
        info = train_run(found, stream.path, out, base=start, threads=threads, fresh=fresh, progress=progress)
    rows = [[f"{info.params:,}", f"{info.tokens:,}", f"{info.train_loss:.4f}", f"{info.train_s:,.1f}" if info.train_s else "resumed", str(out)]]
    record = {"rungs": [_record(found) | {"run": str(out), "train_loss": info.train_loss, "model_sha256": info.model_sha256}], "stream": str(stream.path), "base": {"model": str(base), "sha256": start.sha256}}
    return Result(record, [_recipe_table([found]), table(["parameters", "tokens", "loss (nats/token, last tenth)", "time (s)", "run"], rows, title="Trained")])
