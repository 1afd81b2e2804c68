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
from pathlib import Path
from typing import Any, TextIO

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save

import scalebound
from scalebound.certify.trajectory import LiveTrajectory
from scalebound.core.errors import InputError, MachineError, from_os_error
from scalebound.core.io import atomic_write, canonical_json, load_struct, save_struct
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import derive
from scalebound.core.stats import ModelRef, Policy, Stats, StatsInfo, StreamRef
from scalebound.data.stream import Stream
from scalebound.data.tokenizer import load_tokenizer
from scalebound.models.partial import Partial
from scalebound.models.relative import ADAPTER
from scalebound.models.start import Start, open_trainable
from scalebound.models.trainable import Trainable
from scalebound.models.transformer import Transformer
from scalebound.train import noise_scale, parallel, watch
from scalebound.train.average import WeightAverage
from scalebound.train.checkpoint import complete_checkpoints, prune, read_state, save_model, step_of, write_checkpoint
from scalebound.train.optim import set_rate
from scalebound.train.parametrization import build, optimizer_for
from scalebound.train.recipe import Recipe, check_recipe, load_recipe
from scalebound.train.schedule import SCHEDULES
from scalebound.train.sparsity import Masks, masks_for

SCHEMA = "scalebound.run/1"
CHECKPOINT_S = 20.0  # seconds between checkpoints; what a crash can cost
ONLINE_PART = "online.part"
TRAJECTORY = "trajectory.jsonl"


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


RunInfo.SCHEMA = SCHEMA  # type: ignore[attr-defined]


