"""Artefacts become plotly figures: loss curves, bound against size, the terms of the bound, forecast against truth.

Each figure carries its units, a band or the reason it has none, a data table with every number drawn, and one sentence that says what
it shows. Legends are HTML, beside the drawing: they cannot cover a curve on a narrow screen. Colours are those of Okabe and Ito (2008),
told apart by people with any common colour vision; every series also differs by symbol or dash.
No text that comes from a user's file (names of texts, rungs, laws) enters a plotly figure: plotly reads markup, links included.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from scalebound.core.certificate import Terms
from scalebound.core.demo import Forecast, Point
from scalebound.report.folder import FitSummary, Folder, Log, Points
from scalebound.report.words import count, method_name, nats, percent, short, target_name

BLUE, SKY, GREEN, ORANGE, RED, PINK, GREY = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#8794a1"

METHOD_STYLE = {  # colour, symbol, dash
    "freedman": (RED, "square", "solid"),
    "product": (ORANGE, "diamond", "solid"),
    "anchored": (BLUE, "circle", "solid"),
    "trajectory": (GREEN, "triangle-up", "dot"),
    "heldout": (PINK, "triangle-down", "dot"),
}
METHOD_ORDER = tuple(METHOD_STYLE)
TERM_STYLE = {  # label, colour; in the order in which they stack
    "full_precision_loss": ("loss of the full-precision model", GREY),
    "quantization": ("quantization", PINK),
    "smoothing": ("smoothing", GREEN),
    "complexity": ("complexity", BLUE),
    "variance": ("variance", ORANGE),
    "subsampling": ("subsampling", RED),
}
DECOMPOSED = ("freedman", "product", "anchored")  # the methods whose bounds pay for the model's code
CURVE_POINTS = 60  # a curve is thinned to at most this many means


@dataclass(frozen=True)
class Key:
    """A row of the legend: ``mark`` is line, dash, box, band or none; ``symbol`` one of plotly's, drawn over it."""

    label: str
    colour: str
    mark: str = "line"
    symbol: str = ""


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure. ``note`` is printed under it."""

    title: str
    plot: go.Figure
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """What the page prints around one or several drawings; ``rows`` hold text, ready to print under ``columns``."""

    id: str
    title: str
    sentence: str
    units: str
    band: str
    panels: tuple[Panel, ...]
    legend: tuple[Key, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def all_figures(folder: Folder) -> tuple[Figure, ...]:
    """Every figure of the page, in its order; figures for which the folder has no data are left out."""
    figures = [loss_curves(folder)]
    if folder.methods:
        figures.append(bound_against_size(folder))
    if any(certificate.method in DECOMPOSED for found in folder.certificates for certificate in found.values()):
        figures.append(decomposition(folder))
    if folder.demo.forecasts:
        figures.append(forecasts(folder))
    return tuple(figures)


def loss_curves(folder: Folder) -> Figure:
    """Training loss against tokens, one line a rung, with the held-out loss of the finished model at its end."""
    rungs = folder.demo.rungs
    plot = _plot(height=400)
    colours = _ramp(len(rungs))
    rows: list[tuple[str, ...]] = []
    for rung, log, colour in zip(rungs, folder.logs, colours, strict=True):
        tokens, losses = thin(log)
        size = short(rung.params)
        plot.add_scatter(x=tokens, y=losses, mode="lines", line={"color": colour, "width": 2}, name=size, hovertemplate="%{y:.3f} after %{x:.3s} tokens<extra>" + size + "</extra>")
        plot.add_scatter(x=[rung.tokens], y=[rung.heldout_loss], mode="markers", marker={"color": colour, "size": 9, "symbol": "diamond", "line": {"width": 1, "color": "#ffffff"}}, name=size,
                         hovertemplate="%{y:.3f} held-out<extra>" + size + "</extra>")  # fmt: skip
        rows += [(count(rung.params), count(x), nats(y), "") for x, y in zip(tokens, losses, strict=True)]
        rows.append((count(rung.params), count(rung.tokens), "", nats(rung.heldout_loss)))
    first = min(float(log.tokens[0]) for log in folder.logs)
    last = max(float(max(rung.tokens, log.tokens[-1])) for rung, log in zip(rungs, folder.logs, strict=True))
    _log_axis(plot, "tokens seen (log scale)", _decades(first, last), span=(first, last), pad=0.03)
    _y_axis(plot, "nats per token")
    low, high = rungs[0], rungs[-1]
    return Figure(
        id="loss-curves",
        title="Loss while training",
        sentence=f"After one pass over its tokens the smallest model ({short(low.params)} parameters) has a held-out loss of {nats(low.heldout_loss)}, the largest ({short(high.params)}) of {nats(high.heldout_loss)}.",
        units="Across: training tokens seen. Up: loss of each step on tokens not trained on yet, nats per token, averaged over neighbouring steps.",
        band="No band: each line is one run, and every token of it was counted.",
        panels=(Panel("", plot),),
        legend=tuple(Key(f"{short(rung.params)} parameters", colour) for rung, colour in zip(rungs, colours, strict=True)) + (Key("held-out loss of the finished model", GREY, "none", "diamond"),),
        columns=("parameters", "tokens seen", "training loss, nats per token", "held-out loss, nats per token"),
        rows=tuple(rows),
    )


def thin(log: Log) -> tuple[list[float], list[float]]:
    """Means of the log over bins that grow geometrically with the step: as smooth at the end as at the start on a log axis.

    Every step falls into exactly one bin; at most :data:`CURVE_POINTS` bins.
    """
    steps = len(log.losses)
    edges = np.unique(np.round(np.geomspace(1, steps + 1, CURVE_POINTS + 1)).astype(int)) - 1
    sizes = np.diff(edges)
    means = [np.add.reduceat(values, edges[:-1]) / sizes for values in (log.tokens, log.losses)]
    return means[0].tolist(), means[1].tolist()


def bound_against_size(folder: Folder) -> Figure:
    """Each method's bound against parameters, between the measured loss below and the random-guess line above."""
    rungs = folder.demo.rungs
    plot = _plot(height=440)
    sizes = [rung.params for rung in rungs]
    guess = math.log(folder.demo.vocab_size)
    legend = [Key("guessing uniformly", GREY, "dash")]
    plot.add_scatter(x=[sizes[0] / 2, sizes[-1] * 2], y=[guess, guess], mode="lines", line={"color": GREY, "width": 1.5, "dash": "dash"}, hoverinfo="skip")
    names = sorted(folder.methods, key=lambda name: METHOD_ORDER.index(_method(folder, name)))
    for name in names:
        points = [(rung.params, found[name].bound) for rung, found in zip(rungs, folder.certificates, strict=True) if name in found]
        colour, symbol, dash = METHOD_STYLE[_method(folder, name)]
        _line(plot, points, html.escape(method_name(name)), colour, symbol, dash)
        legend.append(Key(f"{method_name(name)} bound", colour, "dash" if dash == "dot" else "line", symbol))
    _line(plot, [(rung.params, rung.heldout_loss) for rung in rungs], "held-out loss", GREY, "x", "dot")
    _line(plot, [(rung.params, rung.train_loss) for rung in rungs], "training loss", GREY, "circle-open", "solid")
    legend += [Key("held-out loss", GREY, "dash", "x"), Key("training loss", GREY, "line", "circle-open")]
    _size_axis(plot, sizes)
    _y_axis(plot, "nats per token")
    last = folder.certificates[-1]
    below = [name for name in names if name in last and not last[name].vacuous]
    said = ", ".join(f"{method_name(name)} {nats(last[name].bound)}" for name in names if name in last)
    columns = ("parameters", "training loss", "held-out loss", *(f"{method_name(name)} bound" for name in names), "guessing")
    rows = tuple(
        (count(rung.params), nats(rung.train_loss), nats(rung.heldout_loss), *(nats(found[name].bound) if name in found else "" for name in names), nats(guess))
        for rung, found in zip(rungs, folder.certificates, strict=True)
    )
    return Figure(
        id="bound-against-size",
        title="Bound against size",
        sentence=f"For the largest model, with a training loss of {nats(rungs[-1].train_loss)}, the bounds are: {said}; {len(below)} of {len(last)} lie below guessing ({nats(guess)}).",
        units="Across: parameters. Up: nats per token.",
        band=f"No band: a bound is itself the upper end of an interval (failing with probability at most {percent(folder.demo.delta)}), and the losses are means over all their tokens.",
        panels=(Panel("", plot),),
        legend=tuple(legend),
        columns=columns,
        rows=rows,
    )


