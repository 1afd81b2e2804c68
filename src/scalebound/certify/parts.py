"""The parts a certificate bounds: which losses, which centres, and the ranges that follow from how they were smoothed.

A :class:`Part` reads a stretch of a stats file and gives X and every Y of it. There are three: losses smoothed with the uniform
distribution, the difference between an anchored predictor and its reference, and the reference (docs/mathematics.md C2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scalebound.certify.logsums import LogSums
from scalebound.certify.smoothing import anchored_difference, smooth_reference, smooth_uniform
from scalebound.core.certificate import Centre
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats

Reader = Callable[[int, int], tuple[np.ndarray, list[np.ndarray | float]]]


@dataclass(frozen=True)
class Part:
    """Losses X with centres Y_j, ``X - Y_j <= ranges[j]``, ``A_j <= largest[j]`` and ``y_limits[j][0] <= Y_j <= y_limits[j][1]``.

    ``read(start, stop)`` gives X and the Y_j of tokens [start, stop) of the file. It must be called from the front, each token once, when
    a centre is ``running``.
    """

    centres: tuple[Centre, ...]
    ranges: tuple[float, ...]
    largest: tuple[float, ...]
    y_limits: tuple[tuple[float, float], ...]
    read: Reader
    sums: Callable[[np.ndarray], LogSums] | None = None  # of a sketch: the statistic of all its tokens on a grid; ``read`` is not used then


def check_centres(centres: Sequence[Centre], kinds: Sequence[str], top: float) -> tuple[Centre, ...]:
    """The centres with weights that sum to 1, or :class:`UsageError` when one has no place in this part."""
    if not centres:
        raise UsageError("no centre", where="centres", expected=f"at least one of {', '.join(kinds)}")
    for centre in centres:
        if centre.kind not in kinds:
            raise UsageError(f"the centre {centre.kind!r} has no meaning here", where="centres", expected=f"one of {', '.join(kinds)}")
        if (
            not math.isfinite(centre.y_min)
            or centre.y_min >= top
            or (centre.kind == "zero" and centre.y_min != 0)
            or (centre.kind == "kl" and centre.y_min >= 0)
        ):
            raise UsageError(
                f"y_min of the centre {centre.kind!r} is {centre.y_min}",
                where="centres",
                expected="0 for zero, below 0 for kl, and less than the range of the losses",
            )
        if not centre.weight > 0:
            raise UsageError(f"weight of the centre {centre.kind!r} is {centre.weight}", where="centres", expected="above 0")
    total = math.fsum(centre.weight for centre in centres)
    return tuple(Centre(kind=c.kind, y_min=c.y_min, weight=c.weight / total) for c in centres)


def parse_centres(text: str) -> tuple[Centre, ...]:
    """Centres as typed: ``zero,entropy:0.5,running:1`` - kind and y_min (for ``kl``: c), equal weights.

    >>> [(c.kind, c.y_min) for c in parse_centres("zero,entropy:0.5,kl:1")]
    [('zero', 0.0), ('entropy', 0.5), ('kl', -1.0)]
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    found = []
    for word in words:
        kind, _, number = word.partition(":")
        try:
            value = float(number or 0)
        except ValueError:
            raise UsageError(f"{word!r} is no centre", where="--centres", expected="for example zero,entropy:0.5") from None
        if kind not in ("zero", "running", "entropy", "kl"):
            raise UsageError(f"{kind!r} is no centre", where="--centres", expected="zero, running, entropy or kl")
        found.append(Centre(kind=kind, y_min=-abs(value) if kind == "kl" else value, weight=1 / len(words)))  # type: ignore[arg-type]
    return tuple(found)


def losses_of(stats: Stats, name: str, start: int, stop: int) -> np.ndarray:
    """The float64 losses of tokens [start, stop); the rounding of a float32 softmax, at most 1e-5 below 0, counts as 0."""
    return np.maximum(stats.read(name, start, stop), 0.0, dtype=np.float64)


class _Running:
    """The mean of all losses seen before each token."""

    def __init__(self, y_min: float) -> None:
        self.y_min, self.total, self.count = y_min, 0.0, 0

    def next(self, x: np.ndarray) -> np.ndarray:
        before = self.total + np.concatenate([[0.0], np.cumsum(x)])
        y = np.maximum(before[:-1] / np.maximum(np.arange(self.count, self.count + len(x)), 1), self.y_min)
        if not self.count and len(y):
            y[0] = self.y_min
        self.total, self.count = float(before[-1]), self.count + len(x)
        return y


