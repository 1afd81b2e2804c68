"""The quantized types of ``.gguf`` files: blocks of 32 or 256 weights of a row, unpacked into integers and scales.

All share one arithmetic: weight = scale * integer + offset in float32, where a product of a float16 with integers of up to 13 bits is exact, so
only the sum rounds. In the types of 256 (``K``, IQ4_XS) a sub-block's scale is itself a float16 times an integer, and so is its offset.

Left out are the types that number points of a lattice, eight or four weights at a time (IQ1, IQ2, IQ3): weight by weight their integers take more
bits than the numbers of the points do.

Layouts: ``ggml-common.h`` and ``ggml-quants.c`` of ggml; the ``gguf`` package's ``quants.py`` is the reference the tests compare with.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scalebound.compress.foreign.assemble import Blocks, Scale
from scalebound.core.errors import InputError

Unpacker = Callable[[np.ndarray], Blocks]
NIBBLES = np.array([0, 4], dtype=np.uint8)
PAIRS = np.array([0, 2, 4, 6], dtype=np.uint8)
BITS = np.arange(8, dtype=np.uint8)
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.int8)  # the values of IQ4_NL and IQ4_XS
E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.int8)  # the values of MXFP4, twice
POWERS = np.array([1, 3, 9, 27, 81], dtype=np.int32)


def unpack(kind: str, data: np.ndarray) -> Blocks:
    """The blocks of a matrix.

    Parameters
    ----------
    kind
        A name of :data:`KINDS`, as ggml writes it.
    data : (rows, bytes of a row) uint8

    Returns
    -------
    Blocks of (rows, columns)

    Raises
    ------
    InputError
        Another type, or rows that are not whole blocks.
    """
    if kind not in KINDS:
        raise InputError(f"type {kind} is not one whose integers can be kept", expected=", ".join(KINDS))
    size, unpacker = KINDS[kind]
    if data.shape[1] % size:
        raise InputError(f"rows of {data.shape[1]} bytes are no blocks of {kind}", expected=f"a multiple of {size}")
    return unpacker(data.reshape(len(data), -1, size))


def _half(data: np.ndarray) -> np.ndarray:
    """(rows, blocks, 2) bytes -> (rows, blocks) float32."""
    return np.ascontiguousarray(data).view("<f2")[..., 0].astype(np.float32)


def _split(data: np.ndarray, shifts: np.ndarray, mask: int) -> np.ndarray:
    """Fields of every byte: (.., n) -> (.., shifts, n), all of the first shift before those of the second."""
    return (data[..., None, :] >> shifts[:, None]) & np.uint8(mask)


def _flat(integers: np.ndarray) -> np.ndarray:
    """(rows, blocks, ..) -> (rows, columns) int8."""
    return integers.astype(np.int8).reshape(len(integers), -1)


def _simple(integers: np.ndarray, d: np.ndarray, m: np.ndarray | None = None) -> Blocks:
    steps = [Scale("times", _half(d), 32, "d")] + ([] if m is None else [Scale("plus", _half(m), 32, "m")])
    return Blocks(_flat(integers), tuple(steps))


def _fifth(data: np.ndarray) -> np.ndarray:
    """(rows, blocks, 4) bytes of bits -> (rows, blocks, 32), the first bit of a byte first."""
    return ((data[..., None] >> BITS) & np.uint8(1)).reshape(*data.shape[:2], 32)


def _nibbles(data: np.ndarray) -> np.ndarray:
    """(rows, blocks, 16) bytes -> (rows, blocks, 32): the low halves, then the high ones."""
    return _split(data, NIBBLES, 15).reshape(*data.shape[:2], 32)


def q4_0(b: np.ndarray) -> Blocks:
    """Scale and 16 bytes."""
    return _simple(_nibbles(b[..., 2:]).astype(np.int8) - 8, b[..., :2])


def q4_1(b: np.ndarray) -> Blocks:
    """Scale, offset and 16 bytes."""
    return _simple(_nibbles(b[..., 4:]), b[..., :2], b[..., 2:4])


def q5_0(b: np.ndarray) -> Blocks:
    """Scale, the fifth bits, 16 bytes."""
    return _simple((_nibbles(b[..., 6:]) | _fifth(b[..., 2:6]) << 4).astype(np.int8) - 16, b[..., :2])


def q5_1(b: np.ndarray) -> Blocks:
    """Scale, offset, the fifth bits, 16 bytes."""
    return _simple(_nibbles(b[..., 8:]) | _fifth(b[..., 4:8]) << 4, b[..., :2], b[..., 2:4])


def q8_0(b: np.ndarray) -> Blocks:
    """Scale and 32 signed bytes."""
    return _simple(np.ascontiguousarray(b[..., 2:]).view(np.int8), b[..., :2])


def iq4_nl(b: np.ndarray) -> Blocks:
    """Scale and 16 bytes, whose halves number the values of :data:`IQ4`: those are the integers that are kept."""
    return _simple(IQ4[_nibbles(b[..., 2:])], b[..., :2])


def mxfp4(b: np.ndarray) -> Blocks:
    """A power of two (its exponent + 128, the two lowest subnormal) and 16 bytes, whose halves number twice the values of E2M1."""
    power = np.ldexp(np.float32(1), b[..., 0].astype(np.int32) - 128)
    return Blocks(_flat(E2M1[_nibbles(b[..., 1:])]), (Scale("times", power, 32, "d"),))


def tq2_0(b: np.ndarray) -> Blocks:
    """64 bytes of four ternary digits, by halves of 128, and scale."""
    return _ternary(_low_pairs(b[..., :64]), b[..., 64:66])


def tq1_0(b: np.ndarray) -> Blocks:
    """Bytes of five ternary digits (32, then 16) and of four (4), as fractions of 256 in base 3, and scale."""
    parts = [(b[..., low:high, None] * POWERS[:count] & 255).swapaxes(-1, -2) * 3 >> 8 for low, high, count in ((0, 32, 5), (32, 48, 5), (48, 52, 4))]
    return _ternary(np.concatenate([part.reshape(*b.shape[:2], -1) for part in parts], axis=-1), b[..., 52:54])


def _ternary(digits: np.ndarray, d: np.ndarray) -> Blocks:
    return Blocks(_flat(digits.astype(np.int8) - 1), (Scale("times", _half(d), 256, "d"),))


def _nested(integers: np.ndarray, d: np.ndarray, scales: np.ndarray, dmin: np.ndarray | None = None, mins: np.ndarray | None = None) -> Blocks:
    """A type of 256: d and dmin a block, integers ``scales`` and ``mins`` a sub-block, (rows, blocks, sub-blocks).

    What is subtracted is added with a negated float16: exactly the same, zeros and their signs included.
    """
    count = scales.shape[-1]
    steps = [Scale("times", Blocks(_flat(scales), (Scale("times", _half(d), count, "d"),)), 256 // count, "s")]
    if dmin is not None and mins is not None:
        steps.append(Scale("plus", Blocks(_flat(mins), (Scale("times", -_half(dmin), count, "m"),)), 256 // count, "o"))
    return Blocks(_flat(integers), tuple(steps))


def _low_pairs(data: np.ndarray) -> np.ndarray:
    """(rows, blocks, 64) bytes -> (rows, blocks, 256): by halves of 128, fields of two bits, bytes."""
    return _split(data.reshape(*data.shape[:2], 2, 32), PAIRS, 3).reshape(*data.shape[:2], 256)


def q2_k(b: np.ndarray) -> Blocks:
    """16 bytes of scale (low half) and offset, 64 bytes of pairs, d, dmin."""
    return _nested(_low_pairs(b[..., 16:80]), b[..., 80:82], b[..., :16] & 15, b[..., 82:84], b[..., :16] >> 4)


def q3_k(b: np.ndarray) -> Blocks:
    """32 bytes of third bits (absent: minus 4), 64 bytes of pairs, 12 bytes of 16 scales of six bits, d."""
    high = _split(b[..., None, :32], BITS, 1).reshape(*b.shape[:2], 256)
    low, two = _split(b[..., 96:104], NIBBLES, 15).reshape(*b.shape[:2], 16), _split(b[..., 104:108], PAIRS, 3).reshape(*b.shape[:2], 16)
    return _nested(_low_pairs(b[..., 32:96]).astype(np.int8) - 4 * (high ^ 1).astype(np.int8), b[..., 108:110], (low | two << 4).astype(np.int8) - 32)


def _six_bits(b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, blocks, 12) bytes -> eight scales and eight offsets of six bits: four of each plain, the others' low halves together, their high bits on top of these."""
    scale, offset, rest = b[..., :4], b[..., 4:8], b[..., 8:]
    scales = np.concatenate([scale & 63, rest & 15 | scale >> 2 & 48], axis=-1)
    return scales, np.concatenate([offset & 63, rest >> 4 | offset >> 2 & 48], axis=-1)


