"""What every figure is drawn with: the page's colours, axes and legends, and the type that carries a figure to the page.

Colours are those of Okabe and Ito (2008), told apart by people with any common colour vision; every series also differs by symbol or
dash. Legends are HTML, beside the drawing: they cannot cover a curve on a narrow screen. Colours of text and grid are set by the page's
style sheet, so that they follow the reader's theme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from scalebound.report.words import short

BLUE, SKY, GREEN, ORANGE, RED, PINK, GREY = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#8794a1"


@dataclass(frozen=True)
class Key:
    """A row of the legend: ``mark`` is line, dash, box, band or none; ``symbol`` one of plotly's, drawn over it."""

    label: str
    colour: str
    mark: str = "line"
    symbol: str = ""


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure. ``note`` is printed under it, ``warnings`` on demand."""

    title: str
    plot: go.Figure
    note: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """What the page prints around one or several drawings; ``rows`` hold text, ready to print under ``columns``."""

    id: str
    title: str
    sentence: str  # what it shows
    units: str
    band: str  # what the band is, or why there is none
    panels: tuple[Panel, ...]
    legend: tuple[Key, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def empty_plot(*, height: int) -> go.Figure:
    """A plot of the given height in pixels, as wide as its place on the page."""
    plot = go.Figure()
    plot.update_layout(
        template="none",
        height=height,
        autosize=True,
        showlegend=False,
        dragmode=False,
        hovermode="closest",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 48, "r": 14, "t": 14, "b": 46},
        font={"size": 12, "family": "system-ui, sans-serif"},
    )
    return plot


def y_axis(plot: go.Figure, title: str, span: Sequence[float] | None = None) -> None:
    plot.update_yaxes(title={"text": title, "standoff": 8}, zeroline=False, fixedrange=True, automargin=True, nticks=7)
    if span is not None:
        plot.update_yaxes(range=list(span))


def log_axis(plot: go.Figure, title: str, ticks: Sequence[float], *, span: tuple[float, float], pad: float) -> None:
    """A logarithmic x-axis over ``span``, widened by the share ``pad`` on both sides, with the given ticks."""
    low, high = math.log10(span[0]), math.log10(span[1])
    room = pad * (high - low) or 0.1
    plot.update_xaxes(
        type="log",
        title={"text": title, "standoff": 6},
        tickvals=list(ticks),
        ticktext=[short(tick) for tick in ticks],
        range=[low - room, high + room],
        zeroline=False,
        fixedrange=True,
    )


def size_axis(plot: go.Figure, sizes: Sequence[float]) -> None:
    """A log axis of parameters with a tick at each size, thinned until the labels have room on a narrow screen."""
    span = (min(sizes), max(sizes))
    least = max(math.log(span[1] / span[0]) / 7.0, 1e-9)
    ticks = [max(sizes)]
    for size in sorted(sizes, reverse=True)[1:]:
        if math.log(ticks[-1] / size) >= least:
            ticks.append(size)
    log_axis(plot, "parameters (log scale)", ticks[::-1], span=span, pad=0.06)


def decades(low: float, high: float) -> list[float]:
    """1, 3, 10, 30, ... within a range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [digit * 10.0**power for power in powers for digit in (1, 3)]
    return [value for value in found if low <= value <= high] or [low]


def ramp(steps: int) -> list[str]:
    """Colours from orange over pink to blue: ordered, and apart in lightness for every common colour vision."""
    stops = np.array([[int(colour[k : k + 2], 16) for k in (1, 3, 5)] for colour in (ORANGE, PINK, BLUE)], dtype=float)
    places = np.linspace(0.0, 2.0, steps) if steps > 1 else np.array([2.0])
    channels = [np.interp(places, [0.0, 1.0, 2.0], stops[:, k]).round().astype(int) for k in range(3)]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in zip(*channels, strict=True)]


def to_json(figure: Figure) -> list[dict[str, Any]]:
    """What plotly's script needs of each panel: plain lists, no binary arrays."""
    return [{"data": drawn["data"], "layout": drawn["layout"]} for drawn in (panel.plot.to_plotly_json() for panel in figure.panels)]
