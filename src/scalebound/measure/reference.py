"""Predictable references: losses of predictors that were known before each token, in files that say why.

An anchored certificate compares a model with a reference that depends on nothing but earlier tokens (docs/mathematics.md, anchored
certificates). Each function here writes one stats file over exactly the tokens of another (``like``), for ``certify --reference``:

* :func:`ngram_reference`: an n-gram model updated online; every token counted after it was predicted.
* :func:`online_reference`: a run's own online losses, each from before the update that used the token.
* :func:`checkpoint_reference`: a checkpoint on tokens of the stream after those it was trained on.

The first two are another predictor at every token, recorded as kind ``online``: they bound the generalization of a mixture that cannot be
deployed as it stands. A checkpoint can.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import scalebound
from scalebound.core.errors import InputError, UsageError
from scalebound.core.progress import Progress, silent
from scalebound.core.stats import ModelRef, Policy, Stats, StatsInfo
from scalebound.data.stream import Stream
from scalebound.measure.ngram import ngram_losses


def ngram_reference(stream: str | os.PathLike, out: str | os.PathLike, *, order: int, like: str | os.PathLike | None = None, window: tuple[int, int] | None = None,
                    restart: int | None = None) -> Stats:  # fmt: skip
    """Losses of an n-gram model that learns from the window as it goes (:mod:`~scalebound.measure.ngram`).

    Parameters
    ----------
    order
        Longest context plus one; 1 is a unigram model.
    like
        The statistics it will be a reference for: gives the window, the blocks and the vocabulary.
    window
        Without ``like``: range of tokens; default the whole stream.
    restart
        Forget all counts after every so many tokens.

    Raises
    ------
    InputError, UsageError
        ``like`` is about another stream; a range outside the stream; an order out of range.
    """
    out, opened = Path(out), Stream(stream)
    opened.check()
    other = _like(like, opened)
    if other is not None and window not in (None, other.info.window):
        raise UsageError(f"window = {window}", expected=f"{other.info.window}, the window of {other.path}")
    window = other.info.window if other is not None else window or (0, len(opened))
    if not 0 <= window[0] < window[1] <= len(opened):
        raise UsageError(f"window = {window}", expected=f"a range inside the stream's {len(opened):,} tokens")
    vocab_size = other.info.vocab_size if other is not None else opened.info.vocab_size
    tokens = np.asarray(opened.tokens[window[0] : window[1]])
    losses = ngram_losses(tokens, vocab_size=vocab_size, order=order, restart=restart)
    name = "unigram" if order == 1 else f"{order}-gram"
    since = f"the last multiple of {restart:,} tokens" if restart else "the window's start"
    info = StatsInfo(
        kind="online", model=ModelRef(name=f"{name} updated online"), stream=opened.ref(out.parent), window=window, vocab_size=vocab_size, tokens=len(losses),
        block_tokens=opened.info.sequence_tokens, policy=Policy("packed", order - 1, -1), version=scalebound.__version__,
        text_bytes=opened.tokenizer().count_bytes(tokens, previous=int(opened.tokens[window[0] - 1]) if window[0] else None),
        predictable=f"counts of a {name} model of the tokens between {since} and the token predicted, which is counted afterwards",
    )  # fmt: skip
    return _save(Stats(info, {"nll": losses.astype(np.float32)}), other, out)


def online_reference(run: str | os.PathLike, out: str | os.PathLike, *, like: str | os.PathLike | None = None, window: tuple[int, int] | None = None,
                     stream: str | os.PathLike | None = None) -> Stats:  # fmt: skip
    """A run's online losses on a window, or on the blocks of another file. With a ``stream``, the run must have been trained on it.

    Raises
    ------
    InputError
        The run kept no online losses, or did not train on all of the window.
    """
    run, out = Path(run), Path(out)
    losses = Stats.load(run if run.suffix == ".safetensors" else run / "online.safetensors")
    if losses.info.kind != "online" or not losses.info.predictable:
        raise InputError(f"holds losses of kind {losses.info.kind!r}", where=losses.path, expected="online losses, which a run keeps in online.safetensors")
    if stream is not None and Stream(stream).sha256 != losses.info.stream.sha256:
        raise InputError("is about another stream", where=losses.path, expected=f"losses on {stream}")
    other = Stats.load(like) if like is not None else None
    if other is not None and other.info.stream.sha256 != losses.info.stream.sha256:
        raise InputError("is about another stream", where=other.path, expected=f"the stream the run was trained on ({losses.info.stream.sha256[:12]}..)")
    window = other.info.window if other is not None else window or losses.info.window
    low, high = losses.info.window
    if not low <= window[0] < window[1] <= high:
        raise InputError(f"is about the tokens {low:,} to {high:,}", where=losses.path, expected=f"a run trained on all of {window[0]:,} to {window[1]:,}", hint="an n-gram reference needs no run: scalebound reference ngram")
    values = losses.read("nll", window[0] - low, window[1] - low)
    whole = window == losses.info.window
    info = msgspec.structs.replace(losses.info, window=window, tokens=len(values), text_bytes=losses.info.text_bytes if whole else 0)
    return _save(Stats(info, {"nll": values}), other, out)


def checkpoint_reference(run: str | os.PathLike, stream: str | os.PathLike, out: str | os.PathLike, *, like: str | os.PathLike | None = None, window: tuple[int, int] | None = None,
                         threads: int = 1, workers: int = 1, fresh: bool = False, progress: Progress = silent) -> Stats:  # fmt: skip
    """The newest checkpoint of a run, scored on tokens of its stream that come after all it was trained on.

    Raises
    ------
    InputError
        The stream is not the run's; the window begins before the checkpoint's last token.
    """
    from scalebound.measure.measure import measure
    from scalebound.models.load import newest_checkpoint

    run, opened = Path(run), Stream(stream)
    trained = Stats.load(run / "online.safetensors").info  # written when the run has finished: the last checkpoint has seen this window
    other = _like(like, opened)
    if trained.stream.sha256 != opened.sha256:
        raise InputError("was trained on another stream", where=str(run), expected=f"a run on {opened.path}", hint="a model of another stream is an anchor: scalebound measure --anchor")
    seen = trained.window[1]
    window = other.info.window if other is not None else window or (seen, len(opened))
    if window[0] < seen or window[0] >= window[1]:
        raise InputError(f"was trained on tokens up to {seen:,}", where=str(run), expected=f"a window that begins there or later, not {window[0]:,} to {window[1]:,}")
    why = f"a checkpoint frozen after token {seen:,} of the stream, before the window begins at {window[0]:,}"
    same: dict[str, Any] = {}
    if other is not None:
        policy = other.info.policy
        same = {"context": policy.context or other.info.block_tokens, "policy": policy.name, "blocks": other.blocks}
        same |= {"stride": other.info.block_tokens} if policy.name == "sliding" else {}
    return measure(newest_checkpoint(run), stream, out, window=window, dtype="float32", predictable=why, threads=threads, workers=workers, fresh=fresh, progress=progress, **same)


def _like(like: str | os.PathLike | None, stream: Stream) -> Stats | None:
    if like is None:
        return None
    other = Stats.load(like)
    if other.info.stream.sha256 != stream.sha256:
        raise InputError("is about another stream", where=other.path, expected=f"statistics of {stream.path}")
    return other


def _save(found: Stats, like: Stats | None, out: Path) -> Stats:
    """Cut the losses of a whole window to the blocks of ``like``, and write them."""
    if like is not None:
        size, width = len(found), like.info.block_tokens or found.info.block_tokens
        arrays = {"nll": found.read("nll")}
        info = msgspec.structs.replace(found.info, block_tokens=width)
        if not like.complete:
            chosen = np.concatenate([np.arange(b * width, min((b + 1) * width, size)) for b in like.blocks])
            arrays = {"nll": arrays["nll"][chosen], "blocks": like.blocks}
            info = msgspec.structs.replace(info, tokens=len(chosen), text_bytes=like.info.text_bytes)
        found = Stats(info, arrays)
    found.save(out)
    return Stats.load(out)
