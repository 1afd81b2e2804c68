"""Sketches: exact counts in any order, and certificates that are never below those of the losses and at most 1e-4 above."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalebound.certify import certify
from scalebound.core.certificate import Centre
from scalebound.core.errors import InputError, UsageError
from scalebound.core.sketch import Sketch, merge_sketches, sketch_of
from scalebound.core.stats import AnchorRef, Stats, StatsInfo, merge, open_losses

ALPHAS, EPS = (0.05, 0.2), 0.01


def statistics(seed=0, *, tokens=20_000, vocab=256, spread=1.0, block=100, kind="model", anchor=True):
    """Losses of a made-up model, heavy-tailed, with an entropy that knows a part of them, and a reference with its centres."""
    rng = np.random.default_rng(seed)
    log_v = math.log(vocab)
    easy = rng.random(tokens) < 0.4
    entropy = np.where(easy, 0.02, np.minimum(rng.gamma(2.0, 0.7 * spread, tokens), log_v)).astype(np.float32)
    nll = np.where(easy, rng.exponential(0.03, tokens), rng.gamma(1.2, 1.5 * spread, tokens)).astype(np.float32)
    nll[rng.random(tokens) < 0.002] = 40.0
    reference = np.maximum(nll + rng.normal(0.4, 1.0, tokens), 0).astype(np.float32)
    info = StatsInfo(kind=kind, tokens=tokens, window=(0, tokens), vocab_size=vocab, block_tokens=block, text_bytes=tokens, predictable="made before")
    arrays = {"nll": nll, "entropy": entropy, "varentropy": entropy}
    if anchor:
        info = msgspec.structs.replace(info, anchor=AnchorRef(eps=EPS, alphas=ALPHAS, predictable="a model fixed before", sha256="a"))
        centre = -np.minimum(rng.gamma(1.0, 0.15, tokens), 6.0).astype(np.float32)
        arrays |= {"reference_nll": reference, "centre": np.stack([centre, 0.5 * centre])}
    return Stats(info, arrays)


def pieces(stats, ids):
    """The blocks ``ids`` of complete statistics."""
    size = stats.info.block_tokens
    where = np.concatenate([np.arange(b * size, min((b + 1) * size, len(stats))) for b in ids])
    arrays = {name: stats.read(name)[..., where] for name in ("nll", "entropy", "varentropy", "reference_nll", "centre") if name in stats}
    return Stats(msgspec.structs.replace(stats.info, tokens=len(where), text_bytes=len(where)), arrays | {"blocks": np.asarray(ids)})


def gap(stats, **settings):
    """Bound from the sketch minus bound from the losses."""
    return certify(sketch_of(stats), **settings).bound - certify(stats, **settings).bound


METHODS = [
    {"method": "product", "code_bits": 8000, "alpha": 0.1}, {"method": "product", "code_bits": 30_000, "alpha": 0.005}, {"method": "product", "code_bits": 100, "alpha": 0.5},
    {"method": "freedman", "code_bits": 8000, "alpha": 0.1}, {"method": "heldout"}, {"method": "heldout", "alpha": 1e-6},
    {"method": "anchored", "code_bits": 8000, "alpha": 0.05}, {"method": "anchored", "code_bits": 200, "alpha": 0.2, "centres": (Centre(kind="zero"),)},
    {"method": "anchored", "code_bits": 8000, "alpha": 0.2, "centres": (Centre(kind="kl", y_min=-4.0),)}, {"method": "product", "code_bits": 8000, "alpha": 0.1, "centres": (Centre(kind="entropy", y_min=0.3),)},
]  # fmt: skip


@pytest.mark.parametrize("settings", METHODS, ids=lambda s: " ".join(str(v) for k, v in s.items() if k != "centres"))
@pytest.mark.parametrize("vocab", [256, 50_257])
def test_bounds_are_never_below_and_at_most_a_ten_thousandth_above(settings, vocab):
    assert -1e-12 <= gap(statistics(vocab=vocab), **settings) <= 1e-4


def test_trajectories(tmp_path):
    assert -1e-12 <= gap(statistics(kind="online", anchor=False), method="trajectory", window=(0, 20_000)) <= 1e-4


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), tokens=st.integers(1, 4000), vocab=st.sampled_from([2, 300, 50_000]), spread=st.floats(0.01, 6.0), alpha=st.floats(1e-4, 0.9), bits=st.integers(0, 10**5), method=st.integers(0, 3))
def test_never_below_whatever_the_losses(seed, tokens, vocab, spread, alpha, bits, method):
    stats = statistics(seed, tokens=tokens, vocab=vocab, spread=spread, block=64)
    given_ = [{"method": "product", "code_bits": bits, "alpha": alpha}, {"method": "heldout", "alpha": alpha}, {"method": "anchored", "code_bits": bits, "alpha": ALPHAS[seed % 2]},
              {"method": "freedman", "code_bits": bits, "alpha": alpha}][method]  # fmt: skip
    assert -1e-11 <= gap(stats, **given_) <= 1e-4


def test_rounding_inwards_would_be_seen(monkeypatch):
    """Control: with the losses counted at the lower edge of their cells, the bound falls below."""
    stats = statistics()
    sketch = sketch_of(stats)
    table = sketch.tables["loss"]
    sketch.tables["loss"] = type(table)(table.axes, table.cells, table.counts, np.zeros_like(table.first), table.second)
    assert certify(sketch, code_bits=8000, alpha=0.1).bound < certify(stats, code_bits=8000, alpha=0.1).bound - 1e-4


def test_merging_is_exact_in_any_order(tmp_path):
    stats = statistics(tokens=9_950)  # a ragged end
    whole = sketch_of(stats)
    ids = np.random.default_rng(1).permutation(100)
    parts = [sketch_of(pieces(stats, np.sort(part))) for part in np.split(ids, [10, 15, 70])]
    whole.save(tmp_path / "whole.sketch")
    for order in (parts, parts[::-1], [merge_sketches(parts[1:3]), parts[3], parts[0]]):
        merge_sketches(order).save(tmp_path / "merged.sketch")
        assert (tmp_path / "merged.sketch").read_bytes() == (tmp_path / "whole.sketch").read_bytes()
    found = open_losses(tmp_path / "whole.sketch")
    assert isinstance(found, Sketch) and certify(found, code_bits=500).bound == certify(whole, code_bits=500).bound
    assert abs(found.mean_nll - float(stats.read("nll").mean(dtype="f8"))) < 1e-8
    with pytest.raises(InputError, match="a token counts once"):
        merge_sketches([parts[0], parts[0]])
    with pytest.raises(InputError, match="differs from"):
        merge_sketches([parts[0], sketch_of(pieces(statistics(vocab=300), ids[20:25]))])
    with pytest.raises(InputError, match="sketch of a part of its window"):
        certify(parts[0], code_bits=500)
    assert len(merge([pieces(stats, [0]), pieces(stats, [1])])) == 200


def test_a_sketch_is_small_whatever_the_number_of_tokens(tmp_path):
    sizes = [sketch_of(statistics(tokens=tokens, anchor=False)).save(tmp_path / f"{tokens}.sketch").stat().st_size for tokens in (10_000, 100_000, 800_000)]
    assert sizes[2] < 5 * sizes[1] and sizes[2] < 8e6  # per-token numbers would be 8 times as many


def test_counts_are_those_of_a_loop():
    stats = statistics(tokens=500)
    table = sketch_of(stats).tables["loss"]
    right: dict[int, list] = {}
    for u, h in zip(stats.read("nll").astype(float), np.minimum(stats.read("entropy").astype(float), math.log(256)), strict=True):
        i, low_u = (int(u * 64) + 1, int(u * 64) / 64) if u < 24 else (24 * 64 + int((u - 24) * 8) + 1, 24 + int((u - 24) * 8) / 8)
        before, start, fine = (0, 0, 512) if h < 1 else (512, 1, 128) if h < 4 else (512 + 384, 4, 32)
        j, low_h = before + int((h - start) * fine) + 1, start + int((h - start) * fine) / fine
        cell = right.setdefault(i * (512 + 384 + 384 + 2) + j, [0, 0, 0])
        cell[0] += 1
        cell[1] += math.ceil((u - low_u) * 2**28)
        cell[2] += math.ceil((h - low_h) * 2**28)
    assert dict(zip(table.cells.tolist(), map(list, zip(table.counts.tolist(), table.first.tolist(), table.second.tolist(), strict=True)), strict=True)) == right


@pytest.mark.parametrize("change, error, what", [
    ({"centres": (Centre(kind="running"),)}, InputError, "keeps no order"), ({"method": "anchored", "eps": 0.3}, UsageError, "eps is 0.3"), ({"method": "anchored", "alpha": 0.3, "centres": (Centre(kind="kl", y_min=-1.0),)}, InputError, "centre"),
    ({"method": "anchored", "centres": (Centre(kind="kl", y_min=-9.0),)}, UsageError, "y_min is below"),
])  # fmt: skip
def test_what_a_sketch_cannot_answer_is_refused(change, error, what):
    with pytest.raises(error, match=what):
        certify(sketch_of(statistics(tokens=1000)), **({"code_bits": 100} | change))


def test_other_refusals():
    sketch = sketch_of(statistics(tokens=1000))
    with pytest.raises(InputError, match="in another file"):
        certify(sketch, method="anchored", code_bits=10, reference=statistics(3, tokens=1000, anchor=False))
    with pytest.raises(InputError, match="keeps no token"):
        sketch.read("nll")
    with pytest.raises(InputError, match="cannot be cut|sketch of the tokens"):
        certify(sketch_of(statistics(tokens=1000, kind="online", anchor=False)), method="trajectory")
    with pytest.raises(UsageError, match="vocabulary"):
        sketch_of(Stats(StatsInfo(kind="bare", tokens=2, window=(0, 2)), {"nll": np.ones(2, np.float32)}))


def test_damaged_files_are_refused_or_mean_the_same(tmp_path):
    """Random damage never ends in a traceback."""
    data = bytearray(sketch_of(statistics(tokens=300)).save(tmp_path / "a.sketch").read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        broken[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))
        (tmp_path / "b.sketch").write_bytes(broken)
        try:
            certify(open_losses(tmp_path / "b.sketch"), code_bits=10)
        except (InputError, UsageError):
            pass


def test_commands(tmp_path, capsys):
    """From shards to a certificate; the independent checker says that it cannot check it, and does not say that it holds."""
    import json

    from scalebound.cli.main import main
    from scalebound_verify.__main__ import main as verify

    stats = statistics(tokens=4000, anchor=False)
    for name, ids in (("a", range(25)), ("b", range(25, 40))):
        pieces(stats, list(ids)).save(tmp_path / f"{name}.safetensors")
        assert main(["sketch", str(tmp_path / f"{name}.safetensors"), "--out", str(tmp_path / f"{name}.sketch")]) == 0
    both = [str(tmp_path / f"{name}.sketch") for name in "ab"]
    assert main(["merge", *both, "--out", str(tmp_path / "all.sketch")]) == 0
    assert main(["sketch", *(path.replace(".sketch", ".safetensors") for path in both), "--out", str(tmp_path / "same.sketch")]) == 0
    assert (tmp_path / "all.sketch").read_bytes() == (tmp_path / "same.sketch").read_bytes()
    capsys.readouterr()
    assert main(["certify", str(tmp_path / "all.sketch"), "--method", "heldout", "--out", str(tmp_path / "c.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 <= found["bound"] - certify(stats, method="heldout").bound < 1e-4 and any("sketch" in line for line in found["assumptions"])
    status = verify([str(tmp_path / "c.json")])
    said = "".join(capsys.readouterr())
    assert status == 3 and "scalebound.sketch/1" in said and "holds" not in said, said
    with pytest.raises(InputError, match="scalebound.sketch/1"):
        Stats.load(both[0])
    for wrong in (["merge", both[0], str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "x.sketch")], ["interval", both[0]], ["sketch", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "x.bin")]):
        assert main(wrong) in (2, 3)
    assert not (tmp_path / "x.sketch").exists()
