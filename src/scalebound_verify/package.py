"""The reference decoder of packages, from docs/package-format.md alone (section numbers are its): integers only, in plain Python, to one
exact product at the end; about a microsecond a weight. ``decode`` gives configuration and tensors, ``model_sha256`` their identity."""

import hashlib
import json
import math
import zlib
from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np

from scalebound_verify.strict import FORMS, Refused, conform, parse

DICTIONARY, DELTAS = (Path(__file__).with_name(f"package_{name}.txt").read_bytes() + b"\0" for name in ("dictionary", "deltas"))  # section 8
RAW: dict[str, str] = FORMS["raw"]
Tensors = dict[str, tuple[str, np.ndarray]]
Table = tuple[int, list[int]]

def need(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(what, "package", "a file as docs/package-format.md says", "get the package again")

def varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned LEB128 number at ``at`` and the position after it (section 1)."""
    end = next((k for k in range(at, min(at + 9, len(data))) if data[k] < 128), -1)
    need(end >= 0, "has a number that does not end")
    return sum((data[k] & 127) << 7 * (k - at) for k in range(at, end + 1)), end + 1

def read_tables(data: bytes) -> list[Table]:
    """Lowest symbol and cumulative frequencies, up to 2^24, of every table (section 3)."""
    tables, at = [], 0
    while at < len(data):
        v, at = varint(data, at)
        x, low = v >> 1, -(v >> 1)
        need(1 <= x and (2 * x + 1 if v & 1 else x) <= 131072, "has a table without symbols, or with too many")
        if v & 1:  # symmetric: which weight byte belongs to which magnitude
            upward = [8 * (e := max(0, a.bit_length() - 4)) + (a >> e) for a in range(x + 1)]
            index = upward[:0:-1] + upward
        else:
            u, at = varint(data, at)
            low, index = (u >> 1) ^ -(u & 1), list(range(x)) if x > 1 else []
        size, sums, codes = len(index), [0], data[at : at + max(index, default=-1) + 1]
        need(len(codes) > max(index, default=-1) and abs(low) + x <= 2**30, "ends within a table, or has symbols too large")
        at += len(codes)
        for k in index:
            sums.append(sums[-1] + ((16 + (codes[k] & 15)) << (codes[k] >> 4) if codes[k] else 0))
        need(sums[-1] > 0 or not index, "has a table of weight zero")
        tables.append((low, [j + c * (2**24 - size) // sums[-1] for j, c in enumerate(sums)] if index else [0, 2**24]))
    return tables

class Coder:
    """The stack coder of section 5: :meth:`take` gives the next symbols of one table."""
    def __init__(self, data: bytes) -> None:
        need(data[-1:] != b"\0", "ends in a zero byte")
        self.words, self.state = np.frombuffer(data + bytes(-len(data) % 4), "<u4").tolist(), 0
        for _ in range(min(2, len(self.words))):
            self.state = self.state << 32 | self.words.pop()

    def take(self, table: Table, count: int) -> np.ndarray:
        (low, cum), state, words, out = table, self.state, self.words, []
        for _ in range(count if len(cum) > 2 else 0):
            q = state & 0xFFFFFF
            j = bisect_right(cum, q) - 1
            state = (state >> 24) * (cum[j + 1] - cum[j]) + q - cum[j]
            if state < 2**32 and words:
                state = state << 32 | words.pop()
            out.append(j)
        self.state = state
        return (np.array(out, dtype=np.int64) if len(cum) > 2 else np.zeros(count, np.int64)) + low  # one symbol takes no bits

def expand(header: dict[str, Any], tables: int) -> list[tuple[str, list[int], list[Any]]]:
    """The tensors in file order as (name, shape, code); a code is ``[dtype]``, or five table numbers and steps (section 2)."""
    def whole(value: Any) -> int:
        value = header["config"].get(value) if isinstance(value, str) else value
        need(type(value) is int and value >= 0, "has a dimension, or a number of layers, that is no whole number")
        return value
    out, count = dict[str, tuple[str, list[int], list[Any]]](), 0 if header["layers"] is None else whole(header["layers"])
    for entry in header["tensors"]:
        need([type(part) for part in entry[:2]] == [str, list] and count + len(out) <= 2**20, "has a malformed tensor, or too many")
        (name, _, *code), starred, sizes = entry, header["layers"] is not None and "*" in entry[0], list(map(whole, entry[1]))
        for i in range(count if starred else 1):
            one = [part[i] if starred and isinstance(part, list) and len(part) == count else part for part in code or header["code"]]
            if not (len(one) == 1 and isinstance(one[0], str) and one[0] in RAW):
                one += [-1] * (5 - len(one))
                one[5:] = [part.replace("*", str(i)) if starred and isinstance(part, str) else part for part in one[5:]]
                good = all(type(t) is int and -1 <= t < tables for t in one[:5]) and one[0] >= 0 and math.prod(sizes) > 0
                need(good and len(one) % 3 == 2 and (len(one) == 5 or one[1:3] == [-1, -1]), "has a malformed code, or is coded without elements")
            full = name.replace("*", str(i)) if starred else name
            need(full not in out, "names a tensor twice")
            out[full] = (full, sizes, one)
    return list(out.values())

def bfloat(patterns: np.ndarray) -> np.ndarray:
    """Scales from their bfloat16 patterns, as doubles (section 6)."""
    need(bool(((patterns >= 1) & (patterns <= 0x7F7F)).all()), "has a scale that is not positive and finite")
    return (patterns.astype("<u4") << 16).view("<f4").astype(np.float64)

@np.errstate(all="ignore")
def stepped(value: np.ndarray, steps: list[Any], tensors: Tensors) -> np.ndarray:
    """Entries of a codebook for the integers, then products and sums with parts, each rounded to float32, and columns sorted back (section 6)."""
    parts = {name: array.ravel() for name, (dtype, array) in tensors.items() if dtype == "F32" and name[:1] == "="}
    for what, name, each in zip(*[iter(steps)] * 3, strict=True):
        good = type(name) is str and type(each) is int and 0 < each <= 2**40 and (what in ("times", "plus", "columns") or what == "book" not in steps[3::3])
        part = parts[name] if good and name in parts else np.zeros(0, "<f4")
        if what == "columns" and part.size == value.shape[1] and bool(np.isfinite(part).all()):
            value = value[:, part.argsort(kind="stable").argsort()]
            continue
        at = value if what == "book" else np.arange(value.size).reshape(value.shape) // (each if good else 1)
        need(what != "columns" and 0 <= at.min() and at.max() < part.size, "has a malformed step, or one that its part does not fit")
        wide, value = part[at], value.astype("<f4")
        value = wide if what == "book" else value * wide if what == "times" else value + wide
    need(bool(np.isfinite(value).all()), "has a number that is not finite")
    return value.astype("<f4")

def coded(coder: Coder, tables: list[Table], shape: list[int], code: list[Any], shift: int, one: np.ndarray, tensors: Tensors) -> np.ndarray:
    """The next coded tensor: scales, classes, then integers class by class (end of section 5, section 6)."""
    rows = shape[0] if len(shape) > 1 else 1
    taken = [coder.take(tables[k], n) if k >= 0 else np.zeros(n, np.int64) for k, n in zip(code[1:5], (rows, math.prod(shape) // rows) * 2, strict=True)]
    r, c = (bfloat(part << shift) if k >= 0 else np.ones(len(part)) for k, part in zip(code[1:3], taken[:2], strict=True))
    need(min(taken[2].min(), taken[3].min()) >= 0 and code[0] + taken[2].max() + taken[3].max() < len(tables), "has a class without a table")
    which, integers = taken[2][:, None] + taken[3], np.zeros((rows, math.prod(shape) // rows), np.int64)
    for k in np.unique(which):
        integers[which == k] = coder.take(tables[code[0] + k], int((which == k).sum()))
    if code[5:]:
        return stepped(integers, code[5:], tensors).reshape(shape)
    exact = integers * (bfloat(one) if len(one) else r)[:, None] * c + 0.0  # exact in float64; + 0.0 leaves no negative zero
    value = exact.clip(-3.4028234663852886e38, 3.4028234663852886e38).astype("<f4")  # clipped: seen below, without a warning
    need(bool((value == exact).all()), "has a product that is no float32")
    return value.reshape(shape)

def decode(data: bytes, params: int) -> tuple[dict[str, Any], Tensors]:
    """``(config, {name: (dtype, array)})`` of a package; no tensors unless it holds ``params`` numbers (a delta: at most so many)."""
    need(data[:4] in (b"SBZ\x01", b"SBZ\x02", b"SBZ\x03", b"SBZ\x04"), "does not begin like a package of version 1 to 4")
    n, at = varint(data, 4)
    need(len(data) == at + n + 4, f"has {len(data):,} bytes where its header says {at + n + 4:,}: cut short, or something follows it")
    need(zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little"), "does not match its checksum")
    payload, inflate = data[at:-4], zlib.decompressobj(-15, zdict=DICTIONARY + DELTAS * (data[3] == 4))
    m, at = varint(payload, 0)
    try:
        text, zero, rest = (meta := inflate.decompress(payload[at : at + m], (16 << 20) + 1)).partition(b"\0")
    except zlib.error as error:
        raise Refused(f"has a header that does not inflate ({error})", "package") from error
    need(zero == b"\0" and inflate.eof and not inflate.unused_data and len(meta) <= 16 << 20, "has a header without its end")
    header, tables, at = conform(parse(text, "package"), FORMS["package"], "package"), read_tables(rest), at + m
    entries, tensors = expand(header, len(tables)), Tensors()
    floats = {name: math.prod(shape) for name, shape, code in entries if code[0] not in RAW or code[0] in ("F32", "F16", "BF16")}
    parts = {name for name, _, _ in entries if data[3] in (2, 3) and name[:1] == "="}
    version = 1 + any(code[5:] for *_, code in entries) + any("columns" in code[5::3] for *_, code in entries)
    need(sum(floats.values()) <= 2**28 + 2**16 * n and 0 <= header["shift"] <= 7 and data[3] in (version, 4 * (version == 1 and "delta" in header["config"])),
         "holds more numbers than a package may, a shift beyond 7, or steps of another version than its own")  # fmt: skip
    held = sum(size for name, size in floats.items() if name not in parts)
    if held != params and not ("delta" in header["config"] and held < params):
        return header["config"], tensors
    raw = [(np.dtype(RAW.get(c[0], "<u2")), math.prod(s) if c[0] in RAW else int(c[1:3] + c[5:] == [-1, -1])) for _, s, c in entries]
    need((end := at + sum(kind.itemsize * size for kind, size in raw)) <= len(payload), "ends within its raw bytes")
    coder = Coder(payload[end:])  # all raw bytes come before all coded ones (section 4)
    for (name, shape, code), (kind, size) in zip(entries, raw, strict=True):
        early, at = np.frombuffer(payload, kind, size, at), at + size * kind.itemsize
        need(code[0] != "BOOL" or bool((early.view("u1") <= 1).all()), "has a truth value that is neither 0 nor 1")
        if code[0] in RAW:
            value = (early.astype("<u4") << 16).view("<f4") if code[0] == "BF16" else early.astype("<f4") if code[0] == "F16" else early
            tensors[name] = ("F32" if code[0] in ("F16", "BF16") else code[0], value.reshape(shape))
        else:
            tensors[name] = ("F32", coded(coder, tables, shape, code, header["shift"], early, tensors))
    need(coder.state == 0 and not coder.words, "has coded bytes left over")
    return header["config"], {name: value for name, value in tensors.items() if name not in parts}

def model_sha256(config: dict[str, Any], tensors: Tensors) -> str:
    """Over name, dtype, shape and little-endian bytes of the name-sorted tensors, then the canonical JSON of the configuration."""
    digest = hashlib.sha256()
    for name, (dtype, array) in sorted(tensors.items()):
        digest.update(f"{name}\0{dtype}\0{','.join(map(str, array.shape))}\0".encode() + array.tobytes())
    kept = {key: value for key, value in config.items() if key not in FORMS["transient"]}  # not who wrote it, nor how to run it
    digest.update(json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())
    return digest.hexdigest()
