"""The gallery page shows the numbers that were measured, and not others."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_page_matches_the_benchmark():
    assert subprocess.run([sys.executable, ROOT / "benchmarks" / "certify" / "page.py", "--check"]).returncode == 0
