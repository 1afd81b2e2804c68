"""Further ways of training for the certificate, each beside the same training without it: one row a trial, at about equal seconds.

    scalebound demo --out runs/demo
    python benchmarks/compress/further.py runs/demo [--rung 38048] [--only control,distilled] [--seeds 0,1]

Every trial is `compress --finetune` of one rung with something changed. Added loss is that of the package on 65,536 tokens of the window
(the same for all trials of a seed), bits are those of the file, and *product* is the distance from the full-precision loss to the product bound as
these tokens estimate it: their losses repeated to the length of the window, the best of eleven shares of uniform, paid. Ways that are
not in the library stand in :mod:`structures` beside this file. Rows are added to ``further.json``, or replace those of the same trial and seed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import structures
import torch

from scalebound.certify import product_bound, smooth_uniform, uniform_range
from scalebound.compress import QuantizedModel, code_bits, encode_with_breakdown
from scalebound.core.io import load_struct
from scalebound.core.seeds import generator
from scalebound.data.stream import Stream
from scalebound.models.folder import read_config, read_tensors
from scalebound.models.load import newest_checkpoint
from scalebound.models.transformer import Transformer, own_shape
from scalebound.train import RunInfo

finetune = importlib.import_module("scalebound.train.finetune")  # the package's attribute of this name is the function
OUT = Path(__file__).parent / "further.json"
PRICE = 8.0
STEPS = 1780  # of a trial that costs what the control costs a step
ALPHAS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
DELTA = 0.01

# name: what is changed, the share of the control's steps that its cost a step leaves, settings, what stands in for Latent
TRIALS: dict[str, tuple[str, float, dict[str, Any], Callable | None]] = {
    "control": ("as `compress --finetune` does", 1.0, {}, None),
    "self-forward-0.5": ("the full model teaches half of the loss, forward divergence", 0.8, {"teacher": "self"}, None),
    "self-balanced-0.5": ("the full model, balanced divergence", 0.8, {"teacher": "self", "divergence": "balanced"}, None),
    "larger-forward-0.25": ("the rung of 148,928 teaches a quarter of the loss, forward", 0.72, {"teacher": "148928", "teacher_share": 0.25}, None),
    "larger-forward-0.5": ("half", 0.72, {"teacher": "148928"}, None),
    "larger-forward-0.9": ("nine tenths", 0.72, {"teacher": "148928", "teacher_share": 0.9}, None),
    "larger-balanced-0.5": ("balanced, half", 0.72, {"teacher": "148928", "divergence": "balanced"}, None),
    "larger-forward-0.5-longer": ("half, forward, at the control's steps", 1.0, {"teacher": "148928"}, None),
} | structures.TRIALS  # fmt: skip


class Estimate:
    """Losses and bounds of packages of one rung, from some sequences of its window."""

    def __init__(self, run: Path, stream: Path, seed: int) -> None:
        folder = newest_checkpoint(run)
        self.config, self.tensors = read_config(folder), read_tensors(folder)
        shape = own_shape(self.config)
        assert shape is not None
        self.window, self.vocab_size, context = load_struct(run / "run.json", RunInfo).window, shape.vocab_size, self.config["max_position_embeddings"]
        self.work = finetune._Work(Transformer(shape, context), self.config, Stream(stream), self.window, context, None, "")
        self.judged = self.work.sequences[generator(seed, "finetune judged").permutation(len(self.work.sequences))[: finetune.JUDGED_SEQUENCES]]
        self.full = self.losses(self.tensors).mean()

    def losses(self, tensors: dict[str, torch.Tensor]) -> np.ndarray:
        return self.work._losses(tensors, self.judged).double().numpy()

    def row(self, model: QuantizedModel, params: int) -> dict[str, Any]:
        package, parts = encode_with_breakdown(model)
        nll = self.losses({name: torch.from_numpy(data) for name, data in model.dequantized().items()})
        window = np.resize(nll, self.window[1] - self.window[0])
        paid = code_bits(len(package)) + math.log2(len(ALPHAS))
        bounds = [product_bound(smooth_uniform(window, self.vocab_size, alpha), 0.0, range_=uniform_range(self.vocab_size, alpha), code_bits=paid, delta=DELTA).value for alpha in ALPHAS]
        return {"added_loss": nll.mean() - self.full, "bits": 8 * len(package) / params, "product": min(bounds) - self.full, "bytes": vars(parts)}


def one(demo: Path, rung: str, name: str, seed: int, steps: int) -> dict[str, Any]:
    what, share, settings, latent = TRIALS[name]
    run, stream = demo / "rungs" / rung / "run", demo / "streams" / "train.json"
    given = {"price": PRICE} | settings
    if "teacher" in given:
        given["teacher"] = run if given["teacher"] == "self" else demo / "rungs" / given["teacher"] / "run"
    usual = finetune.Latent
    finetune.Latent = latent or usual
    began = time.process_time()
    try:
        done = finetune.finetune(run, stream, steps=round(share * steps), seed=seed, **given)
    finally:
        finetune.Latent = usual
    seconds = time.process_time() - began
    params = load_struct(run / "run.json", RunInfo).params
    return {"trial": name, "what": what, "seed": seed, "rung": int(rung), "steps": done.steps, "price": done.price, "seconds": round(seconds, 1)} | Estimate(run, stream, seed).row(done.model, params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("--rung", default="38048")
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for seed in map(int, asked.seeds.split(",")):
        for name in asked.only.split(",") if asked.only else TRIALS:
            row = one(asked.demo, asked.rung, name, seed, asked.steps) | {"load": round(os.getloadavg()[0], 1)}
            print(f"{name:24s} seed {seed}: {row['added_loss']:+.4f} {row['bits']:.4f} product {row['product']:.4f}  {row['steps']} steps {row['seconds']} s  {row['bytes']}", flush=True)
            kept = json.loads(asked.out.read_text())["rows"] if asked.out.exists() else []
            rows = [other for other in kept if any(other[key] != row[key] for key in ("trial", "seed", "rung"))] + [row]
            rows.sort(key=lambda other: (other["rung"], list(TRIALS).index(other["trial"]), other["seed"]))
            asked.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
