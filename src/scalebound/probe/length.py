"""Length generalization: models that solve a task alike at the lengths they were trained on, and not at greater ones.

Small decoders that differ in nothing but their position scheme (:mod:`~scalebound.probe.positions`) are trained on problems of lengths
1..``train_length`` of one task (:mod:`~scalebound.probe.length_tasks`), and asked problems of greater lengths. An answer counts when all of it,
END included, is what the model would write greedily. That takes one pass, not one a token: greedy writing is right to the end if and only if, at
every place of the right answer, the most probable token given the right tokens before it is the right one.

Beside the trained models stands a planted one, :func:`~scalebound.probe.length_program.counting_program`, exact at all lengths by construction.

Sources: Kazemnejad et al. 2023, arXiv 2305.19466; Zhou et al. 2023, arXiv 2310.16028; Press et al. 2021, arXiv 2108.12409.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalebound.core.errors import UsageError
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import derive
from scalebound.core.workers import run_tasks
from scalebound.probe.exact import check_level, clopper_pearson
from scalebound.probe.length_program import counting_program
from scalebound.probe.length_tasks import LONGEST, VOCABULARY, check_task, problems
from scalebound.probe.positions import POSITIONS, Decoder
from scalebound.train.optim.adamw import adamw

HINTS = "+hints"
BY_HAND = "by hand"  # the planted model, which no step has trained
BATCH, RATE = 32, 3e-3
LEARNED = 0.9  # a model whose accuracy at trained lengths is shown to be at least this has learned the task


def split_name(name: str) -> tuple[str, bool]:
    """``"copy+hints"`` to ``("copy", True)``; refuses what is no task."""
    task, hints = name.removesuffix(HINTS), name.endswith(HINTS)
    check_task(task, hints)
    return task, hints


def train_decoder(name: str, positions: str, seed: int, *, train_length: int = 10, steps: int = 800, progress: Progress = silent) -> Decoder:
    """A decoder of two layers and width 64, trained on answers of problems of uniform length 1..``train_length``.

    AdamW, 50 steps of warmup, linear decay to 0 over the second half, gradient norm clipped at 1, batches of 32 fresh problems. Data and, where
    shapes agree, first weights are the same for every scheme of a seed.
    """
    task, hints = split_name(name)
    rng = np.random.default_rng(derive(seed, "length problems", name))
    model = Decoder(positions, VOCABULARY, generator=torch.Generator().manual_seed(derive(seed, "decoder", name)))
    optimizer = adamw(model.parameters(), lr=RATE, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 50, 2 * (1 - step / steps))
        inputs, targets = map(torch.from_numpy, problems(task, hints, rng, rng.integers(1, train_length + 1, size=BATCH)))
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 19 or step + 1 == steps:
            progress(step + 1, steps)
    return model.eval().requires_grad_(False)


def right_answers(model: Callable[[Tensor], Tensor], name: str, length: int, count: int, seed: int) -> int:
    """How many of ``count`` fresh problems of one length the model answers without a fault, writing greedily."""
    rng = np.random.default_rng(derive(seed, "length test", name, length))
    right = 0
    for start in range(0, count, 50):  # attention's memory grows with the square of the length
        inputs, targets = map(torch.from_numpy, problems(*split_name(name), rng, np.full(min(50, count - start), length)))
        with torch.no_grad():
            said = model(inputs).argmax(-1)
        right += int(((said == targets) | (targets == -100)).all(1).sum())
    return right


@dataclass(frozen=True)
class LengthRow:
    """One model at one length: right answers of ``n``, their rate with its exact interval, and whether the length was trained on."""

    task: str
    positions: str
    model: str
    length: int
    trained: bool
    right: int
    n: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class LengthModel:
    """One model's outcome over all lengths: ``verdict`` "not learned" (accuracy at the longest trained length not shown to be at least 0.9),
    "generalizes" (shown at every greater length asked), "fails" (shown to be below at the greatest), else "partly"; ``reach`` the greatest
    length up to which every length asked was shown to be at least 0.9 (0: none)."""

    task: str
    positions: str
    model: str
    verdict: str
    reach: int


def _one(name: str, positions: str, seed: int, train_length: int, steps: int, lengths: tuple[int, ...], tests: int, *, progress: Progress) -> list[int]:
    """A task for a worker: train one model, or take the planted one, and count its right answers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small are slower on several
    try:
        if steps:
            model = train_decoder(name, positions, seed, train_length=train_length, steps=steps, progress=progress)
        else:
            model = counting_program()
            progress(1, 1)
        return [right_answers(model, name, length, tests, seed) for length in lengths]
    finally:
        torch.set_num_threads(threads)


