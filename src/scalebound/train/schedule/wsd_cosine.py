"""Warmup, a stable stretch, then a cooldown in the form of half a cosine (Haegele et al., arXiv 2405.18392, appendix)."""

from __future__ import annotations

import math

from scalebound.train.schedule.warmup import remaining, rising_steps


def wsd_cosine(step: int, steps: int, *, warmup: float, decay: float) -> float:
    """Factor of the peak rate at a step counted from 0: as warmup-stable-decay, with ``(1 - cos(pi r)) / 2`` where r is the share of the
    cooldown still to come.

    >>> [round(wsd_cosine(s, 10, warmup=0.2, decay=0.4), 4) for s in (0, 5, 8, 9)]
    [0.5, 1.0, 0.5, 0.1464]
    """
    return min(1.0, (step + 1) / rising_steps(steps, warmup), (1 - math.cos(math.pi * remaining(step, steps, decay))) / 2)
