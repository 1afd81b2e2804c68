"""Per-token statistics: what measuring leaves behind and certifying starts from.

One ``.safetensors`` file holds arrays over the evaluated tokens, in stream order, and one metadata entry (``scalebound``) with a
:class:`StatsInfo` as JSON. Arrays (all nats, float32 unless said otherwise):

==================  ==============  ==================================================================================
``nll``             (tokens,)       minus the log-probability of the token that came
``entropy``         (tokens,)       mean of the NLL under the model's own prediction; absent when only losses are known
``varentropy``      (tokens,)       its variance, nats squared
``reference_nll``   (tokens,)       NLL of the anchor on the same tokens (``measure --anchor``)
``centre``          (alphas, tokens) minus KL(p' || q~) of docs/mathematics.md section 4, one row per smoothing in ``anchor.alphas``
``blocks``          (blocks,) int64 ids of the evaluated blocks, ascending; block b covers tokens [b, b+1) * block_tokens of the window
==================  ==============  ==================================================================================

A block is one context window; the last block of a window may be shorter (ragged). Shards hold disjoint blocks; :func:`merge`
joins them. Arrays are read by slices, so a file of 10^9 tokens needs no memory of that size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from scalebound.core.errors import InputError, from_os_error
from scalebound.core.io import atomic_write, canonical_json, parse_json, to_struct

SCHEMA = "scalebound.stats/1"
PER_TOKEN = ("nll", "entropy", "varentropy", "reference_nll")


class ModelRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which predictor was scored. ``sha256`` is empty for predictors that are no single model (online losses)."""

    name: str = ""
    sha256: str = ""
    params: int = 0


class StreamRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which token stream: ``sha256`` is over its ``.json``, which names the hash of the ``.bin``."""

    path: str = ""
    sha256: str = ""
    num_tokens: int = 0


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each token was conditioned on: ``first_token``, then at most ``context - 1`` earlier tokens of the window.

    ``packed``: those of its own block. ``documents``: those of its own document (or of its piece of one longer than the context).
    ``sliding``: those of the context that ends with its block, whose length ``block_tokens`` is the stride. Every token of every block
    has one loss under each of them.
    """

    name: str = "packed"
    context: int = 0
    first_token: int = -1


class TrainedOn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The tokens a model was trained on, as its run says; source and split are empty when the stream is not at hand."""

    stream_sha256: str
    window: tuple[int, int]
    source_sha256: str = ""
    split: str = ""

    def overlaps(self, stream_sha256: str, window: tuple[int, int]) -> bool:
        """Whether it saw a token of that window."""
        return bool(stream_sha256) and self.stream_sha256 == stream_sha256 and max(self.window[0], window[0]) < min(self.window[1], window[1])


class AnchorRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reference whose losses stand in ``reference_nll``, and the settings ``centre`` was computed at."""

    kind: Literal["model", "checkpoint", "ngram", "online"] = "model"
    deployable: bool = True
    sha256: str = ""
    name: str = ""
    predictable: str = ""
    eps: float = 0.0
    alphas: tuple[float, ...] = ()
    trained: TrainedOn | None = None  # None: nothing beside the anchor says


class StatsInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the arrays of a stats file are about."""

    schema: str = SCHEMA
    kind: Literal["model", "online", "bare"] = "model"
    model: ModelRef = ModelRef()
    stream: StreamRef = StreamRef()
    window: tuple[int, int] = (0, 0)
    vocab_size: int = 0
    policy: Policy = Policy()
    block_tokens: int = 0
    tokens: int = 0
    text_bytes: int = 0
    predictable: str = ""
    anchor: AnchorRef | None = None
    version: str = ""


class Stats:
    """Arrays with their :class:`StatsInfo`; made from arrays, or opened from a file with :meth:`load`.

    Parameters
    ----------
    info
        What the arrays are about; ``info.tokens`` must equal their length.
    arrays
        As listed in the module docstring. A :class:`StatsFile` reads them lazily.
    path
        The file they came from, for messages and certificates.
    """

    def __init__(self, info: StatsInfo, arrays: Mapping[str, Any], *, path: str = "") -> None:
        self.info, self._arrays, self.path = info, arrays, path
        self._check_shapes({name: array.shape for name, array in arrays.items()})

    def _check_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if "nll" not in shapes:
            raise InputError("has no array 'nll'", where=self.path, expected="a loss per token")
        for name, shape in shapes.items():
            if name in PER_TOKEN:
                right: tuple[int, ...] = (self.info.tokens,)
            elif name == "centre":
                right = (len(self.info.anchor.alphas) if self.info.anchor else 0, self.info.tokens)
            elif name == "blocks":
                right = shape if len(shape) == 1 else (-1,)
            else:
                raise InputError(f"has an unknown array {name!r}", where=self.path, expected=f"only {', '.join(PER_TOKEN)}, centre, blocks")
            if shape != right:
                raise InputError(f"array {name!r} has shape {shape}", where=self.path, expected=f"{right}")

    def __len__(self) -> int:
        return self.info.tokens

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def read(self, name: str, start: int = 0, stop: int | None = None, *, row: int | None = None) -> np.ndarray:
        """The slice [start, stop) of a per-token array along its token axis; ``row`` picks one row of ``centre``."""
        if name not in self:
            raise InputError(f"has no array {name!r}", where=self.path or "statistics", hint="measure the model again with `scalebound measure`" + (" --anchor MODEL" if name in ("reference_nll", "centre") else ""))
        return self._arrays[name][..., start:stop] if row is None else self._arrays[name][row, start:stop]

    def chunks(self, size: int = 1 << 20) -> Iterator[tuple[int, int]]:
        """Ranges of tokens that cover the arrays, each at most ``size`` long."""
        for start in range(0, len(self), size):
            yield start, min(start + size, len(self))

    @property
    def num_blocks(self) -> int:
        """Blocks of the whole window, evaluated or not."""
        length = self.info.window[1] - self.info.window[0]
        return -(-length // self.info.block_tokens) if self.info.block_tokens else 0

    @property
    def blocks(self) -> np.ndarray:
        """Ids of the evaluated blocks, ascending."""
        if "blocks" in self:
            return np.asarray(self._arrays["blocks"][:])
        return np.arange(self.num_blocks, dtype=np.int64)

    @property
    def complete(self) -> bool:
        """Whether every token of the window was evaluated."""
        return len(self) == self.info.window[1] - self.info.window[0]

    def check_blocks(self) -> None:
        """Raise :class:`InputError` unless the block ids are ascending, within the window, and account for every token once."""
        info, blocks = self.info, self.blocks
        length = info.window[1] - info.window[0]
        if not info.block_tokens:
            return
        if len(blocks) and (blocks[0] < 0 or blocks[-1] >= self.num_blocks or np.any(np.diff(blocks) <= 0)):
            raise InputError("block ids must be ascending, each once, inside the window: a token counts once", where=self.path)
        ragged = length - (self.num_blocks - 1) * info.block_tokens
        tokens = len(blocks) * info.block_tokens - (info.block_tokens - ragged if len(blocks) and blocks[-1] == self.num_blocks - 1 else 0)
        if tokens != info.tokens:
            raise InputError(f"holds {info.tokens:,} tokens, its blocks account for {tokens:,}", where=self.path)

    def check_values(self) -> None:
        """Raise :class:`InputError` at the first value that cannot be a loss, an entropy or a variance."""
        limit = np.log(self.info.vocab_size) * (1 + 1e-5) + 1e-4 if self.info.vocab_size else np.inf
        for name in PER_TOKEN:
            if name not in self:
                continue
            for start, stop in self.chunks():
                values = self.read(name, start, stop)
                wrong = ~(values >= -1e-5) | ~np.isfinite(values)
                if name == "entropy":
                    wrong |= values > limit
                if wrong.any():
                    index = int(np.argmax(wrong))
                    rule = f"between 0 and log(vocabulary size) = {limit:.4f}" if name == "entropy" else "finite and not negative"
                    raise InputError(f"token {start + index} has {name} = {values[index]}", where=self.path, expected=f"{name} {rule}",
                                     hint="re-run `scalebound measure`; blocks already measured are kept")

    @classmethod
    def load(cls, path: str | os.PathLike) -> Stats:
        """Open a stats file; sizes are checked against the file before anything is read, arrays are read when asked for."""
        return StatsFile(path)

    def save(self, path: str | os.PathLike) -> Path:
        """Write atomically; the same content gives the same bytes."""
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(self._arrays[name][:]) for name in sorted(self._arrays)}
        return atomic_write(path, save(arrays, metadata={"scalebound": canonical_json(msgspec.to_builtins(self.info)).decode()}))


class _File:
    """An open file that closes itself when the last array of it is gone."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.name, self._fd = str(path), os.open(path, os.O_RDONLY)

    def read(self, offset: int, size: int) -> bytes:
        step = 1 << 30  # one read gives at most 2 GiB
        pieces = [os.pread(self._fd, min(step, size - done), offset + done) for done in range(0, size, step)]
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(data) != size:
            raise InputError("was cut short while it was read", where=self.name)
        return data

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