def _four_chunks(data: np.ndarray) -> np.ndarray:
    """(rows, blocks, 128) bytes -> (rows, blocks, 8, 32): of each 32 bytes the low halves, then the high ones."""
    return _split(data.reshape(*data.shape[:2], 4, 32), NIBBLES, 15).reshape(*data.shape[:2], 8, 32)


def q4_k(b: np.ndarray) -> Blocks:
    """d, dmin, 12 bytes of scales and offsets, 128 bytes."""
    scales, mins = _six_bits(b[..., 4:16])
    return _nested(_four_chunks(b[..., 16:]), b[..., :2], scales, b[..., 2:4], mins)


def q5_k(b: np.ndarray) -> Blocks:
    """d, dmin, 12 bytes of scales and offsets, 32 bytes of fifth bits (bit k for sub-block k), 128 bytes."""
    scales, mins = _six_bits(b[..., 4:16])
    return _nested(_four_chunks(b[..., 48:]) | _split(b[..., 16:48], BITS, 1) << 4, b[..., :2], scales, b[..., 2:4], mins)


def q6_k(b: np.ndarray) -> Blocks:
    """128 bytes of low halves, 64 of upper pairs, 16 signed scales, d. In each half of 128: 64 low halves, then 64 high ones."""
    low = _split(b[..., :128].reshape(*b.shape[:2], 2, 64), NIBBLES, 15).reshape(*b.shape[:2], 256)
    return _nested((low | _low_pairs(b[..., 128:192]) << 4).astype(np.int8) - 32, b[..., 208:210], np.ascontiguousarray(b[..., 192:208]).view(np.int8))


