"""``scalebound train``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from scalebound.cli.output import Result, note, progress_bar, table
from scalebound.core.progress import Progress


def train(*, out: Path, sizes: str | None = None, tokens: str | None = None, flops: str | None = None, time: str | None = None, rungs: int = 1, text: Path | None = None, tokens_per_param: float = 20.0, recipe: Path | None = None,
          base: Annotated[Path | None, Parameter(name="--from")] = None, adapter: str | None = None, anchor_slice: str | None = None, threads: int = 1, tokenizer: str = "byte", context: int = 256, seed: int = 0, workers: int | None = None, mix: Path | None = None, against_flat: bool = False, cooldown_from: Path | None = None, cooldown: float = 0.2, sweep: Literal["lr", "batch"] | None = None, widths: str | None = None, rates: str | None = None, on_divergence: Literal["stop", "backoff"] | None = None, device: Literal["cpu", "cuda", "auto"] = "cpu", shard: bool = False, ray_address: str = "", compress: Annotated[bool, Parameter(negative=())] = False, dry_run: bool = False, fresh: bool = False) -> Result:  # fmt: skip
    """Train one model or a ladder of them, in a single pass over a text, and keep the loss of every token.

    Give exactly one of --sizes, --tokens, --flops and --time; width, depth, heads, batch, learning rate, warmup and schedule follow from the number
    of parameters by formulas that are printed with their values. --rungs makes a ladder whose rungs double in size and together spend the budget.
    With --from training starts from a model you have, all of its weights, on its own tokenizer, at a tenth of a fresh model's learning rate;
    --tokens, --flops or --time limit it, and without them it is one pass over the text. Interrupted, it goes on where it was.

    --sweep lr trains four widths at nine learning rates under the standard and the maximal-update parametrization (72 short runs), draws
    loss against rate, and says where the optimum moves, what a wrong rate costs, and where larger models go unstable. --sweep batch trains six
    batch sizes at three rates each, counts the steps to common losses, fits the critical batch, and says what batch to use.

    Parameters
    ----------
    out
        A run folder for one model; a folder of runs, one per size, for several.
    sizes
        Numbers of parameters, separated by commas: 20k,60k,150k.
    tokens
        Tokens to train the largest rung on; its size is tokens / tokens-per-param.
    flops
        Compute of all rungs together, 6 x parameters x tokens each.
    time
        Wall clock on this machine, 10min or 2h; sizes follow from a few timed steps (nine tenths of it are planned for).
    rungs
        Models of the ladder that --tokens, --flops or --time ask for.
    text
        A file or folder. Default: the Python sources of the installed packages this project pins.
    tokens_per_param
        Length of training.
    recipe
        A TOML file with any keys of a run's recipe.toml, which win over the formulas; `scalebound config init` writes one with all keys.
    anchor_slice
        A share of the largest rung's tokens, such as 5%: documents kept apart from the training stream, on which a small model is trained to
        anchor certificates (OUT/anchor). The more it gets, the tighter they are.
    adapter
        Of --from: train lora:RANK (low-rank factors of every matrix) or subspace:DIM (a vector in a random subspace) and leave the base as it
        is. `compress --base` writes what was trained as a file of its own.
    base
        A Hugging Face folder, a .gguf file, a run, a checkpoint or a package to start from.
    threads
        Threads of a run that starts from a model (others have one each). Results are equal for equal machine and thread count.
    tokenizer
        "byte", or the path of a tokenizer.json.
    context
        Tokens of a sequence.
    seed
        Decides initial weights, the split of the text and the order of sequences.
    workers
        Processes, one model each at a time. Default: one per core.
    mix
        A TOML file with several sources and their weights over training (docs: training), instead of --text. Held-out losses are given per source.
    against_flat
        With --mix: also train on as much of every source at constant weights, and report the gain per source.
    cooldown_from
        A checkpoint (or a run) of a stable run, kept by the recipe's `checkpoints`: go on from it with a cooldown, in a folder of its own. The
        result is the uninterrupted wsd run of that length, to the bit. `schedule` of --recipe chooses the form of the cooldown.
    cooldown
        Its share of the whole run.
    sweep
        lr: a learning-rate sweep instead of a ladder; batch: a sweep of batch sizes.
    widths
        Of the sweep, multiples of 16; default 32,64,128,256 (batch: 32,64).
    rates
        Of the sweep, separated by commas; default 0.000625 to 0.16 in factors of two.
    on_divergence
        A run has diverged when half of what it had gained over guessing is lost for 20 steps, or a loss is no number. stop (the default): it
        ends with status 5, naming the last good checkpoint. backoff: it goes on from there with the rest of the stream at half the rate.
    device
        cpu, cuda, or auto: CUDA where there is a device. The recipe's precision follows.
    shard
        Under torchrun: spread weights, gradients and optimizer state over the processes, for a model that does not fit one of them.
    ray_address
        Give the rungs to a Ray cluster: HOST:PORT, auto, or local. Needs scalebound[ray], and --out where all its machines see it: a rung
        whose machine is lost goes on elsewhere from its last checkpoint.
    compress
        Train every run's package for its certificate too, as `compress --finetune` does by default: RUN/model.sbz, losses and bits in RUN/finetune.json.
    dry_run
        Print what would be trained, its time, memory and disk, and what finished rungs predict for the next; write nothing.
    fresh
        Start over.

    Examples
    --------
    scalebound train --text docs/ --time 10min --rungs 5 --out runs/ladder

    scalebound train --from SmolLM2-135M/ --text notes/ --tokens 1e6 --out runs/tuned

    next: scalebound measure runs/one TEXT --out stats.safetensors, or scalebound fit on the losses of a ladder
    """
    from scalebound.core.errors import UsageError, require_extra

    require_extra("torch")
    import os
    import sys

    from scalebound.cli.numbers import parse_share
    from scalebound.data import load_tokenizer
    from scalebound.train import derive_recipe, package_ladder, parallel, seconds_for, train_ladder
    from scalebound.train.anchor_slice import anchor_recipe
    from scalebound.train.budget import disk_of, memory_of
    from scalebound.train.device import find_device
    from scalebound.train.ladder import check_ladder
    from scalebound.train.recipe import read_toml

    if parallel.rank() > 0:  # the first process speaks for all
        sys.stdout = open(os.devnull, "w")
    budget = {"--tokens": tokens, "--flops": flops, "--time": time}
    overrides = read_toml(recipe) if recipe is not None else {}
    if on_divergence is not None:
        overrides = {**overrides, "on_divergence": on_divergence}
    if shard:
        overrides = {"compile": False, **overrides}
    kind = find_device(device).type
    whole_runs = base is not None or sweep is not None or cooldown_from is not None or mix is not None
    if whole_runs and (kind != "cpu" or shard or ray_address):
        raise UsageError("--device cuda, --shard or --ray-address with --from, --sweep, --cooldown-from or --mix", expected="none of them: these train on the processor, in this process or beside it")
    if compress and (whole_runs or shard):
        raise UsageError("--compress with --from, --sweep, --cooldown-from, --mix or --shard", expected="runs of --sizes, --tokens, --flops or --time", hint="scalebound compress RUN --finetune --stream STREAM --out M.sbz")
    if sweep is not None:
        if base is not None or sizes is not None or any(value is not None for value in budget.values()) or anchor_slice is not None or dry_run:
            raise UsageError("--sweep has its own sizes and length", expected="no --from, --sizes, --tokens, --flops, --time, --anchor-slice or --dry-run beside it")
        return _sweep(sweep, out, text, widths, rates, overrides, seed=seed, workers=workers, fresh=fresh)
    if cooldown_from is not None:
        if sizes is not None or any(value is not None for value in budget.values()):
            raise UsageError("--cooldown-from has its size and length", expected="no --sizes, --tokens, --flops or --time beside it")
        return _cool(cooldown_from, out, cooldown, overrides, base=base, threads=threads)
    if adapter is not None:
        if base is None:
            raise UsageError("--adapter trains on top of a model", where="--adapter", expected="--from MODEL")
        overrides = {**overrides, "adapter": adapter}
    if base is not None:
        if sizes is not None or tokenizer != "byte" or rungs != 1 or anchor_slice is not None:
            wrong = "--sizes" if sizes is not None else "--tokenizer" if tokenizer != "byte" else "--rungs" if rungs != 1 else "--anchor-slice"
            raise UsageError(f"--from with {wrong}", expected="neither: the model has its size and its tokenizer")
        return _continue(base, out, budget, text=text, overrides=overrides, where=str(recipe), context=context, seed=seed, threads=threads, dry_run=dry_run, fresh=fresh)
    if sum(value is not None for value in (sizes, *budget.values())) != 1:
        raise UsageError("one of --sizes, --tokens, --flops and --time is needed, and only one", expected="--tokens-per-param beside --sizes for how long each trains",
                         hint="scalebound train --time 10min --rungs 4 --out runs/ladder")  # fmt: skip
    if tokens_per_param <= 0 or not 2 <= context <= 1 << 16 or rungs < 1 or (sizes is not None and rungs != 1):
        raise UsageError(f"--tokens-per-param {tokens_per_param} --context {context} --rungs {rungs}", expected="a positive ratio, a context between 2 and 65536, and --rungs without --sizes")
    words = load_tokenizer(tokenizer)

    def derive(params: int):
        return derive_recipe(params, tokens_per_param=tokens_per_param, vocab_size=words.vocab_size, context=context, seed=seed, overrides=overrides, where=str(recipe), device=kind)

    wanted = _wanted(sizes, tokens, flops, time, rungs=rungs, tokens_per_param=tokens_per_param, workers=workers, derive=derive, device=kind)
    recipes = [derive(int(n)) for n in sorted(wanted)]
    if len({r.params for r in recipes}) < len(recipes):
        fixed = [key for key in ("width", "depth", "heads", "feed_forward") if key in overrides]
        raise UsageError(f"--sizes {sizes} gives the same shape twice", expected=f"a recipe without {fixed[0]}" if fixed else "sizes further apart")
    check_ladder(recipes, workers=workers, ray_address=ray_address, shard=shard)
    if mix is not None:
        if len(recipes) != 1 or text is not None or dry_run or anchor_slice is not None:
            raise UsageError("--mix trains one model on its own sources", expected="one size, and no --text, --dry-run or --anchor-slice beside it")
        from scalebound.cli.train_mix import train_mixture

        return train_mixture(mix, recipes[0], words, out, against_flat=against_flat, workers=workers, fresh=fresh)
    if against_flat:
        raise UsageError("--against-flat", expected="--mix beside it")
    needed = max(r.tokens for r in recipes)
    alone = len(recipes) == 1 and not any(out.glob("*/run.json"))  # one more rung of a ladder goes among the others
    folders = [out if alone else out / f"{r.params}" for r in recipes]
    shown = _recipe_tables(recipes, tokens_per_param, overrides)
    anchor = None
    if anchor_slice is not None:
        share = parse_share(anchor_slice, "--anchor-slice")
        anchor = anchor_recipe(share, needed, tokens_per_param=tokens_per_param, vocab_size=words.vocab_size, context=recipes[0].context, seed=recipes[0].seed + 1)
        shown.append(f"Anchor: {anchor.params:,} parameters on {anchor.tokens:,} tokens of documents kept apart ({anchor.flops / sum(r.flops for r in recipes):.1%} of the compute).")
    if dry_run:
        times, memory, disk = [seconds_for(r, device=kind) for r in recipes], [memory_of(r).total for r in recipes], disk_of(recipes, needed)
        record: dict[str, Any] = {"rungs": [_record(r) | {"estimated_s": s, "memory_bytes": m} for r, s, m in zip(recipes, times, memory, strict=True)], "disk_bytes": disk}
        known = _finished(out)
        rows = [[f"{r.params:,}", f"{s:,.0f} s", f"{m / 1e6:,.0f} MB"] for r, s, m in zip(recipes, times, memory, strict=True)]
        needs = table(["parameters", "time on one core", "memory"], rows, title="Needs", caption="Time from a few steps on this machine as busy as it is now (no interval).")
        view = [*shown, needs, f"Disk: about {disk / 1e6:,.0f} MB. Nothing was written."]
        predicted = [_predict(known, r.params, r.tokens) for r in recipes]
        for r, found, entry in zip(recipes, predicted, record["rungs"], strict=True):
            if found is not None:
                entry["predicted_loss"] = found
                view.append(f"{r.params:,} parameters: loss {_interval(found)} nats/token predicted from {found['rungs']} finished rungs of {out}.")
        return Result(record, view)
    stream = _streams(out, text, words, context=recipes[0].context, seed=recipes[0].seed, needed=needed, anchor_tokens=anchor.tokens if anchor else 0)
    jobs: list[tuple] = [(r, _kept_stream(folder, stream), folder) for r, folder in zip(recipes, folders, strict=True)]
    every = folders + ([out / "anchor"] if anchor else [])
    with progress_bar("train") as bar, following(bar, every) as progress:
        infos = train_ladder(jobs + ([(anchor, out / "streams" / "anchor.json", out / "anchor")] if anchor else []), workers=workers, ray_address=ray_address, device=kind, shard=shard, fresh=fresh, progress=progress)
    anchored = infos.pop() if anchor else None
    packages: list[dict] = []
    if compress:
        with progress_bar("train packages", "steps") as progress:
            packages = package_ladder([(str(f), str(s)) for _, s, f in jobs], seed=seed, workers=workers, fresh=fresh, progress=progress)
    smaller = [(i.params, i.tokens, i.train_loss) for i in infos]
    predicted = [_predict(smaller[:k], i.params, i.tokens) for k, i in enumerate(infos)]
    record = {"rungs": [_record(r) | {"run": str(f), "train_loss": i.train_loss, "trajectory": standings(f)[-1:], "predicted_loss": p, "model_sha256": i.model_sha256, "back_offs": len(i.back_offs)} for r, i, f, p in zip(recipes, infos, folders, predicted, strict=True)], "stream": str(stream)}
    view = [*shown, _trained(infos, folders, predicted)]
    for i, f in zip(infos, folders, strict=True):
        view += [f"{f}: diverged at step {b.step:,}, went on with the weights of step {b.to:,} at {b.rate:g} times the rate." for b in i.back_offs]
    if packages:
        for entry, made in zip(record["rungs"], packages, strict=True):
            entry["package"] = {"path": str(Path(entry["run"]) / "model.sbz")} | made
        rows = [[e["package"]["path"], f"{e['package']['bits_after']:.3f}", f"{e['package']['loss_before']:.4f}", f"{e['package']['loss_after']:.4f}"] for e in record["rungs"]]
        view.append(table(["package", "bits/parameter", "loss of the run", "loss of the package"], rows, title="Trained for their certificates", caption="Losses on the same tokens of the stream, nats/token."))
    if anchored is not None:
        record["anchor"] = {"run": str(out / "anchor"), "params": anchored.params, "tokens": anchored.tokens, "train_loss": anchored.train_loss, "model_sha256": anchored.model_sha256}
        view.append(f"Anchor: loss {anchored.train_loss:.4f} nats/token. Use it: scalebound measure M.sbz {stream} --window 0 {infos[-1].tokens} --anchor {out / 'anchor'} --out S.safetensors")
    return Result(record, view)


def _sweep(kind: str, out: Path, text: Path | None, widths: str | None, rates: str | None, overrides: dict[str, Any], *, seed: int, workers: int | None, fresh: bool) -> Result:
    """A sweep on a byte stream of its own."""
    from scalebound.cli.numbers import parse_numbers
    from scalebound.cli.train_sweep import sweep_batch_size, sweep_learning_rate
    from scalebound.core.errors import UsageError
    from scalebound.data import load_tokenizer
    from scalebound.train.sweep import BATCH_WIDTHS, CONTEXT, HEAD_WIDTH, RATES, WIDTHS, batch_sweep_recipes, sweep_tokens

    sizes = tuple(sorted(int(n) for n in parse_numbers(widths, "--widths"))) if widths is not None else WIDTHS if kind == "lr" else BATCH_WIDTHS
    if (len(set(sizes)) < 2 and kind == "lr") or len(set(sizes)) < len(sizes) or any(n % HEAD_WIDTH for n in sizes):
        raise UsageError(f"--widths {widths}", expected=f"at least two different multiples of {HEAD_WIDTH}")
    chosen = tuple(sorted(parse_numbers(rates, "--rates"))) if rates is not None else RATES
    if len(set(chosen)) < 3 or len(set(chosen)) < len(chosen):
        raise UsageError(f"--rates {rates}", expected="at least three different rates")
    wrong = sorted({"width", "heads", "feed_forward", "learning_rate", "params", "base"} & set(overrides))
    if wrong:
        raise UsageError(f"a sweep with {wrong[0]} in the recipe", expected="a recipe without it: the sweep sets it")
    context = overrides.get("context", CONTEXT)
    if kind == "batch":
        if rates is not None or {"tokens", "batch_sequences"} & set(overrides):
            raise UsageError("a batch sweep with --rates, tokens or batch_sequences", expected="none of them: it tries three rates at every batch size")
        recipes = batch_sweep_recipes(sizes, context=context, seed=seed, overrides=overrides)
        stream = _streams(out, text, load_tokenizer(), context=context, seed=seed, needed=max(r.tokens for r in recipes))
        return sweep_batch_size(out, stream, recipes=recipes, workers=workers, fresh=fresh)
    stream = _streams(out, text, load_tokenizer(), context=context, seed=seed, needed=overrides.get("tokens", sweep_tokens(context=context)))
    return sweep_learning_rate(out, stream, widths=sizes, rates=chosen, overrides=overrides, seed=seed, workers=workers, fresh=fresh)


def _wanted(sizes: str | None, tokens: str | None, flops: str | None, time: str | None, *, rungs: int, tokens_per_param: float, workers: int | None, derive, device: str) -> Sequence[float]:
    """Numbers of parameters that the one dial asks for."""
    from scalebound.cli.numbers import parse_number, parse_numbers, parse_seconds
    from scalebound.core.workers import cores
    from scalebound.train import seconds_for
    from scalebound.train.budget import largest_for_flops, largest_for_seconds, rung_sizes

    if sizes is not None:
        return parse_numbers(sizes, "--sizes")
    if tokens is not None:
        largest = parse_number(tokens, "--tokens") / tokens_per_param
    elif flops is not None:
        largest = largest_for_flops(parse_number(flops, "--flops"), tokens_per_param=tokens_per_param, rungs=rungs)
    else:
        largest = largest_for_seconds(parse_seconds(time or "", "--time"), lambda n: seconds_for(derive(n), device=device), rungs=rungs, workers=workers or (cores() if device == "cpu" else 1))
    return rung_sizes(largest, rungs) if rungs > 1 else [largest]


def _streams(out: Path, text: Path | None, words, *, context: int, seed: int, needed: int | None, anchor_tokens: int = 0) -> Path:
    """Build the training stream and the held-out one (and an anchor's, of documents of its own), or use those that are there; a stream that runs were trained on is never overwritten."""
    from scalebound.core.errors import InputError
    from scalebound.data import Stream, build_stream, read_corpus, split_documents
    from scalebound.data.stream import SourceRef
    from scalebound.train import parallel
    from scalebound.train.anchor_slice import slice_bytes

    with parallel.first_alone(), progress_bar("read text", "documents") as progress:
        corpus = read_corpus(text)
        wanted = None if needed is None else -(-needed // context) * context
        name = out / "streams" / "train"
        if name.with_suffix(".json").is_file():
            found = Stream(name).info
            if anchor_tokens and not ((out / "streams" / "anchor.json").is_file() and Stream(out / "streams" / "anchor").info.num_tokens >= anchor_tokens):
                raise InputError("holds streams without that slice for an anchor: its documents are among those trained on", where=str(out), hint="choose another --out")
            if (found.source.sha256, found.seed, found.tokenizer.sha256, found.sequence_tokens) != (corpus.sha256, seed, words.sha256, context):
                raise InputError("holds streams of another text, seed, tokenizer or context", where=str(out), hint="choose another --out")
            if wanted is None or found.num_tokens >= wanted:
                return Stream(name).path
            name = out / "streams" / f"train-{wanted}"
            if name.with_suffix(".json").is_file():
                return Stream(name).path
        apart = {"anchor": slice_bytes(corpus.documents, words, anchor_tokens + context)} if anchor_tokens else {}
        if not apart and (out / "streams" / "anchor.json").is_file():
            raise InputError("holds an anchor's stream and no other", where=str(out), hint="choose another --out")
        splits = split_documents(corpus, {"heldout": min(400_000, corpus.num_bytes // 20), **apart}, seed=seed)
        source = SourceRef(corpus.name, corpus.sha256)
        stream = build_stream(splits["train"], words, name, sequence_tokens=context, source=source, split="train", seed=seed, max_tokens=wanted, progress=progress)
        build_stream(splits["heldout"], words, out / "streams" / "heldout", sequence_tokens=context, source=source, split="heldout")
        if anchor_tokens:
            build_stream(splits["anchor"], words, out / "streams" / "anchor", sequence_tokens=context, source=source, split="anchor", seed=seed, max_tokens=anchor_tokens)
    return stream.path


def _kept_stream(folder: Path, stream: Path) -> Path:
    """The stream a run was begun on, if it is one of this ladder's earlier ones, else ``stream``."""
    from scalebound.core.io import read_json, sha256_file

    if (folder / "stream.json").is_file():
        wanted = read_json(folder / "stream.json").get("stream")
        for path in stream.parent.glob("train*.json"):
            if sha256_file(path) == wanted:
                return path
    return stream


def _continue(base: Path, out: Path, budget: dict[str, str | None], *, text: Path | None, overrides: dict[str, Any], where: str, context: int, seed: int, threads: int, dry_run: bool, fresh: bool) -> Result:
    """Go on training a given model."""
    from scalebound.cli.numbers import parse_number, parse_seconds
    from scalebound.core.errors import UsageError
    from scalebound.data import Stream, load_tokenizer, read_corpus
    from scalebound.models import open_trainable
    from scalebound.train import derive_continuation, seconds_for, train_run
    from scalebound.train.budget import AIM, disk_of, memory_of

    asked = {flag: value for flag, value in budget.items() if value is not None}
    if len(asked) > 1:
        raise UsageError(" and ".join(asked), expected="at most one of them")
    if threads < 1 or not 2 <= context <= 1 << 16:
        raise UsageError(f"--threads {threads} --context {context}", expected="at least one thread and a context between 2 and 65536")
    start = open_trainable(base)
    words = load_tokenizer(start.tokenizer)
    if start.tokenizer == "byte" and start.vocab_size != 256:
        raise UsageError(f"{base} predicts {start.vocab_size:,} tokens and comes without a tokenizer", expected="a folder with its tokenizer.json")
    context, seed = overrides.get("context", min(context, start.max_context)), overrides.get("seed", seed)

    def derive(count: float):
        return derive_continuation(start, int(count), context=context, seed=seed, overrides=overrides, where=where)

    limit: float | None = None
    if budget["--tokens"] is not None:
        limit = parse_number(budget["--tokens"], "--tokens")
    elif budget["--flops"] is not None:
        limit = parse_number(budget["--flops"], "--flops") / (6 * start.num_params)
    elif budget["--time"] is not None:
        few = derive(64 * context)
        limit = AIM * parse_seconds(budget["--time"], "--time") / seconds_for(few, model=open_trainable(base).model, threads=threads) * few.tokens
    if dry_run:
        found = derive(limit if limit is not None else read_corpus(text).num_bytes)
        memory, disk = memory_of(found, model=start.model).total, disk_of([found], found.tokens)
        spent = seconds_for(found, model=start.model, threads=threads)
        about = "" if limit is not None else " The number of tokens is that of the text's bytes, an upper limit."
        words_of = f"Time, from a few steps on this machine as busy as it is now (no interval): {spent:,.0f} s. Memory: about {memory / 1e6:,.0f} MB, disk {disk / 1e6:,.0f} MB.{about} Nothing was written."
        return Result({"rungs": [_record(found) | {"estimated_s": spent, "memory_bytes": memory}], "disk_bytes": disk}, [*_recipe_tables([found], None, overrides), words_of])
    stream = _streams(out, text, words, context=context, seed=seed, needed=None if limit is None else max(context, int(limit) // context * context))
    found = derive(len(Stream(stream)) if limit is None else min(max(context, limit), len(Stream(stream))))
    with progress_bar("train") as bar, following(bar, [out]) as progress:
        info = train_run(found, stream, out, base=start, threads=threads, fresh=fresh, progress=progress)
    record = {"rungs": [_record(found) | {"run": str(out), "train_loss": info.train_loss, "model_sha256": info.model_sha256}], "stream": str(stream), "base": {"model": str(base), "sha256": start.sha256}}
    return Result(record, [*_recipe_tables([found], None, overrides), _trained([info], [out], [None])])


@contextlib.contextmanager
def following(bar: Progress, folders: Sequence[Path]) -> Iterator[Progress]:
    """A progress callback that also says, on stderr, where each run's trajectory certificate stands, a line for every tenth of the run."""
    from time import monotonic

    said: dict[Path, int] = {}
    last = 0.0

    def tell() -> None:
        for folder in folders:
            for standing in standings(folder):
                if standing["stop"] == standing["end"] > said.get(folder, 0):
                    said[folder] = standing["end"]
                    note(f"{folder.name}: tokens {standing['start']:,} to {standing['end']:,}: predicted before they were learned, their mean expected loss is at most {standing['bound']:.4f} nats/token "
                         f"(99%, anytime; mean {standing['mean']:.4f}, smoothed by {standing['alpha']:.3g})")  # fmt: skip

    def update(done: int, total: int) -> None:
        nonlocal last
        bar(done, total)
        if monotonic() - last > 1.0:
            last = monotonic()
            tell()

    for folder in folders:  # what an earlier call said already
        said[folder] = max((s["end"] for s in standings(folder) if s["stop"] == s["end"]), default=0)
    yield update
    tell()


def standings(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's trajectory.jsonl that are whole."""
    import json

    try:
        lines = (folder / "trajectory.jsonl").read_text().splitlines(keepends=True)
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _cool(trunk: Path, out: Path, share: float, overrides: dict[str, Any], *, base: Path | None, threads: int) -> Result:
    """Branch a cooldown off a stable run."""
    from scalebound.core.errors import InputError, UsageError
    from scalebound.core.io import read_json, sha256_file
    from scalebound.train import branch_run, cooldown_recipe
    from scalebound.train.branch import find_trunk
    from scalebound.train.checkpoint import step_of
    from scalebound.train.recipe import load_recipe

    other = sorted(set(overrides) - {"schedule", "checkpoints", "watch"})
    if other:
        raise UsageError(f"--cooldown-from with {other[0]} in the recipe", expected="only schedule, checkpoints and watch: the rest is the trunk's")
    run, checkpoint = find_trunk(trunk)
    recipe = cooldown_recipe(load_recipe(run / "recipe.toml"), step_of(checkpoint), share=share, schedule=overrides.get("schedule", "wsd"))
    wanted = read_json(run / "stream.json")["stream"]
    found = [path for folder in (run, run.parent) for path in sorted((folder / "streams").glob("*.json")) if sha256_file(path) == wanted]
    if not found:
        raise InputError("has no stream of its run beside it", where=str(run), expected="the folder streams/ it was trained from")
    with progress_bar("cool down") as progress:
        info = branch_run(trunk, recipe, found[0], out, base=base, threads=threads, progress=progress)
    record = {"rungs": [_record(recipe) | {"run": str(out), "train_loss": info.train_loss, "model_sha256": info.model_sha256}], "trunk": str(run), "step": step_of(checkpoint), "stream": str(found[0])}
    line = f"From step {step_of(checkpoint):,} of {run}: {recipe.steps - step_of(checkpoint):,} steps of cooldown ({recipe.schedule}) to {recipe.steps:,} in all."
    return Result(record, [line, _trained([info], [out], [None])])


def _finished(out: Path) -> list[tuple[int, int, float]]:
    """Parameters, tokens and loss of the finished runs in a folder, smallest first."""
    from scalebound.core.io import load_struct
    from scalebound.train import RunInfo

    infos = [load_struct(path, RunInfo) for path in (*out.glob("run.json"), *out.glob("*/run.json"))]
    return sorted((i.params, i.tokens, i.train_loss) for i in infos)


def _predict(known: Sequence[tuple[int, int, float]], params: int, tokens: int) -> dict[str, Any] | None:
    """The loss at a size from at least three smaller rungs of about the same tokens per parameter: the law c + a N^-b."""
    from scalebound.core.errors import ScaleboundError
    from scalebound.scaling import fit, forecast

    used = [(n, loss) for n, t, loss in known if n < params and abs((t / n) / (tokens / params) - 1) < 0.05]
    if len({n for n, _ in used}) < 3:
        return None
    try:
        law = fit({"params": [n for n, _ in used], "loss": [loss for _, loss in used]}, "power")
        found = forecast(law, {"params": [params]})
    except ScaleboundError:  # no curve of this form: nothing is predicted
        return None
    low, high = (None, None) if found.low is None or found.high is None else (float(found.low[0]), float(found.high[0]))
    return {"value": float(found.value[0]), "low": low, "high": high, "level": law.level, "rungs": len(used)}


def _interval(found: dict[str, Any]) -> str:
    return f"{found['value']:.4f} [{found['low']:.3f}, {found['high']:.3f}]" if found["low"] is not None else f"{found['value']:.4f} (interval unknown)"


def _trained(infos, folders, predicted):
    rows = [
        [f"{i.params:,}", f"{i.tokens:,}", f"{i.train_loss:.4f}", _interval(p) if p else "-", f"{i.train_s:,.1f}" if i.train_s else "resumed", str(f)]
        for i, f, p in zip(infos, folders, predicted, strict=True)
    ]
    if not any(predicted):
        return table(["parameters", "tokens", "loss (nats/token, last tenth)", "time (s)", "run"], [row[:3] + row[4:] for row in rows], title="Trained")
    return table(["parameters", "tokens", "loss (nats/token, last tenth)", "predicted from the smaller", "time (s)", "run"], rows, title="Trained")


def _recipe_tables(recipes, tokens_per_param: float | None, overrides) -> list[Any]:
    from scalebound.train.explain import formulas

    rows = [[f"{r.params:,}", f"{r.tokens:,}", f"{r.width} x {r.depth}", r.heads, r.feed_forward, f"{r.batch_sequences} x {r.context}", f"{r.steps:,}", f"{r.learning_rate:.4g}", f"{r.optimizer}, {r.schedule}, {r.parametrization}", f"{r.flops:.3g}"] for r in recipes]
    first = table(["parameters", "tokens", "width x depth", "heads", "feed-forward", "batch", "steps", "peak rate", "method", "FLOPs"], rows, title="Recipe")
    lines = formulas(recipes, tokens_per_param=tokens_per_param, given=overrides)
    return [first, table(["key", "formula", *[f"{r.params:,}" for r in recipes]], lines, title="Where it comes from")]


def _record(recipe) -> dict:
    keys = ("params", "tokens", "steps", "width", "depth", "learning_rate", "batch_sequences", "flops", "optimizer", "schedule", "parametrization")
    return {key: getattr(recipe, key) for key in keys}
