"""Grammars of a user's own from a TOML file: a sampler and two rules, described and never executed.

::

    name = "sums"
    symbols = "abc"                          # one character each
    prompt_length = 3                        # optional: prompts off the support have up to this many symbols

    [[strings]]                              # the sampler; of several such rows, each is drawn with its weight (default 1)
    form = [["a", "n"], ["b", "m"], ["c", "n + m"]]   # blocks: a word and how often it stands there
    ranges = {n = [0, 3], m = [1, 3]}        # each combination with the same probability

    [[strings]]
    words = ["c", "cc"]                      # or listed one by one, each with the same probability

    [kept]                                   # the rule that prompts leave open
    words = "as many c as a and b"           # for people
    equal = [["ab", "c"]]                    # a and b together as often as c; more entries: all equally often

    [broken]                                 # the rule that prompts break
    matches = "a*b*c*"                       # the whole string, a regular expression
    avoids = ["ba"]                          # substrings that never occur
    balanced = ["()"]                        # brackets nest

Every condition of a rule must hold. Counts are sums of whole numbers and variables with whole factors, ``2n + m + 1``. The support and its
probabilities are exact. Nothing in the file is run: counts have a parser of their own, and a pattern is given to ``re`` only to match (nested
stars such as ``(a*)*`` can make that slow: the strings are short, and Ctrl-C works).
"""

from __future__ import annotations

import itertools
import os
import re
import tomllib
from collections.abc import Callable
from fractions import Fraction

import msgspec

from scalebound.core.errors import InputError
from scalebound.core.io import read_bytes, to_struct
from scalebound.probe.grammar import Grammar, nested

LONGEST, MOST = 40, 5000  # symbols of a string, strings of a support: what the probe trains on in minutes
TERM = re.compile(r"(\d{0,4})\s*\*?\s*([a-z]?)")


class Strings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A row of the sampler: blocks with counts, or words."""

    form: list[tuple[str, str]] = []
    ranges: dict[str, tuple[int, int]] = {}
    words: list[str] = []
    weight: int = 1


class Rule(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A conjunction of conditions on a string."""

    words: str = ""
    equal: list[list[str]] = []
    matches: str = ""
    avoids: list[str] = []
    balanced: list[str] = []


