"""The record of ``probe dimension``."""

from __future__ import annotations

import math
from dataclasses import asdict

import scalebound
from scalebound.core.probe import ProbeFigure, ProbeRecord, ProbeTable, Row, Series, Value, row_of, with_interval
from scalebound.probe.dimension import Dimension, DimensionRow

COLUMNS = ("dimension", "loss (nats/item)", "accuracy", "share of the gain", "file (bytes)", "its error", "bound: ours", "from d", "held out")


def dimension_record(found: Dimension, *, settings: dict[str, Value], level: float, seed: int, inputs: dict[str, str] | None = None) -> ProbeRecord:
    """Tables, sentences and figures of :func:`~scalebound.probe.dimension.probe_dimension`."""
    best = min((row for row in found.rows), key=lambda row: row.bound.ours, default=None)
    return ProbeRecord(
        name="dimension",
        title="Intrinsic dimension",
        verdict="nothing_learned" if not found.learned else "not_reached" if found.value is None else "reached",
        seed=seed,
        level=level,
        settings={"share": found.share, "params": found.params, **settings},
        rows=tuple(_row(row) for row in found.rows),
        findings={
            "dimension": found.value, "above": found.above, "by_accuracy": found.by_accuracy, "loss_before": found.before[0], "accuracy_before": found.before[1],
            "loss_full": found.full[0], "accuracy_full": found.full[1], "items_trained": found.items[0], "items_held": found.items[1],
            "best_bound": None if best is None else best.bound.ours, "best_bound_dimension": None if best is None else best.dimension,
        },  # fmt: skip
        words=_words(found, best, level),
        tables=(_table(found),),
        figures=(_gains(found, level), _bounds(found, level)) if found.rows else (),
        source="arXiv:2012.13255, arXiv:1804.08838",
        inputs=inputs or {},
        version=scalebound.__version__,
    )


def _row(row: DimensionRow) -> Row:
    parts = asdict(row)
    bound = parts.pop("bound")
    ours, theirs = row.bound.vacuous
    return row_of(**parts, **bound, vacuous=ours, from_dimension_vacuous=theirs)


def _words(found: Dimension, best: DimensionRow | None, level: float) -> tuple[str, ...]:
    trained, held = found.items
    first = (
        f"Held-out loss (-log p of the right choice among the choices) and accuracy: the base {found.before[0]:.4f} and {found.before[1]:.3f}, "
        f"all {found.params:,} weights trained {found.full[0]:.4f} and {found.full[1]:.3f}. {trained:,} items trained on, {held:,} held out."
    )
    if not found.learned:
        return (first, "Training all weights gained nothing that the held-out items show: there is no share of it to speak of.")
    said = f"d{100 * found.share:g} = {found.value:,}" if found.value is not None else f"d{100 * found.share:g} is above {found.rows[-1].dimension:,}, the largest tried"
    by = "none tried" if found.by_accuracy is None else f"{found.by_accuracy:,}"
    words = [
        first,
        f"{said}: the smallest dimension tried that gains {found.share:.0%} of that. {'' if found.above is None else f'Shown to be above {found.above:,}. '}By accuracy, as in the papers: {by}.",
        f"Intervals of shares: normal, paired by item, all together {100 * level:g}%; they hold the training and the subspace fixed.",
    ]
    if best is not None:
        bound = best.bound
        gone = sum(row.bound.vacuous[1] for row in found.rows)
        words.append(
            f"Best bound on the error of a rounded model, for all files at once ({100 * level:g}%): {bound.ours:.3f} at d = {best.dimension:,} ({bound.file_bytes:,} bytes, {bound.header_bytes} of them header; error {bound.error:.3f}"
            f" on the training items){'; vacuous, guessing errs on ' + format(bound.guessing, '.3f') if bound.vacuous[0] else ''}. The bound from d (constants of Hoeffding's inequality, r values given for nothing)"
            f" is vacuous at {gone} of {len(found.rows)} dimensions; held-out bounds hold together."
        )
    return tuple(words)


def _table(found: Dimension) -> ProbeTable:
    cells = []
    for row in found.rows:
        bound = row.bound
        ours, theirs = (f"{value:.3f}{' (vacuous)' if vacuous else ''}" for value, vacuous in zip((bound.ours, bound.from_dimension), bound.vacuous, strict=True))
        cells.append((f"{row.dimension:,}", f"{row.loss:.4f}", f"{row.accuracy:.3f}", with_interval((row.gain, row.low, row.high), ".2f"), f"{bound.file_bytes:,}", f"{bound.error:.3f}", ours, theirs, f"{bound.held_out:.3f}"))
    return ProbeTable(title="Trained in a random subspace", columns=COLUMNS, rows=tuple(cells))


def _gains(found: Dimension, level: float) -> ProbeFigure:
    x = tuple(math.log2(row.dimension) for row in found.rows)
    return ProbeFigure(
        id="dimension",
        kind="curves",
        title="Share of the gain against the dimension of the subspace",
        sentence=f"{100 * found.share:g}% of what all {found.params:,} weights gain is reached at {'no dimension tried' if found.value is None else f'd = {found.value:,}'}.",
        x="dimension of the subspace (log2)",
        y="share of the gain in held-out loss",
        band=f"Whiskers: normal intervals, paired by item, all together {100 * level:g}%.",
        series=(
            Series.of("random subspace", x, [(r.gain, r.low, r.high) for r in found.rows]),
            Series(label=f"{found.share:.0%}", x=(x[0], x[-1]), value=(found.share, found.share)),
        ),
    )


def _bounds(found: Dimension, level: float) -> ProbeFigure:
    x = tuple(math.log2(row.dimension) for row in found.rows)
    of = {
        "ours, from the file": tuple(row.bound.ours for row in found.rows),
        "from d": tuple(min(1.0, row.bound.from_dimension) for row in found.rows),
        "held out": tuple(row.bound.held_out for row in found.rows),
        "error on the training items": tuple(row.bound.error for row in found.rows),
        "guessing": tuple(row.bound.guessing for row in found.rows),
    }
    return ProbeFigure(
        id="dimension-bounds",
        kind="curves",
        title="What the rounded vector proves",
        sentence=f"The least bound from a file is {min(of['ours, from the file']):.3f}, the least from d {min(of['from d']):.3f}.",
        x="dimension of the subspace (log2)",
        y="error, share of items",
        band=f"No intervals: each bound is itself the upper end, at {100 * level:g}%. Bounds above 1 are drawn at 1.",
        series=tuple(Series(label=label, x=x, value=value) for label, value in of.items()),
        span=(0.0, 1.0),
    )
