"""Freed memory that stays with the process."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from scalebound.core.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def touch():
    return len(b"x" * (8 << 20))  # taken, written and freed
for _ in range(3): touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_taken_again_is_not_cleared_again():
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}  # the default before it adapts: every large array is returned
    kept, plain = (int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, env=env if how == "plain" else None).stdout) for how in ("kept", "plain"))
    assert kept < 100 and plain > 10 * max(kept, 10)