def decomposition(folder: Folder) -> Figure:
    """The terms of each certificate as stacked bars, one panel a method, one bar a rung."""
    rungs = folder.demo.rungs
    names = [name for method in DECOMPOSED for name in folder.methods if _method(folder, name) == method]
    used = [term for term in Terms.__struct_fields__ if any(getattr(found[name].terms, term) for found in folder.certificates for name in names if name in found)]
    top = max(found[name].bound for found in folder.certificates for name in names if name in found)
    panels, rows = [], []
    for name in names:
        chosen = [(rung, found[name]) for rung, found in zip(rungs, folder.certificates, strict=True) if name in found]
        plot = _plot(height=340)
        ticks = [short(rung.params) for rung, _ in chosen]
        places = list(range(len(chosen)))
        for term in used:
            label, colour = TERM_STYLE[term]
            plot.add_bar(x=places, y=[getattr(certificate.terms, term) for _, certificate in chosen], marker={"color": colour}, customdata=ticks, name=label, hovertemplate="%{customdata}: %{y:.4f}<extra>" + label + "</extra>")
        plot.add_scatter(x=places, y=[certificate.bound for _, certificate in chosen], mode="text", text=[f"{certificate.bound:.2f}" for _, certificate in chosen], textposition="top center", cliponaxis=False, hoverinfo="skip")
        plot.update_layout(barmode="relative", bargap=0.25)
        plot.update_xaxes(tickvals=places, ticktext=ticks, title={"text": "parameters", "standoff": 6}, range=[-0.6, len(places) - 0.4])
        _y_axis(plot, "nats per token")
        plot.update_yaxes(range=[min(0.0, *(_below_zero(certificate.terms) for _, certificate in chosen)) * 1.1, top * 1.1])
        panels.append(Panel(f"{method_name(name)} bound", plot))
        rows += [(method_name(name), count(rung.params), *(f"{getattr(certificate.terms, term):.4f}" for term in used), f"{certificate.bound:.4f}") for rung, certificate in chosen]
    last_name = next((name for name in reversed(names) if name in folder.certificates[-1]), None)
    if last_name is None:
        sentence = f"The largest model has no certificate that pays for its code; the bars show the others, up to {nats(top)}."
    else:
        last = folder.certificates[-1][last_name]
        parts = "".join(f" {'−' if getattr(last.terms, term) < 0 else '+'} {abs(getattr(last.terms, term)):.3f} {TERM_STYLE[term][0]}" for term in used).removeprefix(" + ")
        sentence = f"For the largest model the {method_name(last_name)} bound of {nats(last.bound)} is {parts}."
    return Figure(
        id="decomposition",
        title="What the bound is made of",
        sentence=sentence,
        units="Across: parameters. Up: nats per token; the number above each bar is the bound. All panels share one scale.",
        band="No band: the terms are computed exactly from the statistics and the file, and add up to the bound.",
        panels=tuple(panels),
        legend=tuple(Key(TERM_STYLE[term][0], TERM_STYLE[term][1], "box") for term in used),
        columns=("method", "parameters", *(TERM_STYLE[term][0] for term in used), "bound"),
        rows=tuple(rows),
    )


