"""``scalebound interval``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result


def interval(
    stats: Path,
    *,
    level: float = 0.95,
    alpha: float | None = None,
    sigma: float | None = None,
    horizon: int | None = None,
    vocab_size: int = 0,
    maximum: float | None = None,
) -> Result:
    """An interval for the mean loss that holds at every length at once, however tokens depend on each other.

    The target is the mean conditional loss on this stream, not on a population of texts. The lower end is for the raw loss, the upper end
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

    Examples
    --------
    scalebound interval heldout.safetensors --sigma 2

    scalebound interval errors.csv --maximum 1 --level 0.99

    next: scalebound compare a.safetensors b.safetensors
    """
    from dataclasses import asdict

    from scalebound.certify import interval as run
    from scalebound.certify.settings import STREAM_ALPHA
    from scalebound.core.stats import open_losses

    found = run(
        open_losses(stats, vocab_size=vocab_size),
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
    return Result(asdict(found), lines)
