"""decode(encode(m)) is m, bit for bit, for whatever the format can hold; and no file that differs in a byte is read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from scalebound.compress import Coded, Grouped, QuantizedModel, Raw, Step, decode_model, encode
from scalebound.compress.model import RAW_DTYPES
from scalebound.compress.shape import matrix_shape
from scalebound.core.errors import InputError
from scalebound_verify.package import decode as checker_decode
from scalebound_verify.strict import Refused

MAGNITUDES = (0, 1, 2, 7, 127, 128, 1000)
names = st.sampled_from(["w", "a.b", "h.0.w", "h.1.w", "h.2.w", "é", "*", "x" * 40])


@st.composite
def raw(draw, dtypes=tuple(RAW_DTYPES), shape=None):
    """Any bits at all: subnormal numbers, infinities and every NaN among the floats."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)) if shape is None else shape
    count = int(np.prod(shape, dtype=np.int64))
    if dtype == "BOOL":
        data = np.array(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)), dtype=np.uint8)
    else:
        size = RAW_DTYPES[dtype].itemsize * count
        data = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype=RAW_DTYPES[dtype])
    return Raw(dtype, data.reshape(shape))


@st.composite
def integers_of(draw, shape):
    largest = draw(st.sampled_from(MAGNITUDES))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    found = rng.integers(-largest, largest + 1, size=shape)
    if draw(st.booleans()):
        found = np.where(rng.random(shape) < 0.9, 0, found)  # mostly zeros
    return np.asarray(found).reshape(shape)


shapes = npst.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=6)


@st.composite
def coded(draw):
    """One scale, a scale for each row, and for each column; from the smallest subnormal bfloat16 to the largest finite one."""
    shape = draw(shapes)
    rows, cols = matrix_shape(shape)
    patterns = st.integers(1, 0x7F7F) | st.sampled_from([1, 0x80, 0x3F80, 0x7F7F])

    def scales(count):
        return np.array(draw(st.lists(patterns, min_size=count, max_size=count)), dtype=np.uint16)

    return Coded(draw(integers_of(shape)), scales(draw(st.sampled_from([1, rows]))), scales(cols) if draw(st.booleans()) else None)