def probe_length(tasks: Sequence[str] = ("sort", "count"), positions: Sequence[str] = tuple(POSITIONS), *, seeds: int = 2, train_length: int = 10,
                 lengths: Sequence[int] = (10, 12, 15, 20, 30), steps: int = 800, tests: int = 200, level: float = 0.95, seed: int = 0,
                 workers: int | None = None, progress: Progress = silent) -> tuple[list[LengthRow], list[LengthModel], str]:  # fmt: skip
    """Train a model per task, position scheme and seed, and measure accuracy against length.

    Parameters
    ----------
    tasks : names of :data:`~scalebound.probe.length_tasks.TASKS`, each perhaps with ``+hints``
    positions : names of :data:`~scalebound.probe.positions.POSITIONS`
    seeds : >= 1              models of each kind, each with its own weights and data
    train_length, lengths     lengths 1..60; some asked length must be trained (at most ``train_length``) and some not
    steps : >= 1              of training, batches of 32
    tests : >= 1              fresh problems per model and length: independent trials for that model; with fewer than about 100 even a perfect
                              score does not show an accuracy of 0.9
    level : in (0, 1)         of all intervals of one task together (union bound over its models and lengths)
    workers                   processes; None: one per core. Results do not depend on it.

    Returns
    -------
    (rows, models, verdict)   a row per model and length; a summary per model; "same_training_different_length" when two trained models that
                              both learned a task have disjoint intervals at a length beyond training, else "no_pair_found"

    Raises
    ------
    UsageError                unknown names, numbers out of range

    Cost: about 10 to 25 s of one core per model at the default 800 steps.
    """
    check_level(level)
    for name in tasks:
        split_name(name)
    if not tasks or not positions or not set(positions) <= set(POSITIONS):
        raise UsageError(f"positions {', '.join(positions) or '(none)'}", where="positions", expected=f"of {', '.join(POSITIONS)}; and one task or more")
    if min(seeds, steps, tests) < 1:
        raise UsageError("seeds, steps and tests must be at least 1", where="probe_length")
    lengths = tuple(sorted(set(lengths)))
    if not lengths or not 1 <= lengths[0] <= train_length < lengths[-1] <= LONGEST:
        raise UsageError(f"lengths {', '.join(map(str, lengths))} with training up to {train_length}", where="lengths",
                         expected=f"from 1 to {LONGEST}, some trained and some beyond")  # fmt: skip
    jobs = [(name, scheme, str(k), derive(seed, k), steps) for name in tasks for scheme in positions for k in range(seeds)]
    jobs += [(name, "none", BY_HAND, seed, 0) for name in tasks if name == "count"]
    arguments = [(name, scheme, own_seed, train_length, own_steps, lengths, tests) for name, scheme, _, own_seed, own_steps in jobs]
    counts = run_tasks(_one, arguments, workers=workers, progress=progress)
    rows, models = [], []
    for (name, scheme, label, *_), right in zip(jobs, counts, strict=True):
        together = sum(job[0] == name for job in jobs) * len(lengths)
        mine = [LengthRow(name, scheme, label, n, n <= train_length, k, tests, k / tests, *clopper_pearson(k, tests, 1 - (1 - level) / together))
                for n, k in zip(lengths, right, strict=True)]  # fmt: skip
        rows += mine
        models.append(summarize(mine))
    return rows, models, _verdict(rows, models)


def summarize(rows: Sequence[LengthRow]) -> LengthModel:
    """The outcome of one model from its rows, in order of length."""
    trained, beyond = [row for row in rows if row.trained], [row for row in rows if not row.trained]
    if trained[-1].low < LEARNED:
        verdict = "not learned"
    elif all(row.low >= LEARNED for row in beyond):
        verdict = "generalizes"
    else:
        verdict = "fails" if beyond[-1].high < LEARNED else "partly"
    reach = 0
    for row in rows:
        if row.low < LEARNED:
            break
        reach = row.length
    return LengthModel(rows[0].task, rows[0].positions, rows[0].model, verdict, reach)


def _verdict(rows: list[LengthRow], models: list[LengthModel]) -> str:
    learned = {(m.task, m.positions, m.model) for m in models if m.verdict != "not learned" and m.model != BY_HAND}
    beyond: dict[tuple[str, int], list[LengthRow]] = {}
    for row in rows:
        if not row.trained and (row.task, row.positions, row.model) in learned:
            beyond.setdefault((row.task, row.length), []).append(row)
    differ = any(max(r.low for r in group) > min(r.high for r in group) for group in beyond.values())
    return "same_training_different_length" if differ else "no_pair_found"
