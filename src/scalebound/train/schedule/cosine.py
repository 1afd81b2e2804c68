"""Warmup, then half a cosine over everything that follows (Loshchilov and Hutter, arXiv 1608.03983, without restarts)."""

from __future__ import annotations

import math

from scalebound.train.schedule.warmup import rising_steps

FLOOR = 0.1  # share of the peak where it ends, as in Hoffmann et al., arXiv 2203.15556


def cosine(step: int, steps: int, *, warmup: float, decay: float = 0.0, floor: float = FLOOR) -> float:
    """Factor of the peak rate at a step counted from 0.

    Linear from 1/(warmup steps) to 1, then ``floor + (1 - floor) (1 + cos(pi t)) / 2`` with t from 0 at the end of warmup to 1 at the last
    step; ``decay`` plays no part.

    >>> [round(cosine(s, 11, warmup=0.1), 3) for s in (0, 5, 10)]
    [1.0, 0.55, 0.1]
    """
    rising = rising_steps(steps, warmup)
    if step < rising:
        return (step + 1) / rising
    t = (step - rising + 1) / max(1, steps - rising)
    return floor + (1 - floor) * (1 + math.cos(math.pi * t)) / 2
