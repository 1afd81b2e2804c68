"""The reference decoder of packages, from docs/package-format.md alone (section numbers are its): integers only, in plain Python, to one
exact product at the end; about a microsecond a weight. ``decode`` gives configuration and tensors, ``model_sha256`` their identity."""

import hashlib
import json
import math
import zlib
from bisect import bisect_right
from typing import Any

import numpy as np

from scalebound_verify.strict import Refused, conform, parse

DICTIONARY = (  # section 8
    b'"BF16"]"F32"]"I64"]{"architectures":["GPT2LMHeadModel"],"layers":"n_layer","transformer.h.*.attn.c_"rope_scaling":null,"rope_theta":5'
    b'00000.0,"torch_dtype":"float32",{"config":{"architectures":["Qwen3ForCausalLM"],"attention_bias":false,"layer_types":["full_attention'
    b'","full_attention","full_attention"],"max_position_embeddings":2048,"max_window_layers":,"model_type":"qwen3","sliding_window":null,"'
    b'tie_word_embeddings":true,"use_sliding_window":false,"vocab_size":["lm_head.weight",["vocab_size","hidden_size"]],["model.layers.*.se'
    b'lf_attn.k_norm.weight",["head_dim"],"F16"],["model.layers.*.self_attn.q_norm.weight",["head_dim"],"F16"],"attention_dropout":0.0,"bos'
    b'_token_id":1,"eos_token_id":2,"initializer_range":0.02,"pad_token_id":null,"pretraining_tp":1,"rope_parameters":{"rope_theta":10000.0'
    b',"rope_type":"default"},"tie_word_embeddings":false,{"code":[0,1],"config":{"architectures":["LlamaForCausalLM"],"attention_bias":fal'
    b'se,"bos_token_id":null,"eos_token_id":null,"head_dim":8,"hidden_act":"silu","hidden_size":32,"intermediate_size":64,"max_position_emb'
    b'eddings":256,"mlp_bias":false,"model_type":"llama","num_attention_heads":4,"num_hidden_layers":2,"num_key_value_heads":4,"rms_norm_ep'
    b's":1e-05,"rope_theta":10000.0,"tie_word_embeddings":true,"vocab_size":256},"layers":"num_hidden_layers","shift":4,"tensors":[["model.'
    b'embed_tokens.weight",["vocab_size","hidden_size"]],["model.layers.*.input_layernorm.weight",["hidden_size"],"F16"],["model.layers.*.m'
    b'lp.down_proj.weight",["hidden_size","intermediate_size"]],["model.layers.*.mlp.gate_proj.weight",["intermediate_size","hidden_size"]]'
    b',["model.layers.*.mlp.up_proj.weight",["intermediate_size","hidden_size"]],["model.layers.*.post_attention_layernorm.weight",["hidden'
    b'_size"],"F16"],["model.layers.*.self_attn.k_proj.weight",["hidden_size","hidden_size"]],["model.layers.*.self_attn.o_proj.weight",["h'
    b'idden_size","hidden_size"]],["model.layers.*.self_attn.q_proj.weight",["hidden_size","hidden_size"]],["model.layers.*.self_attn.v_pro'
    b'j.weight",["hidden_size","hidden_size"]],["model.norm.weight",["hidden_size"],"F16"]]}' b"\0"
)
RAW = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
       "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}  # fmt: skip
HEADER = {"config": dict, "layers": (None, object), "shift": int, "code": list, "tensors": [list]}
# keys of a configuration that say who wrote it or how to run it, not which function it computes
TRANSIENT = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache", "architectures_version")
Tensors = dict[str, tuple[str, np.ndarray]]


