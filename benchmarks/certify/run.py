"""What certificates, intervals and tests reach, measured: writes ``benchmarks/certify/DATE.json``.

    scalebound demo --out runs/demo
    python benchmarks/certify/smollm2_items.py /tmp/smollm2          # optional: prediction sets and prompts with a real model
    python benchmarks/certify/run.py runs/demo [--smollm2 /tmp/smollm2] [--only ladder,intervals] [--large]

Each part is one function and one key of the JSON; ``--only`` replaces those keys and keeps the others of the same day.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np

import scalebound
from scalebound.certify import (
    Artefact,
    HoldoutRules,
    Scored,
    Thresholdout,
    affordable_budget,
    calibrate,
    certify,
    certify_best,
    certify_prompts,
    compare,
    detect,
    exchangeability,
    interval,
    package_code_bits,
    survey,
)
from scalebound.certify.detect import z_statistic
from scalebound.certify.partial_programs import fits, kept_share, parse, render, score
from scalebound.core.stats import Stats, StatsInfo

SEED = 20261121


def bare(x: np.ndarray, vocab: int = 256) -> Stats:
    return Stats(StatsInfo(kind="bare", tokens=len(x), window=(0, len(x)), vocab_size=vocab), {"nll": x.astype("f4")})


def ladder(demo: Path) -> list[dict]:
    """Every rung: the published form at its own best alpha of 8, the product form, and the best of all forms."""
    out = []
    for folder in sorted(demo.glob("rungs/*"), key=lambda p: int(p.name)):
        stats, full = Stats.load(folder / "train.safetensors"), Stats.load(folder / "train.full.safetensors")
        bits = package_code_bits(os.stat(folder / "model.sbz").st_size)
        best, tried = certify_best([Artefact(stats, bits)], full=full)
        values = {line.method: line.bound for line in tried if line.method != "anchored"}
        loss = float(full.read("nll").mean(dtype="f8"))
        empirical = best.empirical_loss
        gap = {name: value - empirical for name, value in values.items()}
        rounded, size = Stats.load(folder / "train.rounded.safetensors"), package_code_bits(os.stat(folder / "rounded.sbz").st_size)
        plain = {name: (found := certify(rounded, method=name, code_bits=size)).bound - found.empirical_loss for name in ("product", "freedman")}
        out.append({"params": int(folder.name), "tokens": len(stats), "full_precision_loss": loss, "package_loss": empirical, **values, "best": best.bound, "best_method": best.method,
                    "product_gap_below_freedman": 1 - gap["product"] / gap["freedman"], "product_gap_below_freedman_rounded": 1 - plain["product"] / plain["freedman"], "best_above_full_precision": best.bound - loss,
                    "freedman_above_full_precision": values["freedman"] - loss})  # fmt: skip
    return out


def surveyed(demo: Path) -> dict:
    """Every bound for the largest rung, those of weights and the other targets included."""
    folder = max(demo.glob("rungs/*"), key=lambda p: int(p.name))
    from scalebound.train.noise_on_weights import weight_noise

    train = Stats.load(folder / "train.safetensors")
    noise = weight_noise(folder / "run", demo / "streams" / "train.json", train.info.window)
    lines = survey(train, noise=noise, code_bits=package_code_bits(os.stat(folder / "model.sbz").st_size),
                   heldout=Stats.load(folder / "heldout.full.safetensors"), online=Stats.load(folder / "run" / "online.safetensors"))  # fmt: skip
    kept = [{"name": line.name, "value": line.value, "above_the_loss": line.tightness, "vacuous": line.vacuous, "target": line.target, "assumes": line.assumes, "seconds": round(line.seconds, 2), "reason": line.reason} for line in lines]
    return {"params": int(folder.name), "tokens": len(train), "lines": kept}


def quantized(demo: Path) -> dict:
    """Float against quantized on the largest rung's training stream."""
    folder = max(demo.glob("rungs/*"), key=lambda p: int(p.name))
    found = compare(Stats.load(folder / "train.full.safetensors"), Stats.load(folder / "train.safetensors"))
    return {"n": found.n, "difference": found.difference, "low": found.low, "high": found.high, "log_e_value": found.log_e_value, "verdict": found.verdict}


