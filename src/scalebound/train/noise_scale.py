"""Gradient noise scale: how large a batch has to be before averaging over more sequences stops helping (McCandlish et al., arXiv 1812.06162).

With G the true gradient and Sigma the covariance of one sequence's gradient, the gradient of a batch of B sequences has
``E|G_B|^2 = |G|^2 + tr(Sigma) / B``. Two batch sizes give both unknowns without bias:

.. math:: |G|^2 = \\frac{b\\,|G_b|^2 - s\\,|G_s|^2}{b - s}, \\qquad \\mathrm{tr}(\\Sigma) = \\frac{|G_s|^2 - |G_b|^2}{1/s - 1/b}

The simple noise scale is ``B = tr(Sigma) / |G|^2``: the ratio of the *means* over many steps, as a mean of ratios is biased. It predicts the critical
batch up to the curvature; both fall short of it early in training and grow as the loss falls. Here b is the batch and s one of its equal parts.

Each look costs one more backward pass of the batch; a look every 50 steps about 2% of the time. Training is not touched.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from scalebound.core.errors import InputError
from scalebound.models.trainable import Trainable

PARTS = 8  # at most; more parts, less noise in |G_s|^2


def parts_of(sequences: int) -> int:
    """The largest divisor of the batch that is at most :data:`PARTS`; 1 when it cannot be split evenly.

    >>> [parts_of(n) for n in (1, 4, 12, 64)]
    [1, 4, 6, 8]
    """
    return max(k for k in range(1, PARTS + 1) if sequences % k == 0)


def look(model: Trainable, batch: np.ndarray, separator: int) -> dict[str, float | int] | None:
    """Squared gradient norms of a batch and of its parts (mean), with their sizes in sequences; None for a batch that cannot be split.

    Returns
    -------
    dict
        ``big, small`` (sequences), ``big_sq, small_sq``; what the log holds.
    """
    parts = parts_of(len(batch))
    if parts < 2:
        return None
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = [torch.zeros_like(parameter) for parameter in parameters]
    small_sq = 0.0
    for piece in np.split(batch, parts):
        targets_BT = torch.from_numpy(piece.astype(np.int64)).to(parameters[0].device)
        loss = F.cross_entropy(model(F.pad(targets_BT[:, :-1], (1, 0), value=separator)).flatten(0, 1), targets_BT.flatten())
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        for sum_, grad in zip(total, grads, strict=True):
            if grad is not None:
                small_sq += float(grad.double().square().sum()) / parts
                sum_.add_(grad, alpha=1 / parts)
    return {"big": len(batch), "small": len(batch) // parts, "big_sq": sum(float(sum_.double().square().sum()) for sum_ in total), "small_sq": small_sq}


@dataclass(frozen=True)
class NoiseScale:
    """The simple noise scale over a stretch of a run, in sequences and tokens, with a bootstrap interval over looks."""

    sequences: float
    tokens: float
    low_tokens: float
    high_tokens: float
    level: float
    looks: int
    first_step: int
    last_step: int


def noise_scale(looks: list[dict], *, level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """Value and interval of the simple noise scale in sequences, from what :func:`look` gave at several steps.

    A denominator that is not positive (noise far above the gradient) makes the value infinite.

    >>> noise_scale([{"big": 8, "small": 1, "big_sq": 1 + 4 / 8, "small_sq": 1 + 4.0}] * 5)
    (4.0, 4.0, 4.0)
    """
    if not looks:
        raise InputError("no look at the gradient noise", expected="a log of a run with noise_scale above 0")
    b, s = (np.array([entry[key] for entry in looks], dtype=float) for key in ("big", "small"))
    big, small = (np.array([entry[key] for entry in looks]) for key in ("big_sq", "small_sq"))
    gradient, noise = (b * big - s * small) / (b - s), (small - big) / (1 / s - 1 / b)
    drawn = np.random.default_rng(seed).integers(0, len(looks), size=(1000, len(looks)))

    def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        return np.where(bottom > 0, np.maximum(top, 0.0) / np.where(bottom > 0, bottom, 1.0), np.inf)

    value = float(ratio(noise.mean(), gradient.mean()))
    draws = np.sort(ratio(noise[drawn].mean(axis=1), gradient[drawn].mean(axis=1)))
    low, high = draws[int((1 - level) / 2 * 999)], draws[int((1 + level) / 2 * 999)]
    return value, float(low), float(high)


def read_noise_scale(log: str | os.PathLike, *, context: int, stretches: int = 4, level: float = 0.95) -> list[NoiseScale]:
    """The noise scale along a run: its looks in ``stretches`` equal parts, from ``log.jsonl``.

    Raises
    ------
    InputError
        The log holds no look (recipe key ``noise_scale``).
    """
    found = []
    with open(log) as lines:
        for line in lines:
            entry = json.loads(line)
            if "noise_scale" in entry:
                found.append((entry["step"], entry["noise_scale"]))
    if not found:
        raise InputError("holds no look at the gradient noise", where=str(log), expected="a run with the recipe key noise_scale above 0")
    out = []
    for part in np.array_split(np.arange(len(found)), min(stretches, len(found))):
        looks = [found[k][1] for k in part]
        value, low, high = noise_scale(looks, level=level)
        out.append(NoiseScale(value, value * context, low * context, high * context, level, len(looks), found[part[0]][0], found[part[-1]][0]))
    return out