def forecasts(folder: Folder) -> Figure:
    """One panel a target: the law fitted to the smaller rungs, its band, and the largest rung it did not see."""
    everything = list(zip(folder.demo.forecasts, folder.fits, folder.points, strict=True))
    inside = sum(forecast.prediction.low <= forecast.truth <= forecast.prediction.high for forecast, _, _ in everything)
    levels = " and ".join(dict.fromkeys(percent(forecast.level) for forecast, _, _ in everything))
    rows = []
    for forecast, _fit, points in everything:
        name, unit = target_name(forecast.target)
        found = forecast.prediction
        rows += [(name, short(n), f"{y:.4f}", "", "", "", "seen by the fit") for n, y in zip(points.params, points.values, strict=True)]
        verdict = "inside the interval" if found.low <= forecast.truth <= found.high else "outside the interval"
        rows.append((name, short(found.params), f"{forecast.truth:.4f}", f"{found.value:.4f}", f"{found.low:.4f}", f"{found.high:.4f}", verdict))
    return Figure(
        id="forecasts",
        title="Forecast against what happened",
        sentence=f"The largest model, which no fit saw, falls inside the forecast's {levels} interval for {inside} of {len(everything)} quantities.",
        units="Across: parameters. Up: the unit named above each panel.",
        band=f"Band: the {levels} interval of the forecast, over the whole curve.",
        panels=tuple(_forecast_panel(*one) for one in everything),
        legend=(Key("fitted law", BLUE), Key("its interval", SKY, "band"), Key("seen by the fit", GREY, "none", "circle"), Key("left out: what happened", RED, "none", "diamond")),
        columns=("quantity", "parameters", "measured", "forecast", "low", "high", "verdict"),
        rows=tuple(rows),
    )


