"""Smoothed predictors: what is certified, because the loss of a raw one has no upper limit.

Mixing a share of something bounded into the prediction bounds the loss. Nothing follows for the raw predictor, and every certificate says
so.
"""

from __future__ import annotations

import math

import numpy as np

from scalebound.core.errors import UsageError


def _check(alpha: float, vocab_size: int = 2, name: str = "alpha") -> None:
    if not 0 < alpha < 1:
        raise UsageError(f"{name} is {alpha}", where=name, expected="inside (0, 1)")
    if vocab_size < 2:
        raise UsageError(f"vocab_size is {vocab_size}", where="vocab_size", expected="at least 2")


def smooth_uniform(nll: np.ndarray, vocab_size: int, alpha: float) -> np.ndarray:
    """Losses of ``p' = (1 - alpha) p + alpha / V``.

    .. math:: X_k = -\\log\\big((1-\\alpha) e^{-u_k} + \\alpha/V\\big) \\le \\log(V/\\alpha)

    Parameters
    ----------
    nll : (tokens,) nats          u_k, any size; 750 and more stand for probability zero
    vocab_size : >= 2             V
    alpha : in (0, 1)

    Returns
    -------
    (tokens,) float64 nats        at most :func:`uniform_range`

    Raises
    ------
    UsageError                    alpha or vocab_size out of range

    Source: Lotfi et al. 2024 (arXiv 2407.18158), Finzi et al. 2025 (arXiv 2504.15208); docs/mathematics.md section 4.

    >>> float(smooth_uniform(np.array([1000.0]), 256, 0.5)[0]) == math.log(512)
    True
    """
    _check(alpha, vocab_size)
    out = np.exp(-np.asarray(nll, dtype=np.float64))
    out *= 1 - alpha
    out += alpha / vocab_size
    np.log(out, out=out)
    return np.negative(out, out=out)


def uniform_range(vocab_size: int, alpha: float) -> float:
    """``log(V/alpha)``, the largest loss after uniform smoothing.

    >>> round(uniform_range(256, 0.1), 3)
    7.848
    """
    _check(alpha, vocab_size)
    return math.log(vocab_size / alpha)


def smooth_reference(reference_nll: np.ndarray, vocab_size: int, eps: float) -> np.ndarray:
    """Losses R of the reference ``q~ = (1 - eps) q + eps / V``: uniform smoothing of the reference itself, so that ``R <= log(V/eps)``.

    The same function as :func:`smooth_uniform`; the name says which part of an anchored certificate it is for.

    >>> bool(smooth_reference(np.array([0.0]), 256, 0.001)[0] < 0.001)
    True
    """
    _check(eps, vocab_size, "eps")
    return smooth_uniform(reference_nll, vocab_size, eps)


def smooth_anchored(nll: np.ndarray, reference_nll: np.ndarray, alpha: float) -> np.ndarray:
    """Losses of ``p' = (1 - alpha) p + alpha q~`` with a predictable reference q~.

    .. math:: X'_k = -\\log\\big((1-\\alpha) e^{-u_k} + \\alpha e^{-R_k}\\big), \\qquad X'_k - R_k \\le \\log(1/\\alpha)

    Parameters
    ----------
    nll : (tokens,) nats              u_k
    reference_nll : (tokens,) nats    R_k, the losses of the *smoothed* reference (:func:`smooth_reference`); an unsmoothed one has no
                                      bounded loss of its own
    alpha : in (0, 1)

    Returns
    -------
    (tokens,) float64 nats

    Raises
    ------
    UsageError                        alpha out of range, arrays of different length

    Source: docs/mathematics.md section 4, anchored smoothing.

    >>> reference = smooth_reference(np.array([2.0, 3.0]), 256, 0.001)
    >>> bool(np.all(smooth_anchored(np.array([900.0, 0.1]), reference, 0.1) <= reference + math.log(10)))
    True
    """
    nll, reference_nll = np.asarray(nll, dtype=np.float64), np.asarray(reference_nll, dtype=np.float64)
    _check(alpha)
    if nll.shape != reference_nll.shape:
        raise UsageError(
            f"{nll.size} losses and {reference_nll.size} reference losses", where="smooth_anchored", expected="one reference loss per token"
        )
    return reference_nll + anchored_difference(nll, reference_nll, alpha)


def anchored_difference(nll: np.ndarray, reference_nll: np.ndarray, alpha: float) -> np.ndarray:
    """``X' - R = -log((1 - alpha) exp(R - u) + alpha)``, computed from the ratio so that it never exceeds ``log(1/alpha)``.

    >>> float(anchored_difference(np.array([900.0]), np.array([2.0]), 0.5)[0]) == math.log(2)
    True
    """
    _check(alpha)
    out = np.exp(reference_nll - nll)
    out *= 1 - alpha
    out += alpha
    np.log(out, out=out)
    return np.negative(out, out=out)
