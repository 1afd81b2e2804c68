"""``scalebound train --sweep``: what :mod:`scalebound.cli.train` calls for sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalebound.cli.output import Result, progress_bar, table


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
