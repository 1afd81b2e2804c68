"""Warmup, a stable stretch, then a geometric (exponential) cooldown (Hu et al., arXiv 2404.06395)."""

from __future__ import annotations

from scalebound.train.schedule.warmup import remaining, rising_steps

FLOOR = 0.01  # share of the peak towards which it falls


def wsd_geometric(step: int, steps: int, *, warmup: float, decay: float, floor: float = FLOOR) -> float:
    """Factor of the peak rate at a step counted from 0: as warmup-stable-decay, with ``floor ** (1 - r)`` where r is the share of the
    cooldown still to come: every step multiplies the rate by the same number.

    >>> [round(wsd_geometric(s, 10, warmup=0.2, decay=0.4), 4) for s in (0, 5, 8, 9)]
    [0.5, 1.0, 0.1, 0.0316]
    """
    return min(1.0, (step + 1) / rising_steps(steps, warmup), floor ** (1 - remaining(step, steps, decay)))
