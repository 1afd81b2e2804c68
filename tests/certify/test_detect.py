"""Detection and contamination: each game's factor has mean at most 1 under the null, level by simulation with controls, power, refusals."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from scalebound.certify import Scored, detect, detect_documents, exchangeability
from scalebound.certify.detect import combine, likelihood_ratio, wealth, z_statistic
from scalebound.cli import main
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import ModelRef, Stats, StatsInfo, StreamRef

V, N = 50, 400


def within_level(found, trials, level):
    """Compatible with a probability of at most ``level``; a true level wrongly refused once in a million."""
    return binom.sf(found - 1, trials, level) > 1e-6


@pytest.fixture(scope="module")
def chain():
    """Two models over pairs (previous, next), with the tables of loss, mean and variance each needs."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2.0, (V, V))
    tables = []
    for z in (logits, logits + rng.normal(0, 0.5, (V, V)), logits / 0.85):
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        x = -np.log(p)
        h = (p * x).sum(axis=1)
        tables.append((p, x, h, (p * (x - h[:, None]) ** 2).sum(axis=1)))
    return tables


def walk(p, streams, n, seed):
    rng, cumulative = np.random.default_rng(seed), p.cumsum(axis=1)
    x = np.zeros((streams, n + 1), dtype=np.int64)
    for k in range(n):
        x[:, k + 1] = (rng.random((streams, 1)) > cumulative[x[:, k]]).sum(axis=1).clip(0, V - 1)
    return x


def scored(table, row):
    _, x, h, v = table
    return Scored(x[row[:-1], row[1:]], h[row[:-1]], v[row[:-1]])


@pytest.mark.parametrize("side", ["surprising", "predictable"])
def test_every_factor_has_mean_one_and_stays_positive(chain, side):
    """Exactly, token by token and bet by bet: sum over next tokens of probability times factor."""
    from scalebound.certify.detect import BETS

    p, x, h, v = chain[0]
    for before in range(V):
        for bet in BETS[::3]:
            factors = np.array(
                [
                    math.exp(
                        wealth(
                            Scored(x[before, k : k + 1], h[before : before + 1], v[before : before + 1]), side=side, bets=np.array([bet])
                        )[0]
                    )
                    for k in range(0, V)
                ]
            )
            assert factors.min() >= 0.04
            assert 1 - 1e-3 < float((p[before] * factors).sum()) <= 1.0
    # a loss of any size leaves the player above the reserve
    far = Scored(np.array([0.0, 30.0, 800.0]), np.full(3, 1.7), np.full(3, 2.5))
    assert np.all(np.diff(wealth(far, side=side), prepend=0.0) > math.log(0.04))


def test_plain_form(chain):
    """The fast form against the equation as written."""
    from scalebound.certify.detect import BETS, RESERVE, ROUNDING

    s = scored(chain[0], walk(chain[0][0], 1, 200, 1)[0])
    totals = np.zeros((2, len(BETS)))
    for x, h, v in zip(s.nll, s.entropy, s.varentropy, strict=True):
        slack = ROUNDING * (1 + h)
        w = v + ROUNDING * (1 + v) + (2 * slack) ** 2
        for j, bet in enumerate(BETS):
            totals[0, j] += math.log(1 + min(bet, (1 - RESERVE) / (h + slack)) * (x - h - slack))
            a = min(bet, 0.999 * (1 - RESERVE) / math.sqrt(w))
            b = ((1 - RESERVE) - math.sqrt((1 - RESERVE) ** 2 - a * a * w)) / (2 * w)
            y = x - max(h - slack, 0)
            totals[1, j] += math.log(1 - a * y + b * (y * y - w))
    for k, side in enumerate(("surprising", "predictable")):
        assert wealth(s, side=side)[-1] == pytest.approx(math.log(np.exp(totals[k]).mean()), rel=1e-9)


def test_level_at_every_length_and_the_z_test_watched_fails(chain):
    """1,500 streams sampled from A, watched at every token. The control: the normal statistic of the same tokens, watched as often."""
    trials, level = 1500, 0.05
    false = watched = 0
    for row in walk(chain[0][0], trials, N, 2):
        s = scored(chain[0], row)
        false += detect(s, level=level).verdict != "undecided"
        z = np.cumsum(s.nll - s.entropy) / np.sqrt(np.cumsum(s.varentropy))
        watched += np.any(np.abs(z[20:]) > 1.96)
    assert within_level(false, trials, level)
    assert not within_level(int(watched), trials, level)


