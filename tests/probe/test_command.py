"""The command prints its record and refuses what it cannot use."""

import json
import subprocess
import sys

import pytest
import torch

from scalebound.cli.main import main
from scalebound.cli.probe import COMMANDS
from scalebound.core.probe import load_probe
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


def test_rules_of_a_grammar_from_a_file(capsys, tmp_path):
    text = 'name = "My_pairs"\nsymbols = "xy"\n[[strings]]\nform = [["xy", "n"]]\nranges = {n = [1, 3]}\n[kept]\nequal = [["x", "y"]]\n[broken]\navoids = ["xx", "yy"]\n'
    (tmp_path / "mine.toml").write_text(text)
    out = tmp_path / "rules.json"
    assert main(["probe", "rules", "--grammar-file", str(tmp_path / "mine.toml"), "--steps", "2", "--out", str(out)]) == 0
    record = load_probe(out)
    assert {row["grammar"] for row in record.rows} == {"My_pairs"} and "mine.toml" in record.inputs
    (tmp_path / "mine.toml").write_text(text.replace('["xx", "yy"]', '["xy"]'))
    capsys.readouterr()
    assert main(["probe", "rules", "--grammar-file", str(tmp_path / "mine.toml")]) == 3 and "breaks a rule" in capsys.readouterr().err


def test_records_are_written_and_read(capsys, tmp_path, folder):
    out = tmp_path / "probes" / "finetune.json"
    assert main(["probe", "finetune", folder, "--seeds", "2", "--steps", "1", "--out", str(out), "--json"]) == 0
    printed, record = json.loads(capsys.readouterr().out), load_probe(out)
    assert printed["record"] == str(out) and printed["verdict"] == record.verdict and len(record.rows) == 18
    assert len(record.inputs["model"]) == 64 and "torch" in record.versions and record.seconds > 0
    assert [figure.kind for figure in record.figures] == ["points"] and len(record.figures[0].series) == 3


@pytest.mark.parametrize("name", COMMANDS)
def test_every_probe_has_help_with_examples(capsys, name):
    assert main(["probe", name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.count(f"scalebound probe {name}") >= 2 and "Examples" in out and "next:" in out and "Exit status" in out
    assert main(["probe", "--help"]) == 0 and name in capsys.readouterr().out


def test_help_of_a_probe_imports_no_room():
    code = (
        "import sys; from scalebound.cli import main; main(['probe', '--help']); main(['probe', 'rules', '--help'])\n"
        "sys.exit(any(m == 'torch' or m.startswith(('numpy', 'scalebound.probe')) for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_bad_use(capsys, tmp_path, folder):
    assert main(["probe", "rules", "--grammar", "english"]) == 2
    assert main(["probe", "rules", str(tmp_path)]) == 2
    assert main(["probe", "finetune", str(tmp_path / "none")]) == 3
    assert main(["probe", "finetune", folder, "--seeds", "1"]) == 2
    assert main(["probe", "nothing"]) == 2 and "scalebound probe --help" in capsys.readouterr().err
    assert "Traceback" not in capsys.readouterr().err
