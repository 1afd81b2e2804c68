"""A whole window of a stream: work split into parts of blocks, each kept as soon as it is done, merged at the end.

Parts and batches are fixed by the plan and not by who works on it, so the merged file is byte-identical for any number of workers and any
number of interruptions.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial, reduce
from pathlib import Path

import msgspec
import numpy as np
import torch

from scalebound.core.cluster import run_on_ray
from scalebound.core.errors import InputError, UsageError, require_extra
from scalebound.core.heap import keep_freed_memory
from scalebound.core.io import load_struct, save_struct, sha256_bytes
from scalebound.core.progress import Progress, silent
from scalebound.core.sketch import Sketch, merge_sketches, sketch_of
from scalebound.core.stats import AnchorRef, Stats, StatsInfo
from scalebound.core.workers import run_tasks
from scalebound.data.stream import Stream
from scalebound.data.tokenizer import Tokenizer
from scalebound.measure.join import join_parts
from scalebound.measure.plan import Plan, check_request, describe, draw_blocks
from scalebound.measure.score import score_pieces
from scalebound.measure.shapes import Shapes, calibrate, rule
from scalebound.measure.spans import Span, batches_of, spans_of, text_boundaries
from scalebound.measure.top import TOP_ARRAYS, join_tops, save_top, top_path
from scalebound.models.compiled import compiled
from scalebound.models.device import choose_device, prepare_device
from scalebound.models.language_model import LanguageModel
from scalebound.models.load import load_model
from scalebound.models.ranks import ALONE, Ranks

HELD = 4096  # blocks whose numbers are in memory at once
SKETCHES = 1024  # parts of a sketched measurement at most
PARTS = 64  # at most this share of the work is lost by a kill
DEFAULT_EPS = 0.01  # share of uniform inside an anchor
DEFAULT_ALPHAS = (0.05, 0.1, 0.2, 0.4)  # smoothings the centre is computed for


def measure(model: str | os.PathLike | LanguageModel, stream: str | os.PathLike, out: str | os.PathLike, *, context: int | None = None, window: tuple[int, int] | None = None,
            policy: str = "packed", stride: int | None = None, dtype: str = "auto", device: str = "cpu", sample: int | None = None, seed: int = 0, blocks: np.ndarray | None = None, anchor: str | os.PathLike | None = None, anchor_is: AnchorRef | None = None, eps: float = DEFAULT_EPS, alphas: Sequence[float] = DEFAULT_ALPHAS,
            predictable: str = "", sketch: bool = False, top_k: int = 0, calibrated: bool = False, workers: int = 1, ray_address: str = "", ranks: Ranks = ALONE, threads: int = 1, fresh: bool = False, progress: Progress = silent) -> Stats:  # fmt: skip
    """Score every token of a window (or a random sample of its blocks) and write one stats file.

    Parameters
    ----------
    model, anchor
        What :func:`~scalebound.models.load_model` loads (``model`` may be loaded already). With an anchor the file also holds ``reference_nll`` and ``centre``.
    stream
        A stream (see :func:`~scalebound.measure.stream_of` for text).
    context
        The most tokens one is scored from. Default: the stream's sequence length, or the model's context if that is shorter.
    policy, stride
        Which earlier tokens: see :mod:`~scalebound.measure.spans`. A stride belongs to ``sliding``. The file records the policy, and the
        stride as its ``block_tokens``.
    dtype
        ``"float32"``, ``"bfloat16"`` or ``"auto"`` (see :func:`~scalebound.models.load_model`); of a model not loaded yet.
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``, of a model not loaded yet. Workers take the machine's CUDA devices in turn.
    window
        Range of tokens; default the whole stream.
    sample, seed, blocks
        Score this many blocks, drawn without replacement with ``seed`` (a ragged last block is scored besides), or exactly these.
    anchor_is
        How the certificate will describe the anchor; by default a model fixed before the stream.
    top_k
        Also write the likeliest tokens of every prediction and their log-probabilities, beside ``out`` (:mod:`~scalebound.measure.top`). 8 top_k bytes a token.
    calibrated
        Time a few shapes on the first blocks and use the fastest (:mod:`~scalebound.measure.shapes`); the plan with all timings is kept as
        ``NAME.plan.json``, and what is measured again beside it is computed by it, without timing. By default a rule chooses. What is begun
        goes on by its plan either way.
    workers, threads
        Processes that share the parts, and threads of each.
    ray_address
        Share the parts among ``workers`` tasks on a Ray cluster instead (:func:`~scalebound.core.cluster.run_on_ray`); model, stream and ``out`` must lie
        where all its machines see them, under the same absolute paths. A task that dies is run again and costs the part it was in.
    ranks
        The processes of ``torchrun`` that share the model and call this function together; the first one writes. Sums over processes round
        differently, so numbers agree with those of one process to rounding and not to the bit; the plan says how many there were.
    predictable
        For losses that will serve as a reference: why the model was known before each token of the window.
    sketch
        Keep a sketch (:mod:`scalebound.core.sketch`) instead of numbers per token: a few megabytes for a stream of any length.

    Returns
    -------
    Stats
        Opened from ``out``; a :class:`~scalebound.core.sketch.Sketch` when that was asked for. What was already measured for the same model, stream, window and policy is not measured again.

    Raises
    ------
    InputError
        Unusable model or stream; a prediction that is not a number (with the token's position); ``out`` holds another measurement;
        an anchor that was trained on tokens of the window (:mod:`~scalebound.measure.provenance`).
    UsageError
        A context, window or sample out of range.

    Notes
    -----
    The first token of a span is predicted from ``first_token`` alone. Memory: the model, one batch and one part (4096 blocks at most),
    whatever the number of tokens.
    """
    if ray_address:
        require_extra("ray", "ray")
    out, opened = Path(out), Stream(stream)
    torch.set_num_threads(threads)
    if ranks.world > 1 and (workers > 1 or ray_address):
        raise UsageError("processes that share a model cannot share the text besides", where="torchrun", expected="no --workers and no --ray-address")
    if not isinstance(model, LanguageModel):
        device = choose_device(device)
        prepare_device(device, ranks.rank)
        model = load_model(model, dtype=dtype, device=device, ranks=ranks)
    loaded = model
    reference = load_model(anchor, dtype=loaded.dtype, device=loaded.device, ranks=ranks) if anchor is not None else None
    context = context or min(opened.info.sequence_tokens, loaded.max_context)
    window = window or (0, len(opened))
    if not 0 <= top_k <= loaded.vocab_size or (top_k and sketch):
        raise UsageError(f"top-k is {top_k}" + (" with a sketch" if sketch else ""), expected=f"0 to {loaded.vocab_size:,}, and no sketch")
    check_request(loaded, reference, opened, context, window, alphas, eps, policy, stride)
    block_tokens = stride or context
    num_blocks = -(-(window[1] - window[0]) // block_tokens)
    if blocks is None:
        blocks = draw_blocks(num_blocks, sample, seed, ragged=(window[1] - window[0]) % block_tokens != 0)
    elif sample is not None or not len(blocks) or blocks[0] < 0 or blocks[-1] >= num_blocks or np.any(np.diff(blocks) <= 0):
        raise UsageError("the blocks given are no selection", expected=f"ascending ids below {num_blocks:,}, and no sample besides")
    info = describe(loaded, reference, opened, window, context, anchor_is, eps, tuple(alphas), out.parent, policy=policy, stride=stride, dtype=loaded.dtype, predictable=predictable, anchor_path=anchor)
    part_blocks = min(HELD, max(1, -(-len(blocks) // PARTS)))
    if sketch:  # a sketch is not larger for more blocks: at most so many parts
        part_blocks = max(part_blocks, -(-len(blocks) // SKETCHES))
    plan = Plan(info=info, blocks_sha256=sha256_bytes(blocks.tobytes()), part_blocks=part_blocks, shapes=rule(loaded), device=loaded.device, dtype=loaded.dtype, sketch=sketch, top_k=top_k, ranks=ranks.world)
    ranks.wait()
    if fresh and ranks.first:
        out.unlink(missing_ok=True)
        top_path(out).unlink(missing_ok=True)
        plan_path(out).unlink(missing_ok=True)
        shutil.rmtree(_folder(out), ignore_errors=True)
    elif not fresh and out.exists() and (not top_k or top_path(out).exists()):
        found = Sketch.load(out) if sketch else Stats.load(out)
        same = msgspec.structs.replace(found.info, tokens=0, text_bytes=0) == info and np.array_equal(found.blocks, blocks)
        if not same:
            raise InputError("holds another measurement", where=str(out), hint="choose another --out, or measure again with --fresh")
        return found
    ranks.wait()  # from here on all see the same files
    known = _known(out, plan, calibrated)
    if known is None and calibrated:
        known = _calibrated(loaded, reference, opened, plan, blocks, workers, ranks)
    plan = known or plan
    ranks.wait()
    if ranks.first and not (_folder(out) / "plan.json").is_file():
        save_struct(_folder(out) / "plan.json", plan)
    ranks.wait()
    of_model, of_stream, of_anchor = loaded.name, opened.path, None if anchor is None else str(anchor)
    if ray_address:  # other machines have other working folders
        of_model, of_stream, out = str(Path(of_model).resolve()), of_stream.resolve(), out.resolve()
        of_anchor = None if of_anchor is None else str(Path(of_anchor).resolve())
    tasks = [(of_model, str(of_stream), str(out), of_anchor, plan, blocks, number, workers, threads) for number in range(workers)]
    if ray_address:
        del loaded, reference
        run_on_ray(_work, tasks, address=ray_address, threads=threads, watch=partial(_watch, out, plan, len(blocks), progress))
    elif workers == 1:
        _work(*tasks[0], progress=progress, models=(loaded, reference), ranks=ranks)
    else:
        del loaded, reference
        run_tasks(_work, tasks, workers=workers, progress=progress)
    parts = [_part(out, number) for number in range(-(-len(blocks) // part_blocks))]
    if ranks.first:
        _join(parts, out, plan)
    ranks.wait()
    return Sketch.load(out) if sketch else Stats.load(out)


def _join(parts: list[Path], out: Path, plan: Plan) -> None:
    if plan.sketch:
        reduce(lambda whole, part: merge_sketches([whole, Sketch.load(part)]), parts[1:], Sketch.load(parts[0])).save(out)
    else:
        if plan.top_k:
            join_tops([top_path(part) for part in parts], top_path(out))
        join_parts(parts, out)
    if plan.trials:
        os.replace(_folder(out) / "plan.json", plan_path(out))
    shutil.rmtree(_folder(out))


def plan_path(out: Path) -> Path:
    """Where the plan of a calibrated measurement stays.

    >>> plan_path(Path("a/s.safetensors")).name
    's.plan.json'
    """
    return out.with_name(out.name.removesuffix(".safetensors") + ".plan.json")


def _folder(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def _part(out: Path, number: int) -> Path:
    return _folder(out) / f"{number:05d}.safetensors"


def _known(out: Path, plan: Plan, calibrated: bool) -> Plan | None:
    """The plan that the parts were begun with, or that an earlier calibration left, with the shapes it chose; None when there is none."""
    begun = _folder(out) / "plan.json"
    path = begun if begun.is_file() else plan_path(out)
    if not path.is_file() or (path != begun and not calibrated):
        return None
    found = load_struct(path, Plan)
    if msgspec.structs.replace(found, shapes=plan.shapes, trials=plan.trials) == plan:
        return found
    if path != begun:  # left by another measurement of this name, which is gone
        return None
    raise InputError("holds parts of another measurement", where=str(_folder(out)), hint="choose another --out, or start over with --fresh")


def _calibrated(model: LanguageModel, anchor: LanguageModel | None, stream: Stream, plan: Plan, blocks: np.ndarray, workers: int, ranks: Ranks) -> Plan:
    """The plan with the shapes that are fastest on its first part."""
    tokenizer, spans = stream.tokenizer(), _spans(stream, plan.info, blocks[: plan.part_blocks])
    tokens = len(blocks) * plan.info.block_tokens
    held = sum(span.stop - span.start for span in spans)

    def run(shapes: Shapes) -> Callable[[], int] | None:
        given, most = min(shapes.batch_tokens, held), min(plan.shapes.batch_tokens, held)
        if shapes.batch_tokens != plan.shapes.batch_tokens and (given == most or given < plan.info.policy.context):  # a part holds no other batch
            return None
        batch = [spans[k] for k in batches_of(spans, shapes.batch_tokens)[0]]
        if shapes.compiled and (len(batch), batch[0].stop - batch[0].start) != (full_rows(shapes, plan.info), plan.info.policy.context):
            return None  # no batch is the one that would be compiled
        scorer = _Scorer(model, anchor, stream, tokenizer, msgspec.structs.replace(plan, shapes=shapes))

        def once() -> int:
            try:
                scorer.batch(batch)
            except torch._dynamo.exc.TorchDynamoException:  # no compiler, or a model it cannot compile
                return 0
            return sum(span.stop - span.scored for span in batch)

        return once

    def clock() -> float:
        if model.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter() if model.device == "cuda" else time.process_time() / torch.get_num_threads()
        return float(ranks.sum(torch.tensor(now, dtype=torch.float64, device=model.device))) / ranks.world  # one answer for all

    shapes, trials = calibrate(run, plan.shapes, tokens=tokens, vocab_size=plan.info.vocab_size, workers=workers, compiles=ranks.world == 1, clock=clock)
    return msgspec.structs.replace(plan, shapes=shapes, trials=trials)


def _work(model_path: str, stream_path: str, out: str, anchor_path: str | None, plan: Plan, blocks: np.ndarray, worker: int, workers: int, threads: int, *,
          progress: Progress = silent, models: tuple[LanguageModel, LanguageModel | None] | None = None, ranks: Ranks = ALONE) -> None:  # fmt: skip
    """Score the parts ``worker, worker + workers, ...`` that are not there yet."""
    torch.set_num_threads(threads)
    mine = range(worker, -(-len(blocks) // plan.part_blocks), workers)
    sizes = {k: len(blocks[k * plan.part_blocks : (k + 1) * plan.part_blocks]) * plan.info.block_tokens for k in mine}
    todo = [k for k in mine if not _part(Path(out), k).is_file()]
    total = sum(sizes.values())
    done = total - sum(sizes[k] for k in todo)
    if not todo:
        progress(total, total)
        return
    if models is None:
        prepare_device(plan.device, worker)
        models = load_model(model_path, dtype=plan.dtype, device=plan.device), load_model(anchor_path, dtype=plan.dtype, device=plan.device) if anchor_path else None
    keep_freed_memory()
    stream = Stream(stream_path)
    scorer = _Scorer(*models, stream, stream.tokenizer(), plan)
    for number in todo:
        ids = blocks[number * plan.part_blocks : (number + 1) * plan.part_blocks]
        if plan.sketch:
            held = [ids[start : start + HELD] for start in range(0, len(ids), HELD)]
            sizes_held = np.cumsum([0, *(len(some) * plan.info.block_tokens for some in held)])
            scored = (sketch_of(scorer.part(some, partial(_report, progress, done + int(before), total))) for some, before in zip(held, sizes_held, strict=False))
            part: Stats = reduce(lambda whole, more: merge_sketches([whole, more]), scored)
        else:
            part = scorer.part(ids, partial(_report, progress, done, total), top_path(_part(Path(out), number)) if ranks.first else None)
        if ranks.first:
            part.save(_part(Path(out), number))
        done += sizes[number]
        progress(done, total)


def _watch(out: Path, plan: Plan, blocks: int, progress: Progress) -> None:
    """Progress from the parts that are there, for workers that cannot report."""
    done = len(list(_folder(out).glob("[0-9]*.safetensors"))) * plan.part_blocks
    progress(min(done, blocks) * plan.info.block_tokens, blocks * plan.info.block_tokens)


def _report(progress: Progress, before: int, total: int, tokens: int) -> None:
    progress(before + tokens, total)


def _spans(stream: Stream, info: StatsInfo, ids: np.ndarray) -> list[Span]:
    boundaries = text_boundaries(stream.info.documents, stream.info.sequence_tokens, stream.info.seed is not None, info.window)
    return spans_of(info.policy.name, ids, window=info.window, context=info.policy.context, block_tokens=info.block_tokens, boundaries=boundaries)


def full_rows(shapes: Shapes, info: StatsInfo) -> int:
    """Texts of a batch whose texts are as long as the context."""
    return max(1, shapes.batch_tokens // info.policy.context)


class _Scorer:
    """Models and a stream, scored as a plan says."""

    def __init__(self, model: LanguageModel, anchor: LanguageModel | None, stream: Stream, tokenizer: Tokenizer, plan: Plan) -> None:
        if plan.shapes.compiled:
            model = compiled(model, full_rows(plan.shapes, plan.info), plan.info.policy.context)
        self.model, self.anchor, self.stream, self.tokenizer, self.plan = model, anchor, stream, tokenizer, plan

    def batch(self, spans: list[Span]) -> dict[str, np.ndarray]:
        """The numbers of the tokens of some spans, one after the other."""
        info, shapes = self.plan.info, self.plan.shapes
        pieces = [np.asarray(self.stream.tokens[span.start : span.stop]) for span in spans]
        for piece, span in zip(pieces, spans, strict=True):
            if piece.max() >= info.vocab_size:
                wrong = int(np.argmax(piece >= info.vocab_size))
                raise InputError(f"holds the id {int(piece[wrong]):,} at token {span.start + wrong:,}", where=str(self.stream.path.with_suffix(".bin")), expected=f"ids below {info.vocab_size:,}")
        eps, alphas = (info.anchor.eps, info.anchor.alphas) if info.anchor else (0.0, ())
        skips = [span.scored - span.start for span in spans]
        return score_pieces(self.model, pieces, skips, info.policy.first_token, anchor=self.anchor, eps=eps, alphas=alphas, top_k=self.plan.top_k, rows=shapes.rows, stretch=shapes.stretch)

    def part(self, ids: np.ndarray, report: Callable[[int], None], top: Path | None = None) -> Stats:
        """The statistics of some blocks; their likeliest tokens go to the file ``top``."""
        info, (start, stop) = self.plan.info, self.plan.info.window
        spans = _spans(self.stream, info, ids)
        starts = np.concatenate([[0], np.cumsum([span.stop - span.scored for span in spans])])
        arrays: dict[str, np.ndarray] = {}
        done = 0
        for batch in batches_of(spans, self.plan.shapes.batch_tokens):
            found = self.batch([spans[k] for k in batch])
            at = 0
            for k in batch:
                size = spans[k].stop - spans[k].scored
                for name, values in found.items():
                    if name not in arrays:
                        arrays[name] = np.empty((*values.shape[:-1], starts[-1]), dtype=values.dtype)
                    piece_values = values[..., at : at + size]
                    wrong_tokens = ~np.isfinite(piece_values).reshape(-1, size).all(0)
                    if wrong_tokens.any():
                        index = int(np.argmax(wrong_tokens))
                        raise InputError(f"gives {name} = {piece_values[..., index]} at token {spans[k].scored + index:,}", where=self.model.name, expected="finite predictions", hint="the weights hold NaN or infinities, or overflow at this token")
                    arrays[name][..., starts[k] : starts[k + 1]] = piece_values
                at += size
            done += at
            report(done)
        text_bytes = 0
        for b in ids:
            first, last = start + int(b) * info.block_tokens, min(start + (int(b) + 1) * info.block_tokens, stop)
            text_bytes += self.tokenizer.count_bytes(np.asarray(self.stream.tokens[first:last]), previous=int(self.stream.tokens[first - 1]) if first else None)
        tops = {name: arrays.pop(name) for name in TOP_ARRAYS if name in arrays}
        if tops and top is not None:  # before the part itself, whose presence says that all of it is done
            save_top(top, tops, info.model)
        return Stats(msgspec.structs.replace(info, tokens=int(starts[-1]), text_bytes=text_bytes), {**arrays, "blocks": ids})
