"""``scalebound train --sweep``: what :mod:`scalebound.cli.train` calls for sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalebound.cli.output import Result, progress_bar, table

SMOOTHING = 8192  # tokens over which the loss of a batch-size run is averaged


def sweep_learning_rate(out: Path, stream: Path, *, widths: tuple[int, ...], rates: tuple[float, ...], overrides: dict[str, Any], seed: int, workers: int | None, fresh: bool) -> Result:
    """Train every width at every rate under both parametrizations, draw it, and say where the optimum went and where runs go unstable."""
    from scalebound.core.io import atomic_write
    from scalebound.report.sweep import draw_sweep
    from scalebound.train.sweep import sweep_recipe, train_sweep

    names = (overrides["parametrization"],) if "parametrization" in overrides else ("standard", "mup")
    recipes = [sweep_recipe(width, rate, name, base_width=min(widths), seed=seed, overrides=overrides) for name in names for width in widths for rate in rates]
    with progress_bar("sweep") as progress:
        found = train_sweep(recipes, stream, out, kind="lr", workers=workers, fresh=fresh, progress=progress)
    atomic_write(out / "sweep.svg", draw_sweep(found).encode())
    record: dict[str, Any] = {"sweep": str(out / "sweep.json"), "figure": str(out / "sweep.svg"), "parametrizations": {}}
    rows: list[list[str]] = []
    lines: list[str] = []
    for name in names:
        summary = summarize(found, name)
        record["parametrizations"][name] = summary
        for entry in summary["widths"]:
            best = f"{'at the edge, ' if entry['at_edge'] else ''}{entry['best_lr']:.4g}"
            unstable = "none tried" if entry["onset"] is None else f"{entry['onset']:.3g}"
            told = "-" if entry["forecast_onset"] is None else f"{entry['forecast_onset']:.3g}"
            rows.append([name, f"{entry['width']}", f"{entry['params']:,}", best, f"{entry['best_loss']:.4f}", f"{entry['sensitivity']:.4f}", unstable, told])
        lines.append(f"{name}: from width {widths[0]} to {widths[-1]} the best rate is multiplied by {summary['optimum_ratio']:.2f} (grows as width^{summary['optimum_exponent']:+.2f}); mean lr-sensitivity {summary['mean_sensitivity']:.4f} nats.")
    title = f"Learning-rate sweep, rates {min(rates):g} to {max(rates):g}"
    shown = table(["parametrization", "width", "parameters", "best rate", "loss there", "lr-sensitivity", "unstable from", "forecast from smaller"], rows, title=title,
                  caption="Loss: nats per token, last tenth of a run, one seed a point (no interval). lr-sensitivity: mean excess over the best, rates log-uniform.")  # fmt: skip
    return Result(record, [shown, *lines, f"figure: {out / 'sweep.svg'}"])


def summarize(sweep, parametrization: str) -> dict[str, Any]:
    """Optimum, sensitivity and onset of every width, the exponent with which the optimum moves, and each onset as the smaller widths forecast it."""
    import numpy as np

    from scalebound.scaling.laws.lr_sensitivity import best_rate, forecast_onset, lr_sensitivity, onset

    curves: list[tuple] = []
    entries: list[dict[str, Any]] = []
    for width in sorted({run.width for run in sweep.runs}):
        runs = sorted((run for run in sweep.runs if run.width == width and run.parametrization == parametrization), key=lambda run: run.lr)
        lr = np.array([run.lr for run in runs])
        loss = np.array([np.nan if run.loss is None else run.loss for run in runs])
        logit = np.array([np.nan if run.max_logit is None else run.max_logit for run in runs])
        told = forecast_onset(curves, at=runs[0].params, initial_loss=sweep.initial_loss)
        best = best_rate(lr, loss)
        entries.append({
            "width": width, "params": runs[0].params, "best_lr": best.lr, "best_loss": best.loss, "at_edge": best.at_edge,
            "sensitivity": lr_sensitivity(lr, loss, initial_loss=sweep.initial_loss), "onset": onset(lr, loss, initial_loss=sweep.initial_loss),
            "forecast_onset": told.lr, "limit": told.limit, "forecast_reason": told.reason,
        })  # fmt: skip
        curves.append((runs[0].params, lr, loss, logit))
    widths, best_lrs = np.log([e["width"] for e in entries]), np.log([e["best_lr"] for e in entries])
    return {
        "widths": entries, "optimum_exponent": float(np.polyfit(widths, best_lrs, 1)[0]), "optimum_ratio": entries[-1]["best_lr"] / entries[0]["best_lr"],
        "mean_sensitivity": float(np.mean([e["sensitivity"] for e in entries])),
    }  # fmt: skip


def sweep_batch_size(out: Path, stream: Path, *, recipes, workers: int | None, fresh: bool) -> Result:
    """Train every batch size, count the steps to the losses all of them reach, fit the trade-off, and say what batch to use."""
    import math

    from scalebound.core.io import atomic_write
    from scalebound.scaling.table import to_csv
    from scalebound.train.sweep import train_sweep

    with progress_bar("sweep") as progress:
        found = train_sweep(recipes, stream, out, kind="batch", workers=workers, fresh=fresh, progress=progress)
    window = min(SMOOTHING, min(run.batch_tokens * run.steps for run in found.runs) // 4)
    curves = [(run, smoothed_losses(out / run.run / "log.jsonl", run.batch_tokens, window_tokens=window)) for run in found.runs]
    targets = common_targets(curves)
    record: dict[str, Any] = {"sweep": str(out / "sweep.json"), "table": str(out / "batches.csv"), "targets": []}
    columns: dict[str, list[float]] = {name: [] for name in ("params", "step", "batch_tokens", "loss")}
    rows = []
    for width, levels in targets.items():
        for level in levels:
            entry = tradeoff_at(curves, width, level)
            record["targets"].append(entry)
            for batch, steps in zip(entry["batch_tokens"], entry["steps"], strict=True):
                for name, value in (("params", entry["params"]), ("step", steps), ("batch_tokens", batch), ("loss", level)):
                    columns[name].append(value)
            interval = f"{entry['low']:,.0f} to {entry['high']:,.0f}" if math.isfinite(entry["low"]) else "unknown"
            rows.append([f"{width}", f"{level:.3f}", *[f"{steps:,}" for steps in entry["steps"]], f"{entry['critical_batch']:,.0f}", interval])
            entry |= {key: (entry[key] if math.isfinite(entry[key]) else None) for key in ("low", "high")}
    atomic_write(out / "batches.csv", to_csv(columns))
    sizes = record["targets"][0]["batch_tokens"]
    shown = table(["width", "loss", *[f"steps at {size:,}" for size in sizes], "critical batch, tokens", "two standard errors"], rows, title="Steps to a loss, by batch size in tokens",
                  caption="Best of three rates a batch; loss smoothed along each run; one seed. Standard errors by leaving out one batch size at a time.")  # fmt: skip
    last = {width: [e for e in record["targets"] if e["width"] == width][-1] for width in targets}
    largest = last[max(last)]
    advice = (f"At width {largest['width']} and a loss of {largest['loss']:.3f} use batches of about {largest['critical_batch']:,.0f} tokens: twice the fewest steps for twice the fewest tokens. "
              "Fewer tokens per batch save compute, more save time.")  # fmt: skip
    law = _critical_batch_law(out / "batches.csv")
    record |= {"advice_tokens": largest["critical_batch"], "law": law}
    lines = [advice]
    if law is not None:
        lines.append(f"law critical-batch on the same table: Bstar = {law['Bstar']:.4g} tokens, aB = {law['aB']:.3g}; {law['critical_batch']:,.0f} tokens at that loss (fit --law critical-batch {out / 'batches.csv'})")
    return Result(record, [shown, *lines])


def smoothed_losses(log: Path, batch_tokens: int, *, window_tokens: int) -> list[float]:
    """The running mean of a run's losses over the last ``window_tokens`` tokens (at least one step), lowered to its running minimum."""
    import json

    window = max(1, window_tokens // batch_tokens)
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    out: list[float] = []
    for k in range(len(losses)):
        part = losses[max(0, k + 1 - window) : k + 1]
        mean = sum(part) / len(part) if k + 1 >= window else float("inf")
        out.append(min(mean, out[-1]) if out else mean)
    return out


def common_targets(curves, *, levels: int = 4) -> dict[int, list[float]]:
    """Per width, losses that every batch size reaches at one of its rates: the highest of the lowest losses, and three above it."""
    import math

    out = {}
    for width in sorted({run.width for run, _ in curves}):
        lowest: dict[int, float] = {}
        for run, losses in curves:
            if run.width == width and losses:
                lowest[run.batch_tokens] = min(lowest.get(run.batch_tokens, math.inf), losses[-1])
        reached = max(lowest.values())
        out[width] = [reached * (1 + 0.05 * k) for k in range(levels - 1, -1, -1)]
    return out


def tradeoff_at(curves, width: int, level: float) -> dict[str, Any]:
    """Fewest steps to a loss at every batch size, over its rates, and the hyperbola through them."""
    import numpy as np

    from scalebound.scaling.laws.critical_batch import steps_to_loss

    fewest: dict[int, int] = {}
    for run, losses in curves:
        hit = next((k + 1 for k, value in enumerate(losses) if value <= level), None)
        if run.width == width and hit is not None:
            fewest[run.batch_tokens] = min(fewest.get(run.batch_tokens, hit), hit)
    sizes = sorted(fewest)
    steps = [fewest[size] for size in sizes]
    found = steps_to_loss(np.array(sizes, dtype=float), np.array(steps, dtype=float))
    params = next(run.params for run, _ in curves if run.width == width)
    return {"width": width, "params": params, "loss": level, "batch_tokens": sizes, "steps": steps, "min_steps": found.min_steps, "critical_batch": found.critical_batch, "low": found.low, "high": found.high, "misfit": found.misfit}


def _critical_batch_law(path: Path) -> dict[str, float] | None:
    """The law critical-batch on the sweep's own table (needs two widths); None where it cannot be fitted."""
    from scalebound.core.errors import ScaleboundError
    from scalebound.scaling import fit
    from scalebound.scaling.table import read_table

    try:
        found = fit(path, "critical-batch", bootstrap=0)
    except ScaleboundError:
        return None
    lowest = float(read_table(path)["loss"].min())
    return {**found.params, "critical_batch": found.params["Bstar"] / lowest ** (1 / found.params["aB"])}
