"""Every command: help with examples, one JSON object on stdout, exit statuses, one clear line for bad input."""

import importlib.metadata
import json
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest

from scalebound.cli import main
from scalebound.cli.main import COMMANDS


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples(capsys, command):
    status, out, err = run(capsys, command, "--help")
    assert status == 0 and not err
    assert out.count(f"scalebound {command} ") >= 2 and "Examples" in out and "next:" in out and "Exit status" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_can_be_copied_from_a_narrow_terminal(capsys, monkeypatch, command):
    """Every example is one line, or lines that a shell joins; nothing else is broken by the terminal's width."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = run(capsys, command, "--help")[1].partition("Examples:\n")[2].partition("\nnext:")[0]
    assert max(map(len, shown.splitlines())) <= 80
    examples = [shlex.split(line) for line in shown.replace("\\\n", " ").splitlines() if line.strip()]
    assert len(examples) >= 2 and all(words[:2] == ["scalebound", command] or words[0] not in ("scalebound", "--") for words in examples)
    assert not any(words[0].startswith("-") for words in examples), "control: the continuation of a broken line"


def test_help_lists_every_command_fast():
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "scalebound", "--help"], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in COMMANDS) and not done.stderr
    assert time.monotonic() - began < 5  # benchmarks/start measures it; this only catches an import of torch


@pytest.mark.parametrize("arguments, status", [
    (("nonsense",), 2), (("measure", "--nonsense"), 2), (("fit",), 2), (("train", "--out", "x"), 2), (("train", "--out", "x", "--sizes", "20k", "--flops", "1e15"), 2),
    (("train", "--out", "x", "--sizes", "many"), 2), (("train", "--out", "x", "--sizes", "100"), 2), (("certify", "absent.npy", "--vocab-size", "256", "--code-bits", "8"), 3),
])  # fmt: skip
def test_wrong_calls_print_one_object_and_one_line(capsys, arguments, status, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, out, err = run(capsys, *arguments, "--json")
    assert found == status
    record = json.loads(out)
    assert record["status"] == status and record["error"]["what"]
    assert err.startswith("error: ") and len(err.splitlines()) <= 2 and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_command_says_what_to_type(capsys, monkeypatch, tmp_path):
    """Word for word, quotes where a shell needs them; status 130."""
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("scalebound.compress.read_checkpoint", stop)
    words = ["compress", "a model", "--out", str(tmp_path / "it's.sbz")]
    status, out, err = run(capsys, *words)
    assert status == 130 and not out and shlex.split(err.partition("To go on: scalebound ")[2]) == words


@pytest.fixture
def losses(tmp_path):
    np.save(tmp_path / "l.npy", np.random.default_rng(0).gamma(2.0, 1.0, 20_000))
    return tmp_path / "l.npy"


@pytest.mark.parametrize("delta", ["0", "1", "-0.5", "2"])
def test_delta_out_of_range_is_a_usage_error(capsys, losses, delta):
    status, _, err = run(capsys, "certify", losses, "--vocab-size", "256", "--code-bits", "800", "--delta", delta)
    assert status == 2 and "delta" in err


@pytest.mark.parametrize("value, what", [(np.nan, "token 777"), (-3.0, "token 777")])
def test_statistics_that_are_no_losses_are_named(capsys, tmp_path, value, what):
    array = np.ones(2000)
    array[777] = value
    np.save(tmp_path / "l.npy", array)
    status, out, err = run(capsys, "certify", tmp_path / "l.npy", "--vocab-size", "256", "--code-bits", "800", "--out", tmp_path / "c.json", "--json")
    assert status == 3 and what in err and json.loads(out)["status"] == 3 and not (tmp_path / "c.json").exists()


def test_no_full_precision_loss_is_shown_when_none_was_measured(capsys, losses):
    status, out, _ = run(capsys, "certify", losses, "--vocab-size", "256", "--code-bits", "800")
    assert status == 0 and "measured loss" in out and "full precision" not in out and "quantization" not in out


def test_require_decides_the_exit_status(capsys, losses):
    status, out, _ = run(capsys, "certify", losses, "--vocab-size", "256", "--code-bits", "800", "--json")
    bound = json.loads(out)["bound"]
    assert status == 0
    assert run(capsys, "certify", losses, "--vocab-size", "256", "--code-bits", "800", "--require", bound + 0.01)[0] == 0
    assert run(capsys, "certify", losses, "--vocab-size", "256", "--code-bits", "800", "--require", bound - 0.01)[0] == 1


@pytest.mark.parametrize("content, what", [(b"", "empty"), (b"\x00\x01binary", "binary")])
def test_measuring_what_is_no_text(capsys, tmp_path, content, what):
    import torch

    from scalebound.models import Transformer, save_folder, shape_for

    shape = shape_for(15_000)
    save_folder(tmp_path / "m", shape.config(64), Transformer(shape, 64, torch.Generator().manual_seed(0)).tensors())
    (tmp_path / "t.txt").write_bytes(content)
    status, _, err = run(capsys, "measure", tmp_path / "m", tmp_path / "t.txt", "--out", tmp_path / "out" / "s.safetensors")
    assert status == 3 and what in err and not (tmp_path / "out").exists()


def test_text_shorter_than_a_context_is_refused(capsys, tmp_path):
    (tmp_path / "t.txt").write_text("short\n")
    status, _, err = run(capsys, "train", "--text", tmp_path / "t.txt", "--sizes", "15k", "--out", tmp_path / "run")
    assert status == 3 and "text" in err and not (tmp_path / "run").exists()


def test_disk_full_is_said_and_leaves_nothing(capsys, losses, tmp_path, monkeypatch):
    import os

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    status, out, err = run(capsys, "certify", losses, "--vocab-size", "256", "--code-bits", "800", "--out", tmp_path / "c.json", "--json")
    assert status == 5 and "no space left" in err and json.loads(out)["status"] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["l.npy"]


def test_statistics_of_another_vocabulary_are_refused(capsys, tmp_path):
    from scalebound.core.stats import Stats, StatsInfo

    values = np.full(5000, 1.0, dtype=np.float32)
    Stats(StatsInfo(tokens=5000, window=(0, 5000), vocab_size=256), {"nll": values}).save(tmp_path / "a.safetensors")
    Stats(StatsInfo(tokens=5000, window=(0, 5000), vocab_size=300, predictable="a model fixed before"), {"nll": values}).save(tmp_path / "b.safetensors")
    status, _, err = run(capsys, "certify", tmp_path / "a.safetensors", "--code-bits", "800", "--vocab-size", "300")
    assert status == 3 and "256" in err and "300" in err
    status, _, err = run(capsys, "certify", tmp_path / "a.safetensors", "--code-bits", "800", "--method", "anchored", "--reference", tmp_path / "b.safetensors")
    assert status == 3 and "256" in err and "300" in err


def test_ctrl_c_prints_the_command_that_goes_on(tmp_path):
    import signal

    command = [sys.executable, "-m", "scalebound", "train", "--sizes", "60k", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and f"scalebound train --sizes 60k --out {tmp_path / 'run'}" in err and "Traceback" not in err and not out


def test_dry_run_writes_nothing(capsys, tmp_path):
    status, out, _ = run(capsys, "train", "--sizes", "15k,30k", "--out", tmp_path / "run", "--dry-run", "--json")
    assert status == 0 and len(json.loads(out)["rungs"]) == 2 and not (tmp_path / "run").exists()


def test_train_measure_compress_certify_verify_by_hand(capsys, tmp_path):
    """The spine as a user types it, one command after the other."""
    (tmp_path / "t.txt").write_text("".join(f"line {k}: the value of {k % 37} is {k * k % 101}\n" for k in range(6000)))
    run_folder, stream = tmp_path / "run", tmp_path / "run" / "streams" / "train.json"
    steps = [
        ("train", "--text", tmp_path / "t.txt", "--sizes", "15k", "--tokens-per-param", "4", "--out", run_folder),
        ("compress", run_folder, "--bits", "3", "--out", tmp_path / "m.sbz"),
        ("measure", tmp_path / "m.sbz", stream, "--out", tmp_path / "s.safetensors"),
        ("certify", tmp_path / "s.safetensors", "--package", tmp_path / "m.sbz", "--out", tmp_path / "c.json"),
        ("verify", tmp_path / "c.json"),
        ("interval", tmp_path / "s.safetensors"),
    ]
    records = {}
    for step in steps:
        status, out, err = run(capsys, *step, "--json")
        assert status == 0, err
        records[step[0]] = json.loads(out)
        assert out.count("\n") == 1
    assert records["verify"]["holds"] and abs(records["verify"]["bound"] - records["certify"]["bound"]) < 1e-9
    assert records["interval"]["low"] < records["measure"]["mean_nll"] < records["interval"]["high"]
    assert records["compress"]["file_bytes"] == (tmp_path / "m.sbz").stat().st_size
    assert records["certify"]["code"]["bits"] == records["compress"]["code_bits"]


def test_doctor_says_what_is_missing_and_what_to_type(capsys, monkeypatch):
    status, out, _ = run(capsys, "doctor", "--json")
    there = {check["name"]: check for check in json.loads(out)["checks"]}
    assert status == 0 and there["scalebound"]["ok"] and there["extra lm"]["ok"] and there["cores"]["ok"]
    version = importlib.metadata.version

    def without_transformers(name: str) -> str:
        if name == "transformers":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", without_transformers)
    monkeypatch.setattr("shutil.which", lambda name: None)
    status, out, _ = run(capsys, "doctor", "--json")
    lacking = {check["name"]: check for check in json.loads(out)["checks"] if not check["ok"]}
    assert status == 0 and lacking["extra lm"]["detail"] == "without transformers" and lacking["extra lm"]["hint"] == "pip install 'scalebound[lm]'"
    assert lacking["Chromium"]["hint"] == "apt-get install chromium"
