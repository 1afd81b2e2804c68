"""The leak test: exact level, power, and the story it is for: an anchor trained on the window whose papers say otherwise."""

import itertools
import json
import shutil

import msgspec
import numpy as np
import pytest
from scipy.stats import binom

from scalebound.certify import certify
from scalebound.certify.leakage import leakage
from scalebound.cli import main
from scalebound.core.errors import InputError, UsageError


def test_against_all_assignments():
    """Five documents against three: the p-value tends to the share of the 56 assignments at least as extreme."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(1.6, 0.5, 5), rng.normal(2.0, 0.5, 3)
    every = np.concatenate([a, b])
    exact = np.mean([every[list(chosen)].sum() <= a.sum() + 1e-12 for chosen in itertools.combinations(range(8), 5)])
    assert leakage(a, b, permutations=20_000).p_value == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 20_000) ** 0.5)


def test_level_and_power():
    """400 pairs of equal collections reject at most at the level (binomial test at 1e-6); with a leak of half a deviation most do."""
    rng, rejected, power = np.random.default_rng(9), 0, 0
    for k in range(400):
        base = rng.gamma(4.0, 0.5, 80)
        rejected += leakage(base[:40], base[40:], level=0.05, permutations=199, seed=k).verdict == "saw the window"
        power += leakage(base[:40] - 0.5, base[40:], level=0.05, permutations=199, seed=k).verdict == "saw the window"
    assert rejected <= binom.ppf(1 - 1e-6, 400, 0.05) and power > 200


def test_refusals():
    with pytest.raises(InputError):
        leakage(np.ones(1), np.ones(5))
    with pytest.raises(InputError):
        leakage(np.array([1.0, np.nan]), np.ones(5))
    with pytest.raises(UsageError):
        leakage(np.ones(3), np.ones(5), level=0.0)
    with pytest.raises(UsageError):
        leakage(np.ones(3), np.ones(5), permutations=0)


def test_forged_provenance_passes_the_doors_and_not_the_test(tmp_path, capsys):
    """An anchor trained on the window, its run.json rewritten: measured and certified without complaint, found by its losses. An honest one is not."""
    from scalebound.core.stats import Stats
    from scalebound.data import build_stream, load_tokenizer, read_corpus, split_documents
    from scalebound.data.stream import SourceRef
    from scalebound.measure import measure
    from scalebound.train import derive_recipe, train_run

    rng = np.random.default_rng(4)
    (tmp_path / "text").mkdir()
    for k in range(60):  # every document has words of its own, which only who read it knows
        words = ["".join(map(chr, rng.integers(97, 123, 6))) for _ in range(4)]
        (tmp_path / "text" / f"{k}.py").write_text("".join(f"{words[j % 4]} = {words[(j * 3 + 1) % 4]}({j})\n" for j in range(40)))
    corpus = read_corpus(tmp_path / "text")
    third = corpus.num_bytes // 3
    splits = split_documents(corpus, {"anchor": third, "heldout": third}, seed=1)
    source, tokens = SourceRef(corpus.name, corpus.sha256), load_tokenizer()
    recipe = msgspec.structs.replace(derive_recipe(15_000, context=64), tokens=64 * 4 * 40, batch_sequences=4, warmup=0.1, learning_rate=0.02)

    def built(name, split, seed):
        return build_stream(splits[split], tokens, tmp_path / name, sequence_tokens=64, source=source, split=split, seed=seed)

    window, fresh = built("window", "train", None), built("fresh", "heldout", None)
    found = {}
    for name, split in (("forger", "train"), ("honest", "anchor")):
        stream = built(f"{name}-stream", split, 3)
        # several passes, so that what was read is known
        passes = msgspec.structs.replace(recipe, tokens=len(stream) // 256 * 256)
        train_run(passes, stream.path, tmp_path / name)
        run = json.loads((tmp_path / name / "run.json").read_text())
        run["stream"]["sha256"], run["stream"]["path"] = "0" * 64, "elsewhere.json"  # forged: says it saw another stream
        (tmp_path / name / "run.json").write_text(json.dumps(run))
        shutil.rmtree(tmp_path / f"{name}.s", ignore_errors=True)
        stats = measure(tmp_path / name, window.path, tmp_path / f"{name}-w.safetensors", anchor=tmp_path / name)
        measure(tmp_path / name, fresh.path, tmp_path / f"{name}-f.safetensors")
        # the certificate of another model on this anchor goes through: its papers are in order
        other = Stats(msgspec.structs.replace(stats.info, model=msgspec.structs.replace(stats.info.model, sha256="9" * 64)), {x: stats.read(x) for x in ("nll", "reference_nll", "centre")})
        assert certify(other, method="anchored", code_bits=500).anchor.deployable
        assert main(["leak", str(tmp_path / f"{name}-w.safetensors"), str(tmp_path / f"{name}-f.safetensors"), "--json"]) == 0
        found[name] = json.loads(capsys.readouterr().out)
    assert found["forger"]["verdict"] == "saw the window" and found["forger"]["advantage"] > 0.02
    assert found["honest"]["verdict"] == "undecided"
