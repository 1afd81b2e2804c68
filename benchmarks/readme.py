"""Render the README's tables from the JSON that benchmarks and the demo wrote; ``--check`` only says whether they match.

    python benchmarks/readme.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
METHODS = ("freedman", "product", "anchored", "heldout", "trajectory")


def markdown(headers: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(headers) + " |", "|" + "---:|" * len(headers)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def ladder(demo: dict) -> str:
    headers = ["parameters", "tokens", "training loss", "held-out loss", "loss of the package", "file (bytes)", "bits per parameter"]
    return markdown(headers, [[f"{r['params']:,}", f"{r['tokens']:,}", f"{r['train_loss']:.3f}", f"{r['heldout_loss']:.3f}", f"{r['quantized_loss']:.3f}", f"{r['file_bytes']:,}", f"{r['bits_per_parameter']:.2f}"] for r in demo["rungs"]])


def bounds(demo: dict) -> str:
    def cell(entry: dict) -> str:
        return f"{entry['bound']:.3f}" + (" (vacuous)" if entry["vacuous"] else "") + ("" if entry["verified"] else " (not verified)")

    return markdown(["parameters", *METHODS], [[f"{r['params']:,}", *[cell(r["certificates"][m]) for m in METHODS]] for r in demo["rungs"]])


def forecasts(demo: dict) -> str:
    rows = []
    for f in demo["forecasts"]:
        p = f["prediction"]
        inside = "yes" if p["low"] <= f["truth"] <= p["high"] else "no"
        rows.append([f["target"], f"{p['value']:.3f}", f"{p['low']:.3f} to {p['high']:.3f}", f"{f['truth']:.3f}", f"{100 * (p['value'] / f['truth'] - 1):+.1f}%", inside])
    return markdown(["quantity", "forecast", "95% interval", "what happened", "error", "inside"], rows)


TABLES = {"ladder": ("demo/demo.json", ladder), "bounds": ("demo/demo.json", bounds), "forecasts": ("demo/demo.json", forecasts)}


def render(text: str) -> str:
    """The README with every table drawn anew."""
    for name, (source, draw) in TABLES.items():
        content = draw(json.loads((ROOT / "benchmarks" / source).read_text()))
        text, count = re.subn(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"README.md has {count} places for the table {name!r}")
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    drawn = render(readme.read_text())
    if "--check" in sys.argv:
        sys.exit(0 if drawn == readme.read_text() else "README.md does not match its data: run python benchmarks/readme.py")
    readme.write_text(drawn)
