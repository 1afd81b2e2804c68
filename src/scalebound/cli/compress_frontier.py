"""``scalebound compress --frontier``: what :mod:`scalebound.cli.compress` calls for it."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, progress_bar, table


def frontier(model: Path, stream: Path, out: Path, *, steps: tuple[float, ...] | None, bits: tuple[float, ...] | None, beside: tuple[str, ...], sequences: int, tokens: int | None, seed: int) -> Result:
    """Packages of many lengths and those of ``--beside``, each with its certificate, and the figure of both frontiers."""
    from msgspec import to_builtins

    from scalebound.core.io import atomic_write
    from scalebound.core.workers import cores
    from scalebound.demo.frontier import BITS, STEPS, run_frontier
    from scalebound.report.frontier import draw_frontier, frontier_csv

    given = steps is not None or bits is not None
    with progress_bar("frontier") as progress:
        found = run_frontier(
            model, stream, out, steps=steps if given and steps is not None else () if given else STEPS, bits=bits if given and bits is not None else () if given else BITS,
            beside=_packages(beside), window=None if tokens is None else (0, tokens), sequences=sequences, seed=seed, threads=cores(), progress=progress,
        )  # fmt: skip
    atomic_write(out / "frontier.svg", draw_frontier(found).encode())
    atomic_write(out / "frontier.csv", frontier_csv(found).encode())
    rows = [
        [point.name + (" (best)" if point.name == found.best else ""), f"{point.file_bytes:,}", f"{point.bits_per_parameter:.3f}", f"{point.loss:.4f}", f"{point.loss - found.full_loss:+.4f}", f"{point.bound:.4f}" + (" (vacuous)" if point.vacuous else "")]
        for point in sorted(found.points, key=lambda p: p.bits_per_parameter)
    ]
    headers = ["package", "bytes", "bits/parameter", "loss", "to full", "certified bound"]
    caption = f"{found.params:,} parameters, {found.window[1] - found.window[0]:,} tokens; nats/token; bounds of the product form, each verified, fail with probability {found.delta:g}"
    price = (
        f"The search costs {found.search_bits:g} bits, paid in each certificate: alpha was picked from a list ({found.alpha_choice_bits:g} bits); one form of bound was tried ({found.method}, {found.method_choice_bits:g} bits); "
        f"picking the best of these {len(found.points)} packages costs {found.package_choice_bits:g} bits, since the bound holds for all of them at once."
    )
    record = to_builtins(found) | {"search_bits": found.search_bits, "frontier": str(out / "frontier.json"), "figure": str(out / "frontier.svg"), "table": str(out / "frontier.csv")}
    return Result(record, [table(headers, rows, caption=caption), price, f"figure: {out / 'frontier.svg'}"])


def _packages(beside: tuple[str, ...]) -> dict[str, Path]:
    """``NAME=FILE`` of each ``--beside``."""
    from scalebound.core.errors import UsageError

    found: dict[str, Path] = {}
    for text in beside:
        name, equals, file = text.partition("=")
        if not (name and equals and file) or name in found:
            raise UsageError(f"--beside {text!r}", expected="NAME=FILE.sbz, each name once")
        found[name] = Path(file)
    return found
