"""What an integer costs in bits, while the integers that decide it are still being chosen.

The package gives columns tables by how large their integers are (:mod:`scalebound.compress.sharing`). Stand-in: a column belongs to the
class of its mean magnitude (a quarter of an octave wide), and a class's distribution is learned from the columns of it that were rounded
before, in this matrix and in earlier ones. Before the first it is the two-sided geometric distribution of that mean, which counts as much
as 256 integers. Signs are taken to be equally likely.
"""

from __future__ import annotations

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

    def bits(self, classes: np.ndarray) -> np.ndarray:
        """(columns, LONGEST + 1) bits of an integer of each magnitude, its sign included, in columns of these classes."""
        found = self.counts[classes]
        lengths = np.log2(found.sum(axis=1, keepdims=True)) - np.log2(found)
        lengths[:, 1:] += 1.0
        return lengths

    def add(self, classes: np.ndarray, integers: np.ndarray) -> None:
        """Learn from columns' integers: (columns,) the class of each, (rows, columns) integers of any dtype."""
        self.counts += _histograms(classes, integers)


def classes_of(mean_magnitude: np.ndarray | float) -> np.ndarray:
    """The class of a column whose entries, in units of their steps, have this mean magnitude.

    >>> classes_of([1.0, 0.5, 0.0]).tolist()
    [24, 20, 0]
    """
    octaves = np.log2(np.maximum(mean_magnitude, 1e-9))
    return np.clip(np.rint(OCTAVE * octaves) - LOWEST, 0, NUM_CLASSES - 1).astype(np.intp)


def estimated_bits(integers: np.ndarray) -> float:
    """About what the integers of a matrix take in a package: the entropy of its columns, or of its rows, pooled by class. (rows, cols)

    >>> estimated_bits(np.array([[1, 0], [-1, 0]]))
    2.0
    """
    return min(_pooled_bits(integers), _pooled_bits(integers.T))


def _pooled_bits(integers: np.ndarray) -> float:
    counts = _histograms(classes_of(np.abs(integers).mean(axis=0)), integers).astype(np.float64)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    logs = np.log2(share, out=np.zeros_like(share), where=share > 0)
    return float(-(counts * logs).sum() + counts[:, 1:].sum())


def _histograms(classes: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """(NUM_CLASSES, LONGEST + 1) how many integers of each magnitude columns of each class have."""
    magnitudes = np.minimum(np.abs(integers), LONGEST)
    flat = magnitudes.astype(np.intp) + np.asarray(classes) * (LONGEST + 1)
    return np.bincount(flat.reshape(-1), minlength=NUM_CLASSES * (LONGEST + 1)).reshape(NUM_CLASSES, -1)
