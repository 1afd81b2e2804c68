"""Documents to one ordered token stream on disk, memory-mapped when read.

Documents are packed one after the other, each followed by the separator, and cut into sequences of equal length. For training, the order
of the sequences is drawn once from the seed; the order is part of the file, and the file's hash is part of every statement about it.
Text that is only measured keeps its order.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

import scalebound
from scalebound.core.errors import InputError, UsageError, from_os_error
from scalebound.core.io import atomic_write, load_struct, new_folder, relative, save_struct, sha256_file
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import generator
from scalebound.core.stats import StreamRef
from scalebound.data.corpus import Document
from scalebound.data.tokenizer import FileTokenizer, Tokenizer, load_tokenizer

SCHEMA = "scalebound.stream/1"


class TokenizerRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    sha256: str
    path: str = ""


class SourceRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    sha256: str


class StreamInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ``.json`` beside a stream's ``.bin``; its SHA-256 is the stream's identity."""

    schema: str = SCHEMA
    tokenizer: TokenizerRef
    vocab_size: int
    separator: int
    dtype: str
    num_tokens: int
    sequence_tokens: int
    seed: int | None  # None: the order of the text
    documents: tuple[int, ...]
    num_documents: int
    text_bytes: int
    split: str
    source: SourceRef
    bin_sha256: str
    version: str


StreamInfo.SCHEMA = SCHEMA  # type: ignore[attr-defined]