def uniform_part(stats: Stats, vocab_size: int, alpha: float, centres: Sequence[Centre]) -> Part:
    """Losses of ``(1-alpha) p + alpha/V`` with centres ``zero``, ``running`` and ``entropy``."""
    top, log_v = math.log(vocab_size / alpha), math.log(vocab_size)
    centres = check_centres(centres, ("zero", "running", "entropy"), top)
    running = {j: _Running(c.y_min) for j, c in enumerate(centres) if c.kind == "running"}

    def read(start: int, stop: int) -> tuple[np.ndarray, list[np.ndarray | float]]:
        x = smooth_uniform(losses_of(stats, "nll", start, stop), vocab_size, alpha)
        own = None
        ys: list[np.ndarray | float] = []
        for j, centre in enumerate(centres):
            if centre.kind == "zero":
                ys.append(0.0)
            elif centre.kind == "running":
                ys.append(running[j].next(x))
            else:
                if own is None:
                    own = np.minimum(stats.read("entropy", start, stop), log_v, dtype=np.float64)
                    own *= 1 - alpha
                    own += alpha * log_v
                ys.append(np.maximum(own, centre.y_min))
        return x, ys

    ranges = tuple(top - c.y_min for c in centres)
    return Part(
        centres=centres,
        ranges=ranges,
        read=read,
        largest=tuple(
            0.0 if c.kind == "zero" else max(log_v if c.kind == "entropy" else top, c.y_min) / r
            for c, r in zip(centres, ranges, strict=True)
        ),
        y_limits=tuple((c.y_min, max(log_v, c.y_min) if c.kind == "entropy" else (0.0 if c.kind == "zero" else top)) for c in centres),
    )


def _reference_losses(stats: Stats, reference: Stats | None, start: int, stop: int) -> np.ndarray:
    return losses_of(stats, "reference_nll", start, stop) if reference is None else losses_of(reference, "nll", start, stop)


def reference_part(stats: Stats, reference: Stats | None, vocab_size: int, eps: float) -> Part:
    """Losses R of the smoothed reference, centre 0. ``reference`` is None when they stand in ``reference_nll`` of the same file."""

    def read(start: int, stop: int) -> tuple[np.ndarray, list[np.ndarray | float]]:
        return smooth_reference(_reference_losses(stats, reference, start, stop), vocab_size, eps), [0.0]

    return Part(centres=(Centre(kind="zero"),), ranges=(math.log(vocab_size / eps),), largest=(0.0,), y_limits=((0.0, 0.0),), read=read)


def difference_part(stats: Stats, reference: Stats | None, vocab_size: int, alpha: float, eps: float, centres: Sequence[Centre]) -> Part:
    """``X' - R`` with centres ``zero`` and ``kl`` (the row of ``centre`` that was measured for this alpha)."""
    top = math.log(1 / alpha)
    centres = check_centres(centres, ("zero", "kl"), top)
    row = -1
    if any(c.kind == "kl" for c in centres):
        measured = stats.info.anchor.alphas if stats.info.anchor and "centre" in stats and reference is None else ()
        if alpha not in measured:
            raise InputError(
                f"holds no centre for alpha = {alpha}",
                where=stats.path,
                expected=f"one of {', '.join(map(str, measured)) or 'none: measure with --anchor'}",
            )
        row = measured.index(alpha)

    def read(start: int, stop: int) -> tuple[np.ndarray, list[np.ndarray | float]]:
        r = smooth_reference(_reference_losses(stats, reference, start, stop), vocab_size, eps)
        x = anchored_difference(losses_of(stats, "nll", start, stop), r, alpha)
        kl = np.minimum(stats.read("centre", start, stop, row=row), 0.0, dtype=np.float64) if row >= 0 else None
        return x, [np.maximum(kl, c.y_min) if kl is not None and c.kind == "kl" else 0.0 for c in centres]

    ranges = tuple(top - c.y_min for c in centres)
    highest = math.log((1 - alpha) * vocab_size / eps + alpha)
    return Part(
        centres=centres,
        ranges=ranges,
        largest=tuple(highest / r for r in ranges),
        y_limits=tuple((c.y_min, 0.0) for c in centres),
        read=read,
    )
