"""Draw docs/gallery/lengths.svg: added loss against the bits of real files, of every model in benchmarks/compress/results.json, peers marked.

    python docs/gallery/draw_compression.py

Every number drawn is in that file and in benchmarks/compress/peers.json; intervals are in the tables.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

from scalebound.report.drawing import BLUE, GREEN, ORANGE, PINK, RED
from scalebound.report.frontier import HEIGHT, LEFT, WIDTH, Axes

ROOT = Path(__file__).parents[2]
COLOURS = {"plain rounding": ORANGE, "gptq": PINK, "gptq, fisher steps": GREEN, "gptq, fisher steps, priced": BLUE}


def main() -> None:
    folder = ROOT / "benchmarks" / "compress"
    models, peers = json.loads((folder / "results.json").read_text())["models"], json.loads((folder / "peers.json").read_text())
    # the last row is plain rounding of all parameters
    marks = {"smollm2": [(row["bits"], row["added"], row["way"]) for row in peers["rows"] if row.get("bits", 99.0) < 12]}
    columns = [(name, model) for name, model in models.items() if len(model["rows"]) > 1]
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(columns) * WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">', f'<rect width="{len(columns) * WIDTH}" height="{HEIGHT}" fill="white"/>']
    for column, (name, model) in enumerate(columns):
        mine = [(row["bits"], row["added"]) for row in model["rows"]]
        every = mine + [(bits, added) for bits, added, _ in marks.get(name, [])]
        axes = Axes(column * WIDTH, (min(b for b, _ in every), max(b for b, _ in every)), (0.0, max(a for _, a in every)))
        out += axes.frame(name, "added loss, nats/token")
        for way, colour in COLOURS.items():
            points = sorted((row["bits"], row["added"]) for row in model["rows"] if row["way"] == way)
            if points:
                out += axes.line(points, colour)
        for bits, added, way in marks.get(name, []):
            x, y = axes.x(bits), axes.y(added)
            anchor, shift = ("end", -7) if x > axes.left + axes.width / 2 else ("start", 7)
            out.append(f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8" stroke="{RED}" stroke-width="1.6"/><text x="{x + shift:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{html.escape(way.split(",")[0])}</text>')
    first, last = peers["scored"]
    scored = "same tokens" if peers["scored"] == models["smollm2"]["scored"] else f"first {last - first:,} tokens"
    x = LEFT
    for way, colour in COLOURS.items():
        out.append(f'<rect x="{x}" y="{HEIGHT - 15}" width="14" height="4" fill="{colour}"/><text x="{x + 19}" y="{HEIGHT - 9}">{way}</text>')
        x += 70 + 6 * len(way)
    out.append(f'<text x="{x}" y="{HEIGHT - 9}" fill="{RED}">× peers (16-bit embedding) and plain rounding, {scored}</text></svg>')
    (Path(__file__).parent / "lengths.svg").write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
