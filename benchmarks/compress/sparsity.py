"""Zeros made after training, during it, before it, and by fine-tuning: loss against the bits of real files, on text that neither training nor calibration saw.

    python benchmarks/compress/sparsity.py --run RUN --stream TRAIN.json --heldout HELDOUT.json [--sparsities 0.5,0.75,0.9] [--bits 3.0,2.0,1.5,1.0] \\
        [--tokens 32768] [--folder FOLDER] [--out benchmarks/compress/sparsity.json]

RUN is a finished, dense run of ``scalebound train`` on TRAIN. Beside it the same recipe is trained under ``pruning = "gradual"`` and ``"spdf"``, and RUN goes on
for 0.3 of its tokens with gradual pruning and, as a control, without. One-shot rules prune the dense run. Every model is rounded in the same way (``--quantizer
gptq``, Fisher steps, priced; zeros of trained models are kept) to files of the same lengths, calibrated on the first 32 sequences of TRAIN. Trained models stay in
FOLDER, and a second call goes on from them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from scalebound.certify import interval
from scalebound.compress import Coded, read_checkpoint, save_package
from scalebound.core.io import atomic_write
from scalebound.core.stats import Stats
from scalebound.measure import measure
from scalebound.models import open_trainable
from scalebound.train import derive_continuation, quantize_calibrated, train_run
from scalebound.train.recipe import Recipe, load_recipe

HERE = Path(__file__).parent
ONE_SHOT = ("magnitude", "wanda", "sparsegpt")
FURTHER = 0.3  # of the run's tokens, for fine-tuning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--stream", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--sparsities", default="0.5,0.75,0.9")
    parser.add_argument("--bits", default="3.0,2.0,1.5,1.0")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "sparsity.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        record = run(given, given.folder or Path(scratch))
    atomic_write(given.out, json.dumps(record, indent=1).encode() + b"\n")


def run(given: argparse.Namespace, folder: Path) -> dict:
    dense = load_recipe(given.run / "recipe.toml")
    shares, lengths = ([float(word) for word in text.split(",")] for text in (given.sparsities, given.bits))
    folder.mkdir(parents=True, exist_ok=True)

    def score(model: Path, name: str) -> Stats:
        return measure(model, given.heldout, folder / f"{name}.safetensors", window=(0, given.tokens))

    def mean(stats: Stats) -> float:
        return float(stats.read("nll").mean(dtype="f8"))

    rows: list[dict[str, Any]] = []

    def add(way: str, share: float, model: Path, prune: str | None) -> None:
        """The model as it is (one-shot rules: not scored), and its files."""
        name = f"{way}-{share:g}".replace(" ", "-")
        config, tensors = read_checkpoint(model)
        row: dict[str, Any] = {"way": way, "sparsity": share, "loss": mean(score(model, name)) if prune in (None, "kept") else None, "files": []}
        for bits in lengths:
            began = time.monotonic()
            done = quantize_calibrated(config, tensors, given.stream, bits=bits, prune=prune, sparsity=share if prune in ONE_SHOT else 0.0)
            package = folder / f"{name}-{bits:g}.sbz"
            parts = save_package(package, done.model)
            linear = [tensor.integers for key, tensor in done.model.tensors.items() if isinstance(tensor, Coded) and tensor.integers.ndim == 2 and "embed" not in key]
            zeros = float(np.mean(np.concatenate([integers.ravel() for integers in linear]) == 0))
            row["files"].append({"target_bits": bits, "bits": done.bits_per_parameter, "file_bytes": parts.file_bytes, "loss": mean(score(package, f"{name}-{bits:g}")), "zeros": zeros, "seconds": time.monotonic() - began})
        rows.append(row)
        print(f"{way:28s} {share:4g}  {row['loss'] or float('nan'):.4f}  " + "  ".join(f"{file['bits']:.2f}: {file['loss']:.4f} ({file['zeros']:.2f})" for file in row["files"]), flush=True)

    def trained(name: str, recipe: Recipe, base: Any = None) -> Path:
        train_run(recipe, given.stream, folder / name, base=base)
        return folder / name

    before = score(given.run, "dense")
    add("none", 0.0, given.run, None)
    for share in shares:
        for rule in ONE_SHOT:
            add(f"one shot, {rule}", share, given.run, rule)
    start = open_trainable(given.run)
    further = int(FURTHER * dense.tokens)

    def on(**changes: Any) -> Recipe:
        return derive_continuation(start, further, context=dense.context, overrides={"precision": dense.precision, "batch_sequences": dense.batch_sequences, "learning_rate": dense.learning_rate} | changes)

    add("further training, none", 0.0, trained("further", on(), open_trainable(given.run)), None)
    for share in shares:
        add("fine-tuning, gradual", share, trained(f"further-{share:g}", on(pruning="gradual", sparsity=share), open_trainable(given.run)), "kept")
    for share in shares:
        add("training, gradual", share, trained(f"gradual-{share:g}", msgspec.structs.replace(dense, pruning="gradual", sparsity=share)), "kept")
    for share in shares:
        add("spdf, dense from half", share, trained(f"spdf-{share:g}", msgspec.structs.replace(dense, pruning="spdf", sparsity=share)), "kept")
    ends = interval(before)
    return {
        "schema": "scalebound.bench-sparsity/1", "date": datetime.date.today().isoformat(), "command": "python benchmarks/compress/sparsity.py " + " ".join(Path(word).name if "/" in word else word for word in sys.argv[1:]),
        "params": dense.params, "tokens": dense.tokens, "loss": mean(before), "interval": {"low": ends.low, "high": ends.high, "level": ends.level}, "scored": given.tokens, "machine": platform.machine(), "load": os.getloadavg()[0], "rows": rows,
    }  # fmt: skip


if __name__ == "__main__":
    main()
