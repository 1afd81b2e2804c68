"""A whole window of a stream: work split into parts of blocks, each kept as soon as it is done, merged at the end.

Parts and batches are fixed by the plan and not by who works on it, so the merged file is byte-identical for any number of workers and any
number of interruptions.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

import scalebound
from scalebound.core.errors import InputError, UsageError
from scalebound.core.io import load_struct, relative, save_struct, sha256_bytes
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import generator
from scalebound.core.stats import AnchorRef, ModelRef, Policy, Stats, StatsInfo, merge
from scalebound.core.workers import run_tasks
from scalebound.data.stream import Stream
from scalebound.measure.score import score_blocks
from scalebound.models.language_model import LanguageModel
from scalebound.models.load import load_model

BATCH_TOKENS = 8192  # tokens per forward pass; small enough for 24 GB with any model people score on a processor
PARTS = 64  # at most this share of the work is lost by a kill
DEFAULT_EPS = 0.01  # share of uniform inside an anchor
DEFAULT_ALPHAS = (0.02, 0.05, 0.1, 0.2)  # smoothings the centre is computed for


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the parts beside a measurement belong to."""

    schema: str = "scalebound.plan/1"
    info: StatsInfo
    blocks_sha256: str
    part_blocks: int
    batch_blocks: int


Plan.SCHEMA = "scalebound.plan/1"  # type: ignore[attr-defined]


