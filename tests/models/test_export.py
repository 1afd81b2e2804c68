"""``scalebound export``: the folder is the package's model, to the bit and in transformers; what is refused."""

import json

import numpy as np
import pytest
import torch

from scalebound.cli import main
from scalebound.compress import load_package, quantize, save_package
from scalebound.models import Shape, Transformer, load_model
from scalebound.models.export import export_package

SHAPE = Shape(256, 32, 2, 4, 64)


def package(path, shape=SHAPE, config=None):
    model = Transformer(shape, 64, torch.Generator().manual_seed(0))
    tensors = {name: tensor.contiguous().numpy() for name, tensor in model.tensors().items()}
    save_package(path, quantize(config or shape.config(64), tensors, step=0.5))
    return path


def run(capsys, *arguments):
    status = main(["export", *map(str, arguments), "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_the_folder_is_the_package(tmp_path, capsys):
    status, record = run(capsys, package(tmp_path / "m.sbz"), "--out", tmp_path / "hf")
    model = load_package(tmp_path / "m.sbz")
    assert status == 0 and record["model_sha256"] == model.sha256() == load_model(tmp_path / "hf").sha256 and record["tokenizer"] == "byte"
    assert record["params"] == model.num_params and record["bytes"] == (tmp_path / "hf/model.safetensors").stat().st_size
    # control: another package is another model
    assert export_package(package(tmp_path / "o.sbz", Shape(256, 32, 2, 4, 68)), tmp_path / "other").sha256 != record["model_sha256"]


def test_transformers_computes_the_same(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export_package(package(tmp_path / "m.sbz"), tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 40)))
    with torch.no_grad():
        assert torch.allclose(theirs(tokens).logits, load_model(tmp_path / "m.sbz").logits(tokens), atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "hf")("héllo").input_ids == list("héllo".encode())


def test_a_tokenizer_is_copied(tmp_path, capsys):
    shape = Shape(300, 32, 1, 4, 64)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/tokenizer.json").write_text('{"model": {}}')
    (tmp_path / "theirs/tokenizer_config.json").write_text("{}")
    path = package(tmp_path / "m.sbz", shape)
    status, record = run(capsys, path, "--tokenizer", tmp_path / "theirs", "--out", tmp_path / "a")
    assert status == 0 and (tmp_path / "a/tokenizer.json").read_text() == '{"model": {}}' and (tmp_path / "a/tokenizer_config.json").is_file()
    status, record = run(capsys, path, "--out", tmp_path / "b")
    assert status == 0 and record["tokenizer"] == "" and not (tmp_path / "b/tokenizer.json").exists()


@pytest.mark.parametrize(("case", "status"), [("full", 2), ("bytes", 2), ("no tokenizer", 3), ("no package", 3), ("damaged", 3)])
def test_refusals(tmp_path, capsys, case, status):
    path = package(tmp_path / "m.sbz", Shape(300, 32, 1, 4, 64) if case == "no tokenizer" else SHAPE)
    out, arguments = tmp_path / "hf", []
    if case == "full":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    elif case == "no package":
        path.unlink()
    elif case == "damaged":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        arguments = ["--tokenizer", str(tmp_path)]
    found, record = run(capsys, path, "--out", out, *arguments)
    assert found == status == record["status"] and record["error"]["what"]
    assert not (out / "config.json").exists(), "what is refused leaves no model behind"