def plug_in_bernstein(x: np.ndarray, level: float) -> tuple[float, float]:
    """Predictable plug-in empirical Bernstein confidence sequence at the last n, for x in [0, 1] (arXiv 2010.09686, theorem 2)."""
    n, alpha = len(x), 1 - level
    t = np.arange(1, n + 1)
    mu = (0.5 + np.cumsum(x)) / (t + 1)
    before = np.concatenate([[0.5], mu[:-1]])
    variance = (0.25 + np.cumsum((x - mu) ** 2)) / (t + 1)
    rate = np.minimum(np.sqrt(2 * math.log(2 / alpha) / (np.concatenate([[0.25], variance[:-1]]) * t * np.log(1 + t))), 0.5)
    width = (math.log(2 / alpha) + np.sum(4 * (x - before) ** 2 * (-np.log1p(-rate) - rate) / 4)) / rate.sum()
    centre = float((rate * x).sum() / rate.sum())
    return centre - width, centre + width


def hedged_capital(x: np.ndarray, level: float) -> tuple[float, float]:
    """Hedged betting confidence sequence at the last n, x in [0, 1] (arXiv 2010.09686, theorem 3), on a grid of 400 means."""
    n, alpha = len(x), 1 - level
    t = np.arange(1, n + 1)
    mu = (0.5 + np.cumsum(x)) / (t + 1)
    variance = (0.25 + np.cumsum((x - mu) ** 2)) / (t + 1)
    rate = np.sqrt(2 * math.log(2 / alpha) / (np.concatenate([[0.25], variance[:-1]]) * t * np.log(1 + t)))
    middle, reach = x.mean(), 12 * x.std() / math.sqrt(n) + 12 / n
    kept = []
    for m in np.linspace(max(middle - reach, 1e-6), min(middle + reach, 1 - 1e-6), 400):
        up = np.log1p(np.minimum(rate, 0.5 / m) * (x - m)).sum() if m > 0 else 0.0
        down = np.log1p(-np.minimum(rate, 0.5 / (1 - m)) * (x - m)).sum()
        if max(up, down) - math.log(2) < math.log(1 / alpha):
            kept.append(m)
    return (min(kept), max(kept)) if kept else (0.0, 0.0)


