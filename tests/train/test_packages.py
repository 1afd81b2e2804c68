"""Packages of a ladder, trained with it: the files `compress --finetune` writes, kept when they are there, refused where they do not belong."""

import importlib
import json
from pathlib import Path

import pytest

from scalebound.cli import main
from scalebound.compress import decode, load_package, read_checkpoint
from scalebound.core.hashing import canonical_config
from scalebound.core.io import sha256_file
from scalebound.models.load import newest_checkpoint


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("packages") / "t.txt"
    path.write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(4000)))
    return path


def test_a_ladder_and_its_packages_in_one_command(text, tmp_path, capsys, monkeypatch):
    command = ["train", "--text", str(text), "--sizes", "15k,24k", "--tokens-per-param", "1", "--context", "64", "--compress", "--workers", "1", "--out", str(tmp_path / "ladder"), "--json"]
    assert main(command) == 0
    rungs = json.loads(capsys.readouterr().out)["rungs"]
    assert len(rungs) == 2
    for rung in rungs:
        made = rung["package"]
        assert sha256_file(made["path"]) == made["package_sha256"] and made["model_sha256"] == rung["model_sha256"]
        assert made["bits_after"] < made["bits_start"] and not list((tmp_path / "ladder").rglob("*.state"))
        config, tensors = decode(Path(made["path"]).read_bytes())
        assert config == canonical_config(read_checkpoint(newest_checkpoint(rung["run"]))[0]) and load_package(made["path"]).num_params == rung["params"] == sum(t.size for t in tensors.values())

    single = tmp_path / "single.sbz"  # the same settings as the other command's, which has two threads where there are two cores
    monkeypatch.setattr("scalebound.core.workers.cores", lambda: 1)
    assert main(["compress", rungs[0]["run"], "--finetune", "--stream", str(tmp_path / "ladder" / "streams" / "train.json"), "--out", str(single)]) == 0
    assert single.read_bytes() == Path(rungs[0]["package"]["path"]).read_bytes()

    def never(*arguments, **named):
        raise AssertionError("a package that is there was trained again")

    monkeypatch.setattr(importlib.import_module("scalebound.train.packages"), "finetune", never)
    capsys.readouterr()
    assert main(command) == 0
    assert [rung["package"] for rung in json.loads(capsys.readouterr().out)["rungs"]] == [rung["package"] for rung in rungs]
    with open(rungs[0]["package"]["path"], "ab") as file:  # control: another file under that name is not taken for it
        file.write(b"x")
    with pytest.raises(AssertionError, match="trained again"):
        main([*command, "--debug"])


@pytest.mark.parametrize("other", [["--sweep", "lr"], ["--from", "x"], ["--cooldown-from", "x"], ["--sizes", "15k", "--shard"]])
def test_where_packages_are_not_trained(other, tmp_path, capsys):
    assert main(["train", "--compress", *other, "--out", str(tmp_path / "out")]) == 2
    assert "--compress with" in capsys.readouterr().err and not (tmp_path / "out").exists()
