"""A fine-tuned SmolLM2-135M certified relative to its base: a vector in a random subspace, packaged, anchored on the base.

    python benchmarks/certify/smollm2_base.py MODEL.gguf [--tokens 4096] [--dim 64] [--scratch runs/smollm2]

The text is this project's own documentation, which the base cannot have seen. Writes ``smollm2_base.json``; the settings are fixed here and
were not picked after looking.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch

from scalebound.certify import certify, package_code_bits
from scalebound.compress import save_package
from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef
from scalebound.measure import measure
from scalebound.models import open_trainable
from scalebound.models.relative import delta_of, export_relative
from scalebound.train import derive_continuation, train_run

CONTEXT, DELTA, RATE = 256, 0.01, 0.01
ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--scratch", type=Path, default=Path("runs/smollm2"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    work = asked.scratch
    work.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    began = time.monotonic()

    def done(stage: str) -> None:
        nonlocal began
        seconds[stage], began = round(time.monotonic() - began, 1), time.monotonic()
        print(stage, seconds[stage], flush=True)

    start = open_trainable(asked.model)
    (work / "text.md").write_text("\n".join(path.read_text() for path in sorted(ROOT.glob("docs/*.md"))))
    corpus = read_corpus(work / "text.md")
    stream = build_stream(corpus.documents, load_tokenizer(start.tokenizer), work / "stream", sequence_tokens=CONTEXT, source=SourceRef("docs", corpus.sha256), seed=0, max_tokens=asked.tokens)
    recipe = derive_continuation(start, asked.tokens, context=CONTEXT, overrides={"adapter": f"subspace:{asked.dim}", "batch_sequences": 1, "learning_rate": RATE})
    done("open")
    info = train_run(recipe, stream.path, work / "run", base=start, checkpoint_s=1e9)
    done("train")
    del start
    package = work / "delta.sbz"
    save_package(package, delta_of(work / "run", asked.model, step=0.3))
    made = export_relative(package, asked.model, work / "tuned")
    done("package")
    stats = measure(work / "tuned", stream.path, work / "stats.safetensors", anchor=asked.model)
    done("measure")
    bits = package_code_bits(os.stat(package).st_size)
    found = certify(stats, method="anchored", code_bits=bits, delta=DELTA)
    loss, base_loss = (float(stats.read(name).mean(dtype="f8")) for name in ("nll", "reference_nll"))
    record = {"tokens": len(stats), "dim": asked.dim, "params": sum(t.numel() for t in made.tensors.values()), "loss": loss, "base_loss": base_loss, "online_loss_last_tenth": info.train_loss, "code_bits": bits,
              "bound": found.bound, "distance": found.bound - loss, "alpha": found.smoothing.alpha, "anchor_certified": found.anchor.certified, "seconds": seconds}  # fmt: skip
    (Path(__file__).parent / "smollm2_base.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
