"""The matrix under which a tensor of any shape is coded."""

from __future__ import annotations


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns under which a tensor is coded: the first dimension and all others; vectors are one row.

    >>> matrix_shape((4, 3, 2)), matrix_shape((5,)), matrix_shape(())
    ((4, 6), (1, 5), (1, 1))
    """
    size = 1
    for dimension in shape:
        size *= dimension
    rows = shape[0] if len(shape) >= 2 else 1
    return rows, size // rows if rows else 0
