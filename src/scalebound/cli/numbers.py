"""Numbers as people type them: ``20k``, ``1.5M``, ``1e15``, ``10min``, lists with commas; and lists of words."""

from __future__ import annotations

import re

from scalebound.core.errors import UsageError

FACTORS = {"": 1.0, "k": 1e3, "K": 1e3, "m": 1e6, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _parse(text: str, flag: str, units: dict[str, float], example: str) -> float:
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    try:
        value = float(found[1]) * units[found[2]] if found else 0.0
    except (ValueError, KeyError):
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise UsageError(f"{flag} {text!r} is not a positive number", expected=f"something like {example}")
    return value


def parse_number(text: str, flag: str, example: str = "20k, 1.5M or 1e9") -> float:
    """``"20k"`` to 20000.0."""
    return _parse(text, flag, FACTORS, example)


def parse_numbers(text: str, flag: str, example: str = "20k, 1.5M or 1e9") -> tuple[float, ...]:
    """``"15k,40k"`` to (15000.0, 40000.0)."""
    return tuple(parse_number(part, flag, example) for part in text.split(","))


def parse_counts(text: str, flag: str) -> tuple[int, ...]:
    """``"4, 0"`` to (4, 0): whole numbers, 0 allowed."""
    words = parse_words(text)
    if not all(word.isdecimal() for word in words):
        raise UsageError(f"{flag} {text!r}", expected="whole numbers separated by commas, such as 0,4,16")
    return tuple(int(word) for word in words)


def parse_words(text: str) -> tuple[str, ...]:
    """``"copy, sort"`` to ("copy", "sort")."""
    return tuple(word.strip() for word in text.split(","))


def parse_share(text: str, flag: str) -> float:
    """``"5%"`` or ``"0.05"`` to 0.05; above 0 and at most 1."""
    value = _parse(text.replace("%", ""), flag, {"": 0.01 if "%" in text else 1.0}, "5% or 0.05")
    if value > 1:
        raise UsageError(f"{flag} {text!r} is more than everything", expected="something like 5% or 0.05")
    return value


def parse_seconds(text: str, flag: str) -> float:
    """``"10min"`` to 600.0."""
    return _parse(text, flag, SECONDS, "30s, 10min or 2h")
