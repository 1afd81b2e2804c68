"""The README's numbers are those of the files they name, and its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scalebound.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("script", ["readme.py", "certify/page.py"])
def test_pages_match_their_data(script):
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or f"run python benchmarks/{script}"


def test_commands_exist():
    used = set(re.findall(r"^\$? ?scalebound +(\w+)", "".join((ROOT / "README.md").read_text().split("```")[1::2]), flags=re.MULTILINE))
    assert used and used <= set(COMMANDS)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
