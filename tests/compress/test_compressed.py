"""Folders of compressed-tensors and floats of 8 bits: as the library that wrote them dequantizes them, and by loops from the published layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from scalebound.compress import read_checkpoint
from scalebound.compress.checkpoint import read_safetensors
from scalebound.compress.foreign.compressed import float8, unpack_compressed
from scalebound.compress.foreign.words import fields
from scalebound.core.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden" / "compressed-tensors"
F32 = np.float32


def write_safetensors(path, tensors):
    """name -> (dtype as safetensors writes it, array): float8 has no numpy dtype."""
    header, blob = {}, b""
    for name, (dtype, value) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [len(blob), len(blob) + value.nbytes]}
        blob += value.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + blob)


def save_folder(path, settings, tensors):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "toy"} | ({"quantization_config": settings} if settings else {})))
    write_safetensors(path / "model.safetensors", tensors)
    return path


def test_a_folder_of_the_library_decodes_to_what_the_library_makes_of_it(decoded_alike):
    """Packed integers of 2, 3, 4 and 8 bits, with and without zeros, plain ones, floats of 8 bits with scales of matrix, rows and blocks."""
    found, wanted = decoded_alike(GOLDEN)[0], load_file(GOLDEN / "expected.safetensors")
    assert {name: value.tobytes() for name, value in found.items()} == {name: value.tobytes() for name, value in wanted.items()}
    assert read_checkpoint(GOLDEN)[1].keys() == wanted.keys()


def test_another_integer_is_another_weight(tmp_path, decoded_alike):
    """The control of the test above: one bit of one packed word."""
    stored = {name: ("F8_E4M3" if value.dtype.names else {"float32": "F32", "int32": "I32", "int64": "I64", "int8": "I8"}[value.dtype.name], value.copy()) for name, value in read_safetensors(GOLDEN / "model.safetensors").items()}
    stored["h.three_zeros.weight_packed"][1].view(np.uint32)[5, 2] ^= 1 << 31
    settings = json.loads((GOLDEN / "config.json").read_text())["quantization_config"]
    found, wanted = decoded_alike(save_folder(tmp_path / "m", settings, stored))[0], load_file(GOLDEN / "expected.safetensors")
    assert [name for name in wanted if found[name].tobytes() != wanted[name].tobytes()] == ["h.three_zeros.weight"]
    assert np.argwhere(found["h.three_zeros.weight"] != wanted["h.three_zeros.weight"]).tolist() == [[5, 31]]


@pytest.mark.parametrize("bits", range(1, 9))
def test_packed_fields_are_the_bits_in_order(bits):
    words = np.random.default_rng(bits).integers(0, 2**32, size=(3, 8), dtype=np.uint32)
    found = fields(words, bits)
    for row, values in zip(words, found, strict=True):
        number = sum(int(word) << 32 * k for k, word in enumerate(row))
        assert values.tolist() == [number >> k * bits & (1 << bits) - 1 for k in range(256 // bits)]


def test_groups_of_columns_that_are_no_neighbours():
    """``weight_g_idx`` (activation order), with zeros of each group."""
    rng = np.random.default_rng(0)
    codes, zeros, scales, index = rng.integers(-128, 128, size=(6, 24)).astype(np.int8), rng.integers(-20, 20, size=(6, 3)).astype(np.int8), rng.random((6, 3)).astype(F32), rng.permutation(np.arange(24) % 3)
    blocks = unpack_compressed("m", {"weight": codes, "weight_zero_point": zeros, "weight_scale": scales, "weight_g_idx": index.astype(np.int32)})
    from scalebound.compress.foreign import assemble

    wanted = np.array([[F32(int(codes[o, i]) - int(zeros[o, index[i]])) * scales[o, index[i]] for i in range(24)] for o in range(6)])
    assert assemble({}, {"w": blocks}).dequantized()["w"].tobytes() == wanted.tobytes()
    unused = unpack_compressed("m", {"weight": codes, "weight_scale": scales, "weight_g_idx": np.full(24, -1)})
    assert unused.keys is None and np.array_equal(unused.integers, codes)


def test_float8_patterns():
    """Sign, four bits of exponent, three of mantissa, by arithmetic on fractions; two patterns are no numbers."""
    from fractions import Fraction

    for pattern, value in enumerate(float8()):
        exponent, mantissa = pattern >> 3 & 15, pattern & 7
        wanted = (Fraction(mantissa, 8) * Fraction(1, 64) if not exponent else (1 + Fraction(mantissa, 8)) * Fraction(2) ** (exponent - 7)) * (-1 if pattern > 127 else 1)
        assert np.isnan(value) if pattern & 127 == 127 else Fraction(float(value)) == wanted and np.signbit(value) == (pattern > 127)


@pytest.mark.parametrize("blocks", [(8, 16), (7, 16)])
def test_fp8_folders_with_blocks(tmp_path, blocks, decoded_alike):
    """``weight_scale_inv`` for every block, the last rows of one being fewer."""
    rng = np.random.default_rng(1)
    patterns = rng.integers(0, 256, size=(20, 48)).astype(np.uint8)
    patterns[patterns & 127 == 127] = 0x80
    scales = rng.random((-(-20 // blocks[0]), 3)).astype(F32)
    wanted = np.array([[float8()[patterns[o, i]] * scales[o // blocks[0], i // blocks[1]] for i in range(48)] for o in range(20)])
    path = save_folder(tmp_path / "m", {"quant_method": "fp8", "weight_block_size": list(blocks)}, {"a.weight": ("F8_E4M3", patterns), "a.weight_scale_inv": ("F32", scales), "a.input_scale": ("F32", scales[0])})
    found = decoded_alike(path)[0]
    assert set(found) == {"a.weight"} and found["a.weight"].tobytes() == wanted.tobytes()
    assert read_checkpoint(path)[1]["a.weight"].tobytes() == wanted.tobytes()


PACKED = {"a.weight_packed": ("I32", np.zeros((4, 8), np.int32)), "a.weight_scale": ("F32", np.ones((4, 2), F32)), "a.weight_shape": ("I64", np.array([4, 64]))}
FLOAT8 = {"a.weight": ("F8_E4M3", np.zeros((4, 8), np.uint8)), "a.weight_scale": ("F32", np.ones((4, 1), F32))}


@pytest.mark.parametrize(
    ("settings", "tensors", "match"),
    [
        ({"format": "marlin-24"}, PACKED, "format 'marlin-24'"),
        ({"config_groups": {"a": {"format": "nvfp4-pack-quantized"}}}, PACKED, "nvfp4"),
        ({"config_groups": {k: {"weights": {"block_structure": [k, 8]}} for k in (2, 4)}}, PACKED, "blocks of several shapes"),
        ({}, PACKED | {"a.weight_packed": ("I32", np.zeros((4, 7), np.int32))}, "integers of 1 to 8 bits without gaps"),
        ({}, PACKED | {"a.weight_packed": ("I32", np.zeros((4, 1), np.int32)), "a.weight_shape": ("I64", np.array([4, 8]))}, "without gaps"),  # 1 to 4 bits would fit
        ({}, {name: value for name, value in PACKED.items() if "shape" not in name}, "for a weight of shape"),
        ({}, PACKED | {"a.weight_scale": ("F32", np.ones((4, 3), F32))}, "scales or zeros of shape"),
        ({}, PACKED | {"a.weight_scale": ("I32", np.ones((4, 2), np.int32))}, "weight_scale of floats"),
        ({}, PACKED | {"a.weight_zero_point": ("I32", np.zeros((2, 2), np.int32))}, "weight_zero_point"),
        ({}, {"a.weight_scale": PACKED["a.weight_scale"]}, "lacks a.weight"),
        ({}, {"a.weight": ("F32", np.ones((4, 8), F32)), "a.weight_scale": ("F32", np.ones((4, 1), F32))}, "a matrix of int8 or float8"),
        ({}, FLOAT8 | {"a.weight": ("F8_E4M3", np.full((4, 8), 0x7F, np.uint8))}, "no number"),
        ({}, FLOAT8 | {"b.weight": ("F8_E4M3", np.zeros((4, 8), np.uint8))}, "without scales"),
        ({}, FLOAT8 | {"a.weight_zero_point": ("I8", np.ones((4, 1), np.int8))}, "with a zero point"),
        (None, FLOAT8, "does not say with which scales"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, settings, tensors, match):
    path = save_folder(tmp_path / "m", None if settings is None else {"quant_method": "compressed-tensors"} | settings, tensors)
    with pytest.raises(InputError) as found:
        read_checkpoint(path)
    assert match in f"{found.value.what} {found.value.expected}"
