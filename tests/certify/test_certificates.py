"""Every method's certificate equals a plain recomputation from its own fields, its terms add up, and choices are paid for."""

import json
import math
import re
import tracemalloc

import msgspec
import numpy as np
import pytest
from certify_support import ALPHAS, EPS, make_stats, recompute, sample_blocks

from scalebound.certify import certify, choice_bits, package_code_bits
from scalebound.core.certificate import Centre, Choice, Shares, load_certificate
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats, StatsInfo, merge

CASES = {
    "product": {"code_bits": 1500},
    "product, alpha fixed, one centre": {"code_bits": 1500, "alpha": 0.1, "centres": [Centre(kind="zero")]},
    "product, running mean": {
        "code_bits": 1500,
        "centres": [Centre(kind="running", y_min=0.5, weight=0.5), Centre(kind="zero", weight=0.5)],
    },
    "product, weights, grid, horizon": {"code_bits": 700, "grid": [0.1, 0.5, 0.9], "weights": [1.0, 2.0, 3.0], "horizon": 10**6},
    "product, choices": {"code_bits": 700, "choices": [Choice(setting="bits", options=7), Choice(setting="eps", options=3)]},
    "freedman": {"method": "freedman", "code_bits": 1500},
    "freedman, zero": {"method": "freedman", "code_bits": 1500, "centres": [Centre(kind="zero")], "grid": [0.2, 0.6]},
    "anchored": {"method": "anchored", "code_bits": 1500},
    "anchored, fixed": {"method": "anchored", "code_bits": 0, "alpha": 0.3, "eps": 0.05, "shares": Shares(difference=0.1, reference=0.6)},
    "anchored, choices in both parts": {
        "method": "anchored",
        "code_bits": 900,
        "choices": [Choice(setting="eps", options=16), Choice(setting="bits", options=7)],
    },
    "heldout": {"method": "heldout"},
    "heldout, list": {"method": "heldout", "alphas": [0.001, 0.01]},
}


# the running mean needs the complete window and is refused otherwise, see below
PAIRS = [(name, drawn) for name in CASES for drawn in (None, 40) if not (drawn and "running" in name)]


@pytest.mark.parametrize(("name", "drawn"), PAIRS)
def test_equals_the_plain_recomputation(stats, name, drawn):
    case = dict(CASES[name])
    if drawn is not None:
        stats = sample_blocks(stats, drawn)
        if "shares" in case:
            case["shares"] = Shares(difference=0.1, reference=0.6, subsampling=0.3)
    c = certify(stats, **case)
    bound, plain = recompute(c, stats)
    assert c.bound == pytest.approx(bound, rel=1e-11) and c.bound >= bound * (1 - 1e-14)
    assert c.terms.subsampling == pytest.approx(bound - plain, abs=1e-10) and (c.terms.subsampling > 0) == (drawn is not None)
    assert abs(math.fsum(msgspec.structs.astuple(c.terms)) - c.bound) < 1e-12
    assert c.vacuous == (c.bound >= math.log(16)) and c.empirical_loss == pytest.approx(float(stats.read("nll").mean(dtype="f8")))
    assert c.code.choice_bits == math.log2(math.prod(choice.options for choice in c.code.choices))
    assert c.tokens.evaluated == len(stats) and c.tokens.stream == 6000
    assert c.bound_bits_per_byte == pytest.approx(c.bound / 2 / math.log(2))
    assert "mixture" in c.statement and f"{c.bound:.6f}" in c.statement and len(c.assumptions) >= 7


def test_large_sample_uses_the_empirical_bernstein_form():
    whole = make_stats(n=16_003, block=8, anchor=True)
    for method in ("product", "anchored"):
        part = sample_blocks(whole, 1200)
        c = certify(part, method=method, code_bits=3000)
        assert c.bound == pytest.approx(recompute(c, part)[0], rel=1e-11)
        assert c.bound > certify(whole, method=method, code_bits=3000).bound


