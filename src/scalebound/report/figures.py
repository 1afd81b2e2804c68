"""Artefacts become figures: loss curves, bound against size, the terms of the bound, forecast against truth.

Each figure carries its units, a band or the reason it has none, a data table with every number drawn, and one sentence that says what
it shows. No text that comes from a user's file (names of texts, rungs, laws) enters a plotly figure: plotly reads markup, links included.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from scalebound.core.certificate import Certificate, Terms
from scalebound.core.demo import Forecast, Point, Rung
from scalebound.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    Figure,
    Key,
    Panel,
    decades,
    empty_plot,
    log_axis,
    ramp,
    size_axis,
    y_axis,
)
from scalebound.report.folder import FitSummary, Folder, Log, Points
from scalebound.report.words import count, method_name, nats, percent, short, target_name

METHOD_STYLE = {  # colour, symbol, dash
    "freedman": (RED, "square", "solid"),
    "product": (ORANGE, "diamond", "solid"),
    "anchored": (BLUE, "circle", "solid"),
    "heldout": (PINK, "triangle-down", "dot"),
    "trajectory": (GREEN, "triangle-up", "dot"),
}
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


def all_figures(folder: Folder) -> tuple[Figure, ...]:
    """Every figure of the page, in its order; figures for which the folder has no data are left out."""
    figures = [loss_curves(folder)]
    if folder.methods:
        figures.append(bound_against_size(folder))
    if _named(folder, DECOMPOSED):
        figures.append(decomposition(folder))
    if folder.demo.forecasts:
        figures.append(forecasts(folder))
    return tuple(figures)


def loss_curves(folder: Folder) -> Figure:
    """Training loss against tokens, one line a rung, with the held-out loss of the finished model at its end."""
    rungs = folder.demo.rungs
    plot = empty_plot(height=400)
    legend, rows = [], []
    for rung, log, colour in zip(rungs, folder.logs, ramp(len(rungs)), strict=True):
        tokens, losses = thin(log)
        size = short(rung.params)
        hover = f"%{{y:.3f}} after %{{x:.3s}} tokens<extra>{size}</extra>"
        plot.add_scatter(x=tokens, y=losses, mode="lines", line={"color": colour, "width": 2}, hovertemplate=hover)
        mark = {"color": colour, "size": 9, "symbol": "diamond", "line": {"width": 1, "color": "#ffffff"}}
        hover = f"%{{y:.3f}} held-out<extra>{size}</extra>"
        plot.add_scatter(x=[rung.tokens], y=[rung.heldout_loss], mode="markers", marker=mark, hovertemplate=hover)
        legend.append(Key(f"{size} parameters", colour))
        rows += [(count(rung.params), count(x), nats(y), "") for x, y in zip(tokens, losses, strict=True)]
        rows.append((count(rung.params), count(rung.tokens), "", nats(rung.heldout_loss)))
    first = min(float(log.tokens[0]) for log in folder.logs)
    last = max(float(max(rung.tokens, log.tokens[-1])) for rung, log in zip(rungs, folder.logs, strict=True))
    log_axis(plot, "tokens seen (log scale)", decades(first, last), span=(first, last), pad=0.03)
    y_axis(plot, "nats per token")
    low, high = rungs[0], rungs[-1]
    return Figure(
        id="loss-curves",
        title="Loss while training",
        sentence=f"After one pass over its tokens the smallest model ({short(low.params)} parameters) has a held-out loss of "
        f"{nats(low.heldout_loss)}, the largest ({short(high.params)}) of {nats(high.heldout_loss)}.",
        units="Across: training tokens seen. Up: loss of each step on tokens not trained on yet, nats per token, averaged over "
        "neighbouring steps.",
        band="No band: each line is one run, and every token of it was counted.",
        panels=(Panel("", plot),),
        legend=(*legend, Key("held-out loss of the finished model", GREY, "none", "diamond")),
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
    tokens, losses = (np.add.reduceat(values, edges[:-1]) / sizes for values in (log.tokens, log.losses))
    return tokens.tolist(), losses.tolist()


def bound_against_size(folder: Folder) -> Figure:
    """Each method's bound against parameters, between the measured loss below and the random-guess line above."""
    rungs = folder.demo.rungs
    sizes = [rung.params for rung in rungs]
    guess = math.log(folder.demo.vocab_size)
    names = _named(folder, tuple(METHOD_STYLE))
    plot = empty_plot(height=440)
    ends = [sizes[0] / 2, sizes[-1] * 2]  # past the frame on both sides
    plot.add_scatter(x=ends, y=[guess, guess], mode="lines", line={"color": GREY, "width": 1.5, "dash": "dash"}, hoverinfo="skip")
    _line(plot, [(rung.params, rung.heldout_loss) for rung in rungs], "held-out loss", GREY, "x", "dot")
    _line(plot, [(rung.params, rung.train_loss) for rung in rungs], "training loss", GREY, "circle-open", "solid")
    legend = [Key("guessing uniformly", GREY, "dash")]
    for name in names:
        chosen = _with(folder, name)
        colour, symbol, dash = METHOD_STYLE[chosen[0][1].method]
        points = [(rung.params, certificate.bound) for rung, certificate in chosen]
        _line(plot, points, html.escape(method_name(name)), colour, symbol, dash)
        legend.append(Key(f"{method_name(name)} bound", colour, "dash" if dash == "dot" else "line", symbol))
    legend += [Key("held-out loss", GREY, "dash", "x"), Key("training loss", GREY, "line", "circle-open")]
    size_axis(plot, sizes)
    y_axis(plot, "nats per token")
    last = folder.certificates[-1]
    said = ", ".join(f"{method_name(name)} {nats(last[name].bound)}" for name in names if name in last)
    below = sum(not certificate.vacuous for certificate in last.values())
    rows = []
    for rung, found in zip(rungs, folder.certificates, strict=True):
        bounds = [nats(found[name].bound) if name in found else "" for name in names]
        rows.append((count(rung.params), nats(rung.train_loss), nats(rung.heldout_loss), *bounds, nats(guess)))
    return Figure(
        id="bound-against-size",
        title="Bound against size",
        sentence=f"For the largest model, with a training loss of {nats(rungs[-1].train_loss)}, the bounds are: {said}; "
        f"{below} of {len(last)} lie below guessing ({nats(guess)}).",
        units="Across: parameters. Up: nats per token.",
        band="No band: a bound is itself the upper end of an interval (failing with probability at most "
        f"{percent(folder.demo.delta)}), and the losses are means over all their tokens.",
        panels=(Panel("", plot),),
        legend=tuple(legend),
        columns=("parameters", "training loss", "held-out loss", *(f"{method_name(name)} bound" for name in names), "guessing"),
        rows=tuple(rows),
    )


