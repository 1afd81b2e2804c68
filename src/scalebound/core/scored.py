"""Text as one sampler sees it: what measuring hands to a test of "was this sampled from the model"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import InputError
from scalebound.core.stats import Stats


@dataclass(frozen=True)
class Scored:
    """Text under one sampler: losses, and the mean and variance the sampler itself gives them, all (tokens,), nats.

    ``nll`` may be infinite: a token outside the nucleus. ``bet`` (None: everywhere) is False where nothing is staked: prompt tokens,
    separators, and tokens at which rounding decides what the nucleus is; it must not depend on the token itself.
    """

    nll: np.ndarray
    entropy: np.ndarray
    varentropy: np.ndarray | None = None
    bet: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.nll)
        if len(shape) != 1 or not shape[0]:
            raise InputError("holds no token", where="detect", expected="at least one token")
        for name in ("entropy", "varentropy", "bet"):
            values = getattr(self, name)
            if values is not None and np.shape(values) != shape:
                raise InputError(f"{name} has shape {np.shape(values)}", where="detect", expected=f"{shape} as the losses")
        for name, values in (("nll", self.nll), ("entropy", self.entropy), ("varentropy", self.varentropy)):
            if values is not None:
                wrong = ~(np.asarray(values) >= -1e-4) | ((name != "nll") & ~np.isfinite(values))
                if wrong.any():
                    k = int(np.argmax(wrong))
                    raise InputError(f"token {k} has {name} = {values[k]}", where="detect", expected="numbers of 0 or more")

    def __len__(self) -> int:
        return len(self.nll)

    def part(self, start: int, stop: int) -> Scored:
        cut = [None if v is None else v[start:stop] for v in (self.nll, self.entropy, self.varentropy, self.bet)]
        return Scored(*cut)  # type: ignore[arg-type]

    @classmethod
    def of(cls, stats: Stats) -> Scored:
        """The arrays of a stats file: the null is sampling at temperature 1 from the whole distribution, in the file's context."""
        if "entropy" not in stats:
            raise InputError(
                "has no array 'entropy', without which nothing says what losses to expect",
                where=stats.path,
                hint="measure the text with `scalebound measure`, or give TEXT and --model",
            )
        stats.check_values()
        return cls(stats.read("nll"), stats.read("entropy"), stats.read("varentropy") if "varentropy" in stats else None)
