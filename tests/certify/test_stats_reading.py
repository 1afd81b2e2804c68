"""Reading statistics by plain reads: the same values as safetensors gives, by slices and rows, without warnings or stale handles."""

import gc
import os

import numpy as np
import pytest
from safetensors.numpy import load_file

from scalebound.core.errors import InputError
from scalebound.core.stats import AnchorRef, Stats, StatsInfo


@pytest.fixture
def saved(tmp_path):
    rng = np.random.default_rng(0)
    blocks = np.sort(rng.choice(70, 62, replace=False)).astype(np.int64)
    n = 16 * len(blocks)
    info = StatsInfo(tokens=n, window=(0, 16 * 70), vocab_size=256, block_tokens=16, anchor=AnchorRef(eps=0.01, alphas=(0.1, 0.2, 0.3)))
    arrays = {
        "nll": rng.gamma(1.0, 1.0, n).astype("f4"),
        "reference_nll": rng.gamma(1.0, 1.0, n).astype("f4"),
        "centre": -rng.gamma(1.0, 1.0, (3, n)).astype("f4"),
        "blocks": blocks,
    }
    return tmp_path / "s.safetensors", info, arrays


def test_slices_rows_and_whole_arrays(tmp_path, saved):
    path, info, arrays = saved
    tokens = info.tokens
    Stats(info, arrays).save(path)
    found, plain = Stats.load(path), load_file(path)
    assert found.info == info
    for name in ("nll", "reference_nll", "centre"):
        for start, stop in ((0, None), (0, 0), (5, 17), (tokens - 1, None), (tokens, tokens + 5)):
            assert (
                np.array_equal(found.read(name, start, stop), plain[name][..., start:stop])
                and found.read(name, start, stop).dtype == np.float32
            )
    assert np.array_equal(found.read("centre", 3, 9, row=2), plain["centre"][2, 3:9])
    assert np.array_equal(found.blocks, plain["blocks"]) and found.blocks.dtype == np.int64
    array = found._arrays["nll"]
    del found
    gc.collect()
    assert array[0:3].shape == (3,)  # arrays keep their file open
    again = tmp_path / "again.safetensors"
    Stats.load(path).save(again)
    assert again.read_bytes() == path.read_bytes()


def test_a_file_cut_short_later_is_noticed(saved):
    path, info, arrays = saved
    n = 64
    Stats(StatsInfo(kind="bare", tokens=n, window=(0, n)), {"nll": arrays["nll"][:n]}).save(path)
    found = Stats.load(path)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(InputError, match="cut short"):
        found.read("nll")
    with pytest.raises(InputError):
        Stats.load(path)
