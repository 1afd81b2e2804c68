"""Parts of a measurement to its one file, without ever holding more than one part.

Gives the bytes that :func:`scalebound.core.stats.merge` and ``save`` would give (a test compares them), for parts that lie one behind the
other in the window.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from scalebound.core.errors import InputError
from scalebound.core.io import atomic_write, canonical_json
from scalebound.core.stats import Stats


def join_parts(parts: Sequence[str | os.PathLike], out: str | os.PathLike) -> Path:
    """Write the file of which ``parts`` are consecutive pieces.

    Parameters
    ----------
    parts
        Stats files of one measurement, their blocks ascending from file to file; only one is open at a time.

    Raises
    ------
    InputError
        Parts that are of another measurement than the first, or out of order.

    Notes
    -----
    O(tokens) time, O(largest part) memory. A safetensors file is a length, a header in JSON, and the arrays, wider types first.
    """
    first = Stats.load(parts[0])
    plain = msgspec.structs.replace(first.info, tokens=0, text_bytes=0)
    rows = {name: first.read(name, 0, 0).shape[:-1] for name in first._arrays if name != "blocks"}
    tokens, text_bytes, last, blocks = 0, 0, -1, []
    for path in parts:
        part = Stats.load(path)
        if msgspec.structs.replace(part.info, tokens=0, text_bytes=0) != plain or {n for n in part._arrays if n != "blocks"} != set(rows):
            raise InputError(f"differs from {first.path} in model, stream, window, policy or anchor", where=part.path)
        if part.blocks[0] <= last:
            raise InputError(f"begins with block {part.blocks[0]}, after block {last}", where=part.path, expected="parts in the order of the stream")
        last = int(part.blocks[-1])
        blocks.append(part.blocks)
        tokens, text_bytes = tokens + len(part), text_bytes + part.info.text_bytes
    info = msgspec.structs.replace(plain, tokens=tokens, text_bytes=text_bytes)
    complete = tokens == info.window[1] - info.window[0]
    ids = np.empty(0, "<i8") if complete else np.concatenate(blocks).astype("<i8")
    header: dict[str, Any] = {"__metadata__": {"scalebound": canonical_json(msgspec.to_builtins(info)).decode()}}
    at = 0
    if not complete:
        header["blocks"] = {"dtype": "I64", "shape": [len(ids)], "data_offsets": [0, ids.nbytes]}
        at = ids.nbytes
    for name in sorted(rows):
        size = 4 * tokens * int(np.prod(rows[name], dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": [*rows[name], tokens], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def write(file) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(ids.tobytes())
        for name in sorted(rows):
            for row in range(rows[name][0]) if rows[name] else (None,):
                for path in parts:
                    file.write(Stats.load(path).read(name, row=row).astype("<f4", copy=False).tobytes())

    return atomic_write(out, write)