def test_trajectory(online):
    for window, expected in ((None, (5400, 6000)), (0.5, (3000, 6000)), ((100, 2000), (100, 2000))):
        c = certify(online, method="trajectory", window=window)
        assert c.window == expected and c.code.bits == 0 and c.tokens.stream == expected[1] - expected[0]
        assert c.bound == pytest.approx(recompute(c, online)[0], rel=1e-11)
        assert c.bound_bits_per_byte is None and "trajectory" in " ".join(c.assumptions)


def test_reference_from_another_file(stats, online):
    c = certify(stats, method="anchored", code_bits=900, reference=online)
    assert c.anchor.kind == "online" and not c.anchor.deployable and c.centres == (Centre(kind="zero"),)
    assert c.bound == pytest.approx(recompute(c, stats, online)[0], rel=1e-11)
    # without a code there is nothing the bound must pay for, and the predictor is the reference's own mixture
    assert c.anchor.certified > c.anchor.mean_loss


def test_order_of_the_methods_on_one_file(stats):
    big = make_stats(n=60_000)
    found = {method: certify(big, method=method, code_bits=6000).bound for method in ("anchored", "product", "freedman")}
    assert found["anchored"] < found["product"] < found["freedman"]


def test_choices_are_paid_for(stats):
    free = certify(stats, code_bits=1000, alpha=0.1)
    listed = certify(stats, code_bits=1000, alphas=[0.1, 0.0001, 0.9999, 0.00011])
    assert free.code.choices == () and free.smoothing.candidates == (0.1,)
    assert listed.code.choices == (Choice(setting="alpha", options=4),) and listed.smoothing.alpha == 0.1
    assert listed.bound == pytest.approx(certify(stats, code_bits=1002, alpha=0.1).bound, rel=1e-13) and listed.bound > free.bound
    assert choice_bits([Choice(setting="a", options=5), Choice(setting="b", options=3)]) == math.log2(15)
    eps = certify(stats, method="anchored", code_bits=1000, alpha=0.1, choices=[Choice(setting="eps", options=1024)])
    plain = certify(stats, method="anchored", code_bits=1000, alpha=0.1)
    assert eps.anchor.certified > plain.anchor.certified


def test_code_length_of_a_file():
    for size in (1, 2, 1000, 12345):
        bits = 8 * size
        assert package_code_bits(size) == bits + 2 * math.floor(math.log2(bits)) + 1
    with pytest.raises(UsageError):
        package_code_bits(0)


def test_default_alphas_of_anchored_are_the_measured_ones(stats):
    c = certify(stats, method="anchored", code_bits=1500)
    assert c.smoothing.candidates == ALPHAS and c.smoothing.eps == EPS and [k.kind for k in c.centres] == ["zero", "kl", "kl", "kl"]


def test_saved_and_read_back_and_merged_shards_equal_the_whole(stats, tmp_path):
    c = certify(stats, code_bits=1500)
    assert load_certificate(c.save(tmp_path / "c.json")) == c
    assert (
        "NaN" not in (tmp_path / "c.json").read_text()
        and json.loads((tmp_path / "c.json").read_text())["schema"] == "scalebound.certificate/1"
    )
    size, shards = 64, []
    for ids in (np.arange(0, 94, 2), np.arange(1, 94, 2)):
        keep = np.concatenate([np.arange(b * size, min((b + 1) * size, 6000)) for b in ids])
        shards.append(
            Stats(
                msgspec.structs.replace(stats.info, tokens=len(keep), text_bytes=2 * len(keep)),
                {**{k: stats.read(k)[..., keep] for k in stats._arrays}, "blocks": ids},
            )
        )
    assert certify(merge(shards), code_bits=1500) == c


