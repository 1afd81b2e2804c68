"""Per-token statistics read by slices: our safetensors files, and ``.npy`` or ``.csv`` losses people already have.

Every size in a header is checked against the file before anything is allocated. Slices are read, not mapped, so that memory stays
at one slice whatever the file's size, and a file cut short while it is read is an error, not a crash.
"""

from __future__ import annotations

import csv
import math
import os
from typing import Any

import numpy as np

from scalebound_verify.strict import Refused, conform, parse, read, regular

PER_TOKEN = ("nll", "entropy", "varentropy", "reference_nll")
ANCHOR = {"kind": ("model", "checkpoint", "ngram", "online"), "deployable": bool, "sha256": str, "name": str, "predictable": str,
          "eps": float, "alphas": [float]}
FORM = {"schema": ("scalebound.stats/1",), "kind": ("model", "online", "bare"), "model": {"name": str, "sha256": str, "params": int},
        "stream": {"path": str, "sha256": str, "num_tokens": int}, "window": [int, int], "vocab_size": int,
        "policy": {"name": str, "context": int, "first_token": int}, "block_tokens": int, "tokens": int, "text_bytes": int,
        "predictable": str, "anchor": (None, ANCHOR), "version": str}


def safetensors_header(path: str) -> tuple[dict[str, tuple[str, list[int], int]], dict[str, str]]:
    """``{name: (dtype, shape, offset in the file)}`` and the metadata; the data must fill the file exactly, without gaps or overlaps."""
    size = regular(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, 100 << 20):
            raise Refused(f"names a header of {length:,} bytes in a file of {size:,}", path, "a safetensors file")
        header = parse(file.read(length), f"{path}: header")
    if not isinstance(header, dict):
        raise Refused("has a header that is no object", path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refused("has metadata that is not text", path)
    found, at = {}, 0
    entries = {name: conform(entry, {"dtype": str, "shape": [int], "data_offsets": [int, int]}, path, ascii(name)) for name, entry in header.items()}
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        width = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2}.get(entry["dtype"], 0)
        if not width or begin != at or min(entry["shape"], default=0) < 0 or end - begin != width * math.prod(entry["shape"]):
            raise Refused(f"array {name!a} has type {entry['dtype']!a}, shape {entry['shape']} and bytes {begin} to {end}", path, f"bytes from {at} on")
        found[name], at = (entry["dtype"], entry["shape"], 8 + length + begin), end
    if 8 + length + at != size:
        raise Refused(f"has {size:,} bytes, its header accounts for {8 + length + at:,}", path)
    return found, metadata