def test_level_with_a_rival_and_power(chain):
    """Text of A, judged with B as rival: A is rejected at most at the level. Text of B: A is rejected, B is not. Text of neither."""
    trials, level = 200, 0.05
    a_false = b_false = a_found = b_found = own_found = 0
    for row in walk(chain[0][0], trials, N, 3):
        found = detect(scored(chain[0], row), scored(chain[1], row), level=level)
        a_false += found.verdict in ("not_a", "neither")
        b_found += found.verdict in ("not_b", "neither")
    for row in walk(chain[1][0], trials, N, 4):
        a, b = scored(chain[0], row), scored(chain[1], row)
        found = detect(a, b, level=level)
        b_false += found.verdict in ("not_b", "neither")
        a_found += found.verdict in ("not_a", "neither")
        own_found += detect(a, level=level).verdict == "not_a"
    assert within_level(a_false, trials, level) and within_level(b_false, trials, level)
    assert a_found >= 0.95 * trials and b_found >= 0.95 * trials
    assert a_found > own_found  # knowing the rival is worth something
    uniform = np.random.default_rng(5).integers(0, V, N + 1)
    assert detect(scored(chain[0], uniform), scored(chain[1], uniform)).verdict == "neither"


def test_a_colder_sampler_is_found_and_needs_the_variance(chain):
    rows = walk(chain[2][0], 60, 4 * N, 6)
    found = [detect(scored(chain[0], row)) for row in rows]
    assert sum(one.verdict == "not_a" for one in found) >= 50 and all(one.mean_excess < 0.2 for one in found)
    blind = [detect(Scored(s.nll, s.entropy)) for s in (scored(chain[0], row) for row in rows)]
    assert all(one.verdict == "undecided" for one in blind)
    # at the sampler's own settings it is not found
    assert within_level(sum(detect(scored(chain[2], row)).verdict == "not_a" for row in rows), 60, 0.05)


def test_documents_are_called_with_few_false_ones(chain):
    trials, shares = 40, []
    for t in range(trials):
        own, other = walk(chain[0][0], 12, 200, 100 + t), walk(np.full((V, V), 1 / V), 4, 200, 200 + t)
        parts = [(scored(chain[0], row), None) for row in (*own, *other)]
        found, called = detect_documents(parts, level=0.1)
        assert called[12:].all()
        shares.append(called[:12].sum() / called.sum())
    assert np.mean(shares) <= 0.1
    assert combine(found) == pytest.approx(sum(one.log_e_value for one in found))


def test_impossible_tokens_skipped_ones_and_chunks(chain):
    s = scored(chain[0], walk(chain[0][0], 1, 40_000, 7)[0])
    whole, early = detect(s), detect(s.part(0, 1000))
    assert whole.n == 40_000 and wealth(s, side="surprising")[999] == pytest.approx(
        wealth(s.part(0, 1000), side="surprising")[-1], rel=1e-12
    )
    assert early.verdict == "undecided"
    nll = np.array(s.nll[:1000])
    nll[500] = np.inf
    outside = detect(Scored(nll, s.entropy[:1000], s.varentropy[:1000]))
    assert outside.verdict == "not_a" and outside.crossed == 500 and outside.impossible == 1 and math.isfinite(outside.e_value)
    bet = np.ones(1000, dtype=bool)
    bet[500] = False
    assert detect(Scored(nll, s.entropy[:1000], s.varentropy[:1000], bet)).verdict == "undecided"
    assert likelihood_ratio(s.part(0, 5), s.part(0, 5)).max() <= 0


