"""What ``interval``, ``compare`` and ``certify-prompt`` save, recomputed from the files it names (docs/mathematics.md C3 and C7). On trust: that
level, shares, horizon and sigma were named in advance, units and items are independent, and where a prompt's code length comes from."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray as Array

from scalebound_verify.arrays import Statistics, texts
from scalebound_verify.bounds import gather, log_sum, product
from scalebound_verify.strict import Claim, Refused, load

Column = Callable[[int, int], Array]  # values of a quantity at tokens, or units, [start, stop)

def zero(start: int, stop: int) -> Array:
    return np.zeros(stop - start)

def most_errors(k: int, n: int, bits: float, delta: float) -> float:
    """The largest error rate at which k or fewer errors among n have probability ``delta 2^-bits`` or more."""
    i, low, high, right = np.arange(k + 1), k / n, 1.0, math.log(1 / delta) + bits * math.log(2)
    ways = np.array([math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1) for m in range(k + 1)])
    while k < n and low < (p := (low + high) / 2) < high:
        low, high = (p, high) if log_sum(ways + i * math.log(p) + (n - i) * math.log1p(-p)) >= -right else (low, p)
    return high

class Record(Claim):
    """One saved interval, comparison or table of prompts. ``ends``: (stated, recomputed), of which the stated may not be smaller."""
    def recompute(self) -> float:
        """Every number; returns the recomputed upper end, of the best prompt's error for prompts."""
        true, ends = {"interval": self.interval, "compare": self.compare, "prompts": self.prompts}[self.name]()
        self.say("numbers", f"{len(true)} as recomputed", self.differing(self.c, true))
        self.say("bound", "; ".join(f"{x} {a!r}, recomputed {b!r}" for x, (a, b) in list(ends.items())[:2]), {
            f"{x} is {a!r}, but the losses give {b!r}": b <= a + 1e-12 * abs(a) for x, (a, b) in ends.items()})  # fmt: skip
        return next(iter(ends.values()))[1]

    def open(self, *names: str) -> list[Statistics]:
        """The losses; ``n`` tokens or units, and ``column``, which turns values of tokens into means of units."""
        c, kind, edges = self.c, self.c["units"], np.zeros(0, np.int64)
        self.hashes((*names, "stream"), names)
        first, *others = opened = [Statistics(self.files[x], c.get("vocab_size") or 2, None) for x in names]
        shared = all(x.tokens == first.tokens and len({x.info["stream"]["sha256"], first.info["stream"]["sha256"], ""}) < 3 and (
            "bare" in (x.info["kind"], first.info["kind"]) or (x.window == first.window and np.array_equal(x.blocks, first.blocks))) for x in others)
        self.say("settings", f"level {c['level']}, alpha {c['alpha']}", {"the two are not about the same tokens": shared, "a setting is out of range":
            0 < c["level"] < 1 <= c["horizon"] and (c["sigma"] or 1) > 0 and (0 < c["alpha"] < 1 / len(names) or (c.get("maximum") or 0) > 0)})  # fmt: skip
        if kind == "documents" and "stream" in self.files:
            s = load(self.files["stream"], "stream")
            good = s["seed"] is None and c["inputs"]["stream"]["sha256"] == first.info["stream"]["sha256"] and first.complete
            edges = np.array([*s["documents"], s["num_tokens"]] if good else [], np.int64) - first.window[0]
            edges = edges[(edges >= 0) & (edges <= first.length)]
        elif kind != "tokens" and first.path.lower().endswith(".csv"):
            values = texts(first.path, kind)
            starts = [k for k, value in enumerate(values) if not k or value != values[k - 1]]
            edges = np.array([*starts, len(values)] if len({values[k] for k in starts}) == len(starts) else [], np.int64)
        if kind != "tokens" and (len(edges) < 2 or not self.checks[-1]["ok"]):
            raise Refused(f"these losses have no units {kind!a}", first.path, "whole documents in text order, or runs of equal values")
        def column(f: Column) -> Column:
            if not len(edges):
                return f
            means = np.add.reduceat(f(int(edges[0]), int(edges[-1])), edges[:-1] - edges[0]) / np.diff(edges)
            return lambda a, b: means[a:b]
        self.n, self.column = (len(edges) - 1 if len(edges) else first.tokens), column
        return opened

    def end(self, x: Column, ys: list[Column], range_: float) -> tuple[float, float, float]:
        """Upper end for the conditional mean of x, its observed mean, and the log e-value against "at least 0" (one centre, 0)."""
        half, sigma, n, j = (1 - self.c["level"]) / 2, self.c["sigma"], self.n, len(ys)
        s, w = 1 / np.geomspace(8, 0.05, 14), np.full(14, 1 / 14)
        if sigma is not None:
            s, w = 2.0 ** np.array([0, *range(-8, 0), *range(1, 9)]) / sigma, np.array([0.98] + [0.02 / 16] * 16)
        grid = np.minimum(range_ * math.sqrt(2 * math.log(1 / half) / self.c["horizon"]) * s, 0.99)
        log_w, ranges = np.log(np.outer([0.9, 0.1] if j > 1 else [1.0], w)), np.full(j, range_)
        row = gather(lambda a, b: (x(a, b), [y(a, b) for y in ys]), 0, n, ranges, grid)[0]
        logs, mean = row[1 + 2 * j :].reshape(j, -1), float(row[0]) / n
        return product(n, row[1 : 1 + j] / n, logs / n, ranges, grid, log_w, math.log(1 / half), mean), mean, log_sum(log_w + logs)

    def interval(self) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
        (stats,), c = self.open("stats"), self.c
        v, alpha, top = c["vocab_size"], c["alpha"], c["maximum"]
        own, floor = "entropy" in stats.arrays and top is None and c["units"] == "tokens", math.log(v) if top is None else top
        def raw(a: int, b: int) -> Array:
            return stats.slice("nll", a, b)
        def smooth(a: int, b: int) -> Array:
            return raw(a, b) if top is not None else -np.log((1 - alpha) * np.exp(-raw(a, b)) + alpha / v)
        def entropy(a: int, b: int) -> Array:  # or, of losses in [0, maximum], the maximum: the lower end is mirrored
            return np.minimum(stats.slice("entropy", a, b), floor) if own else np.full(b - a, top or 0.0)
        plain, mixed, under = self.column(raw), self.column(smooth), [lambda a, b: -entropy(a, b), zero][: 2 if own else 1]
        over: list[Column] = [lambda a, b: (1 - alpha) * entropy(a, b) + alpha * floor, zero] if own else [zero]
        high, mean_smoothed, _ = self.end(mixed, over, floor - (math.log(alpha) if top is None else 0.0))
        low, mean, _ = self.end(lambda a, b: -plain(a, b), under, floor)
        low = low if top is not None else max(low, self.end(lambda a, b: -mixed(a, b), under, floor)[0])
        self.claim = f"with probability {c['level']:g} the mean conditional loss of {self.n:,} {c['units']} is in [{c['low']:.6g}, {c['high']:.6g}]"
        true = {"mean": -mean, "mean_smoothed": mean_smoothed, "n": self.n, "alpha": 0.0 if top is not None else alpha}
        return {**true, "vocab_size": v if stats.bare.size else stats.info["vocab_size"]}, {"high": (c["high"], high), "-low": (-c["low"], min(low, 0))}

    def compare(self) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
        (a, b), c = self.open("a", "b"), self.c
        alpha, low, high, epsilon, log_e = c["alpha"], c["low"], c["high"], c["epsilon"], c["log_e_value"]
        def mixed(start: int, stop: int) -> Array:
            gain = b.slice("nll", start, stop) - a.slice("nll", start, stop)
            r = np.exp(-np.abs(gain))
            return np.sign(gain) * np.log(((1 - alpha) * r + alpha) / ((1 - alpha) + alpha * r))
        d, range_ = self.column(mixed), math.log((1 - alpha) / alpha)
        (top, mean, log_a), (bottom, _, log_b) = self.end(d, [zero], range_), self.end(lambda *ab: -d(*ab), [zero], range_)
        verdict = "equal" if 0 < epsilon >= max(-low, high) else "better_a" if high < 0 else "better_b" if low > 0 else "undecided"
        self.claim = f"with probability {c['level']:g} the mean conditional difference A - B of {self.n:,} {c['units']} is in [{low:.6g}, {high:.6g}]"
        true = {"e_value": math.exp(min(log_e, 700.0)), "p_value": math.exp(-min(max(log_e, 0.0), 700.0)), "verdict": verdict, "n": self.n}
        return {"difference": mean, **true}, {"high": (high, top), "-low": (-low, bottom),
            "-log_e_value": (-log_e, math.log(2) - log_sum(np.array([log_a, log_b])))}  # fmt: skip

    def prompts(self) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
        self.hashes(("table",), ("table",))
        c, rows, n, delta = self.c, self.c["prompts"], self.c["items"], self.c["delta"]
        t = load(self.files["table"], "table")
        errors, bits = np.array(t["errors"] if {*map(len, t["errors"])} == {n} else []), t["code_bits"]
        if not (len(errors) == len(bits) == len(rows) > c["best"] >= 0 and n > 1 and np.isin(errors, (0, 1)).all() and 0 < delta < 1):
            raise Refused("is no table of 0 and 1, one row a prompt", self.files["table"], f"{len(rows)} rows of {n:,} items, at least 2")
        self.say("code", "a prefix code", {"no prefix code has these lengths, or a prompt stands twice":
            sum(2.0 ** -max(x, 0.0) for x in bits) <= 1 + 1e-9 and len({*t["prompts"]}) == len(rows)})  # fmt: skip
        k, half = errors.sum(1).astype(int).tolist(), n // 2
        first, true, ends = errors[:, :half].sum(1), dict[str, Any](), {"bound": (c["bound"], most_errors(k[c["best"]], n, bits[c["best"]], delta))}
        for i, row in enumerate(rows):
            self.say("prompt", row["prompt"][:40], self.differing(row, {"prompt": t["prompts"][i], "mean": k[i] / n, "code_bits": bits[i]}))
            ends |= {f"{x}[{i}]": (row[x], most_errors(k[i], n, b, delta)) for x, b in (("bound", bits[i]), ("uniform_bound", math.log2(len(rows))))}
        picked = int(first.argmin())
        ends["heldout_bound"] = (c["heldout_bound"], most_errors(k[picked] - int(first[picked]), n - half, 0, delta))
        self.claim = f"with probability {1 - delta:g} the best prompt's expected error is at most {c['bound']:.6g}, {len(rows)} bounds at once"
        true = {"best": min(range(len(rows)), key=lambda i: rows[i]["bound"]), "bound": rows[c["best"]]["bound"], "heldout_prompt": picked}
        return true, ends
