"""The checker's decoder against the library's encoder, a file written by hand from the format, and files made to break it."""

import json
import struct
import zlib

import numpy as np
import pytest

from scalebound.compress import QuantizedModel, decode_model, encode, quantize, tensors_sha256
from scalebound.compress.tables import read_varint
from scalebound.core.errors import InputError
from scalebound_verify import Refused
from scalebound_verify.package import DELTAS, DICTIONARY, decode, model_sha256


def same(data: bytes, model: QuantizedModel, config: dict) -> None:
    numbers = model.dequantized()
    floats = sum(value.size for value in numbers.values() if value.dtype == np.float32)
    found_config, found = decode(data, floats)
    assert found_config == config and set(found) == set(numbers)
    for name, value in numbers.items():
        dtype, array = found[name]
        assert array.shape == value.shape and array.tobytes() == np.ascontiguousarray(value).tobytes(), name
        assert dtype == "F32" or value.dtype != np.float32
    assert model_sha256(found_config, found) == tensors_sha256(config, numbers)
    assert decode(data, floats + 1)[1] == {}  # another count is not decoded


@pytest.mark.parametrize("setting", [{"bits": 2}, {"bits": 3}, {"bits": 8}, {"step": 0.01}, {"step": 0.6}])
def test_models_of_the_library(setting):
    rng = np.random.default_rng(1)
    config = {
        "model_type": "llama",
        "num_hidden_layers": 3,
        "hidden_size": 24,
        "vocab_size": 50,
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float32",
    }
    tensors = {f"model.layers.{i}.w.weight": rng.standard_t(3, (24, 40)) * 10.0**i for i in range(3)}
    tensors |= {"embed": rng.normal(size=(50, 24)), "norm": rng.normal(size=24), "odd": np.ones(7) / 3, "scalar": np.array(2.5),
        "one": np.ones((1, 1)),
                "zeros": np.zeros((4, 5)), "cube": rng.normal(size=(3, 4, 5)), "empty": np.zeros((0, 3))}  # fmt: skip
    arrays = {name: value.astype(np.float32) for name, value in tensors.items()} | {"ids": np.arange(5), "mask": np.array([True, False])}
    model = quantize(config, arrays, **setting)
    same(encode(model), model, {key: value for key, value in config.items() if key != "torch_dtype"})


