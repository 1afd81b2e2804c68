"""``scalebound compress``: the record others rely on, several settings at once, losses, and refusals with their exit status."""

import json
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import save_file

from scalebound.cli import main
from scalebound.cli.compress_options import TAKES, way_of
from scalebound.compress import code_bits, read_package
from scalebound.core.errors import UsageError


@pytest.fixture
def folder(tmp_path, llama):
    config, tensors = llama(16, 1, 32)
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    return path


def run(capsys, *arguments):
    status = main(["compress", *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return status, json.loads(captured.out)


def test_one_package(capsys, folder, tmp_path):
    status, record = run(capsys, folder, "--bits", "3", "--out", tmp_path / "m.sbz")
    size = (tmp_path / "m.sbz").stat().st_size
    assert status == 0 and record["file_bytes"] == size == sum(record["breakdown"].values()) and record["code_bits"] == code_bits(size)
    assert record["bits_per_parameter"] == 8 * size / record["params"] and record["loss_before"] is None and record["loss_after"] is None
    _, tensors = read_package(record["package"])
    assert record["params"] == sum(data.size for data in tensors.values())


def test_several_settings(capsys, folder, tmp_path):
    for flag, values, names in (("--bits", "2,4", ["2bit", "4bit"]), ("--step", "0.5,1", ["0.5step", "1step"])):
        status, record = run(capsys, folder, flag, values, "--out", tmp_path / "m.sbz")
        assert status == 0 and [entry["package"] for entry in record["packages"]] == [str(tmp_path / f"m-{name}.sbz") for name in names]
        assert all((tmp_path / f"m-{name}.sbz").is_file() for name in names) and not (tmp_path / "m.sbz").exists()


def test_the_table_people_see(capsys, folder, tmp_path):
    assert main(["compress", str(folder), "--out", str(tmp_path / "m.sbz")]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, (line for line in shown.splitlines() if "m.sbz" not in line))) <= 80 and "…" not in shown
    assert "m.sbz" in shown and "bits/parameter" in shown and "not measured" in shown


def test_losses(capsys, folder, tmp_path):
    pytest.importorskip("torch")
    text = tmp_path / "text.txt"
    text.write_bytes(np.random.default_rng(0).choice(np.frombuffer(b"abcdefgh \n", dtype=np.uint8), 3000).tobytes())
    status, record = run(capsys, folder, "--bits", "8", "--out", tmp_path / "m.sbz", "--stream", text, "--tokens", "1000")
    assert status == 0 and 0 < record["loss_before"] < 20 and 0 < abs(record["loss_after"] - record["loss_before"]) < 0.05
    _, coarse = run(capsys, folder, "--bits", "2", "--out", tmp_path / "c.sbz", "--stream", text, "--tokens", "1000")
    assert coarse["loss_before"] == record["loss_before"] and abs(coarse["loss_after"] - coarse["loss_before"]) > abs(record["loss_after"] - record["loss_before"])


def test_calibrated(capsys, folder, tmp_path):
    """The slice that is measured and the one that is calibrated on are said, do not overlap, and every loss has its interval."""
    pytest.importorskip("torch")
    text = tmp_path / "text.txt"
    text.write_bytes(np.random.default_rng(0).choice(np.frombuffer(b"abcdefgh \n", dtype=np.uint8), 6000).tobytes())
    status, record = run(capsys, folder, "--quantizer", "gptq", "--bits", "3.5", "--sequences", "8", "--stream", text, "--tokens", "1000", "--out", tmp_path / "m.sbz")
    assert status == 0 and 3.3 < record["bits_per_parameter"] <= 3.5 and record["bits_per_parameter"] == record["gptq"]["bits_per_parameter"]
    assert record["interval"]["window"] == [0, 1000] and record["gptq"]["window"] == [1000, 1000 + 8 * 256]
    for when in ("before", "after"):
        found = record["interval"][when]
        assert found["low"] < record[f"loss_{when}"] < found["high"] and found["n"] == 1000
    difference = record["interval"]["difference"]
    assert difference["low"] < difference["difference"] < difference["high"]
    assert not (tmp_path / "m.sbz.state").exists()
    assert run(capsys, folder, "--quantizer", "gptq", "--bits", "3,4", "--allocation", "uniform", "--sequences", "4", "--stream", text, "--tokens", "500", "--out", tmp_path / "u.sbz")[0] == 0
    assert (tmp_path / "u-3bit.sbz").is_file() and (tmp_path / "u-4bit.sbz").is_file()


def test_structure_is_searched_and_said(capsys, folder, tmp_path, monkeypatch):
    """--drop leaves zeros in a module's place, evolution of shares keeps their sum, --prune kept keeps what is zero; the record says what was chosen."""
    pytest.importorskip("torch")
    from scalebound.train import dropping, evolution

    monkeypatch.setattr(dropping, "drop_blocks", partial(dropping.drop_blocks, generations=2))
    monkeypatch.setattr(evolution, "sparsity_levels", partial(evolution.sparsity_levels, generations=2))
    text = tmp_path / "text.txt"
    text.write_bytes(np.random.default_rng(0).choice(np.frombuffer(b"abcdefgh \n", dtype=np.uint8), 3000).tobytes())
    common = ("--quantizer", "gptq", "--sequences", "2", "--stream", text, "--tokens", "500")
    status, record = run(capsys, folder, *common, "--bits", "4", "--drop", "0.3", "--out", tmp_path / "d.sbz")
    decoded = read_package(tmp_path / "d.sbz")[1]
    gone = tuple(record["dropping"]["dropped"])
    assert status == 0 and gone and all(not data.any() for name, data in decoded.items() if name.startswith(gone) and name.endswith("weight"))
    assert all(data.any() for name, data in decoded.items() if not name.startswith(gone)), "control"
    status, record = run(capsys, tmp_path / "d.sbz", *common, "--bits", "4", "--prune", "kept", "--out", tmp_path / "k.sbz")
    assert status == 0 and all(not np.any(data[decoded[name] == 0]) for name, data in read_package(tmp_path / "k.sbz")[1].items() if name.endswith("proj.weight"))
    status, record = run(capsys, folder, *common, "--bits", "5", "--prune", "magnitude", "--sparsity", "0.6", "--allocation", "evolution", "--out", tmp_path / "s.sbz")
    assert status == 0 and len(record["evolution"]["shares"]) == 7 and record["gptq"]["sparsity"] == 0.6
    assert not [file for file in tmp_path.iterdir() if file.suffix in (".modules", ".levels", ".state")]
    for wrong in (("--drop", "0.3"), ("--quantizer", "gptq", "--bits", "3", "--stream", text, "--prune", "kept", "--sparsity", "0.5"), ("--quantizer", "gptq", "--bits", "3", "--stream", text, "--drop", "1.5")):
        assert run(capsys, folder, *wrong, "--out", tmp_path / "w.sbz")[0] == 2


def test_modules_are_searched_once_for_all_lengths(capsys, folder, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from scalebound.train import dropping

    calls = []

    def counted(*given, _search=dropping.drop_blocks, **settings):
        calls.append(settings["share"])
        return _search(*given, **settings, generations=2)

    monkeypatch.setattr(dropping, "drop_blocks", counted)
    text = tmp_path / "text.txt"
    text.write_bytes(b"abcdefgh \n" * 300)
    status, record = run(capsys, folder, "--quantizer", "gptq", "--sequences", "2", "--stream", text, "--tokens", "500", "--bits", "4,5", "--drop", "0.3", "--out", tmp_path / "d.sbz")
    assert status == 0 and calls == [0.3] and not list(tmp_path.glob("*.modules"))
    first, second = record["packages"]
    assert first["dropping"] == second["dropping"] and first["dropping"]["dropped"] and first["file_bytes"] < second["file_bytes"]


def test_the_measured_model_is_the_package(folder, tmp_path, capsys):
    """The identity that statistics of a package carry is the one its record states."""
    pytest.importorskip("torch")
    from scalebound.models import load_model

    _, record = run(capsys, folder, "--bits", "4", "--out", tmp_path / "m.sbz")
    loaded = load_model(tmp_path / "m.sbz")
    assert loaded.sha256 == record["model_sha256"] and loaded.num_params == record["params"]
    tokens = __import__("torch").arange(20)[None]
    assert loaded.logits(tokens).shape == (1, 20, 256)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--bits", "9"], 2), (["--bits", "2.5"], 2), (["--bits", "x"], 2), (["--bits", "4", "--step", "1"], 2), (["--bits", "4,4"], 2), (["--step", "1e-5"], 2), (["--tokens", "1"], 2), (["--stream", "nothing.txt"], 3),
     (["--quantizer", "gptq", "--bits", "3"], 2), (["--quantizer", "gptq", "--stream", "."], 2), (["--bits", "4", "--rate-penalty", "1"], 2), (["--bits", "4", "--sequences", "4"], 2),
     (["--quantizer", "gptq", "--bits", "3", "--finetune", "--stream", "."], 2), (["--quantizer", "gptq", "--bits", "30", "--stream", __file__, "--sequences", "4"], 2),
     (["--quantizer", "gptq", "--bits", "3", "--stream", __file__, "--sequences", "9999", "--tokens", "100"], 3)],
)
def test_refusals(capsys, folder, tmp_path, arguments, status):
    found, record = run(capsys, folder, *arguments, "--out", tmp_path / "m.sbz", *(["--stream", tmp_path / "x.txt"] if arguments[0] == "--tokens" else []))
    assert found == status and record["error"]["what"]
    assert not (tmp_path / "m.sbz").exists()


