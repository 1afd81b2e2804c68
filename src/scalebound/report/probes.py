"""Records of probes become figures: points with intervals, curves with intervals, heat maps.

Labels and names of a record come from whoever made it, so they are escaped before plotly sees them.
"""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go

from scalebound.core.errors import InputError
from scalebound.core.probe import ProbeFigure, ProbeRecord, Series, load_probe
from scalebound.report.drawing import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, Figure, Key, Panel, empty_plot, y_axis

STYLES = ((BLUE, "circle"), (RED, "square"), (GREEN, "diamond"), (ORANGE, "triangle-up"), (PINK, "triangle-down"), (SKY, "circle"), (GREY, "square"))
HEAT = [[0.0, BLUE], [0.5, "#f4f4f4"], [1.0, RED]]  # around 0; apart in lightness from the middle for every common colour vision
FOLDER = "probes"


@dataclass(frozen=True)
class Probe:
    """A record with its figures, ready for the page. ``id`` is unique on the page."""

    id: str
    record: ProbeRecord
    figures: tuple[Figure, ...]


def read_probes(folder: str | os.PathLike | None, files: Sequence[str | os.PathLike] = ()) -> tuple[Probe, ...]:
    """The records of ``folder/probes/*.json``, by name of file, and those named beside it; a file named twice counts once.

    Raises
    ------
    InputError
        A file is missing, or no record of a probe.
    """
    paths = sorted((Path(folder) / FOLDER).glob("*.json")) if folder is not None else []
    paths += [Path(file) for file in files]
    unique = list({path.resolve(): path for path in paths}.values())
    for path in unique:
        if path.is_dir():
            raise InputError("is a folder", where=str(path), expected="the record of a probe, a .json file", hint=f"scalebound report {path.parent} reads {FOLDER}/*.json")
    found = []
    for number, path in enumerate(unique, start=1):
        record = load_probe(path)
        where = f"probe-{number}"
        found.append(Probe(where, record, tuple(draw(figure, prefix=f"{where}-{k}") for k, figure in enumerate(record.figures))))
    return tuple(found)


def draw(figure: ProbeFigure, *, prefix: str = "probe") -> Figure:
    """One figure of a record, with its legend and the table of every number drawn."""
    shapes = {"points": _points, "curves": _curves, "heat": _heat}
    plot = shapes[figure.kind](figure)
    legend = () if figure.kind == "heat" else tuple(Key(s.label, *_key(k, figure.kind)) for k, s in enumerate(figure.series))
    columns, rows = _numbers(figure)
    up = f"Down: {figure.y}. Colour: {figure.scale}." if figure.kind == "heat" else f"Up: {figure.y}."
    return Figure(
        id=f"{prefix}-{figure.id}",
        title=figure.title,
        sentence=figure.sentence,
        units=f"Across: {figure.x}. {up}",
        band=figure.band,
        panels=(Panel("", plot),),
        legend=legend,
        columns=columns,
        rows=rows,
    )


def _key(number: int, kind: str) -> tuple[str, str, str]:
    colour, symbol = STYLES[number % len(STYLES)]
    return colour, "line" if kind == "curves" else "none", symbol


def _points(figure: ProbeFigure) -> go.Figure:
    """Series side by side over named places, each point with its whisker."""
    plot = empty_plot(height=360)
    count = len(figure.series)
    for k, series in enumerate(figure.series):
        shift = (k - (count - 1) / 2) * 0.6 / max(count, 2)
        _marked(plot, series, [x + shift for x in series.x], k, "markers", text=[figure.names[int(x)] for x in series.x])
    ticks = [html.escape(name) for name in figure.names]
    plot.update_xaxes(tickvals=list(range(len(ticks))), ticktext=ticks, range=[-0.6, len(ticks) - 0.4], fixedrange=True, zeroline=False, automargin=True)
    y_axis(plot, html.escape(figure.y), _span(figure))
    return plot


