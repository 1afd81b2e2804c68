"""Is the loss of a ladder's largest rung known before it is trained? Blind: the forecast is on disk, with its time and hash, before the rung is begun.

    python benchmarks/train/blind.py [--seed 0] [--widths 16,24,32,40,48] [--runs 2,2,2,1,1] [--largest 64] [--largest-runs 1] [--out benchmarks/train/blind.json]

The ladder: widths times heads of 8, depth 3, feed-forward 8/3 of the width, batches of 4 sequences of 256 bytes, 20 tokens a parameter, everything else as derived.
Only the width changes from rung to rung: a change of depth or batch is a step in the loss that no law of the size alone knows of. Every rung is trained as often as ``runs`` says,
with other initial weights on other text each time; the truth is the mean over ``largest-runs``. ``seed`` decides the split and order of the text and with it every try.

1. The rungs below the largest are trained and measured on 400,000 held-out tokens.
2. ``scalebound.scaling.fit`` of ``c + a N^-b`` on one row a run, ``forecast`` with its 95% interval for one run of the largest. As a look at the procedure, which may not
   be changed any more: the second largest forecast from those below it. All of this goes to OUT, with the time and the SHA-256 of what is forecast and from what.
3. Only then is the largest trained and measured; its loss and the error are added to OUT.

A try that OUT holds already is not forecast again; tries that missed stay in the file.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from scalebound.core.io import atomic_write
from scalebound.data import build_stream, load_tokenizer, read_corpus, split_documents
from scalebound.data.stream import SourceRef
from scalebound.measure import measure
from scalebound.scaling import fit, forecast
from scalebound.train import Recipe, derive_recipe, train_run

CONTEXT = 256
HELDOUT = 400_000


def rung(width: int, seed: int) -> Recipe:
    shape = {"width": width, "depth": 3, "heads": width // 8, "feed_forward": round(8 * width / 3 / 4) * 4}
    return derive_recipe(100_000, overrides=shape | {"batch_sequences": 4, "precision": "float32", "seed": seed})


def loss_of(recipe: Recipe, stream: Path, heldout: Path, folder: Path, start: int) -> dict:
    """Train one run on the window from ``start`` and measure its last weights."""
    began = time.monotonic()
    run = folder / f"{recipe.width}-{recipe.seed}"
    train_run(recipe, stream, run, window_start=start)
    loss = float(measure(run, heldout, folder / f"{run.name}.safetensors", dtype="float32").read("nll").mean(dtype="f8"))
    print(f"{recipe.params:,} parameters, run {recipe.seed}: {loss:.4f} ({time.monotonic() - began:.0f} s)", flush=True)
    return {"params": recipe.params, "tokens": recipe.tokens, "run": recipe.seed, "loss": loss}


def predict(rows: list[dict], params: int) -> dict:
    """The law through the rows, and one run of ``params`` parameters forecast from it."""
    law = fit({"params": [row["params"] for row in rows], "loss": [row["loss"] for row in rows]}, "power")
    found = forecast(law, {"params": [params]}).records()[0]
    return {"params": params, "value": found["value"], "low": found["low"], "high": found["high"], "level": law.level, "law": law.params}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--widths", default="16,24,32,40,48")
    parser.add_argument("--runs", default="2,2,2,1,1", help="of each width")
    parser.add_argument("--largest", type=int, default=64)
    parser.add_argument("--largest-runs", type=int, default=1)
    parser.add_argument("--text", default=None, help="default: the text of scalebound train")
    parser.add_argument("--folder", type=Path, default=Path("runs/blind"), help="runs; what is finished there is not trained again")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "blind.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    widths, runs = ([int(word) for word in words.split(",")] for words in (given.widths, given.runs))
    asked = f"--seed {given.seed} --widths {given.widths} --runs {given.runs} --largest {given.largest} --largest-runs {given.largest_runs}"
    name, folder = asked.replace("--", ""), given.folder / f"seed-{given.seed}-{max(*runs, given.largest_runs)}-of-{given.largest}"
    tries = json.loads(given.out.read_text()) if given.out.is_file() else {}

    def keep(entry: dict) -> None:
        tries[name] = entry
        atomic_write(given.out, (json.dumps(tries, indent=1) + "\n").encode())

    largest = rung(given.largest, 0)
    corpus, words = read_corpus(given.text), load_tokenizer()
    parts = split_documents(corpus, {"heldout": HELDOUT}, seed=given.seed)
    source = SourceRef(corpus.name, corpus.sha256)
    stream = build_stream(parts["train"], words, folder / "train", sequence_tokens=CONTEXT, source=source, split="train", seed=given.seed, max_tokens=max(*runs, given.largest_runs) * largest.tokens).path
    heldout = build_stream(parts["heldout"], words, folder / "heldout", sequence_tokens=CONTEXT, source=source, split="heldout", max_tokens=HELDOUT).path

    if name not in tries:
        rows = []
        for width, count in zip(widths, runs, strict=True):
            for k in range(count):
                rows.append(loss_of(rung(width, k), stream, heldout, folder, k * largest.tokens))
        second = max(row["params"] for row in rows)
        truth = float(np.mean([row["loss"] for row in rows if row["params"] == second]))
        below = predict([row for row in rows if row["params"] < second], second)
        forecasted = {"rows": rows, "largest": predict(rows, largest.params), "before": below | {"truth": truth, "error": below["value"] / truth - 1}, "tokens": largest.tokens}
        stamp = {"at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "sha256": hashlib.sha256(json.dumps(forecasted, sort_keys=True).encode()).hexdigest()}
        keep({"forecast": forecasted, "stamp": stamp, "text": corpus.name, "machine": f"{platform.machine()} {platform.system()}", "torch": torch.__version__,
              "command": f"python benchmarks/train/blind.py {asked}"})  # fmt: skip
        print(json.dumps(forecasted["largest"]), stamp, flush=True)
    entry = tries[name]
    if "truth" not in entry:
        losses = [loss_of(rung(given.largest, k), stream, heldout, folder, k * largest.tokens)["loss"] for k in range(given.largest_runs)]
        truth, expected = float(np.mean(losses)), entry["forecast"]["largest"]
        keep(entry | {"losses": losses, "truth": truth, "error": expected["value"] / truth - 1, "inside": expected["low"] <= truth <= expected["high"]})
    print(json.dumps({key: tries[name][key] for key in ("truth", "error", "inside")}))


if __name__ == "__main__":
    main()
