"""Intrinsic dimension of small fine-tuning tasks: the subspace that keeps 90% of what training all weights gains (arXiv 2012.13255).

    scalebound demo --out runs/demo
    python benchmarks/certify/intrinsic.py runs/demo [--rungs 14856,38048]

For each base (rungs of the demo) and task, all weights and random subspaces of growing dimension are trained for one pass over the same tokens;
d90 is the smallest dimension tried whose loss on the last tenth has at least 90% of the gain of training everything. For d90 the vector is
rounded, packaged and certified relative to the base (anchored on it), beside the compression bound that the paper derives from d (Arora et
al. 2018 through their theorem 1: `loss + range sqrt((d log r + log(1/delta))/(2 n))`, r the levels the vector takes; range after uniform smoothing).
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

from scalebound.certify import certify, package_code_bits
from scalebound.certify.survey import loss_range
from scalebound.compress import load_package, save_package
from scalebound.core.stats import Stats
from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef
from scalebound.measure import measure
from scalebound.models import open_trainable
from scalebound.models.relative import delta_of, export_relative
from scalebound.train import derive_continuation, train_run

DIMS = (8, 32, 128, 512, 2048)
TOKENS, CONTEXT, ALPHA, DELTA = 65_536, 256, 0.05, 0.01
OUT = Path(__file__).parent / "intrinsic.json"


def tasks(folder: Path) -> dict[str, Path]:
    """Three texts a model of Python sources does not know: prose, Python in capitals, Python with its letters shifted."""
    here = Path(__file__).parents[2]
    prose = "\n".join(path.read_text() for path in sorted(here.glob("docs/*.md")))
    code = "\n".join(path.read_text() for path in sorted((here / "src/scalebound/scaling").glob("*.py")))
    shifted = "".join(chr((ord(c) - 97 + 13) % 26 + 97) if "a" <= c <= "z" else c for c in code)
    found = {}
    for name, text in (("prose", prose), ("capitals", code.upper()), ("shifted", shifted)):
        (folder / f"{name}.txt").write_text(text)
        corpus = read_corpus(folder / f"{name}.txt")
        made = build_stream(corpus.documents, load_tokenizer(), folder / name, sequence_tokens=CONTEXT, source=SourceRef(name, corpus.sha256), seed=0, max_tokens=TOKENS)
        found[name] = made.path
    return found


def trained(base: Path, stream: Path, adapter: str, out: Path) -> tuple[float, float]:
    """Mean online loss of the first and of the last tenth."""
    start = open_trainable(base)
    overrides = {"batch_sequences": 4} | ({"adapter": adapter} if adapter else {})
    train_run(derive_continuation(start, TOKENS, context=CONTEXT, overrides=overrides), stream, out, base=start)
    losses = Stats.load(out / "online.safetensors").read("nll")
    return float(losses[: len(losses) // 100].mean(dtype="f8")), float(losses[-len(losses) // 10 :].mean(dtype="f8"))


def certified(base: Path, run: Path, stream: Path, work: Path) -> dict:
    package = work / "delta.sbz"
    save_package(package, delta_of(run, base, step=0.3))
    export_relative(package, base, work / "tuned")
    stats = measure(work / "tuned", stream, work / "stats.safetensors", window=(0, TOKENS), anchor=base)
    bits = package_code_bits(os.stat(package).st_size)
    found = certify(stats, method="anchored", code_bits=bits, delta=DELTA)
    integers = load_package(package).tensors["w"].integers
    levels = max(2, int(integers.max()) - int(integers.min()) + 1)
    smooth = float(-np.log((1 - ALPHA) * np.exp(-stats.read("nll").astype("f8")) + ALPHA / 256).mean())
    paper = smooth + loss_range(256, ALPHA) * math.sqrt((len(integers) * math.log(levels) + math.log(1 / DELTA)) / (2 * TOKENS))
    loss, base_loss = (float(stats.read(name).mean(dtype="f8")) for name in ("nll", "reference_nll"))
    return {"bound": found.bound, "bound_from_d": paper, "loss": loss, "base_loss": base_loss, "code_bits": bits, "levels": levels, "alpha": found.smoothing.alpha}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("--rungs", default="14856,38048")
    parser.add_argument("--scratch", type=Path, default=Path("runs/intrinsic"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.scratch.mkdir(parents=True, exist_ok=True)
    streams, rows = tasks(asked.scratch), []
    for rung in asked.rungs.split(","):
        base = asked.demo / "rungs" / rung / "run"
        for name, stream in streams.items():
            began, work = time.monotonic(), asked.scratch / rung / name
            before, full = trained(base, stream, "", work / "full")
            row: dict = {"params": int(rung), "task": name, "tokens": TOKENS, "loss_first": before, "loss_full": full, "subspace": {}, "d90": None}
            for dim in DIMS:
                run = work / f"{dim}"
                row["subspace"][str(dim)] = loss = trained(base, stream, f"subspace:{dim}", run)[1]
                if row["d90"] is None and before - loss >= 0.9 * (before - full):
                    row["d90"] = dim
                    row["certificate"] = certified(base, run, stream, work / "certified")
                    break
            rows.append(row | {"seconds": round(time.monotonic() - began, 1)})
            print(json.dumps(rows[-1]), flush=True)
            OUT.write_text(json.dumps({"command": "python benchmarks/certify/intrinsic.py runs/demo", "dims": DIMS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
