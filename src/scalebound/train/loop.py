"""One run: a single pass over a window of a stream, every token's loss kept, resumable to the bit.

Batches are consecutive sequences of the window, in its order. The model sees, for a sequence x_0 .. x_{T-1}, the inputs
``separator, x_0 .. x_{T-2}`` and is trained on all of x_0 .. x_{T-1}. The loss of each token is stored as computed, before the update that
uses it: that makes ``online`` losses a predictable predictor's (docs/mathematics.md, trajectory certificates).
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.torch import save

import scalebound
from scalebound.core.errors import InputError, from_os_error
from scalebound.core.io import atomic_write, canonical_json, load_struct, save_struct
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import derive
from scalebound.core.stats import ModelRef, Policy, Stats, StatsInfo, StreamRef
from scalebound.data.stream import Stream
from scalebound.data.tokenizer import load_tokenizer
from scalebound.models.partial import Partial
from scalebound.models.ranks import whole
from scalebound.models.relative import ADAPTER
from scalebound.models.start import Start, open_trainable
from scalebound.models.trainable import Trainable
from scalebound.train import noise_scale, parallel, watch
from scalebound.train.average import WeightAverage
from scalebound.train.checkpoint import checkpoint_folder, complete_checkpoints, prune, read_state, save_model, step_of, write_checkpoint
from scalebound.train.device import find_device
from scalebound.train.divergence import MOST, Diverged, Divergence, place_to_return
from scalebound.train.optim import set_rate
from scalebound.train.parametrization import build, optimizer_for
from scalebound.train.passes import backward, compiled_losses, plain_losses
from scalebound.train.recipe import Recipe, check_recipe, load_recipe
from scalebound.train.record import ONLINE_PART, Record, read_lines
from scalebound.train.schedule import SCHEDULES
from scalebound.train.schedule.warmup import rising_steps
from scalebound.train.sharded import check_sharding, shard_model
from scalebound.train.sparsity import Masks, masks_for

SCHEMA = "scalebound.run/1"
CHECKPOINT_S = 20.0  # seconds between checkpoints; what a crash can cost


class BackOff(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """After the batch of ``step`` the run had diverged and went on with the weights it had after step ``to``, its rate multiplied by ``rate`` in all."""

    step: int
    to: int
    rate: float


class RunInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``run.json``, written last: a folder with it holds a finished run."""

    schema: str = SCHEMA
    params: int
    steps: int
    tokens: int
    flops: float
    train_loss: float  # mean online loss of the last tenth of the window
    model_sha256: str
    stream: StreamRef
    window: tuple[int, int]
    checkpoint: str
    host: str
    threads: int
    train_s: float  # the only field that differs between equal runs
    version: str
    base: ModelRef | None = None  # the model it started from
    device: str = "cpu"
    processes: int = 1
    sharded: bool = False  # weights and optimizer state spread over the processes
    back_offs: tuple[BackOff, ...] = ()


RunInfo.SCHEMA = SCHEMA  # type: ignore[attr-defined]


