"""Bounds of weights: the divergence against integration, the bound against loops and in coverage, measures, and a run with noise on its weights."""

import json
import math

import msgspec
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from scalebound.certify.pac_bayes import GRID, WeightNoise, gaussian_kl, pac_bayes_bound, sharpness_measure, spectral_measure
from scalebound.core.errors import InputError


def test_divergence_against_integration():
    for shift, sigma, prior in ((0.7, 0.5, 1.3), (0.0, 1.0, 0.9)):
        q, p = norm(shift, sigma), norm(0, prior)
        one = quad(lambda x, q=q, p=p: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -12, 12)[0]
        assert gaussian_kl(1, shift**2, sigma, prior) == pytest.approx(one, rel=1e-8)
        assert gaussian_kl(5, 5 * shift**2, sigma, prior) == pytest.approx(5 * one, rel=1e-8)


def test_bound_against_loops():
    rng = np.random.default_rng(0)
    table, range_, n, delta = rng.normal(2.0, 0.3, (2, 100)), 7.0, 500_000, 0.02
    noise = WeightNoise(1_000, 30.0, (0.01, 0.1), table, 1.9, 0.05)
    best = math.inf
    for sigma, row in zip(noise.sigmas, table, strict=True):
        t = math.log(8 / delta)
        error = math.sqrt(2 * row.var(ddof=1) * t / 100) + 7 * range_ * t / (3 * 99)
        for i in range(GRID):
            for j in range(GRID):
                kl = gaussian_kl(1_000, 30.0, sigma, 16 * 2 ** (-i / 2))
                c = 4 * 2 ** (-j / 4)
                best = min(best, row.mean() + error + (kl + math.log(2 * GRID**2 * 2 / delta)) / (c * n) + c * range_**2 / 8)
    assert pac_bayes_bound(noise, range_, n, delta=delta)[0] == pytest.approx(best, rel=1e-12)
    # more distance, fewer tokens or less confidence never help
    for other in (dict(squared_distance=60.0), dict(params=2_000)):
        changed = WeightNoise(**{**vars(noise), **other})
        assert pac_bayes_bound(changed, range_, n, delta=delta)[0] > best
    assert pac_bayes_bound(noise, range_, n // 2, delta=delta)[0] > best < pac_bayes_bound(noise, range_, n, delta=delta / 10)[0]
    with pytest.raises(InputError):
        pac_bayes_bound(WeightNoise(1, 1.0, (0.1,), table, 1.0, 0.1), range_, n, delta=delta)


def test_coverage_of_a_fitted_mean_and_a_control():
    """The mean of 200 Gaussian data in [0, 1], fitted and shifted by noise: never above its bound; without the divergence and confidence it would be."""
    rng, n, d, missed, control = np.random.default_rng(3), 40, 30, 0, 0
    for _ in range(200):
        data = rng.random((n, d)) < 0.5  # d useless bits; the weight with the best training error is taken
        errors = data.mean(0)
        w = np.zeros(d)
        w[errors.argmin()] = 6.0  # picks that bit nearly surely under noise 1
        draws = rng.normal(size=(400, d)) + w
        picked = draws.argmax(1)
        losses = data[rng.integers(n, size=400), picked].astype(float)
        truth = 0.5  # of any bit
        bound, _ = pac_bayes_bound(WeightNoise(d, 36.0, (1.0,), losses[None], 0.0, 0.1), 1.0, n, delta=0.1)
        missed += truth > bound
        control += truth > losses.mean() + math.sqrt(math.log(1 / 0.1) / (2 * n)) * 0.5
    assert missed <= 0.1 * 200 and control > 100


def test_measures():
    noise = WeightNoise(10, 4.0, (0.1, 0.2), np.array([[1.0, 1.04], [1.5, 1.7]]), 1.0, 0.1, ((2.0, 1.0), (3.0, 0.5)))
    value, sigma = sharpness_measure(noise, 5.0, 1_000, delta=0.01)
    assert sigma == 0.1 and value == pytest.approx(1.02 + 5 * math.sqrt((4.0 / 0.04 + math.log(100_000) + 10) / 1_000))
    assert sharpness_measure(WeightNoise(**{**vars(noise), "plain": 0.5}), 5.0, 1_000, delta=0.01)[0] == math.inf
    r = 6.0 * (0.5 ** (2 / 3) + (0.5 / 3) ** (2 / 3)) ** 1.5
    assert spectral_measure(noise, 5.0, 1_000) == pytest.approx(1.0 + 5 * r / math.sqrt(1_000))


def test_a_run(tmp_path, capsys):
    """Noise raises the loss; zero noise leaves it; the survey shows all three numbers."""
    from scalebound.cli import main
    from scalebound.data import build_stream, load_tokenizer, read_corpus
    from scalebound.data.stream import SourceRef
    from scalebound.measure import measure
    from scalebound.train import derive_recipe, noise_on_weights, train_run

    (tmp_path / "t.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(900)))
    corpus = read_corpus(tmp_path / "t.txt")
    stream = build_stream(corpus.documents, load_tokenizer(), tmp_path / "s", sequence_tokens=32, source=SourceRef("t", corpus.sha256), seed=0)
    recipe = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 60, batch_sequences=4, warmup=0.1)
    train_run(recipe, stream.path, tmp_path / "run")
    window = (0, recipe.tokens)
    found = noise_on_weights.weight_noise(tmp_path / "run", stream.path, window, sigmas=(1e-7, 0.3), samples=20)
    assert found.losses[0].mean() == pytest.approx(found.plain, abs=1e-3) and found.losses[1].mean() > found.plain + 0.3
    assert found.params == recipe.params and found.squared_distance > 1 and all(norm > 0 for norm, _ in found.spectral)
    again = noise_on_weights.weight_noise(tmp_path / "run", stream.path, window, sigmas=(1e-7, 0.3), samples=20)
    assert np.array_equal(again.losses, found.losses)
    measure(tmp_path / "run", stream.path, tmp_path / "m.safetensors", window=window)
    capsys.readouterr()
    assert main(["certify", str(tmp_path / "m.safetensors"), "--code-bits", "900", "--survey", "--weights", str(tmp_path / "run"), "--json"]) == 0
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)["lines"]}
    assert all(lines[name]["value"] is not None for name in ("PAC-Bayes, Gaussian posterior", "spectral norms"))
    assert main(["certify", str(tmp_path / "m.safetensors"), "--code-bits", "900", "--weights", str(tmp_path / "run")]) == 2
