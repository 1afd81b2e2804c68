"""The price of certainty: how far a deployable anchored bound is above the full-precision loss, against what was spent on the anchor.

    scalebound demo --out runs/demo
    python benchmarks/certify/price.py runs/demo [--share 0.4]       # one share anew (a few minutes), or all that are missing
    python benchmarks/certify/price.py runs/demo --draw              # the figure of docs/gallery/certify.md

On the largest rung whose tokens the demo's anchor slice can match: for each share an anchor is trained on that share of the rung's number
of tokens, from documents apart; the rung's rounding is trained for the anchored bound against it; model and anchor are measured; the
best deployable certificate is taken. Share 1 is an anchor as good as the model. Beside it stands the certificate of the anchor alone, which
never saw the tokens and pays for no code: a held-out test, and what the mixture becomes as its share of the anchor goes to 1.
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


def anchor_of(demo: Path, share: float, work: Path) -> tuple[RunInfo, Stats]:
    """The anchor of a share, trained (or found in ``work``), and its losses on the rung's tokens."""
    info = rung_of(demo)[1]
    recipe = anchor_recipe(share, info.tokens, tokens_per_param=info.tokens / info.params, vocab_size=256, context=256, seed=1)
    trained = train_run(recipe, demo / "streams" / "anchor.json", work / "anchor")
    return trained, measure(work / "anchor", demo / "streams" / "train.json", work / "reference.safetensors", window=info.window)


def alone(reference: Stats) -> dict:
    """The anchor without the model on the same tokens: its loss, and the certificate that needs no code."""
    return {"anchor_loss": float(reference.read("nll").mean(dtype="f8")), "anchor_bound": certify(reference, method="heldout").bound}


def one(demo: Path, share: float, scratch: Path) -> dict:
    folder, info = rung_of(demo)
    train = demo / "streams" / "train.json"
    work = scratch / f"{share:g}"
    began = time.monotonic()
    trained, reference = anchor_of(demo, share, work)
    full = Stats.load(folder / "train.full.safetensors")
    steps = max(1, round(STEPS_SHARE * info.tokens / (256 * BATCH_SEQUENCES)))
    done = finetune(folder / "run", train, steps=steps, reference=reference, state=work / "state")
    save_package(work / "model.sbz", done.model)
    stats = measure(work / "model.sbz", train, work / "stats.safetensors", window=info.window, anchor=work / "anchor")
    best, _ = certify_best([Artefact(stats, code_bits(os.stat(work / "model.sbz").st_size))], full=full, deployable=True)
    terms = best.terms
    return {"share": share, "anchor_params": trained.params, "anchor_tokens": trained.tokens, "data_share": trained.tokens / info.tokens, "compute_share": trained.flops / info.flops,
            **alone(reference), "loss": terms.full_precision_loss, "package_loss": best.empirical_loss, "bits_per_parameter": best.code.bits_per_parameter,
            "alpha": best.smoothing.alpha, "bound": best.bound, "distance": best.bound - terms.full_precision_loss,
            "terms": {name: getattr(terms, name) for name in ("quantization", "smoothing", "complexity", "variance")}, "method": best.method, "seconds": round(time.monotonic() - began, 1)}  # fmt: skip


def heldout(demo: Path) -> dict:
    """What a held-out test says of the same model in full precision: its own loss on fresh documents, and the certificate of that."""
    folder, info = rung_of(demo)
    stats = Stats.load(folder / "heldout.full.safetensors")
    return {"params": info.params, "tokens": info.tokens, "heldout_loss": float(stats.read("nll").mean(dtype="f8")), "heldout_bound": certify(stats, method="heldout").bound,
            "product_distance": json.loads((folder / "certificates/product.json").read_text())["bound"] - float(Stats.load(folder / "train.full.safetensors").read("nll").mean(dtype="f8"))}  # fmt: skip


