"""Rounding a finished model with the help of calibration text: real files, as long as you say.

One pass forward and backward measures what errors cost (:mod:`~scalebound.train.curvature`). Then the calibration text runs through the
network once more, layer by layer: just before a linear map computes, the second moments of its inputs are formed, its weights are rounded
(:func:`scalebound.compress.gptq`) and put in its place, so that every map is calibrated on what the already rounded ones before it
produce. Nothing but the current activations and one factored matrix is held. Any model of ``transformers`` whose matrices are linear maps
and embeddings works, whatever its layers are called.

Linear maps that read one tensor (queries, keys, values; gate and up) are rounded as one matrix. A tied embedding is rounded first, by the
curvature of both its uses; an output matrix of its own last. What no calibration token reaches as a matrix (position embeddings,
convolutions, experts in one tensor) is rounded to a tenth of a row's root mean square, vectors as in plain rounding.

This runs models, so it lives here: `compress` knows neither models nor text; it is given arrays.
Calibration text enters a certificate through the file alone, and the file is paid for in full; it may be part of the certified stream.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from scalebound.compress import Coded, QuantizedModel, decode_model, encode, quantize, tensors_sha256
from scalebound.compress.allocation import SPACING, no_finer, relative_steps, water_filling
from scalebound.compress.gptq import Factor, gptq
from scalebound.compress.pruning import Pruning, keep_largest, keep_wanda
from scalebound.compress.rates import Rates, estimated_bits
from scalebound.compress.rounding import scale_spacing
from scalebound.core.errors import InputError, UsageError
from scalebound.core.io import atomic_write, canonical_json, sha256_bytes
from scalebound.core.progress import Progress, silent
from scalebound.data.stream import Stream
from scalebound.train.calibration import Calibration
from scalebound.train.length import Budget
from scalebound.train.loop import CHECKPOINT_S

Allocation = Literal["uniform", "fisher"]
SEQUENCES, CONTEXT = 32, 512
PENALTY = 1.0
UNSEEN_STEP = 0.1  # of matrices that calibration does not reach
PILOT_SHARE, PILOT_ROWS = 8, 96  # sequences and rows that the first guess of the level looks at
PILOT_OCTAVES = (-1.5, 0.0, 1.5)
DAMAGE_AT_3_BITS = 0.1  # nats, to start the search from
SCALE_BITS, OTHER_BITS = 3.5, 5.0  # of a scale and of a vector's entry, about
TOLERANCE = 0.01  # of the target: files at most so much shorter are accepted
MOST_PASSES, MOST_PASSES_SMALL, SMALL = 3, 8, 1 << 22  # tries, and those of models with fewer parameters, which take seconds


@dataclass(frozen=True)
class Calibrated:
    """A rounded model and how it came about. ``passes``: mean level and bits per parameter of every file tried; the nearest is kept."""

    model: QuantizedModel
    target_bits: float
    bits_per_parameter: float
    level: float
    passes: tuple[tuple[float, float], ...]
    allocation: Allocation
    penalty: float
    prune: Pruning | None
    sparsity: float
    window: tuple[int, int]
    sequences: int

    def record(self) -> dict:
        """Everything but the model."""
        return {name: value for name, value in vars(self).items() if name != "model"}


def quantize_calibrated(config: dict[str, Any], tensors: dict[str, np.ndarray], stream: str | os.PathLike, *, bits: float, allocation: Allocation = "fisher", penalty: float | None = None, prune: Pruning | None = None, sparsity: float = 0.0, factors: dict[str, float] | None = None, shares: dict[str, float] | None = None,
                        sequences: int = SEQUENCES, start: int = 0, seed: int = 0, threads: int = 1, state: str | os.PathLike | None = None,
                        checkpoint_s: float = CHECKPOINT_S, progress: Progress = silent) -> Calibrated:  # fmt: skip
    """Round a model to a given number of bits per parameter of its whole file.

    Parameters
    ----------
    config, tensors
        As :func:`scalebound.compress.read_checkpoint` gives them.
    stream
        Calibration text, as a stream of the model's vocabulary.
    bits : 0.1 to 12
        Of the package, header and scales included, over all parameters. The file is at most 1% shorter, and not longer, where three passes (eight for small models) find such a one (:mod:`~scalebound.train.length`).
    allocation
        ``fisher``: steps by water-filling over rows, columns and matrices (:mod:`scalebound.compress.allocation`).
        ``uniform``: one step relative to each row's root mean square, the same everywhere.
    penalty : >= 0
        Of bits when an integer is chosen, in units of the exchange rate. Default 1 for ``fisher``; ``uniform`` takes none.
    prune, sparsity
        Linear maps lose this share of their weights, by a rule of :mod:`scalebound.compress.pruning`; embeddings keep theirs. ``kept`` takes no
        share: zeros of the model stay zero.
    factors
        Of the level, by the name of a tensor (of maps that read one tensor, the first): what :mod:`~scalebound.train.evolution` finds.
    shares
        Of zeros, by the same names, where they are not ``sparsity``; found there too.
    sequences, start
        ``sequences`` pieces of 512 tokens (of the model's context where that is shorter) from token ``start`` on.
    seed
        Draws the labels of the Fisher information.
    threads
        Threads of this process. Same seed, machine and thread count: same bytes.
    state
        A file that keeps the layers an interrupted call had done; a later call with the same settings goes on from it. Removed at the end.

    Raises
    ------
    UsageError
        A setting out of its range.
    InputError
        No model there, a stream of another vocabulary or too short, a network that ``transformers`` does not build.

    Notes
    -----
    One pass over the calibration text, seldom two, each with one factorization a group of matrices; one pass over an eighth of it before.
    Memory: the model twice, the activations of all calibration tokens at one place of the network, and one second-moment matrix.

    Examples
    --------
    >>> quantize_calibrated(*read_checkpoint("model"), "calibration.json", bits=3.0).bits_per_parameter  # doctest: +SKIP
    2.98
    """
    if not 0.1 <= bits <= 12:
        raise UsageError(f"bits = {bits}", expected="0.1 to 12")
    if allocation not in ("uniform", "fisher"):
        raise UsageError(f"allocation = {allocation!r}", expected="uniform or fisher")
    if penalty is None:
        penalty = PENALTY if allocation == "fisher" else 0.0
    if not (math.isfinite(penalty) and penalty >= 0) or (penalty and allocation == "uniform"):
        raise UsageError(f"penalty = {penalty} with allocation {allocation}", expected="a number of at least 0; above 0 with allocation fisher only")
    if prune not in (None, "magnitude", "wanda", "sparsegpt", "kept") or not 0 <= sparsity < 1 or (prune in (None, "kept")) != (sparsity == 0):
        raise UsageError(f"prune = {prune}, sparsity = {sparsity}", expected="magnitude, wanda or sparsegpt with a share between 0 and 1, kept without one, or neither")
    if sequences < 1 or start < 0:
        raise UsageError(f"sequences = {sequences}, start = {start}", expected="at least 1 and at least 0")
    torch.set_num_threads(threads)
    arrays = {name: np.asarray(data, dtype=np.float32) if data.dtype.kind == "f" else data for name, data in tensors.items()}
    inputs = calibration_inputs(Stream(stream), config, sequences, start)
    rounding = Rounding(config, arrays, inputs, allocation, penalty, (prune, sparsity), seed, progress, factors, shares)
    settings = {"state": 2, "model": tensors_sha256(config, arrays), "inputs": sha256_bytes(inputs.tobytes()), "bits": bits, "allocation": allocation, "penalty": penalty, "prune": prune, "sparsity": sparsity, "factors": factors, "shares": shares, "seed": seed}
    kept = _State(None if state is None else Path(state), sha256_bytes(canonical_json(settings)), checkpoint_s)
    kept.load()
    if kept.budget is None:
        kept.budget = rounding.pilot(bits)
    size = sum(data.size for data in arrays.values() if data.dtype.kind == "f")
    most = MOST_PASSES_SMALL if size < SMALL else MOST_PASSES
    found = None
    while len(kept.passes) < most and not any(bits * (1 - TOLERANCE) <= length <= bits for _, length in kept.passes):
        found = rounding.run(kept, kept.budget, bits * (1 - TOLERANCE / 2) * size)
        package = encode(found)
        length = 8 * len(package) / found.num_params
        if all(_miss(length, bits) < _miss(other, bits) for _, other in kept.passes):
            kept.best = package
        kept.passes.append((kept.budget.finish(8 * len(package)), length))
        kept.done, kept.rates = {}, Rates()
        kept.save(force=True)
    kept.remove()
    level, length = min(kept.passes, key=lambda item: _miss(item[1], bits))
    model = found if found is not None and (level, length) == kept.passes[-1] else decode_model(kept.best)
    return Calibrated(model, bits, length, level, tuple(kept.passes), allocation, penalty, prune, sparsity, (start, start + inputs.size), len(inputs))


def _miss(length: float, bits: float) -> tuple[bool, float]:
    """Files that are too long come last."""
    return (length > bits, abs(length - bits))


def calibration_tokens(config: dict[str, Any], sequences: int) -> int:
    """Tokens that so many calibration sequences have.

    >>> calibration_tokens({"max_position_embeddings": 256}, 32)
    8192
    """
    return sequences * min(CONTEXT, config.get("max_position_embeddings") or config.get("n_positions") or CONTEXT)


def calibration_inputs(stream: Stream, config: dict, sequences: int, start: int) -> np.ndarray:
    """Inputs: (sequences, tokens) token ids, each starting with the separator."""
    vocab = config.get("vocab_size")
    if not isinstance(vocab, int) or stream.info.vocab_size > vocab:
        raise InputError(f"has token ids up to {stream.info.vocab_size - 1:,}", where=str(stream.path), expected=f"a stream of the model's vocabulary ({vocab})")
    context = calibration_tokens(config, 1)
    if start + sequences * context > len(stream):
        raise InputError(f"has {len(stream):,} tokens", where=str(stream.path), expected=f"at least {start + sequences * context:,}: {sequences} sequences of {context} from token {start:,} on", hint="use fewer --sequences, or more text")
    tokens = np.asarray(stream.tokens[start : start + sequences * context]).astype(np.int64).reshape(sequences, context)
    return np.concatenate([np.full((sequences, 1), stream.info.separator, dtype=np.int64), tokens[:, :-1]], axis=1)


class Rounding:
    """Passes over the network, each with one level."""

    def __init__(self, config: dict, arrays: dict[str, np.ndarray], inputs: np.ndarray, allocation: Allocation, penalty: float, pruning: tuple[Pruning | None, float], seed: int, progress: Progress, factors: dict[str, float] | None = None, shares: dict[str, float] | None = None) -> None:
        self.pruning, self.factors, self.shares = pruning, factors or {}, shares or {}
        self.config, self.arrays, self.inputs, self.allocation, self.penalty, self.progress = config, arrays, inputs, allocation, penalty, progress
        self.spacing = scale_spacing(arrays)
        self.calibration = Calibration(config, arrays, inputs, curved=allocation == "fisher", seed=seed, progress=lambda done, of: progress(done, 3 * of))

    def steps(self, level: float, weight: np.ndarray, made: Factor, row_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.allocation == "uniform":
            return relative_steps(level, weight, self.spacing)
        spacing = max(SPACING, self.spacing)
        return no_finer(water_filling(level, row_weights, made.column_diagonal, spacing), weight, spacing)

    def mask(self, weight: np.ndarray, made: Factor, dense: bool, sparsity: float) -> dict[str, Any]:
        """What :func:`~scalebound.compress.gptq.gptq` is told of zeros."""
        rule = self.pruning[0]
        if rule is None or dense:
            return {}
        if rule == "sparsegpt":
            return {"sparsity": sparsity}
        if rule == "kept":
            return {"keep": weight != 0}
        return {"keep": keep_largest(weight, sparsity) if rule == "magnitude" else keep_wanda(weight, made.moments, sparsity)}

    def share_of(self, name: str) -> float:
        """Of zeros, in the matrix that a tensor is the first of."""
        return self.shares.get(name, self.pruning[1])

    def pilot(self, bits: float) -> Budget:
        """What every matrix takes at three levels, from some of its rows and some of the sequences, nothing put in place."""
        calibration = self.calibration
        size = sum(data.size for data in self.arrays.values() if data.dtype.kind == "f")
        # a Gaussian's entropy at a step in units of its deviation; and: the damage is size * level^2 / 24
        centre = 2.0 ** (2.05 - bits) if self.allocation == "uniform" else math.sqrt(24 * DAMAGE_AT_3_BITS * 4.0 ** (3 - bits) / size)
        levels = [centre * 2.0**octave for octave in PILOT_OCTAVES]
        budget = Budget(levels, {}, {}, OTHER_BITS * (size - sum(self.arrays[name].size for name in calibration.names)))

        def sample(name: str, weight: np.ndarray, made: Factor, row_weights: np.ndarray, dense: bool = False) -> None:
            rows = np.unique(np.linspace(0, len(weight) - 1, min(len(weight), max(PILOT_ROWS, len(weight) // 64))).astype(int))
            lengths = []
            for level in levels:
                row_steps, col_steps = self.steps(level * self.factors.get(name, 1.0), weight, made, row_weights)
                coded = gptq(weight[rows], made, (row_steps[rows], col_steps), penalty=self.penalty, rates=Rates(), **self.mask(weight[rows], made, dense, self.share_of(name)))
                lengths.append(estimated_bits(coded.integers) * len(weight) / len(rows) + SCALE_BITS * sum(weight.shape))
            budget.expected[name], budget.sizes[name] = lengths, weight.size

        for name in sorted({calibration.embedding, calibration.head}):
            sample(name, self.arrays[name], *calibration.cost_of_embedding(name), dense=True)
        calibration.forward(lambda number, inputs: sample(f"{calibration.groups[number][0]}.weight", calibration.weight(number), *calibration.cost_of_group(number, inputs)), max(2, len(self.inputs) // PILOT_SHARE))
        return budget

    def run(self, kept: _State, budget: Budget, file_bits: float) -> QuantizedModel:
        """Every matrix rounded, in the order in which the network computes, for a file of so many bits; those of ``kept.done`` are already."""
        calibration, total = self.calibration, len(self.calibration.groups)
        for name in calibration.names:
            calibration.put(name, kept.done[name].dequantized() if name in kept.done else self.arrays[name])

        def rounded(name: str, weight: np.ndarray, made: Factor, row_weights: np.ndarray, dense: bool = False) -> Coded:
            level = budget.next_level(file_bits)
            steps = self.steps(level * self.factors.get(name, 1.0), weight, made, row_weights)
            coded = gptq(weight, made, steps, penalty=self.penalty, rates=kept.rates, **self.mask(weight, made, dense, self.share_of(name)))
            budget.spend(name, level, estimated_bits(coded.integers) + SCALE_BITS * sum(weight.shape))
            return coded

        def keep(found: dict[str, Coded]) -> None:
            for name, coded in found.items():
                kept.done[name] = coded
                calibration.put(name, coded.dequantized())
            kept.save()

        def embedding(name: str) -> None:
            if name not in kept.done:
                keep({name: rounded(name, self.arrays[name], *calibration.cost_of_embedding(name), dense=True)})

        def visit(number: int, inputs: Tensor) -> None:
            self.progress(total + number - 1, 3 * total)
            first = f"{calibration.groups[number][0]}.weight"
            if first not in kept.done:
                keep(calibration.split(number, rounded(first, calibration.weight(number), *calibration.cost_of_group(number, inputs))))

        embedding(calibration.embedding)
        calibration.forward(visit)
        embedding(calibration.head)
        done = kept.done | {name: kept.done[other] for name, other in calibration.same_as.items() if other in kept.done}
        rest = quantize(self.config, {name: data for name, data in self.arrays.items() if name not in done}, step=UNSEEN_STEP).tensors
        return QuantizedModel(self.config, {name: done[name] if name in done else rest[name] for name in self.arrays})


@dataclass
class _State:
    """What was done so far, and the file it is kept in."""

    path: Path | None
    settings: str
    interval_s: float
    budget: Budget | None = None
    passes: list[tuple[float, float]] = field(default_factory=list)
    done: dict[str, Coded] = field(default_factory=dict)
    rates: Rates = field(default_factory=Rates)
    best: bytes = b""
    saved_at: float = field(default_factory=time.monotonic)

    def save(self, *, force: bool = False) -> None:
        from safetensors.numpy import save

        if self.path is None or (not force and time.monotonic() - self.saved_at < self.interval_s):
            return
        arrays = {"rates": self.rates.counts, "best": np.frombuffer(self.best, dtype=np.uint8)}
        for name, coded in self.done.items():
            parts = {"integers": coded.integers, "rows": coded.row_scales, "cols": coded.col_scales}
            arrays |= {f"{part}.{name}": np.ascontiguousarray(data) for part, data in parts.items() if data is not None}
        meta = {"settings": self.settings, "budget": self.budget and vars(self.budget), "passes": self.passes, "done": list(self.done)}
        atomic_write(self.path, save(arrays, metadata={"posttraining": json.dumps(meta)}))
        self.saved_at = time.monotonic()

    def load(self) -> None:
        """What the file holds, if it is one of the same settings."""
        from safetensors import SafetensorError, safe_open

        if self.path is None or not self.path.is_file():
            return
        try:
            with safe_open(self.path, framework="np") as file:
                kept = json.loads((file.metadata() or {}).get("posttraining", "{}"))
                if kept.get("settings") != self.settings:
                    return
                arrays = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, json.JSONDecodeError) as error:
            raise InputError(f"is not the state of a rounding ({error})", where=str(self.path), hint="delete it") from error
        self.budget, self.passes = kept["budget"] and Budget(**kept["budget"]), [(a, b) for a, b in kept["passes"]]
        self.done = {name: Coded(arrays[f"integers.{name}"], arrays[f"rows.{name}"], arrays.get(f"cols.{name}")) for name in kept["done"]}
        self.rates.counts, self.best = arrays["rates"], arrays["best"].tobytes()

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
