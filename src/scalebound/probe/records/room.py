"""The record of ``probe room``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import scalebound
from scalebound.core.probe import ProbeFigure, ProbeRecord, ProbeTable, Series, Value, row_of, with_interval
from scalebound.probe.room import NeighbourRow, Room

TITLE = "The room a loss leaves"


def room_record(found: Room, *, settings: dict[str, Value], level: float, seed: int, inputs: dict[str, str] | None = None) -> ProbeRecord:
    """Table, sentences and figures of :func:`~scalebound.probe.room.probe_room`."""
    sets = tuple(dict.fromkeys(row.items for row in found.rows))
    cells = tuple(
        (r.items, r.model, f"{r.loss:.4f}", "itself" if r.model == "checkpoint" else with_interval((r.difference, r.low, r.high), "+.4f"), "yes" if r.equal_loss else "no",
         with_interval((r.prefers_a, r.rate_low, r.rate_high), ".2f"), f"{r.preference:+.2f}")
        for r in found.rows
    )  # fmt: skip
    columns = ("items", "model", "loss (nats/token)", "minus the checkpoint's", f"within {found.epsilon:g}", "prefers a", "mean preference (nats)")
    return ProbeRecord(
        name="room",
        title=TITLE,
        verdict="room_found" if any(found.found(name) for name in sets) else "no_room_found",
        seed=seed,
        level=level,
        settings={"epsilon": found.epsilon, **settings},
        rows=tuple(row_of(**asdict(row)) for row in found.rows),
        findings={f"room {name}": found.found(name) for name in sets},
        words=(
            *(_sentence(found, name) for name in sets),
            f"Intervals: all together {100 * level:g}%. Losses by compare on tokens that neither training nor choosing saw (each model mixed with 0.01 of the other); rates by Clopper-Pearson on items that were not trained on.",
        ),
        tables=(ProbeTable(title=TITLE, columns=columns, rows=cells),),
        figures=(_rates(found, sets, level), _losses(found, sets, level)),
        source="arXiv:2405.01964, arXiv:1909.06677, arXiv:2011.03395",
        inputs=inputs or {},
        version=scalebound.__version__,
    )


def _of(found: Room, name: str) -> dict[str, NeighbourRow]:
    return {row.model: row for row in found.rows if row.items == name}


def _sentence(found: Room, name: str) -> str:
    of = _of(found, name)
    up, down = (with_interval((of[m].prefers_a, of[m].rate_low, of[m].rate_high), ".2f") for m in ("up", "down"))
    if not (of["up"].equal_loss and of["down"].equal_loss):
        return f"{name}: a neighbour's loss was not shown to lie within {found.epsilon:g} nats of the checkpoint's, so nothing follows."
    rest = "the loss leaves this open" if found.found(name) else "no room was found, which does not prove that there is none"
    return f"{name}: within {found.epsilon:g} nats of the checkpoint, one model prefers a on {up} of the items and another on {down}: {rest}."


def _figure(found: Room, sets: Sequence[str], names: tuple[str, ...], pick: tuple[str, str, str], **words: str) -> ProbeFigure:
    series = []
    for name in sets:
        rows = [row for row in found.rows if row.items == name and row.model in names]
        value, low, high = pick
        series.append(Series.of(name, [names.index(row.model) for row in rows], [(getattr(row, value), getattr(row, low), getattr(row, high)) for row in rows]))
    return ProbeFigure(kind="points", x="model", names=names, series=tuple(series), span=(0.0, 1.0) if words["id"] == "rates" else None, **words)  # type: ignore[arg-type]


def _rates(found: Room, sets: Sequence[str], level: float) -> ProbeFigure:
    return _figure(
        found, sets, ("down", "checkpoint", "up"), ("prefers_a", "rate_low", "rate_high"), id="rates", title="What the neighbours prefer", sentence=_sentence(found, sets[0]),
        y="share of items on which a is preferred", band=f"Whiskers: Clopper-Pearson intervals, all of the probe's intervals together with {100 * level:g}%.",
    )  # fmt: skip


def _losses(found: Room, sets: Sequence[str], level: float) -> ProbeFigure:
    most = max(max(abs(row.low), abs(row.high)) for row in found.rows)
    return _figure(
        found, sets, ("down", "up"), ("difference", "low", "high"), id="losses", title="Loss of the neighbours minus the checkpoint's",
        sentence=f"All intervals lie within {most:.4f} nats of 0; {found.epsilon:g} was allowed.", y="nats per token",
        band=f"Whiskers: anytime intervals of compare, all of the probe's intervals together with {100 * level:g}%.",
    )  # fmt: skip
