"""A file of so many bits: which level every matrix is rounded at, while the bits of those before it become known.

A pilot tells how long each matrix becomes at a few levels, from some of its rows and some of the text. The level at which these add up to what is
wanted is off by some percent: inputs change as the maps before are rounded. So after every matrix the level of those that are left is set anew, such
that what is spent and what is expected add up to the budget; what was expected of matrices done, beside what they took, corrects the rest. Levels of
one model then differ by a few percent, which loses next to nothing (damage at given bits is stationary where all levels are equal), and one pass over
the network meets the length, up to what the header, the tables and the coder add: a ratio that a second pass, if needed, takes from the first file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

FILE_RATIO = 1.01  # of a file's bits to those estimated by :mod:`scalebound.compress.rates`, before there is a file
TRUST = 0.05  # of all expected bits: so much agreement between matrices and expectations is taken for granted
FARTHEST = 2.0**0.25  # a pass's levels are at most so far from its first
GENTLEST = 0.05  # bits a weight and octave: flatter curves are not believed


@dataclass
class Budget:
    """Bits expected and spent: what sets the level of the next matrix.

    Attributes
    ----------
    levels : (K,)                             of the pilot, rising
    expected : name -> (K,) bits              of every matrix at these levels
    sizes : name -> weights                   of it
    rest : bits                               of all that is rounded at no level
    ratio                                     of a file's bits to the estimates
    start                                     the level of the pass's first matrix; 0 before it
    spent : name -> (level, bits, expected)   of the matrices that are done
    """

    levels: list[float]
    expected: dict[str, list[float]]
    sizes: dict[str, int]
    rest: float
    ratio: float = FILE_RATIO
    start: float = 0.0
    spent: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    def next_level(self, bits: float) -> float:
        """Of all matrices that are left, for a file of so many bits."""
        left = [name for name in self.expected if name not in self.spent]
        size = sum(self.sizes[name] for name in left)
        taken, foreseen = (sum(entry[k] for entry in self.spent.values()) for k in (1, 2))
        curves = np.array([self.expected[name] for name in left])
        prior = TRUST * (foreseen + float(curves.sum(axis=0).mean()))
        curve = (taken + prior) / (foreseen + prior) * curves.sum(axis=0)
        level = level_at(self.levels, curve / size, (bits / self.ratio - self.rest - taken) / size)
        self.start = self.start or level
        return min(max(level, self.start / FARTHEST), self.start * FARTHEST)

    def spend(self, name: str, level: float, bits: float) -> None:
        """A matrix was rounded at this level and takes about so many bits."""
        self.spent[name] = (level, bits, length_at(self.levels, np.array(self.expected[name]) / self.sizes[name], level) * self.sizes[name])

    def finish(self, file_bits: float) -> float:
        """The pass is over and its file so long: the next expects what this one found. Returns the mean level, by weights."""
        self.ratio = file_bits / (self.rest + sum(bits for _, bits, _ in self.spent.values()))
        logs = [np.log(level) for level, _, _ in self.spent.values()]
        mean = float(np.exp(np.average(logs, weights=[self.sizes[name] for name in self.spent])))
        for name, (_, bits, foreseen) in self.spent.items():
            self.expected[name] = [value * bits / foreseen for value in self.expected[name]]
        self.start, self.spent = 0.0, {}
        return mean


def level_at(levels: Sequence[float], lengths: Sequence[float] | np.ndarray, wanted: float) -> float:
    """The level at which a falling curve, in bits a weight, has so many: linear in the logarithm of the level, beyond its ends too.

    >>> level_at([1.0, 4.0], [3.0, 1.0], 2.0), level_at([1.0, 4.0], [3.0, 1.0], 0.0)
    (2.0, 8.0)
    """
    k = int(np.clip(np.searchsorted(-np.asarray(lengths), -wanted), 1, len(levels) - 1))
    log, slope = _line(levels, lengths, k)
    return float(2.0 ** (log + (wanted - lengths[k]) / slope))


def length_at(levels: Sequence[float], lengths: Sequence[float] | np.ndarray, level: float) -> float:
    """What such a curve has at a level, at least a hundredth of a bit.

    >>> length_at([1.0, 4.0], [3.0, 1.0], 2.0), length_at([1.0, 4.0], [3.0, 1.0], 0.5)
    (2.0, 4.0)
    """
    k = int(np.clip(np.searchsorted(levels, level), 1, len(levels) - 1))
    log, slope = _line(levels, lengths, k)
    return max(float(lengths[k] + slope * (np.log2(level) - log)), 0.01)


def _line(levels: Sequence[float], lengths: Sequence[float] | np.ndarray, k: int) -> tuple[float, float]:
    """Of the piece that ends at point k: the logarithm of its level, and its slope."""
    high, low = float(np.log2(levels[k])), float(np.log2(levels[k - 1]))
    return high, min((lengths[k] - lengths[k - 1]) / (high - low), -GENTLEST)
