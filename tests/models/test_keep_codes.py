"""Quantized models taken over whole: from the file to a package, a certificate and a folder, with the numbers of the file."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scalebound.cli.main import main
from scalebound.compress import load_package, save_package
from scalebound.core.errors import InputError
from scalebound.core.stats import Stats
from scalebound.data.tokenizer import load_tokenizer
from scalebound.measure import measure
from scalebound.models import keep_codes, load_model
from scalebound.models.gguf_file import GgufFile
from scalebound.models.gguf_llama import folder_config, folder_name, folder_pieces


def numbers_of_the_file(path):
    """What the ``gguf`` package makes of every tensor, under a folder's names and in its order."""
    file = GgufFile(path)
    config = folder_config(file)
    return {folder_name(name): np.concatenate(list(folder_pieces(file, config, name))) for name in file.tensors}


def write_stream(path, tokens):
    path.with_suffix(".bin").write_bytes(tokens.astype("<u2").tobytes())
    info = {"schema": "scalebound.stream/1", "tokenizer": {"kind": "byte", "sha256": load_tokenizer("byte").sha256, "path": ""}, "vocab_size": 128, "separator": 3,
            "dtype": "uint16", "num_tokens": len(tokens), "sequence_tokens": 32, "seed": None, "documents": [0], "num_documents": 1,
            "text_bytes": len(tokens), "split": "train", "source": {"name": "drawn", "sha256": "1" * 64},
            "bin_sha256": hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest(), "version": "0"}  # fmt: skip
    path.write_text(json.dumps(info))


def run(capsys, *arguments):
    status = main([*map(str, arguments), "--json"])
    out = capsys.readouterr().out
    return status, json.loads(out) if out else {}


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("llama", True), ("qwen2", True)])
def test_a_package_of_a_gguf_file_is_that_model(tmp_path, kind, tied, write_gguf):
    """Q8_0, F16 and F32 tensors, rows of queries and keys reordered: every number as it was, so the same logits."""
    path = write_gguf(tmp_path / "m.gguf", kind=kind, tied=tied)
    kept = keep_codes(path)
    save_package(tmp_path / "m.sbz", kept)
    found, wanted = load_package(tmp_path / "m.sbz").dequantized(), numbers_of_the_file(path)
    assert {name: value.tobytes() for name, value in found.items()} == {name: value.astype(np.float32).tobytes() for name, value in wanted.items()}
    source, package = load_model(path, dtype="float32"), load_model(tmp_path / "m.sbz")
    tokens = torch.randint(0, 128, (2, 40), generator=torch.Generator().manual_seed(0))
    assert torch.equal(source.logits(tokens), package.logits(tokens)) and package.sha256 == kept.sha256()
    assert (package.num_params, package.first_token, package.max_context) == (source.num_params, source.first_token, source.max_context)
    assert (tmp_path / "m.sbz").stat().st_size < path.stat().st_size


def test_the_whole_way(tmp_path, capsys, monkeypatch, write_gguf):
    """compress --keep-codes, measure, certify, verify and export; losses are those of the file, bit for bit."""
    monkeypatch.chdir(tmp_path)
    source = write_gguf(tmp_path / "m.gguf", tied=True)
    write_stream(tmp_path / "s.json", np.random.default_rng(0).integers(0, 128, size=1000))
    status, record = run(capsys, "compress", "m.gguf", "--keep-codes", "--out", "m.sbz")
    assert status == 0 and record["source_bytes"] == source.stat().st_size > record["file_bytes"] == Path("m.sbz").stat().st_size
    assert record["model_sha256"] == load_package("m.sbz").sha256()
    assert run(capsys, "measure", "m.sbz", "s.json", "--context", "32", "--out", "package.safetensors")[0] == 0
    original = dataclasses.replace(load_model("m.gguf", dtype="float32"), tokenizer="byte")  # the file's own are words nobody can split
    measure(original, "s.json", "source.safetensors", context=32)
    source_stats, stats = Stats.load("source.safetensors"), Stats.load("package.safetensors")
    for name in ("nll", "entropy", "varentropy"):
        assert stats.read(name).tobytes() == source_stats.read(name).tobytes()
    assert run(capsys, "certify", "package.safetensors", "--package", "m.sbz", "--out", "c.json")[0] == 0
    status, found = run(capsys, "verify", "c.json")
    assert status == 0 and found["holds"]
    status, exported = run(capsys, "export", "m.sbz", "--out", "folder")
    assert status == 0 and exported["model_sha256"] == record["model_sha256"] == load_model(tmp_path / "folder", dtype="float32").sha256


