"""Formats of other programs: packed by readable loops from their published layouts, dequantized by loops, and nothing of that may change."""

import dataclasses
import json
import zlib

import numpy as np
import pytest

from scalebound.compress import QuantizedModel, decode, encode
from scalebound.compress.dictionary import DICTIONARY
from scalebound.compress.foreign import KINDS, Blocks, assemble, keep_folder, unpack
from scalebound.compress.tables import read_varint
from scalebound.core.errors import InputError
from scalebound_verify.package import decode as checker_decode

F32 = np.float32


def through_a_package(config, tensors):
    """What library and checker decode of a package of these tensors; the two agree byte for byte."""
    model = assemble(config, tensors)
    package = encode(model)
    found_config, found = decode(package)
    _, checked = checker_decode(package, model.num_params)
    assert found_config == config and set(found) == set(checked) == set(tensors)
    for name, value in found.items():
        assert checked[name][1].tobytes() == value.tobytes(), name
    return found


IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]


# --- .gguf: one block as the C code of ggml reads it, element by element ---
def half(b, at):
    return F32(np.frombuffer(bytes(b[at : at + 2]), "<f2")[0])


def loop_block(kind, b):
    """The weights of one block, each operation in float32."""
    b = [int(x) for x in b]
    n = 32 if kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4") else 256
    y = np.zeros(n, F32)
    nibble = lambda at, j: b[at + j % 16] >> (4 * (j >= 16)) & 15  # noqa: E731
    bit = lambda at, j: b[at + j // 8] >> (j % 8) & 1  # noqa: E731
    if kind == "Q4_K" or kind == "Q5_K":
        d, dmin, s, q = half(b, 0), half(b, 2), b[4:16], 16 if kind == "Q4_K" else 48
        for j in range(n):
            k, at = j // 32, j % 32
            scale, least = (s[k] & 63, s[k + 4] & 63) if k < 4 else (s[k + 4] & 15 | s[k - 4] >> 6 << 4, s[k + 4] >> 4 | s[k] >> 6 << 4)
            value = b[q + 32 * (k // 2) + at] >> (4 * (k % 2)) & 15
            if kind == "Q5_K":
                value += 16 * (b[16 + at] >> k & 1)
            y[j] = d * F32(scale) * F32(value) - dmin * F32(least)
        return y
    for j in range(n):
        if kind == "Q4_0":
            y[j] = half(b, 0) * F32(nibble(2, j) - 8)
        elif kind == "Q4_1":
            y[j] = half(b, 0) * F32(nibble(4, j)) + half(b, 2)
        elif kind == "Q5_0":
            y[j] = half(b, 0) * F32(nibble(6, j) + 16 * bit(2, j) - 16)
        elif kind == "Q5_1":
            y[j] = half(b, 0) * F32(nibble(8, j) + 16 * bit(4, j)) + half(b, 2)
        elif kind == "Q8_0":
            y[j] = half(b, 0) * F32((b[2 + j] + 128) % 256 - 128)
        elif kind == "IQ4_NL":
            y[j] = half(b, 0) * F32(IQ4[nibble(2, j)])
        elif kind == "IQ4_XS":
            k = j // 32
            scale = (b[4 + k // 2] >> (4 * (k % 2)) & 15) + 16 * (int(b[2 + k // 4]) >> (2 * (k % 4)) & 3) - 32
            y[j] = half(b, 0) * F32(scale) * F32(IQ4[nibble(8 + 16 * k, j % 32)])
        elif kind == "MXFP4":
            y[j] = F32(np.ldexp(1.0, b[0] - 128)) * F32([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12][nibble(1, j)])
        elif kind == "TQ2_0":
            y[j] = half(b, 64) * F32((b[32 * (j // 128) + j % 32] >> (2 * (j % 128 // 32)) & 3) - 1)
        elif kind == "TQ1_0":
            at, digit = (j % 32, j // 32) if j < 160 else (32 + (j - 160) % 16, (j - 160) // 16) if j < 240 else (48 + (j - 240) % 4, (j - 240) // 4)
            y[j] = half(b, 52) * F32((b[at] * 3**digit % 256 * 3 >> 8) - 1)
        else:
            h, part, at = j // 128, j % 128 // 32, j % 32  # half, quarter of a half, byte
            two = b[{"Q2_K": 16, "Q3_K": 32, "Q6_K": 128}[kind] + 32 * h + at] >> (2 * part) & 3
            if kind == "Q2_K":
                s = b[j // 16]
                y[j] = half(b, 80) * F32(s & 15) * F32(two) - half(b, 82) * F32(s >> 4)
            elif kind == "Q3_K":
                k = j // 16
                scale = (b[96 + k % 8] >> (4 * (k // 8)) & 15) + 16 * (b[104 + k % 4] >> (2 * (k // 4)) & 3) - 32
                y[j] = half(b, 108) * F32(scale) * F32(two - 4 * (1 - (b[at] >> (4 * h + part) & 1)))
            else:
                low = b[64 * h + 32 * (part % 2) + at] >> (4 * (part // 2)) & 15
                y[j] = half(b, 208) * F32((b[192 + j // 16] + 128) % 256 - 128) * F32(low + 16 * two - 32)
    return y


HALVES = {"MXFP4": (), "TQ1_0": (52,), "TQ2_0": (64,), "IQ4_XS": (0,), "Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_0": (0,), "Q5_0": (0,), "Q8_0": (0,), "IQ4_NL": (0,)}


def random_blocks(kind, rows=5, blocks=2, seed=0):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, size=(rows, blocks, KINDS[kind][0]), dtype=np.uint8)
    for at in HALVES.get(kind, (0, 2)):
        scales = (rng.normal(size=(rows, blocks)) * 10.0 ** rng.integers(-6, 4, size=(rows, blocks))).astype("<f2")
        scales[0, 0], scales[-1, -1] = 0.0, -0.0
        data[..., at : at + 2] = scales[..., None].view(np.uint8)
    if kind == "MXFP4":
        data[..., 0] = rng.integers(90, 140, size=(rows, blocks))
        data[0, :, 0], data[-1, :, 0] = (0, 1), (2, 250)  # powers of two below and at the ends of the normal numbers
    return data


@pytest.mark.parametrize("kind", KINDS)
def test_gguf_blocks_decode_as_the_loops_and_as_the_gguf_package(kind):
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    data = random_blocks(kind)
    wanted = np.concatenate([np.concatenate([loop_block(kind, block) for block in row])[None] for row in data])
    flat = data.reshape(len(data), -1)
    assert GGML_QUANT_SIZES[GGMLQuantizationType[kind]] == (wanted.shape[1] // 2, KINDS[kind][0])
    assert dequantize(flat, GGMLQuantizationType[kind]).astype(F32).tobytes() == wanted.tobytes()
    found = through_a_package({}, {"w": unpack(kind, flat)})["w"]
    assert found.tobytes() == wanted.tobytes(), "signs of zeros included"
    other = data.copy()
    other[2, 1, 20 if kind in ("Q4_K", "Q5_K") else 40 if KINDS[kind][0] > 34 else 10] ^= 1  # a control: one bit of one integer
    assert unpack(kind, other.reshape(len(data), -1)).integers.tobytes() != unpack(kind, flat).integers.tobytes()


def test_unknown_types_and_rows_that_are_no_blocks_are_refused():
    with pytest.raises(InputError, match="IQ1_S"):
        unpack("IQ1_S", np.zeros((2, 50), np.uint8))
    with pytest.raises(InputError, match="no blocks of Q4_K"):
        unpack("Q4_K", np.zeros((2, 143), np.uint8))


def test_a_scale_that_is_not_finite_is_refused():
    data = random_blocks("Q4_0")
    data[1, 1, :2] = np.frombuffer(np.float16(np.inf).tobytes(), np.uint8)
    with pytest.raises(InputError, match="finite"):
        assemble({}, {"w": unpack("Q4_0", data.reshape(5, -1))}).dequantized()


# --- GPTQ and AWQ ---
def pack_column(q, bits):
    """Words of one column of integers; those of 3 bits case by case, as AutoGPTQ's ``qlinear`` writes three words of 32."""
    words = np.zeros(len(q) * bits // 32, np.uint32)
    if bits != 3:
        for i, value in enumerate(q):
            words[i * bits // 32] |= np.uint32(int(value) << i * bits % 32)
        return words
    for w in range(0, len(words), 3):
        v = [int(value) for value in q[32 * (w // 3) : 32 * (w // 3) + 32]]
        for j in range(10):
            words[w] |= np.uint32(v[j] << 3 * j)
        words[w] |= np.uint32(v[10] << 30 & 0xFFFFFFFF)
        words[w + 1] |= np.uint32(v[10] >> 2 & 1)
        for j in range(11, 21):
            words[w + 1] |= np.uint32(v[j] << 3 * (j - 11) + 1)
        words[w + 1] |= np.uint32(v[21] << 31 & 0xFFFFFFFF)
        words[w + 2] |= np.uint32(v[21] >> 1 & 3)
        for j in range(22, 32):
            words[w + 2] |= np.uint32(v[j] << 3 * (j - 22) + 2)
    return words


def gptq_map(rng, inputs, outputs, group, bits, minus=1, index=None):
    """(parts, weight): integers packed one by one, and dequantized one by one; ``index`` is the group of every input."""
    q = rng.integers(0, 2**bits, size=(inputs, outputs))
    zeros = rng.integers(0, 2**bits, size=(inputs // group, outputs))  # 0 is stored as the largest field: it wraps around
    scales = (rng.random((inputs // group, outputs)) * 0.02 + 1e-4).astype(np.float16)
    index = np.arange(inputs) // group if index is None else index
    weight = np.zeros((outputs, inputs), F32)
    for i in range(inputs):
        for o in range(outputs):
            weight[o, i] = F32(scales[index[i], o]) * F32(q[i, o] - zeros[index[i], o])
    words = np.stack([pack_column(q[:, o], bits) for o in range(outputs)], axis=1)
    packed = np.stack([pack_column((row - minus) % 2**bits, bits) for row in zeros])
    parts = {"qweight": words.view(np.int32), "qzeros": packed.view(np.int32), "scales": scales, "g_idx": index.astype(np.int32)}
    return parts, weight


def awq_map(rng, inputs, outputs, group):
    q, zeros = rng.integers(0, 16, size=(inputs, outputs)), rng.integers(0, 16, size=(inputs // group, outputs))
    scales = (rng.random((inputs // group, outputs)) * 0.02 + 1e-4).astype(np.float16)
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def pack(integers):
        words = np.zeros((len(integers), outputs // 8), np.uint32)
        for row in range(len(integers)):
            for word in range(outputs // 8):
                for place in range(8):
                    words[row, word] |= np.uint32(int(integers[row, 8 * word + order[place]]) << 4 * place)
        return words.view(np.int32)

    weight = np.array([[F32(scales[i // group, o]) * F32(q[i, o] - zeros[i // group, o]) for i in range(inputs)] for o in range(outputs)])
    return {"qweight": pack(q), "qzeros": pack(zeros), "scales": scales}, weight


def save_folder(path, settings, tensors, config=None):
    from safetensors.numpy import save_file

    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps((config or {"model_type": "toy"}) | {"quantization_config": settings}))
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path / "model.safetensors")
    return path


@pytest.mark.parametrize(("bits", "form", "group"), [(4, "gptq", 16), (8, "gptq", 32), (2, "gptq", 16), (4, "gptq_v2", 64), (3, "gptq", 32), (3, "gptq_v2", 16)])
def test_gptq_folders(tmp_path, bits, form, group, decoded_alike):
    rng = np.random.default_rng(bits)
    tensors, wanted = {"norm.weight": np.float32([1.0, 0.1])}, {"norm.weight": np.float32([1.0, 0.1])}
    for k in range(2):
        parts, wanted[f"h.{k}.fc.weight"] = gptq_map(rng, 64, 32, group, bits, minus=int(form == "gptq"))
        tensors |= {f"h.{k}.fc.{part}": value for part, value in parts.items()} | {f"h.{k}.fc.bias": np.zeros(32, np.float16)}
        wanted[f"h.{k}.fc.bias"] = np.zeros(32, F32)
    found, model = decoded_alike(save_folder(tmp_path / "m", {"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": form}, tensors))
    assert {name: value.tobytes() for name, value in found.items()} == {name: value.tobytes() for name, value in wanted.items()}
    assert model.config == {"model_type": "toy"} and model.num_params == 2 * (64 * 32 + 32) + 2


def test_gptq_columns_quantized_in_an_order_of_their_own(tmp_path, decoded_alike):
    """``desc_act``: a version 3 package, by library and checker; maps with the same inputs share one order; without it weights are others."""
    rng, tensors, wanted = np.random.default_rng(7), {}, {}
    for layer in range(3):
        order = rng.permutation(np.arange(96) // 16)
        for name in ("q", "k", "v"):
            parts, wanted[f"h.{layer}.{name}.weight"] = gptq_map(rng, 96, 32, 16, 4, index=order)
            tensors |= {f"h.{layer}.{name}.{part}": value for part, value in parts.items()}
    path = save_folder(tmp_path / "m", {"quant_method": "gptq", "bits": 4, "desc_act": True}, tensors)
    found, model = decoded_alike(path)
    assert {name: value.tobytes() for name, value in found.items()} == {name: value.tobytes() for name, value in wanted.items()}
    assert encode(model)[:4] == b"SBZ\x03" and sum(name.endswith(".g") for name in model.tensors) == 3
    entries = json.loads(inflated(encode(model)))["tensors"]
    assert sum("*" in name for name, *_ in entries) == len(entries) - 1, "one entry for all layers, but for the list of numbers"
    broken = dict(model.tensors)
    broken["h.0.q.weight"] = dataclasses.replace(broken["h.0.q.weight"], steps=broken["h.0.q.weight"].steps[:-1])
    assert QuantizedModel(model.config, broken).dequantized()["h.0.q.weight"].tobytes() != wanted["h.0.q.weight"].tobytes()


def inflated(package):
    """The header of a package."""
    meta = read_varint(package, read_varint(package, 4, "")[1], "")
    return zlib.decompressobj(-15, zdict=DICTIONARY).decompress(package[meta[1] : meta[1] + meta[0]]).partition(b"\0")[0]


def test_awq_folders(tmp_path, decoded_alike):
    parts, weight = awq_map(np.random.default_rng(0), 64, 24, 32)
    path = save_folder(tmp_path / "m", {"quant_method": "awq", "bits": 4, "version": "gemm"}, {f"fc.{part}": value for part, value in parts.items()})
    assert decoded_alike(path)[0]["fc.weight"].tobytes() == weight.tobytes()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda parts: parts.pop("qzeros"), "lacks fc.qzeros"),
        (lambda parts: parts.pop("scales"), "lacks fc.scales"),
        (lambda parts: parts.update(g_idx=np.maximum(parts["g_idx"], 1)), "does not give 4 groups 16 columns each"),
        (lambda parts: parts.update(g_idx=-parts["g_idx"]), "does not give 4 groups"),
        (lambda parts: parts.update(g_idx=parts["g_idx"][:-1]), "does not give 4 groups"),
        (lambda parts: parts.update(scales=parts["scales"][:-1]), "a scale for each output"),
        (lambda parts: parts.update(qweight=parts["qweight"].astype(np.int64)), "has qweight of type int64"),
    ],
)
def test_gptq_parts_that_do_not_fit_are_refused(tmp_path, change, match):
    parts, _ = gptq_map(np.random.default_rng(0), 64, 32, 16, 4)
    change(parts)
    path = save_folder(tmp_path / "m", {"quant_method": "gptq", "bits": 4}, {f"fc.{part}": value for part, value in parts.items()})
    with pytest.raises(InputError, match=match):
        keep_folder(path)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"quant_method": "gptq", "bits": 5}, "integers of 5 bits"), ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"), ({"quant_method": "hqq"}, "quantized by 'hqq'"), ({}, "quantized by None"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "packed for 'gemv'"), ({"quant_method": "bitsandbytes"}, "no quantized weight"),
    ],
)  # fmt: skip
def test_settings_that_are_not_known_are_refused(tmp_path, settings, match):
    parts, _ = gptq_map(np.random.default_rng(0), 64, 32, 16, 4)
    with pytest.raises(InputError, match=match):
        keep_folder(save_folder(tmp_path / "m", settings, {f"fc.{part}": value for part, value in parts.items()}))


def test_a_folder_that_is_not_quantized_is_refused(tmp_path):
    path = save_folder(tmp_path / "m", {}, {"w": np.zeros(2, F32)})
    (path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no quantization_config"):
        keep_folder(path)
    data = (path / "model.safetensors").read_bytes()
    (path / "config.json").write_text('{"quantization_config": {"quant_method": "awq", "bits": 4}}')
    (path / "model.safetensors").write_bytes(data[:-1])
    with pytest.raises(InputError):
        keep_folder(path)


# --- bitsandbytes ---
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
       0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]  # fmt: skip


def nf4_weight(rng, rows, cols, block=64, nested=0):
    """(tensors, weight) as bitsandbytes keeps one, dequantized by a loop."""
    q, book, size = rng.integers(0, 16, size=rows * cols), np.array(NF4, F32), rows * cols
    packed = np.array([q[k] << 4 | q[k + 1] for k in range(0, size, 2)], np.uint8).reshape(-1, 1)
    state = {"quant_type": "nf4", "blocksize": block, "dtype": "float32", "shape": [rows, cols]}
    tensors = {"": packed, ".quant_map": book}
    if nested:
        book2, a = np.sort(rng.uniform(-1, 1, 256)).astype(F32), rng.integers(0, 256, size=size // block).astype(np.uint8)
        outer, offset = rng.random(-(-len(a) // nested)).astype(F32), float(F32(rng.random()))
        state |= {"nested_blocksize": nested, "nested_dtype": "float32", "nested_offset": offset}
        absmax = np.array([F32(book2[a[k]] * outer[k // nested]) + F32(offset) for k in range(len(a))])
        tensors |= {".absmax": a, ".nested_absmax": outer, ".nested_quant_map": book2}
    else:
        absmax = rng.random(size // block).astype(F32)
        tensors |= {".absmax": absmax}
    weight = np.array([book[q[k]] * absmax[k // block] for k in range(size)], F32).reshape(rows, cols)
    return tensors | {".quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(state).encode(), np.uint8)}, weight


def test_bitsandbytes_folders(tmp_path, decoded_alike):
    """Plain and doubly quantized nf4 (blocks over the ends of rows, a last nested block that is shorter), and eight bits."""
    rng, tensors, wanted = np.random.default_rng(0), {}, {}
    for name, rows, cols, nested in (("h.0.a", 8, 64, 0), ("h.1.a", 8, 64, 0), ("b", 24, 80, 16), ("c", 32, 128, 256), ("long", 40, 96, 7)):
        parts, wanted[f"{name}.weight"] = nf4_weight(rng, rows, cols, nested=nested)
        tensors |= {f"{name}.weight{part}": value for part, value in parts.items()}
    q, most = rng.integers(-127, 128, size=(6, 10)).astype(np.int8), rng.random(6).astype(F32)
    tensors |= {"e.weight": q, "e.SCB": most, "e.weight_format": np.array(0, np.uint8), "embed.weight": np.float16([[1, 2]])}
    wanted |= {"embed.weight": F32([[1, 2]]), "e.weight": np.array([[F32(F32(x) * most[r]) * F32(0.007874015718698502) for x in q[r]] for r in range(6)])}
    found, _ = decoded_alike(save_folder(tmp_path / "m", {"quant_method": "bitsandbytes", "load_in_4bit": True}, tensors))
    assert {name: value.tobytes() for name, value in found.items()} == {name: value.tobytes() for name, value in wanted.items()}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop("w.weight.absmax"), "lacks w.weight.absmax"),
        (lambda t: t.pop("w.weight"), "lacks w.weight"),
        (lambda t: t.pop("w.weight.nested_quant_map"), "lacks w.weight.nested_quant_map"),
        (lambda t: t.pop("w.weight.quant_state.bitsandbytes__nf4"), "lacks w.weight.quant_state"),
        (lambda t: t.update({"w.weight": t["w.weight"][:-1]}), "two weights a byte"),
        (lambda t: t.update({"w.weight.absmax": t["w.weight.absmax"][:-1]}), "numbers in absmax"),
        (lambda t: t.update({"w.weight.quant_state.bitsandbytes__nf4": np.frombuffer(b"{", np.uint8)}), "JSON"),
        (lambda t: t.update({"w.weight.quant_state.bitsandbytes__nf4": np.frombuffer(b'{"quant_type": "fp4"}', np.uint8)}), "does not fit its name"),
        (lambda t: t.update({"w.weight.quant_state.bitsandbytes__nf4": np.frombuffer(b'{"quant_type": "nf4", "shape": [2, -1], "blocksize": 64}', np.uint8)}), "shape"),
    ],
)
def test_bitsandbytes_parts_that_do_not_fit_are_refused(tmp_path, change, match):
    tensors = {f"w.weight{part}": value for part, value in nf4_weight(np.random.default_rng(0), 24, 80, nested=16)[0].items()}
    change(tensors)
    with pytest.raises(InputError, match=match):
        keep_folder(save_folder(tmp_path / "m", {"quant_method": "bitsandbytes"}, tensors))


# --- what it is for ---
def test_integers_and_scales_are_entropy_coded():
    """Q4_0 of normal weights: below the 4.5 bits it came with, and no more than the entropies of its parts and one percent."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    rng = np.random.default_rng(0)
    tensors = {f"h.{k}.w": unpack("Q4_0", quantize((rng.normal(size=(512, 512)) * 0.02).astype(F32), GGMLQuantizationType.Q4_0)) for k in range(3)}

    def entropy(parts):
        counts = np.unique(np.concatenate([np.ravel(part) for part in parts]), return_counts=True)[1]
        return float(-counts @ np.log2(counts / counts.sum()))

    ideal = entropy([blocks.integers for blocks in tensors.values()]) + entropy([blocks.steps[0].values for blocks in tensors.values()])
    size, weights = 8 * len(encode(assemble({}, tensors))), 3 * 512 * 512
    assert size / weights < 4.3 and size < 1.02 * ideal


def test_books_are_shared_and_floats_that_do_not_repeat_stay_raw():
    rng = np.random.default_rng(0)
    book = rng.normal(size=16).astype(F32)
    from scalebound.compress.foreign.assemble import Scale

    def one(values):
        return Blocks(rng.integers(0, 16, size=(4, 8)), (Scale("times", values, 8, "d"),), book)

    few = assemble({}, {f"w{k}": one(rng.choice(np.float32([0.5, 1.5]), size=(4, 1))) for k in range(40)})
    assert sum(name.startswith("====") for name in few.tensors) == 2  # one codebook, one list of scales
    many = assemble({}, {f"w{k}": one(rng.normal(size=(4, 1)).astype(F32)) for k in range(3)})
    assert {type(many.tensors[f"=w{k}.d"]).__name__ for k in range(3)} == {"Raw"} and sum(name.startswith("====") for name in many.tensors) == 1
