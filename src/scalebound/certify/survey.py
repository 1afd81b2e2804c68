"""What others promise for the same run: published bounds beside ours, each with its assumptions, and the word when it says nothing.

Each line is computed from the same losses and the same code, at the same delta, with alpha picked from the same list and paid. A bound that
needs something a stats file does not hold is listed with what it needs, and no number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scalebound.certify.assemble import certify
from scalebound.certify.bound import check_confidence
from scalebound.certify.codelength import choice_bits
from scalebound.certify.pac_bayes import WeightNoise, pac_bayes_bound, sharpness_measure, spectral_measure
from scalebound.certify.parts import losses_of
from scalebound.certify.sampling import READ
from scalebound.certify.settings import UNIFORM_ALPHAS
from scalebound.certify.smoothing import smooth_uniform
from scalebound.certify.units import unit_means
from scalebound.core.certificate import Choice
from scalebound.core.errors import InputError, ScaleboundError
from scalebound.core.stats import Stats


@dataclass(frozen=True)
class Line:
    """One bound: nats per token, or None with the ``reason`` why there is no number. ``tightness`` is the bound minus the observed loss."""

    name: str
    source: str
    assumes: str
    target: str
    value: float | None
    tightness: float | None
    vacuous: bool | None
    seconds: float
    reason: str = ""


def loss_range(vocab_size: int, alpha: float) -> float:
    """Width of the interval that uniformly smoothed losses lie in, ``log(1 + (1-alpha) V/alpha)``.

    >>> round(loss_range(256, 0.1), 4)
    7.7428
    """
    return math.log1p((1 - alpha) * vocab_size / alpha)


def azuma_bound(mean: float, range_: float, n: int, *, code_bits: float, delta: float) -> float:
    """``mean + range sqrt((log(1/delta) + L log 2)/(2 n))``: Hoeffding's or Azuma's inequality with a union over the code.

    >>> round(azuma_bound(2.0, 8.0, 10_000, code_bits=1000, delta=0.01), 4)
    3.4943
    """
    if n < 1 or range_ <= 0:
        raise InputError(f"{n} losses of range {range_}", where="azuma_bound", expected="at least one, and a positive range")
    return mean + range_ * math.sqrt(check_confidence(delta, code_bits) / (2 * n))


def survey(
    stats: Stats,
    *,
    code_bits: int,
    delta: float = 0.01,
    documents: np.ndarray | None = None,
    heldout: Stats | None = None,
    online: Stats | None = None,
    noise: WeightNoise | None = None,
    vocab_size: int = 0,
) -> tuple[Line, ...]:
    """All bounds for one run.

    Parameters
    ----------
    stats, code_bits        complete losses of the model the code describes, and its length
    documents               where documents start in ``stats`` and one past the last (:func:`~scalebound.certify.units.document_starts`)
    noise                   losses of the run's weights with noise (:func:`scalebound.train.noise_on_weights.weight_noise`), for bounds of weights
    heldout, online         statistics on a stream the model never saw, and of the run's own online losses: other targets, beside

    Raises as :func:`~scalebound.certify.assemble.certify`; :class:`InputError` when the statistics are a sample.

    Source: docs/mathematics.md section 19.

    >>> from scalebound.core.stats import StatsInfo
    >>> losses = np.random.default_rng(0).gamma(2.0, 1.0, 100_000).astype(np.float32)
    >>> stats = Stats(StatsInfo(kind="bare", tokens=100_000, window=(0, 100_000), vocab_size=256), {"nll": losses})
    >>> lines = {line.name: line.value for line in survey(stats, code_bits=8025)}
    >>> lines["product martingale"] < lines["freedman, fully empirical"] < lines["token level, Azuma"]
    True
    """
    if not stats.complete:
        raise InputError("holds a part of its window only", where=stats.path, expected="every token")
    vocab = stats.info.vocab_size or vocab_size
    mean = math.fsum(float(losses_of(stats, "nll", a, b).sum()) for a, b in stats.chunks(READ)) / len(stats)
    guess, out = math.log(vocab) if vocab else math.inf, []
    params = stats.info.model.params

    def line(name: str, source: str, assumes: str, target: str, compute: Callable[[], float] | str) -> None:
        began = time.perf_counter()
        if isinstance(compute, str):
            out.append(Line(name, source, assumes, target, None, None, None, 0.0, compute))
            return
        try:
            value = compute()
        except ScaleboundError as error:
            out.append(Line(name, source, assumes, target, None, None, None, time.perf_counter() - began, str(error)))
            return
        if not math.isfinite(value):
            out.append(Line(name, source, assumes, target, None, None, None, time.perf_counter() - began, "infinite here: it says nothing"))
            return
        out.append(Line(name, source, assumes, target, value, value - mean, value >= guess, time.perf_counter() - began))

    stream = "the smoothed model on this stream"
    none = "nothing about how tokens depend on each other"
    common = {"code_bits": code_bits, "delta": delta, "vocab_size": vocab_size}
    line("product martingale", "docs/mathematics.md 3", none, stream, lambda: certify(stats, **common).bound)  # type: ignore[arg-type]
    if "reference_nll" in stats:
        line("anchored", "docs/mathematics.md 4", none + "; the reference is predictable", stream, lambda: certify(stats, method="anchored", **common).bound)  # type: ignore[arg-type]
    line("freedman, fully empirical", "arXiv 2504.15208", none, stream, lambda: certify(stats, method="freedman", **common).bound)  # type: ignore[arg-type]

    means = None
    paid = code_bits + choice_bits([Choice(setting="alpha", options=len(UNIFORM_ALPHAS))])

    def smoothed() -> list[float]:
        nonlocal means
        if means is None:
            means = [
                math.fsum(float(smooth_uniform(losses_of(stats, "nll", a, b), vocab, alpha).sum()) for a, b in stats.chunks(READ)) / len(stats)
                for alpha in UNIFORM_ALPHAS
            ]
        return means

    def best_azuma(bits: float, n: int) -> float:
        return min(azuma_bound(x, loss_range(vocab, alpha), n, code_bits=bits, delta=delta) for x, alpha in zip(smoothed(), UNIFORM_ALPHAS, strict=True))

    line("token level, Azuma", "Lotfi et al. 2024, arXiv 2407.18158", none, stream, lambda: best_azuma(paid, len(stats)))

    def by_document() -> float:
        assert documents is not None
        raw = losses_of(stats, "nll", int(documents[0]), int(documents[-1]))
        inside = np.asarray(documents[:-1]) - documents[0]
        values = [float(unit_means(smooth_uniform(raw, vocab, alpha), inside).mean()) for alpha in UNIFORM_ALPHAS]
        return min(
            azuma_bound(x, loss_range(vocab, alpha), len(inside), code_bits=paid, delta=delta) for x, alpha in zip(values, UNIFORM_ALPHAS, strict=True)
        )

    line(
        "document level, Hoeffding", "Lotfi et al. 2024, arXiv 2312.17173", "documents drawn independently", "the smoothed model on new documents",
        by_document if documents is not None else "needs documents in one piece: a stream in the order of the text",
    )  # fmt: skip
    line(
        "mutual information", "Xu and Raginsky 2017, arXiv 1705.07809", "independent tokens (which they are not); in expectation only, no probability",
        "the smoothed model on new tokens", lambda: min(x + loss_range(vocab, alpha) * math.sqrt((code_bits * math.log(2)) / (2 * len(stats))) for x, alpha in zip(smoothed(), UNIFORM_ALPHAS, strict=True)),
    )  # fmt: skip
    for name, bits in (("parameter count, float16", 16), ("parameter count, float32", 32)):
        line(
            name, "union over all weights of that precision", none, stream,
            (lambda bits=bits: best_azuma(bits * params + choice_bits([Choice(setting="alpha", options=len(UNIFORM_ALPHAS))]), len(stats))) if params else "needs the number of parameters",  # type: ignore[misc]
        )  # fmt: skip
    needs = "needs the run: --weights RUN" if noise is None else ""

    def weights(function: Callable[[WeightNoise, float], float]) -> Callable[[], float] | str:
        return needs or (lambda: function(noise, loss_range(vocab, noise.alpha)))  # type: ignore[arg-type, union-attr]

    line(
        "PAC-Bayes, Gaussian posterior", "Seldin et al. 2012, arXiv 1110.6886; Dziugaite and Roy 2017, arXiv 1703.11008", none + "; a prior around weights fixed before the data",
        "a model with noise on its weights", weights(lambda found, range_: pac_bayes_bound(found, range_, len(stats), delta=delta)[0]),
    )  # fmt: skip
    line(
        "sharpness", "Neyshabur et al. 2017, arXiv 1706.08947; Jiang et al. 2020, arXiv 1912.02178", "independent tokens (which they are not)",
        "a model with noise on its weights", weights(lambda found, range_: sharpness_measure(found, range_, len(stats), delta=delta)[0]),
    )  # fmt: skip
    line(
        "spectral norms", "Bartlett, Foster and Telgarsky 2017, arXiv 1706.08498", "independent tokens; feed-forward layers: for a transformer a measure and no bound",
        "ranks models; nothing is proven of this one", weights(lambda found, range_: spectral_measure(found, range_, len(stats))),
    )  # fmt: skip
    if heldout is not None:
        line("held out", "docs/mathematics.md 3, L = 0", "a stream the model never saw", "the smoothed model on that stream", lambda: certify(heldout, method="heldout", delta=delta, vocab_size=vocab_size).bound)
    if online is not None:
        line("trajectory", "docs/mathematics.md 9", "losses before each update", "a checkpoint drawn from the last tenth", lambda: certify(online, method="trajectory", delta=delta, vocab_size=vocab_size).bound)
    return tuple(out)
