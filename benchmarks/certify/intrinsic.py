"""Intrinsic dimension of small tasks (arXiv 2012.13255) on two sizes, and what the vectors prove: `scalebound probe dimension` on real items.

    scalebound train --sizes 1M --recipe R.toml --seed 5 --out runs/base1          # R.toml: tokens = 3200000
    scalebound train --sizes 3M --tokens-per-param 1.15 --out runs/base3
    python benchmarks/certify/intrinsic.py runs/base1 runs/base3                   # three tasks each; what intrinsic.json has is kept
    python benchmarks/certify/intrinsic.py runs/base1 --tasks word --items 18000 --steps 400 --dims 64,512      # enough for a bound
    python benchmarks/certify/intrinsic.py SmolLM2-135M.gguf --tasks word --items 240 --steps 24 --batch 8 --dims 512,4096 --lr 0.005

Items are drawn with replacement from pools of lines of the standard library's sources, so they are independent and a bound is about the pool:

* module  a line, and which of asyncio, email, idlelib, xml it is from
* word    a line without its first word, and which of if, return, for, raise that was
* indent  the end of a line, and whether the next one is indented deeper, as deep, or less
"""

from __future__ import annotations

import argparse
import json
import random
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from scalebound.probe import dimension_record, probe_dimension
from scalebound.probe.dimension_case import own_case

OUT = Path(__file__).parent / "intrinsic.json"
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
MODULES = ("asyncio", "email", "idlelib", "xml")
MORE = ("http", "logging", "multiprocessing", "tkinter", "unittest", "urllib", "html", "json", "ctypes", "importlib")
WORDS = ("if", "return", "for", "raise")
ITEMS, STEPS, BATCH, DIMS = 2250, 100, 16, (64, 512, 4096, 32768, 262144)


def lines(names: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Module, line and the line after it, of lines of 20 and more characters."""
    for name in names:
        for path in sorted((LIBRARY / name).rglob("*.py")):
            if "test" not in path.parts:
                text = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
                yield from ((name, one, after) for one, after in zip(text, text[1:], strict=False) if len(one.strip()) >= 20 and one.isascii())


def pool_of(task: str) -> dict[int, list[dict]]:
    """All items of a task by the place of the right choice."""
    pool: dict[int, list[dict]] = {}

    def add(context: str, choices: str, gold: int) -> None:
        pool.setdefault(gold, []).append({"context": context + "\n#", "choices": list(choices), "gold": gold})

    if task == "module":
        for name, one, _ in lines(MODULES):
            add(one.strip()[:40], "0123", MODULES.index(name))
    elif task == "word":
        for _, one, _ in lines(MODULES + MORE):
            word, _, rest = one.strip().partition(" ")
            if word in WORDS:
                add("_ " + rest[:32], "irfe", WORDS.index(word))
    else:
        for _, one, after in lines(MODULES + MORE):
            here, there = (len(line) - len(line.lstrip()) for line in (one, after))
            add(one[-40:], "><=", 0 if there > here else 1 if there < here else 2)
    return pool


def write_items(task: str, count: int, out: Path, seed: int = 0) -> Path:
    """Draw items, every right choice equally often in expectation."""
    rng, pool = random.Random(seed), pool_of(task)
    drawn = [rng.choice(pool[rng.choice(sorted(pool))]) for _ in range(count)]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(item) + "\n" for item in drawn))
    return out


def known() -> list[dict]:
    """What was measured so far."""
    return json.loads(OUT.read_text())["rows"] if OUT.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--tasks", default="module,word,indent")
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--dims", default=",".join(map(str, DIMS)))
    parser.add_argument("--lr", type=float)
    parser.add_argument("--full-lr", type=float)
    parser.add_argument("--scratch", type=Path, default=Path("runs/intrinsic"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for model in asked.models:
        for task in asked.tasks.split(","):
            items = write_items(task, asked.items, asked.scratch / f"{task}-{asked.items}.jsonl")
            case = own_case(model, items, seed=0)
            if any((row["params"], row["task"], row["items_trained"]) == (case.params, task, len(case.train)) for row in known()):
                continue
            began = time.process_time()
            dims = tuple(int(number) for number in asked.dims.split(","))
            found = probe_dimension(case.model, case.train, case.held, params=case.params, width=case.width, dimensions=dims, steps=asked.steps, batch=asked.batch, lr=asked.lr, full_lr=asked.full_lr)
            record = dimension_record(found, settings={"model": model.name, "steps": asked.steps, "batch": asked.batch}, level=0.95, seed=0, inputs=case.inputs)
            kept = {key: value for key, value in record.brief().items() if key not in ("words", "name")}
            rows = [*known(), {"params": case.params, "task": task, **kept, "seconds": round(time.process_time() - began, 1)}]
            print(json.dumps(rows[-1]), flush=True)
            rows.sort(key=lambda row: (row["params"], row["task"], row["items_trained"]))
            OUT.write_text(json.dumps({"command": "python benchmarks/certify/intrinsic.py runs/base1 runs/base3", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
