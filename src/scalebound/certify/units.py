"""Documents or items as units: one number per unit, the mean of its tokens' losses, in place of one per token.

A token interval is about this stream. When documents were drawn independently from a population, the mean over documents of their mean
losses is about the population; each unit then counts once, however long it is.
"""

from __future__ import annotations

import os

import numpy as np

from scalebound.core.errors import InputError, from_os_error
from scalebound.core.io import read_json
from scalebound.core.stats import Stats


def unit_means(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Mean of each unit ``values[starts[k]:starts[k+1]]``; the last one ends with the array, what stands before the first is left out.

    Raises :class:`InputError` unless starts ascend strictly inside the array.

    >>> unit_means(np.array([9.0, 1.0, 3.0, 5.0]), np.array([1, 3])).tolist()
    [2.0, 5.0]
    """
    starts = np.asarray(starts, dtype=np.int64)
    if starts.ndim != 1 or not len(starts) or starts[0] < 0 or starts[-1] >= len(values) or np.any(np.diff(starts) <= 0):
        raise InputError("unit starts must ascend strictly inside the array", where="units", expected="at least one unit")
    lengths = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(np.asarray(values, dtype=np.float64)[: len(values)], starts) / lengths


def document_starts(stats: Stats, stream_json: str | os.PathLike) -> np.ndarray:
    """Where the whole documents of a stats file start, and one past the last: ``(documents + 1,)`` positions in the file.

    Only documents that lie in the window entirely count; which those are depends on positions and not on losses.

    Raises
    ------
    InputError        a sample of blocks, another stream, a stream whose sequences were shuffled (its documents lie in pieces), or none whole
    """
    info = read_json(stream_json)
    where = str(stream_json)
    if not isinstance(info, dict) or "documents" not in info or "num_tokens" not in info:
        raise InputError("is not a stream", where=where, expected="the .json of the stream that was measured")
    from scalebound.core.io import sha256_file

    if stats.info.stream.sha256 and sha256_file(stream_json) != stats.info.stream.sha256:
        raise InputError("is another stream than the one measured", where=where, expected=f"{stats.info.stream.sha256[:12]}.. of {stats.path}")
    if info.get("seed") is not None:
        raise InputError(
            "has its sequences in random order, so documents lie in pieces", where=where, expected="a stream in the order of the text"
        )
    if not stats.complete:
        raise InputError("holds a part of its window only", where=stats.path, expected="every token, for documents as units")
    low, high = stats.info.window
    edges = np.asarray([*info["documents"], info["num_tokens"]], dtype=np.int64)
    inside = edges[(edges >= low) & (edges <= high)] - low
    if len(inside) < 2:
        raise InputError("holds no whole document", where=stats.path)
    return inside


def group_starts(path: str | os.PathLike, column: str) -> np.ndarray:
    """Starts of the runs of equal values in a column of a CSV file, and one past the last; a value that comes back later is refused."""
    import csv

    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if column not in header:
                raise InputError(f"has no column {column!r}", where=str(path), expected=f"one of {', '.join(header)}")
            index = header.index(column)
            values = [row[index] if index < len(row) else "" for row in rows]
    except OSError as error:
        raise from_os_error(error, path) from error
    starts = [k for k, value in enumerate(values) if not k or value != values[k - 1]]
    names = [values[k] for k in starts]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{column} {twice!r} comes back after another", where=str(path), expected="the rows of a unit one after the other")
    return np.asarray([*starts, len(values)], dtype=np.int64)