def given(words):
    return {name.replace("-", "_"): value or True for name, _, value in (word.partition("=") for word in words.split())}


@pytest.mark.parametrize("words", [
    "keep-codes", "keep-codes drop=0.3", "keep-codes stream=s", "frontier", "frontier stream=s base=b", "frontier stream=s reference=r", "frontier stream=s drop=0.5", "base=b bits=3", "base=b drop=0.3",
    "base=b stream=s", "finetune", "finetune stream=s bits=3", "finetune stream=s sequences=4", "finetune stream=s alpha=0.1", "gptq", "gptq bits=3", "gptq stream=s", "gptq stream=s step=1",
    "gptq bits=3 stream=s steps=9", "gptq bits=3 stream=s sparsity=0.5", "gptq bits=3 stream=s prune=kept sparsity=0.5", "gptq bits=3 stream=s allocation=evolution prune=kept", "gptq finetune stream=s",
    "keep-codes base=b", "frontier finetune stream=s", "bits=3 step=1", "bits=3 allocation=fisher", "step=1 price=8", "seed=1", "drop=0.5",
])  # fmt: skip
def test_options_that_do_not_go_together(words):
    """Each is refused before anything is read; control: each way with all it takes."""
    found = given(words)
    if words != "keep-codes":
        with pytest.raises(UsageError, match="--|plain rounding"):
            way_of(found)
    for way, takes in TAKES.items():
        every = dict.fromkeys(takes, "x") | ({} if way == "rtn" else {way: True})
        numbers = {"tokens": 5, "sequences": 1, "drop": 0.5, "sparsity": 0.5, "alpha": 0.2, "prune": "wanda", "bits": "3"}
        every |= {name: value for name, value in numbers.items() if name in every}
        every.pop("step" if way == "rtn" else "", None)
        assert way_of(every) == way