def train_run(recipe: Recipe, stream_path: str | os.PathLike, out: str | os.PathLike, *, base: str | os.PathLike | Start | None = None, window_start: int = 0, threads: int = 1,
              checkpoint_s: float = CHECKPOINT_S, fresh: bool = False, progress: Progress = silent) -> RunInfo:  # fmt: skip
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
    fresh
        Throw away what is there and start over.

    Raises
    ------
    InputError
        The recipe contradicts itself, the stream is too short or has another vocabulary, the model to start from is not the recipe's, or the
        folder holds a run of another recipe or stream.
    MachineError
        The loss is no longer a number (step, its sequences and last checkpoint named), or the disk is full.
    """
    check_recipe(recipe)
    torch.set_num_threads(threads)
    out, stream = Path(out), Stream(stream_path)
    window = (window_start, window_start + recipe.tokens)
    if window[1] > len(stream):
        raise InputError(f"has {len(stream):,} tokens", where=str(stream.path), expected=f"at least {window[1]:,} for {recipe.params:,} parameters", hint="give more text, or ask for a smaller model")
    if stream.info.vocab_size != recipe.vocab_size and not (recipe.base and stream.info.vocab_size < recipe.vocab_size):
        raise InputError(f"has a vocabulary of {stream.info.vocab_size:,}", where=str(stream.path), expected=f"{recipe.vocab_size:,} as the recipe says")
    if (base is not None) != bool(recipe.base):
        raise InputError("needs the model it starts from" if recipe.base else "starts from random weights, and a model to start from was given", where="recipe", expected="both or neither")
    with parallel.first_alone():
        if fresh and out.exists() and parallel.rank() == 0:
            shutil.rmtree(out)
        _claim(out, recipe, stream, window)
        finished = (out / "run.json").is_file()
    if finished:
        progress(recipe.tokens, recipe.tokens)
        return load_struct(out / "run.json", RunInfo)
    start = _open_base(base, recipe, stream)
    if parallel.rank() > 0:
        return _assist(recipe, stream, window, out, start)
    info = _train(recipe, stream, window, out, start, threads, checkpoint_s, progress)
    parallel.wait()
    return info


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


def _train(recipe: Recipe, stream: Stream, window: tuple[int, int], out: Path, start: Start | None, threads: int, checkpoint_s: float, progress: Progress) -> RunInfo:
    model, optimizer = _begin(recipe, start)
    files = _tokenizer_files(stream, start)
    asked = {max(1, round(share * recipe.steps)) for share in recipe.checkpoints}
    resumable = complete_checkpoints(out, resumable=True)
    step = step_of(resumable[-1]) if resumable else 0
    average = WeightAverage(model, recipe.average) if recipe.average else None
    masks = masks_for(model, recipe)
    if resumable:
        extra = read_state(resumable[-1], model, optimizer)
        if average is not None:
            average.load(extra, step)
        if masks is not None:
            masks.load(extra)
    elif masks is not None:
        masks.after_update(0)
    T, per_step = recipe.context, recipe.context * recipe.batch_sequences
    sequences = np.asarray(stream.tokens[window[0] : window[1]]).reshape(-1, T)
    began = last_saved = time.monotonic()
    started_at = step
    live = LiveTrajectory(window, recipe.vocab_size)
    try:
        with (open(out / ONLINE_PART, "r+b" if (out / ONLINE_PART).exists() else "w+b") as online, open(out / "log.jsonl", "r+" if (out / "log.jsonl").exists() else "w+") as log,
              open(out / TRAJECTORY, "w") as trajectory):  # fmt: skip
            online.truncate(min(step * per_step, recipe.tokens) * 4)
            online.seek(0)
            for _ in range(step):  # what an interrupted run had seen, batch by batch as it saw it
                _follow(live, online.read(4 * per_step), trajectory)
            online.seek(0, os.SEEK_END)
            _rewind_log(log, step)
            while step < recipe.steps:
                first = step * recipe.batch_sequences
                batch = sequences[first : first + recipe.batch_sequences]
                noise = noise_scale.look(model, batch, stream.info.separator) if recipe.noise_scale and step % recipe.noise_scale == 0 else None
                mean, losses = _gradient(model, batch, stream.info.separator, recipe)
                if not math.isfinite(mean):
                    kept = complete_checkpoints(out)
                    raise MachineError(
                        f"the loss is {mean} at step {step + 1} of {recipe.steps}, on the sequences from {first:,} to {min(first + recipe.batch_sequences, len(sequences)) - 1:,}",
                        where=str(out), hint=f"last good checkpoint: {kept[-1].name if kept else 'none'}; lower learning_rate ({recipe.learning_rate:g})",
                    )  # fmt: skip
                online.write(losses)
                _follow(live, losses, trajectory)
                norm, rate = _prepare(model, optimizer, recipe, step, masks)
                line: dict[str, Any] = {"step": step + 1, "tokens": min((step + 1) * per_step, recipe.tokens), "loss": mean, "lr": rate, "grad_norm": norm if math.isfinite(norm) else None}
                watched = watch.before(model, batch, stream.info.separator) if recipe.watch and step % recipe.watch == 0 else None
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
                if masks is not None:
                    masks.after_update(step)
                    line["sparsity"] = masks.sparsity
                if average is not None:
                    average.update(model)
                if watched is not None:
                    line |= watched.after(model)
                if noise is not None:
                    line["noise_scale"] = noise
                print(json.dumps(line), file=log)
                progress(min(step * per_step, recipe.tokens), recipe.tokens)
                if step < recipe.steps and (step in asked or time.monotonic() - last_saved > checkpoint_s):
                    for file in (online, log):
                        file.flush()
                        os.fsync(file.fileno())
                    write_checkpoint(out, step, model, optimizer=optimizer, extra=_extra(average, masks), files=files)
                    prune(out, newest=2, keep=asked)
                    last_saved = time.monotonic()
    except OSError as error:
        raise from_os_error(error, out) from error
    sha256 = write_checkpoint(out, step, model, optimizer=optimizer if step in asked else None, extra=_extra(average, masks), files=files)
    if average is not None:
        save_model(out / "averaged", model.config(), average.tensors_of(model), files)
    prune(out, newest=1, keep=asked)
    if recipe.adapter:
        atomic_write(out / ADAPTER, save({name: tensor.contiguous() for name, tensor in model.beside().items()}))
    online_losses = np.fromfile(out / ONLINE_PART, dtype="<f4")
    model_ref = ModelRef(name=out.name, sha256="", params=recipe.params)  # a different predictor at every step: no single model's hash
    Stats(
        StatsInfo(
            kind="online", model=model_ref, stream=stream.ref(out), window=window, vocab_size=recipe.vocab_size, tokens=recipe.tokens, block_tokens=T,
            policy=Policy("packed", T, stream.info.separator), text_bytes=stream.tokenizer().count_bytes(sequences.reshape(-1)),
            predictable="the loss of each token before the update that used it", version=scalebound.__version__,
        ),
        {"nll": online_losses},
    ).save(out / "online.safetensors")  # fmt: skip
    info = RunInfo(
        params=recipe.params, steps=step, tokens=recipe.tokens, flops=recipe.flops, train_loss=float(online_losses[-max(1, len(online_losses) // 10) :].mean(dtype=np.float64)),
        model_sha256=sha256, stream=stream.ref(out), window=window, checkpoint=f"checkpoints/step-{step}", host=f"{platform.machine()} {platform.system()}",
        threads=threads, train_s=round(time.monotonic() - began, 3) if not started_at else 0.0, version=scalebound.__version__,
        base=None if start is None else ModelRef(name=Path(start.name).name, sha256=start.sha256, params=start.num_params),
    )  # fmt: skip
    save_struct(out / "run.json", info)
    (out / ONLINE_PART).unlink(missing_ok=True)
    return info


def _extra(average: WeightAverage | None, masks: Masks | None) -> dict[str, torch.Tensor]:
    """What resumption needs beside weights and optimizer."""
    return (average.state() if average else {}) | (masks.state() if masks else {})


def _follow(live: LiveTrajectory, losses: bytes, file: TextIO) -> None:
    """Write where the trajectory's bound stands, at each hundredth of the run."""
    for standing in live.add(np.frombuffer(losses, dtype="<f4")):
        print(json.dumps(vars(standing)), file=file, flush=True)


def _begin(recipe: Recipe, start: Start | None) -> tuple[Trainable, torch.optim.Optimizer]:
    """The model before the first step, and its optimizer."""
    if start is not None:
        model = Partial(start.model, recipe.adapter, recipe.seed) if recipe.adapter else start.model
        return model, optimizer_for(model, recipe)
    return build(recipe, torch.Generator().manual_seed(derive(recipe.seed, "init", recipe.params)))


