"""Bounds while training: equal to the certificate at every stop, valid at all stops at once, the last piece the default certificate."""

import numpy as np
import pytest

from scalebound.certify import LiveTrajectory, certify
from scalebound.core.errors import UsageError
from scalebound.core.stats import Stats, StatsInfo


def online(losses: np.ndarray, low: int = 0) -> Stats:
    info = StatsInfo(kind="online", tokens=len(losses), window=(low, low + len(losses)), vocab_size=256, predictable="before each update")
    return Stats(info, {"nll": losses.astype("f4")})


@pytest.mark.parametrize(("n", "batch", "low"), [(20_000, 512, 0), (7_777, 100, 300), (25, 10, 0)])
def test_equals_the_certificate_at_every_stop(n, batch, low):
    losses = np.random.default_rng(n).gamma(2.0, 1.0, n).astype("f4")
    live, seen = LiveTrajectory((low, low + n), 256), []
    for k in range(0, n, batch):
        seen += live.add(losses[k : k + batch])
    stats = online(losses, low)
    assert seen and seen[-1].stop == seen[-1].end == low + n and len({s.start for s in seen}) == 10
    for standing in seen[:: max(1, len(seen) // 25)] + seen[-1:]:
        again = certify(stats, method="trajectory", window=(standing.start, standing.stop), horizon=standing.end - standing.start, alpha=standing.alpha, delta=standing.delta)
        assert standing.bound == pytest.approx(again.bound, rel=1e-12)
    assert seen[-1].bound == pytest.approx(certify(stats, method="trajectory").bound, rel=1e-12)


def test_holds_at_all_stops_at_once():
    """Losses 0 or 6 whose mean drifts: at most delta of 300 runs are above their bound at any stop; a tenth of the excess does not do (control)."""
    rng, misses, control, delta = np.random.default_rng(5), 0, 0, 0.2
    for _ in range(300):
        p = np.linspace(0.6, 0.2, 2_000)
        losses = np.where(rng.random(2_000) < p, 6.0, 0.0)
        live = LiveTrajectory((0, 2_000), 256, pieces=1, looks=200, delta=delta)
        smooth = np.array([-np.log((1 - live.alpha) * np.exp(-x) + live.alpha / 256) for x in (0.0, 6.0)])
        truth = np.cumsum(p * smooth[1] + (1 - p) * smooth[0]) / np.arange(1, 2_001)
        bad = worse = False
        for s in live.add(losses):
            bad |= truth[s.stop - 1] > s.bound
            worse |= truth[s.stop - 1] > s.mean + 0.1 * (s.bound - s.mean)
        misses, control = misses + bad, control + worse
    assert misses <= 0.2 * 300 + 3 * (300 * 0.2 * 0.8) ** 0.5 and control > 0.35 * 300


def test_bad_windows():
    with pytest.raises(UsageError):
        LiveTrajectory((5, 5), 256)
    with pytest.raises(UsageError):
        LiveTrajectory((0, 100), 256, pieces=0)
