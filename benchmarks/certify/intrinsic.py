"""Intrinsic dimension of small tasks (arXiv 2012.13255) on two sizes, and what the vectors prove: `scalebound probe dimension` on real items.

    scalebound train --sizes 1M --recipe R.toml --seed 5 --out runs/base1          # R.toml: tokens = 3200000
    scalebound train --sizes 3M --tokens-per-param 1.15 --out runs/base3
    python benchmarks/certify/intrinsic.py runs/base1 runs/base3                   # three tasks each; what intrinsic.json has is kept
    python benchmarks/certify/intrinsic.py runs/base1 --tasks word --items 18000 --steps 200 --dims 512      # enough for a bound
    python benchmarks/certify/intrinsic.py SmolLM2-135M.gguf --tasks word --items 240 --steps 24 --batch 8 --dims 512,4096 --lr 0.005

Items are drawn with replacement from pools of lines of the standard library's sources, so they are independent and a bound is about the pool:

* module  a line, and which of asyncio, email, idlelib, xml it is from
* word    a line without its first word, and which of if, return, for, raise that was
* indent  the end of a line, and whether the next one is indented deeper, as deep, or less
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from scalebound.probe import dimension_record, probe_dimension
from scalebound.probe.dimension_case import own_case

OUT = Path(__file__).parent / "intrinsic.json"
FIGURE = Path(__file__).parents[2] / "docs" / "gallery" / "intrinsic.svg"
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


def draw(rows: list[dict]) -> str:
    """A panel a task in plain SVG: share of the gain against the dimension, with intervals, a line a size (of equal items and steps)."""
    rows = [row for row in rows if (row["items_trained"], row["steps"]) == (rows[0]["items_trained"], rows[0]["steps"])]
    tasks, sizes = sorted({row["task"] for row in rows}), sorted({row["params"] for row in rows})
    wide, high, left, bottom, top, most = 240, 320, 46, 60, 60, 1.4
    ends = [math.log2(f([y["dimension"] for row in rows for y in row["rows"]])) for f in (min, max)]
    colours = dict(zip(sizes, ("#1f5fa8", "#b4451f", "#2f7d4f"), strict=False))

    def y(share: float) -> float:
        return high - bottom - (high - bottom - top) * max(0.0, min(share, most)) / most

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + wide * len(tasks)} {high}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
             f'<text x="{left}" y="18">share of the gain in held-out loss that a random subspace of d dimensions reaches; whiskers 95% together</text>']  # fmt: skip
    for number, size in enumerate(sizes):
        parts.append(f'<text x="{left + 130 * number}" y="36" fill="{colours[size]}">{size / 1e6:.0f}M parameters</text>')
    for panel, task in enumerate(tasks):
        start, end = left + wide * panel, left + wide * (panel + 1) - 24

        def x(dimension: int, start: int = start, end: int = end) -> float:
            return start + 12 + (end - start - 24) * (math.log2(dimension) - ends[0]) / (ends[1] - ends[0])

        for share in (0, 0.3, 0.6, 0.9, 1.2):
            dashed = ' stroke-dasharray="6 4"' if share == 0.9 else ""
            parts.append(f'<line x1="{start}" x2="{end}" y1="{y(share):.1f}" y2="{y(share):.1f}" stroke="{"#666" if dashed else "#ddd"}"{dashed}/>')
            if not panel:
                parts.append(f'<text x="{start - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{share:g}</text>')
        for dimension in (64, 512, 4096, 32768, 262144):
            parts.append(f'<text x="{x(dimension):.1f}" y="{high - bottom + 16}" text-anchor="middle" font-size="10">{dimension if dimension < 1000 else f"{dimension // 1024}k"}</text>')
        for row in (row for row in rows if row["task"] == task):
            colour, at = colours[row["params"]], [(x(one["dimension"]), one) for one in row["rows"]]
            points = " ".join(f"{place:.1f},{y(one['gain']):.1f}" for place, one in at)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
            for place, one in at:
                parts.append(f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{y(one["low"]):.1f}" y2="{y(one["high"]):.1f}" stroke="{colour}"/><circle cx="{place:.1f}" cy="{y(one["gain"]):.1f}" r="3.5" fill="{colour}"/>')
        parts.append(f'<text x="{(start + end) / 2}" y="{high - bottom + 34}" text-anchor="middle">{task}</text>')
    return "".join([*parts, f'<text x="{left}" y="{high - 8}">dimension of the subspace</text></svg>']) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, help="none: draw what was measured")
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
    FIGURE.write_text(draw(known()))


if __name__ == "__main__":
    main()
