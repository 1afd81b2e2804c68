"""How fast is ``train`` beside a plain loop on the same shapes, for single runs and for a whole ladder, and is its loss as good?

    python benchmarks/train/run.py [--sizes 0.2M,1M,3M,10M] [--rounds 2] [--seconds 8] [--out benchmarks/train/results.json]

The peer stands in this file: the loop people start from (nanoGPT's): ``nn.Linear`` for every projection, ``scaled_dot_product_attention``, PyTorch's default
AdamW, the same sequences of a memory-mapped text in the same order, float32, gradient clipping, a loss read every ten steps, nothing else kept. Ours is ``train_run`` as a user gets it:
every token's loss, a log line a step, the watch, atomic files, the precision its recipe derives.

* single: one thread each, taken in turn, the same tokens; tokens per second of *processor* time, best of the rounds (the machine may be shared);
* ladder: six rungs; ours with a process per core, the loop rung after rung with a thread per core; wall clock, start-up included for both;
* loss: one rung, ours at its derived rate, the loop at five rates around it, mean loss of the last tenth of equal tokens;
* compile: ours with the passes compiled and not, steps in turn, processor time of the median step; the time until the first compiled pass is done (nothing cached, wall clock), and how much
  faster five minutes of training become with it counted;
* peak: a large matrix product of the same run in float32 and bfloat16, one thread; the share of it is 6 x parameters x tokens per second.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CONTEXT = 256
SEPARATOR = 255  # stands before every sequence
LADDER = (15_000, 25_000, 40_000, 65_000, 100_000, 150_000)
LADDER_TOKENS_PER_PARAM = 5.0
LOSS_SIZE, LOSS_TOKENS_PER_PARAM = 60_000, 10.0
RATES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the derived rate


class Block(nn.Module):
    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, feed_forward, bias=False) for _ in range(2))
        self.down = nn.Linear(feed_forward, width, bias=False)

    def forward(self, x, cos, sin):
        B, T, D = x.shape
        n = self.norm1(x)
        q, k, v = (part(n).view(B, T, self.heads, D // self.heads).transpose(1, 2) for part in (self.q, self.k, self.v))
        q, k = self.turn(q, cos, sin), self.turn(k, cos, sin)
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, D))
        n = self.norm2(x)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))

    @staticmethod
    def turn(x, cos, sin):
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


class Plain(nn.Module):
    """The peer's model: the same shape, written the usual way."""

    def __init__(self, vocab: int, width: int, depth: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(width, heads, feed_forward) for _ in range(depth))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocab, bias=False)
        self.head.weight = self.embed.weight
        half = width // heads
        angle = torch.outer(torch.arange(CONTEXT).float(), 10000.0 ** -(torch.arange(0, half, 2).float() / half)).repeat(1, 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * depth) if name.endswith(("o.weight", "down.weight")) else 1))

    def forward(self, tokens, targets):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def plain_loop(recipe, path: str, *, rate: float | None = None, seed: int = 0) -> float:
    """Train the peer for the recipe's tokens with warmup and cosine decay to a tenth; returns the mean loss of the last tenth of its steps."""
    torch.manual_seed(seed)
    data = np.memmap(path, dtype=np.uint16, mode="r")
    model = Plain(recipe.vocab_size, recipe.width, recipe.depth, recipe.heads, recipe.feed_forward)
    matrices, vectors = [p for p in model.parameters() if p.ndim >= 2], [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=1.0, betas=(0.9, 0.95))
    rate, steps, losses = rate or recipe.learning_rate, recipe.steps, []
    rising = max(1, round(recipe.warmup * steps))
    first = torch.full((recipe.batch_sequences, 1), SEPARATOR)
    for step in range(steps):
        # the same sequences in the same order as ours: they were shuffled, so that a window across two of them would be harder to predict
        y = torch.from_numpy(data[step * len(first) * CONTEXT : (step + 1) * len(first) * CONTEXT].astype(np.int64).reshape(-1, CONTEXT))
        x = torch.cat([first, y[:, :-1]], dim=1)
        now = rate * ((step + 1) / rising if step < rising else 0.1 + 0.45 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))))
        for group in optimizer.param_groups:
            group["lr"] = now
        loss = model(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step >= 0.9 * steps or step % 10 == 0:
            losses.append(loss.item())
    return float(np.mean(losses[-max(1, steps // 10) :]))


def peak(dtype: torch.dtype) -> float:
    """FLOPs per second of processor time of a matrix product, one thread."""
    a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        start = time.process_time()
        for _ in range(4):
            a @ b
        best = max(best, 4 * 2 * 1024**3 / (time.process_time() - start))
    return best


def single(sizes: list[float], stream: Path, folder: Path, *, rounds: int, seconds: float) -> tuple[dict[str, float], list[dict]]:
    """FLOPs per second of a matrix product, and tokens per second of both, taken in turn."""
    from scalebound.train import derive_recipe, seconds_for, train_run

    torch.set_num_threads(1)
    peaks = {"float32": peak(torch.float32), "bfloat16": peak(torch.bfloat16)}
    out = []
    for size in sizes:
        whole = derive_recipe(int(size))
        batch = min(whole.batch_sequences, 16)
        probe = derive_recipe(int(size), overrides={"tokens": batch * CONTEXT * 10, "batch_sequences": batch})
        steps = max(6, round(seconds / (seconds_for(probe) / 10)))
        keys = {"tokens": steps * batch * CONTEXT, "batch_sequences": batch}
        recipes = {"ours": derive_recipe(int(size), overrides=keys), "ours float32": derive_recipe(int(size), overrides=keys | {"precision": "float32"})}
        if recipes["ours"] == recipes["ours float32"]:
            del recipes["ours float32"]
        speed: dict[str, list[float]] = {name: [] for name in (*recipes, "loop")}
        for turn in range(rounds):
            for name in speed:
                start = time.process_time()
                if name == "loop":
                    plain_loop(recipes["ours"], str(stream.with_suffix(".bin")))
                else:
                    train_run(recipes[name], stream, folder / f"single-{int(size)}-{name}-{turn}")
                speed[name].append(keys["tokens"] / (time.process_time() - start))
        found = {name: max(values) for name, values in speed.items()}
        entry = {
            "params": whole.params, "shape": f"{whole.width} x {whole.depth}, {whole.heads} heads", "precision": recipes["ours"].precision, "batch": batch, "tokens": keys["tokens"],
            "tokens_per_second": found, "ratio": found["ours"] / found["loop"], "share_of_peak": 6 * whole.params * found["ours"] / peaks[recipes["ours"].precision],
        }  # fmt: skip
        out.append(entry)
        print(json.dumps(entry), flush=True)
    return peaks, out


def ladder(stream: Path, folder: Path) -> dict:
    """Wall clock of six rungs, each way in a process of its own so that both pay for start-up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    here = str(Path(__file__).resolve().parent)
    head = f"import sys; sys.path.insert(0, {here!r}); import run; from scalebound.train import derive_recipe, train_ladder; R = [derive_recipe(n, tokens_per_param={LADDER_TOKENS_PER_PARAM}) for n in {LADDER}]"
    ways = {
        "ours": f"{head}\nif __name__ == '__main__': train_ladder([(r, {str(stream)!r}, {str(folder / 'ladder')!r} + '/' + str(r.params)) for r in R], workers={cores})",
        "loop": f"{head}\nrun.torch.set_num_threads({cores})\nfor r in R: run.plain_loop(r, {str(stream.with_suffix('.bin'))!r})",
    }
    out: dict = {"rungs": len(LADDER), "cores": cores}
    for name, code in ways.items():
        script = folder / f"{name}.py"
        script.write_text(code)
        start = time.perf_counter()
        subprocess.run([sys.executable, str(script)], check=True, env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS" or name == "ours"})
        out[f"{name}_s"] = time.perf_counter() - start
    out["ratio"] = out["loop_s"] / out["ours_s"]
    print(json.dumps(out), flush=True)
    return out


def loss(stream: Path, folder: Path) -> dict:
    """Loss at equal tokens: ours at its derived rate, the loop at the best of five."""
    from scalebound.train import derive_recipe, train_run

    torch.set_num_threads(1)
    recipe = derive_recipe(LOSS_SIZE, tokens_per_param=LOSS_TOKENS_PER_PARAM)
    ours = train_run(recipe, stream, folder / "loss").train_loss
    tried = {f"{recipe.learning_rate * factor:.5g}": plain_loop(recipe, str(stream.with_suffix(".bin")), rate=recipe.learning_rate * factor) for factor in RATES}
    out = {"params": recipe.params, "tokens": recipe.tokens, "ours": ours, "ours_rate": recipe.learning_rate, "loop": tried, "loop_best": min(tried.values())}
    print(json.dumps(out), flush=True)
    return out


def compiled(sizes: list[float], *, seconds: float) -> list[dict]:
    """Steps with compiled passes and without, at the precision of the whole run and batches of at most 16 sequences."""
    from scalebound.train import derive_recipe
    from scalebound.train.parametrization import build
    from scalebound.train.passes import backward, compiled_losses, plain_losses

    torch.set_num_threads(1)
    torch._inductor.config.force_disable_caches = True  # type: ignore[attr-defined]
    out = []
    for size in sizes:
        torch._dynamo.reset()
        recipe = derive_recipe(int(size))
        rows = min(recipe.batch_sequences, 16)
        model, optimizer = build(recipe, torch.Generator().manual_seed(0))
        batch = np.random.default_rng(0).integers(0, 255, size=(rows, CONTEXT))
        ways = {"plain": plain_losses(model, recipe.precision), "compiled": compiled_losses(model, recipe.precision, rows)}

        def step(way, model=model, optimizer=optimizer, batch=batch) -> float:
            start = time.process_time()
            backward(model, batch, SEPARATOR, 1, losses_of=way)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return time.process_time() - start

        step(ways["plain"])
        start = time.perf_counter()
        step(ways["compiled"])
        waited = time.perf_counter() - start
        spent: dict[str, list[float]] = {name: [] for name in ways}
        began = time.process_time()
        while len(spent["compiled"]) < 5 or time.process_time() - began < seconds:
            for name, way in ways.items():
                spent[name].append(step(way))
        medians = {name: float(np.median(values)) for name, values in spent.items()}
        ratio = medians["plain"] / medians["compiled"]
        entry = {"params": recipe.params, "precision": recipe.precision, "batch": rows, "steps": len(spent["compiled"]), "tokens_per_second": {name: rows * CONTEXT / s for name, s in medians.items()},
                 "ratio": ratio, "first_pass_s": waited, "five_minutes": (300 - waited) * ratio / 300}  # fmt: skip
        out.append(entry)
        print(json.dumps(entry), flush=True)
    return out


def main() -> None:
    from scalebound.cli.numbers import parse_numbers
    from scalebound.data import build_stream, load_tokenizer, read_corpus
    from scalebound.data.stream import SourceRef

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0.2M,1M,3M,10M")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one single run")
    parser.add_argument("--text", default=None, help="default: the text of scalebound train")
    parser.add_argument("--only", choices=("single", "ladder", "loss", "compile"), default=None, help="this part alone; the others of OUT stay")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = read_corpus(given.text)
        stream = build_stream(corpus.documents, load_tokenizer(), folder / "text", sequence_tokens=CONTEXT, source=SourceRef(corpus.name, corpus.sha256), seed=0, max_tokens=4_000_000).path
        about = {"date": datetime.date.today().isoformat(), "machine": f"{platform.machine()} {platform.system()}", "torch": torch.__version__, "load": os.getloadavg()[0],
                 "command": "python benchmarks/train/run.py " + " ".join(Path(word).name if "/" in word else word for word in sys.argv[1:])}  # fmt: skip
        results: dict = json.loads(given.out.read_text()) if given.only and given.out.is_file() else {"runs": {}}
        if given.only in (None, "single"):
            results["matmul_flops_per_second"], results["single"] = single(list(parse_numbers(given.sizes, "--sizes")), stream, folder, rounds=given.rounds, seconds=given.seconds)
        if given.only in (None, "ladder"):
            results["ladder"] = ladder(stream, folder)
        if given.only in (None, "loss"):
            results["loss"] = loss(stream, folder)
        if given.only in (None, "compile"):
            results["compile"] = compiled(list(parse_numbers(given.sizes, "--sizes")), seconds=given.seconds)
        results["runs"] |= {part: about for part in ((given.only,) if given.only else ("single", "ladder", "loss", "compile"))}
    given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
