"""The reference decoder of packages, from docs/package-format.md alone: integers only, in plain Python, to one exact product at the end.

``decode`` gives the configuration and the tensors; ``model_sha256`` their identity. About a microsecond a weight.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from bisect import bisect_right
from typing import Any

import numpy as np

from scalebound_verify.strict import Refused, conform, parse

# the preset dictionary, section 8 of the format
DICTIONARY = (
    b'"BF16"]"F32"]"I64"]{"architectures":["GPT2LMHeadModel"],"layers":"n_layer","transformer.h.*.attn.c_"rope_scaling":null,"rope_theta":'
    b'500000.0,"torch_dtype":"float32",{"config":{"architectures":["Qwen3ForCausalLM"],"attention_bias":false,"layer_types":["full_attenti'
    b'on","full_attention","full_attention"],"max_position_embeddings":2048,"max_window_layers":,"model_type":"qwen3","sliding_window":nul'
    b'l,"tie_word_embeddings":true,"use_sliding_window":false,"vocab_size":["lm_head.weight",["vocab_size","hidden_size"]],["model.layers.'
    b'*.self_attn.k_norm.weight",["head_dim"],"F16"],["model.layers.*.self_attn.q_norm.weight",["head_dim"],"F16"],{"code":[0,1],"config":'
    b'{"architectures":["LlamaForCausalLM"],"attention_bias":false,"attention_dropout":0.0,"bos_token_id":null,"eos_token_id":null,"head_d'
    b'im":16,"hidden_act":"silu","hidden_size":64,"initializer_range":0.02,"intermediate_size":128,"max_position_embeddings":256,"mlp_bias'
    b'":false,"model_type":"llama","num_attention_heads":4,"num_hidden_layers":2,"num_key_value_heads":4,"pad_token_id":null,"pretraining_'
    b'tp":1,"rms_norm_eps":1e-05,"rope_parameters":{"rope_theta":10000.0,"rope_type":"default"},"tie_word_embeddings":true,"vocab_size":25'
    b'6},"layers":"num_hidden_layers","shift":4,"tensors":[["model.embed_tokens.weight",["vocab_size","hidden_size"]],["model.layers.*.inp'
    b'ut_layernorm.weight",["hidden_size"],"F16"],["model.layers.*.mlp.down_proj.weight",["hidden_size","intermediate_size"]],["model.laye'
    b'rs.*.mlp.gate_proj.weight",["intermediate_size","hidden_size"]],["model.layers.*.mlp.up_proj.weight",["intermediate_size","hidden_si'
    b'ze"]],["model.layers.*.post_attention_layernorm.weight",["hidden_size"],"F16"],["model.layers.*.self_attn.k_proj.weight",["hidden_si'
    b'ze","hidden_size"]],["model.layers.*.self_attn.o_proj.weight",["hidden_size","hidden_size"]],["model.layers.*.self_attn.q_proj.weigh'
    b't",["hidden_size","hidden_size"]],["model.layers.*.self_attn.v_proj.weight",["hidden_size","hidden_size"]],["model.norm.weight",["hi'
    b'dden_size"],"F16"]]}' b"\0"
)
RAW = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
       "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "u1"}
HEADER = {"config": dict, "layers": (None, object), "shift": int, "code": list, "tensors": list}
# keys of a configuration that say who wrote it or how to run it, not which function it computes
TRANSIENT = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache", "architectures_version")
Entry = tuple[str, list[int], list[Any]]


def need(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(what, "package", "a file as docs/package-format.md says", "get the package again")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned LEB128 number at ``at`` and the position after it."""
    value = 0
    for k in range(9):
        need(at + k < len(data), "ends within a number")
        value |= (data[at + k] & 127) << (7 * k)
        if data[at + k] < 128:
            return value, at + k + 1
    raise Refused("has a number longer than 9 bytes", "package")