def decomposition(folder: Folder) -> Figure:
    """The terms of each certificate as stacked bars, one panel a method, one bar a rung."""
    names = _named(folder, DECOMPOSED)
    certificates = [certificate for name in names for _, certificate in _with(folder, name)]
    terms = [term for term in TERM_STYLE if any(getattr(certificate.terms, term) for certificate in certificates)]
    ends = [_ends(certificate.terms) for certificate in certificates]
    span = (1.1 * min(low for low, _ in ends), 1.1 * max(high for _, high in ends))
    panels, rows = [], []
    for name in names:
        chosen = _with(folder, name)
        panels.append(Panel(f"{method_name(name)} bound", _stacks(chosen, terms, span=span)))
        for rung, certificate in chosen:
            heights = [f"{getattr(certificate.terms, term):.4f}" for term in terms]
            rows.append((method_name(name), count(rung.params), *heights, f"{certificate.bound:.4f}"))
    rung, last = _with(folder, names[-1])[-1]
    return Figure(
        id="decomposition",
        title="What the bound is made of",
        sentence=f"At {short(rung.params)} parameters the {method_name(names[-1])} bound of {nats(last.bound)} is "
        f"{_as_sum(last.terms, terms)}.",
        units="Across: parameters. Up: nats per token; the number above each bar is the bound, from which a term that hangs below zero "
        "is already subtracted. All panels share one scale.",
        band="No band: the terms are computed exactly from the statistics and the file, and add up to the bound.",
        panels=tuple(panels),
        legend=tuple(Key(*TERM_STYLE[term], "box") for term in terms),
        columns=("method", "parameters", *(TERM_STYLE[term][0] for term in terms), "bound"),
        rows=tuple(rows),
    )