def _curves(figure: ProbeFigure) -> go.Figure:
    """Lines over numbers; the intervals are whiskers, which stay legible where bands would cover each other."""
    plot = empty_plot(height=380)
    for k, series in enumerate(figure.series):
        _marked(plot, series, list(series.x), k, "lines+markers", text=[f"{x:g}" for x in series.x])
    plot.update_xaxes(title={"text": html.escape(figure.x), "standoff": 6}, fixedrange=True, zeroline=False)
    y_axis(plot, html.escape(figure.y), _span(figure))
    return plot


def _marked(plot: go.Figure, series: Series, places: list[float], number: int, mode: str, *, text: Sequence[str]) -> None:
    colour, symbol = STYLES[number % len(STYLES)]
    whiskers = {}
    if series.low:
        over = [high - value for high, value in zip(series.high, series.value, strict=True)]
        under = [value - low for low, value in zip(series.low, series.value, strict=True)]
        whiskers = {"error_y": {"type": "data", "symmetric": False, "array": over, "arrayminus": under, "color": colour, "thickness": 1.5, "width": 4}}
    plot.add_scatter(
        x=places,
        y=list(series.value),
        mode=mode,
        marker={"color": colour, "symbol": symbol, "size": 8},
        line={"color": colour, "width": 2, "dash": "dot" if number >= len(STYLES) else "solid"},
        customdata=[html.escape(one) for one in text],
        hovertemplate=f"%{{customdata}}: %{{y:.4f}}<extra>{html.escape(series.label)}</extra>",
        **whiskers,
    )


def _span(figure: ProbeFigure) -> list[float] | None:
    if figure.span is None:
        return None
    pad = 0.05 * (figure.span[1] - figure.span[0])
    return [figure.span[0] - pad, figure.span[1] + pad]


def _heat(figure: ProbeFigure) -> go.Figure:
    plot = empty_plot(height=min(900, 120 + 26 * len(figure.lines)))
    largest = max((abs(cell) for row in figure.cells for cell in row if cell is not None), default=1.0) or 1.0
    # places are numbers, not names: two columns may have one name
    plot.add_heatmap(
        z=[list(row) for row in figure.cells],
        x=list(range(len(figure.names))),
        y=list(range(len(figure.lines))),
        colorscale=HEAT,
        zmin=-largest,
        zmax=largest,
        colorbar={"thickness": 12, "outlinewidth": 0},
        hovertemplate="%{z:.4f}<extra></extra>",
    )
    step = max(1, len(figure.names) // 16)
    places = list(range(0, len(figure.names), step))
    plot.update_xaxes(tickvals=places, ticktext=[html.escape(figure.names[k]) for k in places], title={"text": html.escape(figure.x), "standoff": 6}, fixedrange=True, automargin=True)
    plot.update_yaxes(tickvals=list(range(len(figure.lines))), ticktext=[html.escape(line) for line in figure.lines], title={"text": html.escape(figure.y)}, autorange="reversed",
                      fixedrange=True, automargin=True)  # fmt: skip
    return plot


def _numbers(figure: ProbeFigure) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    if figure.kind == "heat":
        lines = ((line, *("" if cell is None else f"{cell:.4f}" for cell in cells)) for line, cells in zip(figure.lines, figure.cells, strict=True))
        return (figure.y, *figure.names), tuple(lines)
    rows: list[tuple[str, ...]] = []
    for series in figure.series:
        places = [figure.names[int(x)] if figure.kind == "points" else f"{x:g}" for x in series.x]
        ends = [(f"{low:.4f}", f"{high:.4f}") for low, high in zip(series.low, series.high, strict=True)] or [("", "")] * len(places)
        rows += [(series.label, place, f"{value:.4f}", *end) for place, value, end in zip(places, series.value, ends, strict=True)]
    return ("series", figure.x, figure.y, "low", "high"), tuple(rows)
