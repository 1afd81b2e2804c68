"""Warmup, then a constant rate: the trunk from which cooldowns are branched (Haegele et al., arXiv 2405.18392)."""

from __future__ import annotations

from scalebound.train.schedule.warmup import rising_steps


def constant(step: int, steps: int, *, warmup: float, decay: float = 0.0) -> float:
    """Factor of the peak rate at a step counted from 0: linear from 1/(warmup steps) to 1, then 1; ``decay`` plays no part.

    >>> [constant(s, 10, warmup=0.2) for s in (0, 1, 5, 9)]
    [0.5, 1.0, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / rising_steps(steps, warmup))
