"""The record of ``probe memorization``: what is given back, and what groups of documents were responsible for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import scalebound
from scalebound.core.probe import ProbeFigure, ProbeRecord, ProbeTable, Row, Series, Value, row_of, with_interval
from scalebound.probe.influence import InfluenceRow
from scalebound.probe.memorization import NEAR, SpanRow

TITLE = "What was remembered"


def memorization_record(spans: Sequence[SpanRow], groups: Sequence[InfluenceRow], *, nulls: Sequence[str], settings: dict[str, Value], level: float, seed: int,
                        inputs: dict[str, str] | None = None) -> ProbeRecord:  # fmt: skip
    """Tables, sentences and figures; ``nulls`` are the kinds of spans that the model never saw. Either part may be empty."""
    tables, figures = [], []
    words: list[str] = []
    verdict = "nothing_compared"
    findings: Row = {}
    if spans:
        verdict, findings = _extraction(spans, nulls)
        tables.append(_span_table(spans))
        figures.append(_span_figure(spans, level))
        words += [
            f"Exact: the greedy continuation is the suffix. Near: it differs at no more than {NEAR:.0%} of the places. Clopper-Pearson intervals, all of the table together {100 * level:g}%.",
            "No text that the model never saw was given: how much of this is merely predictable is not known." if not nulls else f"Never seen: {', '.join(nulls)}; given back there is what can be predicted.",
        ]
    if groups:
        found = [row.group for row in groups if row.low > 0]
        findings = findings | {"influential groups": len(found), "groups": len(groups)}
        verdict = verdict if spans else "influence_found" if found else "no_influence_found"
        tables.append(_group_table(groups))
        figures.append(_group_figure(groups, level))
        words.append(
            f"Influence: share of a group's tokens that are the argmax, runs with the group minus runs without. {len(found)} of {len(groups)} intervals lie above 0. "
            f"Welch's intervals over runs, all groups together {100 * level:g}%; p-values by permutation of the runs, exact, each on its own."
        )
    return ProbeRecord(
        name="memorization",
        title=TITLE,
        verdict=verdict,
        seed=seed,
        level=level,
        settings=settings,
        rows=tuple(row_of(**asdict(row)) for row in spans),
        parts={"influences": tuple(row_of(**asdict(row)) for row in groups)},
        findings=findings,
        words=tuple(words),
        tables=tuple(tables),
        figures=tuple(figures),
        source="arXiv:2202.07646, arXiv:1906.05271, arXiv:2112.12938",
        inputs=inputs or {},
        version=scalebound.__version__,
    )


def _extraction(spans: Sequence[SpanRow], nulls: Sequence[str]) -> tuple[str, Row]:
    """Kinds given back more often than the null of most spans (a null of few has a wide interval), by intervals of the near rate."""
    null = max((row for row in spans if row.kind in nulls), key=lambda row: row.n, default=None)
    if null is None:
        return "no_null_given", {"remembered": None}
    found = [row.kind for row in spans if row.kind not in nulls and row.near_low > null.near_high]
    return "remembers_training_text" if found else "nothing_remembered", {"remembered": ", ".join(found)}


def _span_table(spans: Sequence[SpanRow]) -> ProbeTable:
    cells = tuple((r.kind, str(r.n), with_interval((r.exact, r.exact_low, r.exact_high), ".3f"), with_interval((r.near, r.near_low, r.near_high), ".3f")) for r in spans)
    return ProbeTable(title="Spans given back when prompted with what precedes them", columns=("spans", "n", "exactly", "nearly"), rows=cells)


def _span_figure(spans: Sequence[SpanRow], level: float) -> ProbeFigure:
    most = max(spans, key=lambda row: row.exact)
    return ProbeFigure(
        id="extraction",
        kind="points",
        title="Spans given back",
        sentence=f"Of “{most.kind}” {most.exact:.0%} are given back exactly.",
        x="kind of text",
        y="share of spans",
        band=f"Whiskers: Clopper-Pearson intervals, all together {100 * level:g}%.",
        names=tuple(row.kind for row in spans),
        series=(
            Series.of("exactly", range(len(spans)), [(r.exact, r.exact_low, r.exact_high) for r in spans]),
            Series.of("nearly", range(len(spans)), [(r.near, r.near_low, r.near_high) for r in spans]),
        ),
        span=(0.0, 1.0),
    )


def _group_table(groups: Sequence[InfluenceRow]) -> ProbeTable:
    cells = tuple((r.group, f"{r.score_with:.3f} ({r.runs_with})", f"{r.score_without:.3f} ({r.runs_without})", with_interval((r.influence, r.low, r.high), "+.3f"), f"{r.p_value:.4f}") for r in groups)
    return ProbeTable(title="Counterfactual influence of groups of documents", columns=("group", "score of runs with it", "score of runs without", "influence", "p-value"), rows=cells)


def _group_figure(groups: Sequence[InfluenceRow], level: float) -> ProbeFigure:
    most, least = max(groups, key=lambda row: row.influence), min(groups, key=lambda row: row.influence)
    return ProbeFigure(
        id="influence",
        kind="points",
        title="Counterfactual influence",
        sentence=f"Seeing “{most.group}” raises its score by {most.influence:.3f}, seeing “{least.group}” by {least.influence:.3f}.",
        x="group of documents",
        y="influence (difference of scores)",
        band=f"Whiskers: Welch's intervals over runs, all groups together {100 * level:g}%.",
        names=tuple(row.group for row in groups),
        series=(Series.of("influence", range(len(groups)), [(r.influence, r.low, r.high) for r in groups]),),
    )