def _stacks(chosen: list[tuple[Rung, Certificate]], terms: list[str], *, span: tuple[float, float]) -> go.Figure:
    """One bar a rung; negative terms hang below zero."""
    plot = empty_plot(height=340)
    places = list(range(len(chosen)))
    sizes = [short(rung.params) for rung, _ in chosen]
    for term in terms:
        label, colour = TERM_STYLE[term]
        heights = [getattr(certificate.terms, term) for _, certificate in chosen]
        hover = f"%{{customdata}}: %{{y:.4f}}<extra>{label}</extra>"
        plot.add_bar(x=places, y=heights, marker={"color": colour}, customdata=sizes, hovertemplate=hover)
    tops = [_ends(certificate.terms)[1] for _, certificate in chosen]
    labels = [f"{certificate.bound:.2f}" for _, certificate in chosen]
    plot.add_scatter(x=places, y=tops, mode="text", text=labels, textposition="top center", cliponaxis=False, hoverinfo="skip")
    plot.update_layout(barmode="relative", bargap=0.25)
    plot.update_xaxes(tickvals=places, ticktext=sizes, title={"text": "parameters", "standoff": 6}, range=[-0.6, len(places) - 0.4])
    plot.update_xaxes(fixedrange=True, zeroline=False)
    y_axis(plot, "nats per token", span)
    return plot


def _ends(terms: Terms) -> tuple[float, float]:
    """How far a stack reaches below and above zero: above by its positive terms, which is more than the bound when others are negative."""
    values = [getattr(terms, term) for term in TERM_STYLE]
    return math.fsum(min(0.0, value) for value in values), math.fsum(max(0.0, value) for value in values)


def _as_sum(terms: Terms, names: Sequence[str]) -> str:
    """``1.812 loss of the full-precision model + 0.071 quantization - ...``"""
    values = [(getattr(terms, name), TERM_STYLE[name][0]) for name in names]
    return "".join(f" {'−' if value < 0 else '+'} {nats(abs(value))} {label}" for value, label in values).removeprefix(" + ")


def forecasts(folder: Folder) -> Figure:
    """One panel a target: the law fitted to the smaller rungs, its band, and the largest rung it did not see."""
    everything = list(zip(folder.demo.forecasts, folder.fits, folder.points, strict=True))
    inside = sum(_verdict(forecast) == "inside" for forecast, _, _ in everything)
    levels = " and ".join(dict.fromkeys(percent(forecast.level) for forecast, _, _ in everything))
    rows: list[tuple[str, ...]] = []
    for forecast, _, points in everything:
        name, _ = target_name(forecast.target)
        found = forecast.prediction
        rows += [(name, count(n), f"{y:.4f}", "", "", "", "seen by the fit") for n, y in zip(points.params, points.values, strict=True)]
        forecast_of = (f"{value:.4f}" for value in (forecast.truth, found.value, found.low, found.high))
        rows.append((name, count(found.params), *forecast_of, f"{_verdict(forecast)} the interval"))
    return Figure(
        id="forecasts",
        title="Forecast against what happened",
        sentence=f"The largest model, which no fit saw, falls inside the forecast's {levels} interval for {inside} of {len(everything)} "
        "quantities.",
        units="Across: parameters. Up: the unit named beside each panel.",
        band=f"Band: the {levels} interval of the forecast, over the whole curve.",
        panels=tuple(_forecast_panel(*one) for one in everything),
        legend=(
            Key("fitted law", BLUE),
            Key("its interval", SKY, "band"),
            Key("seen by the fit", GREY, "none", "circle"),
            Key("left out: what happened", RED, "none", "diamond"),
        ),
        columns=("quantity", "parameters", "measured", "forecast", "low", "high", "verdict"),
        rows=tuple(rows),
    )


