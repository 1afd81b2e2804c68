"""A frontier as one SVG: loss against bits per parameter of real files, and the certified bound against the same, the best certificate ringed,
packages that were brought along (``--beside``) marked with a cross and their names.

Plain SVG without scripts, so that it opens anywhere; every number drawn is in ``frontier.json`` and ``frontier.csv``. There is no band: losses
are means over the whole window, and a bound is an upper end by itself.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from scalebound.core.frontier import Frontier, FrontierPoint
from scalebound.report.drawing import BLUE, GREY, ORANGE, RED

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 64
WAYS = {"rtn": ("rounded to nearest", ORANGE), "gptq": ("calibrated", BLUE)}
LINE = 12  # pixels from one label to the next
SLANT = 40  # degrees, of names that stand close together
SLOPE = math.tan(math.radians(SLANT))


def draw_frontier(found: Frontier) -> str:
    """The figure, as SVG text."""
    bits = [point.bits_per_parameter for point in found.points]
    losses, bounds = [point.loss for point in found.points], [point.bound for point in found.points]
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">', f'<rect width="{2 * WIDTH}" height="{HEIGHT}" fill="white"/>']
    best = next(point for point in found.points if point.name == found.best)
    for column, (title, up, values, extra) in enumerate((("loss on the training stream", "nats/token", losses, found.full_loss), ("certified bound", "nats/token", bounds, None))):
        span = [*values] if extra is None else [*values, extra]
        axes = Axes(column * WIDTH, (min(bits), max(bits)), (min(span), max(span)))
        out += axes.frame(title, up)
        if extra is not None:
            out.append(f'<path d="M{axes.left} {axes.y(extra):.1f}h{axes.width}" stroke="{GREY}" stroke-dasharray="5 4"/><text x="{axes.left + 6}" y="{axes.y(extra) - 4:.1f}" fill="#555">full precision {extra:.3f}</text>')
        for way, (_, colour) in WAYS.items():
            mine = sorted((p for p in found.points if p.way == way), key=lambda p: p.bits_per_parameter)
            out += axes.line([(p.bits_per_parameter, _height(p, column)) for p in mine], colour)
        out += axes.crosses([(p.bits_per_parameter, _height(p, column), p.name) for p in found.points if p.way == "beside"])
        x, y = axes.x(best.bits_per_parameter), axes.y(_height(best, column))
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="#222" stroke-width="1.5"/>')
    x = LEFT
    for label, colour in (shown for way, shown in WAYS.items() if any(point.way == way for point in found.points)):
        out.append(f'<rect x="{x}" y="{HEIGHT - 15}" width="14" height="4" fill="{colour}"/><text x="{x + 19}" y="{HEIGHT - 9}">{label}</text>')
        x += 130
    if any(point.way == "beside" for point in found.points):
        out.append(f'<path d="M{x} {HEIGHT - 17}l8 8m0 -8l-8 8" stroke="{RED}" stroke-width="1.6"/><text x="{x + 14}" y="{HEIGHT - 9}">made otherwise</text>')
        x += 110
    out.append(f'<text x="{x}" y="{HEIGHT - 9}" fill="#555">ring: best certificate, {best.bound:.3f} at {best.bits_per_parameter:.2f} bits; the search cost {found.search_bits:g} bits</text></svg>')
    return "\n".join(out) + "\n"


def frontier_csv(found: Frontier) -> str:
    """The points as a table, a line each, in the order of their bits."""
    columns = ("name", "way", "setting", "file_bytes", "bits_per_parameter", "loss", "bound", "alpha", "vacuous", "package", "certificate")
    lines = [",".join(columns)]
    for point in sorted(found.points, key=lambda p: p.bits_per_parameter):
        lines.append(",".join(str(getattr(point, column)) for column in columns))
    return "\n".join(lines) + "\n"


def _height(point: FrontierPoint, column: int) -> float:
    return point.bound if column else point.loss


class Axes:
    """A panel's axes, linear both ways."""

    def __init__(self, left: float, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self.left, self.width, self.height = left + LEFT, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        self.x_range, self.y_range = _wider(x_range), _wider(y_range)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * self.width

    def y(self, value: float) -> float:
        low, high = self.y_range
        return TOP + self.height * (1 - (value - low) / (high - low))

    def line(self, points: Sequence[tuple[float, float]], colour: str) -> list[str]:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>', *[f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="2.6" fill="{colour}"/>' for x, y in points]]

    def crosses(self, points: Sequence[tuple[float, float, str]]) -> list[str]:
        """Named marks. Names in the left half stand beside them, in the right half aslant towards the emptier side; a thread leads to one that had to move."""
        names, marks = list[str](), list[str]()
        places = [(self.x(x), self.y(y), name) for x, y, name in points]
        middle = self.left + self.width / 2
        beside = sorted((place for place in places if place[0] < middle), key=lambda place: place[1])
        rows = spread([y for _, y, _ in beside], LINE, TOP + 6, TOP + self.height - 4)
        put = [(x + 9, row, "start", 0) for (x, _, _), row in zip(beside, rows, strict=True)]
        far = [place for place in places if place[0] >= middle]
        up = 1 if sum(y - TOP - self.height / 2 for _, y, _ in far) > 0 else -1
        aslant = sorted(far, key=lambda place: place[0] * SLOPE - up * place[1])  # by the lines that names at SLANT degrees run along
        lines = spread([x * SLOPE - up * y for x, y, _ in aslant], LINE / math.cos(math.radians(SLANT)), -math.inf, math.inf)
        put += [((line + up * y) / SLOPE, y - 12 * up, "end", SLANT * up) for (_, y, _), line in zip(aslant, lines, strict=True)]
        for (x, y, name), (at, row, anchor, turn) in zip([*beside, *aslant], put, strict=True):
            marks.append(f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8" stroke="{RED}" stroke-width="1.6"/>')
            if turn or abs(row - y) > LINE / 2:
                marks.append(f'<path d="M{x:.1f} {y:.1f}L{at:.1f} {row:.1f}" stroke="{GREY}" stroke-width="0.7"/>')
            names.append(f'<text transform="translate({at:.1f} {row + (0 if turn else 4):.1f}) rotate({turn})" text-anchor="{anchor}" paint-order="stroke" stroke="white" stroke-width="3">{html.escape(name)}</text>')
        return names + marks

    def frame(self, title: str, up: str) -> list[str]:
        right, bottom = self.left + self.width, TOP + self.height
        out = [f'<path d="M{self.left} {TOP}V{bottom}H{right}" fill="none" stroke="#888"/>', f'<text x="{self.left}" y="{TOP - 12}" font-weight="bold">{title}</text>']
        for value in _ticks(self.x_range):
            out.append(f'<path d="M{self.x(value):.1f} {bottom}v4" stroke="#888"/><text x="{self.x(value):.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>')
        for value in _ticks(self.y_range):
            out.append(f'<path d="M{self.left - 4} {self.y(value):.1f}H{right}" stroke="#e8e8e8"/><text x="{self.left - 7}" y="{self.y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
        out.append(f'<text x="{(self.left + right) / 2}" y="{bottom + 32}" text-anchor="middle">bits per parameter, whole file</text>')
        out.append(f'<text transform="translate({self.left - 42} {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">{up}</text>')
        return out


def spread(places: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Sorted places moved so that neighbours are ``apart``, downwards first and then back up from ``high``; none above ``low`` if there is room.

    >>> spread([10.0, 11.0, 40.0], 12.0, 0.0, 50.0), spread([45.0, 48.0], 12.0, 0.0, 50.0)
    ([10.0, 22.0, 40.0], [38.0, 50.0])
    """
    out: list[float] = []
    for place in places:
        out.append(max(place, low, out[-1] + apart if out else low))
    for k in range(len(out) - 1, -1, -1):
        out[k] = min(out[k], high - apart * (len(out) - 1 - k))
    return out


def _wider(span: tuple[float, float]) -> tuple[float, float]:
    pad = 0.06 * (span[1] - span[0]) or 0.5
    return span[0] - pad, span[1] + pad


def _ticks(span: tuple[float, float]) -> list[float]:
    step = 10 ** math.floor(math.log10(span[1] - span[0]))
    while (span[1] - span[0]) / step < 4:
        step /= 2
    return [round(step * k, 10) for k in range(math.ceil(span[0] / step), math.floor(span[1] / step) + 1)]
