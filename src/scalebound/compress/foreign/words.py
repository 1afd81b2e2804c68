"""Integers of a few bits in 32-bit words, one after the other from the lowest bit up; those of 3, 5, 6 or 7 bits run over the ends of words."""

from __future__ import annotations

import numpy as np


def fields(words: np.ndarray, bits: int) -> np.ndarray:
    """The integers of every row of words.

    Parameters
    ----------
    words : (rows, n) of 32 bits
    bits
        Of an integer, 1 to 8.

    Returns
    -------
    (rows, floor(32 n / bits)) uint8

    Notes
    -----
    Integer k of a row is in the bits ``k * bits`` and on of the row. AutoGPTQ's three words of 32 integers of 3 bits, written out case by case there,
    are the same sequence.

    >>> fields(np.array([[0b01 << 30, 0b1]], dtype=np.uint32), 3)[0, 9:11].tolist()
    [0, 5]
    """
    words = np.ascontiguousarray(words).view(np.uint32)
    mask = np.uint8((1 << bits) - 1)
    if 32 % bits == 0:
        shifts = np.arange(0, 32, bits, dtype=np.uint32)
        return (words[..., None] >> shifts).astype(np.uint8).reshape(len(words), -1) & mask
    at = np.arange(32 * words.shape[1] // bits, dtype=np.uint64) * np.uint64(bits)
    wide = words.astype(np.uint64)
    wide[:, :-1] |= words[:, 1:].astype(np.uint64) << np.uint64(32)  # each word with the next one above it
    return (wide[:, at // 32] >> at % np.uint64(32)).astype(np.uint8) & mask
