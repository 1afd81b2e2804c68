"""The record of ``probe rules``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import scalebound
from scalebound.core.probe import ProbeFigure, ProbeRecord, ProbeTable, Series, row_of, with_interval
from scalebound.probe.grammar import Grammar
from scalebound.probe.rules import Exact, PairRow, RuleRow

Found = tuple[Grammar, list[RuleRow], list[PairRow], Exact]


def rules_record(found: Sequence[Found], *, steps: int, level: float, seed: int, inputs: dict[str, str] | None = None) -> ProbeRecord:
    """Tables, sentences and figures of :func:`~scalebound.probe.rules.probe_rules` for one or several grammars."""
    tables, words, figures = [], [], []
    for grammar, rows, pairs, exact in found:
        tables += [_models(grammar, rows), _pairs(grammar, pairs)]
        words += _sentences(grammar, pairs, exact)
        figures.append(_figure(grammar, rows, pairs, level))
    words.append(f"{100 * level:g}% intervals, all of one grammar together; rates by Clopper-Pearson. What is said of losses is about the pair with a share of 0.01 of each mixed into the other.")
    return ProbeRecord(
        name="rules",
        title="Same loss, different extrapolation",
        verdict="same_loss_different_rule" if any(pair.found for _, _, pairs, _ in found for pair in pairs) else "no_pair_found",
        seed=seed,
        level=level,
        settings={"grammars": ",".join(grammar.name for grammar, *_ in found), "steps": steps},
        rows=tuple(row_of(**asdict(row)) for _, rows, _, _ in found for row in rows),
        parts={
            "pairs": tuple(row_of(**asdict(pair), found=pair.found) for _, _, pairs, _ in found for pair in pairs),
            "construction": tuple(row_of(**asdict(exact)) for *_, exact in found),
        },
        words=tuple(words),
        tables=tuple(tables),
        figures=tuple(figures),
        source="arXiv:2405.01964, arXiv:2409.13728, arXiv:1908.04319",
        inputs=inputs or {},
        version=scalebound.__version__,
    )


def _models(grammar: Grammar, rows: Sequence[RuleRow]) -> ProbeTable:
    cells = tuple(
        (r.model, f"{r.loss:.4f}", with_interval((r.kept, r.low, r.high), ".2f"), with_interval((r.on_support, r.on_support_low, r.on_support_high), ".2f"))
        for r in rows
    )
    return ProbeTable(
        title=f"{grammar.name}: same loss, different extrapolation (least possible loss {rows[0].least_loss:.4f})",
        columns=("model", "loss (nats/token)", f"keeps {grammar.kept_words!r} off the support", "in the language on it"),
        rows=cells,
    )


def _pairs(grammar: Grammar, pairs: Sequence[PairRow]) -> ProbeTable:
    """Only the pairs that show something: equal loss and rates apart."""
    cells = tuple((p.a, p.b, with_interval((p.difference, p.low, p.high), "+.4f"), "yes" if p.equal_loss else "no") for p in pairs if p.found)
    return ProbeTable(
        title=f"{grammar.name}: pairs whose rates of keeping the rule do not overlap",
        columns=("A", "B", "loss of A minus B", "inside ±0.01 nats"),
        rows=cells,
    )


def _sentences(grammar: Grammar, pairs: Sequence[PairRow], exact: Exact) -> list[str]:
    found = sum(pair.found for pair in pairs)
    return [
        f"{grammar.name}: {sum(pair.equal_loss for pair in pairs)} of {len(pairs)} pairs have equal loss (within 0.01 nats, by interval); {found} of these keep the rule at rates whose intervals do not overlap.",
        f"Exact construction: total variation {exact.total_variation:g} and KL {exact.kl:g} on the support, rule kept after {exact.kept_by_one:.0%} and {exact.kept_by_other:.0%} of {exact.prompts} prompts.",
    ]


def _figure(grammar: Grammar, rows: Sequence[RuleRow], pairs: Sequence[PairRow], level: float) -> ProbeFigure:
    best, worst = max(rows, key=lambda r: r.kept), min(rows, key=lambda r: r.kept)
    return ProbeFigure(
        id=f"rules-{grammar.name.lower().replace('_', '-')}",
        kind="points",
        title=f"Rule kept off the support: {grammar.name}",
        sentence=f"With losses from {min(r.loss for r in rows):.4f} to {max(r.loss for r in rows):.4f} nats per token, the rule “{grammar.kept_words}” is kept after {best.kept:.0%} of the prompts by “{best.model}” and after {worst.kept:.0%} by “{worst.model}”.",
        x="model",
        y="share of completions",
        band=f"Whiskers: Clopper-Pearson intervals, all of the grammar together with {100 * level:g}%.",
        names=tuple(r.model for r in rows),
        series=(
            Series.of(f"“{grammar.kept_words}” kept, off the support", range(len(rows)), [(r.kept, r.low, r.high) for r in rows]),
            Series.of("in the language, on the support", range(len(rows)), [(r.on_support, r.on_support_low, r.on_support_high) for r in rows]),
        ),
        span=(0.0, 1.0),
    )
