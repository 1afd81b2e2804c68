"""e-BH, several models, documents and items as units: closed forms, level by simulation, refusals."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from scalebound.certify import compare, compare_many, e_bh, interval
from scalebound.certify.units import document_starts, group_starts, unit_means
from scalebound.cli import main
from scalebound.core.errors import InputError, UsageError
from scalebound.core.io import sha256_file
from scalebound.core.stats import ModelRef, Stats, StatsInfo, StreamRef


def bare(losses, vocab=256):
    losses = np.asarray(losses, dtype="f4")
    return Stats(StatsInfo(kind="bare", tokens=len(losses), window=(0, len(losses)), vocab_size=vocab), {"nll": losses}, path="l.npy")


def test_e_bh_is_the_definition():
    rng = np.random.default_rng(0)
    for total in (1, 2, 7, 30):
        for _ in range(50):
            e, level = np.exp(rng.normal(2, 2.5, total)), 0.1
            best = max((r for r in range(1, total + 1) if np.sort(e)[::-1][r - 1] >= total / (r * level)), default=0)
            rejected = e_bh(np.log(e), level)
            assert rejected.sum() == best and (not best or e[rejected].min() >= total / (best * level))
    assert not e_bh([-math.inf, -math.inf], 0.5).any() and e_bh([math.inf], 0.5).all()
    for wrong, error in (([math.nan], InputError), ([1.0], UsageError)):
        with pytest.raises(error):
            e_bh(wrong, 1.5 if error is UsageError else 0.1)


def test_false_discoveries_stay_below_the_level_and_without_the_correction_they_do_not():
    """60 nulls and no signal, e-values exp(N(-1/2, 1)) (mean exactly 1), strongly dependent in blocks of six: any rejection is false."""
    rng, trials, total = np.random.default_rng(1), 2000, 60
    z = np.repeat(rng.normal(0, 2.0, (trials, total // 6)), 6, axis=1)
    log_e = z - 2.0
    found = sum(e_bh(row, 0.1).any() for row in log_e)
    alone = (log_e >= math.log(10)).any(axis=1).sum()
    assert binom.sf(found - 1, trials, 0.1) > 1e-6
    assert binom.sf(alone - 1, trials, 0.1) < 1e-6  # the control: each at 1/level by itself


def test_many_models():
    rng = np.random.default_rng(2)
    base = rng.gamma(2.0, 1.0, 20_000)
    files = [bare(base + shift + rng.uniform(0, 0.2, 20_000)) for shift in (0.1, 0.0, 0.0, 0.3)]
    found = compare_many(files, epsilon=0.03)
    said = {pair: c.verdict for pair, c in zip(found.indices, found.pairs, strict=True)}
    assert list(said) == list(itertools.combinations(range(4), 2))
    assert said[0, 1] == said[0, 2] == "better_b" and said[0, 3] == said[1, 3] == "better_a" and said[1, 2] == "equal"
    assert found.wins == (1, 2, 2, 0)
    for pair in found.pairs:
        assert pair.low < pair.difference < pair.high
    # decided pairs: the interval agrees with the claim; two models are the ordinary comparison
    two, one = compare_many(files[:2]).pairs[0], compare(*files[:2])
    assert two.verdict == one.verdict and two.log_e_value == pytest.approx(one.log_e_value)
    with pytest.raises(UsageError):
        compare_many(files[:1])


def test_equal_models_are_rarely_told_apart():
    """Five models whose losses are exchangeable token by token: every claim is false. The control looks at each pair by itself."""
    rng, trials, claims, alone = np.random.default_rng(3), 60, 0, 0
    for _ in range(trials):
        files = [bare(x) for x in rng.gamma(1.0, 1.0, (5, 200))]
        claims += any(c.verdict != "undecided" for c in compare_many(files, level=0.8, sigma=1.2).pairs)
        means = [f.read("nll").mean() for f in files]
        alone += max(means) - min(means) > 1.2816 * math.sqrt(2 / 200)  # the normal test of the extreme pair at 0.8
    assert binom.sf(claims - 1, trials, 0.2) > 1e-6 and binom.sf(alone - 1, trials, 0.2) < 1e-6


def test_about_how_many_more():
    rng = np.random.default_rng(4)
    x = rng.gamma(2.0, 1.0, 400_000)
    y = np.maximum(x + rng.normal(0.02, 0.5, len(x)), 0)
    first = compare(bare(x[:1500]), bare(y[:1500]), horizon=20_000, sigma=0.5)
    assert first.verdict == "undecided" and first.more is not None
    n = 1500 + 3 * first.more
    assert compare(bare(x[:n]), bare(y[:n]), horizon=20_000, sigma=0.5).verdict == "better_a"
    assert compare(bare(x[:500]), bare(x[:500])).more is None  # no difference, no epsilon: never


def test_units():
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 50, 400)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    level = np.repeat(rng.uniform(0, 4, 400), lengths)
    x = np.maximum(level + rng.normal(0, 0.1, len(level)), 0).astype("f4")
    plain = [x[a:b].astype("f8").mean() for a, b in itertools.pairwise(starts)]
    assert np.allclose(unit_means(x, starts[:-1]), plain, rtol=1e-12)
    found = interval(bare(x), units=starts, sigma=1.2)
    assert found.n == 400 and found.mean == pytest.approx(np.mean(plain)) and "population" in found.target
    assert found.low < 2.0 < found.high
    # documents vary, tokens of one hardly do: counting tokens would promise far more than there is
    assert found.high - found.low > 2 * (lambda f: f.high - f.low)(interval(bare(x), sigma=1.2))
    pair = compare(bare(x), bare(x + 0.5), units=starts, sigma=0.1)
    assert pair.n == 400 and pair.verdict == "better_a"
    for wrong in ([0, 5, 5], [3, 1], [-1, 4], []):
        with pytest.raises(InputError):
            unit_means(x, np.array(wrong))


def test_documents_of_a_population_are_covered_and_tokens_as_units_are_not():
    rng, trials, missed, tokens = np.random.default_rng(6), 150, 0, 0
    for _ in range(trials):
        lengths = np.full(60, 30)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        x = np.repeat(rng.uniform(0, 4, 60), lengths)
        a, b = interval(bare(x), level=0.8, units=starts, sigma=1.2), interval(bare(x), level=0.8, sigma=1.2)
        missed += not a.low <= 2.0 <= a.high
        tokens += not b.low <= 2.0 <= b.high
    assert binom.sf(missed - 1, trials, 0.2) > 1e-6
    assert binom.sf(tokens - 1, trials, 0.2) < 1e-6


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)
    stream = {"documents": [0, 40, 70, 130], "num_tokens": 200, "seed": None}
    (tmp_path / "s.json").write_text(json.dumps(stream))
    info = StatsInfo(
        model=ModelRef("m", "aa", 1),
        stream=StreamRef("s.json", sha256_file("s.json"), 200),
        window=(30, 190),
        vocab_size=256,
        block_tokens=32,
        tokens=160,
    )
    for name in "abc":
        Stats(info, {"nll": rng.gamma(2.0, 1.0, 160).astype("f4")}).save(f"{name}.safetensors")
    rows = "\n".join(f"{k % 2},{k // 5}" for k in range(100))
    (tmp_path / "errors.csv").write_text("nll,item\n" + rows + "\n")
    return tmp_path


def test_document_starts(folder):
    stats = Stats.load("a.safetensors")
    assert document_starts(stats, "s.json").tolist() == [10, 40, 100]  # 40..70 and 70..130, counted from 30; the cut ones are left out
    (folder / "other.json").write_text(json.dumps({"documents": [0], "num_tokens": 200, "seed": None}))
    with pytest.raises(InputError, match="another stream"):
        document_starts(stats, "other.json")
    (folder / "x.json").write_text("[]")
    with pytest.raises(InputError, match="not a stream"):
        document_starts(stats, "x.json")
    assert group_starts("errors.csv", "item").tolist() == list(range(0, 101, 5))
    with pytest.raises(InputError, match="comes back"):
        group_starts("errors.csv", "nll")
    with pytest.raises(InputError, match="no column"):
        group_starts("errors.csv", "question")


def test_commands(folder, capsys):
    def run(*words):
        status = main([*words, "--json"])
        return status, json.loads(capsys.readouterr().out)

    status, record = run("interval", "a.safetensors", "--unit", "documents")
    assert status == 0 and record["n"] == 2
    status, record = run("interval", "errors.csv", "--maximum", "1", "--group", "item")
    assert status == 0 and record["n"] == 20 and record["low"] < 0.5 < record["high"]
    status, record = run("compare", "a.safetensors", "b.safetensors", "c.safetensors")
    assert status == 0 and len(record["pairs"]) == 3 and record["pairs"][2]["a"] == "b.safetensors" and len(record["wins"]) == 3
    assert run("compare", "a.safetensors", "b.safetensors", "--unit", "documents")[1]["n"] == 2
    assert main(["compare", "a.safetensors", "b.safetensors", "c.safetensors"]) == 0 and "expected share" in capsys.readouterr().out
    assert main(["compare", "a.safetensors", "b.safetensors"]) == 0 and "more" in capsys.readouterr().out
    assert run("interval", "a.safetensors", "--group", "item")[0] == 2
    assert run("interval", "errors.csv", "--maximum", "1", "--unit", "documents")[0] == 3