@st.composite
def models(draw):
    """(model, its version): raw and coded tensors, perhaps one computed in steps from parts of any float dtype, perhaps with its columns sorted back."""
    tensors = draw(st.dictionaries(names, raw() | coded(), max_size=5))
    version = draw(st.integers(1, 3))
    if version > 1:
        shape = draw(shapes)
        (_, cols), size = matrix_shape(shape), int(np.prod(shape, dtype=np.int64))
        each = draw(st.integers(1, size + 2))
        floats = raw(dtypes=("F32", "F16", "BF16"), shape=(-(-size // each),))
        tensors |= {"=g.s": draw(floats), "=g.m": draw(floats), "=g.b": draw(raw(dtypes=("F16",), shape=(9,))), "=g.c": Raw("F32", np.array(draw(st.lists(st.integers(0, 3), min_size=cols, max_size=cols)), dtype=np.float32))}
        steps: tuple[Step, ...] = (Step("times", "=g.s", each), Step("plus", "=g.m", each))
        integers = draw(integers_of(shape))
        if draw(st.booleans()):
            steps, integers = (Step("book", "=g.b"), *steps), np.abs(integers) % 9
        tensors["g"] = Grouped(integers, (*steps, Step("columns", "=g.c")) if version == 3 else steps)
    return QuantizedModel({}, tensors), version


def same(found, tensor):
    if isinstance(tensor, Raw):
        assert found.dtype == tensor.dtype and found.shape == tensor.shape and found.data.tobytes() == tensor.data.tobytes()
        return
    assert found.shape == tensor.shape and np.array_equal(found.integers, tensor.integers)
    if isinstance(tensor, Grouped):
        assert found.steps == tensor.steps
        return
    rows, _ = matrix_shape(tensor.shape)
    assert np.array_equal(np.broadcast_to(found.row_scales, rows), np.broadcast_to(tensor.row_scales, rows))
    assert (found.col_scales is None) == (tensor.col_scales is None)
    assert found.col_scales is None or np.array_equal(found.col_scales, tensor.col_scales)


@settings(max_examples=100, deadline=None)
@given(models())
def test_every_bit_comes_back(drawn):
    """All versions, all dtypes, 0 to 4 dimensions, empty ones among them; and what is decoded encodes to the same bytes."""
    model, version = drawn
    package = encode(model)
    assert package[:4] == b"SBZ" + bytes([version])
    again = decode_model(package)
    assert set(again.tensors) == set(model.tensors)
    for name, tensor in model.tensors.items():
        same(again.tensors[name], tensor)
    assert encode(again) == package


@pytest.mark.parametrize("largest", [32767, 65535])
def test_wide_integers_come_back(largest):
    model = QuantizedModel({}, {"w": Coded(np.array([[largest, -largest, 0], [1, 2, -1]]), np.array([0x3F80, 1], dtype=np.uint16)), "v": Coded(np.array([-largest]), np.array([0x7F7F], dtype=np.uint16))})
    again = decode_model(encode(model))
    for name, tensor in model.tensors.items():
        same(again.tensors[name], tensor)


@settings(max_examples=60, deadline=None)
@given(models())
def test_the_checker_decodes_the_same_or_refuses_the_same(drawn):
    """Products that float32 cannot hold, sums that are not finite: both decoders say no; else the same bits."""
    model, _ = drawn
    package = encode(model)
    try:
        wanted = model.dequantized()
    except InputError:
        with pytest.raises(Refused):
            checker_decode(package, model.num_params)
        return
    _, found = checker_decode(package, model.num_params)
    assert set(found) == set(wanted)
    for name, data in wanted.items():
        assert found[name][1].shape == data.shape and found[name][1].tobytes() == data.tobytes(), name


def test_integers_that_no_table_holds_are_refused_when_they_are_written():
    """Alone each tensor spans little; both share the table of vectors, which holds 131,072 symbols. Controls: alone, and as near as may be."""
    scale = np.array([0x3F80], dtype=np.uint16)

    def written(*pairs):
        return decode_model(encode(QuantizedModel({}, {f"v{k}": Coded(np.array(pair), scale) for k, pair in enumerate(pairs)}))).tensors["v0"].integers.tolist()

    assert written((131071, 5)) == [131071, 5] and written((-60000, 0), (71071, 5)) == [-60000, 0]
    for apart in [(131071, 5), (-1, 5)], [(70000, 5), (-70000, 5)]:
        with pytest.raises(InputError, match="share a table"):
            written(*apart)
    with pytest.raises(InputError, match="magnitudes"):
        written((1 << 17, 5))


def files():
    rng = np.random.default_rng(0)
    scale = np.array([0x3F80], dtype=np.uint16)
    every = {dtype: Raw(dtype, np.array([[1, 0]], dtype=kind)) for dtype, kind in RAW_DTYPES.items()}
    plain = {"w": Coded(rng.integers(-3, 4, size=(5, 7)), np.array([0x3C00, 0x3D10, 0x3E20, 0x3F30, 0x4040], dtype=np.uint16)), "n": Coded(np.array(3), scale)}
    stepped = {"=w.s": Raw("F16", rng.normal(size=4).astype(np.float16)), "w": Grouped(rng.integers(0, 4, size=(2, 8)), (Step("book", "=w.s"),))}
    sorted_back = stepped | {"=w.c": Raw("F32", np.float32([0, 1] * 4)), "w": Grouped(stepped["w"].integers, (Step("book", "=w.s"), Step("columns", "=w.c")))}
    return {"raw": every, "coded": plain, "steps": stepped, "columns": sorted_back, "nothing": {}}


@pytest.mark.parametrize("what", files())
def test_no_other_byte_anywhere_and_no_cut(what):
    """All 255 other values of every byte, and every shorter or longer file; control: the file itself."""
    package = encode(QuantizedModel({"d": 2}, files()[what]))
    decode_model(package)
    for at in range(len(package)):
        for value in range(256):
            if value != package[at]:
                with pytest.raises(InputError):
                    decode_model(package[:at] + bytes([value]) + package[at + 1 :])
        with pytest.raises(InputError):
            decode_model(package[:at])
        with pytest.raises(InputError):
            decode_model(package[:at] + package[at + 1 :])
    for more in (b"\0", b"\1", package[-4:], package):
        with pytest.raises(InputError):
            decode_model(package + more)
