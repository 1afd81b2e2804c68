"""``scalebound reference``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scalebound.cli.output import Result, progress_bar, table


def reference(kind: Literal["unigram", "ngram", "online", "checkpoint"], stream: Path, *, out: Path, like: Path | None = None, window: tuple[int, int] | None = None,
              order: int | None = None, restart: int | None = None, run: Path | None = None, workers: int = 1, threads: int | None = None, fresh: bool = False) -> Result:  # fmt: skip
    """Write the losses of a predictor that was known before each token, and why it was: the reference of an anchored certificate.

    unigram, ngram: counts updated online (Witten-Bell). online: a run's losses before each update. checkpoint: a run's checkpoint on tokens
    after those it was trained on. A model fixed before the stream is an anchor: scalebound measure --anchor.

    Parameters
    ----------
    kind
        unigram, ngram, online or checkpoint.
    stream
        The stream (.json or .bin).
    out
        The stats file to write (.safetensors).
    like
        The statistics it will be a reference for: the same window and blocks are taken.
    window
        Without --like: START STOP in stream tokens. Default: all there is.
    order
        Of ngram: longest context plus one. Default 5 for bytes, 3 for other tokens.
    restart
        Of unigram and ngram: forget the counts after every so many tokens, which bounds memory (60 bytes a token).
    run
        Of online and checkpoint: the run.
    workers
        Of checkpoint: processes that share the blocks.
    threads
        Of checkpoint: threads of each process.
    fresh
        Of checkpoint: start over.

    Examples
    --------
    scalebound reference ngram runs/demo/streams/train.json --like runs/demo/rungs/60k/train.safetensors --out ngram.safetensors

    scalebound reference online runs/demo/streams/train.json --run runs/demo/rungs/60k/run --out online.safetensors

    next: scalebound certify runs/demo/rungs/60k/train.safetensors --method anchored --reference ngram.safetensors
    """
    from scalebound.core.errors import UsageError, require_extra

    require_extra("torch")
    from scalebound.core.workers import cores
    from scalebound.data.stream import Stream
    from scalebound.measure import checkpoint_reference, ngram_reference, online_reference

    counted = kind in ("unigram", "ngram")
    if counted == (run is not None):
        raise UsageError("a run was given" if counted else "no run was given", where="--run", expected=f"{'none for' if counted else 'one for'} {kind}")
    if (order is not None and kind != "ngram") or (restart is not None and not counted):
        raise UsageError(f"--order and --restart do not belong to {kind}", expected="them with ngram")
    if counted:
        vocabulary = Stream(stream).info.vocab_size
        stats = ngram_reference(stream, out, order=1 if kind == "unigram" else (5 if vocabulary <= 256 else 3) if order is None else order, like=like, window=window, restart=restart)
    elif kind == "online":
        assert run is not None
        stats = online_reference(run, out, like=like, window=window, stream=stream)
    else:
        assert run is not None
        with progress_bar(f"reference {run.name}") as progress:
            stats = checkpoint_reference(run, stream, out, like=like, window=window, workers=workers, threads=threads or (cores() if workers == 1 else 1), fresh=fresh, progress=progress)
    mean = float(stats.read("nll").mean(dtype="f8"))
    low, high = stats.info.window
    record = {"stats": str(out), "tokens": len(stats), "mean_nll": mean, "predictable": stats.info.predictable, "kind": stats.info.kind}
    rows = [["reference", stats.info.model.name], ["tokens", f"{len(stats):,} of {low:,} to {high:,}"], ["mean nll", f"{mean:.4f} nats/token"], ["predictable", stats.info.predictable]]
    return Result(record, [table(["", str(out)], rows), f"Use it: scalebound certify STATS --method anchored --reference {out}"])
