"""The record of ``probe length``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import scalebound
from scalebound.core.probe import ProbeFigure, ProbeRecord, ProbeTable, Series, row_of, with_interval
from scalebound.probe.length import BY_HAND, LengthModel, LengthRow


def length_record(rows: Sequence[LengthRow], models: Sequence[LengthModel], verdict: str, *, seeds: int, train_length: int, steps: int, level: float, seed: int) -> ProbeRecord:
    """Tables, sentences and a figure per task of :func:`~scalebound.probe.length.probe_length`'s rows."""
    tasks = tuple(dict.fromkeys(row.task for row in rows))
    of = {task: [row for row in rows if row.task == task] for task in tasks}
    return ProbeRecord(
        name="length",
        title="Same accuracy at the lengths trained on, different accuracy beyond",
        verdict=verdict,
        seed=seed,
        level=level,
        settings={"tasks": ",".join(tasks), "seeds": seeds, "train_length": train_length, "steps": steps, "tests": rows[0].n},
        rows=tuple(row_of(**asdict(row)) for row in rows),
        parts={"models": tuple(row_of(**asdict(model)) for model in models)},
        words=(
            *(sentence for task in tasks for sentence in _sentences(task, of[task], [m for m in models if m.task == task])),
            f"Trained on lengths 1 to {train_length}. An answer is right when no token of it is wrong. Clopper-Pearson intervals, all of one task together with {100 * level:g}%, for the models trained here;"
            " other seeds may differ more.",
            "Learned: accuracy at the longest trained length shown to be at least 0.9. Generalizes: at every greater length too. Fails: shown to be below at the greatest. Partly: neither.",
        ),
        tables=tuple(_table(task, of[task], [m for m in models if m.task == task]) for task in tasks),
        figures=tuple(_figure(task, of[task], train_length, level) for task in tasks),
        source="arXiv:2305.19466, arXiv:2310.16028, arXiv:2108.12409",
        version=scalebound.__version__,
    )


def _table(task: str, rows: Sequence[LengthRow], models: Sequence[LengthModel]) -> ProbeTable:
    lengths = sorted({row.length for row in rows})
    at = {(row.positions, row.model, row.length): with_interval((row.accuracy, row.low, row.high), ".2f") for row in rows}
    columns = ("positions", "model", *(f"{n}{' (trained)' if any(row.trained for row in rows if row.length == n) else ''}" for n in lengths), "found")
    cells = tuple((m.positions, m.model, *(at[m.positions, m.model, n] for n in lengths), m.verdict) for m in models)
    return ProbeTable(title=f"{task}: share of problems answered without a fault, by length", columns=columns, rows=cells)


def _sentences(task: str, rows: Sequence[LengthRow], models: Sequence[LengthModel]) -> list[str]:
    trained = [m for m in models if m.model != BY_HAND]
    learned = [m for m in trained if m.verdict != "not learned"]
    words = [f"{task}: {len(learned)} of {len(trained)} trained models learned it at the lengths trained on; {sum(m.verdict == 'generalizes' for m in learned)} of these generalize, {sum(m.verdict == 'fails' for m in learned)} fail."]
    beyond = [row for row in rows if not row.trained and any((m.positions, m.model) == (row.positions, row.model) for m in learned)]
    if beyond:
        # the length at which models that learned the task are farthest apart
        widest = max({row.length for row in beyond}, key=lambda n: max(r.low for r in beyond if r.length == n) - min(r.high for r in beyond if r.length == n))
        group = [row for row in beyond if row.length == widest]
        best, worst = max(group, key=lambda r: r.low), min(group, key=lambda r: r.high)
        if best.low > worst.high:
            words.append(f"{task} at length {widest}: {best.positions} {best.model} {with_interval((best.accuracy, best.low, best.high), '.2f')}, {worst.positions} {worst.model} {with_interval((worst.accuracy, worst.low, worst.high), '.2f')}.")
    return words


def _figure(task: str, rows: Sequence[LengthRow], train_length: int, level: float) -> ProbeFigure:
    """Means over the seeds; whiskers that hold every seed's interval."""
    series = []
    kinds = dict.fromkeys((row.positions, row.model == BY_HAND) for row in rows)
    lengths = sorted({row.length for row in rows})
    for positions, planted in kinds:
        at = [[row for row in rows if row.length == n and row.positions == positions and (row.model == BY_HAND) == planted] for n in lengths]
        series.append(
            Series.of(
                "none, weights set by hand" if planted else positions,
                lengths,
                [(sum(row.right for row in group) / sum(row.n for row in group), min(row.low for row in group), max(row.high for row in group)) for group in at],
            )
        )
    return ProbeFigure(
        id=f"length-{task.replace('+', '-')}",
        kind="curves",
        title=f"Accuracy against length: {task}",
        sentence=f"Trained on lengths up to {train_length}. Models that differ in their positions alone; how far each gets beyond is not seen in its training loss.",
        x="length of the problem",
        y="share of problems answered without a fault",
        band=f"Means over seeds; whiskers from the lowest to the highest end of the seeds' Clopper-Pearson intervals, all of the task together with {100 * level:g}%.",
        series=tuple(series),
        span=(0.0, 1.0),
    )
