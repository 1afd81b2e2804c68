"""``scalebound measure``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from scalebound.cli.output import Result, progress_bar, table

if TYPE_CHECKING:
    from scalebound.core.stats import Stats
    from scalebound.models import LanguageModel


def measure(model: Path, text: Path | None = None, *, out: Path, tasks: Path | None = None, context: int | None = None, tokens: int | None = None, window: tuple[int, int] | None = None,
            policy: Literal["packed", "documents", "sliding"] = "packed", stride: int | None = None, dtype: Literal["auto", "float32", "bfloat16"] = "auto",
            device: Literal["auto", "cpu", "cuda"] = "auto", sample: int | None = None, seed: int = 0, sketch: bool = False, top_k: int = 0, anchor: Path | None = None, anchor_eps: float | None = None,
            anchor_alphas: Annotated[str | None, Parameter(name="--anchor-alphas")] = None, calibrate: bool = False, workers: int = 1, ray_address: str = "", threads: int | None = None,
            fresh: bool = False) -> Result:  # fmt: skip
    """Score every token of a text or stream with a model: nll, entropy and varentropy, in nats per token. Or multiple-choice items: --tasks.

    Every token gets one loss, from earlier tokens of the window only; --policy says which. Interrupted, it goes on where it was. With
    --tasks, choices are scored by summed and per-byte log-probability, as lm-evaluation-harness scores them; that starts over when interrupted.

    Parameters
    ----------
    model
        A Hugging Face folder, a .gguf file, a run, a checkpoint or a .sbz package.
    text
        A stream (.json or .bin), a text file or a folder. Text is turned into a stream beside --out with the model's tokenizer.
    out
        The stats file to write (.safetensors); with --tasks the table of answers (.csv).
    tasks
        Instead of text: items, a JSON object a line with context, choices and gold; or samples exported by lm-evaluation-harness.
    context
        The most tokens one is scored from. Default: the stream's sequence length, at most the model's context; 1024 for text.
    policy
        packed: each block of --context tokens by itself. documents: each token from its own document. sliding: from the context that ends
        with its block of --stride tokens.
    stride
        Of sliding: tokens scored at a time.
    dtype
        Precision of the weights and of the arithmetic up to the logits. auto: bfloat16 where the weights are stored in 16 bits or fewer and
        the processor has bfloat16 instructions; packages, which certificates are about, are float32.
    device
        auto: a CUDA device where PyTorch finds one, else the processor. Several --workers take the devices in turn.
    tokens
        Of a text, only this many tokens from its start.
    window
        Of a stream, only this range of tokens: START STOP.
    sample
        Score this many blocks drawn at random, instead of all.
    seed
        Draws the sample.
    sketch
        Keep a sketch (--out NAME.sketch) instead of numbers per token: a few megabytes for a stream of any length, enough to certify.
    top_k
        Also write the K likeliest tokens of every prediction, with their log-probabilities, to NAME.top.safetensors beside --out.
    anchor
        A second model, fixed before the stream: its losses and the centre of the anchored certificate are stored beside.
    anchor_eps
        Share of uniform inside the anchor. Default 0.01.
    anchor_alphas
        Smoothings to store the centre for, separated by commas. Default 0.05,0.1,0.2,0.4.
    calibrate
        First time other batches, pieces of logits and torch.compile on the first blocks, for at most 2% of a long run, and use the fastest;
        NAME.plan.json beside --out keeps what was timed, and gives the same bytes when it lies there again. By default a rule chooses, so
        that the bytes do not depend on the day.
    workers
        Processes that share the blocks; the file does not depend on it.
    ray_address
        Share the blocks among --workers tasks on a Ray cluster instead: HOST:PORT, auto, or local. Needs scalebound[ray]; files must lie
        where all machines see them. A machine that is lost costs its blocks only.
    threads
        Threads of each process. Default: all cores with one worker, else one.
    fresh
        Start over.

    Examples
    --------
    scalebound measure runs/small notes.txt --out notes.safetensors

    scalebound measure model.gguf docs/ --context 2048 --policy sliding --stride 512 --workers 2 --out docs.safetensors

    scalebound measure model.gguf --tasks items.jsonl --out answers.csv

    next: scalebound interval notes.safetensors, or scalebound certify notes.safetensors --package model.sbz
    """
    import time

    from scalebound.core.errors import UsageError, require_extra
    from scalebound.core.workers import cores

    require_extra("torch")
    from scalebound.cli.numbers import parse_numbers
    from scalebound.data.stream import is_stream
    from scalebound.measure import DEFAULT_ALPHAS, DEFAULT_EPS, stream_of
    from scalebound.measure import measure as run
    from scalebound.models import load_model
    from scalebound.models.device import choose_device, prepare_device
    from scalebound.models.ranks import join_ranks, started_by_torchrun

    out = Path(out)
    threads = threads or (cores() if workers == 1 and not started_by_torchrun() else 1)
    if (text is None) == (tasks is None):
        raise UsageError("both TEXT and --tasks are given" if tasks else "there is nothing to score", expected="a text or stream, or --tasks FILE")
    of_text = {"--context": context, "--tokens": tokens, "--window": window, "--stride": stride, "--sample": sample, "--anchor": anchor, "--workers": workers if workers != 1 else None, "--calibrate": calibrate or None}
    where = choose_device(device)
    ranks = join_ranks(where)
    prepare_device(where, ranks.rank)
    if ranks.world > 1 and (tasks is not None or (text is not None and not is_stream(text))):
        raise UsageError("processes that share a model read a stream", where="torchrun", expected="a stream's .json as TEXT", hint="one process makes the stream: scalebound measure MODEL TEXT --tokens 1000")
    if tasks is not None and any(value is not None for value in of_text.values()):
        raise UsageError(f"{next(flag for flag, value in of_text.items() if value is not None)} has no meaning for items", where="--tasks", expected="--dtype, --device and --threads at most")
    if sketch != (out.suffix == ".sketch"):
        raise UsageError(f"{out.name} with{'' if sketch else 'out'} --sketch", where="--out", expected="a name that ends in .sketch" if sketch else "--sketch, or another ending")
    loaded = load_model(model, dtype=dtype, device=where, ranks=ranks)
    if tasks is not None:
        return answers(loaded, tasks, out, threads)
    assert text is not None
    stream = stream_of(text, loaded, out.with_suffix(".stream"), context=context or min(1024, loaded.max_context), max_tokens=tokens)
    began = time.monotonic()
    with progress_bar(f"measure {Path(model).name}") as progress:
        stats = run(
            loaded, stream.path, out, context=context, window=window, policy=policy, stride=stride, sample=sample, seed=seed, sketch=sketch, top_k=top_k, anchor=anchor, eps=DEFAULT_EPS if anchor_eps is None else anchor_eps,
            alphas=parse_numbers(anchor_alphas, "--anchor-alphas") if anchor_alphas else DEFAULT_ALPHAS, calibrated=calibrate, workers=workers, ray_address=ray_address, ranks=ranks,
            threads=threads, fresh=fresh, progress=progress,
        )  # fmt: skip
    if not ranks.first:
        return Result({}, [], silent=True)
    spent = time.monotonic() - began
    mean = {name: mean_of(stats, name) for name in ("nll", "entropy")}
    bits = mean["nll"] * len(stats) / stats.info.text_bytes / math.log(2) if stats.info.text_bytes else None
    record = {"stats": str(out), "tokens": len(stats), "mean_nll": mean["nll"], "mean_entropy": mean["entropy"], "bits_per_byte": bits, "tokens_per_second": len(stats) / spent, "complete": stats.complete, "policy": policy, "dtype": loaded.dtype, "device": loaded.device}
    rows = [["tokens", f"{len(stats):,}"], ["mean nll", f"{mean['nll']:.4f} nats/token"], ["mean entropy", f"{mean['entropy']:.4f} nats/token"],
            ["bits per byte", "unknown" if bits is None else f"{bits:.4f}"], ["speed", f"{len(stats) / spent:,.0f} tokens/s"]]  # fmt: skip
    if "reference_nll" in stats:
        record["mean_reference_nll"] = mean_of(stats, "reference_nll")
        rows.append(["anchor's mean nll", f"{record['mean_reference_nll']:.4f} nats/token"])
    if calibrate:
        record["plan"], found = calibration(out)
        rows.append(["calibrated", found])
    view = [table(["", str(out)], rows), f"A certificate: scalebound certify {out} --method heldout" if sketch else f"An interval for the mean: scalebound interval {out}"]
    return Result(record, view)


def calibration(out: Path) -> tuple[str | None, str]:
    """Path of the plan that a calibration left, and in words what it chose."""
    from scalebound.core.io import load_struct
    from scalebound.measure.measure import plan_path
    from scalebound.measure.plan import Plan

    path = plan_path(out)
    if not path.is_file():
        return None, "the run was too short to pay for it"
    plan = load_struct(path, Plan)
    shapes, rule = plan.shapes, plan.trials[0]
    best = min((trial for trial in plan.trials if trial.shapes == shapes), key=lambda trial: trial.seconds / trial.tokens)
    gain = rule.seconds / rule.tokens * best.tokens / best.seconds
    words = f"batches of {shapes.batch_tokens:,} tokens, logits {shapes.rows:,} x {shapes.stretch:,}" + (", compiled" if shapes.compiled else "")
    return str(path), f"{words}: {gain:.2f} times the rule's speed, of {len(plan.trials)} tried"


def mean_of(stats: Stats, name: str) -> float:
    """The mean of an array, a stretch at a time; of a sketch within 2^-28 nats."""
    from scalebound.core.sketch import Sketch

    if isinstance(stats, Sketch):
        return stats.mean(name)
    return math.fsum(float(stats.read(name, start, stop).sum(dtype="f8")) for start, stop in stats.chunks()) / len(stats)


def answers(model: LanguageModel, tasks: Path, out: Path, threads: int) -> Result:
    """``measure --tasks``: accuracy with its exact interval for items drawn independently, and the table of answers."""
    import torch

    from scalebound.certify import binomial_upper
    from scalebound.measure import answer_items

    torch.set_num_threads(threads)
    with progress_bar(f"measure {Path(tasks).name}", unit="items") as progress:
        found, _ = answer_items(model, tasks, out, progress=progress)
    rows, record = [], {"answers": str(out), "items": found.items, "mean_nll": found.mean_nll, "level": 0.95, "dtype": model.dtype}
    for name, words, correct in (("accuracy", "summed log-probability", found.correct), ("accuracy_per_byte", "log-probability per byte", found.correct_per_byte)):
        low, high = 1 - binomial_upper(found.items - correct, found.items, code_bits=0, delta=0.025), binomial_upper(correct, found.items, code_bits=0, delta=0.025)
        record[name] = {"value": correct / found.items, "low": low, "high": high, "correct": correct}
        rows.append([words, f"{correct / found.items:.4f}", f"{low:.4f} to {high:.4f}", f"{correct:,} of {found.items:,}"])
    view = [table(["choice by", "accuracy", "95% interval", "right"], rows), "The interval is exact for items drawn independently from what you want to speak about.",
            f"The right answer loses {found.mean_nll:.4f} nats per item, given that one of the choices comes. Written: {out}, {out.with_suffix('.json').name}.",
            "Compare two models item by item: scalebound compare A.csv B.csv"]  # fmt: skip
    return Result(record, view)