def measure(model: str | os.PathLike | LanguageModel, stream: str | os.PathLike, out: str | os.PathLike, *, context: int | None = None, window: tuple[int, int] | None = None,
            sample: int | None = None, seed: int = 0, anchor: str | os.PathLike | None = None, anchor_is: AnchorRef | None = None, eps: float = DEFAULT_EPS, alphas: Sequence[float] = DEFAULT_ALPHAS,
            workers: int = 1, threads: int = 1, fresh: bool = False, progress: Progress = silent) -> Stats:  # fmt: skip
    """Score every token of a window (or a random sample of its blocks) and write one stats file.

    Parameters
    ----------
    model, anchor
        What :func:`~scalebound.models.load_model` loads (``model`` may be loaded already). With an anchor the file also holds ``reference_nll`` and ``centre``.
    stream
        A stream (see :func:`~scalebound.measure.stream_of` for text).
    context
        Tokens of a block: each is scored from its block's earlier tokens only (policy ``packed``). Default: the stream's sequence length,
        or the model's context if that is shorter.
    window
        Range of tokens; default the whole stream.
    sample
        Score this many blocks, drawn without replacement with ``seed``; a ragged last block is scored besides.
    anchor_is
        How the certificate will describe the anchor; by default a model fixed before the stream.

    Returns
    -------
    Stats
        Opened from ``out``. What was already measured for the same model, stream, window and policy is not measured again.

    Raises
    ------
    InputError
        Unusable model or stream; a prediction that is not a number (with the token's position); ``out`` holds another measurement.
    UsageError
        A context, window or sample out of range.

    Notes
    -----
    Policy ``packed``: the first token of a block is predicted from ``first_token`` alone.
    """
    out, opened = Path(out), Stream(stream)
    torch.set_num_threads(threads)
    loaded = model if isinstance(model, LanguageModel) else load_model(model)
    reference = load_model(anchor) if anchor is not None else None
    context = context or min(opened.info.sequence_tokens, loaded.max_context)
    window = window or (0, len(opened))
    _check(loaded, reference, opened, context, window, alphas, eps)
    num_blocks = -(-(window[1] - window[0]) // context)
    blocks = _sample(num_blocks, sample, seed, ragged=(window[1] - window[0]) % context != 0)
    info = _info(loaded, reference, opened, window, context, anchor_is, eps, tuple(alphas), out.parent)
    part_blocks = min(4096, max(1, -(-len(blocks) // PARTS)))
    plan = Plan(info=info, blocks_sha256=sha256_bytes(blocks.tobytes()), part_blocks=part_blocks, batch_blocks=max(1, BATCH_TOKENS // context))
    if fresh:
        out.unlink(missing_ok=True)
        shutil.rmtree(_folder(out), ignore_errors=True)
    elif out.exists():
        found = Stats.load(out)
        same = msgspec.structs.replace(found.info, tokens=0, text_bytes=0) == info and np.array_equal(found.blocks, blocks)
        if not same:
            raise InputError("holds another measurement", where=str(out), hint="choose another --out, or measure again with --fresh")
        return found
    _claim(out, plan)
    tasks = [(loaded.name, str(stream), str(out), None if anchor is None else str(anchor), plan, blocks, number, workers, threads) for number in range(workers)]
    if workers == 1:
        _work(*tasks[0], progress=progress, models=(loaded, reference))
    else:
        del loaded, reference
        run_tasks(_work, tasks, workers=workers, progress=progress)
    parts = [Stats.load(_part(out, number)) for number in range(-(-len(blocks) // part_blocks))]
    merge(parts).save(out)
    shutil.rmtree(_folder(out))
    return Stats.load(out)


def _check(model: LanguageModel, anchor: LanguageModel | None, stream: Stream, context: int, window: tuple[int, int], alphas: Sequence[float], eps: float) -> None:
    stream.check()
    if not 2 <= context <= model.max_context:
        raise UsageError(f"context = {context:,}", expected=f"between 2 and the model's {model.max_context:,}")
    if not 0 <= window[0] < window[1] <= len(stream):
        raise UsageError(f"window = {window}", expected=f"a range inside the stream's {len(stream):,} tokens")
    if stream.info.vocab_size > model.vocab_size:
        raise InputError(f"has token ids up to {stream.info.vocab_size - 1:,}", where=str(stream.path), expected=f"the model's vocabulary ({model.vocab_size:,})")
    if anchor is None:
        return
    if anchor.vocab_size != model.vocab_size:
        raise InputError(f"predicts {anchor.vocab_size:,} tokens", where=anchor.name, expected=f"{model.vocab_size:,}, as the model it anchors")
    if context > anchor.max_context:
        raise UsageError(f"context = {context:,}", expected=f"at most the anchor's {anchor.max_context:,}")
    if not 0 < eps < 1 or not alphas or not all(0 < alpha < 1 for alpha in alphas):
        raise UsageError(f"eps = {eps}, alphas = {tuple(alphas)}", expected="numbers between 0 and 1")


def _info(model: LanguageModel, anchor: LanguageModel | None, stream: Stream, window: tuple[int, int], context: int, anchor_is: AnchorRef | None, eps: float, alphas: tuple[float, ...], folder: Path) -> StatsInfo:
    first = stream.info.separator if stream.info.tokenizer.kind == "byte" else model.first_token
    ref = None
    if anchor is not None:
        known = anchor_is or AnchorRef(kind="model", deployable=True, predictable="a model fixed before the stream, as stated by whoever measured")
        ref = msgspec.structs.replace(known, sha256=anchor.sha256, name=relative(anchor.name, folder), eps=eps, alphas=alphas)
    return StatsInfo(
        model=ModelRef(relative(model.name, folder), model.sha256, model.num_params), stream=stream.ref(folder), window=window, vocab_size=model.vocab_size, anchor=ref,
        policy=Policy("packed", context, first), block_tokens=context, version=scalebound.__version__,
    )  # fmt: skip


def _sample(num_blocks: int, sample: int | None, seed: int, *, ragged: bool) -> np.ndarray:
    if sample is None:
        return np.arange(num_blocks, dtype=np.int64)
    whole = num_blocks - ragged
    if not 1 <= sample <= whole:
        raise UsageError(f"sample = {sample:,} blocks", expected=f"between 1 and {whole:,}")
    drawn = np.sort(generator(seed, "subsample").choice(whole, size=sample, replace=False)).astype(np.int64)
    return np.append(drawn, whole) if ragged else drawn


def _folder(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def _part(out: Path, number: int) -> Path:
    return _folder(out) / f"{number:05d}.safetensors"


def _claim(out: Path, plan: Plan) -> None:
    path = _folder(out) / "plan.json"
    if path.is_file():
        if load_struct(path, Plan) != plan:
            raise InputError("holds parts of another measurement", where=str(_folder(out)), hint="choose another --out, or start over with --fresh")
        return
    save_struct(path, plan)


def _work(model_path: str, stream_path: str, out: str, anchor_path: str | None, plan: Plan, blocks: np.ndarray, worker: int, workers: int, threads: int, *,
          progress: Progress = silent, models: tuple[LanguageModel, LanguageModel | None] | None = None) -> None:  # fmt: skip
    """Score the parts ``worker, worker + workers, ...`` that are not there yet."""
    torch.set_num_threads(threads)
    mine = range(worker, -(-len(blocks) // plan.part_blocks), workers)
    total = sum(len(blocks[k * plan.part_blocks : (k + 1) * plan.part_blocks]) for k in mine) * plan.info.block_tokens
    todo = [k for k in mine if not _part(Path(out), k).is_file()]
    done = total - sum(len(blocks[k * plan.part_blocks : (k + 1) * plan.part_blocks]) for k in todo) * plan.info.block_tokens
    if not todo:
        progress(total, total)
        return
    model, anchor = models or (load_model(model_path), load_model(anchor_path) if anchor_path else None)
    stream = Stream(stream_path)
    tokenizer = stream.tokenizer()
    T, (start, stop) = plan.info.block_tokens, plan.info.window
    for number in todo:
        ids = blocks[number * plan.part_blocks : (number + 1) * plan.part_blocks]
        pieces, text_bytes = [], 0
        for at in range(0, len(ids), plan.batch_blocks):
            group = [np.asarray(stream.tokens[start + b * T : min(start + (b + 1) * T, stop)]) for b in ids[at : at + plan.batch_blocks]]
            # a ragged last block is a batch of its own
            for same in ([block for block in group if len(block) == T], [block for block in group if len(block) < T]):
                if same:
                    tokens = np.stack(same)
                    if tokens.max() >= plan.info.vocab_size:
                        raise InputError(f"holds token {int(tokens.max()):,}", where=stream_path, expected=f"ids below {plan.info.vocab_size:,}")
                    pieces.append(score_blocks(model, tokens, plan.info.policy.first_token, anchor=anchor, eps=plan.info.anchor.eps if plan.info.anchor else 0.0, alphas=plan.info.anchor.alphas if plan.info.anchor else ()))
                    text_bytes += tokenizer.count_bytes(tokens.reshape(-1))
            done += len(group) * T
            progress(done, total)
        arrays: dict[str, np.ndarray] = {name: np.concatenate([piece[name] for piece in pieces], axis=-1) for name in pieces[0]}
        for name, values in arrays.items():
            wrong = ~np.isfinite(values).reshape(-1, values.shape[-1]).all(0)
            if wrong.any():
                index = int(np.argmax(wrong))
                token = start + int(ids[min(index // T, len(ids) - 1)]) * T + index % T
                raise InputError(f"gives {name} = {values[..., index]} at token {token:,}", where=model_path, expected="finite predictions", hint="the weights hold NaN or infinities, or overflow at this token")
        info = msgspec.structs.replace(plan.info, tokens=arrays["nll"].shape[-1], text_bytes=text_bytes)
        Stats(info, {**arrays, "blocks": ids}).save(_part(Path(out), number))
