"""One model over two processes, as torchrun starts them: the numbers of one process, one file, one answer on stdout."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from scalebound.core.errors import UsageError
from scalebound.measure import measure
from scalebound.models import load_model
from scalebound.models.llama_load import llama_of_folder
from scalebound.models.ranks import Ranks


@pytest.fixture(scope="module")
def files(tmp_path_factory, stream_of_lines):
    """A Qwen2 (biases, grouped keys) of four heads on two key heads, and a stream."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("ranks")
    stream = stream_of_lines(folder, 20)
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen2", vocab_size=256, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, max_position_embeddings=64)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
        model.get_output_embeddings().weight.mul_(20.0)
    model.save_pretrained(folder / "model")
    return folder, stream


def test_two_processes_give_the_numbers_of_one(files, tmp_path):
    folder, stream = files
    right = measure(folder / "model", stream.path, tmp_path / "one.safetensors")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(20_000 + os.getpid() % 20_000), "-m", "scalebound", "measure"]
    done = subprocess.run([*command, str(folder / "model"), str(stream.path), "--out", str(tmp_path / "two.safetensors"), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 1 and json.loads(lines[0])["tokens"] == len(stream), "only the first process speaks"
    from scalebound.core.stats import Stats

    found = Stats.load(tmp_path / "two.safetensors")
    assert found.info == right.info and not (tmp_path / "two.safetensors.parts").exists()
    for name in ("nll", "entropy", "varentropy"):
        np.testing.assert_allclose(found.read(name), right.read(name), atol=2e-5, err_msg=name)


def test_each_process_holds_its_share(files, monkeypatch):
    """The shares of two processes side by side are the matrices of one; a process that is not there would be missed."""
    folder, _ = files
    monkeypatch.setattr("scalebound.models.llama.Llama.settle", lambda self: None)  # packed matrices have no rows to look at
    config = json.loads((folder / "model" / "config.json").read_text())
    whole, *halves = (llama_of_folder(folder / "model", config, dtype=torch.float32, device="cpu", tokenizer="byte", ranks=ranks).hidden.__self__ for ranks in (Ranks(), Ranks(0, 2), Ranks(1, 2)))
    assert len(whole.slots) > 20
    for name, slot in whole.slots.items():
        views = [half.slots[name].view for half in halves]
        if views[0].shape == slot.view.shape:
            assert torch.equal(views[0], slot.view) and torch.equal(views[1], slot.view)
        else:
            assert torch.equal(torch.cat(views, dim=0 if views[0].shape[0] != slot.view.shape[0] else 1), slot.view), name
    count = [sum(slot.view.numel() for name, slot in model.slots.items() if ".layers." in name and "norm" not in name and "o_proj.bias" not in name) for model in (whole, halves[0])]
    assert count[1] * 2 == count[0]


@pytest.mark.parametrize("ranks, what", [(Ranks(0, 3), "3 processes cannot share 4 heads"), (Ranks(1, 4), "cannot share")])
def test_numbers_of_processes_that_do_not_divide_the_heads_are_refused(files, ranks, what):
    with pytest.raises(UsageError, match=what):
        load_model(files[0] / "model", ranks=ranks)


def test_what_cannot_be_shared_is_refused(files, tmp_path):
    folder, stream = files
    with pytest.raises(UsageError, match="cannot share the text"):
        measure(folder / "model", stream.path, tmp_path / "s", ranks=Ranks(0, 2), workers=2)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UsageError, match="no model that 2 processes can share"):
        load_model(tmp_path / "other", ranks=Ranks(0, 2))


CALIBRATED = """
import sys
from scalebound.measure import measure, shapes
from scalebound.models.ranks import join_ranks
shapes.SHARE, shapes.BATCHES, shapes.TILES = 1e4, (), ((128, 4096), (96, 4096))
ranks = join_ranks()
measure(*sys.argv[1:], ranks=ranks, calibrated=True)
"""


@pytest.mark.nightly
def test_two_processes_agree_on_a_calibrated_plan(files, tmp_path):
    """Each has its own clock; what decides is the mean of both, so that they try and choose the same (else they would wait for each other forever)."""
    from scalebound.core.io import load_struct
    from scalebound.core.stats import Stats
    from scalebound.measure.plan import Plan

    folder, stream = files
    right = measure(folder / "model", stream.path, tmp_path / "one.safetensors")
    (tmp_path / "calibrated.py").write_text(CALIBRATED)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(20_000 + os.getpid() % 20_000), str(tmp_path / "calibrated.py")]
    subprocess.run([*command, str(folder / "model"), str(stream.path), str(tmp_path / "two.safetensors")], check=True, timeout=300)
    plan = load_struct(tmp_path / "two.plan.json", Plan)
    assert plan.ranks == 2 and [trial.shapes.rows for trial in plan.trials] == [1024, 128, 96]
    np.testing.assert_allclose(Stats.load(tmp_path / "two.safetensors").read("nll"), right.read("nll"), atol=2e-5)
