"""Training for the certificate: a trained model becomes one whose file is small, its loss and its bits traded at the certificate's own rate.

.. math:: \\min\\ \\text{loss} + \\lambda\\,\\frac{L \\log 2}{D}

over the training stream, L the bits of the integers (:mod:`scalebound.train.latent`), D the tokens the certificate is about. A bound of
section 3 (docs/mathematics.md) grows by about ``Delta/s`` times the nats of code per token, so with ``lambda`` equal to that slope the
objective is, to first order, the bound. The slope is that of the model as it is (:mod:`scalebound.train.price`), taken anew from time to time while its bits
fall. What is left out of the bits: scales and header.

Bits are what takes the time. A weight moves by about the learning rate a step whatever its gradient, and beside the noise of the loss the
bits' part of it is small, so they are still falling when a short training ends. Hence twice the price at the start, falling evenly to the
price itself at the end, and small batches: many steps (benchmarks/LOG.md).

The trained model was fitted to the stream it is certified on, twice over. That is sound: the bound holds for every model of the code at
once, and the file pays for this one.

This is training, so it lives here although its result is a package's content: `compress` knows neither models nor streams.
Source: the objective is that of the certificate; rate terms in training: Ballé et al., arXiv 1611.01704; Oktay et al., arXiv 1906.06624.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from scalebound.compress import Coded, QuantizedModel, code_bits, encode, load_package
from scalebound.core.errors import InputError, MachineError, UsageError
from scalebound.core.hashing import canonical_config
from scalebound.core.io import atomic_write, canonical_json, load_struct, sha256_bytes
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import generator
from scalebound.core.stats import Stats
from scalebound.data.stream import Stream
from scalebound.models.folder import hash_tensors, read_config, read_tensors
from scalebound.models.load import newest_checkpoint
from scalebound.models.transformer import Transformer, own_shape
from scalebound.train.anchored_objective import ALPHA, AnchoredObjective
from scalebound.train.distillation import SHARE as TEACHER_SHARE
from scalebound.train.distillation import Divergence, Teacher
from scalebound.train.latent import Latent
from scalebound.train.loop import CHECKPOINT_S, RunInfo
from scalebound.train.price import product_price
from scalebound.train.recipe import batch_for
from scalebound.train.schedule.warmup_stable_decay import warmup_stable_decay

PRICED_SEQUENCES, PRICINGS = 32, 16  # whose losses the certificate's slope is taken at, and how often
DELTA = 0.01  # of the certificate whose slope is the price
OVERPRICE = 2.0  # times the price at the first step
BATCH_SEQUENCES = 2
SHARE, MOST_STEPS = 0.3, 6000  # of the window's sequences that default steps see, and their limit
RATE = 0.3  # over the width: the rate the model was trained with, at its batch
STEP_RATE = 0.003  # of log steps
BETAS = (0.9, 0.95)
WARMUP, DECAY, CLIP = 0.02, 0.5, 1.0
JUDGED_SEQUENCES = 256  # drawn once, for the losses of the record


@dataclass(frozen=True)
class Finetuned:
    """What came of it. Losses are nats per token on the same sequences of the window; bits per parameter are those of whole files."""

    model: QuantizedModel
    steps: int
    price: float  # that of the last step
    tokens: int  # D
    judged_tokens: int  # what the losses below are means of
    loss_before: float  # the model that was given
    loss_start: float  # before the first step: rounded, or the package started from
    loss_after: float
    bits_start: float
    bits_after: float
    teacher: dict | None = None  # its SHA-256, its share of the loss and the divergence

    def record(self) -> dict:
        """Everything but the model."""
        return {name: value for name, value in vars(self).items() if name != "model"}


def default_steps(tokens: int, context: int) -> int:
    """Steps of :data:`BATCH_SEQUENCES` sequences that see 0.3 of the window, at most 6000: a formula, so nothing is picked after looking.

    >>> default_steps(760_832, 256), default_steps(20_000_000, 256)
    (445, 6000)
    """
    return max(1, min(MOST_STEPS, int(SHARE * tokens / (context * BATCH_SEQUENCES))))


def price_at(step: int, steps: int, price: float) -> float:
    """Price of a step, the first being 0.

    >>> [price_at(step, 3, 8.0) for step in range(3)]
    [16.0, 12.0, 8.0]
    """
    return price * (OVERPRICE - (OVERPRICE - 1) * step / max(1, steps - 1))


def finetune(run: str | os.PathLike, stream: str | os.PathLike, *, window: tuple[int, int] | None = None, steps: int | None = None, price: float | None = None,
             reference: Stats | None = None, alpha: float = ALPHA, teacher: str | os.PathLike | None = None, teacher_share: float = TEACHER_SHARE, divergence: Divergence = "forward", start: str | os.PathLike | None = None, batch_sequences: int = BATCH_SEQUENCES, seed: int = 0, threads: int = 1, state: str | os.PathLike | None = None, checkpoint_s: float = CHECKPOINT_S, progress: Progress = silent) -> Finetuned:  # fmt: skip
    """Train a model's integers and scales for its certificate.

    Parameters
    ----------
    run
        A run, or a model folder of this library's own architecture.
    stream
        The stream it was trained on.
    window
        The tokens the certificate will be about; default those the run was trained on, or the whole stream. Sequences are drawn from it.
    steps : >= 1
        Default :func:`default_steps`.
    price : >= 0, nats of bound per nat of code and token
        lambda, that of the last step. Default: the slope of the product certificate at the model as it is, taken 16 times
        (:func:`~scalebound.train.price.product_price`); with a reference the anchored form's own, ``log(1/alpha)/s``.
    reference, alpha
        Losses of a predictable reference on every token of the window: the anchored bound itself is minimised
        (:mod:`scalebound.train.anchored_objective`), at this alpha.
    teacher, teacher_share, divergence
        A model of the same vocabulary whose distributions take the place of this share of the loss (:mod:`scalebound.train.distillation`).
    start
        A package that an earlier call made of this run: its integers and scales are trained further, instead of the run's weights rounded anew.
    threads
        Threads of this process. Same seed, machine and thread count: same bytes.
    state
        A file that keeps what an interrupted call had done; a later call with the same settings goes on from it, any other starts over.
        Removed at the end.

    Returns
    -------
    Finetuned
        ``save_package(path, result.model)`` writes the file; it decodes to exactly the model that was trained.

    Raises
    ------
    UsageError
        A setting out of its range.
    InputError
        No model of ours there, a stream of another vocabulary, a window outside the stream, a package of another model to start from.
    MachineError
        The loss is no longer a number.

    Notes
    -----
    About 25 ms of one busy core a step at 149k parameters, 16 ms at 38k (benchmarks/LOG.md); a teacher's forward pass besides. The learning rate is 0.3 / width times the root
    of the batch over that of a recipe for this window, with warmup over 2% of the steps and linear decay over the last half. Price, steps and
    seed tried several times on one stream count as a choice in the certificate (`--choice`).

    Examples
    --------
    >>> finetune("runs/ladder/59760", "runs/ladder/streams/train.json", steps=300)  # doctest: +SKIP
    """
    if steps is not None and steps < 1:
        raise UsageError(f"steps = {steps}", expected="at least 1")
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise UsageError(f"price = {price}", expected="a number of at least 0")
    if batch_sequences < 1:
        raise UsageError(f"batch_sequences = {batch_sequences}", expected="at least 1")
    torch.set_num_threads(threads)
    folder = newest_checkpoint(run) if (Path(run) / "checkpoints").is_dir() else Path(run)
    config, given = read_config(folder), read_tensors(folder)
    shape = own_shape(config)
    if shape is None:
        raise InputError("is not a model of this library's own architecture", where=str(run), expected="a run of `scalebound train`", hint="round it instead: scalebound compress MODEL --bits 4")
    opened = Stream(stream)
    if opened.info.vocab_size != shape.vocab_size:
        raise InputError(f"has a vocabulary of {opened.info.vocab_size:,}", where=str(stream), expected=f"{shape.vocab_size:,} as the model")
    if window is None:
        window = load_struct(Path(run) / "run.json", RunInfo).window if (Path(run) / "run.json").is_file() else (0, len(opened))
    context = int(config["max_position_embeddings"])
    if not 0 <= window[0] < window[1] <= len(opened) or window[1] - window[0] < context:
        raise InputError(f"has {len(opened):,} tokens, which do not hold the window {window[0]:,} to {window[1]:,}", where=str(opened.path), expected=f"a window inside it of at least {context:,} tokens")
    package = None if start is None else _start(start, config, given)
    steps = steps or default_steps(window[1] - window[0], context)
    bound = AnchoredObjective(reference, window, alpha=alpha) if reference is not None else None
    if price is None and bound is not None:
        price = bound.price
    taught = Teacher(teacher, share=teacher_share, kind=divergence, vocab_size=shape.vocab_size, context=context) if teacher is not None else None
    model = Transformer(shape, context)
    model.load_tensors(given)
    settings = {
        "model": hash_tensors(config, given), "stream": opened.sha256, "window": list(window), "steps": steps, "price": price,
        "batch_sequences": batch_sequences, "seed": seed, "threads": threads,
        "reference": None if bound is None else [sha256_bytes(bound.losses.tobytes()), alpha],
        "teacher": None if taught is None else taught.record(), "start": None if package is None else package.sha256(),
    }  # fmt: skip
    work = _Work(model, canonical_config(config), opened, window, context, Path(state) if state is not None else None, sha256_bytes(canonical_json(settings)), bound, taught)
    weights = {name: tensor.float() for name, tensor in given.items()}
    latent = Latent(weights) if package is None else Latent.of_package(package)
    return work.run(weights, latent, steps, price, batch_sequences, seed, checkpoint_s, progress)


def _start(path: str | os.PathLike, config: dict, given: dict[str, Tensor]) -> QuantizedModel:
    """The package at a path, if it is one of this model whose integers and row scales can be trained further."""
    package = load_package(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    if canonical_config(package.config) != canonical_config(config) or {name: tensor.shape for name, tensor in package.tensors.items()} != shapes:
        raise InputError("is not a package of this model", where=str(path), expected="one that --finetune made of the same run")
    if any(not isinstance(tensor, Coded) or tensor.col_scales is not None for tensor in package.tensors.values()):
        raise InputError("has tensors that are not integers with a scale for each row", where=str(path), expected="a package that --finetune made")
    return package


class _Work:
    """What stays the same during one call."""

    def __init__(self, model: Transformer, config: dict, stream: Stream, window: tuple[int, int], context: int, state: Path | None, identity: str, bound: AnchoredObjective | None = None, teacher: Teacher | None = None) -> None:
        self.bound, self.references = bound, None if bound is None else torch.from_numpy(bound.sequences(context))
        self.model, self.config, self.separator, self.state, self.identity, self.teacher = model, config, stream.info.separator, state, identity, teacher
        self.tokens = window[1] - window[0]
        stop = window[1] - self.tokens % context
        self.sequences = np.asarray(stream.tokens[window[0] : stop]).reshape(-1, context)

    def run(self, given: dict[str, Tensor], latent: Latent, steps: int, price: float | None, batch_sequences: int, seed: int, checkpoint_s: float, progress: Progress) -> Finetuned:
        judged = self.sequences[generator(seed, "finetune judged").permutation(len(self.sequences))[:JUDGED_SEQUENCES]]
        order = generator(seed, "finetune order").permutation(len(self.sequences))
        loss_before = self._judge({name: tensor.numpy() for name, tensor in given.items()}, judged)
        loss_start, bits_start = self._package(latent, judged)
        usual = batch_for(self.tokens, self.sequences.shape[1])
        rates = (RATE / self.model.shape.width * math.sqrt(min(1.0, batch_sequences / usual)), STEP_RATE)
        groups = [{"params": [part], "lr": rate} for part, rate in zip((latent.weights, latent.log_steps), rates, strict=True)]
        optimizer = torch.optim.AdamW(groups, betas=BETAS, weight_decay=0.0, fused=True)
        last_saved = time.monotonic()
        first, at_slope = self._resume(latent, optimizer)
        for step in range(first, steps):
            progress(step, steps)
            if price is None and step % max(1, steps // PRICINGS) == 0:
                at_slope = self._slope(latent, judged[:PRICED_SEQUENCES])
            target = at_slope if price is None else price
            at = (step * batch_sequences + np.arange(batch_sequences)) % len(order)
            tensors, bits = latent()
            objective = self._loss(tensors, order[at]) + price_at(step, steps, target) * math.log(2) / self.tokens * bits
            if not math.isfinite(objective.item()):
                raise MachineError(f"the objective is {objective.item()} at step {step + 1} of {steps}", where="finetune", hint="lower the price")
            objective.backward()
            torch.nn.utils.clip_grad_norm_(latent.parameters(), CLIP)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * warmup_stable_decay(step, steps, warmup=WARMUP, decay=DECAY)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if self.state is not None and step + 1 < steps and time.monotonic() - last_saved > checkpoint_s:
                self._save(latent, optimizer, step + 1, at_slope)
                last_saved = time.monotonic()
        progress(steps, steps)
        loss_after, bits_after = self._package(latent, judged)
        if self.state is not None:
            self.state.unlink(missing_ok=True)
        taught = None if self.teacher is None else self.teacher.record()
        return Finetuned(latent.quantized(self.config), steps, target, self.tokens, judged.size, loss_before, loss_start, loss_after, bits_start, bits_after, taught)

    def _loss(self, tensors: dict[str, Tensor], at: np.ndarray) -> Tensor:
        """What is minimised beside the bits, on the sequences of these numbers."""
        inputs_BT, targets_BT = self._tokens(self.sequences[at])
        logits_BTV = self._logits(tensors, inputs_BT)
        losses_BT = _cross_entropy(logits_BTV, targets_BT)
        loss = losses_BT.mean() if self.bound is None or self.references is None else self.bound(losses_BT, self.references[at])
        return loss if self.teacher is None else self.teacher.mixed(loss, inputs_BT, logits_BTV)

    def _tokens(self, batch: np.ndarray) -> tuple[Tensor, Tensor]:
        """What the model is given of some sequences, and what it predicts."""
        targets_BT = torch.from_numpy(batch.astype(np.int64))
        return F.pad(targets_BT[:, :-1], (1, 0), value=self.separator), targets_BT

    def _logits(self, tensors: dict[str, Tensor], inputs_BT: Tensor) -> Tensor:
        return functional_call(self.model, Transformer.fused(tensors, self.model.shape.depth), (inputs_BT,))

    @torch.no_grad()
    def _losses(self, tensors: dict[str, Tensor], sequences: np.ndarray) -> Tensor:
        """Losses of all tokens of some sequences, one after the other."""
        parts = [self._tokens(part) for part in np.array_split(sequences, math.ceil(len(sequences) / 16))]
        return torch.cat([_cross_entropy(self._logits(tensors, inputs_BT), targets_BT).flatten() for inputs_BT, targets_BT in parts])

    def _judge(self, tensors: dict[str, np.ndarray], judged: np.ndarray) -> float:
        """Mean loss of some sequences' tokens."""
        return float(self._losses({name: torch.from_numpy(data) for name, data in tensors.items()}, judged).double().mean())

    @torch.no_grad()
    def _slope(self, latent: Latent, judged: np.ndarray) -> float:
        """The certificate's price at these latents, by the losses of some sequences."""
        tensors, bits = latent()
        losses = self._losses(tensors, judged).numpy()
        return product_price(losses, self.model.shape.vocab_size, (math.log(1 / DELTA) + float(bits) * math.log(2)) / self.tokens)

    def _package(self, latent: Latent, judged: np.ndarray) -> tuple[float, float]:
        """Loss and bits per parameter of the package that these latents would be now."""
        model = latent.quantized(self.config)
        return self._judge(model.dequantized(), judged), code_bits(len(encode(model))) / model.num_params

    def _save(self, latent: Latent, optimizer: torch.optim.Optimizer, step: int, price: float) -> None:
        from safetensors.torch import save

        assert self.state is not None
        moments = {f"optimizer.{number}.{key}": value for number, entry in optimizer.state_dict()["state"].items() for key, value in entry.items()}
        atomic_write(self.state, save({**latent.state_dict(), **moments}, metadata={"finetune": json.dumps({"settings": self.identity, "step": step, "price": price})}))

    def _resume(self, latent: Latent, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """Load the state file if it is one of the same settings, and return its step and the price last taken."""
        from safetensors import SafetensorError, safe_open

        if self.state is None or not self.state.is_file():
            return 0, 0.0
        try:
            with safe_open(self.state, framework="pt") as file:
                kept = json.loads((file.metadata() or {}).get("finetune", "{}"))
                if kept.get("settings") != self.identity:
                    return 0, 0.0
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, json.JSONDecodeError) as error:
            raise InputError(f"is not the state of a finetuning ({error})", where=str(self.state), hint="delete it") from error
        moments: dict[int, dict[str, Tensor]] = {}
        for name in [name for name in tensors if name.startswith("optimizer.")]:
            _, number, key = name.split(".")
            moments.setdefault(int(number), {})[key] = tensors.pop(name)
        latent.load_state_dict(tensors)
        optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
        return int(kept["step"]), float(kept["price"])


def _cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Losses of tokens, (B, T)."""
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none").view(targets_BT.shape)