def test_bare_losses_and_samples_of_tokens():
    losses = np.random.default_rng(0).gamma(2.0, 0.5, 3000).astype("f4")
    bare = Stats(StatsInfo(kind="bare", tokens=3000, window=(0, 3000)), {"nll": losses}, path="l.npy")
    with pytest.raises(UsageError, match="vocabulary"):
        certify(bare, code_bits=10)
    complete = certify(bare, code_bits=10, vocab_size=64)
    sampled = certify(bare, code_bits=10, vocab_size=64, stream_tokens=100_000)
    assert complete.bound == pytest.approx(recompute(complete, bare)[0], rel=1e-11)
    assert sampled.tokens.stream == 100_000 and sampled.tokens.evaluated == 3000
    assert sampled.bound == pytest.approx(recompute(sampled, bare)[0], rel=1e-11)
    with pytest.raises(InputError, match="every token once"):
        certify(bare, code_bits=10, vocab_size=64, stream_tokens=2000)


def test_losses_without_a_model_are_no_deployable_reference():
    """Whose losses a bare array holds nobody knows: an online reference's, perhaps, so the mixture is not said to be runnable."""
    losses = np.random.default_rng(0).gamma(2.0, 0.5, 3000).astype("f4")
    bare = Stats(StatsInfo(kind="bare", tokens=3000, window=(0, 3000), vocab_size=64), {"nll": losses}, path="l.npy")
    c = certify(bare, method="anchored", code_bits=10, alpha=0.3, reference=Stats(bare.info, {"nll": losses + 0.1}, path="r.npy"), predictable="as stated")
    assert c.anchor.kind == "online" and not c.anchor.deployable and "a fixed model" not in c.statement


def with_arrays(stats, info=None, **changes):
    arrays = {**{name: stats.read(name) for name in stats._arrays}, **changes}
    return Stats(
        msgspec.structs.replace(stats.info, **(info or {})), {k: v for k, v in arrays.items() if v is not None}, path="s.safetensors"
    )