class Statistics:
    """An open statistics file: ``info`` as in docs/formats.md, arrays by :meth:`slice`, ``blocks`` the ids of the evaluated blocks.

    Raises :class:`Refused` unless every array has its type and shape and the blocks account for every token exactly once.
    """

    def __init__(self, path: str, vocab_size: int) -> None:
        self.path, suffix = path, os.path.splitext(path)[1].lower()
        self.arrays: dict[str, tuple[str, list[int], int]] = {}
        self._memory: np.ndarray | None = None
        self.info: dict[str, Any]
        if suffix in (".npy", ".csv"):
            self._open_bare(suffix, vocab_size)
        else:
            self.arrays, metadata = safetensors_header(path)
            if "scalebound" not in metadata:
                raise Refused("has no metadata entry 'scalebound'", path, "a statistics file")
            self.info = conform(parse(metadata["scalebound"].encode(), f"{path}: metadata"), FORM, path)
        self.tokens, self.window, self.block_tokens = self.info["tokens"], self.info["window"], self.info["block_tokens"]
        self.length = self.window[1] - self.window[0]
        rows = len(self.info["anchor"]["alphas"]) if self.info["anchor"] else 0
        right: dict[str, Any] = {name: ("F32", [self.tokens]) for name in PER_TOKEN} | {"centre": ("F32", [rows, self.tokens])}
        for name, (dtype, shape, _) in self.arrays.items():
            if name == "blocks" and dtype == "I64" and len(shape) == 1:
                continue
            if suffix not in (".npy", ".csv") and right.get(name) != (dtype, shape):
                raise Refused(f"array {name!a} has type {dtype} and shape {shape}", path, str(right.get(name, "no such array")))
        if "nll" not in self.arrays or self.tokens < 1 or self.window[0] < 0 or self.length < self.tokens or self.block_tokens < 0:
            raise Refused(f"holds {self.tokens} tokens of the window {self.window}", path, "an array 'nll' of at least one token inside the window")
        self._check_blocks()

    def _open_bare(self, suffix: str, vocab_size: int) -> None:
        path = self.path
        if suffix == ".csv":
            try:
                rows = csv.reader(read(path).decode("utf-8").splitlines())
                column = next(rows, []).index("nll")
                self._memory = np.array([float(row[column]) for row in rows]).astype(np.float32)
            except (ValueError, IndexError, csv.Error) as error:
                raise Refused(f"cannot be read as losses ({error})", path, "a column 'nll' with a number in every row") from error
            entry = ("memory", [len(self._memory)], 0)
        else:
            try:
                with open(path, "rb") as file:
                    version = np.lib.format.read_magic(file)
                    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                    shape, _, dtype = header(file)
                    entry = ({"<f4": "F32", "<f8": "F64", "<f2": "F16"}[dtype.str], list(shape), file.tell())
            except (OSError, ValueError, KeyError) as error:
                raise Refused(f"cannot be read as losses ({error})", path, "one axis of floats") from error
            if len(shape) != 1 or entry[2] + dtype.itemsize * math.prod(shape) != regular(path):
                raise Refused(f"has shape {shape} and {regular(path):,} bytes", path, "one axis of floats that fills the file")
        self.arrays = {"nll": entry}
        n = entry[1][0]
        self.info = {"kind": "bare", "model": {"name": "", "sha256": "", "params": 0}, "stream": {"path": "", "sha256": "", "num_tokens": n},
                     "window": [0, n], "vocab_size": vocab_size, "policy": None, "block_tokens": 0, "tokens": n, "text_bytes": 0, "anchor": None}

    def _check_blocks(self) -> None:
        self.complete = self.tokens == self.length
        if self.block_tokens == 0:
            if not self.complete or "blocks" in self.arrays:
                raise Refused("names no block size, yet holds only some tokens", self.path)
            return
        self.num_blocks = -(-self.length // self.block_tokens)
        self.ragged = self.length % self.block_tokens  # tokens of a shorter last block, 0 when all are equal
        self.blocks = self._raw("blocks", 0, self.arrays["blocks"][1][0]) if "blocks" in self.arrays else np.arange(self.num_blocks)
        blocks = self.blocks
        if not len(blocks) or blocks[0] < 0 or blocks[-1] >= self.num_blocks or (np.diff(blocks) <= 0).any():
            raise Refused("block ids must ascend, each once, inside the window: a token counts once", self.path)
        self.has_ragged = bool(self.ragged) and int(blocks[-1]) == self.num_blocks - 1
        held = len(blocks) * self.block_tokens - (self.block_tokens - self.ragged if self.has_ragged else 0)
        if held != self.tokens:
            raise Refused(f"holds {self.tokens:,} tokens, its blocks account for {held:,}", self.path)

    def _raw(self, name: str, start: int, stop: int, row: int = 0) -> np.ndarray:
        dtype, shape, offset = self.arrays[name]
        if dtype == "memory" and self._memory is not None:
            return self._memory[start:stop]
        kind = np.dtype({"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8"}[dtype])
        with open(self.path, "rb") as file:
            file.seek(offset + kind.itemsize * (row * shape[-1] + start))
            data = file.read(kind.itemsize * (stop - start))
        if len(data) != kind.itemsize * (stop - start):
            raise Refused("ended while it was read", self.path)
        return np.frombuffer(data, kind)

    def slice(self, name: str, start: int, stop: int, row: int = 0) -> np.ndarray:
        """Tokens [start, stop) of an array as float64; a value that no loss, entropy or centre can have is refused with its place."""
        if name not in self.arrays:
            raise Refused(f"has no array {name!a}, which the certificate needs", self.path)
        values = self._raw(name, start, stop, row).astype(np.float32, copy=False).astype(np.float64)
        # float32 rounding may leave a loss or a divergence of zero slightly on the wrong side
        top = math.log(self.info["vocab_size"]) * (1 + 1e-5) + 1e-4 if name == "entropy" else 1e-4 if name == "centre" else math.inf
        wrong = ~((values >= (-math.inf if name == "centre" else -1e-5)) & (values <= top) & np.isfinite(values))
        if wrong.any():
            at = int(np.argmax(wrong))
            raise Refused(f"token {start + at} has {name} = {values[at]}", self.path, f"a finite value that {name} can have")
        return values
