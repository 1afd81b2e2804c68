"""Training for the certificate for longer than the demo's time allows: bits, loss, and distances from full-precision loss to bound.

    scalebound demo --out runs/demo
    python benchmarks/compress/trained.py runs/demo [--rung 148928] [--steps 14000] [--price 14] [--anchored] [--start PACKAGE --seed 1]

Loss and code at a price are minimised, with --anchored the anchored bound against the demo's anchor. The package is written, decoded, scored on
every token of the rung's window, certified (product form, and `certify --best` among predictors that can be deployed, which pays for its
choices) and verified. The distance of the paper's form after plain rounding to 4 bits is that of the demo's ``certificates/rounded.json``.
Interrupted, it goes on; with --start it trains the package of an earlier call further, whose steps and seconds are counted in. One row a rung,
objective, price and number of steps in ``trained.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from scalebound.certify import certify
from scalebound.certify.best import Artefact, certify_best
from scalebound.compress import code_bits, encode_with_breakdown, load_package, save_package
from scalebound.core.certificate import Inputs, file_ref, load_certificate
from scalebound.core.io import load_struct, sha256_file
from scalebound.core.stats import Stats
from scalebound.measure import measure
from scalebound.train import RunInfo, finetune
from scalebound.train.finetune import BATCH_SEQUENCES
from scalebound_verify.check import verify

OUT = Path(__file__).parent / "trained.json"


def one(demo: Path, rung: str, steps: int, price: float | None, anchored: bool, start: Path | None, seed: int, scratch: Path) -> dict:
    folder = demo / "rungs" / rung
    info, stream = load_struct(folder / "run" / "run.json", RunInfo), demo / "streams" / "train.json"
    full, work = Stats.load(folder / "train.full.safetensors"), scratch / (rung + "-anchored" * anchored)
    work.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    reference = Stats.load(folder / "train.safetensors") if anchored else None
    package, record = work / "model.sbz", work / "spent.json"
    before = {"steps": 0, "seconds": 0.0} if start is None else json.loads(start.with_name("spent.json").read_text())
    done = finetune(folder / "run", stream, steps=steps, price=price, reference=reference, start=start, seed=seed, state=work / "state")
    save_package(package, done.model)
    steps, seconds = before["steps"] + steps, before["seconds"] + time.process_time() - began
    record.write_text(json.dumps({"steps": steps, "seconds": seconds}) + "\n")
    stats = measure(package, stream, work / "stats.safetensors", window=info.window, anchor=demo / "anchor")
    bits = code_bits(os.stat(package).st_size)
    inputs = Inputs(stats=file_ref(Path(stats.path), work), full=file_ref(Path(full.path), work), package=file_ref(package, work), stream=file_ref(stream, work),
                    stream_sha256=stats.info.stream.sha256, model_sha256=stats.info.model.sha256)  # fmt: skip
    product = certify(stats, method="product", code_bits=bits, full=full, package_sha256=sha256_file(package), inputs=inputs)
    best, _ = certify_best([Artefact(stats, bits, sha256_file(package))], full=full, deployable=True, inputs=lambda artefact, source, kept: inputs)
    for label, certificate in (("product", product), ("best", best)):
        certificate.save(work / f"{label}.json")
        if not verify(work / f"{label}.json")["holds"]:
            raise SystemExit(f"{work / label}.json: the independent checker refuses it")
    published = load_certificate(folder / "certificates" / "rounded.json")
    loss = product.terms.full_precision_loss
    parts = vars(encode_with_breakdown(load_package(package))[1])
    return {
        "params": info.params, "tokens": info.tokens, "steps": steps, "tokens_seen": steps * BATCH_SEQUENCES * 256, "price": done.price, "objective": "anchored" if anchored else "loss and code",
        "seconds": round(seconds, 1), "loss": loss, "bits_per_parameter": 8 * os.stat(package).st_size / info.params, "added_loss": product.terms.quantization,
        "bytes": parts, "product": product.bound - loss, "best": best.bound - loss, "best_form": best.method, "best_alpha": best.smoothing.alpha, "best_terms": {key: getattr(best.terms, key) for key in ("quantization", "smoothing", "complexity", "variance")},
        "published": published.bound - loss, "product_ratio": (product.bound - loss) / (published.bound - loss), "best_ratio": (best.bound - loss) / (published.bound - loss),
    }  # fmt: skip


def _setting(row: dict) -> tuple:
    return row["params"], row["objective"], row["steps"], row["price"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("--rung", default="")
    parser.add_argument("--steps", type=int, default=14_000)
    parser.add_argument("--price", type=float)
    parser.add_argument("--anchored", action="store_true")
    parser.add_argument("--start", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, default=Path("runs/trained"))
    asked = parser.parse_args()
    rung = asked.rung or max((path.name for path in asked.demo.glob("rungs/*")), key=int)
    row = one(asked.demo, rung, asked.steps, asked.price, asked.anchored, asked.start, asked.seed, asked.scratch)
    kept = json.loads(OUT.read_text())["rows"] if OUT.exists() else []
    rows = [other for other in kept if _setting(other) != _setting(row)] + [row]
    OUT.write_text(json.dumps({"rows": sorted(rows, key=_setting)}, indent=1) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
