"""Per-token statistics read by slices: our safetensors files, and ``.npy`` or ``.csv`` losses people already have. Every size in a header
is checked against the file before anything is allocated, and memory stays at one slice whatever the file's size."""

import csv
import math
from typing import Any

import numpy as np

from scalebound_verify.strict import FORMS, Refused, conform, parse, read, regular


def safetensors_header(path: str) -> tuple[dict[str, tuple[str, list[int], int]], dict[str, Any]]:
    """``{name: (dtype, shape, offset in the file)}`` and the metadata; the data must fill the file exactly, without gaps or overlaps."""
    size, found = regular(path), dict[str, tuple[str, list[int], int]]()
    with open(path, "rb") as file:
        if size < 8 or (at := 8 + int.from_bytes(file.read(8), "little")) > min(size, 100 << 20):
            raise Refused(f"names a header longer than its {size:,} bytes", path, "a safetensors file")
        header = conform(parse(file.read(at - 8), path), "object", path, "the header")
    metadata, data = conform(header.pop("__metadata__", {}), "object", path, "the metadata"), at
    entries = [(name, conform(entry, FORMS["array"], path, ascii(name))) for name, entry in header.items()]
    for name, entry in sorted(entries, key=lambda item: item[1]["data_offsets"]):
        shape, (begin, end), width = entry["shape"], entry["data_offsets"], np.dtype(FORMS["raw"][entry["dtype"]]).itemsize
        if data + begin != at or min(shape, default=0) < 0 or end - begin != width * math.prod(shape):
            raise Refused(f"array {name!a}, shape {shape}, is said to lie at {begin} to {end}", path, f"from {at - data} on")
        found[name], at = (entry["dtype"], shape, at), data + end
    if at != size:
        raise Refused(f"has {size:,} bytes, its header accounts for {at:,}", path)
    return found, metadata

def stored(path: str, entry: tuple[str, list[int], int], start: int = 0, count: int | None = None) -> np.ndarray:
    """``count`` numbers from place ``start`` of an array that :func:`safetensors_header` found; all of them by default."""
    kind, count = np.dtype(FORMS["raw"][entry[0]]), math.prod(entry[1]) if count is None else count
    found = np.fromfile(path, kind, count, offset=entry[2] + kind.itemsize * start)
    if len(found) != count:
        raise Refused("ended while it was read", path)
    return found

def texts(path: str, name: str) -> list[str]:
    """The texts in a column of a ``.csv`` file; none when it has no such column."""
    head, *rows = csv.reader(read(path).decode("utf-8").splitlines())
    return ["".join(row[(at := head.index(name)) : at + 1]) for row in rows] if name in head else []

def bare_losses(path: str) -> np.ndarray:
    """Losses of a ``.npy`` file (mapped, so that its header is checked against its size) or of the column ``nll`` of a ``.csv``."""
    try:
        npy = path.lower().endswith(".npy")
        losses = np.load(path, mmap_mode="r", allow_pickle=False) if npy else np.array([float(x) for x in texts(path, "nll")])
        if losses.ndim != 1 or losses.dtype.kind != "f" or not len(losses):
            raise ValueError(f"{losses.dtype} of shape {losses.shape}")
        return losses
    except (ValueError, EOFError, AttributeError, csv.Error) as error:
        raise Refused(f"cannot be read as losses ({error})", path, "one axis of floats, or a column 'nll'") from error

