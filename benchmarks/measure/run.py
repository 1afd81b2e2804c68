"""How fast is ``measure`` beside a plain loop over ``transformers``, on one core, in tokens per second of processor time?

    python benchmarks/measure/run.py MODEL [--tokens 1024] [--context 512] [--rounds 3] [--out FILE.json]

MODEL is anything ``scalebound.models.load_model`` loads. Four ways score the same random blocks in turn, once a round: the loop and ours, in
float32 and in bfloat16. The loop is what people write: logits of a block, float32 ``log_softmax``, then loss, entropy and varentropy. Ours is
``score_pieces``. Processor time is used because the machine may be shared; ratios are what to read. Writes a dated JSON record.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from scalebound.measure.score import score_pieces
from scalebound.models import load_model


def plain(model, tokens_BT: np.ndarray, first: int) -> np.ndarray:
    """Loss, entropy and varentropy with an array of [tokens, vocabulary] for each block."""
    rows = []
    with torch.inference_mode():
        for block in torch.from_numpy(tokens_BT):
            log_p = torch.log_softmax(model.logits(torch.cat([torch.tensor([first]), block[:-1]])[None])[0].float(), dim=-1)
            p = log_p.exp()
            entropy = -(p * log_p).sum(-1)
            rows.append(torch.stack([-log_p.gather(1, block[:, None])[:, 0], entropy, (p * (log_p + entropy[:, None]).square()).sum(-1)]))
    return torch.cat(rows, dim=1).numpy()


def ours(model, tokens_BT: np.ndarray, first: int) -> np.ndarray:
    found = score_pieces(model, list(tokens_BT), [0] * len(tokens_BT), first)
    return np.stack([found[name] for name in ("nll", "entropy", "varentropy")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    models = {dtype: load_model(given.model, dtype=dtype) for dtype in ("float32", "bfloat16")}
    first = models["float32"].first_token
    tokens = np.random.default_rng(0).integers(0, models["float32"].vocab_size, (max(1, given.tokens // given.context), given.context))
    ways = {f"{name} {dtype}": (way, model) for dtype, model in models.items() for name, way in (("loop", plain), ("ours", ours))}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for number in range(given.rounds + 1):  # the first round warms up
        for name, (way, model) in ways.items():
            began = time.process_time()
            found[name] = way(model, tokens, first)
            if number:
                spent[name].append(tokens.size / (time.process_time() - began))
    speed = {name: float(np.median(values)) for name, values in spent.items()}
    record = {
        "question": "tokens per second of processor time, one thread", "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *(Path(word).name if os.path.isabs(word) else word for word in sys.argv)]), "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", "torch": torch.__version__,
        "model": Path(given.model).name, "params": models["float32"].num_params, "tokens": int(tokens.size), "context": given.context, "rounds": given.rounds,
        "tokens_per_second": {name: round(value, 1) for name, value in speed.items()}, "all": {name: [round(v, 1) for v in values] for name, values in spent.items()},
        "ratios": {
            "ours bfloat16 / loop float32": round(speed["ours bfloat16"] / speed["loop float32"], 3), "ours bfloat16 / loop bfloat16": round(speed["ours bfloat16"] / speed["loop bfloat16"], 3),
            "ours float32 / loop float32": round(speed["ours float32"] / speed["loop float32"], 3),
        },
        "largest difference, float32": {name: float(np.abs(a - b).max()) for name, a, b in zip(("nll", "entropy", "varentropy"), found["ours float32"], found["loop float32"], strict=True)},
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }  # fmt: skip
    text = json.dumps(record, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