def read_tables(data: bytes) -> list[tuple[int, list[int]]]:
    """Section 3: ``(lowest symbol, cumulative frequencies)`` of every table; the frequencies sum to 2^24."""
    tables, at = [], 0
    while at < len(data):
        v, at = varint(data, at)
        x = v >> 1
        need(1 <= x and (2 * x + 1 if v & 1 else x) <= 131072, "has a table without symbols, or with too many")
        if v & 1:
            low, bucket = -x, [8 * (e := max(0, a.bit_length() - 4)) + (a >> e) for a in range(x + 1)]
            index = bucket[:0:-1] + bucket
        else:
            u, at = varint(data, at)
            low, index = (u >> 1) ^ -(u & 1), list(range(x)) if x > 1 else []
        codes = data[at : at + max(index, default=-1) + 1]
        at += len(codes)
        need(len(codes) > max(index, default=-1), "ends within a table")
        total, sums = 0, [0]
        for k in index:
            total += (16 + (codes[k] & 15)) << (codes[k] >> 4) if codes[k] else 0
            sums.append(total)
        need(total > 0 or not index, "has a table of weight zero")
        size = len(index)
        tables.append((low, [j + c * (2**24 - size) // total for j, c in enumerate(sums)] if index else [0, 2**24]))
    return tables


class Coder:
    """Section 5: the stack coder; :meth:`take` gives the next symbols of one table."""

    def __init__(self, data: bytes) -> None:
        need(data[-1:] != b"\0", "ends in a zero byte")
        self.words, self.state = np.frombuffer(data + bytes(-len(data) % 4), "<u4").tolist(), 0
        for _ in range(min(2, len(self.words))):
            self.state = self.state << 32 | self.words.pop()

    def take(self, table: tuple[int, list[int]], count: int) -> np.ndarray:
        low, cum = table
        if len(cum) == 2:
            return np.full(count, low)
        state, words, out = self.state, self.words, []
        for _ in range(count):
            q = state & 0xFFFFFF
            j = bisect_right(cum, q) - 1
            state = (state >> 24) * (cum[j + 1] - cum[j]) + q - cum[j]
            if state < 2**32 and words:
                state = state << 32 | words.pop()
            out.append(j)
        self.state = state
        return np.array(out, dtype=np.int64) + low


def expand(header: dict[str, Any], tables: int) -> list[Entry]:
    """Section 2: the tensors in file order as (name, shape, code); codes are ``[dtype]`` or five table numbers."""
    config, layers = header["config"], header["layers"]

    def whole(value: Any, what: str) -> int:
        value = config.get(value) if isinstance(value, str) else value
        need(type(value) is int and value >= 0, f"has a {what} that is no whole number")
        return value

    count, entries = 0 if layers is None else whole(layers, "number of layers"), []
    need(count <= 2**20 and len(header["tensors"]) <= 2**20, "has too many tensors")
    for entry in header["tensors"]:
        need(isinstance(entry, list) and len(entry) >= 2 and isinstance(entry[0], str) and isinstance(entry[1], list), "has a malformed entry")
        name, shape, code = entry[0], [whole(size, "dimension") for size in entry[1]], entry[2:] or header["code"]
        many = layers is not None and "*" in name
        for i in range(count if many else 1):
            one = [part[i] if many and isinstance(part, list) and len(part) == count else part for part in code]
            if not (len(one) == 1 and isinstance(one[0], str) and one[0] in RAW):
                need(1 <= len(one) <= 5 and all(type(t) is int and -1 <= t < tables for t in one) and one[0] >= 0, "has a malformed code")
                need(math.prod(shape) > 0, "has a coded tensor without elements")
                one += [-1] * (5 - len(one))
            entries.append((name.replace("*", str(i)) if many else name, shape, one))
            need(len(entries) <= 2**20, "has too many tensors")
    need(len({name for name, _, _ in entries}) == len(entries), "names a tensor twice")
    return entries


def bfloat(patterns: np.ndarray) -> np.ndarray:
    """Scales from their bfloat16 patterns, as doubles; positive and finite."""
    need(bool(((patterns >= 1) & (patterns <= 0x7F7F)).all()), "has a scale that is not positive and finite")
    return (patterns.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def decode(data: bytes, params: int) -> tuple[dict[str, Any], dict[str, tuple[str, np.ndarray]]]:
    """``(config, {name: (dtype, array)})`` of a package that claims ``params`` numbers; more of them are refused before they are made."""
    need(data[:4] == b"SBZ\x01", "does not begin like a package of version 1")
    n, at = varint(data, 4)
    need(len(data) == at + n + 4, f"has {len(data):,} bytes where its header says {at + n + 4:,}: truncated or with something behind it")
    need(zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little"), "does not match its checksum")
    payload = data[at:-4]
    m, at = varint(payload, 0)
    need(at + m <= len(payload), "ends within its header")
    inflate = zlib.decompressobj(-15, zdict=DICTIONARY)
    try:
        meta = inflate.decompress(payload[at : at + m], (16 << 20) + 1)
    except zlib.error as error:
        raise Refused(f"has a header that does not inflate ({error})", "package") from error
    need(inflate.eof and not inflate.unused_data and len(meta) <= 16 << 20 and b"\0" in meta, "has a header that does not end where it should")
    text, _, rest = meta.partition(b"\0")
    header = conform(parse(text, "package: header"), HEADER, "package: header")
    need(0 <= header["shift"] <= 7, "has a shift outside 0 to 7")
    tables = read_tables(rest)
    entries, at = expand(header, len(tables)), at + m
    sizes = [math.prod(shape) for _, shape, _ in entries]
    held = sum(size for size, (_, _, code) in zip(sizes, entries, strict=True) if code[0] not in RAW or code[0] in ("F32", "F16", "BF16"))
    need(held <= min(params, 2**28 + 2**16 * n), f"holds {held:,} numbers where {params:,} parameters are claimed")
    # all raw bytes come before all coded bytes, so scales wait here for their integers
    raw = []
    for size, (_, _, code) in zip(sizes, entries, strict=True):
        kind = np.dtype(RAW[code[0]] if code[0] in RAW else "<u2")
        size = size if code[0] in RAW else int(code[1] == code[2] == -1)
        need(at + size * kind.itemsize <= len(payload), "ends within its raw bytes")
        raw.append(np.frombuffer(payload, kind, size, at))
        at += size * kind.itemsize
    coder, tensors = Coder(payload[at:]), {}
    for (name, shape, code), early in zip(entries, raw, strict=True):
        if code[0] in RAW:
            need(code[0] != "BOOL" or bool((early <= 1).all()), "has a truth value that is neither 0 nor 1")
            kept = early if code[0] not in ("F16", "BF16") else early.astype("<f4") if code[0] == "F16" else (early.astype("<u4") << 16).view("<f4")
            tensors[name] = ("F32" if code[0] in ("F16", "BF16") else code[0], kept.reshape(shape))
            continue
        rows, columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
        t, rs, cs, rc, cc = (tables[k] if k >= 0 else None for k in code)
        r = bfloat(coder.take(rs, rows) << header["shift"]) if rs else np.ones(rows)
        c = bfloat(coder.take(cs, columns) << header["shift"]) if cs else np.ones(columns)
        r = r if rs or cs else bfloat(early)
        class_r = coder.take(rc, rows) if rc else np.zeros(rows, np.int64)
        class_c = coder.take(cc, columns) if cc else np.zeros(columns, np.int64)
        need(class_r.min() >= 0 and class_c.min() >= 0 and code[0] + int(class_r.max() + class_c.max()) < len(tables), "has a class without a table")
        which, integers = class_r[:, None] + class_c, np.zeros((rows, columns))
        for k in np.unique(which):
            integers[which == k] = coder.take(tables[code[0] + int(k)], int((which == k).sum()))
        exact = integers * r[:, None] * c + 0.0  # exact in float64 by the widths of section 6; + 0.0 leaves no negative zero
        with np.errstate(over="ignore"):
            value = exact.astype("<f4")
        need(bool((value == exact).all()), "has a product that is no float32")
        tensors[name] = ("F32", value.reshape(shape))
    need(coder.state == 0 and not coder.words, "has coded bytes left over")
    return header["config"], tensors


def model_sha256(config: dict[str, Any], tensors: dict[str, tuple[str, np.ndarray]]) -> str:
    """Over name, dtype, shape and little-endian bytes of the name-sorted tensors, then the canonical JSON of the configuration."""
    digest = hashlib.sha256()
    for name, (dtype, array) in sorted(tensors.items()):
        digest.update(f"{name}\0{dtype}\0{','.join(map(str, array.shape))}\0".encode() + array.tobytes())
    kept = {key: value for key, value in config.items() if key not in TRANSIENT}
    digest.update(json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())
    return digest.hexdigest()