def train_run(recipe: Recipe, stream_path: str | os.PathLike, out: str | os.PathLike, *, base: str | os.PathLike | Start | None = None, window_start: int = 0, threads: int = 1,
              device: str = "cpu", shard: bool = False, checkpoint_s: float = CHECKPOINT_S, fresh: bool = False, progress: Progress = silent) -> RunInfo:  # fmt: skip
    """Train one model and write its run folder; a run that was interrupted goes on, a finished one is returned as it is.

    Parameters
    ----------
    recipe
        See :class:`~scalebound.train.recipe.Recipe`.
    stream_path
        The stream; the window is ``[window_start, window_start + recipe.tokens)``.
    base
        The model that a recipe with ``base`` starts from: a path for :func:`~scalebound.models.open_trainable`, or what that returned.
    threads
        Threads of this process. Results are equal for equal machine and thread count.
    device
        ``"cpu"``, ``"cuda"``, or ``"auto"``: CUDA where there is a device (:mod:`~scalebound.train.device`).
    shard
        Under ``torchrun``: spread weights, gradients and optimizer state over the processes (:mod:`~scalebound.train.sharded`).
    fresh
        Throw away what is there and start over.

    Raises
    ------
    InputError
        The recipe contradicts itself, the stream is too short or has another vocabulary, the model to start from is not the recipe's, or the
        folder holds a run of another recipe or stream.
    Diverged
        A :class:`MachineError`: the run has diverged (:mod:`~scalebound.train.divergence`), and the recipe does not say to back off, or it did
        so too often. Step, its sequences and the last good checkpoint are named.
    MachineError
        The disk is full; the device is not there.
    """
    check_recipe(recipe)
    check_sharding(shard, recipe)
    if device != "cpu" and (recipe.adapter or recipe.pruning != "none"):
        raise InputError(f"{'adapter' if recipe.adapter else 'pruning'} with a device", where="recipe", expected="--device cpu: its masks and numbers are kept there")
    torch.set_num_threads(threads)
    out, stream, place = Path(out), Stream(stream_path), find_device(device)
    window = (window_start, window_start + recipe.tokens)
    if window[1] > len(stream):
        raise InputError(f"has {len(stream):,} tokens", where=str(stream.path), expected=f"at least {window[1]:,} for {recipe.params:,} parameters", hint="give more text, or ask for a smaller model")
    if stream.info.vocab_size != recipe.vocab_size and not (recipe.base and stream.info.vocab_size < recipe.vocab_size):
        raise InputError(f"has a vocabulary of {stream.info.vocab_size:,}", where=str(stream.path), expected=f"{recipe.vocab_size:,} as the recipe says")
    if (base is not None) != bool(recipe.base):
        raise InputError("needs the model it starts from" if recipe.base else "starts from random weights, and a model to start from was given", where="recipe", expected="both or neither")
    with parallel.first_alone(place.type):
        if fresh and out.exists() and parallel.rank() == 0:
            shutil.rmtree(out)
        _claim(out, recipe, stream, window)
        finished = (out / "run.json").is_file()
    if finished:
        progress(recipe.tokens, recipe.tokens)
    else:
        start = _open_base(base, recipe, stream)
        try:
            _train(recipe, stream, window, out, start, place, shard, threads, checkpoint_s, progress)
        except OSError as error:
            raise from_os_error(error, out) from error
        parallel.wait()
    return load_struct(out / "run.json", RunInfo)


def _open_base(base: str | os.PathLike | Start | None, recipe: Recipe, stream: Stream) -> Start | None:
    if base is None:
        return None
    start = base if isinstance(base, Start) else open_trainable(base)
    if start.sha256 != recipe.base:
        raise InputError(f"is the model {start.sha256[:12]}..", where=start.name, expected=f"{recipe.base[:12]}.., which the recipe starts from")
    if os.path.isfile(start.tokenizer):  # other ids would be learned without a complaint
        own = load_tokenizer(start.tokenizer)
        if own.sha256 != stream.info.tokenizer.sha256 and (stream.info.tokenizer.kind == "byte" or own.vocabulary() != stream.tokenizer().vocabulary()):
            raise InputError("was made with another tokenizer than the model's", where=str(stream.path), expected=f"the tokens of {start.tokenizer}")
    return start


def _claim(out: Path, recipe: Recipe, stream: Stream, window: tuple[int, int]) -> None:
    """Make the folder this run's own, or refuse one that holds another."""
    owner = {"stream": stream.sha256, "window": list(window)}
    if (out / "recipe.toml").is_file():
        if load_recipe(out / "recipe.toml") != recipe:
            raise InputError("holds a run of another recipe", where=str(out), hint="choose another --out, or start over with --fresh")
        if json.loads((out / "stream.json").read_text()) != owner:
            raise InputError("holds a run on another stream", where=str(out), hint="choose another --out, or start over with --fresh")
        return
    atomic_write(out / "stream.json", json.dumps(owner).encode())
    recipe.save(out / "recipe.toml")


