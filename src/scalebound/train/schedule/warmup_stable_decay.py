"""Warmup, a stable stretch, then linear decay to zero (Hu et al., arXiv 2404.06395; linear cooldown: Haegele et al., arXiv 2405.18392)."""

from __future__ import annotations

from scalebound.train.schedule.warmup import remaining, rising_steps


def warmup_stable_decay(step: int, steps: int, *, warmup: float, decay: float) -> float:
    """Factor of the peak rate at a step counted from 0.

    Linear from 1/(warmup steps) to 1 over the first ``warmup`` of the steps, 1, then linear towards 0 over the last ``decay``; the last step
    still has a positive rate.

    >>> [warmup_stable_decay(s, 10, warmup=0.2, decay=0.4) for s in (0, 1, 5, 6, 9)]
    [0.5, 1.0, 1.0, 1.0, 0.25]
    """
    return min(1.0, (step + 1) / rising_steps(steps, warmup), remaining(step, steps, decay))
