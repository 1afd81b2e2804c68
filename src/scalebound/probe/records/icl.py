"""The records of ``probe icl``: on mixtures of hidden Markov models, and on a user's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import scalebound
from scalebound.core.probe import ProbeFigure, ProbeRecord, ProbeTable, Series, Value, row_of, with_interval
from scalebound.probe.icl import AccuracyRow, InContext
from scalebound.probe.labels import LabelRow, verdict_of

SOURCE = "arXiv:2111.02080, arXiv:2405.01964"


def icl_record(found: InContext, *, settings: dict[str, Value], level: float, seed: int) -> ProbeRecord:
    """Tables, sentences and figures of :func:`~scalebound.probe.icl.probe_icl`."""
    gap = found.gap
    lengths = tuple(dict.fromkeys(row.length for row in found.accuracies))
    words = [
        f"The forgetting predictor treats what follows a short segment as a new document. Divergence: KL per token of a training document from the Bayes predictor, "
        f"exact at every position of fresh documents; interval with documents as units. Intervals: all together {100 * level:g}%; rates by Clopper-Pearson.",
    ]
    if gap is None:
        words.append(f"No reach has a divergence shown to be at most {found.epsilon:g} nats per token.")
    else:
        one = next(row for row in found.divergences if row.chosen)
        words.append(
            f"The pair: divergence {with_interval((one.divergence, one.low, one.high))} nats per token (at most {found.epsilon:g}); after {gap[0].examples} examples of {gap[0].length} tokens "
            f"the Bayes predictor is right on {_rate(gap[0])} of prompts, its twin on {_rate(gap[1])}: at least {gap[0].low - gap[1].high:.2f} apart."
        )
    return ProbeRecord(
        name="icl",
        title="Nearly equal loss, with and without in-context learning",
        verdict="same_loss_different_in_context" if found.found else "no_pair_found",
        seed=seed,
        level=level,
        settings={"epsilon": found.epsilon, **settings},
        rows=tuple(row_of(**asdict(row)) for row in found.accuracies),
        parts={"divergences": tuple(row_of(**asdict(row)) for row in found.divergences), "losses": tuple(row_of(**asdict(row)) for row in found.losses)},
        findings={"reach": found.reach, "accuracy_gap": gap[0].accuracy - gap[1].accuracy if gap else None, "accuracy_gap_at_least": gap[0].low - gap[1].high if gap else None},
        words=tuple(words),
        tables=(_losses(found), _divergences(found), *(_accuracies(found, length) for length in lengths)),
        figures=tuple(_figure(found, length, level) for length in lengths),
        source=SOURCE,
        version=scalebound.__version__,
    )


def _rate(row: AccuracyRow) -> str:
    return with_interval((row.accuracy, row.low, row.high), ".2f")


def _losses(found: InContext) -> ProbeTable:
    cells = tuple((r.predictor, f"{r.loss:.4f}", "exact" if r.predictor == "bayes" else with_interval((r.excess, r.low, r.high), "+.4f")) for r in found.losses)
    return ProbeTable(title="Losses on fresh documents", columns=("predictor", "loss (nats/token)", "more than the Bayes predictor (compare)"), rows=cells)


def _divergences(found: InContext) -> ProbeTable:
    cells = tuple((f"{r.reach} tokens", with_interval((r.divergence, r.low, r.high)), "the pair" if r.chosen else "") for r in found.divergences)
    return ProbeTable(title="The forgetting predictor", columns=("forgets after segments of at most", "divergence on training documents (nats/token)", "chosen"), rows=cells)


def _accuracies(found: InContext, length: int) -> ProbeTable:
    rows = [row for row in found.accuracies if row.length == length]
    names, counts = tuple(dict.fromkeys(row.predictor for row in rows)), tuple(dict.fromkeys(row.examples for row in rows))
    of = {(row.predictor, row.examples): _rate(row) for row in rows}
    return ProbeTable(
        title=f"In-context accuracy, examples of {length} tokens", columns=("predictor", *(f"{n} examples" for n in counts)), rows=tuple((name, *(of[name, n] for n in counts)) for name in names)
    )


def _figure(found: InContext, length: int, level: float) -> ProbeFigure:
    rows = [row for row in found.accuracies if row.length == length]
    series = tuple(_series(name, [row for row in rows if row.predictor == name]) for name in dict.fromkeys(row.predictor for row in rows))
    last = max(row.examples for row in rows)
    said = ", ".join(f"{row.predictor} {row.accuracy:.2f}" for row in rows if row.examples == last)
    return ProbeFigure(
        id=f"icl-{length}",
        kind="curves",
        title=f"In-context accuracy, examples of {length} tokens",
        sentence=f"After {last} examples: {said}.",
        x="examples in the prompt",
        y="share of prompts answered right",
        band=f"Whiskers: Clopper-Pearson intervals, all of the probe's intervals together with {100 * level:g}%.",
        series=series,
        span=(0.0, 1.0),
    )


def _series(label: str, rows: Sequence[AccuracyRow | LabelRow]) -> Series:
    return Series.of(label, [r.examples for r in rows], [(r.accuracy, r.low, r.high) for r in rows])


def labels_record(rows: Sequence[LabelRow], *, model: str, sha256: str, settings: dict[str, Value], level: float, seed: int) -> ProbeRecord:
    """Table, sentences and figure of :func:`~scalebound.probe.labels.probe_labels`."""
    mappings, counts = tuple(dict.fromkeys(r.mapping for r in rows)), tuple(dict.fromkeys(r.examples for r in rows))
    of = {(r.mapping, r.examples): with_interval((r.accuracy, r.low, r.high), ".2f") for r in rows}
    verdict = verdict_of(rows)
    last = max(counts)
    at_end = ", ".join(f"{r.mapping} {r.accuracy:.2f}" for r in rows if r.examples == last)
    title = "In-context learning of a word's label"
    return ProbeRecord(
        name="icl",
        title=title,
        verdict=verdict,
        seed=seed,
        level=level,
        settings={"model": model, **settings},
        rows=tuple(row_of(**asdict(row)) for row in rows),
        words=(
            f"Chance is {rows[0].chance:.2f}. Real labels can be known beforehand; permuted ones, drawn anew for every prompt, only from the examples; random ones not at all (the null).",
            f"Clopper-Pearson intervals, all together with {100 * level:g}%.",
        ),
        tables=(ProbeTable(title=title, columns=("labels", *(f"{n} examples" for n in counts)), rows=tuple((m, *(of[m, n] for n in counts)) for m in mappings)),),
        figures=(
            ProbeFigure(
                id="labels",
                kind="curves",
                title=title,
                sentence=f"After {last} examples: {at_end}; chance is {rows[0].chance:.2f}.",
                x="examples in the prompt",
                y="share of prompts answered right",
                band=f"Whiskers: Clopper-Pearson intervals, all together with {100 * level:g}%.",
                series=tuple(_series(m, [r for r in rows if r.mapping == m]) for m in mappings),
                span=(0.0, 1.0),
            ),
        ),
        source="arXiv:2303.03846, arXiv:2202.12837",
        inputs={"model": sha256},
        version=scalebound.__version__,
    )
