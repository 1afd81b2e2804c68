"""The command prints its record and refuses what it cannot use."""

import json

from scalebound.cli.main import main


def test_finetune(capsys):
    assert main(["probe", "finetune", "--seeds", "2", "--steps", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["name"] == "finetune" and len(record["rows"]) == 18 and record["verdict"] in ("same_function_different_outcome", "no_difference")


def test_rules(capsys):
    assert main(["probe", "rules", "--grammar", "anbncn", "--steps", "2"]) == 0
    assert "Exact construction: total variation 0 and KL 0" in capsys.readouterr().out


def test_bad_use(capsys, tmp_path):
    assert main(["probe", "rules", "--grammar", "english"]) == 2
    assert main(["probe", "rules", str(tmp_path)]) == 2
    assert main(["probe", "finetune", str(tmp_path / "none")]) == 3
    assert main(["probe", "finetune", "--seeds", "1"]) == 2
    assert main(["probe", "nothing"]) == 2
    assert "Traceback" not in capsys.readouterr().err