def _train(recipe: Recipe, stream: Stream, window: tuple[int, int], out: Path, start: Start | None, place: torch.device, shard: bool, threads: int, checkpoint_s: float, progress: Progress) -> None:
    """Train from the newest checkpoint to the end; every process does the same steps, the first one writes."""
    first = parallel.rank() == 0
    model, optimizer = _begin(recipe, start, place, shard)
    files = _tokenizer_files(stream, start)
    T, separator, per_step = recipe.context, stream.info.separator, recipe.context * recipe.batch_sequences
    asked = {max(1, round(share * recipe.steps)) for share in recipe.checkpoints}
    average = WeightAverage(model, recipe.average) if recipe.average else None
    masks = masks_for(model, recipe)

    def restore(folder: Path) -> None:
        extra = read_state(folder, model, optimizer)
        if average is not None:
            average.load(extra)
        if masks is not None:
            masks.load(extra)

    def keep(step: int, *, resumable: bool = True) -> str:
        state = (average.state() if average else {}) | (masks.state() if masks else {})
        return write_checkpoint(out, step, model, optimizer=optimizer if resumable else None, extra=state, files=files, write=first)

    resumable = complete_checkpoints(out, resumable=True)
    parallel.wait()  # all have seen the same, and none is written before
    step = started_at = step_of(resumable[-1]) if resumable else 0
    if resumable:
        restore(resumable[-1])
    elif masks is not None:
        masks.after_update(0)
    elif recipe.on_divergence == "backoff" and (first or shard):
        keep(0)
    divergence = Divergence(math.log(recipe.vocab_size), recipe.steps, rising_steps(recipe.steps, recipe.warmup), _branched_at(out))
    sequences = np.asarray(stream.tokens[window[0] : window[1]]).reshape(-1, T)
    rows = -(-len(parallel.share(sequences[: recipe.batch_sequences])) // recipe.accumulation)
    losses_of = compiled_losses(model, recipe.precision, rows) if recipe.compile else plain_losses(model, recipe.precision)
    began = last_saved = time.monotonic()
    with Record(out, window=window, vocab_size=recipe.vocab_size, step=step, per_step=per_step) if first else nullcontext() as record:
        parallel.wait()  # the log is cut to the step before the others read it
        lines = record.lines if record else read_lines(out, step)
        if recipe.on_divergence != "ignore":
            divergence.replay(lines)
        back_offs = [BackOff(step=line["step"], **{key: line["back_off"][key] for key in ("to", "rate")}) for line in lines if "back_off" in line]
        while step < recipe.steps:
            at = step * recipe.batch_sequences
            batch = sequences[at : at + recipe.batch_sequences]
            noise = noise_scale.look(model, batch, separator) if first and recipe.noise_scale and step % recipe.noise_scale == 0 else None
            mean, losses = backward(model, parallel.share(batch), separator, recipe.accumulation, z_loss=recipe.z_loss, whole=len(batch), losses_of=losses_of, together=shard)
            if not shard:
                parallel.sum_gradients(model)
            mean, losses = parallel.join_losses(mean, losses)
            diverged = not math.isfinite(mean) if recipe.on_divergence == "ignore" else divergence.add(mean)
            if diverged and (recipe.on_divergence != "backoff" or divergence.times == MOST):
                raise _stopped(divergence, mean, recipe, out, (step + 1, at, min(at + recipe.batch_sequences, len(sequences)) - 1))
            norm, rate = _prepare(model, optimizer, recipe, step, divergence.factor, masks)
            line: dict[str, Any] = {"step": step + 1, "tokens": min((step + 1) * per_step, recipe.tokens), "loss": mean, "lr": rate, "grad_norm": norm if math.isfinite(norm) else None}
            step += 1
            if diverged:
                not_a_number = not math.isfinite(mean)
                if not_a_number:
                    line["loss"], losses = _in_numbers(losses, recipe.vocab_size)
                to = place_to_return(divergence, lambda k: (checkpoint_folder(out, k) / "config.json").is_file())
                assert to is not None  # the first one is written before the first step
                optimizer.zero_grad(set_to_none=True)
                restore(checkpoint_folder(out, to))
                divergence.go_back(to)
                line["back_off"] = {"to": to, "rate": divergence.factor, "not_a_number": not_a_number}
                back_offs.append(BackOff(step=step, to=to, rate=divergence.factor))
            else:
                watched = watch.before(model, batch, separator) if first and not shard and recipe.watch and (step - 1) % recipe.watch == 0 else None
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if masks is not None:
                    masks.after_update(step)
                    line["sparsity"] = masks.sparsity
                if average is not None:
                    average.update(model)
                if watched is not None:
                    line |= watched.after(model)
            if noise is not None:
                line["noise_scale"] = noise
            if record:
                record.losses(losses)
                record.line(line)
            progress(min(step * per_step, recipe.tokens), recipe.tokens)
            due = step in asked or (recipe.on_divergence == "backoff" and divergence.is_place(step)) or time.monotonic() - last_saved > checkpoint_s
            if parallel.agreed(due, shard) and step < recipe.steps:
                if record:
                    record.sync()
                if first or shard:
                    keep(step)
                if first:
                    prune(out, newest=2, keep=asked | _to_return_to(divergence, recipe, out))
                last_saved = time.monotonic()
    sha256 = keep(step, resumable=step in asked) if first or shard else ""
    if not first:
        return
    if average is not None:
        save_model(out / "averaged", model.config(), average.tensors_of(model), files)
    prune(out, newest=1, keep=asked)
    if recipe.adapter:
        atomic_write(out / ADAPTER, save({name: tensor.contiguous() for name, tensor in model.beside().items()}))
    info = RunInfo(
        params=recipe.params, steps=step, tokens=recipe.tokens, flops=recipe.flops, train_loss=_write_online(recipe, stream, window, out),
        model_sha256=sha256, stream=stream.ref(out), window=window, checkpoint=f"checkpoints/step-{step}", host=f"{platform.machine()} {platform.system()}",
        threads=threads, train_s=round(time.monotonic() - began, 3) if not started_at else 0.0, version=scalebound.__version__,
        base=None if start is None else ModelRef(name=Path(start.name).name, sha256=start.sha256, params=start.num_params),
        device=place.type, processes=parallel.size(), sharded=shard, back_offs=tuple(back_offs),
    )  # fmt: skip
    save_struct(out / "run.json", info)
    (out / ONLINE_PART).unlink(missing_ok=True)


def _write_online(recipe: Recipe, stream: Stream, window: tuple[int, int], out: Path) -> float:
    """The losses of all tokens as a stats file; returns the mean of the last tenth."""
    losses = np.fromfile(out / ONLINE_PART, dtype="<f4")
    Stats(
        StatsInfo(
            kind="online", model=ModelRef(name=out.name, sha256="", params=recipe.params),  # a different predictor at every step: no single model's hash
            stream=stream.ref(out), window=window, vocab_size=recipe.vocab_size, tokens=recipe.tokens, block_tokens=recipe.context,
            policy=Policy("packed", recipe.context, stream.info.separator), text_bytes=stream.tokenizer().count_bytes(np.asarray(stream.tokens[window[0] : window[1]])),
            predictable="the loss of each token before the update that used it", version=scalebound.__version__,
        ),
        {"nll": losses},
    ).save(out / "online.safetensors")  # fmt: skip
    return float(losses[-max(1, len(losses) // 10) :].mean(dtype=np.float64))


def _stopped(divergence: Divergence, mean: float, recipe: Recipe, out: Path, where: tuple[int, int, int]) -> Diverged:
    """The error that ends a diverged run."""
    step, first, last = where
    kept = {step_of(folder) for folder in complete_checkpoints(out)}
    good = divergence.good(kept) if recipe.on_divergence != "ignore" else max(kept, default=None)
    tried = f", after going back {divergence.times} times" if divergence.times else ""
    return Diverged(
        f"{divergence.words(mean)} at step {step} of {recipe.steps}, on the sequences from {first:,} to {last}{tried}", where=str(out),
        hint=f"last good checkpoint: {'none' if good is None else f'step-{good}'}; lower learning_rate ({recipe.learning_rate * divergence.factor:g})" + ("" if divergence.times else ", or start over with --on-divergence backoff --fresh"),
    )  # fmt: skip


def _to_return_to(divergence: Divergence, recipe: Recipe, out: Path) -> set[int]:
    """Checkpoints that a divergence would ask for."""
    if recipe.on_divergence == "backoff":
        return set(divergence.candidates())
    good = divergence.good([step_of(folder) for folder in complete_checkpoints(out)]) if recipe.on_divergence == "stop" else None
    return set() if good is None else {good}


def _branched_at(out: Path) -> list[int]:
    """The step at which a branch begins (:mod:`~scalebound.train.branch`): the earliest it can go back to."""
    return [json.loads((out / "branch.json").read_text())["step"]] if (out / "branch.json").is_file() else []


def _in_numbers(losses: bytes, vocab_size: int) -> tuple[float, bytes]:
    """Losses with those that are no numbers replaced by a uniform guess's, and their mean.

    Where logits are no numbers the predictor is taken to guess: which logits are not is decided by the weights and earlier tokens, so the
    replaced losses are still those of predictions made beforehand.
    """
    given = np.frombuffer(losses, dtype="<f4")
    given = np.where(np.isfinite(given), given, np.float32(np.nextafter(np.float32(math.log(vocab_size)), np.float32(np.inf))))
    return float(given.mean(dtype=np.float64)), given.astype("<f4").tobytes()


def _begin(recipe: Recipe, start: Start | None, place: torch.device, shard: bool) -> tuple[Trainable, torch.optim.Optimizer]:
    """The model before the first step, and its optimizer. Initial weights are drawn on the processor, so they are the same everywhere."""
    if start is not None:
        model: Trainable = Partial(start.model, recipe.adapter, recipe.seed) if recipe.adapter else start.model.to(place)
        return model, optimizer_for(model, recipe)
    model, optimizer = build(recipe, torch.Generator().manual_seed(derive(recipe.seed, "init", recipe.params)))
    if shard:
        shard_model(model, place)
    elif place.type != "cpu":
        model.to(place)
    else:
        return model, optimizer
    return model, optimizer_for(model, recipe)


def _prepare(model: Trainable, optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, factor: float, masks: Masks | None) -> tuple[float, float]:
    """Clip the gradient of what is not masked and set the step's rate; returns the gradient's norm and the rate."""
    if masks is not None:
        masks.hide_gradients()
    norm = whole(torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)).item()
    rate = recipe.learning_rate * SCHEDULES[recipe.schedule](step, recipe.steps, warmup=recipe.warmup, decay=recipe.decay) * factor
    set_rate(optimizer.param_groups, rate)
    return norm, rate


def _tokenizer_files(stream: Stream, start: Start | None) -> dict[str, bytes]:
    """What makes a checkpoint open with the tokens it was trained on; nothing for bytes, whose tokenizer every folder of ours is given."""
    if start is not None and start.files:
        return start.files
    if stream.info.tokenizer.kind == "byte":
        return {}
    return {"tokenizer.json": stream.tokenizer().content, "tokenizer_config.json": canonical_json({"tokenizer_class": "PreTrainedTokenizerFast"})}
