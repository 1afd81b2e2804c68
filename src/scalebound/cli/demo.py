"""``scalebound demo``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, note, progress_bar, table

BOUNDS = ("freedman", "product", "anchored", "heldout", "trajectory")


def demo(*, out: Path = Path("runs/demo"), full: bool = False, seed: int = 0, text: Path | None = None, workers: int | None = None, fresh: bool = False) -> Result:
    """From text to verified certificates: train a ladder, measure, compress, certify, verify, forecast, and write one page that shows it.

    About seven minutes on two cores. Interrupted and run again, it goes on where it was.

    Parameters
    ----------
    out
        The folder to fill.
    full
        Go on to 1M parameters; estimated at one to two hours on two cores.
    seed
        Decides everything that is random.
    text
        A text file or folder. Default: the Python sources of the packages this project pins; nothing is downloaded.
    workers
        Processes. Default: one per core. Results do not depend on it.
    fresh
        Start over.

    Examples
    --------
    scalebound demo

    scalebound demo --text ~/notes --out runs/notes

    next: open runs/demo/report.html, then scalebound verify runs/demo/rungs/*/certificates/anchored.json
    """
    import shutil

    import msgspec

    from scalebound.core.errors import require_extra

    require_extra("torch")
    from scalebound.demo import run_demo
    from scalebound.report import write_report

    if fresh and (out / "demo.json").is_file():
        shutil.rmtree(out)
    made = run_demo(out, text=text, full=full, seed=seed, workers=workers, fresh=fresh, bar=progress_bar, say=note)
    page = write_report(out)
    view = [ladder_table(made), bound_table(made), forecast_table(made), f"{sum(1 + len(r.certificates) for r in made.rungs)} certificates, every one verified by the independent checker. The page: {page}"]
    return Result(msgspec.to_builtins(made) | {"report": str(page)}, view)


def ladder_table(demo):
    """Sizes, losses and files."""
    rows = [[f"{r.params:,}", f"{r.tokens:,}", f"{r.train_loss:.3f}", f"{r.heldout_loss:.3f}", f"{r.quantized_loss:.3f}", f"{r.file_bytes:,}", f"{r.bits_per_parameter:.2f}"] for r in demo.rungs]
    return table(["parameters", "tokens", "training loss", "held-out loss", "loss of the package", "file (bytes)", "bits per parameter"], rows, title="Ladder (losses in nats per byte)")


def bound_table(demo):
    """The bound by each method."""

    def cell(entry) -> str:
        return f"{entry.bound:.3f}{' vacuous' if entry.vacuous else ''}{'' if entry.verified else ' NOT VERIFIED'}"

    rows = [[f"{r.params:,}", cell(r.rounded.certificate), *[cell(r.certificates[m]) for m in BOUNDS], "yes" if all(e.verified for e in (r.rounded.certificate, *r.certificates.values())) else "NO"] for r in demo.rungs]
    return table(["parameters", "freedman, 4-bit rounding", *BOUNDS, "verified"], rows, title=f"Certified loss, at confidence {1 - demo.delta:.0%} each (random guess: 5.545)")


def forecast_table(demo):
    """The largest rung, predicted from the others."""
    rows = []
    for f in demo.forecasts:
        p = f.prediction
        rows.append([f.target, f"{p.value:.4f}", f"[{p.low:.4f}, {p.high:.4f}]", f"{f.truth:.4f}", f"{100 * (p.value / f.truth - 1):+.1f}%", "yes" if p.low <= f.truth <= p.high else "no"])
    caption = f"Power laws in parameters fitted to the {demo.forecasts[0].rows} smaller rungs." if demo.forecasts else ""
    return table(["forecast of the largest rung", "value", "95% interval", "what happened", "error", "inside"], rows, title="Forecast", caption=caption)
