"""``certify --best``: the smallest of what was tried, every choice paid; several statements together keep delta."""

import json
import math

import msgspec
import numpy as np
import pytest
from certify_support import make_stats, recompute
from scipy.stats import binom

from scalebound.certify import Artefact, certify, certify_best
from scalebound.cli import main
from scalebound.core.certificate import Choice, load_certificate
from scalebound.core.errors import InputError, UsageError
from scalebound.core.io import sha256_file
from scalebound.core.stats import ModelRef, Stats, StatsInfo


def test_the_best_of_the_table_and_its_price(stats):
    worse = Stats(msgspec.structs.replace(stats.info, model=ModelRef("coarse", "dd" * 32, 1234)), {n: stats.read(n) + (0.2 if n == "nll" else 0) for n in stats._arrays})
    best, tried = certify_best([Artefact(stats, 3000, name="fine"), Artefact(worse, 700, name="coarse")])
    open_to_choice = [line for line in tried if line.candidate]
    assert best.bound == min(line.bound for line in open_to_choice) and sum(line.chosen for line in tried) == 1
    assert {(line.artefact, line.method) for line in tried} == {(a, m) for a in ("fine", "coarse") for m in ("freedman", "product", "anchored")}
    paid = {choice.setting: choice.options for choice in best.code.choices}
    assert paid["reference"] == 2 and (best.method != "anchored" or paid["eps"] == 2)
    alone = certify(stats, code_bits=3000, choices=[Choice(setting="reference", options=2)])
    assert next(line for line in tried if line.artefact == "fine" and line.method == "product").bound == alone.bound
    # the certificate recomputed from the conventions alone
    source = stats if best.code.bits == 3000 else worse
    assert best.bound == pytest.approx(recompute(best, source)[0], rel=1e-9)


def test_one_form_pays_nothing_more(stats):
    plain = Stats(msgspec.structs.replace(stats.info, anchor=None), {n: stats.read(n) for n in ("nll", "entropy")})
    best, tried = certify_best([Artefact(plain, 900)], compare=False)
    assert best.bound == certify(plain, code_bits=900).bound and len(tried) == 1


def test_refusals(stats):
    one = Artefact(stats, 900)
    short = Stats(StatsInfo(kind="bare", tokens=10, window=(0, 10), vocab_size=16), {"nll": np.ones(10, dtype="f4")})
    for call in (
        lambda: certify_best([]),
        lambda: certify_best([one], epsilons=[0.1, 0.1]),
        lambda: certify_best([one], epsilons=[]),
        lambda: certify_best([one], choices=[Choice(setting="eps", options=2)]),
    ):
        with pytest.raises(UsageError):
            call()
    with pytest.raises(InputError):
        certify_best([one, Artefact(short, 10)])
    elsewhere = Stats(msgspec.structs.replace(stats.info, anchor=msgspec.structs.replace(stats.info.anchor, sha256="ee" * 32)), {n: stats.read(n) for n in stats._arrays})
    with pytest.raises(InputError, match="another anchor"):
        certify_best([one, Artefact(elsewhere, 900)])


def test_choosing_among_many_references_is_covered_when_paid_and_not_when_free():
    """400 predictors of fair coins, all with the same expected loss; the one that looks best is certified. Losses are
    drawn anew each time, and the true expected loss is known."""
    rng, trials, n, k, delta = np.random.default_rng(0), 60, 200, 400, 0.2
    p, paid, free = 0.5, 0, 0
    for _ in range(trials):
        # each bets on coins of its own: the luckiest looks best
        coins = rng.random((k, n)) < p
        losses = np.where(coins, -math.log(0.9), -math.log(0.1))
        truth = p * -math.log(0.9) + (1 - p) * -math.log(0.1)

        def bound(x, options):
            info = StatsInfo(kind="bare", tokens=n, window=(0, n), vocab_size=2)
            held = Stats(info, {"nll": x.astype("f4")})
            choice = [Choice(setting="reference", options=options)] if options > 1 else []
            return certify(held, method="heldout", alpha=1e-4, delta=delta, choices=choice).bound

        lucky = losses[int(np.argmin(losses.mean(axis=1)))]
        paid += bound(lucky, k) < truth
        free += bound(lucky, 1) < truth
    assert binom.sf(paid - 1, trials, delta) > 1e-6
    assert binom.sf(free - 1, trials, delta) < 1e-6


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stats = make_stats(n=3000)
    stats.save("s.safetensors")
    other = Stats(msgspec.structs.replace(stats.info, model=ModelRef("r", "", 5), predictable="made elsewhere", anchor=None), {"nll": stats.read("reference_nll")})
    other.save("r.safetensors")

    def run(*words):
        status = main(["certify", *words, "--json"])
        return status, json.loads(capsys.readouterr().out)

    status, record = run("s.safetensors", "--code-bits", "300", "--best", "--reference", "r.safetensors", "--out", "c.json")
    tried = record.pop("tried")
    assert status == 0 and record["bound"] == min(line["bound"] for line in tried if line["candidate"]) and len(tried) == 7
    assert msgspec.to_builtins(load_certificate("c.json")) == record or json.loads((tmp_path / "c.json").read_text()) == record
    assert record["inputs"]["stats"]["sha256"] == sha256_file("s.safetensors")
    assert run("s.safetensors", "--code-bits", "300", "--best", "--require", "0.1")[0] == 1
    assert main(["certify", "s.safetensors", "--code-bits", "300", "--best"]) == 0 and "for comparison" in capsys.readouterr().out
    for words in (["--best", "--alpha", "0.1"], ["--best", "--also", "x"], ["--also", "a=b"], ["--best", "--method", "anchored"]):
        assert run("s.safetensors", "--code-bits", "300", *words)[0] == 2
    assert run("s.safetensors", "--best")[0] == 2


def test_deployable_only(stats):
    """Online losses that would win are shown and not chosen, and not paid for."""
    info = msgspec.structs.replace(stats.info, kind="online", anchor=None, predictable="for the test", model=ModelRef("online"))
    online = Stats(info, {"nll": stats.read("nll") * np.float32(0.3)})
    free, _ = certify_best([Artefact(stats, 3000)], references=[online], compare=False)
    kept, tried = certify_best([Artefact(stats, 3000)], references=[online], compare=False, deployable=True)
    assert not free.anchor.deployable and kept.anchor.deployable and free.bound < kept.bound
    assert {line.deployable for line in tried} == {True, False} and all(line.deployable == line.candidate for line in tried)
    assert kept.bound == certify_best([Artefact(stats, 3000)], compare=False)[0].bound
