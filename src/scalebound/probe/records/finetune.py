"""The record of ``probe finetune``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import scalebound
from scalebound.core.probe import ProbeFigure, ProbeRecord, ProbeTable, Series, row_of, with_interval
from scalebound.probe.finetune import Row

COLUMNS = ("optimizer", "transformation", "logit gap", "reference loss", "transformed loss", "difference", "invariant (theory)", "found")


def finetune_record(rows: Sequence[Row], *, seeds: int, steps: int, strength: float, level: float, seed: int, model: str = "", inputs: dict[str, str] | None = None) -> ProbeRecord:
    """Tables, sentences and a figure of :func:`~scalebound.probe.finetune.probe_finetune`'s rows, and a verdict: outcomes differ or not."""
    differ = any(row.found != "same" for row in rows)
    agree = all((row.found == "same") == row.invariant for row in rows)
    apart, together = ([row for row in rows if getattr(row, which)] for which in ("separate", "separate_together"))
    cells = tuple(
        (r.optimizer, r.transformation, f"{r.logit_gap:.1e}", with_interval(r.reference_loss), with_interval(r.loss), with_interval(r.difference, "+.4f"),
         "yes" if r.invariant else "no", r.found)
        for r in rows
    )  # fmt: skip
    optimizers, names = tuple(dict.fromkeys(r.optimizer for r in rows)), tuple(dict.fromkeys(r.transformation for r in rows))
    series = []
    for optimizer in optimizers:
        of = [r for r in rows if r.optimizer == optimizer]
        series.append(Series.of(optimizer, [names.index(r.transformation) for r in of], [r.difference for r in of]))
    figure = ProbeFigure(
        id="difference",
        kind="points",
        title="Held-out loss after fine-tuning: rewritten minus original",
        sentence=f"All versions have one loss before fine-tuning, {rows[0].loss_before:.4f} nats per token; afterwards {sum(r.found != 'same' for r in rows)} of {len(rows)} differ.",
        x="how the weights were rewritten (the function stays)",
        y="difference, nats per token",
        band=f"Whiskers: Student's {100 * level:g}% intervals over {seeds} seeds, each on its own.",
        names=names,
        series=tuple(series),
    )
    words = (
        f"Loss before fine-tuning {rows[0].loss_before:.4f} nats/token for every version. {seeds} seeds; Student's {100 * level:g}% intervals over seeds, each on its own.",
        "Same: within 0.001 nats in every seed. Shifted: the mean difference is not 0. Spread: outcomes differ, without a direction shown.",
        f"Rows whose two loss intervals do not overlap: {len(apart)} of {len(rows)}; with intervals that hold for all rows at once: {_named(together)}.",
        "What theory calls invariant was found the same, and nothing else was." if agree else "What theory calls invariant was NOT what was found the same.",
    )
    return ProbeRecord(
        name="finetune",
        title="One function, several parametrizations",
        verdict="same_function_different_outcome" if differ else "no_difference",
        seed=seed,
        level=level,
        settings={"seeds": seeds, "steps": steps, "strength": float(strength), "model": model},
        rows=tuple(row_of(**asdict(row)) for row in rows),
        findings={"invariances_hold": agree},
        words=words,
        tables=(ProbeTable(title="One function, several parametrizations", columns=COLUMNS, rows=cells),),
        figures=(figure,),
        source="arXiv:2405.01964, arXiv:1703.04933",
        inputs=inputs or {},
        version=scalebound.__version__,
    )


def _named(rows: Sequence[Row]) -> str:
    said = (f"{row.optimizer} after {row.transformation} ({row.loss[0]:.4f} against {row.reference_loss[0]:.4f})" for row in rows)
    return "; ".join(said) or "none"
