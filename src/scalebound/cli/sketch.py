"""``scalebound sketch``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result


def sketch(shards: tuple[Path, ...], *, out: Path) -> Result:
    """Turn stats files of one measurement into one sketch: a few megabytes from which certificates can be made, whatever the number of tokens.

    A certificate from a sketch is never below the one from the losses at the same smoothing, and at most 1e-4 nats above it. Sketches add up exactly, in any
    order (`scalebound merge`). Losses of single tokens are gone: intervals, comparisons and the independent checker need the stats files.

    Parameters
    ----------
    shards
        Stats files of the same model, stream, window and policy, no block in two of them; sketches too.
    out
        The sketch to write (.sketch).

    Examples
    --------
    scalebound sketch whole.safetensors --out whole.sketch

    scalebound sketch shards/*.safetensors --out whole.sketch

    next: scalebound certify whole.sketch --package model.sbz
    """
    from functools import reduce

    from scalebound.core.errors import UsageError
    from scalebound.core.sketch import merge_sketches, sketch_of
    from scalebound.core.stats import open_losses

    if out.suffix != ".sketch" or not shards:
        raise UsageError(f"{out.name} is no name of a sketch" if shards else "no stats file is given", where="--out", expected="STATS.. --out NAME.sketch")
    whole = reduce(lambda before, one: merge_sketches([before, one]), (sketch_of(open_losses(path)) for path in shards))
    whole.save(out)
    length, size = whole.info.window[1] - whole.info.window[0], out.stat().st_size
    record = {"sketch": str(out), "files": len(shards), "tokens": len(whole), "window_tokens": length, "complete": whole.complete, "file_bytes": size, "mean_nll": whole.mean_nll}
    state = "complete" if whole.complete else f"{length - len(whole):,} tokens of the window are not in it, and only a complete sketch is certified"
    return Result(record, [f"{len(whole):,} tokens in {size:,} bytes: {state}.", f"Written: {out}"])