class Statistics:
    """An open statistics file: ``info`` as in docs/formats.md; arrays by :meth:`slice`; ids of the evaluated ``blocks``; ``width``, tokens
    of an equal block, and ``sampled``, how many of these were evaluated. Bare losses take vocabulary and window from what is claimed."""
    def __init__(self, path: str, vocab_size: int, window: list[int] | None) -> None:
        self.path, self.bare, info, self.saw = path, np.zeros(0), dict[str, Any](), False  # saw: the anchor was trained on the window
        if path.lower().endswith((".npy", ".csv")):
            self.bare = bare_losses(path)
            n, self.arrays = len(self.bare), {"nll": ("F32", [len(self.bare)], 0)}
            info = {**FORMS["bare"], "window": window or [0, n], "tokens": n, "vocab_size": vocab_size}
        else:
            self.arrays, metadata = safetensors_header(path)
            info = conform(parse(str(metadata.get("scalebound", "")).encode(), f"{path}: entry 'scalebound'"), FORMS["statistics"], path)
            info["anchor"] = info["anchor"] and conform(info["anchor"], FORMS["anchor"], path, "anchor")
            seen = info["anchor"] and info["anchor"].get("trained") and conform(info["anchor"]["trained"], FORMS["trained"], path, "anchor.trained")
            self.saw = bool(seen) and seen["stream_sha256"] == info["stream"]["sha256"] and max(
                seen["window"][0], info["window"][0]) < min(seen["window"][1], info["window"][1])  # fmt: skip
        self.info, self.tokens, self.window, self.width = info, info["tokens"], info["window"], info["block_tokens"]
        self.length, v = self.window[1] - self.window[0], info["vocab_size"]
        if "nll" not in self.arrays or not (1 <= self.tokens <= self.length and self.window[0] >= 0 <= self.width and v >= 2):
            raise Refused(f"says {self.tokens} tokens, window {self.window}, vocabulary {v}", path, "losses in a window")
        right: dict[str, Any] = {x: [self.tokens] for x in ("nll", "entropy", "varentropy", "reference_nll")}
        right["centre"] = [len(info["anchor"]["alphas"]) if info["anchor"] else 0, self.tokens]
        for name, (dtype, shape, _) in self.arrays.items():
            if (dtype, shape) != ("F32", right.get(name)) and not (name == "blocks" and (dtype, len(shape)) == ("I64", 1) and self.width):
                raise Refused(f"array {name!a} has type {dtype} and shape {shape}", path, f"F32 {right.get(name, '(no such array)')}")
        # float32 rounding may leave a loss, an entropy or a divergence slightly on the wrong side
        self.allowed = {"centre": (-math.inf, 1e-4), "entropy": (-1e-5, math.log(v) * (1 + 1e-5) + 1e-4)}
        self.complete, self.blocks, self.last_there, self.sampled = self.tokens == self.length, np.zeros(0, np.int64), True, self.tokens
        self.width = self.width or 1  # losses without blocks: each is a block of its own
        if not info["block_tokens"]:
            return
        ragged, whole = self.length % self.width, self.length // self.width  # a shorter last block has the id ``whole``
        if "blocks" in self.arrays:
            self.blocks = stored(path, self.arrays["blocks"])
        elif self.complete:
            self.blocks = np.arange(whole + bool(ragged))
        blocks = self.blocks if len(self.blocks) else np.array([-1])
        self.last_there = not ragged or int(blocks[-1]) == whole
        self.sampled = len(blocks) - (1 if ragged and self.last_there else 0)
        held = self.sampled * self.width + (ragged if self.last_there else 0)
        if blocks[0] < 0 or blocks[-1] >= whole + bool(ragged) or (np.diff(blocks) <= 0).any() or held != self.tokens:
            raise Refused("block ids must ascend inside the window and account for every token: a token counts once", self.path)

    def slice(self, name: str, start: int, stop: int, row: int = 0) -> np.ndarray:
        """Tokens [start, stop) of an array as float64; losses rounded below 0 are 0, impossible values are refused with their place."""
        if name not in self.arrays:
            raise Refused(f"has no array {name!a}, which the certificate needs", self.path)
        entry, (low, high) = self.arrays[name], self.allowed.get(name, (-1e-5, math.inf))
        values = self.bare[start:stop].astype("f4") if len(self.bare) else stored(self.path, entry, row * entry[1][-1] + start, stop - start)
        values = values.astype(np.float64)
        wrong = ~((values >= low) & (values <= high) & np.isfinite(values))
        if wrong.any():
            raise Refused(f"token {start + (at := int(np.argmax(wrong)))} has {name} = {values[at]}", self.path, f"what {name} can be")
        return np.maximum(values, 0.0) if name.endswith("nll") else values