class Stream:
    """An open stream: ``tokens`` is a read-only memory map, ``info`` what is known of it.

    Raises :class:`InputError` when the ``.bin`` does not have the size its ``.json`` says.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = stream_json(path)
        self.info = load_struct(self.path, StreamInfo)
        binary = self.path.with_suffix(".bin")
        if self.info.dtype not in ("uint16", "uint32"):
            raise InputError(f"has dtype {self.info.dtype!r}", where=str(self.path), expected="'uint16' or 'uint32'")
        dtype = np.dtype(self.info.dtype).newbyteorder("<")
        try:
            size = binary.stat().st_size
        except OSError as error:
            raise from_os_error(error, binary) from error
        if size != self.info.num_tokens * dtype.itemsize or not size:
            raise InputError(f"has {size:,} bytes", where=str(binary), expected=f"{self.info.num_tokens * dtype.itemsize:,} as {self.path.name} says")
        self.tokens = np.memmap(binary, dtype=dtype, mode="r")

    def __len__(self) -> int:
        return self.info.num_tokens

    @cached_property
    def sha256(self) -> str:
        return sha256_file(self.path)

    def ref(self, folder: str | os.PathLike) -> StreamRef:
        """How an artefact saved in ``folder`` names this stream."""
        return StreamRef(path=relative(self.path, folder), sha256=self.sha256, num_tokens=len(self))

    def check(self) -> None:
        """Raise :class:`InputError` unless the ``.bin`` is the one its ``.json`` names."""
        if sha256_file(self.path.with_suffix(".bin")) != self.info.bin_sha256:
            raise InputError("does not have the hash its .json names", where=str(self.path.with_suffix(".bin")), hint="build the stream again")

    def tokenizer(self) -> Tokenizer:
        """The tokenizer it was made with: a file beside it, or the one its ``.json`` names by its path."""
        named = self.info.tokenizer.path
        beside = self.path.parent / named
        found = load_tokenizer("byte" if self.info.tokenizer.kind == "byte" else beside if named and beside.is_file() else named)
        if found.sha256 != self.info.tokenizer.sha256:
            raise InputError("is not the tokenizer this stream was made with", where=found.path)
        return found


def stream_json(path: str | os.PathLike) -> Path:
    """The ``.json`` of a stream named by either of its files, or without an ending."""
    path = Path(path)
    return path if path.suffix == ".json" else path.with_suffix(".json") if path.suffix == ".bin" else path.with_name(path.name + ".json")


def is_stream(path: str | os.PathLike) -> bool:
    """Whether ``path`` names a stream rather than text: both its files are there."""
    json = stream_json(path)
    return Path(path).suffix in (".json", ".bin", "") and json.is_file() and json.with_suffix(".bin").is_file()


def build_stream(documents: Sequence[Document], tokenizer: Tokenizer, out: str | os.PathLike, *, sequence_tokens: int, source: SourceRef,
                 split: str = "train", seed: int | None = None, max_tokens: int | None = None, progress: Progress = silent) -> Stream:  # fmt: skip
    """Write the stream of some documents and open it.

    Parameters
    ----------
    documents
        In the order they are packed.
    out
        Path without ending; ``.bin`` and ``.json`` are written, the ``.json`` last.
    sequence_tokens
        Length of the sequences whose order is drawn; with a seed the stream is a whole number of them.
    source
        Name and hash of the corpus, for the record.
    seed
        Draws the order of the sequences; None keeps the order of the text and its ragged end.
    max_tokens
        Stop packing there.

    Raises
    ------
    InputError
        The text is shorter than one sequence (with a seed), or has no token.

    Notes
    -----
    Time O(text), memory O(one document + the permutation); packed tokens wait in a temporary file beside the target.
    """
    if sequence_tokens < 2:
        raise UsageError(f"sequence_tokens = {sequence_tokens}", expected="at least 2")
    out = Path(out)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    starts, total = [], 0
    limit = max_tokens if max_tokens is not None else 1 << 62
    try:
        with new_folder(out.parent), tempfile.TemporaryFile(dir=out.parent) as packed:
            for number, document in enumerate(documents):
                if total >= limit:
                    break
                tokens = np.append(tokenizer.encode(document.read()), np.asarray(tokenizer.separator)).astype(dtype)[: limit - total]
                starts.append(total)
                total += len(tokens)
                packed.write(tokens.tobytes())
                progress(number + 1, len(documents))
            packed.flush()
            if seed is not None:
                total -= total % sequence_tokens
            if not total:
                raise InputError("is shorter than one sequence" if seed is not None else "holds no token", where=source.name,
                                 expected=f"at least {sequence_tokens:,} tokens" if seed is not None else "text", hint="give more text, or a shorter context")  # fmt: skip
            tokens = np.memmap(packed, dtype=dtype, mode="r", shape=(total,))
            where = np.asarray([p for p in starts if p < total], dtype=np.int64)
            order = None
            if seed is not None:
                order = generator(seed, "sequence order", split).permutation(total // sequence_tokens)
                place = np.argsort(order)
                where = place[where // sequence_tokens] * sequence_tokens + where % sequence_tokens
            step = 1 << 20
            text_bytes = sum(tokenizer.count_bytes(tokens[k : k + step], previous=int(tokens[k - 1]) if k else None) for k in range(0, total, step))
            binary = out.with_name(out.name + ".bin")
            atomic_write(binary, lambda file: _write_ordered(file, tokens, order, sequence_tokens))
    except OSError as error:
        raise from_os_error(error, out) from error
    where_from = tokenizer.path
    if isinstance(tokenizer, FileTokenizer) and tokenizer.path.endswith(".gguf"):  # so that nobody has to make it out of that file again
        where_from = out.name + ".tokenizer.json"
        atomic_write(out.with_name(where_from), tokenizer.content)
    info = StreamInfo(
        tokenizer=TokenizerRef(tokenizer.kind, tokenizer.sha256, where_from), vocab_size=tokenizer.vocab_size, separator=tokenizer.separator,
        dtype=dtype.name, num_tokens=total, sequence_tokens=sequence_tokens, seed=seed, documents=tuple(int(p) for p in np.sort(where)),
        num_documents=len(where), text_bytes=text_bytes, split=split, source=source, bin_sha256=sha256_file(binary), version=scalebound.__version__,
    )  # fmt: skip
    save_struct(out.with_name(out.name + ".json"), info)
    return Stream(out.with_name(out.name + ".json"))


def _write_ordered(file, tokens: np.ndarray, order: np.ndarray | None, sequence_tokens: int) -> None:
    if order is None:
        for start in range(0, len(tokens), 1 << 22):
            file.write(tokens[start : start + (1 << 22)].astype(tokens.dtype.newbyteorder("<")).tobytes())
        return
    rows = tokens.reshape(-1, sequence_tokens)
    step = max(1, (1 << 22) // sequence_tokens)
    for start in range(0, len(order), step):
        file.write(rows[order[start : start + step]].astype(tokens.dtype.newbyteorder("<")).tobytes())
