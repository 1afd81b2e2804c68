"""The likeliest tokens of every prediction, in a file of their own beside the statistics (``measure --top-k``).

Arrays over the tokens of the stats file, in its order: ``top_log_p`` (k, tokens) float32, nats, and ``top_ids`` (k, tokens) int32, likeliest
first. Certificates do not use them, so they are not part of a stats file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from scalebound.core.errors import InputError, from_os_error
from scalebound.core.io import atomic_write, canonical_json
from scalebound.core.stats import ModelRef

TOP_ARRAYS = ("top_log_p", "top_ids")
TYPES = {"top_log_p": ("F32", "<f4"), "top_ids": ("I32", "<i4")}


def top_path(stats: Path) -> Path:
    """Where the likeliest tokens of a stats file lie.

    >>> top_path(Path("a/s.safetensors")).name, top_path(Path("s")).name
    ('s.top.safetensors', 's.top.safetensors')
    """
    return stats.with_name(stats.name.removesuffix(".safetensors") + ".top.safetensors")


def save_top(path: Path, arrays: dict[str, np.ndarray], model: ModelRef) -> Path:
    """Write the arrays of one file."""
    shape = arrays["top_ids"].shape
    return _write(path, shape, model, lambda name, row: [arrays[name][row]])


def read_top(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """``top_log_p`` and ``top_ids`` of a file.

    Raises :class:`InputError` when it is none.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except OSError as error:
        raise from_os_error(error, path) from error
    except SafetensorError as error:
        raise InputError(f"is not a safetensors file ({error})", where=str(path)) from error
    if set(found) != set(TOP_ARRAYS) or found["top_ids"].shape != found["top_log_p"].shape or found["top_ids"].ndim != 2:
        raise InputError("holds no likeliest tokens", where=str(path), expected="a file written by `scalebound measure --top-k`")
    return found


def join_tops(parts: Sequence[Path], out: Path) -> Path:
    """One file from consecutive parts, one row of one part in memory at a time."""
    from safetensors import safe_open

    shapes, metadata = [], "{}"
    for part in parts:
        with safe_open(part, framework="np") as file:
            shapes.append(tuple(file.get_slice("top_ids").get_shape()))
            metadata = file.metadata()["scalebound"]
    model = msgspec.convert(json.loads(metadata)["model"], ModelRef)

    def rows(name: str, row: int):
        for part in parts:
            with safe_open(part, framework="np") as file:
                yield file.get_slice(name)[row : row + 1][0]

    return _write(out, (shapes[0][0], sum(shape[1] for shape in shapes)), model, rows)


def _write(path: Path, shape: tuple[int, ...], model: ModelRef, rows) -> Path:
    size = 4 * shape[0] * shape[1]
    header = {"__metadata__": {"scalebound": canonical_json({"schema": "scalebound.top/1", "model": msgspec.to_builtins(model)}).decode()}}
    header |= {name: {"dtype": TYPES[name][0], "shape": list(shape), "data_offsets": [k * size, (k + 1) * size]} for k, name in enumerate(sorted(TOP_ARRAYS))}  # type: ignore[dict-item]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def write(file) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(TOP_ARRAYS):
            for row in range(shape[0]):
                for values in rows(name, row):
                    file.write(values.astype(TYPES[name][1], copy=False).tobytes())

    return atomic_write(path, write)
