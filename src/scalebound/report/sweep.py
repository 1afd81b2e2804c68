"""A sweep as one SVG: loss against learning rate, a curve per width, a panel per parametrization; the largest attention logits below.

Plain SVG without scripts, so that it opens anywhere; every number drawn is in ``sweep.json``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scalebound.core.sweep import Sweep, SweepRun

COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8d5a97", "#b08900", "#444444")
PANEL_WIDTH, PANEL_HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 34, 44
TITLES = {"standard": "standard parametrization", "mup": "maximal update"}


def draw_sweep(sweep: Sweep) -> str:
    """The figure of a learning-rate sweep, as SVG text."""
    panels = list(dict.fromkeys(run.parametrization for run in sweep.runs))
    widths = sorted({run.width for run in sweep.runs})
    rows = 2 if any(run.max_logit for run in sweep.runs) else 1
    size = (PANEL_WIDTH * len(panels), PANEL_HEIGHT * rows + 24)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" font-family="sans-serif" font-size="11">', f'<rect width="{size[0]}" height="{size[1]}" fill="white"/>']
    losses = [run.loss for run in sweep.runs if run.loss is not None]
    best, top = min(losses), min(sweep.initial_loss, max(losses))
    rates = [run.lr for run in sweep.runs]
    for column, name in enumerate(panels):
        mine = [run for run in sweep.runs if run.parametrization == name]
        loss_axes = _Axes(column * PANEL_WIDTH, 0, (min(rates), max(rates)), (best - 0.02 * (top - best), top), log_y=False)
        out += loss_axes.frame(TITLES.get(name, name), "peak learning rate", "loss, nats/token")
        for number, width in enumerate(widths):
            curve = _curve(mine, width)
            points = [(run.lr, run.loss if run.loss is not None else sweep.initial_loss) for run in curve]
            out += loss_axes.line([(x, min(y, top)) for x, y in points], COLOURS[number % len(COLOURS)])
            x, y = min(points, key=lambda point: point[1])
            out.append(f'<circle cx="{loss_axes.x(x):.1f}" cy="{loss_axes.y(y):.1f}" r="5" fill="none" stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="1.6"/>')
        if rows == 2:
            logits = [run.max_logit for run in sweep.runs if run.max_logit]
            axes = _Axes(column * PANEL_WIDTH, PANEL_HEIGHT, (min(rates), max(rates)), (min(logits), max(logits)), log_y=True)
            out += axes.frame("", "peak learning rate", "largest attention logit")
            for number, width in enumerate(widths):
                out += axes.line([(run.lr, run.max_logit) for run in _curve(mine, width) if run.max_logit], COLOURS[number % len(COLOURS)])
    x = LEFT
    for number, width in enumerate(widths):
        out.append(f'<rect x="{x}" y="{size[1] - 18}" width="12" height="4" fill="{COLOURS[number % len(COLOURS)]}"/><text x="{x + 17}" y="{size[1] - 12}">width {width}</text>')
        x += 90
    out.append(f'<text x="{x}" y="{size[1] - 12}" fill="#555">rings: lowest loss tried</text></svg>')
    return "\n".join(out) + "\n"


def _curve(runs: Sequence[SweepRun], width: int) -> list[SweepRun]:
    return sorted((run for run in runs if run.width == width), key=lambda run: run.lr)


class _Axes:
    """A panel's axes: logarithmic across, linear or logarithmic up."""

    def __init__(self, left: float, top: float, x_range: tuple[float, float], y_range: tuple[float, float], *, log_y: bool) -> None:
        self.left, self.top, self.log_y = left + LEFT, top + TOP, log_y
        self.width, self.height = PANEL_WIDTH - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM
        self.x_range = (math.log10(x_range[0]) - 0.05, math.log10(x_range[1]) + 0.05)
        self.y_range = (math.log10(y_range[0]), math.log10(y_range[1])) if log_y else y_range

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (math.log10(value) - low) / (high - low) * self.width

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.top + self.height * (1 - ((math.log10(value) if self.log_y else value) - low) / ((high - low) or 1))

    def line(self, points: Sequence[tuple[float, float]], colour: str) -> list[str]:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>', *[f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="2.2" fill="{colour}"/>' for x, y in points]]

    def frame(self, title: str, across: str, up: str) -> list[str]:
        right, bottom = self.left + self.width, self.top + self.height
        out = [f'<path d="M{self.left} {self.top}V{bottom}H{right}" fill="none" stroke="#888"/>', f'<text x="{self.left}" y="{self.top - 12}" font-weight="bold">{title}</text>']
        for power in range(math.ceil(self.x_range[0]), math.floor(self.x_range[1]) + 1):
            x = self.x(10.0**power)
            out.append(f'<path d="M{x:.1f} {bottom}v4" stroke="#888"/><text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{10.0**power:g}</text>')
        for value in self._ticks():
            y = self.y(value)
            out.append(f'<path d="M{self.left - 4} {y:.1f}H{right}" stroke="#e4e4e4"/><text x="{self.left - 7}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        out.append(f'<text x="{(self.left + right) / 2}" y="{bottom + 32}" text-anchor="middle">{across}</text>')
        middle = (self.top + bottom) / 2
        out.append(f'<text transform="translate({self.left - 46} {middle}) rotate(-90)" text-anchor="middle">{up}</text>')
        return out

    def _ticks(self) -> list[float]:
        low, high = self.y_range
        if self.log_y:
            step = max(1, round((high - low) / 4))
            return [10.0**k for k in range(math.ceil(low), math.floor(high) + 1, step)]
        step = 10 ** math.floor(math.log10((high - low) or 1.0))
        step = step if (high - low) / step >= 3 else step / 2
        first = math.ceil(low / step)
        return [round(step * k, 10) for k in range(first, math.floor(high / step) + 1)]