class _Lazy:
    """One array of an open safetensors file, read by slices of its last axis with plain reads: a mapped file of 10^9 tokens would count as memory in use."""

    def __init__(self, file: _File, offset: int, shape: tuple[int, ...], dtype: str) -> None:
        self._file, self._offset, self.shape = file, offset, shape
        self.dtype = {"F32": "float32", "F64": "float64", "F16": "float16", "I64": "int64"}.get(dtype, "")

    def __getitem__(self, key) -> np.ndarray:
        """``[start:stop]`` or ``[..., start:stop]``: that slice of the last axis, all of the others. ``[row, start:stop]``: of one row."""
        *rows, last = key if isinstance(key, tuple) else (key,)
        if len(self.shape) == 1:
            return self._stretch(0, last)
        wanted = rows if rows and isinstance(rows[0], int) else range(self.shape[0])
        found = [self._stretch(row, last) for row in wanted]
        return found[0] if isinstance(wanted, list) else np.stack(found) if found else np.empty((0, 0), dtype=self.dtype)

    def _stretch(self, row: int, part: slice) -> np.ndarray:
        length, kind = self.shape[-1], np.dtype(self.dtype).newbyteorder("<")
        start, stop, _ = part.indices(length)
        data = self._file.read(self._offset + (row * length + start) * kind.itemsize, max(stop - start, 0) * kind.itemsize)
        return np.frombuffer(data, dtype=kind).astype(self.dtype, copy=False)


class StatsFile(Stats):
    """A stats file whose arrays stay on disk."""

    def __init__(self, path: str | os.PathLike) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = str(path)
        try:
            os.stat(path)
            with safe_open(path, framework="np") as checked:  # refuses headers that do not fit the file
                metadata = checked.metadata() or {}
            file = _File(path)
            length = int.from_bytes(file.read(0, 8), "little")
            header = parse_json(file.read(8, length), where=self.path)
            self._arrays = {name: _Lazy(file, 8 + length + entry["data_offsets"][0], tuple(entry["shape"]), entry["dtype"])
                            for name, entry in header.items() if name != "__metadata__"}  # fmt: skip
        except OSError as error:
            raise from_os_error(error, path) from error
        except SafetensorError as error:
            raise InputError(f"is not a safetensors file ({error})", where=self.path) from error
        if "scalebound" not in metadata:
            raise InputError("holds no statistics of ours (metadata entry 'scalebound' is missing)", where=self.path, hint="write one with `scalebound measure`")
        self.info = to_struct(parse_json(metadata["scalebound"], where=f"{path}: metadata"), StatsInfo, where=self.path)
        if self.info.schema != SCHEMA:
            raise InputError(f"has schema {self.info.schema!r}", where=self.path, expected=repr(SCHEMA))
        wrong = [name for name, array in self._arrays.items() if array.dtype != ("int64" if name == "blocks" else "float32")]
        if wrong:
            raise InputError(f"array {wrong[0]!r} has another type", where=self.path, expected="float32 values and int64 block ids")
        self._check_shapes({name: array.shape for name, array in self._arrays.items()})
        self.check_blocks()