def test_refusals(chain):
    good = scored(chain[0], walk(chain[0][0], 1, 50, 8)[0])
    for call in (
        lambda: Scored(np.array([]), np.array([])),
        lambda: Scored(np.ones(3), np.ones(2)),
        lambda: Scored(np.array([1.0, np.nan]), np.ones(2)),
        lambda: Scored(np.array([1.0, -1.0]), np.ones(2)),
        lambda: Scored(np.ones(2), np.array([1.0, np.inf])),
        lambda: detect(good, good.part(0, 10)),
        lambda: wealth(Scored(good.nll, good.entropy), side="predictable"),
        lambda: z_statistic(Scored(good.nll, good.entropy)),
        lambda: exchangeability(np.zeros(3), np.zeros((5, 2))),
        lambda: exchangeability(np.array([np.nan]), np.zeros((5, 1))),
        lambda: exchangeability(np.zeros(3), np.zeros((0, 3))),
    ):
        with pytest.raises(InputError):
            call()
    for call in (lambda: detect(good, level=1.0), lambda: exchangeability(np.zeros(3), np.zeros((5, 3)), level=0)):
        with pytest.raises(UsageError):
            call()


def test_contamination_level_power_and_control():
    rng, trials, level = np.random.default_rng(9), 1500, 0.05
    for shards, orders in ((1, 39), (8, 19)):
        draws = rng.gamma(0.5, 4.0, (trials, orders + 1, shards))  # skewed: nothing is normal here
        false = sum(exchangeability(d[0], d[1:], level=level).verdict == "contaminated" for d in draws)
        ranked = sum(exchangeability(d[0], d[1:], level=level).permutation_p <= level for d in draws)
        assert within_level(false, trials, level) and within_level(ranked, trials, level)
    # the control: the likeliest of three tries is called the published order
    chosen = sum(
        exchangeability(max(d[:3], key=sum), d[3:], level=level).permutation_p <= level for d in rng.gamma(0.5, 4.0, (trials, 42, 1))
    )
    assert not within_level(chosen, trials, level)
    found = [exchangeability(rng.normal(1.5, 1, 10), rng.normal(0, 1, (49, 10))) for _ in range(100)]
    assert sum(f.verdict == "contaminated" for f in found) >= 95 and all(f.e_value <= 50.0**10 for f in found)
    # all orders equal: no evidence, and no division by zero
    same = exchangeability(np.zeros(4), np.zeros((9, 4)))
    assert same.permutation_p == 1.0 and same.e_value == pytest.approx(1.0) and same.verdict == "undecided"


def test_command_on_statistics(tmp_path, monkeypatch, capsys, chain):
    monkeypatch.chdir(tmp_path)
    rows = {"own": walk(chain[0][0], 1, 3000, 10)[0], "other": np.random.default_rng(1).integers(0, V, 3001)}
    for name, row in rows.items():
        for which, table in (("a", chain[0]), ("b", chain[1])):
            s = scored(table, row)
            arrays = {"nll": s.nll, "entropy": s.entropy, "varentropy": s.varentropy}
            info = StatsInfo(
                model=ModelRef(which, which * 64, 1),
                stream=StreamRef("", name, 3000),
                window=(0, 3000),
                vocab_size=V,
                block_tokens=100,
                tokens=3000,
            )
            Stats(info, {k: v.astype("f4") for k, v in arrays.items()}).save(f"{name}-{which}.safetensors")
    Stats(info, {"nll": arrays["nll"].astype("f4")}).save("bare.safetensors")

    def run(*words):
        status = main(["detect", *words, "--no-separators", "--json"])
        return status, json.loads(capsys.readouterr().out)

    status, record = run("own-a.safetensors")
    assert status == 0 and record["verdict"] == "undecided" and set(record) >= {"e_value", "p_value", "verdict", "n", "documents"}
    assert run("other-a.safetensors")[1]["verdict"] == "not_a"
    status, record = run("own-a.safetensors", "--against", "own-b.safetensors")
    assert status == 0 and record["verdict"] == "not_b" and record["p_value_b"] < 0.05
    assert run("own-a.safetensors", "--against", "other-b.safetensors")[0] == 3
    assert run("bare.safetensors")[0] == 3
    assert run("own-a.safetensors", "--temperature", "0.5")[0] == 2
    assert run("text.txt")[0] == 2
    assert main(["detect", "other-a.safetensors", "--no-separators"]) == 0 and "not sampled from A" in capsys.readouterr().out
    assert main(["detect", "own-a.safetensors"]) == 3 and "separators" in capsys.readouterr().err
