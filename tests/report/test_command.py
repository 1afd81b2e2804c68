"""The command ``report``."""

import json
import subprocess
import sys

from scalebound.cli.main import main


def test_it_writes_the_page_and_says_so(folder, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["report", str(folder), "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == {
        "report": str(out),
        "bytes": out.stat().st_size,
        "figures": ["loss-curves", "bound-against-size", "decomposition", "forecasts"],
    }
    assert main(["report", str(folder), "--out", str(out)]) == 0
    assert f"{out}: " in capsys.readouterr().out


def test_a_folder_without_a_manifest_is_bad_input(tmp_path, capsys):
    assert main(["report", str(tmp_path), "--json"]) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out)["status"] == 3
    assert "holds no demo.json" in printed.err and "scalebound demo" in printed.err and len(printed.err.splitlines()) == 2


def test_help_needs_neither_plotly_nor_jinja2():
    code = (
        "import sys; from scalebound.cli import main; main(['report', '--help']); sys.exit(bool({'plotly', 'jinja2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
