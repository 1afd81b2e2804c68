"""``scalebound merge``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result


def merge(shards: tuple[Path, ...], *, out: Path) -> Result:
    """Join stats files that hold different blocks of one measurement; certifying the result equals certifying the whole.

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
    from scalebound.core.stats import Stats
    from scalebound.core.stats import merge as join

    parts = [Stats.load(path) for path in shards]
    for part in parts:
        if not part.info.block_tokens:
            raise InputError(
                "has no blocks, so its place in the stream is not known", where=part.path, expected="a file written by `scalebound measure`"
            )
    whole = join(parts)
    whole.save(out)
    length = whole.info.window[1] - whole.info.window[0]
    record = {"stats": str(out), "shards": len(parts), "tokens": len(whole), "window_tokens": length, "complete": whole.complete}
    state = "complete" if whole.complete else f"{length - len(whole):,} tokens of the window are not in it"
    return Result(record, [f"{len(parts)} files, {len(whole):,} tokens: {state}.", f"Written: {out}"])