def draw(record: dict) -> str:
    """A figure in plain SVG: distance in nats against the share of data, of the mixture and of the anchor alone."""
    rows, loss = record["rows"], record["rows"][0]["loss"]
    width, height, left, bottom = 720, 420, 60, 70
    mixture, anchor = [row["distance"] for row in rows], [row["anchor_bound"] - loss for row in rows]
    without, fresh = record["heldout"]["product_distance"], record["heldout"]["heldout_loss"] - loss
    top = 1.1 * max(*mixture, *anchor, without)

    def x(share: float) -> float:
        return left + (width - left - 40) * (math.log(share) - math.log(0.15)) / (math.log(1.05) - math.log(0.15))

    def y(value: float) -> float:
        return height - bottom - (height - bottom - 40) * value / top

    def text(at: float, up: float, said: str, colour: str = "#222", anchor: str = "middle") -> str:
        return f'<text x="{at:.1f}" y="{up:.1f}" text-anchor="{anchor}" fill="{colour}">{said}</text>'

    def level(value: float, said: str, colour: str, at: float) -> list[str]:
        return [f'<line x1="{left}" x2="{width - 20}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="{colour}" stroke-dasharray="6 4"/>', text(at, y(value) - 6, said, colour, "end")]

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>']
    for value in np.arange(0, top, 0.1):
        parts += [f'<line x1="{left}" x2="{width - 20}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#e4e4e4"/>', text(left - 8, y(value) + 4, f"{value:.1f}", anchor="end")]
    parts += level(without, f"no anchor: {without:.2f}", "#666", width - 24) + level(fresh, f"the model's own loss on fresh documents: {fresh:.2f}", "#b4451f", x(rows[1]["data_share"]))
    for values, colour, below in ((anchor, "#2f7d4f", -12), (mixture, "#1f5fa8", 20)):
        line = " ".join(f"{x(row['data_share']):.1f},{y(value):.1f}" for row, value in zip(rows, values, strict=True))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for row, value in zip(rows, values, strict=True):
            parts += [f'<circle cx="{x(row["data_share"]):.1f}" cy="{y(value):.1f}" r="4" fill="{colour}"/>', text(x(row["data_share"]) + 4, y(value) + below, f"{value:.2f}", colour, "start" if below < 0 else "end")]
    at = x(rows[1]["data_share"])
    parts += [text(at + 50, y(anchor[1]) - 10, "the anchor alone: a held-out test", "#2f7d4f", "start"), text(x(rows[0]["data_share"]) + 20, y(mixture[0]) - 8, "model and anchor together", "#1f5fa8", "start")]
    for row in rows:
        parts += [text(x(row["data_share"]), height - bottom + 18, f"{row['data_share']:.0%}"), text(x(row["data_share"]), height - bottom + 35, f"{row['compute_share']:.0%}", "#777")]
    parts += [text(left, 20, "bound minus the model's full-precision training loss, nats per byte", anchor="start"), text(width - 20, height - 10, "share of the data (grey: of the compute) spent on the anchor", anchor="end"), "</svg>"]
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
    have = {row["share"]: row for row in record["rows"]}
    for share in () if asked.draw else (asked.share,) if asked.share else SHARES:
        if share in have and not asked.share:
            found = alone(anchor_of(asked.demo, share, asked.scratch / f"{share:g}")[1]) if "anchor_bound" not in have[share] else {}
            if found and abs(found["anchor_loss"] - have[share]["anchor_loss"]) > 1e-4:
                raise SystemExit(f"the anchor of share {share} has loss {found['anchor_loss']:.5f} now and had {have[share]['anchor_loss']:.5f}: measure it anew with --share {share}")
            have[share] |= found
        else:
            have[share] = one(asked.demo, share, asked.scratch)
        record = {"heldout": heldout(asked.demo), "rows": [have[key] for key in sorted(have)]}
        OUT.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(have[share]), flush=True)
    FIGURE.write_text(draw(record) + "\n")


if __name__ == "__main__":
    main()
