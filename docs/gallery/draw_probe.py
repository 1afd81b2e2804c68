"""Draw one figure of a probe's record as plain SVG, for docs/gallery/probes.md.

    python docs/gallery/draw_probe.py RECORD.json FIGURE-ID docs/gallery/NAME.svg

Heat maps and curves; the record is what ``scalebound probe NAME --out RECORD.json`` wrote, and every number drawn is in it.
"""

from __future__ import annotations

import html
import sys
from pathlib import Path

from scalebound.core.probe import ProbeFigure, load_probe

COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8d5a97", "#b08900", "#444444")
LEFT, TOP = 70, 34
TEXT = 'font-family="sans-serif" fill="#333"'


def words(x: float, y: float, text: str, *, size: int = 11, anchor: str = "middle", turn: float = 0) -> str:
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" {TEXT}{turned}>{html.escape(text)}</text>'


def shade(share: float) -> str:
    """White at 0, red towards 1, blue towards -1."""
    share = max(-1.0, min(1.0, share))
    end = (200, 85, 61) if share > 0 else (27, 108, 168)
    return "#" + "".join(f"{round(255 + abs(share) * (c - 255)):02x}" for c in end)


def heat(figure: ProbeFigure) -> str:
    wide, high = max(18, min(52, 640 // len(figure.names))), max(10, min(26, 420 // len(figure.lines)))
    largest = max(abs(cell) for row in figure.cells for cell in row if cell is not None) or 1.0
    width, bottom = LEFT + wide * len(figure.names) + 20, TOP + high * len(figure.lines)
    parts = [words(LEFT, 18, figure.title, size=13, anchor="start")]
    for i, (line, cells) in enumerate(zip(figure.lines, figure.cells, strict=True)):
        y = TOP + i * high
        if len(figure.lines) <= 12 or i % 5 == 0:
            parts.append(words(LEFT - 6, y + high / 2 + 4, line, anchor="end"))
        for k, cell in enumerate(cells):
            if cell is not None:
                parts.append(f'<rect x="{LEFT + k * wide}" y="{y}" width="{wide}" height="{high}" fill="{shade(cell / largest)}" stroke="#ddd" stroke-width="0.5"/>')
                if high >= 16 and wide >= 28:
                    parts.append(words(LEFT + k * wide + wide / 2, y + high / 2 + 4, f"{cell:.2f}", size=10))
    parts += [words(LEFT + (k + 0.5) * wide + 4, bottom + 12, name, anchor="end", turn=-40) for k, name in enumerate(figure.names)]
    parts.append(words(16, (TOP + bottom) / 2, figure.y, turn=-90))
    parts.append(words(LEFT, bottom + 92, f"{figure.x}; colour: {figure.scale}, from {-largest:.2f} (blue) to {largest:.2f} (red)", anchor="start"))
    return svg(max(width, 560), bottom + 104, parts)


def curves(figure: ProbeFigure) -> str:
    width, bottom = 640, 330
    xs = sorted({x for one in figure.series for x in one.x})
    low, high = figure.span or (min(v for one in figure.series for v in (one.low or one.value)), max(v for one in figure.series for v in (one.high or one.value)))

    def px(x: float) -> float:
        return LEFT + 20 + (x - xs[0]) / (xs[-1] - xs[0] or 1) * (width - LEFT - 170)

    def py(y: float) -> float:
        return bottom - (y - low) / (high - low or 1) * (bottom - TOP - 10)

    parts = [words(LEFT, 18, figure.title, size=13, anchor="start")]
    for k in range(5):
        y = low + (high - low) * k / 4
        parts.append(f'<line x1="{LEFT}" x2="{width - 140}" y1="{py(y):.1f}" y2="{py(y):.1f}" stroke="#e4e4e4"/>' + words(LEFT - 6, py(y) + 4, f"{y:.2f}", anchor="end"))
    parts += [words(px(x), bottom + 16, f"{x:g}") for x in xs]
    for number, one in enumerate(figure.series):
        colour, shift = COLOURS[number % len(COLOURS)], 3 * (number - (len(figure.series) - 1) / 2)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{" ".join(f"{px(x) + shift:.1f},{py(v):.1f}" for x, v in zip(one.x, one.value, strict=True))}"/>')
        for x, v, a, b in zip(one.x, one.value, one.low or one.value, one.high or one.value, strict=True):
            at = px(x) + shift
            parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{py(a):.1f}" y2="{py(b):.1f}" stroke="{colour}"/><circle cx="{at:.1f}" cy="{py(v):.1f}" r="3" fill="{colour}"/>')
        y = TOP + 14 + 18 * number
        parts.append(f'<rect x="{width - 130}" y="{y - 9}" width="10" height="10" fill="{colour}"/>' + words(width - 114, y, one.label, anchor="start", size=10))
    parts += [words((LEFT + width - 140) / 2, bottom + 36, figure.x), words(18, (TOP + bottom) / 2, figure.y, turn=-90)]
    return svg(width, bottom + 46, parts)


def svg(width: float, height: float, parts: list[str]) -> str:
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'


if __name__ == "__main__":
    record, name, out = sys.argv[1:]
    chosen = next(figure for figure in load_probe(record).figures if figure.id == name)
    Path(out).write_text(heat(chosen) if chosen.kind == "heat" else curves(chosen))