def _gradient(model: Trainable, batch: np.ndarray, separator: int, recipe: Recipe) -> tuple[float, bytes]:
    """The gradient of a batch's mean loss, over all processes; that loss and every token's, in order."""
    mean, losses = backward(model, parallel.share(batch), separator, recipe.accumulation, z_loss=recipe.z_loss, whole=len(batch), precision=recipe.precision)
    parallel.sum_gradients(model)
    return parallel.join_losses(mean, losses)


def _prepare(model: Trainable, optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, masks: Masks | None) -> tuple[float, float]:
    """Clip the gradient of what is not masked and set the step's rate; returns the gradient's norm and the rate."""
    if masks is not None:
        masks.hide_gradients()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip).item()
    rate = recipe.learning_rate * SCHEDULES[recipe.schedule](step, recipe.steps, warmup=recipe.warmup, decay=recipe.decay)
    set_rate(optimizer.param_groups, rate)
    return norm, rate


def _assist(recipe: Recipe, stream: Stream, window: tuple[int, int], out: Path, start: Start | None) -> RunInfo:
    """What the processes after the first do: their share of every batch, the same updates, no files."""
    model, optimizer = _begin(recipe, start)
    masks = masks_for(model, recipe)
    resumable = complete_checkpoints(out, resumable=True)
    if resumable:  # the first process writes no newer one before the first gradient is summed, which needs this process
        extra = read_state(resumable[-1], model, optimizer)
        if masks is not None:
            masks.load(extra)
    elif masks is not None:
        masks.after_update(0)
    sequences = np.asarray(stream.tokens[window[0] : window[1]]).reshape(-1, recipe.context)
    for step in range(step_of(resumable[-1]) if resumable else 0, recipe.steps):
        first = step * recipe.batch_sequences
        mean, _ = _gradient(model, sequences[first : first + recipe.batch_sequences], stream.info.separator, recipe)
        if not math.isfinite(mean):
            raise MachineError(f"the loss is {mean} at step {step + 1} of {recipe.steps}", where=str(out))
        _prepare(model, optimizer, recipe, step, masks)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if masks is not None:
            masks.after_update(step + 1)
    parallel.wait()
    return load_struct(out / "run.json", RunInfo)


def _tokenizer_files(stream: Stream, start: Start | None) -> dict[str, bytes]:
    """What makes a checkpoint open with the tokens it was trained on; nothing for bytes, whose tokenizer every folder of ours is given."""
    if start is not None and start.files:
        return start.files
    if stream.info.tokenizer.kind == "byte":
        return {}
    return {"tokenizer.json": stream.tokenizer().content, "tokenizer_config.json": canonical_json({"tokenizer_class": "PreTrainedTokenizerFast"})}


def backward(model: Trainable, batch: np.ndarray, separator: int, parts: int, *, z_loss: float = 0.0, whole: int | None = None, precision: str = "float32") -> tuple[float, bytes]:
    """Add the gradient of a batch's mean loss, in ``parts`` passes, and return that loss and the bytes of every token's loss in order.

    ``batch`` may be a part of a batch of ``whole`` sequences: losses are then weighted by its share, and an empty part adds nothing.

    With ``z_loss`` the gradient is that of the loss plus ``z_loss * mean(log Z ^ 2)``, Z the sum of exponentiated logits (Chowdhery et al.,
    arXiv 2204.02311); what is returned and recorded is the loss alone.
    """
    total, losses = 0.0, []
    whole = len(batch) if whole is None else whole
    for piece in np.array_split(batch, min(parts, len(batch))) if len(batch) else []:
        targets_BT = torch.from_numpy(piece.astype(np.int64))
        inputs_BT = F.pad(targets_BT[:, :-1], (1, 0), value=separator)
        logits_NV = logits_of(model, inputs_BT, precision).flatten(0, 1)
        losses_N = F.cross_entropy(logits_NV, targets_BT.flatten(), reduction="none")
        loss = losses_N.mean() * (len(piece) / whole)  # one part: times exactly 1
        if z_loss:
            (loss + z_loss * logits_NV.logsumexp(-1).square().mean() * (len(piece) / whole)).backward()
        else:
            loss.backward()
        total += loss.item()
        losses.append(losses_N.detach().numpy().astype("<f4").tobytes())
    return total, b"".join(losses)


def logits_of(model: Trainable, inputs_BT: torch.Tensor, precision: str) -> torch.Tensor:
    """Logits in float32; with ``bfloat16`` the matrix products before the head (of a model that is not ours: all of them) are rounded to it."""
    if precision == "float32":
        return model(inputs_BT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if not isinstance(model, Transformer):
            return model(inputs_BT).float()
        hidden = model.hidden(inputs_BT)
    return model.head(hidden.float())


def _rewind_log(log, step: int) -> None:
    """Drop the lines of steps that will be done again."""
    lines = log.readlines()[:step]
    log.seek(0)
    log.truncate()
    log.writelines(lines)
