"""The price of certainty: how far a deployable anchored bound is above the full-precision loss, against what was spent on the anchor.

    scalebound demo --out runs/demo
    python benchmarks/certify/price.py runs/demo [--share 0.4]       # one share (about a minute each), or all that are missing
    python benchmarks/certify/price.py runs/demo --draw              # the table and figure of docs/gallery/certify.md

On the largest rung whose tokens the demo's anchor slice can match: for each share an anchor is trained on that share of the rung's number
of tokens, from documents apart; the rung's rounding is trained for the anchored bound against it; model and anchor are measured; the
best deployable certificate is taken. Share 1 is an anchor as good as the model, where the certificate is nearly a held-out test.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch

from scalebound.certify import Artefact, certify, certify_best
from scalebound.compress import code_bits, save_package
from scalebound.core.io import load_struct
from scalebound.core.stats import Stats
from scalebound.data import Stream
from scalebound.measure import measure
from scalebound.train import RunInfo, finetune, train_run
from scalebound.train.anchor_slice import anchor_recipe
from scalebound.train.finetune import BATCH_SEQUENCES

SHARES = (0.2, 0.4, 0.63, 1.0)  # below a fifth no model of this rung's recipe is small enough
STEPS_SHARE = 0.9  # of the window's sequences, seen while the rounding is trained
HERE = Path(__file__).parent
OUT, FIGURE = HERE / "price.json", HERE.parents[1] / "docs" / "gallery" / "price.svg"


def rung_of(demo: Path) -> tuple[Path, RunInfo]:
    room = len(Stream(demo / "streams" / "anchor.json"))
    found = [(load_struct(folder / "run" / "run.json", RunInfo), folder) for folder in demo.glob("rungs/*")]
    info, folder = max((pair for pair in found if pair[0].tokens <= room), key=lambda pair: pair[0].params)
    return folder, info


def one(demo: Path, share: float, scratch: Path) -> dict:
    folder, info = rung_of(demo)
    train = demo / "streams" / "train.json"
    anchor = anchor_recipe(share, info.tokens, tokens_per_param=info.tokens / info.params, vocab_size=256, context=256, seed=1)
    work = scratch / f"{share:g}"
    began = time.monotonic()
    trained = train_run(anchor, demo / "streams" / "anchor.json", work / "anchor")
    full = Stats.load(folder / "train.full.safetensors")
    reference = measure(work / "anchor", train, work / "reference.safetensors", window=info.window)
    steps = max(1, round(STEPS_SHARE * info.tokens / (256 * BATCH_SEQUENCES)))
    done = finetune(folder / "run", train, steps=steps, reference=reference, state=work / "state")
    save_package(work / "model.sbz", done.model)
    stats = measure(work / "model.sbz", train, work / "stats.safetensors", window=info.window, anchor=work / "anchor")
    best, _ = certify_best([Artefact(stats, code_bits(os.stat(work / "model.sbz").st_size))], full=full, deployable=True)
    terms = best.terms
    return {"share": share, "anchor_params": anchor.params, "anchor_tokens": anchor.tokens, "data_share": anchor.tokens / info.tokens, "compute_share": trained.flops / info.flops,
            "anchor_loss": float(reference.read("nll").mean(dtype="f8")), "loss": terms.full_precision_loss, "package_loss": best.empirical_loss, "bits_per_parameter": best.code.bits_per_parameter,
            "alpha": best.smoothing.alpha, "bound": best.bound, "distance": best.bound - terms.full_precision_loss,
            "terms": {name: getattr(terms, name) for name in ("quantization", "smoothing", "complexity", "variance")}, "method": best.method, "seconds": round(time.monotonic() - began, 1)}  # fmt: skip


def heldout(demo: Path) -> dict:
    """What a held-out test says of the same model in full precision: its own loss on fresh documents, and the certificate of that."""
    folder, info = rung_of(demo)
    stats = Stats.load(folder / "heldout.full.safetensors")
    return {"params": info.params, "tokens": info.tokens, "heldout_loss": float(stats.read("nll").mean(dtype="f8")), "heldout_bound": certify(stats, method="heldout").bound,
            "product_distance": json.loads((folder / "certificates/product.json").read_text())["bound"] - float(Stats.load(folder / "train.full.safetensors").read("nll").mean(dtype="f8"))}  # fmt: skip


def draw(record: dict) -> str:
    """A figure in plain SVG: distance in nats against the share of data, the terms stacked below it."""
    rows = record["rows"]
    width, height, left, bottom = 720, 380, 60, 60
    top = max(row["distance"] for row in rows) * 1.15
    x = lambda share: left + (width - left - 20) * (math.log(share) - math.log(0.1)) / (math.log(1.1) - math.log(0.1))  # noqa: E731
    y = lambda value: height - bottom - (height - bottom - 30) * value / top  # noqa: E731
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>']
    for value in np.arange(0, top, 0.1):
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/><text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.1f}</text>')
    line = " ".join(f"{x(row['data_share']):.1f},{y(row['distance']):.1f}" for row in rows)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="2"/>')
    for row in rows:
        parts.append(f'<circle cx="{x(row["data_share"]):.1f}" cy="{y(row["distance"]):.1f}" r="4" fill="#1f5fa8"/><text x="{x(row["data_share"]):.1f}" y="{y(row["distance"]) - 10:.1f}" text-anchor="middle">{row["distance"]:.2f}</text>')
        parts.append(f'<text x="{x(row["data_share"]):.1f}" y="{height - bottom + 18}" text-anchor="middle">{row["data_share"]:.0%}</text><text x="{x(row["data_share"]):.1f}" y="{height - bottom + 34}" text-anchor="middle" fill="#777">{row["compute_share"]:.0%}</text>')
    own = record["heldout"]["heldout_loss"] - rows[0]["loss"]
    parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y(own):.1f}" y2="{y(own):.1f}" stroke="#b4451f" stroke-dasharray="6 4"/><text x="{width - 24}" y="{y(own) - 6:.1f}" text-anchor="end" fill="#b4451f">the model\'s own loss on fresh documents: {own:.2f} above its training loss</text>')
    parts.append(f'<text x="{left}" y="18">bound minus full-precision training loss, nats per byte</text><text x="{width - 20}" y="{height - 8}" text-anchor="end">share of the data (grey: of the compute) spent on the anchor</text></svg>')
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("--share", type=float)
    parser.add_argument("--scratch", type=Path, default=Path("runs/price"))
    parser.add_argument("--draw", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    record = json.loads(OUT.read_text()) if OUT.exists() else {"rows": []}
    if not asked.draw:
        for share in (asked.share,) if asked.share else SHARES:
            kept = [row for row in record["rows"] if row["share"] != share]
            record = {"heldout": heldout(asked.demo), "rows": sorted([*kept, one(asked.demo, share, asked.scratch)], key=lambda row: row["share"])}
            OUT.write_text(json.dumps(record, indent=1) + "\n")
            print(json.dumps(record["rows"][[row["share"] for row in record["rows"]].index(share)]), flush=True)
    FIGURE.write_text(draw(record) + "\n")


if __name__ == "__main__":
    main()
