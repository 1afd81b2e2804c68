"""The package: round trips of whatever a model may hold, the size of its parts, and refusal of every file that is not exactly one."""

import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from scalebound.compress import (
    Coded,
    QuantizedModel,
    Raw,
    code_bits,
    decode,
    decode_model,
    encode,
    encode_with_breakdown,
    load_package,
    quantize,
    read_package,
    save_package,
    tensors_sha256,
)
from scalebound.compress.dictionary import DICTIONARY
from scalebound.compress.tables import read_varint, varint
from scalebound.core.errors import InputError, UsageError

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    limit = 2.0**15 if dtype == np.float16 else 2.0**60
    elements = {"min_value": -limit, "max_value": limit, "allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else None
    return draw(npst.arrays(dtype, shape, elements=npst.from_dtype(dtype, **elements) if elements else None))


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.sampled_from(["h.0.w", "h.1.w", "h.2.w", "h.01.w", "h.*.w", "x.7"])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(names, arrays(), max_size=6), st.sampled_from([{"bits": 2}, {"bits": 3}, {"bits": 8}, {"step": 0.5}, {"step": 0.003}]))
def test_round_trip(tensors, setting):
    model = quantize({"n": 3, "text": "ü"}, tensors, **setting)
    package, parts = encode_with_breakdown(model)
    assert package == encode(model), "same model, same bytes"
    assert sum(vars(parts).values()) - parts.file_bytes == parts.file_bytes == len(package)
    config, found = decode(package)
    assert config == {"n": 3, "text": "ü"}
    wanted = model.dequantized()
    assert found.keys() == wanted.keys() == tensors.keys()
    for name, data in found.items():
        assert data.dtype == wanted[name].dtype and data.shape == tensors[name].shape and data.tobytes() == wanted[name].tobytes()
        assert data.dtype == (np.float32 if tensors[name].dtype.kind == "f" else tensors[name].dtype)
        if tensors[name].dtype.kind != "f":
            assert np.array_equal(data, tensors[name])
    assert decode_model(package).sha256() == model.sha256() == tensors_sha256(config, found)