def iq4_xs(b: np.ndarray) -> Blocks:
    """d, upper pairs of eight scales, their lower halves, 128 bytes as in :func:`iq4_nl`."""
    high = np.ascontiguousarray(b[..., 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = _split(b[..., 4:8], NIBBLES, 15).swapaxes(-1, -2).reshape(*b.shape[:2], 8)
    codes = _split(b[..., 8:].reshape(*b.shape[:2], 8, 16), NIBBLES, 15)
    return _nested(IQ4[codes.reshape(*b.shape[:2], 256)], b[..., :2], (low | high.astype(np.uint8) << 4).astype(np.int8) - 32)


# type: bytes of a block, and how it is unpacked
KINDS: dict[str, tuple[int, Unpacker]] = {
    "Q4_0": (18, q4_0), "Q4_1": (20, q4_1), "Q5_0": (22, q5_0), "Q5_1": (24, q5_1), "Q8_0": (34, q8_0), "IQ4_NL": (18, iq4_nl),
    "MXFP4": (17, mxfp4), "TQ1_0": (54, tq1_0), "TQ2_0": (66, tq2_0), "IQ4_XS": (136, iq4_xs),
    "Q2_K": (84, q2_k), "Q3_K": (110, q3_k), "Q4_K": (144, q4_k), "Q5_K": (176, q5_k), "Q6_K": (210, q6_k),
}  # fmt: skip
