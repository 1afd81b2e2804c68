"""Statistics of a small synthetic stream whose conditional distributions are known, and a plain recomputation of certificates from the
conventions."""

import math

import msgspec
import numpy as np

from scalebound.core.stats import AnchorRef, ModelRef, Stats, StatsInfo, StreamRef

V, EPS, ALPHAS = 16, 0.01, (0.05, 0.1, 0.3)


def log_softmax(z):
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def make_stats(n=6000, block=64, seed=0, anchor=True, kind="model"):
    """A model p, a worse reference q, tokens drawn from something near p: all arrays a measurement would write."""
    rng = np.random.default_rng(seed)
    true = log_softmax(rng.normal(0, 2.0, (n, V)))
    p, q = log_softmax(true + rng.normal(0, 0.5, (n, V))), log_softmax(true + rng.normal(0, 1.0, (n, V)))
    tokens = (rng.random((n, 1)) > np.exp(true).cumsum(axis=1)).sum(axis=1).clip(0, V - 1)
    rows = np.arange(n)
    smooth_q = (1 - EPS) * np.exp(q) + EPS / V
    centre = []
    for alpha in ALPHAS:
        mixed = (1 - alpha) * np.exp(p) + alpha * smooth_q
        centre.append(-(mixed * np.log(mixed / smooth_q)).sum(axis=1))
    arrays = {"nll": -p[rows, tokens], "entropy": -(np.exp(p) * p).sum(axis=1)}
    if anchor:
        arrays |= {"reference_nll": -q[rows, tokens], "centre": np.array(centre)}
    info = StatsInfo(
        kind=kind,
        model=ModelRef("model", "" if kind == "online" else "aa" * 32, 1234),
        stream=StreamRef("train.json", "bb" * 32, n),
        window=(0, n),
        vocab_size=V,
        block_tokens=block,
        tokens=n,
        text_bytes=2 * n,
        predictable="before the update" if kind == "online" else "",
        anchor=AnchorRef(kind="model", sha256="cc" * 32, predictable="trained on other files", eps=EPS, alphas=ALPHAS) if anchor else None,
    )
    return Stats(info, {name: np.asarray(a, dtype=np.float32) for name, a in arrays.items()})


def sample_blocks(stats, m, seed=0):
    """The statistics of m equal blocks drawn at random, and of the ragged one."""
    n, size = len(stats), stats.info.block_tokens
    whole, ragged = divmod(n, size)
    drawn = np.sort(np.random.default_rng(seed).choice(whole, m, replace=False))
    blocks = np.append(drawn, whole) if ragged else drawn
    keep = np.concatenate([np.arange(b * size, min((b + 1) * size, n)) for b in blocks])
    arrays = {name: np.ascontiguousarray(stats.read(name)[..., keep]) for name in stats._arrays}
    share = msgspec.structs.replace(stats.info, tokens=len(keep), text_bytes=2 * len(keep))
    return Stats(share, {**arrays, "blocks": blocks.astype(np.int64)})


def _solve(n, mean_y, sums, ranges, grid, log_w, budget):
    """Plain bisection of the equation of section 3."""

    def excess(m):
        terms = [
            log_w[j][k] - n * math.log1p(-min(s / ranges[j] * (m - mean_y[j]), s)) + sums[j][k]
            for j in range(len(ranges))
            for k, s in enumerate(grid)
        ]
        top = max(terms)
        return top + math.log(sum(math.exp(t - top) for t in terms)) - budget

    high = min(y + r for y, r in zip(mean_y, ranges, strict=True))
    if excess(high) < 0:
        return high
    low = -50.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return high


