"""A fine-tuned SmolLM2-135M certified relative to its base: a vector in a random subspace, packaged, anchored on the base, checked.

    python benchmarks/certify/smollm2_base.py MODEL.gguf [--tokens 32768] [--dim 128] [--windows-tried 1] [--scratch runs/smollm2]

The text is this project's own documentation, which the base cannot have seen. The base is written as a folder first, so that the independent
checker can read its numbers. Writes ``smollm2_base.json``. The settings are fixed here: the learning rate is of the size at which one step along
the gradient helped on CHANGELOG.md and benchmarks/LOG.md, which are not part of the text. Numbers of tokens tried on
this text before (with the present one: ``--windows-tried``) are a choice that the certificate pays for.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from scalebound.certify import certify, package_code_bits
from scalebound.compress import save_package
from scalebound.core.certificate import Base, Choice, Inputs, file_ref
from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef
from scalebound.measure import measure
from scalebound.models import open_trainable
from scalebound.models.folder import save_folder
from scalebound.models.relative import delta_of, export_relative, rebuild
from scalebound.train import derive_continuation, train_run
from scalebound_verify import verify

CONTEXT, BATCH, RATE, STEP, DELTA = 256, 8, 0.001, 0.5, 0.01
ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--windows-tried", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path("runs/smollm2"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    work = asked.scratch
    work.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, dict[str, float]] = {}
    began = (time.monotonic(), time.process_time())

    def done(stage: str) -> None:
        nonlocal began
        now = (time.monotonic(), time.process_time())
        seconds[stage], began = {"wall": round(now[0] - began[0], 1), "processor": round(now[1] - began[1], 1)}, now
        print(stage, seconds[stage], flush=True)

    base = work / "base"
    if not (base / "config.json").is_file():
        start = open_trainable(asked.model)
        save_folder(base, start.model.config(), start.model.tensors(), byte_tokenizer=False)
    start = open_trainable(base)
    text = "\n".join(path.read_text() for path in [*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/gallery/*.md")), ROOT / "README.md"])
    (work / "text.md").write_text(text)
    corpus = read_corpus(work / "text.md")
    stream = build_stream(corpus.documents, load_tokenizer(asked.model), work / "stream", sequence_tokens=CONTEXT, source=SourceRef("docs", corpus.sha256), seed=0, max_tokens=asked.tokens)
    recipe = derive_continuation(start, asked.tokens, context=CONTEXT, overrides={"adapter": f"subspace:{asked.dim}", "batch_sequences": BATCH, "learning_rate": RATE})
    done("open")
    info = train_run(recipe, stream.path, work / "run", base=start, checkpoint_s=300)
    done("train")
    del start
    package = work / "delta.sbz"
    save_package(package, delta_of(work / "run", base, step=STEP))
    made = export_relative(package, base, work / "tuned") if not (work / "tuned").exists() else rebuild(package, base)
    done("package")
    stats = measure(work / "tuned", stream.path, work / "stats.safetensors", anchor=base)
    done("measure")
    bits = package_code_bits(package.stat().st_size)
    inputs = Inputs(stats=file_ref(work / "stats.safetensors", work), package=file_ref(package, work), stream=file_ref(stream.path, work), base=file_ref(made.base_file, work),
                    stream_sha256=stats.info.stream.sha256, model_sha256=stats.info.model.sha256)  # fmt: skip
    found = certify(stats, method="anchored", code_bits=bits, delta=DELTA, base=Base(kind="model", sha256=made.base_sha256), inputs=inputs, package_sha256=inputs.package.sha256,
                    choices=[Choice(setting="window", options=asked.windows_tried)] if asked.windows_tried > 1 else [])  # fmt: skip
    path = found.save(work / "certificate.json")
    done("certify")
    checked = verify(path)
    done("verify")
    loss, base_loss = (float(stats.read(name).mean(dtype="f8")) for name in ("nll", "reference_nll"))
    record = {"tokens": len(stats), "dim": asked.dim, "windows_tried": asked.windows_tried, "params": sum(t.numel() for t in made.tensors.values()), "loss": loss, "base_loss": base_loss, "online_loss_last_tenth": info.train_loss, "code_bits": bits,
              "bound": found.bound, "distance": found.bound - loss, "alpha": found.smoothing.alpha, "anchor_certified": found.anchor.certified, "mixture_loss": loss + found.terms.smoothing,
              "holds": checked["holds"], "base_sha256": made.base_sha256, "stream_sha256": stats.info.stream.sha256, "settings": {"context": CONTEXT, "batch": BATCH, "rate": RATE, "step": STEP}, "seconds": seconds}  # fmt: skip
    (Path(__file__).parent / "smollm2_base.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