def _forecast_panel(forecast: Forecast, fit: FitSummary, points: Points) -> Panel:
    plot = _plot(height=300)
    found = forecast.prediction
    curve = [point for point in forecast.curve if point.params <= 1.05 * found.params]  # the part beyond is a projection nothing was held against
    x = [point.params for point in curve]
    if curve:
        plot.add_scatter(x=x + x[::-1], y=[p.high for p in curve] + [p.low for p in curve][::-1], fill="toself", fillcolor="rgba(86,180,233,0.28)", line={"width": 0}, mode="lines", hoverinfo="skip")
        plot.add_scatter(x=x, y=[p.value for p in curve], mode="lines", line={"color": BLUE, "width": 2}, hovertemplate="%{y:.4f}<extra>law</extra>")
    plot.add_scatter(x=[found.params], y=[found.value], mode="markers", marker={"color": BLUE, "size": 7, "symbol": "line-ew", "line": {"color": BLUE, "width": 3}},
                     error_y={"type": "data", "symmetric": False, "array": [found.high - found.value], "arrayminus": [found.value - found.low], "color": BLUE, "thickness": 1.5, "width": 5},
                     hovertemplate="%{y:.4f}<extra>forecast</extra>")  # fmt: skip
    plot.add_scatter(x=list(points.params), y=list(points.values), mode="markers", marker={"color": GREY, "size": 8}, hovertemplate="%{y:.4f}<extra>seen by the fit</extra>")
    plot.add_scatter(x=[found.params], y=[forecast.truth], mode="markers", marker={"color": RED, "size": 10, "symbol": "diamond"}, hovertemplate="%{y:.4f}<extra>what happened</extra>")
    _size_axis(plot, [*points.params, found.params])
    frame, cut = _frame(forecast, curve, points)
    _y_axis(plot, "")
    plot.update_yaxes(range=frame)
    name, unit = target_name(forecast.target)
    notes = [f"law: {forecast.law}", "the band is wider than the frame; the table has its ends"] if cut else [f"law: {forecast.law}"]
    return Panel(f"{name}, {unit}", plot, "; ".join([*notes, *fit.warnings]))