def _verdict(forecast: Forecast) -> str:
    return "inside" if forecast.prediction.low <= forecast.truth <= forecast.prediction.high else "outside"


def _forecast_panel(forecast: Forecast, fit: FitSummary, points: Points) -> Panel:
    found = forecast.prediction
    # what lies beyond the left-out size is a projection that nothing was held against
    curve = sorted((point for point in forecast.curve if point.params <= 1.05 * found.params), key=lambda point: point.params)
    plot = empty_plot(height=300)
    if curve:
        x, y = [point.params for point in curve], [point.value for point in curve]
        edge = [point.high for point in curve] + [point.low for point in curve][::-1]
        band = {"fill": "toself", "fillcolor": "rgba(86,180,233,0.28)", "line": {"width": 0}}
        plot.add_scatter(x=x + x[::-1], y=edge, mode="lines", hoverinfo="skip", **band)
        plot.add_scatter(x=x, y=y, mode="lines", line={"color": BLUE, "width": 2}, hovertemplate="%{y:.4f}<extra>law</extra>")
    whisker = {"type": "data", "symmetric": False, "array": [found.high - found.value], "arrayminus": [found.value - found.low]}
    _marks(
        plot, [found.params], [found.value], "forecast", BLUE, "circle", 5, error_y={**whisker, "color": BLUE, "thickness": 1.5, "width": 5}
    )
    _marks(plot, points.params, points.values, "seen by the fit", GREY, "circle", 8)
    _marks(plot, [found.params], [forecast.truth], "what happened", RED, "diamond", 10)
    size_axis(plot, [*points.params, found.params])
    frame, cut = _frame(forecast, curve, points)
    name, unit = target_name(forecast.target)
    y_axis(plot, html.escape(unit), frame)
    note = f"Law: {forecast.law}." + (" The band is wider than the frame; the table has its ends." if cut else "")
    return Panel(name, plot, note, fit.warnings)


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


def _named(folder: Folder, methods: tuple[str, ...]) -> list[str]:
    """The names of the certificates made by these methods, in the order of the methods."""
    method_of = {name: certificate.method for found in folder.certificates for name, certificate in found.items()}
    return [name for method in methods for name in folder.methods if method_of[name] == method]


def _with(folder: Folder, name: str) -> list[tuple[Rung, Certificate]]:
    """The rungs that have a certificate of this name, with it."""
    return [(rung, found[name]) for rung, found in zip(folder.demo.rungs, folder.certificates, strict=True) if name in found]


def _line(plot: go.Figure, points: Sequence[tuple[float, float]], name: str, colour: str, symbol: str, dash: str) -> None:
    x, y = [x for x, _ in points], [y for _, y in points]
    mark = {"color": colour, "symbol": symbol, "size": 8}
    line = {"color": colour, "width": 2, "dash": dash}
    plot.add_scatter(x=x, y=y, mode="lines+markers", line=line, marker=mark, name=name, hovertemplate=f"%{{y:.3f}}<extra>{name}</extra>")


def _marks(plot: go.Figure, x: Sequence[float], y: Sequence[float], name: str, colour: str, symbol: str, size: int, **more) -> None:
    mark = {"color": colour, "symbol": symbol, "size": size}
    plot.add_scatter(x=list(x), y=list(y), mode="markers", marker=mark, hovertemplate=f"%{{y:.4f}}<extra>{name}</extra>", **more)
