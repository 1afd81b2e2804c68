"""The package format decoded by an independent program: plain Python, integers only, written from docs/package-format.md.

It shares no code with scalebound but the preset dictionary, which it reads from the document. ``decode`` is 65 lines.
"""

import hashlib
import json
import re
import struct
import zlib
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalebound.compress import Coded, Grouped, QuantizedModel, Raw, Step, decode_model, encode, encode_with_breakdown, quantize
from scalebound.compress.coder import encode_messages
from scalebound.compress.delta import pack_delta
from scalebound.compress.dictionary import DELTAS, DICTIONARY
from scalebound.compress.model import RAW_DTYPES
from scalebound.compress.tables import Table, fit_table
from scalebound.compress.tables import varint as varint_of

DOCUMENT = (Path(__file__).parents[2] / "docs" / "package-format.md").read_text()
DOCUMENTED = re.search(r"## 8 The preset dictionary.*?```\n(.*?)```", DOCUMENT, re.DOTALL)[1].replace("\n", "").encode() + b"\0"
DOCUMENTED_DELTAS = re.search(r"Version 4: after these.*?```\n(.*?)```", DOCUMENT, re.DOTALL)[1].replace("\n", "").encode() + b"\0"


# --- the reference decoder ---
def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def read_tables(data):
    tables, at = [], 0
    bucket = lambda a: (e := max(0, a.bit_length() - 4)) * 8 + (a >> e)  # noqa: E731
    weight = lambda b: (16 + (b & 15)) << (b >> 4) if b else 0  # noqa: E731
    while at < len(data):
        v, at = varint(data, at)
        x = v >> 1
        if v & 1:
            low, size, n = -x, 2 * x + 1, bucket(x) + 1
            weights = [weight(data[at + bucket(abs(s))]) for s in range(-x, x + 1)]
        else:
            z, at = varint(data, at)
            low, size, n = (z >> 1) ^ -(z & 1), x, x if x > 1 else 0
            weights = [weight(b) for b in data[at : at + n]]
        at += n
        below = list(accumulate(weights, initial=0)) if size > 1 else []
        tables.append((low, [j + c * (2**24 - size) // below[-1] for j, c in enumerate(below)]))
    return tables


class Ans:
    def __init__(self, coded):
        coded += b"\0" * (-len(coded) % 4)
        self.words = [int.from_bytes(coded[k : k + 4], "little") for k in range(0, len(coded), 4)]
        self.state = self.words.pop() if self.words else 0
        self.state = self.state << 32 | self.words.pop() if self.words else self.state

    def read(self, table, count):
        low, cum = table
        out = []
        for _ in range(count if cum else 0):
            q = self.state & 0xFFFFFF
            j = bisect_right(cum, q) - 1
            self.state = (self.state >> 24) * (cum[j + 1] - cum[j]) + q - cum[j]
            if self.state < 1 << 32 and self.words:
                self.state = self.state << 32 | self.words.pop()
            out.append(low + j)
        return out or [low] * count


def decode(package, dictionary=DOCUMENTED):
    """config, {name: (shape, list of numbers)}"""
    n, at = varint(package, 4)
    assert package[:4] in (b"SBZ\1", b"SBZ\2", b"SBZ\3", b"SBZ\4") and len(package) == at + n + 4 and zlib.crc32(package[:-4]) == int.from_bytes(package[-4:], "little")
    m, at = varint(package, at)
    dictionary += DOCUMENTED_DELTAS * (package[3] == 4)
    head, _, rest = zlib.decompressobj(-15, zdict=dictionary).decompress(package[at : at + m]).partition(b"\0")
    head, tables, at = json.loads(head), read_tables(rest), at + m
    config, layers = head["config"], head["layers"]
    number = lambda v: config[v] if isinstance(v, str) else v  # noqa: E731
    slots = []
    for name, shape, *code in head["tensors"]:
        for i in range(number(layers)) if layers is not None and "*" in name else [None]:
            fields = [f[i] if isinstance(f, list) else f for f in code or head["code"]]
            fields[5:] = [f.replace("*", str(i)) if i is not None and isinstance(f, str) else f for f in fields[5:]]
            slots.append((name if i is None else name.replace("*", str(i)), [number(d) for d in shape], fields))
    bf16 = lambda p: struct.unpack("<f", struct.pack("<I", p << 16))[0]  # noqa: E731
    raw = {}
    for name, shape, code in slots:
        if isinstance(code[0], str):
            size = RAW_DTYPES[code[0]].itemsize * int(np.prod(shape))
            raw[name], at = package[at : at + size], at + size
        elif code[1:3] in ([], [-1], [-1, -1]) and not code[5:]:
            raw[name], at = package[at : at + 2], at + 2
    ans, out = Ans(package[at:-4]), {}
    for name, shape, code in slots:
        if isinstance(code[0], str):
            kind, values = code[0], np.frombuffer(raw[name], RAW_DTYPES[code[0]]).tolist()
            out[name] = (shape, [bf16(v) for v in values] if kind == "BF16" else values)
            continue
        rows = shape[0] if len(shape) > 1 else 1
        cols = int(np.prod(shape)) // rows
        (t, rs, cs, rc, cc), steps = code[:5] + [-1] * (5 - len(code)), code[5:]
        one = bf16(int.from_bytes(raw[name], "little")) if name in raw else 1.0
        r = [bf16(c << head["shift"]) for c in ans.read(tables[rs], rows)] if rs >= 0 else [one] * rows
        c = [bf16(s << head["shift"]) for s in ans.read(tables[cs], cols)] if cs >= 0 else [1.0] * cols
        rk = ans.read(tables[rc], rows) if rc >= 0 else [0] * rows
        ck = ans.read(tables[cc], cols) if cc >= 0 else [0] * cols
        values = [0.0] * (rows * cols)
        for k in range(max(rk) + max(ck) + 1):
            places = [(i, j) for i in range(rows) for j in range(cols) if rk[i] + ck[j] == k]
            for (i, j), q in zip(places, ans.read(tables[t + k], len(places)) if places else [], strict=True):
                values[i * cols + j] = q if steps else q * r[i] * c[j]
        for kind, part, each in zip(steps[::3], steps[1::3], steps[2::3], strict=True):
            s = out[part][1]
            fl = lambda x: struct.unpack("<f", struct.pack("<f", x))[0]  # noqa: E731
            if kind == "columns":
                order = sorted(range(cols), key=lambda k: s[k])
                values = [values[i * cols + order.index(j)] for i in range(rows) for j in range(cols)]
                continue
            for p, v in enumerate(values):
                values[p] = s[v] if kind == "book" else fl(fl(v) * s[p // each]) if kind == "times" else fl(fl(v) + s[p // each])
        out[name] = (shape, values)
    assert ans.state == 0 and not ans.words
    return config, {name: found for name, found in out.items() if package[3] in (1, 4) or not name.startswith("=")}


# --- tests ---
def check(model, package=None):
    package = package or encode(model)
    config, found = decode(package)
    assert config == {key: value for key, value in model.config.items() if key != "torch_dtype"}
    expected = model.dequantized()
    assert set(found) == set(expected)
    for name, (shape, values) in found.items():
        assert tuple(shape) == expected[name].shape
        assert np.array(values, dtype=expected[name].dtype).tobytes() == expected[name].tobytes(), name


def test_the_document_quotes_the_dictionary():
    assert DOCUMENTED == DICTIONARY and DOCUMENTED_DELTAS == DELTAS
    for dictionary in (DICTIONARY, DELTAS):
        assert f"{len(dictionary):,} " in DOCUMENT and hashlib.sha256(dictionary).hexdigest() in DOCUMENT


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_tables_and_messages(data):
    """Skewed tables, single symbols, empty messages, one element: coded by constriction, decoded in plain Python."""
    messages = []
    for _ in range(data.draw(st.integers(1, 4))):
        size = data.draw(st.sampled_from([1, 2, 3, 17, 300]))
        raw = data.draw(st.binary(min_size=size, max_size=size))
        if data.draw(st.booleans()):
            raw = bytes([255]) + bytes(size - 1)  # all weight on one symbol, the others at 1 of 2^24
        table = Table(data.draw(st.integers(-500, 500)), size, (raw if any(raw) else b"\1" * size) if size > 1 else b"")
        symbols = data.draw(st.lists(st.integers(table.low, table.high), max_size=40))
        messages.append((np.array(symbols, dtype=np.int32), table))
    ans = Ans(encode_messages(messages))
    for symbols, table in messages:
        [mine] = read_tables(table.stored)
        assert ans.read(mine, len(symbols)) == symbols.tolist()
    assert ans.state == 0 and not ans.words


def test_control_another_table_decodes_other_symbols():
    symbols = np.random.default_rng(0).binomial(6, 0.5, size=200) - 3
    coded = encode_messages([(symbols, fit_table(-3, np.bincount(symbols + 3)))])
    [flat] = read_tables(Table(-3, 7, b"\x10" * 7).stored)
    assert Ans(coded).read(flat, 200) != symbols.tolist()


@pytest.mark.parametrize("setting", [{"bits": 2}, {"bits": 4}, {"bits": 8}, {"step": 0.5}, {"step": 0.01}])
def test_quantized_models(llama, setting):
    config, tensors = llama(16, 2, 24, vocab=40)
    check(quantize(config, tensors, **setting))


def every_part():
    """Row and column scales, one scale, classes, raw dtypes, layers whose codes differ, a scalar, an empty tensor, wide integers."""
    rng = np.random.default_rng(5)

    def patterns(n):
        return (0x3C00 + 8 * rng.integers(0, 40, size=n)).astype(np.uint16)

    tensors = {
        "a": Coded(rng.integers(-90, 90, size=(7, 5)).astype(np.int8), patterns(7), patterns(5)),
        "b": Coded(rng.integers(-30000, 30000, size=(4, 3, 2)).astype(np.int16), np.array([0x3F01], dtype=np.uint16)),
        "scalar": Coded(np.array(3, dtype=np.int8), np.array([0x0001], dtype=np.uint16)),
        "vector": Coded(rng.integers(-2, 3, size=50).astype(np.int8), np.array([0x7F00 - 0x180], dtype=np.uint16)),
        "zeros": Coded(np.zeros((3, 4), dtype=np.int8), patterns(3)),
        "empty": Raw("F32", np.zeros((0, 4), dtype=np.float32)),
        "flags": Raw("BOOL", np.array([[1, 0]], dtype=np.uint8)),
        "big": Raw("I64", np.array([-(1 << 62)])),
        "brain": Raw("BF16", np.array([0x3F81, 0xC000], dtype=np.uint16)),
        **{f"h.{k}.w": Coded(np.rint(rng.normal(size=(200, 100)) * (1 + 9 * (k == 1))).astype(np.int8), patterns(200)) for k in range(4)},
        "by_col": Coded(np.rint(rng.normal(size=(90, 60)) * np.repeat([1, 5, 30], 20)).astype(np.int8), patterns(90)),
        "by_row": Coded(np.rint(rng.normal(size=(60, 90)) * np.repeat([1, 5, 30], 20)[:, None]).astype(np.int8), patterns(60)),
        **{f"h.{k}.n": Raw("F16", rng.normal(size=6).astype(np.float16)) for k in range(4)},
    }
    return QuantizedModel({"n_layer": 4, "name": "é\0*"}, tensors)


def test_every_part_of_the_format():
    check(every_part())


def test_no_tensors_and_no_layers():
    check(QuantizedModel({}, {}))
    check(QuantizedModel({"x": [1.5, None]}, {"a*b": Raw("F32", np.ones(2, dtype=np.float32)), "c.0.d": Coded(np.ones((1, 1), dtype=np.int8), np.array([0x3F80], dtype=np.uint16))}))


def test_the_documented_example():
    package = bytes.fromhex(re.search(r"## 10 An example.*?```\n(.*?)```", DOCUMENT, re.DOTALL)[1])
    config, found = decode(package)
    assert config == {"d": 3} and found["w"] == ([3, 2], [1.0, -2.0, 0.0, 1.5, -1.0, 1.0]) and found["k"] == ([1], [7])
    model = decode_model(package)
    assert re.search(r"model's SHA-256 is `([0-9a-f]{64})`", DOCUMENT)[1] == model.sha256()
    check(model, package)


def test_a_file_of_version_1_stays_readable():
    """tests/golden/package-1.sbz, written when the format was fixed, holds every part of it."""
    package = (Path(__file__).parents[1] / "golden" / "package-1.sbz").read_bytes()
    model = decode_model(package)
    assert model.sha256() == "79a9ca856c9f7752bc5e4c7f53adce7bf25d1940574f80d5419bbdad4164e6bf"
    check(model, package)


def test_classes_of_rows_and_columns_together():
    """The writer gives classes to rows or to columns; the format allows both at once, and so do both decoders."""
    rng = np.random.default_rng(3)
    rows, cols = rng.integers(0, 2, size=6), rng.integers(0, 3, size=5)
    tables = [fit_table(-k - 1, np.ones(2 * k + 3, dtype=np.int64)) for k in range(4)] + [fit_table(0, np.ones(3, dtype=np.int64))]
    integers = np.array([[rng.integers(-r - c - 1, r + c + 2) for c in cols] for r in rows])
    of_class = rows[:, None] + cols
    messages = [(rows, tables[4]), (cols, tables[4])] + [(integers[of_class == k], tables[k]) for k in range(4)]
    header = {"config": {}, "layers": None, "shift": 0, "code": [0, -1, -1, 4, 4], "tensors": [["w", [6, 5]]]}
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
    meta = packer.compress(json.dumps(header).encode() + b"\0" + b"".join(table.stored for table in tables)) + packer.flush()
    payload = varint_of(len(meta)) + meta + b"\x80\x3f" + encode_messages(messages)
    body = b"SBZ\1" + varint_of(len(payload)) + payload
    package = body + zlib.crc32(body).to_bytes(4, "little")
    model = decode_model(package)
    assert np.array_equal(model.tensors["w"].integers, integers)
    check(model, package)


def every_step():
    """Layers whose parts are nested, books shared and of their own, groups that end early, groups over the ends of rows, and classes beside all that."""
    rng = np.random.default_rng(6)
    tensors = {"====d": Raw("F16", np.sort(rng.normal(size=40)).astype(np.float16)), "====book0": Raw("F32", np.linspace(-1, 1, 16, dtype=np.float32))}
    for k in range(3):
        name = f"h.{k}.w"
        tensors |= {
            f"=={name}.s.d": Grouped(rng.integers(0, 40, size=(60, 2)), (Step("book", "====d"),)),
            f"={name}.s": Grouped(rng.integers(-30, 31, size=(60, 8)), (Step("times", f"=={name}.s.d", 4),)),
            f"={name}.m": Raw("BF16", rng.integers(0x3C00, 0x3F00, size=(60, 8)).astype(np.uint16)),
            name: Grouped(np.rint(rng.normal(size=(60, 64)) * np.repeat([1, 7], 32)).astype(np.int8), (Step("times", f"={name}.s", 8), Step("plus", f"={name}.m", 8))),
        }
    tensors |= {
        "=flat.s": Raw("F32", rng.normal(size=7).astype(np.float32)),
        "flat": Grouped(rng.integers(0, 16, size=(10, 13)), (Step("book", "====book0"), Step("times", "=flat.s", 20))),
        "=one": Raw("F32", np.float32([0.1])),
        "vector": Grouped(rng.integers(-9, 10, size=17), (Step("times", "=one", 17), Step("times", "=one", 1 << 40))),
        "plain": Coded(rng.integers(-3, 4, size=(5, 6)), np.array([0x3F01], dtype=np.uint16)),
        "norm": Raw("F16", rng.normal(size=6).astype(np.float16)),
    }  # fmt: skip
    return QuantizedModel({"n_layer": 3}, tensors)


def test_every_kind_of_step():
    model = every_step()
    check(model)
    package = encode(model)
    assert package[:4] == b"SBZ\2"
    again = decode_model(package)
    assert again.sha256() == model.sha256() and again.num_params == model.num_params == 3 * 60 * 64 + 130 + 17 + 30 + 6


def test_a_file_of_version_2_stays_readable():
    """tests/golden/package-2.sbz, written when the version was fixed: :func:`every_step`."""
    package = (Path(__file__).parents[1] / "golden" / "package-2.sbz").read_bytes()
    model = decode_model(package)
    assert model.sha256() == "ece75a6c4d4b3c5fd739ece1dc8b7c825cc3106eac4512f2dd934198e89ffa90"
    check(model, package)


def sorted_columns():
    """Groups of columns that are no neighbours, with keys that are numbers into a book, raw, not whole, and shared; before and after other steps."""
    rng = np.random.default_rng(8)
    tensors = {"====g": Raw("F16", np.arange(4, dtype=np.float16)), "=one": Raw("F32", np.float32([-0.7])), "=keys": Raw("F32", np.float32([0.5, -2, 0.5, 7, -2, 1e-30]))}
    for k in range(2):
        name = f"h.{k}.q"
        tensors |= {
            f"={name}.d": Raw("F16", rng.normal(size=(6, 4)).astype(np.float16)),
            f"={name}.g": Grouped(rng.permutation(np.arange(32) // 8).reshape(1, 32), (Step("book", "====g"),)),
            name: Grouped(rng.integers(-8, 8, size=(6, 32)), (Step("times", f"={name}.d", 8), Step("columns", f"={name}.g"))),
            f"h.{k}.k": Grouped(rng.integers(-8, 8, size=(5, 32)), (Step("times", "=one", 160), Step("columns", f"={name}.g"))),
        }
    tensors |= {
        "first": Grouped(rng.integers(-9, 10, size=(3, 6)), (Step("columns", "=keys"), Step("times", "=keys", 3))),
        "vector": Grouped(rng.integers(-9, 10, size=6), (Step("columns", "=keys"),)),
        "twice": Grouped(np.rint(9 * rng.normal(size=(4, 6))).astype(np.int8), (Step("columns", "=keys"), Step("plus", "=one", 24), Step("columns", "=keys"))),
    }  # fmt: skip
    return QuantizedModel({"n_layer": 2}, tensors)


def test_columns_that_change_places():
    model = sorted_columns()
    check(model)
    package = encode(model)
    assert package[:4] == b"SBZ\3" and decode_model(package).sha256() == model.sha256()
    q = model.tensors["h.1.q"]
    keys, group = model.tensors["=h.1.q.g"].integers[0], model.tensors["=h.1.q.d"].data.astype(np.float32)
    taken, wanted = dict.fromkeys(range(4), 0), np.zeros((6, 32), np.float32)
    for j in range(32):  # the n-th column of group g is the n-th of its integers
        wanted[:, j] = q.integers[:, 8 * keys[j] + taken[keys[j]]].astype(np.float32) * group[:, keys[j]]
        taken[keys[j]] += 1
    assert model.dequantized()["h.1.q"].tobytes() == wanted.tobytes()


def test_a_file_of_version_3_stays_readable():
    """tests/golden/package-3.sbz, written when the version was fixed: :func:`sorted_columns`."""
    package = (Path(__file__).parents[1] / "golden" / "package-3.sbz").read_bytes()
    model = decode_model(package)
    assert model.sha256() == "7ceb54ed80fbc490cf63d91323438d4fb649ca7a5d832127fa64439a6a3a9ad4"
    check(model, package)


def deltas():
    """One of each kind; the first is tests/golden/package-4.sbz."""
    rng = np.random.default_rng(4)
    names = [f"model.layers.{k}.self_attn.{m}_proj.weight" for k in range(2) for m in "qv"]
    yield pack_delta("subspace", {"w": rng.normal(size=32).astype(np.float32)}, seed=3, step=0.6)
    yield pack_delta("lora", {f"{name}{end}": rng.normal(size=shape).astype(np.float32) for name in names for end, shape in ((".a", (2, 64)), (".b", (64, 2)))}, step=0.6)
    yield pack_delta("full", {name: rng.normal(size=(16, 16)).astype(np.float32) for name in names}, step=0.6)


def test_deltas_have_a_dictionary_of_their_own():
    """Headers of 35 bytes at most, all kinds; files of version 1, as older writers made them, decode to the same."""
    for model in deltas():
        package, parts = encode_with_breakdown(model)
        assert package[:4] == b"SBZ\4" and parts.header_bytes <= 35
        check(model, package)
        n, at = varint(package, 4)
        m, at = varint(package, at)
        plain = zlib.decompressobj(-15, zdict=DICTIONARY + DELTAS).decompress(package[at : at + m])
        packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
        meta = packer.compress(plain) + packer.flush()
        payload = varint_of(len(meta)) + meta + package[at + m : -4]
        body = b"SBZ\1" + varint_of(len(payload)) + payload
        older = body + zlib.crc32(body).to_bytes(4, "little")
        assert len(older) > len(package) + 14 and decode_model(older).sha256() == model.sha256()
        check(model, older)


def test_a_file_of_version_4_stays_readable():
    package = (Path(__file__).parents[1] / "golden" / "package-4.sbz").read_bytes()
    model = decode_model(package)
    assert model.sha256() == "fc14cd9b0638bc88c6d2d0fd882d2bdf3083457bd37c74a9fead14699354c8d1" and len(package) == 46
    check(model, package)