class Description(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file."""

    name: str
    symbols: str
    strings: list[Strings]
    kept: Rule
    broken: Rule
    prompt_length: int = 3


def parse_count(text: str, where: str = "") -> dict[str, int]:
    """Factors of the variables; the constant is under the empty name.

    Raises
    ------
    InputError
        Anything but a sum of whole numbers and variables with whole factors.

    >>> parse_count("2n + m + 1")
    {'n': 2, 'm': 1, '': 1}
    """
    factors: dict[str, int] = {}
    for part in text.split("+"):
        found = TERM.fullmatch(part.strip())
        if found is None or not (found[1] or found[2]):
            raise InputError(f"count {text!r}", where=where, expected="a sum such as '2n + m + 1', variables of one small letter")
        factors[found[2]] = factors.get(found[2], 0) + int(found[1] or 1)
    return factors


def _enumerate(row: Strings, where: str) -> list[str]:
    """Every string of a row, in order; one that arises twice stands twice."""
    if bool(row.form) == bool(row.words):
        raise InputError("a row of strings has both or neither of form and words", where=where, expected="one of them")
    if row.words:
        return row.words
    counts = [(word, parse_count(count, where)) for word, count in row.form]
    used = {name for _, factors in counts for name in factors if name}
    if used != set(row.ranges):
        raise InputError(f"variables {sorted(used)} and ranges {sorted(row.ranges)}", where=where, expected="a range for each variable used")
    size = 1
    for name, (low, high) in row.ranges.items():
        if not 0 <= low <= high <= LONGEST:
            raise InputError(f"range of {name} is [{low}, {high}]", where=where, expected=f"0 <= low <= high <= {LONGEST}")
        size *= high - low + 1
    if size > MOST:
        raise InputError(f"a row has {size:,} strings", where=where, expected=f"at most {MOST:,}")
    found = []
    for values in itertools.product(*(range(low, high + 1) for low, high in row.ranges.values())):
        value = dict(zip(row.ranges, values, strict=True)) | {"": 1}
        times = [(word, sum(factor * value[name] for name, factor in factors.items())) for word, factors in counts]
        if sum(len(word) * count for word, count in times) > LONGEST:  # before the string is made
            raise InputError(f"a string has more than {LONGEST} symbols", where=where, expected="shorter strings")
        found.append("".join(word * count for word, count in times))
    return found


def _predicate(rule: Rule, symbols: str, where: str) -> Callable[[str], bool]:
    if not (rule.equal or rule.matches or rule.avoids or rule.balanced):
        raise InputError("a rule without a condition", where=where, expected="equal, matches, avoids or balanced")
    for group in rule.equal:
        if len(group) < 2 or not set("".join(group)) <= set(symbols) or not all(group):
            raise InputError(f"equal holds {group}", where=where, expected=f"two or more words of the symbols {symbols}")
    if any(len(pair) != 2 or pair[0] == pair[1] for pair in rule.balanced):
        raise InputError(f"balanced = {rule.balanced}", where=where, expected="pairs of an opening and a closing symbol, as ['()', '[]']")
    if any(not word for word in rule.avoids) or len(rule.matches) > 200:
        raise InputError("an empty word to avoid, or a pattern of more than 200 characters", where=where)
    try:
        pattern = re.compile(rule.matches) if rule.matches else None
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"matches = {rule.matches!r} is no regular expression ({error})", where=where) from error

    def holds(text: str) -> bool:
        counted = all(len({sum(text.count(s) for s in set(word)) for word in group}) == 1 for group in rule.equal)
        shaped = (pattern is None or pattern.fullmatch(text) is not None) and not any(word in text for word in rule.avoids)
        return counted and shaped and (not rule.balanced or nested(text, rule.balanced))

    return holds


def read_grammar(path: str | os.PathLike) -> Grammar:
    """The grammar a file describes.

    Raises
    ------
    InputError
        No such file, not TOML, an unknown key, a rule the strings break, symbols that are not there: each with its place.
    """
    where = str(path)
    try:
        value = tomllib.loads(read_bytes(path, limit=1 << 20).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"is not TOML ({error})", where=where) from error
    described = to_struct(value, Description, where=where)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", described.name):
        raise InputError(f"name is {described.name!r}", where=where, expected="letters, digits, - and _, at most 40")
    if not 1 <= len(described.symbols) == len(set(described.symbols)) <= 16:
        raise InputError(f"symbols = {described.symbols!r}", where=where, expected="1 to 16 different characters")
    candidates = sum(len(described.symbols) ** n for n in range(1, described.prompt_length + 1)) if 1 <= described.prompt_length <= 8 else 0
    if not 1 <= candidates <= 400:
        expected = "at least 1, and at most 400 words of that length or shorter"
        raise InputError(f"prompt_length is {described.prompt_length} with {len(described.symbols)} symbols", where=where, expected=expected)
    total = sum(row.weight for row in described.strings)
    if not described.strings or any(not 1 <= row.weight <= 1_000_000 for row in described.strings):
        raise InputError("no strings, or a weight out of range", where=where, expected="rows of [[strings]] with weights from 1 to 1,000,000")
    support: dict[str, Fraction] = {}
    for number, row in enumerate(described.strings, 1):
        texts = _enumerate(row, f"{where}: strings {number}")
        for text in texts:
            if not 1 <= len(text) <= LONGEST:
                raise InputError(f"string {text!r} has {len(text)} symbols", where=f"{where}: strings {number}", expected=f"1 to {LONGEST}")
            support[text] = support.get(text, Fraction(0)) + Fraction(row.weight, total * len(texts))
    if len(support) > MOST:
        raise InputError(f"{len(support):,} strings", where=where, expected=f"at most {MOST:,}")
    return Grammar(
        described.name,
        described.symbols,
        dict(sorted(support.items())),
        kept=_predicate(described.kept, described.symbols, f"{where}: kept"),
        broken=_predicate(described.broken, described.symbols, f"{where}: broken"),
        kept_words=described.kept.words or "the kept rule",
        broken_words=described.broken.words or "the broken rule",
        prompt_length=described.prompt_length,
    )
