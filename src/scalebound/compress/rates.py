"""What an integer costs in bits, while the integers that decide it are still being chosen.

The package gives columns tables by how large their integers are (:mod:`scalebound.compress.sharing`). Stand-in: a column belongs to the
class of its mean magnitude (a quarter of an octave wide), and a class's distribution is learned from the columns of it that were rounded
before, in this matrix and in earlier ones. Before the first it is the two-sided geometric distribution of that mean, which counts as much
as 256 integers. Signs are taken to be equally likely.
"""

from __future__ import annotations

import math

import numpy as np

OCTAVE = 4  # classes an octave of mean magnitude
LOWEST, NUM_CLASSES = -6 * OCTAVE, 14 * OCTAVE
PRIOR = 256.0  # integers that the first guess of a class's distribution counts for
LONGEST = 64  # magnitudes from here on cost alike; choosing among them is left to their distance


class Rates:
    """Distributions of magnitudes, one for each class of columns; they learn."""

    def __init__(self) -> None:
        mean = 2.0 ** ((np.arange(NUM_CLASSES) + LOWEST) / OCTAVE)[:, None]
        ratio = (np.sqrt(1 + mean**2) - 1) / mean  # of the two-sided geometric distribution with this mean magnitude
        magnitudes = np.arange(LONGEST + 1)
        mass = np.where(magnitudes == 0, 1.0, 2.0) * ratio**magnitudes + 1e-9
        self.counts = PRIOR * mass / mass.sum(axis=1, keepdims=True)

    def class_of(self, mean_magnitude: float) -> int:
        """The class of a column whose entries, in units of their steps, have this mean magnitude.

        >>> rates = Rates()
        >>> rates.class_of(1.0) - rates.class_of(0.5), rates.class_of(0.0)
        (4, 0)
        """
        return min(max(round(OCTAVE * math.log2(max(mean_magnitude, 1e-9))) - LOWEST, 0), NUM_CLASSES - 1)

    def bits(self, number: int) -> np.ndarray:
        """(LONGEST + 1,) bits of an integer of each magnitude, its sign included."""
        found = self.counts[number]
        lengths = -np.log2(found / found.sum())
        lengths[1:] += 1.0
        return lengths

    def add(self, number: int, magnitudes: np.ndarray) -> None:
        """Learn from a column's integers; (n,) magnitudes, integers of any dtype."""
        self.counts[number] += np.bincount(np.minimum(magnitudes, LONGEST), minlength=LONGEST + 1)


def estimated_bits(integers: np.ndarray) -> float:
    """About what the integers of a matrix take in a package: the entropy of their columns pooled by class. (rows, cols)

    >>> estimated_bits(np.array([[1, 0], [-1, 0]]))
    2.0
    """
    rates = Rates()
    magnitudes = np.minimum(np.abs(integers.astype(np.int64)), LONGEST)
    classes = np.array([rates.class_of(mean) for mean in magnitudes.mean(axis=0)])
    counts = np.zeros((NUM_CLASSES, LONGEST + 1))
    np.add.at(counts, (np.broadcast_to(classes, magnitudes.shape), magnitudes), 1.0)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    logs = np.log2(share, out=np.zeros_like(share), where=share > 0)
    return float(-(counts * logs).sum() + counts[:, 1:].sum())