def test_bad_input_is_refused_with_the_place(stats, online):
    nll = stats.read("nll").copy()
    for value, message in ((np.nan, "token 77 "), (-1.0, "token 77 "), (np.inf, "token 77 ")):
        nll[77] = value
        with pytest.raises(InputError, match=message):
            certify(with_arrays(stats, nll=nll.copy()), code_bits=10)
    entropy = stats.read("entropy").copy()
    entropy[5] = 9.0
    cases = [
        (InputError, "entropy", lambda: certify(with_arrays(stats, entropy=entropy), code_bits=10)),
        (InputError, "vocabulary", lambda: certify(with_arrays(stats), code_bits=10, vocab_size=17)),
        (InputError, "entropy", lambda: certify(with_arrays(stats, entropy=None), code_bits=10, centres=[Centre(kind="entropy")])),
        (InputError, "reference", lambda: certify(with_arrays(stats, reference_nll=None), code_bits=10, method="anchored")),
        (
            InputError,
            "another stream",
            lambda: certify(
                stats,
                code_bits=10,
                method="anchored",
                reference=with_arrays(online, {"stream": msgspec.structs.replace(online.info.stream, sha256="dd" * 32)}),
            ),
        ),
        (
            InputError,
            "vocabulary",
            lambda: certify(stats, code_bits=10, method="anchored", reference=with_arrays(online, {"vocab_size": 17})),
        ),
        (
            InputError,
            "before each token",
            lambda: certify(stats, code_bits=10, method="anchored", reference=with_arrays(online, {"predictable": ""})),
        ),
        (InputError, "itself", lambda: certify(stats, code_bits=10, method="anchored", reference=stats)),
        (InputError, "other places", lambda: certify(stats, code_bits=10, method="anchored", reference=sample_blocks(online, 10))),
        (InputError, "other places", lambda: certify(stats, code_bits=10, full=sample_blocks(stats, 10))),
        (
            InputError,
            "another stream",
            lambda: certify(
                stats, code_bits=10, full=with_arrays(online, {"stream": msgspec.structs.replace(online.info.stream, sha256="dd" * 32)})
            ),
        ),
        (InputError, "online losses", lambda: certify(online, code_bits=10)),
        (InputError, "kind", lambda: certify(stats, method="trajectory")),
        (InputError, "kind", lambda: certify(online, method="heldout")),
        (InputError, "complete|running", lambda: certify(sample_blocks(stats, 40), code_bits=10, centres=[Centre(kind="running")])),
        (InputError, "part of its window", lambda: certify(sample_blocks(online, 40), method="trajectory")),
        (InputError, "6,000 tokens", lambda: certify(stats, code_bits=10, stream_tokens=7000)),
        (
            InputError,
            "ragged|shorter",
            lambda: certify(
                with_arrays(stats, {"tokens": 64}, **{k: stats.read(k)[..., :64] for k in stats._arrays}, blocks=np.array([0])),
                code_bits=10,
            ),
        ),
        (InputError, "centre", lambda: certify(stats, code_bits=10, method="anchored", alpha=0.123, centres=[Centre(kind="kl", y_min=-1)])),
        (InputError, "centre", lambda: certify(stats, code_bits=10, method="anchored", eps=EPS * 2, centres=[Centre(kind="kl", y_min=-1)])),
        (UsageError, "code length", lambda: certify(stats)),
        (UsageError, "method", lambda: certify(stats, method="magic", code_bits=1)),
        (UsageError, "code_bits", lambda: certify(stats, method="heldout", code_bits=1)),
        (UsageError, "centre", lambda: certify(stats, code_bits=10, centres=[Centre(kind="kl", y_min=-1)], method="product")),
        (
            UsageError,
            "one: the inequality",
            lambda: certify(
                stats, code_bits=10, method="freedman", centres=[Centre(kind="zero", weight=0.5), Centre(kind="entropy", weight=0.5)]
            ),
        ),
        (UsageError, "y_min", lambda: certify(stats, code_bits=10, centres=[Centre(kind="entropy", y_min=50.0)])),
        (UsageError, "share", lambda: certify(stats, code_bits=10, shares=Shares(difference=0.5, reference=0.5))),
        (UsageError, "more than 1", lambda: certify(stats, code_bits=10, method="anchored", shares=Shares(difference=0.5, reference=0.6))),
        (UsageError, "window", lambda: certify(stats, code_bits=10, window=0.1)),
        (UsageError, "window", lambda: certify(online, method="trajectory", window=(5000, 7000))),
        (UsageError, "window", lambda: certify(online, method="trajectory", window=1.5)),
        (UsageError, "twice", lambda: certify(stats, code_bits=10, choices=[Choice(setting="alpha", options=3)])),
        (UsageError, "two options", lambda: certify(stats, code_bits=10, choices=[Choice(setting="bits", options=1)])),
        (UsageError, "alpha", lambda: certify(stats, code_bits=10, alphas=[0.1, 0.1])),
        (UsageError, "alpha", lambda: certify(stats, code_bits=10, alpha=0.1, alphas=[0.1])),
        (UsageError, "reference has no place", lambda: certify(stats, code_bits=10, eps=0.1)),
    ]
    cases += [(UsageError, "delta", lambda d=d: certify(stats, code_bits=10, delta=d)) for d in (0.0, 1.0, -1.0, math.nan)]
    for kind, message, call in cases:
        try:
            call()
        except kind as error:
            assert re.search(message, str(error) + error.where + error.expected), (message, str(error))
        else:
            pytest.fail(f"nothing raised for {message!r}")


def test_memory_does_not_grow_with_tokens(tmp_path):
    peaks = []
    for n in (2_200_000, 4_400_000):  # both more than two of the largest stretches that are read at once
        rng = np.random.default_rng(0)
        losses, entropy = rng.gamma(2.0, 0.5, n).astype("f4"), rng.uniform(0.1, 2.5, n).astype("f4")
        info = StatsInfo(tokens=n, window=(0, n), vocab_size=16, block_tokens=100)
        path = Stats(info, {"nll": losses, "entropy": entropy}).save(tmp_path / f"{n}.safetensors")
        del losses, entropy
        tracemalloc.start()
        certify(Stats.load(path), code_bits=10_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.05 < 100e6