def recompute(c, stats, reference=None):
    """(bound, bound without sampling correction) from a certificate's settings and the arrays, written from docs/mathematics.md,
    Conventions."""
    start = c.window[0] - stats.info.window[0] if c.method == "trajectory" else 0
    stop = start + c.tokens.evaluated

    def get(name, file=stats):
        return file.read(name, start, stop).astype(np.float64)

    v, alpha, eps, n = c.vocab_size, c.smoothing.alpha, c.smoothing.eps, c.tokens.stream
    u, log_v = np.maximum(get("nll"), 0), math.log(c.vocab_size)
    grid = np.array(c.grid)
    w = np.full(len(grid), 1 / len(grid)) if c.weights is None else np.array(c.weights)
    paid = math.log2(math.prod([ch.options for ch in c.code.choices]))
    ref_settings = {"eps", "reference", "window", "grid", "weights", "horizon", "shares"}
    ref_paid = math.log2(math.prod([ch.options for ch in c.code.choices if ch.setting in ref_settings]))
    parts = []
    if c.method == "anchored":
        r = np.maximum(get("nll", reference) if reference is not None else get("reference_nll"), 0)
        R = -np.log((1 - eps) * np.exp(-r) + eps / v)
        X = -np.log((1 - alpha) * np.exp(-u) + alpha * np.exp(-R))
        high = math.log((1 - alpha) * v / eps + alpha)
        centres = []
        for ce in c.centres:
            y = (
                np.zeros(len(X))
                if ce.kind == "zero"
                else np.maximum(np.minimum(get("centre")[stats.info.anchor.alphas.index(alpha)], 0), ce.y_min)
            )
            centres.append((y, math.log(1 / alpha) - ce.y_min, high, (ce.y_min, 0.0), ce.weight, ce.kind))
        parts.append((X - R, centres, c.delta * c.delta_shares.difference, c.code.bits + paid))
        parts.append(
            (R, [(np.zeros(len(R)), math.log(v / eps), 0.0, (0.0, 0.0), 1.0, "zero")], c.delta * c.delta_shares.reference, ref_paid)
        )
    else:
        X = -np.log((1 - alpha) * np.exp(-u) + alpha / v)
        centres = []
        for ce in c.centres:
            if ce.kind == "zero":
                y, high, lim = np.zeros(len(X)), 0.0, (0.0, 0.0)
            elif ce.kind == "running":
                y, high, lim = (
                    np.maximum([ce.y_min if k == 0 else X[:k].mean() for k in range(len(X))], ce.y_min),
                    math.log(v / alpha),
                    (0.0, 0.0),
                )
            else:
                y = np.maximum((1 - alpha) * np.minimum(get("entropy"), log_v) + alpha * log_v, ce.y_min)
                high, lim = max(log_v, ce.y_min), (ce.y_min, max(log_v, ce.y_min))
            centres.append((y, math.log(v / alpha) - ce.y_min, high, lim, ce.weight, ce.kind))
        parts.append((X, centres, c.delta * c.delta_shares.difference, c.code.bits + paid))
    size = stats.info.block_tokens or 1
    N, ragged = divmod(n, size)
    m = (c.tokens.evaluated - ragged) // size
    count = len(grid) * sum(len(p[1]) for p in parts) + sum(ce[5] != "zero" for p in parts for ce in p[1])
    d = c.delta * c.delta_shares.subsampling / (count * math.prod([ch.options for ch in c.code.choices])) if m < N and c.method != "trajectory" else None

    def radius(g, width):
        rho = 1 - (m - 1) / N if m <= N / 2 else (1 - m / N) * (1 + 1 / m)
        if m * rho >= 600:
            return g.std() * math.sqrt(2 * rho * math.log(5 / d) / m) + (7 / 3 + 3 / math.sqrt(2)) * width * math.log(5 / d) / m
        return width * math.sqrt(rho * math.log(1 / d) / (2 * m))

    totals = []
    for correct in (True, False):
        total = 0.0
        for X, centres, delta, bits in parts:
            budget = math.log(1 / delta) + bits * math.log(2)
            mean_y, sums, ranges, log_w = [], [], [], []
            for y, range_, high, lim, weight, _ in centres:
                A = (y - X) / range_
                logs = [np.log1p(s * A) for s in grid]
                if d is None:
                    sums.append([part.sum() for part in logs])
                    mean_y.append(y.mean())
                else:
                    found = []
                    for s, part in zip(grid, logs, strict=True):
                        g = part[: m * size].reshape(m, size).mean(axis=1)
                        low, top = math.log1p(-s), math.log1p(s * high / range_)
                        found.append(N * size * max(g.mean() - correct * radius(g, top - low), low) + part[m * size :].sum())
                    sums.append(found)
                    g = y[: m * size].reshape(m, size).mean(axis=1)
                    mean_y.append((N * size * min(g.mean() + correct * radius(g, lim[1] - lim[0]), lim[1]) + y[m * size :].sum()) / n)
                ranges.append(range_)
                log_w.append(np.log(w * weight))
            if c.method == "freedman":
                value = min(mean_y[0] + ranges[0] / s * ((budget - log_w[0][k]) - sums[0][k]) / n for k, s in enumerate(grid))
                total += min(value, mean_y[0] + ranges[0])
            else:
                total += _solve(n, mean_y, sums, ranges, grid, log_w, budget)
        totals.append(total)
    return totals
