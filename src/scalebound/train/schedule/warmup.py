"""The two counts that every schedule shares: steps of warmup and steps of cooldown."""

from __future__ import annotations


def rising_steps(steps: int, warmup: float) -> int:
    """Steps of warmup: the share ``warmup`` of all steps, rounded, at least one (whose factor is then 1)."""
    return max(1, round(warmup * steps))


def falling_steps(steps: int, decay: float) -> int:
    """Steps of cooldown: the share ``decay`` of all steps, rounded, at least one."""
    return max(1, round(decay * steps))


def remaining(step: int, steps: int, decay: float) -> float:
    """Share of the cooldown that is still to come, in (0, 1]: 1 before it begins, 1/(cooldown steps) at the last step.

    >>> [remaining(s, 10, 0.4) for s in (0, 6, 7, 9)]
    [1.0, 1.0, 0.75, 0.25]
    """
    return min(1.0, (steps - step) / falling_steps(steps, decay))