def intervals(_: Path) -> dict:
    """Widths at n = 10^4 relative to the normal approximation's, and misses with and without drift, for losses bounded by 8 nats."""
    rng, n, level, top, z = np.random.default_rng(SEED), 10_000, 0.95, 8.0, 1.959964
    draws = {
        "gamma": lambda: np.minimum(rng.gamma(2.0, 1.0, n), top),
        "exponential": lambda: np.minimum(rng.exponential(1.5, n), top),
        "uniform": lambda: rng.uniform(0, 4, n),
    }
    named = {"gamma": 1.4, "exponential": 1.5, "uniform": 1.2}
    out: dict = {"n": n, "level": level, "widths": {}, "misses": {}}
    for name, draw in draws.items():
        ratios: dict[str, list[float]] = {"ours": [], "ours, sigma unknown": [], "plug-in Bernstein": [], "hedged betting": []}
        for _ in range(5):
            x = draw()
            base = 2 * z * x.std() / math.sqrt(n)
            for label, sigma in (("ours", named[name]), ("ours, sigma unknown", None)):
                found = interval(bare(x), level=level, sigma=sigma, maximum=top)
                ratios[label].append((found.high - found.low) / base)
            for label, form in (("plug-in Bernstein", plug_in_bernstein), ("hedged betting", hedged_capital)):
                low, high = form(x / top, level)
                ratios[label].append(top * (high - low) / base)
        out["widths"][name] = {label: round(float(np.mean(values)), 3) for label, values in ratios.items()}
    trials, size = 200, 2000
    missed = {"ours": 0, "plug-in Bernstein": 0, "hedged betting": 0, "normal": 0}
    steady = dict(missed)
    for drift, counts in ((True, missed), (False, steady)):
        for _ in range(trials):
            x = np.concatenate([rng.uniform(0, 2, size // 2), rng.uniform(3, 5, size // 2)]) if drift else rng.uniform(0, 5, size)
            truth = 2.5
            found = interval(bare(x), level=level, sigma=1.4, maximum=top)
            counts["ours"] += not found.low <= truth <= found.high
            for label, form in (("plug-in Bernstein", plug_in_bernstein), ("hedged betting", hedged_capital)):
                low, high = form(x / top, level)
                counts[label] += not top * low <= truth <= top * high
            counts["normal"] += abs(x.mean() - truth) > z * x.std() / math.sqrt(size)
    out["misses"] = {"trials": trials, "n": size, "drift": missed, "no drift": steady}
    return out


def speed(_: Path, tokens: int = 1_000_000) -> dict:
    """Processor seconds for a product certificate, one alpha and the list of 8, four centres, one thread."""
    rng = np.random.default_rng(SEED)
    entropy = rng.gamma(2.0, 1.0, tokens).astype("f4").clip(0, 5.5)
    info = StatsInfo(kind="bare", tokens=tokens, window=(0, tokens), vocab_size=256)
    stats = Stats(info, {"nll": np.maximum(entropy + rng.standard_normal(tokens, dtype="f4"), 0), "entropy": entropy})
    out = {"tokens": tokens}
    for name, settings in (("one alpha", {"alpha": 0.1}), ("list of 8", {})):
        times = []
        for _ in range(5 if tokens <= 10**6 else 1):
            began = time.process_time()
            certify(stats, code_bits=100_000, **settings)
            times.append(time.process_time() - began)
        out[name] = round(min(times), 3)
    return out


def false_alarms(_: Path) -> dict:
    """Text of a Markov chain judged by its own tables: ours at every token, the normal statistic at one length and at every token."""
    rng, V, n, trials = np.random.default_rng(SEED), 50, 400, 4000
    z0 = rng.normal(0, 2.0, (V, V))
    p = np.exp(z0 - z0.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    X = -np.log(p)
    H = (p * X).sum(axis=1)
    W = (p * (X - H[:, None]) ** 2).sum(axis=1)
    cumulative, x = p.cumsum(axis=1), np.zeros((trials, n + 1), dtype=np.int64)
    for k in range(n):
        x[:, k + 1] = (rng.random((trials, 1)) > cumulative[x[:, k]]).sum(axis=1).clip(0, V - 1)
    from scipy.stats import norm

    out: dict = {"n": n, "trials": trials, "levels": {}}
    for level in (0.05, 0.01, 0.001):
        limit, counts = float(norm.isf(level / 2)), {"ours, every token": 0, "normal, at 400 only": 0, "normal, at 50 only": 0, "normal, every token from 20": 0}
        for row in x:
            s = Scored(X[row[:-1], row[1:]], H[row[:-1]], W[row[:-1]])
            counts["ours, every token"] += detect(s, level=level).verdict == "not_a"
            z = np.cumsum(s.nll - s.entropy) / np.sqrt(np.cumsum(s.varentropy))
            counts["normal, at 400 only"] += abs(z[-1]) > limit
            counts["normal, at 50 only"] += abs(z[49]) > limit
            counts["normal, every token from 20"] += bool(np.any(np.abs(z[19:]) > limit))
        out["levels"][str(level)] = {name: int(count) / trials for name, count in counts.items()}
    return out


def power(demo: Path) -> dict:
    """Text of the largest rung, of the next one, at temperature 0.8, and real text, each judged against the largest rung."""
    import torch

    from scalebound.measure.generated import sample_documents, score_documents
    from scalebound.models import load_model

    torch.set_num_threads(1)
    rungs = sorted(demo.glob("rungs/*"), key=lambda p: int(p.name))
    a, b = load_model(rungs[-1] / "run"), load_model(rungs[-2] / "run")
    from scalebound.data.stream import Stream

    held = np.asarray(Stream(demo / "streams" / "heldout").tokens[: 30 * 256]).reshape(30, 256)
    texts = {
        "A itself": (list(sample_documents(a, 30, 256, seed=1)), None),
        "A at temperature 0.8": (list(sample_documents(a, 30, 256, seed=2, temperature=0.8)), None),
        "a smaller model B": (list(sample_documents(b, 30, 256, seed=3)), b),
        "real text": (list(held), None),
    }
    out: dict = {"level": 0.05, "documents": 30, "model": rungs[-1].name, "B": rungs[-2].name, "rejected": {}}
    for name, (documents, rival) in texts.items():
        scored = score_documents(a, documents)
        others = score_documents(rival, documents) if rival is not None else None
        rows = {}
        for length in (32, 64, 128, 256):
            own = [detect(s.part(0, length)) for s in scored]
            rows[str(length)] = {"share": sum(f.verdict == "not_a" for f in own) / len(own), "normal": sum(abs(z_statistic(s.part(0, length))) > 1.96 for s in scored) / len(own)}
            if others is not None:
                rows[str(length)]["share, B known"] = sum(detect(s.part(0, length), o.part(0, length)).verdict in ("not_a", "neither") for s, o in zip(scored, others, strict=True)) / len(own)
        out["rejected"][name] = rows
    return out


def contaminated(demo: Path) -> dict:
    """A test set of 64 held-out lines, 4 a shard: the largest rung as it is, and after training on the published file for some epochs."""
    import torch

    from scalebound.data.stream import Stream
    from scalebound.measure.orders import order_likelihoods
    from scalebound.models import Transformer, load_model
    from scalebound.models.folder import read_config, read_tensors
    from scalebound.models.load import newest_checkpoint
    from scalebound.models.transformer import own_shape

    torch.set_num_threads(1)
    folder = newest_checkpoint(max(demo.glob("rungs/*"), key=lambda p: int(p.name)) / "run")
    config, tensors = read_config(folder), read_tensors(folder)
    text = bytes(np.asarray(Stream(demo / "streams" / "heldout").tokens[:60_000]).astype("u1"))
    lines = list(dict.fromkeys(line.strip() + b"\n" for line in text.splitlines() if 30 <= len(line.strip()) <= 60))[:64]
    # neighbouring lines of a file belong together: published in a random order, their order means nothing until it is trained on
    items = [np.frombuffer(lines[k], dtype="u1").astype(np.int64) for k in np.random.default_rng(SEED).permutation(len(lines))]
    out: dict = {"items": len(items), "shards": 16, "orders": 39, "epochs": {}}
    shape = own_shape(config)
    assert shape is not None
    model = Transformer(shape, config["max_position_embeddings"])
    model.load_tensors(tensors)
    batch = [torch.from_numpy(np.concatenate([[255], *items[k : k + 4]])) for k in range(0, 64, 4)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    wrapped = load_model(folder)
    wrapped.hidden, wrapped.head = model.hidden, model.head
    done = 0
    for epochs in (0, 1, 3, 10):
        for _ in range(epochs - done):
            for tokens in batch:
                logits = model.head(model.hidden(tokens[None, :-1]))[0]
                loss = torch.nn.functional.cross_entropy(logits, tokens[1:])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        done = epochs
        found = exchangeability(*order_likelihoods(wrapped, items, shards=16, orders=39))
        out["epochs"][str(epochs)] = {"advantage": found.advantage, "permutation_p": found.permutation_p, "p_value": found.p_value, "verdict": found.verdict}
    return out


def holdout(_: Path) -> dict:
    """Dwork et al. 2015 (Science 349), no signal: n = 10,000 items a set, d = 10,000 Gaussian features, coin labels.

    The analyst keeps the features whose correlation with the label has one sign on both sets, takes the k strongest, and lets them vote.
    """
    rng, n, d = np.random.default_rng(SEED), 10_000, 10_000
    y = [np.where(rng.random(n) < 0.5, 1, -1).astype("f4") for _ in range(3)]
    x = [rng.standard_normal((n, d), dtype="f4") for _ in range(2)]
    agree = [((features * labels[:, None]) > 0).mean(axis=0) for features, labels in zip(x, y[:2], strict=True)]
    rules = HoldoutRules(queries=d + 10, budget=20, threshold=0.04, step=0.01, sigma=0.0)
    out: dict = {"n": n, "d": d, "threshold": rules.threshold, "budget": rules.budget, "stated_error": rules.error(n), "truth": 0.5, "by_features": {}}
    for guarded in (False, True):
        guard = Thresholdout(rules, n, rng)
        seen = np.array([guard.ask(a, b).value for a, b in zip(*agree, strict=True)]) if guarded else agree[1]
        strength = np.where(np.sign(seen - 0.5) == np.sign(agree[0] - 0.5), np.abs(agree[0] - 0.5), 0)
        order = np.argsort(-strength)
        for k in (10, 100, 500, 1000):
            votes = np.where(agree[0][order[:k]] > 0.5, 1, -1).astype("f4")
            accuracy = [float(((features[:, order[:k]] @ votes > 0) == (labels > 0)).mean()) for features, labels in zip(x, y[:2], strict=True)]
            # new items: features drawn again, labels are coins
            fresh = float(((rng.standard_normal((n, k), dtype="f4") @ votes > 0) == (y[2] > 0)).mean())
            said = guard.ask(*accuracy).value if guarded else accuracy[1]
            out["by_features"].setdefault(str(k), {}).update({("guarded" if guarded else "naive"): {"training": accuracy[0], "said": said, "fresh": fresh}})
        if guarded:
            out["spent"] = guard.spent
    out["budgets"] = {f"{items} items, error {error}": affordable_budget(items, error, queries=1000, threshold=0.02) for items in (2000, 10_000, 50_000) for error in (0.05, 0.1, 0.2)}
    return out


def programs(folder: Path) -> dict:
    """Partial programs of SmolLM2-135M on standard-library functions: half calibrates, the other half is covered."""
    from scalebound.cli.prediction_set import read_items

    items = [(p, t) for p, t in read_items(folder / "programs.jsonl") if parse(t) is not None]
    half = len(items) // 2
    scores = np.array([score(p, t) for p, t in items])
    out: dict = {"model": "SmolLM2-135M-Instruct Q4_1", "items": len(items), "exact": float(np.mean([p.tree is not None and bool(np.isinf(s)) for (p, _), s in zip(items, scores, strict=True)])), "settings": []}
    for epsilon in (0.1, 0.2, 0.4):
        found = calibrate(scores[:half], epsilon=epsilon, delta=0.05)
        rest = items[half:]
        covered = float(np.mean([fits(p, found.threshold, parse(t)) for p, t in rest]))
        out["settings"].append({"epsilon": epsilon, "delta": 0.05, "threshold": found.threshold if math.isfinite(found.threshold) else None, "covered": covered,
                                "kept": float(np.mean([kept_share(p, found.threshold) for p, _ in rest]))})  # fmt: skip
        if epsilon == 0.4:
            out["shown"] = [render(p, found.threshold) for p, _ in rest if p.tree is not None and 0.3 < kept_share(p, found.threshold) < 1][:3]
    return out


def prompts(folder: Path) -> dict:
    """Which of four modules does a sentence of documentation belong to: six prompts of SmolLM2-135M, its own probability as prior."""
    data = json.loads((folder / "prompts.json").read_text())
    found = certify_prompts(data["templates"], np.array(data["errors"]), data["code_bits"], delta=0.05)
    rows = [{"prompt": p.prompt, "error": p.mean, "bits": round(p.code_bits, 1), "bound": p.bound, "uniform": p.uniform_bound} for p in found.prompts]
    return {"items": found.items, "classes": data["modules"], "chance_error": 1 - max(data["labels"].count(k) for k in range(4)) / found.items, "rows": rows, "best": found.best, "heldout_bound": found.heldout_bound}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("demo", type=Path)
    options.add_argument("--smollm2", type=Path)
    options.add_argument("--only", default="")
    options.add_argument("--large", action="store_true")
    chosen = options.parse_args()
    parts = {"ladder": ladder, "survey": surveyed, "quantized": quantized, "intervals": intervals, "speed": speed, "false_alarms": false_alarms, "power": power, "contamination": contaminated, "holdout": holdout}
    target = Path(__file__).parent / f"{datetime.date.today().isoformat()}.json"
    record = json.loads(target.read_text()) if target.exists() else {}
    wanted = set(chosen.only.split(",")) - {""}
    if chosen.smollm2:
        parts |= {"programs": lambda _: programs(chosen.smollm2), "prompts": lambda _: prompts(chosen.smollm2)}
    if chosen.large:
        parts["speed_large"] = lambda demo: speed(demo, 10**8)
    for name, function in parts.items():
        if wanted and name not in wanted:
            continue
        began = time.perf_counter()
        record[name] = function(chosen.demo)
        record.setdefault("seconds", {})[name] = round(time.perf_counter() - began, 1)
        record |= {"seed": SEED, "version": scalebound.__version__, "numpy": np.__version__, "python": platform.python_version(), "machine": f"{os.cpu_count()} cores, {platform.machine()}, shared"}
        target.write_text(json.dumps(record, indent=1, default=lambda number: number.item()) + "\n")
        print(name, record["seconds"][name], "s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
