"""``scalebound merge``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result


def merge(shards: tuple[Path, ...], *, out: Path) -> Result:
    """Join stats files, or sketches, that hold different blocks of one measurement; certifying the result equals certifying the whole.

    Parameters
    ----------
    shards
        Stats files of the same model, stream, window and policy, no block in two of them.
    out
        The stats file to write.

    Examples
    --------
    scalebound merge part-0.safetensors part-1.safetensors --out whole.safetensors

    scalebound merge shards/*.safetensors --out whole.safetensors

    next: scalebound certify whole.safetensors --package model.sbz
    """
    from scalebound.core.errors import InputError
    from scalebound.core.sketch import Sketch, merge_sketches
    from scalebound.core.stats import Stats, open_losses
    from scalebound.core.stats import merge as join

    parts = [open_losses(path) if Path(path).suffix == ".sketch" else Stats.load(path) for path in shards]
    sketches = [part for part in parts if isinstance(part, Sketch)]
    if sketches and (len(sketches) != len(parts) or out.suffix != ".sketch"):
        raise InputError("sketches and stats files are mixed" if len(sketches) != len(parts) else f"{out} is no name of a sketch", expected="sketches alone, and a name that ends in .sketch", hint="scalebound sketch turns stats files into sketches")
    for part in parts:
        if not part.info.block_tokens:
            raise InputError(
                "has no blocks, so its place in the stream is not known", where=part.path, expected="a file written by `scalebound measure`"
            )
    whole = merge_sketches(sketches) if sketches else join(parts)
    whole.save(out)
    length = whole.info.window[1] - whole.info.window[0]
    record = {"stats": str(out), "shards": len(parts), "tokens": len(whole), "window_tokens": length, "complete": whole.complete}
    state = "complete" if whole.complete else f"{length - len(whole):,} tokens of the window are not in it"
    return Result(record, [f"{len(parts)} files, {len(whole):,} tokens: {state}.", f"Written: {out}"])