def by_hand(header: dict, tables: bytes = b"", rest: bytes = b"", version: int = 1) -> bytes:
    """A package as docs/package-format.md says, sections 1 and 2, with one stored DEFLATE stream."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY + DELTAS * (version == 4))
    meta = packer.compress(json.dumps(header).encode() + b"\0" + tables) + packer.flush()

    def varint(value: int) -> bytes:
        return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])

    payload = varint(len(meta)) + meta + rest
    body = b"SBZ" + bytes([version]) + varint(len(payload)) + payload
    return body + zlib.crc32(body).to_bytes(4, "little")


def header(**fields) -> dict:
    return {"config": {"n": 2, "layers": 3}, "layers": None, "shift": 0, "code": ["F32"], "tensors": []} | fields


def test_raw_tensors_by_hand():
    data = by_hand(
        header(tensors=[["a", ["n"]], ["b", [1, 2], "BF16"], ["c", [], "I64"]]), rest=struct.pack("<2f2Hq", 1.5, -0.1, 0x3F80, 0xC000, -7)
    )
    config, found = decode(data, 4)
    assert config == {"n": 2, "layers": 3}
    assert found["a"][1].tolist() == [1.5, np.float32(-0.1)] and found["b"][1].tolist() == [[1.0, -2.0]] and found["c"][1].tolist() == -7
    assert (found["b"][0], found["c"][0]) == ("F32", "I64")


def test_coded_tensor_by_hand():
    """One symbol a table: no bits are coded, so every number is known from section 3 alone: 5 times the scale, for each of two layers."""
    plain = bytes([1 << 1, 5 << 1])
    data = by_hand(header(layers="n", code=[0], tensors=[["w*", [2, 3]]]), tables=plain, rest=struct.pack("<2H", 0x3F00, 0x4000))
    found = decode(data, 12)[1]
    assert found["w0"][1].tolist() == [[2.5] * 3] * 2 and found["w1"][1].tolist() == [[10.0] * 3] * 2


def test_stack_coder_by_hand():
    """Two symbols of equal weight and one integer: cum = 0, 2^23, 2^24; the state after decoding symbol 1 from q must be 0."""
    table = bytes([2 << 1, 0, 1 << 4, 1 << 4])
    one, state = header(code=[0], tensors=[["w", [1]]]), 1 << 23
    found = decode(by_hand(one, table, struct.pack("<H", 0x3F80) + state.to_bytes(3, "little")), 1)[1]
    assert found["w"][1].tolist() == [1.0]
    for left_over in (state + 1, state + (1 << 24), state + (1 << 40)):
        with pytest.raises(Refused, match="left over"):
            decode(by_hand(one, table, struct.pack("<H", 0x3F80) + left_over.to_bytes(6, "little").rstrip(b"\0")), 1)


PLAIN = bytes([2, 2])  # one symbol: 1
BAD = {
    "an unknown key": (header(extra=1), b"", b"", 0, "unknown key"),
    "no shift": ({key: value for key, value in header().items() if key != "shift"}, b"", b"", 0, "lacks"),
    "a shift of 8": (header(shift=8), b"", b"", 0, "shift beyond 7"),
    "an unknown type": (header(code=["F8"], tensors=[["a", [1]]]), b"", b"", 0, "malformed code"),
    "a table that is not there": (header(code=[1], tensors=[["a", [1]]]), PLAIN, b"", 0, "malformed code"),
    "six table numbers": (header(code=[0, 0, 0, 0, 0, 0], tensors=[["a", [1]]]), PLAIN, b"", 0, "malformed code"),
    "a dimension without a number": (header(tensors=[["a", ["m"]]]), b"", b"", 0, "no whole number"),
    "a negative dimension": (header(tensors=[["a", [-1]]]), b"", b"", 0, "no whole number"),
    "a truth value as a dimension": (header(tensors=[["a", [True]]]), b"", b"", 0, "no whole number"),
    "a name twice": (header(tensors=[["a", [0]], ["a", [0]]]), b"", b"", 0, "names a tensor twice"),
    "layers beyond counting": (header(layers=10**9, tensors=[["a*", [0]]]), b"", b"", 0, "too many"),
    "an entry without a shape": (header(tensors=[["a"]]), b"", b"", 0, "malformed tensor"),
    "coded without elements": (header(code=[0], tensors=[["a", [0]]]), PLAIN, b"", 0, "without elements"),
    "numbers beyond counting": (header(code=[0], tensors=[["a", [10**9]]]), PLAIN, b"", 10**9, "more numbers"),
    "a table of weight zero": (header(), bytes([2 << 1, 0, 0, 0]), b"", 0, "weight zero"),
    "a table without symbols": (header(), bytes([0]), b"", 0, "without symbols"),
    "a table cut short": (header(), bytes([9]), b"", 0, "within a table"),
    "a number that does not end": (header(), bytes([255] * 12), b"", 0, "does not end"),
    "a scale of zero": (header(code=[0], tensors=[["a", [1]]]), PLAIN, b"\0\0", 1, "scale"),
    "a scale that is infinite": (header(code=[0], tensors=[["a", [1]]]), PLAIN, b"\x80\x7f", 1, "scale"),
    "a product beyond float32": (header(code=[0], tensors=[["a", [1]]]), bytes([2, 8]), b"\x7f\x7f", 1, "no float32"),
    "raw bytes cut short": (header(tensors=[["a", [2]]]), b"", b"\0" * 7, 2, "raw bytes"),
    "bytes nobody reads": (header(tensors=[["a", [1]]]), b"", b"\0" * 4 + b"\1", 1, "left over"),
    "zero bytes at the end": (header(tensors=[["a", [1]]]), b"", b"\0" * 8, 1, "zero byte"),
    "a truth value of 2": (header(code=["BOOL"], tensors=[["a", [1]]]), b"", b"\2", 0, "truth value"),
}


@pytest.mark.parametrize("what", BAD)
def test_malformed_packages(what):
    head, tables, rest, params, match = BAD[what]
    with pytest.raises(Refused, match=match):
        decode(by_hand(head, tables, rest), params)


def test_every_flipped_bit_and_every_cut_is_seen():
    data = encode(quantize({}, {"w": np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)}, bits=4))
    for at in range(len(data)):
        for spoiled in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
            with pytest.raises(Refused):
                decode(spoiled, 24)
    with pytest.raises(Refused):
        decode(data + b"\0", 24)


def stack_encode(symbols: list[tuple[int, list[int]]]) -> bytes:
    """The inverse of section 5: (index, cumulative frequencies) of every symbol in the order of decoding, coded last to first."""
    words, state = [], 0
    for j, cum in reversed(symbols):
        f = cum[j + 1] - cum[j]
        if state >= f << 40:
            words.append(state & 0xFFFFFFFF)
            state >>= 32
        state = (state // f << 24) + cum[j] + state % f
    words += [state & 0xFFFFFFFF, state >> 32]
    return b"".join(word.to_bytes(4, "little") for word in words).rstrip(b"\0")


def test_classes_and_scales_by_hand():
    """Row and column scales, row and column classes, three tables of integers: 200 x 30 of them, in the order of section 5."""
    rng = np.random.default_rng(2)
    rows, columns = 200, 30
    # weights 16 to 19, doubled by the upper half of the byte; tables: scales (120..123), classes (0..1), integers of class 0, 1 and 2
    spec = [
        (120, [0x10, 0x21, 0x12, 0x03]),
        (0, [0x10, 0x12]),
        (-3, [0x10, 0x51, 0x91, 0x30, 0x10]),
        (-1, [0x71, 0x10, 0x22]),
        (5, [0x10, 0x18]),
    ]
    tables, cums = b"", []
    for low, codes in spec:
        weights = [(16 + (b & 15)) << (b >> 4) for b in codes]
        sums = np.concatenate([[0], np.cumsum(weights)]).tolist()
        cums.append([j + c * (2**24 - len(codes)) // sums[-1] for j, c in enumerate(sums)])
        zigzag = 2 * low if low >= 0 else -2 * low - 1
        tables += bytes([2 * len(codes), zigzag & 127 | (128 if zigzag > 127 else 0)] + ([zigzag >> 7] if zigzag > 127 else []) + codes)
    draws = [rng.integers(0, len(spec[t][1]), size) for t, size in ((0, rows), (0, columns), (1, rows), (1, columns))]
    symbols = [(int(j), cums[t]) for t, drawn in zip((0, 0, 1, 1), draws, strict=True) for j in drawn]
    which, integers = draws[2][:, None] + draws[3], np.zeros((rows, columns))
    for k in range(3):
        drawn = rng.integers(0, len(spec[2 + k][1]), int((which == k).sum()))
        integers[which == k] = drawn + spec[2 + k][0]
        symbols += [(int(j), cums[2 + k]) for j in drawn]
    head = header(shift=7, code=[2, 0, 0, 1, 1], tensors=[["w", [rows, columns]]])
    scales = [(((120 + drawn).astype(np.uint32) << 23).view(np.float32)) for drawn in draws[:2]]
    found = decode(by_hand(head, tables, stack_encode(symbols)), rows * columns)[1]["w"][1]
    np.testing.assert_array_equal(found, (integers * scales[0][:, None] * scales[1]).astype(np.float32))


# --- version 2: tensors with steps ---
THREE = bytes([2, 6])  # a table of one symbol: 3


def stepped(*steps, parts=(["=s", [2]],), **fields) -> dict:
    return header(code=["F32"], tensors=[*parts, ["w", [2, 2], 0, -1, -1, -1, -1, *steps]], **fields)


def test_steps_by_hand():
    """Four integers 3: times 0.1 and 1/3 for two each, plus -1 for all: every operation rounded to float32. Then a book, and layers."""
    parts = [["=b", [1], "F16"], ["=s", [2]]]
    rest = struct.pack("<e2f", -1.0, 0.1, 1 / 3)
    config, found = decode(by_hand(stepped("times", "=s", 2, "plus", "=b", 4, parts=parts), THREE, rest, 2), 4)
    s = np.float32([0.1, 0.1, 1 / 3, 1 / 3])
    assert list(found) == ["w"] and found["w"][1].tobytes() == (np.float32(3) * s + np.float32(-1)).tobytes()
    assert not np.array_equal(found["w"][1].ravel(), (3 * s.astype("f8") - 1).astype("f4"))  # rounding once at the end is something else
    book = by_hand(stepped("book", "=s", 1, parts=[["=s", [4]]]), THREE, struct.pack("<4f", 5, 6, 7, -0.0), 2)
    assert decode(book, 4)[1]["w"][1].tobytes() == np.float32([-0.0] * 4).tobytes()
    layers = header(layers="n", tensors=[["=*", [1]], ["w*", [3], 0, -1, -1, -1, -1, "times", "=*", 3]])
    found = decode(by_hand(layers, THREE, struct.pack("<2f", 2, 4), 2), 6)[1]
    assert found["w0"][1].tolist() == [6.0] * 3 and found["w1"][1].tolist() == [12.0] * 3


S = struct.pack("<2f", 1, 1)
WRONG = {
    "steps in version 1": (stepped("times", "=s", 2), S, 1, "another version"),
    "no steps in version 2": (header(tensors=[["a", [2]]]), S, 2, "another version"),
    "an unknown step": (stepped("minus", "=s", 2), S, 2, "malformed step"),
    "two thirds of a step": (stepped("times", "=s"), S, 2, "malformed code"),
    "a part that is not there": (stepped("times", "=t", 2), S, 2, "malformed step"),
    "a part that comes later": (header(tensors=[["w", [2], 0, -1, -1, -1, -1, "times", "=s", 1], ["=s", [2]]]), S, 2, "malformed step"),
    "a tensor of the model as a part": (stepped("times", "s", 2, parts=[["s", [2]]]), S, 2, "malformed step"),
    "a part of integers": (stepped("times", "=s", 2, parts=[["=s", [2], "I32"]]), S, 2, "malformed step"),
    "a part that is too short": (stepped("times", "=s", 1), S, 2, "malformed step"),
    "groups of none": (stepped("times", "=s", 0), S, 2, "malformed step"),
    "groups of a half": (stepped("times", "=s", 2.0), S, 2, "malformed step"),
    "groups of too many": (stepped("times", "=s", 2**41), S, 2, "malformed step"),
    "a name that is a number": (stepped("times", 1, 2), S, 2, "malformed step"),
    "a name that is a list": (stepped("times", ["=s"], 2), S, 2, "malformed step"),
    "a book that is too short": (stepped("book", "=s", 1), S, 2, "malformed step"),
    "a book after a step": (stepped("times", "=s", 2, "book", "=s", 2), S, 2, "malformed step"),
    "scales and steps": (header(tensors=[["=s", [2]], ["w", [2], 0, 0, -1, -1, -1, "times", "=s", 1]]), S, 2, "malformed code"),
    "a product beyond float32": (stepped("times", "=s", 2), struct.pack("<2f", 3e38, 1), 2, "not finite"),
    "a part that is not a number": (stepped("plus", "=s", 2), struct.pack("<2f", np.nan, 1), 2, "not finite"),
    "columns in version 2": (stepped("columns", "=s", 1), S, 2, "another version"),
    "version 3 without columns": (stepped("times", "=s", 2), S, 3, "another version"),
    "version 4 without a delta": (header(tensors=[["a", [2]]]), S, 4, "another version"),
    "a delta of version 4 with steps": (stepped("times", "=s", 2, config={"delta": "full"}), S, 4, "another version"),
    "a delta with steps that says version 1": (stepped("times", "=s", 2, config={"delta": "full"}), S, 1, "another version"),
    "fewer keys than columns": (stepped("columns", "=s", 1, parts=[["=s", [1]]]), struct.pack("<f", 1), 3, "malformed step"),
    "more keys than columns": (stepped("columns", "=s", 1, parts=[["=s", [3]]]), struct.pack("<3f", 1, 2, 3), 3, "malformed step"),
    "keys that are no numbers": (stepped("columns", "=s", 1), struct.pack("<2f", np.nan, 1), 3, "malformed step"),
    "endless keys": (stepped("columns", "=s", 1), struct.pack("<2f", np.inf, 1), 3, "malformed step"),
    "keys that are not there": (stepped("columns", "=t", 1), S, 3, "malformed step"),
    "a book after columns": (stepped("columns", "=s", 1, "book", "=s", 1), S, 3, "malformed step"),
    "raw bytes cut short": (stepped("times", "=s", 2), S[:-1], 2, "raw bytes"),
}


@pytest.mark.parametrize("what", WRONG)
def test_malformed_steps(what):
    """The checker refuses them with a word on what is wrong, and the library refuses the same files."""
    head, rest, version, match = WRONG[what]
    data, params = by_hand(head, THREE, rest, version), {"no steps in version 2": 2, "version 4 without a delta": 2, "a tensor of the model as a part": 6}.get(what, 4)
    params = 2 if "later" in what or "scales" in what else params
    with pytest.raises(Refused, match=match):
        decode(data, params)
    with pytest.raises(InputError):
        decode_model(data).dequantized()


def test_control_the_same_files_without_the_fault():
    for steps in (("times", "=s", 2), ("plus", "=s", 2), ("book", "=s", 1)):
        parts = [["=s", [4 if steps[0] == "book" else 2]]]
        data = by_hand(stepped(*steps, parts=parts), THREE, struct.pack("<2f", 1, 1) * (2 if steps[0] == "book" else 1), 2)
        assert decode(data, 4)[1]["w"][1].tobytes() == decode_model(data).dequantized()["w"].tobytes()


def test_columns_by_hand():
    """Rows times -1 and 2, then columns sorted back: the greater key had stood second. Integers without another step become floats."""
    data = by_hand(stepped("times", "=r", 1, "columns", "=s", 1, parts=[["=r", [4]], ["=s", [2]]]), THREE, struct.pack("<6f", 1, 2, 3, 4, 9, -9), 3)
    assert decode(data, 4)[1]["w"][1].tolist() == [[6.0, 3.0], [12.0, 9.0]] == decode_model(data).dequantized()["w"].tolist()
    alone = by_hand(stepped("columns", "=s", 1), THREE, S, 3)
    assert decode(alone, 4)[1]["w"][1].tobytes() == np.float32([3] * 4).tobytes() == decode_model(alone).dequantized()["w"].tobytes()


def test_parts_do_not_count_as_parameters():
    data = by_hand(stepped("times", "=s", 2), THREE, S, 2)
    assert decode(data, 6)[1] == {} and decode_model(data).num_params == 4 and set(decode(data, 4)[1]) == {"w"}


@pytest.mark.parametrize("version", [2, 3])
def test_library_and_checker_agree_on_damaged_packages_with_steps(version):
    """Headers with fields changed, dropped, put in or shuffled, tables and content with a bit flipped: both refuse, or both find the same model."""
    import random
    from pathlib import Path

    package = (Path(__file__).parents[1] / "golden" / f"package-{version}.sbz").read_bytes()
    n, at = read_varint(package, 4, "")
    m, at = read_varint(package, at, "")
    text, _, tables = zlib.decompressobj(-15, zdict=DICTIONARY).decompress(package[at : at + m]).partition(b"\0")
    rest, rng, outcomes = package[at + m : -4], random.Random(0), {True: 0, False: 0}
    put = [0, 1, -1, 20, 1 << 40, 2.0, None, [], [0, 0, 0], "times", "plus", "book", "=flat.s", "==h.*.w.s.d", "=h.*.w.s", "h.*.w", "====d", "F16"] + ["columns", "=keys", "=h.*.q.g", "=h.*.q.d"] * (version == 3)
    for trial in range(300):
        head, other, content = json.loads(text), bytearray(tables), bytearray(rest)
        entry = rng.choice(head["tensors"])
        where = rng.randrange(len(entry))
        if trial % 3:
            change = rng.choice(["replace", "drop", "put in", "shuffle"])
            if change == "shuffle":
                rng.shuffle(head["tensors"])
            else:
                entry[where : where + (change != "put in")] = [] if change == "drop" else [rng.choice(put)]
        else:
            part = rng.choice([other, content])
            part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
        data = by_hand(head, bytes(other), bytes(content), version)
        try:
            model = decode_model(data)
            wanted, params = tensors_sha256(model.config, model.dequantized()), model.num_params
        except InputError:
            wanted, params = "", decode_model(package).num_params
        try:
            config, tensors = decode(data, params)
            found = model_sha256(config, tensors) if tensors else ""
        except Refused:
            found = ""
        assert found == wanted, (trial, head)
        outcomes[bool(wanted)] += 1
    assert min(outcomes.values()) >= 10, outcomes
