"""16-bit floats that a method left alone: entropy coded where that is shorter, bit for bit as they were."""

import numpy as np
import pytest

from scalebound.compress import Grouped, Raw, decode, encode
from scalebound.compress.foreign import assemble
from scalebound.compress.foreign.floats import number_floats, shortest
from scalebound.compress.model import tensors_sha256
from scalebound_verify.package import decode as checker_decode

F32 = np.float32


def to_bfloat16(values):
    """The nearest bfloat16 of every number, by a loop over patterns: ties to even."""
    out = []
    for value in values.astype(F32).reshape(-1):
        bits = int(value.view(np.uint32))
        down, rest = bits >> 16, bits & 0xFFFF
        up = rest > 0x8000 or (rest == 0x8000 and down & 1)
        out.append((down + up) << 16)
    return np.array(out, np.uint32).view(F32).reshape(values.shape)


def entropy_bits(values):
    counts = np.unique(values.view(np.uint32), return_counts=True)[1]
    return float(-counts @ np.log2(counts / counts.sum()))


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_embeddings_in_16_bits_take_their_entropy_and_come_back(kind):
    """Numbers of both signs, zeros of both signs, subnormals and the largest: by library and checker, as they were."""
    rng = np.random.default_rng(0)
    wide = (rng.normal(size=(512, 96)) * np.exp(rng.normal(size=96) * 0.3) * 0.02).astype(F32)
    embed = to_bfloat16(wide) if kind == "bfloat16" else (np.rint(wide * 2**11) / 2**11).astype(np.float16).astype(F32)
    small, large = (1e-40, 3e38) if kind == "bfloat16" else (6e-8, 65504.0)
    embed[0, :4] = to_bfloat16(F32([small, -small, large, -large])) if kind == "bfloat16" else np.float16([small, -small, large, -large])
    embed[1, :2] = 0.0, -0.0
    tensors = {"embed": embed, "norm": np.ones(96, F32), "wide": wide, "number": np.arange(6, dtype=np.int64)}
    model = assemble({"d": 96}, tensors)
    assert isinstance(model.tensors["embed"], Grouped) and isinstance(model.tensors["wide"], Raw), "what needs 32 bits keeps them"
    package = encode(model)
    config, found = decode(package)
    assert {name: value.tobytes() for name, value in found.items()} == {name: value.tobytes() for name, value in tensors.items()}
    checked = checker_decode(package, model.num_params)[1]
    assert all(checked[name][1].tobytes() == value.tobytes() for name, value in tensors.items())
    assert model.sha256() == tensors_sha256(config, tensors), "the identity of a model is that of its numbers, however they are stored"
    others = encode(assemble({"d": 96}, {name: value for name, value in tensors.items() if name != "embed"}))
    coded, distinct = 8 * (len(package) - len(others)), len(np.unique(embed.view(np.uint32)))
    assert entropy_bits(embed) * 0.9 < coded < entropy_bits(embed) * 1.01 + 24 * distinct + 1000 < 16 * embed.size


def test_what_would_grow_or_is_not_finite_stays_raw():
    rng = np.random.default_rng(1)
    once = np.arange(0x3C00, 0x4C00, dtype=np.uint16).view(np.float16).astype(F32).reshape(64, 64)  # every number once: nothing to gain
    mask = np.full((64, 64), -np.inf, F32)
    model = assemble({}, {"once": once, "mask": mask, "empty": np.zeros((0, 3), F32), "scalar": np.float32(2.0).reshape(()), "norm": rng.choice(F32([1, 2]), size=8)})
    assert {name: type(tensor).__name__ for name, tensor in model.tensors.items()} == {name: "Raw" for name in ("once", "mask", "empty", "scalar", "norm")}
    assert model.tensors["mask"].dtype == "F16" and decode(encode(model))[1]["mask"].tobytes() == mask.tobytes()


def test_lists_are_sorted_shared_and_as_short_as_their_numbers():
    numbers = np.tile(F32([2.0, -1.5, 0.0, -0.0]), 200)
    found = number_floats("x", {"a": numbers[:300].reshape(3, 100), "b": numbers[300:]})
    book = found["====x"]
    assert book.dtype == "F16" and book.data.tolist() == [-1.5, 0.0, -0.0, 2.0] and not np.signbit(book.data[1]) and np.signbit(book.data[2])
    assert found["a"].integers.shape == (3, 100) and found["a"].integers[0, :4].tolist() == [3, 0, 1, 2]
    fine, tiny = np.full(100, F32(1 + 2**-10)), np.full(100, F32(2**-100))  # of float16 alone, of bfloat16 alone
    mixed = number_floats("x", {"a": numbers, "b": fine, "c": tiny})
    entries = {"====x": mixed["====x"].dequantized()}
    assert mixed["====x"].dtype == "F32" and mixed["b"].dequantized(entries).tobytes() == fine.tobytes() and mixed["c"].dequantized(entries).tobytes() == tiny.tobytes()


def test_shortest_types():
    assert [shortest(F32([x])).dtype for x in (1.0, -0.0, 2.0**-24, 2.0**-100, 0.1, 65504.0, 65536.0, np.inf)] == ["F16", "F16", "F16", "BF16", "F32", "F16", "BF16", "F16"]
    assert shortest(np.array([True])).dtype == "BOOL" and shortest(np.arange(3, dtype=">i2")).dtype == "I16"