def pack_words(fields, bits):
    """(rows, n) integers -> 32-bit words along the last axis, lowest bits first."""
    words = fields.astype(np.uint32).reshape(len(fields), -1, 32 // bits) << np.arange(0, 32, bits, dtype=np.uint32)
    return np.bitwise_or.reduce(words, axis=2).view(np.int32)


def test_a_gptq_folder_is_the_model_of_its_package(tmp_path, capsys, write_gguf):
    """Without the library that wrote it: loaded, kept and exported it is one model; `compress` without --keep-codes rounds its weights."""
    from safetensors.numpy import save_file

    plain = keep_codes(write_gguf(tmp_path / "m.gguf", tied=True))
    rng, tensors, weights = np.random.default_rng(0), {}, {}
    for name, value in plain.dequantized().items():
        if "_proj" not in name:
            tensors[name] = value
            continue
        (rows, cols), base = value.shape, name.removesuffix(".weight")
        q, zeros, scales = rng.integers(0, 16, size=(rows, cols)), rng.integers(1, 16, size=(rows, cols // 32)), (0.02 * rng.random((rows, cols // 32)) + 0.01).astype(np.float16)
        tensors |= {f"{base}.qweight": pack_words(q, 4).T, f"{base}.qzeros": pack_words(zeros.T - 1, 4), f"{base}.scales": scales.T}
        weights[name] = (q - np.repeat(zeros, 32, axis=1)).astype(np.float32) * np.repeat(scales, 32, axis=1).astype(np.float32)
    folder = tmp_path / "gptq"
    folder.mkdir()
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(plain.config | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}}))
    status, record = run(capsys, "compress", folder, "--keep-codes", "--out", tmp_path / "m.sbz")
    assert status == 0 and record["bits_per_parameter"] < record["source_bits_per_parameter"]
    found = load_package(tmp_path / "m.sbz").dequantized()
    assert weights and all(found[name].tobytes() == value.tobytes() for name, value in weights.items())
    source, package = load_model(folder, dtype="float32"), load_model(tmp_path / "m.sbz")
    tokens = torch.arange(40)[None]
    assert source.sha256 == package.sha256 == record["model_sha256"] and torch.equal(source.logits(tokens), package.logits(tokens))
    status, record = run(capsys, "compress", folder, "--bits", "4", "--out", tmp_path / "rounded.sbz")
    assert status == 0 and load_model(tmp_path / "rounded.sbz").num_params == package.num_params
    (folder / "config.json").write_text(json.dumps(plain.config | {"quantization_config": {"quant_method": "gptq", "bits": 5}}))
    with pytest.raises(InputError, match="5 bits"):
        load_model(folder)


def test_another_scale_is_another_model(tmp_path, write_gguf):
    """The control of the tests above: one bit of one scale."""
    model = keep_codes(write_gguf(tmp_path / "m.gguf"))
    before = model.sha256()
    model.tensors["=model.layers.1.mlp.up_proj.weight.d"].data.view(np.uint16)[5, 0] ^= 1
    assert model.sha256() != before


@pytest.mark.parametrize(
    ("options", "match"), [({"quantize": False}, "no quantized tensor"), ({"extra": [("llama.rope.scaling.factor", 4.0)]}, "not known")]
)
def test_files_that_cannot_be_kept_are_refused(tmp_path, options, match, write_gguf):
    with pytest.raises(InputError, match=match):
        keep_codes(write_gguf(tmp_path / "m.gguf", **options))


def test_a_file_of_an_unknown_type_or_cut_short_is_refused(tmp_path, monkeypatch, write_gguf):
    path = write_gguf(tmp_path / "m.gguf")
    with monkeypatch.context() as patch:
        patch.setattr(GgufFile, "kind", lambda self, name: "IQ1_S" if name == "blk.1.ffn_up.weight" else "Q8_0" if self.tensors[name].kind == 8 else "F32")
        with pytest.raises(InputError, match=r"blk\.1\.ffn_up\.weight: type IQ1_S"):
            keep_codes(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="beyond its end"):
        keep_codes(path)


def test_what_is_no_quantized_model_is_refused(tmp_path, write_gguf):
    save_package(tmp_path / "m.sbz", keep_codes(write_gguf(tmp_path / "m.gguf")))
    for path, match in (("m.sbz", "is a package already"), ("none.gguf", "no such file"), ("none", "no such file")):
        with pytest.raises(InputError, match=match):
            keep_codes(tmp_path / path)


@pytest.mark.parametrize("more", [["--bits", "4"], ["--stream", "x"], ["--quantizer", "gptq"], ["--finetune"], ["--seed", "1"]])
def test_keep_codes_takes_no_other_setting(tmp_path, capsys, more, write_gguf):
    status, record = run(capsys, "compress", write_gguf(tmp_path / "m.gguf"), "--keep-codes", *more, "--out", tmp_path / "m.sbz")
    assert status == 2 and "--keep-codes" in record["error"]["what"] and not (tmp_path / "m.sbz").exists()


@pytest.mark.nightly
@pytest.mark.smollm2
def test_a_real_file_keeps_every_number_and_loses_a_bit_a_parameter(tmp_path, real_model):
    path = real_model()
    parts = save_package(tmp_path / "m.sbz", keep_codes(path))
    found, wanted = load_package(tmp_path / "m.sbz").dequantized(), numbers_of_the_file(path)
    assert set(found) == set(wanted) and all(found[name].tobytes() == value.tobytes() for name, value in wanted.items())
    assert parts.file_bytes < 0.87 * path.stat().st_size
