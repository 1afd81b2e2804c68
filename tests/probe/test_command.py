"""The command prints its record and refuses what it cannot use."""

import json

import pytest
import torch

from scalebound.cli.main import main
from scalebound.models import Transformer, save_folder, shape_for


@pytest.fixture
def folder(tmp_path):
    shape = shape_for(16_000)
    save_folder(tmp_path / "model", shape.config(64), Transformer(shape, 64, torch.Generator().manual_seed(0)).tensors())
    return str(tmp_path / "model")


def test_finetune(capsys, folder):
    assert main(["probe", "finetune", folder, "--seeds", "2", "--steps", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (
        record["name"] == "finetune"
        and len(record["rows"]) == 18
        and record["verdict"] in ("same_function_different_outcome", "no_difference")
    )


def test_rules(capsys):
    assert main(["probe", "rules", "--grammar", "anbncn", "--steps", "2"]) == 0
    assert "Exact construction: total variation 0 and KL 0" in capsys.readouterr().out


def test_bad_use(capsys, tmp_path, folder):
    assert main(["probe", "rules", "--grammar", "english"]) == 2
    assert main(["probe", "rules", str(tmp_path)]) == 2
    assert main(["probe", "finetune", str(tmp_path / "none")]) == 3
    assert main(["probe", "finetune", folder, "--seeds", "1"]) == 2
    assert main(["probe", "nothing"]) == 2
    assert "Traceback" not in capsys.readouterr().err