@pytest.mark.parametrize("option", [{"tokens": 1}, {"sequences": 0}, {"drop": 0.0}, {"drop": 1.0}, {"sparsity": 1.0, "prune": "wanda"}, {"sparsity": -0.1, "prune": "wanda"}])
def test_numbers_out_of_range_are_told_before_the_model_is_read(option):
    with pytest.raises(UsageError, match=f"--{next(iter(option))}"):
        way_of({"gptq": True, "bits": "3", "stream": "s", **option})


def test_a_package_that_cannot_be_written_is_told_before_the_work(capsys, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for out in (tmp_path, tmp_path / "file" / "m.sbz"):
        status, record = run(capsys, tmp_path / "no model is looked for", "--out", out)
        assert status == 3 and record["error"]["where"].startswith(str(tmp_path))


def test_calibration_that_overlaps_the_measured_tokens_is_told(capsys, folder, tmp_path):
    pytest.importorskip("torch")
    text = tmp_path / "text.txt"
    text.write_bytes(b"abcd efgh\n" * 60)
    options = ["--quantizer", "gptq", "--bits", "4", "--stream", str(text), "--out", str(tmp_path / "m.sbz"), "--sequences"]
    assert main(["compress", str(folder), *options, "2"]) == 0
    assert "calibration shares 512 of them" in capsys.readouterr().err
    assert main(["compress", str(folder), *options, "2", "--tokens", "80"]) == 0
    assert "calibration" not in capsys.readouterr().err
    status, record = run(capsys, folder, *options, "9")
    assert status == 3 and record["error"]["where"] == str(text), "not the temporary stream it was made into"


def test_no_model_there(capsys, tmp_path):
    assert run(capsys, tmp_path / "none", "--out", tmp_path / "m.sbz")[0] == 3
    (tmp_path / "config.json").write_text("{}")
    assert run(capsys, tmp_path, "--out", tmp_path / "m.sbz")[0] == 3


def test_a_full_disk_leaves_nothing(capsys, folder, tmp_path, monkeypatch):
    import errno
    import os

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, record = run(capsys, folder, "--out", tmp_path / "out" / "m.sbz")
    assert status == 5 and "space" in record["error"]["what"] and not list((tmp_path / "out").iterdir())
