"""``scalebound interval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scalebound.cli.output import Result

if TYPE_CHECKING:
    import numpy as np

    from scalebound.core.stats import Stats


def interval(
    stats: Path,
    *,
    level: float = 0.95,
    alpha: float | None = None,
    sigma: float | None = None,
    horizon: int | None = None,
    vocab_size: int = 0,
    maximum: float | None = None,
    unit: Literal["tokens", "documents"] = "tokens",
    stream: Path | None = None,
    group: str = "",
    out: Path | None = None,
) -> Result:
    """An interval for the mean loss that holds at every length at once, however tokens depend on each other.

    The target is the mean conditional loss on this stream, not on a population of texts (for that: --unit documents, when documents were
    drawn independently). The lower end is for the raw loss, the upper end
    for the prediction mixed with a share --alpha of uniform.

    Parameters
    ----------
    stats
        Losses in stream order: a stats file, .npy, or .csv with a column nll.
    level
        Confidence.
    alpha
        Share of uniform mixed in for the upper end, fixed in advance. Default 2^-13.
    sigma
        Standard deviation of a token's loss, named in advance: a right one makes the interval shorter, a wrong one never wrong.
    horizon
        Number of tokens at which the interval should be shortest, named in advance. Default: the window's length.
    vocab_size
        For losses from a bare array.
    maximum
        For losses that cannot exceed it, such as 1 for errors: no smoothing.
    unit
        What counts once: a token, or a document of the stream.
    stream
        The stream's .json, when it is no longer where the statistics say (for --unit documents).
    group
        Of a .csv, the column whose runs of equal values are units, such as item or document.
    out
        Save the interval with its settings and the hashes of its files (.json), for `scalebound verify`.

    Examples
    --------
    scalebound interval heldout.safetensors --sigma 2

    scalebound interval errors.csv --maximum 1 --group question --level 0.99

    next: scalebound interval heldout.safetensors --out interval.json, then scalebound verify interval.json
    """
    from dataclasses import asdict

    from scalebound.certify import interval as run
    from scalebound.certify.settings import STREAM_ALPHA
    from scalebound.core.records import save_record
    from scalebound.core.stats import open_losses

    losses = open_losses(stats, vocab_size=vocab_size)
    units = units_of(losses, unit, stream, group)
    found = run(
        losses,
        units=units,
        level=level,
        alpha=STREAM_ALPHA if alpha is None else alpha,
        vocab_size=vocab_size,
        maximum=maximum,
        sigma=sigma,
        horizon=horizon,
    )
    lines = [
        f"{found.mean:.4f} {found.unit}, {100 * level:g}% interval [{found.low:.4f}, {found.high:.4f}], n = {found.n:,}",
        f"Target: {found.target}.",
    ]
    if abs(found.mean_smoothed - found.mean) > 0.1 * (found.high - found.low):
        lines.append(f"The smoothed prediction's own mean is {found.mean_smoothed:.4f}.")
    if out is not None:
        settings = {"maximum": maximum, "sigma": sigma, "horizon": horizon or horizon_of(losses, units), "vocab_size": losses.info.vocab_size or vocab_size, "units": group or unit}
        save_record("interval", out, asdict(found) | settings, {"stats": stats, "stream": stream_of_units(losses, unit, stream)})
        lines.append(f"Written: {out}. Check it: scalebound verify {out}")
    return Result(asdict(found), lines)


def horizon_of(losses: Stats, units: np.ndarray | None) -> int:
    """The horizon that was named when none was: the window's length, or the number of units."""
    return losses.info.window[1] - losses.info.window[0] if units is None else len(units) - 1


def stream_of_units(losses: Stats, unit: str, stream: Path | None) -> Path | None:
    """The stream that says where documents start; None where tokens or rows are the units."""
    from scalebound.cli.certify import find_stream

    return (stream or find_stream(losses)) if unit == "documents" else None


def units_of(losses: Stats, unit: str, stream: Path | None, group: str) -> np.ndarray | None:
    """Where documents or groups start; None when tokens are the units."""
    from scalebound.certify.units import document_starts, group_starts
    from scalebound.cli.certify import find_stream
    from scalebound.core.errors import InputError, UsageError

    if group:
        if unit == "documents" or not losses.path.endswith(".csv"):
            raise UsageError("groups are the runs of a column of a .csv", where="--group", expected="a .csv file, without --unit documents")
        return group_starts(losses.path, group)
    if unit == "tokens":
        return None
    where = stream or find_stream(losses)
    if where is None:
        raise InputError("does not say where its stream is", where=losses.path, hint="add --stream STREAM.json")
    return document_starts(losses, where)