def test_every_value_is_exactly_integer_times_scale(llama):
    config, tensors = llama()
    model = decode_model(encode(quantize(config, tensors, bits=8)))
    for name, tensor in model.tensors.items():
        if isinstance(tensor, Coded):
            scale = (tensor.row_scales.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
            exact = tensor.matrix.astype(np.float64) * scale[:, None]
            assert np.array_equal(exact, tensor.dequantized().astype(np.float64).reshape(exact.shape)), name


def test_an_inexact_product_is_refused():
    integers, scale = np.full((1, 1), 131071, dtype=np.int32), np.array([0x3FFF], dtype=np.uint16)
    with pytest.raises(InputError, match="float32"):
        Coded(integers, scale).dequantized("w")
    with pytest.raises(InputError, match="float32"):
        Coded(np.full((1, 1), 300, dtype=np.int32), np.array([0x7F7F], dtype=np.uint16)).dequantized("w")
    # far below float32's normal range, products of two scales may still be exact
    tiny = Coded(np.full((1, 1), 1 << 16, dtype=np.int32), np.array([0x0D80], dtype=np.uint16), np.array([0x2180], dtype=np.uint16))
    assert tiny.dequantized()[0, 0] == 65536 * 2.0**-100 * 2.0**-60


def test_header_and_tables_of_a_small_model(llama):
    config, tensors = llama(24, 1, 64)
    assert 13_000 < sum(data.size for data in tensors.values()) < 15_500
    for setting, share in [({"bits": 2}, 0.03), ({"bits": 4}, 0.03), ({"bits": 8}, 0.03), ({"step": 0.5}, 0.03)]:
        package, parts = encode_with_breakdown(quantize(config, tensors, **setting))
        assert parts.header_bytes + parts.table_bytes < share * len(package), (setting, parts)
    # control: the same header without the preset dictionary
    length, at = read_varint(package, 4, "")
    length, at = read_varint(package, at, "")
    plain = zlib.decompressobj(-15, zdict=DICTIONARY).decompress(package[at : at + length])
    assert len(zlib.compress(plain, 9)) > 4 * (parts.header_bytes + parts.table_bytes)


def test_entropy_coding_reaches_the_entropy(llama):
    config, tensors = llama(64, 2, 172)
    model = quantize(config, tensors, bits=4)
    package, parts = encode_with_breakdown(model)
    integers = np.concatenate([t.integers.reshape(-1) for t in model.tensors.values() if isinstance(t, Coded)])
    p = np.unique(integers, return_counts=True)[1] / integers.size
    assert parts.weight_bytes < 1.002 * integers.size * -float(p @ np.log2(p)) / 8 + 8


def test_tensors_of_different_shape_get_their_own_tables():
    rng = np.random.default_rng(0)
    one = {"h.0.a": rng.normal(size=(100, 100)), "h.1.a": rng.normal(size=(100, 100)), "b": rng.standard_t(1.5, size=(200, 200))}
    model = quantize({}, one, step=0.5)
    _, parts = encode_with_breakdown(model)
    entropies = 0.0
    for tensor in model.tensors.values():
        counts = np.unique(tensor.integers, return_counts=True)[1]
        entropies += -float(counts @ np.log2(counts / counts.sum()))
    assert parts.weight_bytes < 1.02 * entropies / 8, "one table for both distributions would cost much more"


@pytest.mark.parametrize(("size", "bits"), [(1, 8 + 6 + 1), (1000, 8000 + 24 + 1), (1024, 8192 + 26 + 1)])
def test_code_bits(size, bits):
    assert code_bits(size) == bits


def test_code_bits_form_a_prefix_code():
    """Kraft's sum: over all files of all sizes, 2^(8 size) files of each, the code lengths leave the sum below 1."""
    sizes = np.arange(1, 1 << 18)
    self_delimitation = np.array([code_bits(int(size)) for size in sizes]) - 8 * sizes
    assert np.sum(0.5**self_delimitation) <= 1
    with pytest.raises(UsageError):
        code_bits(0)


# --- refusal ---


@pytest.fixture(scope="module")
def package():
    rng = np.random.default_rng(0)
    tensors = {"a": rng.normal(size=(5, 7)), "n": np.array([1.1, 2.3], dtype=np.float32), "c": rng.normal(size=(3, 3))}
    return encode(quantize({"hidden_size": 7}, {name: data.astype(np.float32) for name, data in tensors.items()}, bits=4))


def test_every_truncation_is_refused(package):
    for length in range(len(package)):
        with pytest.raises(InputError):
            decode(package[:length])
    with pytest.raises(InputError):
        decode(package + b"\0")


def test_every_altered_byte_is_refused(package):
    for at in range(len(package)):
        for flip in (1, 0x80, 0xFF):
            altered = bytearray(package)
            altered[at] ^= flip
            with pytest.raises(InputError):
                decode(bytes(altered))


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_altered_files_with_a_right_checksum_are_refused_or_decode(data, package):
    """No other exception, whatever the bytes are: what the checksum cannot see, the reader must."""
    at = data.draw(st.integers(4, len(package) - 5))
    body = bytearray(package[:-4])
    body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    body = body[:4] + varint(len(body) - 5) + body[5:]  # this package's length is one byte
    try:
        decode(bytes(body) + zlib.crc32(body).to_bytes(4, "little"))
    except InputError:
        pass


def forged(header, tables=b"", rest=b""):
    """A package around any header."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
    text = header if isinstance(header, bytes) else json.dumps(header).encode() + b"\0" + tables
    meta = packer.compress(text) + packer.flush()
    payload = varint(len(meta)) + meta + rest
    body = b"SBZ\1" + varint(len(payload)) + payload
    return body + zlib.crc32(body).to_bytes(4, "little")


def head(*tensors, **changes):
    return {"config": {"d": 3}, "layers": None, "shift": 4, "code": [0], "tensors": list(tensors)} | changes


def test_control_the_forger_can_write_good_packages():
    config, found = decode(forged(head(["w", ["d", 2]]), b"\x02\x04", b"\x80\x3f"))
    assert config == {"d": 3} and found["w"].tolist() == [[2.0, 2.0]] * 3


@pytest.mark.parametrize(
    "header",
    [
        b"{", b"[]\0", b"{}\0", b'{"shift":' + b"9" * 5000 + b"}\0", b'{"config":{},"config":{}}\0', json.dumps(head()).encode(),
        head(shift=8), head(shift=True), head(tensors=3), head(config=3), head(layers="x"), head(layers=-1), head(layers=1.0), head(extra=1),
        head(["w", ["e"]]), head(["w", [-1]]), head(["w", [1.5]]), head(["w"]), head("w"), head([3, [2]]), head(["w", [1] * 65]),
        head(["w", [2], 1]), head(["w", [2], -1]), head(["w", [2], "F8"]), head(["w", [2], 0, 1]), head(["w", [2], 0, 0, 0, 0, 0, 0]), head(["w", [2], True]),
        head(["w", [2], [0, 0]]), head(["w.*", [2], [0, 0]], layers=3), head(["w", [1]], ["w", [1]]), head(["w.*", [1]], ["w.1", [1]], layers=2),
        head(["w", [0, 4]]), head(["w", [1 << 30]]), head(["w", [1 << 39, 1 << 39], "F32"]), head(["w", [9], "F32"]), head(["w", [2], 0, 0]),
        head(["w.*", [2]], layers=1 << 39),
    ],
)  # fmt: skip
def test_headers_that_lie_are_refused(header):
    with pytest.raises(InputError):
        decode(forged(header, b"\x02\x04", b"\x80\x3f"))


@pytest.mark.parametrize(
    ("tables", "rest"),
    [(b"\x02", b"\x80\x3f"), (b"\x02\x04", b""), (b"\x02\x04", b"\x80"), (b"\x02\x04", b"\x00\x00"), (b"\x02\x04", b"\x80\x7f"), (b"\x02\x04", b"\x80\xbf"), (b"\x02\x04", b"\x80\x3f\x01"), (b"\x02\x04", b"\x80\x3f\x00")],
)  # fmt: skip
def test_contents_that_do_not_fit_are_refused(tables, rest):
    with pytest.raises(InputError):
        decode(forged(head(["w", ["d", 2]]), tables, rest))


def test_other_files_are_named(tmp_path, package):
    with pytest.raises(InputError, match="not a package"):
        decode(b"PK\3\4 something else")
    with pytest.raises(InputError, match="version 5"):
        decode(b"SBZ\5" + package[4:])
    with pytest.raises(InputError, match="no such file"):
        read_package(tmp_path / "none.sbz")


def test_a_bomb_is_refused_before_it_is_inflated():
    with pytest.raises(InputError, match="16 MiB"):
        decode(forged(b" " * (17 << 20)))


# --- models the writer refuses ---


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (QuantizedModel({"x": float("nan")}, {}), "not JSON"),
        (QuantizedModel({}, {"w": Coded(np.ones((2, 2), dtype=np.int8), np.array([0, 0x3F80], dtype=np.uint16))}), "positive"),
        (QuantizedModel({}, {"w": Coded(np.ones((2, 2), dtype=np.int8), np.array([0x3F80] * 3, dtype=np.uint16))}), "fit its shape"),
        (QuantizedModel({}, {"w": Coded(np.ones((0, 2), dtype=np.int8), np.array([0x3F80], dtype=np.uint16))}), "no elements"),
        (QuantizedModel({}, {"w": Coded(np.array([[1, 1 << 17]]), np.array([0x3F80], dtype=np.uint16))}), "magnitudes"),
    ],
)
def test_models_outside_the_format(model, message):
    with pytest.raises(InputError, match=message):
        encode(model)


def test_files(tmp_path, llama):
    config, tensors = llama()
    model = quantize(config, tensors, bits=3)
    parts = save_package(tmp_path / "m.sbz", model)
    assert (tmp_path / "m.sbz").stat().st_size == parts.file_bytes
    assert load_package(tmp_path / "m.sbz").sha256() == model.sha256()
    config_read, found = read_package(tmp_path / "m.sbz")
    assert "torch_dtype" not in config_read and found["model.norm.weight"].flags.writeable
    assert model.num_params == sum(data.size for data in tensors.values())


def test_raw_tensors_keep_their_bits():
    tensors = {"f": Raw("F32", np.array([-0.0, 1e-40, np.inf, np.nan], dtype=np.float32)), "h": Raw("F16", np.array([-0.0, 6e-8], dtype=np.float16))}
    _, found = decode(encode(QuantizedModel({}, tensors)))
    assert found["f"].tobytes() == tensors["f"].data.tobytes() and found["h"].tobytes() == tensors["h"].data.astype(np.float32).tobytes()
