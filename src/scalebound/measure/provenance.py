"""What a model was trained on, as far as the files beside it tell, and whether it saw the tokens it is to predict.

An anchor must be known before each token (docs/mathematics.md section 4). A run says in ``run.json`` which window of which stream it was
trained on, and the stream which part of which text it is; so an anchor that saw the window is refused here, and its provenance is kept in the
statistics, where `certify` and the checker look again. A folder without a ``run.json`` tells nothing: then the caller's word stands.
"""

from __future__ import annotations

import os
from pathlib import Path

from scalebound.core.errors import InputError, ScaleboundError
from scalebound.core.io import read_json
from scalebound.core.stats import TrainedOn
from scalebound.data.stream import Stream

HINT = "train one on other documents: scalebound train --anchor-slice 5%"


def trained_on(model: str | os.PathLike) -> tuple[TrainedOn, Path] | None:
    """Window and stream a run (or a checkpoint inside one) was trained on, and its folder; None when nothing is known.

    Raises :class:`InputError` for a ``run.json`` that is none.
    """
    path = Path(model)
    for folder in (path, path.parent.parent):
        if (folder / "run.json").is_file():
            info = read_json(folder / "run.json")
            try:
                low, high = info["window"]
                stream = info["stream"]["sha256"]
                path_of = info["stream"]["path"]
                if not (isinstance(stream, str) and type(low) is type(high) is int and isinstance(path_of, str)):
                    raise TypeError
            except (KeyError, TypeError, ValueError):
                raise InputError("does not say what the run was trained on", where=str(folder / "run.json"), expected="stream and window") from None
            source, split = "", ""
            try:
                known = Stream(folder / path_of)
                if known.sha256 == stream:
                    source, split = known.info.source.sha256, known.info.split
            except ScaleboundError:
                pass  # the stream has moved: what is known is its hash
            return TrainedOn(stream_sha256=stream, window=(low, high), source_sha256=source, split=split), folder
    return None


def check_anchor(model: str | os.PathLike, stream: Stream, window: tuple[int, int]) -> tuple[TrainedOn | None, str]:
    """What an anchor was trained on and, in words, why it is predictable on a window of a stream.

    Raises
    ------
    InputError
        It was trained on tokens of the window, or on the same part of the same text.
    """
    found = trained_on(model)
    if found is None:
        return None, "a model fixed before the stream, as stated by whoever measured"
    trained, _ = found
    low, high = trained.window
    if trained.overlaps(stream.sha256, window):
        raise InputError(f"was trained on the tokens {low:,} to {high:,} of this stream: it saw what it is to predict", where=str(model), expected=f"an anchor that saw nothing of {window[0]:,} to {window[1]:,}", hint=HINT)
    if trained.stream_sha256 == stream.sha256:
        return trained, f"a checkpoint trained on the tokens {low:,} to {high:,} of the stream and on none of the window"
    if trained.split and (trained.source_sha256, trained.split) == (stream.info.source.sha256, stream.info.split):
        raise InputError(f"was trained on the part {trained.split!r} of the same text, which is what this stream is made of", where=str(model), expected="an anchor trained on other documents", hint=HINT)
    if trained.split and trained.source_sha256 == stream.info.source.sha256:
        return trained, f"trained on the part {trained.split!r} of the text, disjoint by document from the part {stream.info.split!r}"
    return trained, "a run on another stream, as its run.json says"
