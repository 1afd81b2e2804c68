"""Per-token statistics: shards merge exactly, bad values are named, foreign arrays are welcome."""

import msgspec
import numpy as np
import pytest

from scalebound.core.errors import InputError
from scalebound.core.stats import AnchorRef, Stats, StatsInfo, merge, open_losses

N, T = 1000, 64


def make(blocks=None, n=N, **arrays):
    rng = np.random.default_rng(0)
    info = StatsInfo(tokens=n, window=(0, n), block_tokens=T, vocab_size=256, anchor=AnchorRef(alphas=(0.1, 0.2)), text_bytes=n)
    whole = {"nll": rng.random(n), "entropy": rng.random(n), "reference_nll": rng.random(n), "centre": -rng.random((2, n))}
    whole = {name: array.astype(np.float32) for name, array in (whole | arrays).items()}
    if blocks is None:
        return Stats(info, whole)
    index = np.concatenate([np.arange(b * T, min(n, (b + 1) * T)) for b in blocks])
    return Stats(msgspec.structs.replace(info, tokens=len(index), text_bytes=len(index)), {name: array[..., index] for name, array in whole.items()} | {"blocks": np.array(blocks)})


def test_round_trip_is_byte_identical(tmp_path):
    made = make()
    first = made.save(tmp_path / "a.safetensors").read_bytes()
    again = Stats.load(tmp_path / "a.safetensors")
    assert again.save(tmp_path / "b.safetensors").read_bytes() == first and again.complete
    for name in ("nll", "centre"):
        np.testing.assert_array_equal(again.read(name, 10, 20), made.read(name)[..., 10:20])


@pytest.mark.parametrize("shares", [([0, 1, 2, 3], list(range(4, 16))), ([1, 5, 15], [b for b in range(16) if b not in (1, 5, 15)]), ([15], list(range(15)))])
def test_merged_shards_equal_the_whole(tmp_path, shares):
    parts = [make(share) for share in shares]
    merged = merge(parts[::-1])
    whole = make()
    assert merged.info == whole.info and merged.complete
    for name in ("nll", "entropy", "reference_nll", "centre"):
        np.testing.assert_array_equal(merged.read(name), whole.read(name))
    assert merged.save(tmp_path / "m").read_bytes() == whole.save(tmp_path / "w").read_bytes()


def test_partial_merge_keeps_its_blocks():
    merged = merge([make([7, 9]), make([2])])
    assert merged.blocks.tolist() == [2, 7, 9] and not merged.complete
    np.testing.assert_array_equal(merged.read("nll"), np.concatenate([make().read("nll", b * T, (b + 1) * T) for b in (2, 7, 9)]))


def test_a_block_in_two_shards_is_refused():
    with pytest.raises(InputError, match="block 3 is in two shards"):
        merge([make([1, 3]), make([3, 4])])


def test_shards_of_different_measurements_are_refused():
    other = make([3])
    other.info = msgspec.structs.replace(other.info, vocab_size=255)
    with pytest.raises(InputError, match="differs"):
        merge([make([1]), other])


@pytest.mark.parametrize("name, value, what", [("nll", np.nan, "token 123 has nll = nan"), ("nll", -0.5, "token 123 has nll = -0.5"), ("nll", np.inf, "inf"), ("entropy", 6.0, "entropy = 6.0")])
def test_impossible_values_are_named(name, value, what):
    made = make()
    made._arrays[name][123] = value
    with pytest.raises(InputError, match=what):
        made.check_values()


def test_tokens_counted_twice_are_refused(tmp_path):
    made = make([1, 2, 3])
    made._arrays["blocks"] = np.array([1, 2, 2])
    made.save(tmp_path / "a")
    with pytest.raises(InputError, match="counts once"):
        Stats.load(tmp_path / "a")
    made._arrays["blocks"] = np.array([1, 2])
    made.save(tmp_path / "a")
    with pytest.raises(InputError, match="account for"):
        Stats.load(tmp_path / "a")


@pytest.mark.parametrize("damage", ["truncate", "header", "empty", "text"])
def test_corrupt_files_are_refused(tmp_path, damage):
    path = make().save(tmp_path / "a.safetensors")
    data = bytearray(path.read_bytes())
    path.write_bytes({"truncate": data[:-100], "header": b"\xff" * 8 + data[8:], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(InputError, match="not a safetensors file"):
        Stats.load(path)


def test_arrays_people_already_have(tmp_path):
    losses = np.linspace(0.5, 3, 50)
    np.save(tmp_path / "a.npy", losses)
    (tmp_path / "a.csv").write_text("token,nll\n" + "".join(f"{k},{v!r}\n" for k, v in enumerate(losses.tolist())))
    for name in ("a.npy", "a.csv"):
        found = open_losses(tmp_path / name, vocab_size=256)
        assert found.info.kind == "bare" and len(found) == 50
        np.testing.assert_allclose(found.read("nll"), losses, rtol=1e-7)


@pytest.mark.parametrize("content, what", [(b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }" + b" " * 30 + b"\n", "cannot be read"), (b"junk", "cannot be read")])
def test_lying_npy_headers_are_refused(tmp_path, content, what):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=what):
        open_losses(tmp_path / "a.npy")


def test_csv_without_losses_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("loss\n1\n")
    with pytest.raises(InputError, match="no column 'nll'"):
        open_losses(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("nll\n1\nx\n")
    with pytest.raises(InputError, match="row 3"):
        open_losses(tmp_path / "a.csv")
