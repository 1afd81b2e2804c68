"""How much is computed at once: tokens of a forward pass, and rows and vocabulary of a piece of logits.

By default a rule says (:func:`rule`), so that the bytes of a measurement do not depend on the day and the load of the machine. Asked for
(``measure --calibrate``), a few others are timed on the first blocks (:func:`calibrate`) and the fastest is kept in the plan, where workers,
machines and resumed runs find it: their bytes are those of one process with the same plan. Other shapes may differ in the last bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec

from scalebound.measure.statistics import ROWS, STRETCH
from scalebound.models.language_model import LanguageModel

BATCH_TOKENS = 4096  # tokens per forward pass of a small model on a processor: activations still lie in its caches
BATCH_TOKENS_DEVICE = 8192  # on an accelerator
LARGE, BATCH_TOKENS_LARGE = 20_000_000, 1024  # from so many parameters on a processor is as fast with fewer, and activations count
PIECE = 1 << 18  # logits at once that are worth a call: more rows of a small vocabulary
BATCHES = (2.0, 0.5, 4.0)  # of the rule's
TILES = ((256, 4096), (128, 4096), (512, 4096), (256, 2048), (256, 8192))  # rows and vocabulary
SHARE = 0.02  # of the run, estimated by the rule's speed: what calibrating may take
PASSES = 3  # of a batch: one that warms up, two of which the faster counts
MARGIN = 0.95  # a rival must need less than this of the best time so far: repeated, a pass takes 3% more or less
COMPILE_S = 45.0  # what compiling a decoder takes, about: not tried when it is more than the share


class Shapes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``batch_tokens`` of a forward pass at most; ``rows`` and ``stretch`` of logits; whether the decoder is compiled for a full batch."""

    batch_tokens: int
    rows: int
    stretch: int
    compiled: bool = False


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shapes timed: ``seconds`` of a pass over ``tokens``, after ``setup_s`` that the first pass took beyond it (compiling, mostly)."""

    shapes: Shapes
    tokens: int
    seconds: float
    setup_s: float


Run = Callable[[Shapes], Callable[[], int] | None]


def rule(model: LanguageModel) -> Shapes:
    """By the size of the model and the kind of device, nothing else."""
    batch_tokens = BATCH_TOKENS_DEVICE if model.device != "cpu" else BATCH_TOKENS_LARGE if model.num_params >= LARGE else BATCH_TOKENS
    return Shapes(batch_tokens=batch_tokens, rows=max(ROWS, PIECE // model.vocab_size), stretch=STRETCH)


def calibrate(run: Run, start: Shapes, *, tokens: int, vocab_size: int, workers: int, compiles: bool, clock: Callable[[], float],
              wall: Callable[[], float] = time.perf_counter) -> tuple[Shapes, tuple[Trial, ...]]:  # fmt: skip
    """The fastest of a few shapes, one dial after the other: batch, piece of logits, compiled or not.

    Parameters
    ----------
    run
        Shapes to a function that makes one pass with them and returns its number of tokens, 0 when they fail; None when they are no others.
    start
        Those of the rule.
    tokens
        Of the whole run.
    workers
        Processes that share it: each takes its part of the time, and compiles for itself.
    compiles
        Whether compiling may be tried.
    clock
        Seconds that a pass has cost; the same on all processes of one model. Of the processor where passes are computed there, so that what
        else the machine is doing does not decide.
    wall
        Seconds for the time compiling takes, much of it in other processes.

    Returns
    -------
    tuple
        The fastest, for the whole run with its setup, and all trials; none, and ``start``, when the run is too short for :data:`SHARE` to pay
        for timing anything.
    """
    if PASSES * start.batch_tokens > SHARE * tokens / workers or (first := _trial(run, start, clock, wall)) is None:
        return start, ()
    trials, best, best_s = [first], start, first.seconds / first.tokens
    budget_s = SHARE * best_s * tokens / workers
    spent_s = first.setup_s + PASSES * first.seconds
    for dial in (_batches, _tiles, _compiled):
        for shapes in dial(best, start, vocab_size, compiles):
            if spent_s + (COMPILE_S if shapes.compiled else 0.0) + PASSES * shapes.batch_tokens * best_s > budget_s:
                continue
            trial = _trial(run, shapes, clock, wall)
            if trial is None:
                continue
            trials.append(trial)
            spent_s += trial.setup_s + PASSES * trial.seconds
            each_s = trial.seconds / trial.tokens
            setup_s = trial.setup_s if shapes.compiled and workers > 1 else 0.0  # what is compiled here serves this process
            if setup_s + each_s * tokens / workers < MARGIN * best_s * tokens / workers:
                best, best_s = shapes, each_s
    return best, tuple(trials)


def _batches(best: Shapes, start: Shapes, vocab_size: int, compiles: bool) -> Iterator[Shapes]:
    for factor in BATCHES:
        yield msgspec.structs.replace(best, batch_tokens=int(factor * start.batch_tokens))


def _tiles(best: Shapes, start: Shapes, vocab_size: int, compiles: bool) -> Iterator[Shapes]:
    seen = {(start.rows, min(start.stretch, vocab_size))}
    for rows, stretch in TILES:
        if (rows, min(stretch, vocab_size)) not in seen:
            seen.add((rows, min(stretch, vocab_size)))
            yield msgspec.structs.replace(best, rows=rows, stretch=stretch)


def _compiled(best: Shapes, start: Shapes, vocab_size: int, compiles: bool) -> Iterator[Shapes]:
    if compiles:
        yield msgspec.structs.replace(best, compiled=True)


def _trial(run: Run, shapes: Shapes, clock: Callable[[], float], wall: Callable[[], float]) -> Trial | None:
    once = run(shapes)
    if once is None:
        return None
    spent = []
    for number in range(PASSES):
        read = wall if shapes.compiled and number == 0 else clock
        before = read()
        if not (tokens := once()):
            return None
        spent.append(read() - before)
    seconds = max(min(spent[1:]), 1e-9)
    return Trial(shapes=shapes, tokens=tokens, seconds=seconds, setup_s=max(0.0, spent[0] - seconds))