def _frame(forecast: Forecast, curve: Sequence[Point], points: Points) -> tuple[list[float], bool]:
    """The y-range: all values, and as much of the interval as leaves them legible. True when some of the interval is cut."""
    values = [*points.values, forecast.truth, forecast.prediction.value, *(point.value for point in curve)]
    ends = [end for point in (forecast.prediction, *curve) for end in (point.low, point.high)]
    low, high = min(values), max(values)
    room = 0.75 * ((high - low) or abs(high) or 1.0)
    frame = [max(min(values + ends), low - room), min(max(values + ends), high + room)]
    cut = min(ends) < frame[0] or max(ends) > frame[1]
    pad = 0.06 * ((frame[1] - frame[0]) or 1.0)
    return [frame[0] - pad, frame[1] + pad], cut


def _method(folder: Folder, name: str) -> str:
    """The method behind a certificate's name in the manifest."""
    return next(found[name].method for found in folder.certificates if name in found)


def _below_zero(terms: Terms) -> float:
    return sum(min(0.0, getattr(terms, term)) for term in Terms.__struct_fields__)


def _plot(*, height: int) -> go.Figure:
    """An empty figure with the page's layout; colours of text and grid come from the page's style sheet, so that they follow the reader's theme."""
    plot = go.Figure()
    plot.update_layout(
        template="none", height=height, autosize=True, showlegend=False, dragmode=False, hovermode="closest", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 48, "r": 14, "t": 14, "b": 46}, font={"size": 12, "family": "system-ui, sans-serif"},
    )  # fmt: skip
    return plot


def _line(plot: go.Figure, points: Sequence[tuple[float, float]], name: str, colour: str, symbol: str, dash: str) -> None:
    plot.add_scatter(x=[x for x, _ in points], y=[y for _, y in points], mode="lines+markers", line={"color": colour, "width": 2, "dash": dash},
                     marker={"color": colour, "symbol": symbol, "size": 8}, name=name, hovertemplate="%{y:.3f}<extra>" + name + "</extra>")  # fmt: skip


def _y_axis(plot: go.Figure, title: str) -> None:
    plot.update_yaxes(title={"text": title, "standoff": 8}, zeroline=False, fixedrange=True, automargin=True, nticks=7)


def _log_axis(plot: go.Figure, title: str, ticks: Sequence[float], *, span: tuple[float, float], pad: float) -> None:
    low, high = math.log10(span[0]), math.log10(span[1])
    room = pad * (high - low) or 0.1
    plot.update_xaxes(type="log", title={"text": title, "standoff": 6}, tickvals=list(ticks), ticktext=[short(tick) for tick in ticks], range=[low - room, high + room], zeroline=False, fixedrange=True)


def _size_axis(plot: go.Figure, sizes: Sequence[float]) -> None:
    """A log axis of parameters with a tick at each size, thinned until the labels have room on a narrow screen."""
    span = (min(sizes), max(sizes))
    least = max(math.log(span[1] / span[0]) / 7.0, 1e-9)
    ticks = [max(sizes)]
    for size in sorted(sizes, reverse=True)[1:]:
        if math.log(ticks[-1] / size) >= least:
            ticks.append(size)
    _log_axis(plot, "parameters (log scale)", ticks[::-1], span=span, pad=0.06)


def _decades(low: float, high: float) -> list[float]:
    """1, 3, 10, 30, ... within a range."""
    found = [digit * 10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for digit in (1, 3)]
    return [value for value in found if low <= value <= high] or [low]


def _ramp(steps: int) -> list[str]:
    """Colours from orange over pink to blue: ordered, and apart in lightness for every common colour vision."""
    stops = [np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)], float) for colour in (ORANGE, PINK, BLUE)]
    places = np.linspace(0.0, 2.0, steps) if steps > 1 else np.array([2.0])
    mixed = [stops[min(int(p), 1)] + (p - min(int(p), 1)) * (stops[min(int(p), 1) + 1] - stops[min(int(p), 1)]) for p in places]
    return ["#" + "".join(f"{round(float(channel)):02x}" for channel in colour) for colour in mixed]


def to_json(figure: Figure) -> list[dict[str, Any]]:
    """What plotly's script needs of each panel: plain lists, no binary arrays."""
    return [{"data": drawn["data"], "layout": drawn["layout"]} for drawn in (panel.plot.to_plotly_json() for panel in figure.panels)]
