"""Devices: what is chosen, what is prepared; what of the CUDA path can be seen without one, and the same numbers where there is one."""

import json
import os

import numpy as np
import pytest
import torch

from scalebound.cli.main import main
from scalebound.core.errors import UsageError
from scalebound.core.io import load_struct
from scalebound.measure import measure
from scalebound.measure.plan import Plan
from scalebound.models.device import choose_device, moved, prepare_device
from scalebound.models.llama_load import llama_of_folder


@pytest.fixture(scope="module")
def files(tmp_path_factory, stream_of_lines):
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("device")
    stream = stream_of_lines(folder, 40)
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", vocab_size=256, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, max_position_embeddings=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    return folder, stream


def test_what_is_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("cpu") == choose_device("auto") == "cpu"
    with pytest.raises(UsageError, match="finds no CUDA device"):
        choose_device("cuda")
    with pytest.raises(UsageError, match="one of auto, cpu, cuda"):
        choose_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == "cuda" and choose_device("cpu") == "cpu"


def test_processes_take_devices_in_turn(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    flags, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    monkeypatch.setitem(os.environ, "CUBLAS_WORKSPACE_CONFIG", ":16:8")
    for process in range(3):
        prepare_device("cuda", process)
    prepare_device("cpu", 1)
    assert not flags.allow_bf16_reduced_precision_reduction and not flags.allow_tf32
    flags.allow_bf16_reduced_precision_reduction = before
    assert taken == [0, 1, 0] and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8", "what the user has set stays"
    tensor = torch.arange(3)
    assert moved(tensor, "cpu") is tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_of_a_forward_pass_needs_the_processor(files, monkeypatch, dtype):
    """On "meta", which has shapes and no numbers: every array stays on the model's device, attention is the fused kernel with its causal flag."""
    folder, _ = files
    config = json.loads((folder / "model" / "config.json").read_text())
    model = llama_of_folder(folder / "model", config, dtype=dtype, device="meta", tokenizer="byte")
    fused, asked = torch.nn.functional.scaled_dot_product_attention, []
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: asked.append(k) or fused(*a, **k))
    hidden = model.hidden(torch.zeros(3, 20, dtype=torch.int64, device="meta"))
    assert hidden.device.type == "meta" and hidden.shape == (3, 20, 32) and hidden.dtype == dtype
    assert [z.shape for _, z in model.logits_in(hidden, 200)] == [(3, 20, 200), (3, 20, 56)]
    assert len(asked) == 2 and all(k["is_causal"] and k["enable_gqa"] for k in asked)
    with pytest.raises(RuntimeError):  # a tensor left on the processor would be noticed
        model.hidden.__self__.norm = torch.ones(32, dtype=dtype)
        model.hidden(torch.zeros(1, 4, dtype=torch.int64, device="meta"))


def test_the_command_and_the_plan(files, tmp_path, monkeypatch, capsys):
    folder, stream = files
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ["measure", str(folder / "model"), str(stream.path), "--out", str(tmp_path / "s.safetensors"), "--threads", "1"]
    assert main([*arguments, "--device", "cuda"]) == 2
    assert "finds no CUDA device" in capsys.readouterr().err and not list(tmp_path.iterdir())

    class Killed(Exception):
        pass

    def stop(done, total):
        raise Killed

    with pytest.raises(Killed):
        measure(folder / "model", stream.path, tmp_path / "s.safetensors", progress=stop)
    assert load_struct(tmp_path / "s.safetensors.parts" / "plan.json", Plan).device == "cpu"
    assert main([*arguments, "--device", "auto", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["device"] == "cpu"


@pytest.mark.cuda
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-4), ("bfloat16", 0.1)])
def test_the_numbers_of_a_cuda_device(files, tmp_path, dtype, tolerance):
    """Those of the processor within rounding, and the same bytes twice."""
    folder, stream = files
    right = measure(folder / "model", stream.path, tmp_path / "right.safetensors", dtype="float32")
    once, twice = (measure(folder / "model", stream.path, tmp_path / f"{k}.safetensors", dtype=dtype, device="cuda") for k in range(2))
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes() and len(twice) == len(right)
    for name in ("nll", "entropy", "varentropy"):
        np.testing.assert_allclose(once.read(name), right.read(name), atol=tolerance, err_msg=name)
