"""The record of ``probe patch``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import scalebound
from scalebound.core.probe import ProbeFigure, ProbeRecord, ProbeTable, Row, row_of, with_interval
from scalebound.probe.exact import over_seeds
from scalebound.probe.patch import METRICS, PITFALLS, Patching, PatchMap, PatchRow, established
from scalebound.probe.patch_tasks import Pairs

UNITS = {"logit_difference": "logits", "probability": "probability", "kl": "nats"}
WORDS = {"denoising": "restored by the clean activation", "noising": "destroyed by the corrupted activation"}


def patch_record(found: Patching, pairs: Pairs, *, level: float, seed: int, settings: dict[str, str | int], inputs: dict[str, str] | None = None) -> ProbeRecord:
    """Tables, sentences and heat maps of :func:`~scalebound.probe.patch.probe_patch`'s result; a row per cell and metric."""
    return ProbeRecord(
        name="patch",
        title="Which activation carries the answer",
        verdict=found.verdict,
        seed=seed,
        level=level,
        settings={**settings, "pairs": len(pairs.clean), "positions": len(pairs.labels)},
        rows=tuple(row for one in found.maps for row in _cells(one, found)),
        parts={"largest": tuple(row_of(**asdict(row)) for row in found.rows), "pitfalls": tuple(row_of(text=text) for text in PITFALLS)},
        findings=row_of(clean_prefers_answer=found.accuracy[0], corrupted_prefers_wrong=found.accuracy[1], **{f"gap_{name}": float(found.gaps[name].mean()) for name in METRICS}),
        words=(*_sentences(found, pairs, level), *PITFALLS),
        tables=(_ends(found, level), *((_largest(found.rows),) if found.rows else ())),
        figures=tuple(_figure(one, name, found, level) for one in found.maps for name in METRICS),
        source="arXiv:2404.15255, arXiv:2202.05262, arXiv:2211.00593",
        inputs=inputs or {},
        version=scalebound.__version__,
    )


def _cells(one: PatchMap, found: Patching) -> list[Row]:
    rows = []
    for layer in range(one.effects[METRICS[0]].shape[1]):
        for k, column in enumerate(one.columns):
            effects = {name: float(one.effects[name][:, layer, k].mean()) for name in METRICS}
            rows.append(row_of(site=one.site, direction=one.direction, layer=layer, place=k, column=column, **effects))
    return rows


def _ends(found: Patching, level: float) -> ProbeTable:
    """What there is to explain: the gap between the clean and the corrupted run."""
    cells = []
    for name in METRICS:
        gap = found.gaps[name]
        cells.append((name, UNITS[name], with_interval(over_seeds(gap, level), ".3f") if len(gap) > 1 else f"{gap[0]:.3f}"))
    return ProbeTable(title="Clean minus corrupted: what a share of 1 stands for", columns=("metric", "unit", "mean gap over pairs"), rows=tuple(cells))


def _largest(rows: Sequence[PatchRow]) -> ProbeTable:
    cells = tuple(
        (r.site, r.direction, r.metric, str(r.layer), r.column, with_interval((r.effect, r.low, r.high), ".3f") if r.low is not None and r.high is not None else f"{r.effect:.3f}",
         "" if r.share is None else f"{r.share:.2f}")
        for r in rows
    )  # fmt: skip
    return ProbeTable(title="The largest cell by each metric", columns=("site", "direction", "metric", "layer", "position or head", "effect", "share"), rows=cells)


def _sentences(found: Patching, pairs: Pairs, level: float) -> list[str]:
    N, T = pairs.clean.shape
    first = pairs.first_difference
    words = [
        f"{N} pairs of {T} tokens. The clean prompt's answer is preferred to the wrong one in {found.accuracy[0]:.0%} of clean runs; the corrupted prompt's in {found.accuracy[1]:.0%} of corrupted ones.",
        "Clean and corrupted prompts are equal: every effect is 0." if first == T else f"Positions before the first difference ({first}, “{pairs.labels[first]}”) have no effect in a causal model and were not patched.",
        f"Of the largest cells, layer and place were chosen on half of the pairs and the effect estimated on the other half; Student's {100 * level:g}% intervals over pairs, each on its own."
        if N >= 4 else "With fewer than four pairs the largest cells are chosen and estimated on the same pairs: their effects are too large if anything, and have no interval.",
        "A share is an effect over the gap: 0 nothing, 1 everything. The verdict is about heads in denoising: one_head when a single head restores at least half of the logit difference, else spread; no_gap when there is nothing to restore.",
    ]  # fmt: skip
    for site, direction in dict.fromkeys((row.site, row.direction) for row in found.rows):
        places = {row.metric: (row.layer, row.column) for row in found.rows if (row.site, row.direction) == (site, direction)}
        if len(set(places.values())) > 1:
            words.append(f"{site}, {direction}: the metrics do not agree on the largest cell ({', '.join(f'{name}: layer {layer}, {column}' for name, (layer, column) in places.items())}).")
    return words


def _figure(one: PatchMap, metric: str, found: Patching, level: float) -> ProbeFigure:
    """Shares where a gap is established, else plain effects."""
    gap = established(found.gaps[metric], level)
    mean = one.effects[metric].mean(0)
    cells = mean if gap is None else mean / gap
    what = f"Effect on {metric.replace('_', ' ')}" if gap is None else f"Share of the gap in {metric.replace('_', ' ')} {WORDS[one.direction]}"
    return ProbeFigure(
        id=f"{one.site}-{one.direction}-{metric.replace('_', '-')}",
        kind="heat",
        title=f"{one.site}, {one.direction}: {metric.replace('_', ' ')}",
        sentence=f"{what}, one cell at a time; negative cells move the other way.",
        x="head" if one.site == "heads" else "position",
        y="layer",
        band=f"Means over {len(found.gaps[metric])} pairs; cells have no intervals, the largest ones have them in the table.",
        names=one.columns,
        lines=tuple(str(layer) for layer in range(len(cells))),
        cells=tuple(tuple(float(value) for value in row) for row in cells),
        scale=f"share of the mean gap ({gap:.3f} {UNITS[metric]})" if gap is not None else f"effect, {UNITS[metric]}; the gap is not shown to differ from 0",
    )
