"""The survey: formulas, order, coverage of Azuma's form with a control, words where there is no number, the command."""

import json
import math

import numpy as np
import pytest
from certify_support import V, make_stats
from scipy.stats import binom

from scalebound.certify import certify, smooth_uniform, survey
from scalebound.certify.survey import azuma_bound, loss_range
from scalebound.cli import main
from scalebound.core.errors import InputError


def test_range_is_the_width_of_smoothed_losses():
    for alpha in (0.005, 0.5):
        low, high = smooth_uniform(np.array([0.0, 1e6]), V, alpha)
        assert loss_range(V, alpha) == pytest.approx(high - low, rel=1e-12)


def test_azuma_covers_and_half_of_it_does_not():
    rng, trials, n, delta = np.random.default_rng(0), 4000, 50, 0.1
    x = (rng.random((trials, n)) < 0.5).mean(axis=1)
    radius = azuma_bound(0.0, 1.0, n, code_bits=0, delta=delta)
    assert binom.sf(int((x + radius < 0.5).sum()) - 1, trials, delta) > 1e-6
    assert binom.sf(int((x + radius / 2 < 0.5).sum()) - 1, trials, delta) < 1e-6


def test_lines(stats, online):
    lines = {line.name: line for line in survey(stats, code_bits=900, heldout=make_stats(seed=3), online=online, documents=np.array([0, 2000, 3000, 6000]))}
    assert lines["product martingale"].value == certify(stats, code_bits=900).bound
    assert lines["product martingale"].value < lines["freedman, fully empirical"].value < lines["token level, Azuma"].value
    mean = stats.read("nll").mean(dtype="f8")
    assert lines["anchored"].tightness == pytest.approx(lines["anchored"].value - mean)
    best = min(
        smooth_uniform(stats.read("nll").astype("f8"), V, a).mean() + loss_range(V, a) * math.sqrt((math.log(100) + 903 * math.log(2)) / 12_000)
        for a in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    )
    assert lines["token level, Azuma"].value == pytest.approx(best, rel=1e-9)
    assert lines["document level, Hoeffding"].vacuous and lines["parameter count, float32"].vacuous
    assert lines["trajectory"].value is not None and lines["held out"].value < lines["product martingale"].value
    for name in ("PAC-Bayes, Gaussian posterior", "sharpness", "spectral norms"):
        assert lines[name].value is None and "--weights" in lines[name].reason
    plain = {line.name: line for line in survey(stats, code_bits=900)}
    assert plain["document level, Hoeffding"].value is None and "order" in plain["document level, Hoeffding"].reason


def test_command(tmp_path, monkeypatch, capsys, stats):
    monkeypatch.chdir(tmp_path)
    stats.save("s.safetensors")
    assert main(["certify", "s.safetensors", "--code-bits", "900", "--survey", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["lines"]) >= 9
    assert main(["certify", "s.safetensors", "--code-bits", "900", "--survey"]) == 0 and "vacuous" in capsys.readouterr().out
    assert main(["certify", "s.safetensors", "--survey"]) == 2
    assert main(["certify", "s.safetensors", "--code-bits", "900", "--heldout", "s.safetensors"]) == 2
    from certify_support import sample_blocks

    with pytest.raises(InputError):
        survey(sample_blocks(stats, 20), code_bits=10)
