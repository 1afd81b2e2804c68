"""What a model's description and the choices made after looking cost, in bits."""

from __future__ import annotations

import math
from collections.abc import Iterable

from scalebound.core.certificate import Choice
from scalebound.core.errors import UsageError

# Settings that enter the reference part of an anchored certificate too; a choice among them is paid for in both parts.
REFERENCE_SETTINGS = ("eps", "reference", "anchor", "window", "grid", "weights", "horizon", "shares", "method", "delta")


def package_code_bits(size_bytes: int) -> int:
    """Length of the prefix-free code that a file of ``size_bytes`` stands for: ``l + 2 floor(log2 l) + 1`` with ``l = 8 * size_bytes``.

    A file of l bits is not prefix-free by itself: Elias' gamma code of l in front of it makes it so. What the bits decode to, and by which
    decoder, is fixed before the run.

    Raises :class:`UsageError` for an empty file. Source: docs/mathematics.md section 5; Elias 1975.

    >>> package_code_bits(1000)
    8025
    """
    if size_bytes < 1:
        raise UsageError(f"the package has {size_bytes} bytes", where="package", expected="at least one byte")
    bits = 8 * size_bytes
    return bits + 2 * (bits.bit_length() - 1) + 1


def choice_bits(choices: Iterable[Choice]) -> float:
    """``log2`` of the product of all options: what picking one of them after looking costs.

    >>> choice_bits([Choice(setting="alpha", options=8), Choice(setting="bits", options=4)])
    5.0
    """
    options = [choice.options for choice in choices]
    wrong = [k for k in options if k < 1]
    if wrong:
        raise UsageError(f"a choice among {wrong[0]} options", where="choices", expected="at least one option")
    return math.log2(math.prod(options))


def reference_choice_bits(choices: Iterable[Choice]) -> float:
    """The part of :func:`choice_bits` that the reference of an anchored certificate pays as well: settings in :data:`REFERENCE_SETTINGS`.

    >>> reference_choice_bits([Choice(setting="alpha", options=8), Choice(setting="eps", options=4)])
    2.0
    """
    return choice_bits(choice for choice in choices if choice.setting in REFERENCE_SETTINGS)
