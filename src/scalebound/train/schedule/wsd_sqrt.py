"""Warmup, a stable stretch, then the "1 - sqrt" cooldown (Haegele et al., arXiv 2405.18392: the best of those they tried)."""

from __future__ import annotations

import math

from scalebound.train.schedule.warmup import remaining, rising_steps


def wsd_sqrt(step: int, steps: int, *, warmup: float, decay: float) -> float:
    """Factor of the peak rate at a step counted from 0: as warmup-stable-decay, with ``1 - sqrt(1 - r)`` where r is the share of the
    cooldown still to come; it falls steeply first and slowly at the end.

    >>> [round(wsd_sqrt(s, 10, warmup=0.2, decay=0.4), 4) for s in (0, 5, 7, 9)]
    [0.5, 1.0, 0.5, 0.134]
    """
    return min(1.0, (step + 1) / rising_steps(steps, warmup), 1 - math.sqrt(1 - remaining(step, steps, decay)))