def open_losses(path: str | os.PathLike, *, vocab_size: int = 0) -> Stats:
    """Open a stats file or a sketch (``.sketch``), or wrap losses people already have: ``.npy`` (one float axis) or ``.csv`` with a column ``nll``."""
    suffix = Path(path).suffix.lower()
    if suffix == ".sketch":
        from scalebound.core.sketch import Sketch

        return Sketch.load(path)
    if suffix not in (".npy", ".csv"):
        return Stats.load(path)
    try:
        if suffix == ".npy":
            # mapping checks the header against the file's size before anything is allocated
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            array = _csv_column(path, "nll")
    except OSError as error:
        raise from_os_error(error, path) from error
    except ValueError as error:
        raise InputError(f"cannot be read as losses ({error})", where=str(path), expected="one axis of floats") from error
    if array.ndim != 1 or array.dtype.kind != "f" or not len(array):
        raise InputError(f"holds {array.dtype} of shape {array.shape}", where=str(path), expected="one axis of floats, at least one")
    info = StatsInfo(kind="bare", tokens=len(array), window=(0, len(array)), vocab_size=vocab_size, stream=StreamRef(num_tokens=len(array)))
    return Stats(info, {"nll": array.astype(np.float32, copy=False)}, path=str(path))


def _csv_column(path: str | os.PathLike, column: str) -> np.ndarray:
    import csv

    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if column not in header:
            raise InputError(f"has no column {column!r}", where=str(path), expected=f"a header with {column!r}, found {', '.join(header) or 'nothing'}")
        index = header.index(column)
        values = []
        for number, row in enumerate(rows, start=2):
            try:
                values.append(float(row[index]))
            except (ValueError, IndexError):
                raise InputError(f"row {number} has no number in column {column!r}", where=str(path)) from None
    return np.asarray(values, dtype=np.float64)


def merge(shards: Sequence[Stats]) -> Stats:
    """Join shards of one measurement into one; certifying the result equals certifying the whole.

    Raises :class:`InputError` when the shards are not of the same model, stream and policy, or share a block.
    """
    if not shards:
        raise InputError("nothing to merge", expected="at least one stats file")
    first = shards[0]
    plain = msgspec.structs.replace(first.info, tokens=0, text_bytes=0)
    for shard in shards[1:]:
        if msgspec.structs.replace(shard.info, tokens=0, text_bytes=0) != plain:
            raise InputError(f"differs from {first.path} in model, stream, window, policy or anchor", where=shard.path)
        if set(shard._arrays) != set(first._arrays):
            raise InputError(f"holds other arrays than {first.path}", where=shard.path)
    blocks = np.concatenate([shard.blocks for shard in shards])
    order = np.argsort(blocks, kind="stable")
    if np.any(np.diff(blocks[order]) == 0):
        twice = int(blocks[order][:-1][np.diff(blocks[order]) == 0][0])
        raise InputError(f"block {twice} is in two shards; a token counts once", where=", ".join(shard.path for shard in shards))
    # token offsets of every block in its shard, then gathered in the order of the stream
    info = first.info
    length = info.window[1] - info.window[0]
    sizes = np.minimum((blocks + 1) * info.block_tokens, length) - blocks * info.block_tokens
    starts = np.concatenate([np.concatenate([[0], np.cumsum(part)[:-1]]) for part in np.split(sizes, np.cumsum([len(s.blocks) for s in shards])[:-1])])
    owner = np.repeat(np.arange(len(shards)), [len(s.blocks) for s in shards])
    total = int(sizes.sum())
    arrays: dict[str, np.ndarray] = {}
    for name in first._arrays:
        if name == "blocks":
            continue
        whole = [shard.read(name) for shard in shards]
        out = np.empty((*whole[0].shape[:-1], total), dtype=np.float32)
        at = 0
        for k in order:
            out[..., at : at + sizes[k]] = whole[owner[k]][..., starts[k] : starts[k] + sizes[k]]
            at += sizes[k]
        arrays[name] = out
    if total != length:
        arrays["blocks"] = blocks[order].astype(np.int64)
    merged = msgspec.structs.replace(info, tokens=total, text_bytes=sum(shard.info.text_bytes for shard in shards))
    return Stats(merged, arrays)
