import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # certify_support, the plain recomputation the tests share

from certify_support import make_stats


@pytest.fixture(scope="session")
def stats():
    return make_stats()


@pytest.fixture(scope="session")
def online():
    return make_stats(kind="online", anchor=False)