def need(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(what, "package", "a file as docs/package-format.md says", "get the package again")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned LEB128 number at ``at`` and the position after it (section 1)."""
    end = next((k for k in range(at, min(at + 9, len(data))) if data[k] < 128), -1)
    need(end >= 0, "has a number that does not end")
    return sum((data[k] & 127) << 7 * (k - at) for k in range(at, end + 1)), end + 1


def read_tables(data: bytes) -> list[tuple[int, list[int]]]:
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
        need(-(2**30) <= low <= low + x <= 2**30, "has symbols too large")
        size, end = len(index), at + max(index, default=-1) + 1
        need(end <= len(data), "ends within a table")
        weights = [(16 + (b & 15)) << (b >> 4) if b else 0 for b in data[at:end]]
        sums = [0]
        for k in index:
            sums.append(sums[-1] + weights[k])
        need(sums[-1] > 0 or not index, "has a table of weight zero")
        at = end
        tables.append((low, [j + c * (2**24 - size) // sums[-1] for j, c in enumerate(sums)] if index else [0, 2**24]))
    return tables


class Coder:
    """The stack coder of section 5: :meth:`take` gives the next symbols of one table."""

    def __init__(self, data: bytes) -> None:
        need(data[-1:] != b"\0", "ends in a zero byte")
        self.words, self.state = np.frombuffer(data + bytes(-len(data) % 4), "<u4").tolist(), 0
        for _ in range(min(2, len(self.words))):
            self.state = self.state << 32 | self.words.pop()

    def take(self, table: tuple[int, list[int]], count: int) -> np.ndarray:
        low, cum = table
        if len(cum) == 2:  # one symbol takes no bits
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


def expand(header: dict[str, Any], tables: int) -> list[tuple[str, list[int], list[Any]]]:
    """The tensors in file order as (name, shape, code); a code is ``[dtype]`` or five table numbers (section 2)."""

    def whole(value: Any) -> int:
        value = header["config"].get(value) if isinstance(value, str) else value
        need(type(value) is int and value >= 0, "has a dimension, or a number of layers, that is no whole number")
        return value

    layers, out = header["layers"], []
    count = 0 if layers is None else whole(layers)
    for name, shape, *code in (entry if len(entry) > 1 else [None, None] for entry in header["tensors"]):
        need(isinstance(name, str) and isinstance(shape, list) and count + len(out) <= 2**20, "has a malformed tensor, or too many")
        starred, sizes = layers is not None and "*" in name, [whole(size) for size in shape]
        for i in range(count if starred else 1):
            one = [part[i] if starred and isinstance(part, list) and len(part) == count else part for part in code or header["code"]]
            if not (len(one) == 1 and isinstance(one[0], str) and one[0] in RAW):
                one += [-1] * (5 - len(one))
                need(len(one) == 5 and all(type(t) is int and -1 <= t < tables for t in one) and one[0] >= 0, "has a malformed code")
                need(math.prod(sizes) > 0, "has a coded tensor without elements")
            out.append((name.replace("*", str(i)) if starred else name, sizes, one))
    need(len({name for name, _, _ in out}) == len(out), "names a tensor twice")
    return out


def bfloat(patterns: np.ndarray) -> np.ndarray:
    """Scales from their bfloat16 patterns, as doubles (section 6)."""
    need(bool(((patterns >= 1) & (patterns <= 0x7F7F)).all()), "has a scale that is not positive and finite")
    return (patterns.astype("<u4") << 16).view("<f4").astype(np.float64)


def coded(coder: Coder, tables: list[tuple[int, list[int]]], shape: list[int], code: list[int], shift: int, one: np.ndarray) -> np.ndarray:
    """The next coded tensor: scales, classes, then integers class by class (end of section 5, section 6)."""
    rows = shape[0] if len(shape) > 1 else 1
    t, columns, counts = code[0], math.prod(shape) // rows, (rows, math.prod(shape) // rows) * 2
    taken = [coder.take(tables[k], n) if k >= 0 else np.zeros(n, np.int64) for k, n in zip(code[1:], counts, strict=True)]
    r, c = (bfloat(part << shift) if k >= 0 else np.ones(len(part)) for k, part in zip(code[1:3], taken[:2], strict=True))
    r = bfloat(one) if len(one) else r
    need(min(taken[2].min(), taken[3].min()) >= 0 and t + taken[2].max() + taken[3].max() < len(tables), "has a class without a table")
    which, integers = taken[2][:, None] + taken[3], np.zeros((rows, columns))
    for k in np.unique(which):
        integers[which == k] = coder.take(tables[t + k], int((which == k).sum()))
    exact = integers * r[:, None] * c + 0.0  # exact in float64 whenever it is in float32; + 0.0 leaves no negative zero
    with np.errstate(over="ignore"):
        value = exact.astype("<f4")
    need(bool((value == exact).all()), "has a product that is no float32")
    return value


def decode(data: bytes, params: int) -> tuple[dict[str, Any], Tensors]:
    """``(config, {name: (dtype, array)})`` of a package; no tensors when it does not hold ``params`` numbers."""
    need(data[:4] == b"SBZ\x01", "does not begin like a package of version 1")
    n, at = varint(data, 4)
    need(len(data) == at + n + 4, f"has {len(data):,} bytes where its header says {at + n + 4:,}: cut short, or something follows it")
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
    header, tables, at = conform(parse(text, "package"), HEADER, "package"), read_tables(rest), at + m
    need(0 <= header["shift"] <= 7, "has a shift outside 0 to 7")
    entries, raw, tensors = expand(header, len(tables)), [], Tensors()
    held = sum(math.prod(shape) for _, shape, code in entries if code[0] not in RAW or code[0] in ("F32", "F16", "BF16"))
    need(held <= 2**28 + 2**16 * n, "holds more numbers than a package may")
    if held != params:
        return header["config"], tensors
    for _, shape, code in entries:  # all raw bytes come before all coded ones (section 4)
        kind = np.dtype(RAW.get(code[0], "<u2"))
        size = math.prod(shape) if code[0] in RAW else int(code[1] == code[2] == -1)
        need(at + size * kind.itemsize <= len(payload), "ends within its raw bytes")
        raw.append(np.frombuffer(payload, kind, size, at))
        at += size * kind.itemsize
    coder = Coder(payload[at:])
    for (name, shape, code), early in zip(entries, raw, strict=True):
        if code[0] not in RAW:
            value = coded(coder, tables, shape, code, header["shift"], early)
        else:
            need(code[0] != "BOOL" or bool((early.view("u1") <= 1).all()), "has a truth value that is neither 0 nor 1")
            value = (early.astype("<u4") << 16).view("<f4") if code[0] == "BF16" else early.astype("<f4") if code[0] == "F16" else early
        tensors[name] = (code[0] if code[0] in RAW and code[0] not in ("F16", "BF16") else "F32", value.reshape(shape))
    need(coder.state == 0 and not coder.words, "has coded bytes left over")
    return header["config"], tensors


def model_sha256(config: dict[str, Any], tensors: Tensors) -> str:
    """Over name, dtype, shape and little-endian bytes of the name-sorted tensors, then the canonical JSON of the configuration."""
    digest = hashlib.sha256()
    for name, (dtype, array) in sorted(tensors.items()):
        digest.update(f"{name}\0{dtype}\0{','.join(map(str, array.shape))}\0".encode() + array.tobytes())
    kept = {key: value for key, value in config.items() if key not in TRANSIENT}
    digest.update(json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())
    return digest.hexdigest()
