"""Grammars with two separable rules, and the exact pair of distributions that agree on every training string and on nothing else.

A grammar is a finite distribution over strings (the support) that obey two rules. A *prompt* is a short string with which no string of the
support begins; a suitable completion can still keep the rule ``kept``, though in the grammars below never both rules together. Training says
nothing about prompts: whatever a model does after one costs no loss.

Theorem (why loss cannot tell). Let p be the distribution of the support and c any rule that gives every prompt a completion. The predictor
``q_c(. | prefix) = p(. | prefix)`` where the prefix begins a string of the support, else the next symbol of c, has ``KL(p || q_c) = 0`` for
every c: strings of p never leave the prefixes of the support. :func:`construction` builds two such predictors, one whose c keeps the rule and
one whose c breaks it, and :func:`divergence` evaluates the sum in exact rationals.

Sources: Reizinger et al. 2024, arXiv 2405.01964; Meszaros et al. 2024 (rule extrapolation), arXiv 2409.13728.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from scalebound.core.errors import InputError

END = ""  # the symbol after the last one
NextSymbol = Callable[[str], dict[str, Fraction]]


@dataclass(frozen=True)
class Grammar:
    """A support with probabilities, the rule a prompt leaves breakable (``kept``), and the rule it ``broke``.

    Raises
    ------
    InputError
        Probabilities that do not sum to 1, a symbol that is no single character, a string of the support that breaks a rule.
    """

    name: str
    symbols: str
    support: dict[str, Fraction]
    kept: Callable[[str], bool]
    broken: Callable[[str], bool]
    kept_words: str = "the kept rule"
    broken_words: str = "the broken rule"
    prompt_length: int = 4
    prefixes: dict[str, dict[str, Fraction]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if sum(self.support.values()) != 1 or any(weight <= 0 for weight in self.support.values()):
            raise InputError("probabilities of the support are not positive or do not sum to 1", where=self.name)
        for text in self.support:
            if not set(text) <= set(self.symbols):
                raise InputError(f"string {text!r} holds other symbols", where=self.name, expected=f"only {self.symbols}")
            if not (self.kept(text) and self.broken(text)):
                raise InputError(f"string {text!r} breaks a rule", where=self.name, expected="a support inside the language")
        mass: dict[str, dict[str, Fraction]] = {}
        for text, weight in self.support.items():
            for k in range(len(text) + 1):
                following = mass.setdefault(text[:k], {})
                symbol = text[k] if k < len(text) else END
                following[symbol] = following.get(symbol, Fraction(0)) + weight
        self.prefixes.update({prefix: {s: w / sum(after.values()) for s, w in after.items()} for prefix, after in mass.items()})

    @property
    def longest(self) -> int:
        return max(map(len, self.support))

    @property
    def entropy(self) -> float:
        """Entropy of a string in nats: the least mean loss of any predictor, per string."""
        return -math.fsum(float(w) * math.log(w) for w in self.support.values())

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """Independent strings of the support."""
        strings = list(self.support)
        return [strings[k] for k in rng.choice(len(strings), size=count, p=[float(w) for w in self.support.values()])]

    def prompts(self) -> list[str]:
        """Every string up to ``prompt_length`` that begins no string of the support but can be completed with the rule ``kept``.

        Raises
        ------
        InputError
            There is none.
        """
        candidates = ("".join(s) for n in range(1, self.prompt_length + 1) for s in itertools.product(self.symbols, repeat=n))
        found = [text for text in candidates if text not in self.prefixes and self.completion(text, keep=True) is not None]
        if not found:
            raise InputError(f"has no prompt of up to {self.prompt_length} symbols off its support", where=self.name)
        return found

    def completion(self, prompt: str, *, keep: bool) -> str | None:
        """The shortest completion after which the rule holds (or, not ``keep``, fails); None when ``prompt_length`` symbols are not enough."""
        for n in range(self.prompt_length + 1):
            for suffix in itertools.product(self.symbols, repeat=n):
                if self.kept(prompt + "".join(suffix)) == keep:
                    return "".join(suffix)
        return None


def from_sampler(name: str, symbols: str, sampler: Callable[[np.random.Generator], str], kept: Callable[[str], bool],
                 broken: Callable[[str], bool], *, rng: np.random.Generator, draws: int = 10_000) -> Grammar:  # fmt: skip
    """A grammar of a user's own, given as a sampler and two predicates; its support is the empirical distribution of ``draws`` strings."""
    counts = Counter(sampler(rng) for _ in range(draws))
    return Grammar(name, symbols, {text: Fraction(count, draws) for text, count in sorted(counts.items())}, kept, broken)


def _balanced(text: str) -> bool:
    return all(text[:k].count("(") >= text[:k].count(")") for k in range(len(text) + 1))


def anbn(largest: int = 8) -> Grammar:
    """a^n b^n, n uniform on 1..largest. Kept: as many a as b. Broken: every a before every b."""
    support = {"a" * n + "b" * n: Fraction(1, largest) for n in range(1, largest + 1)}
    return Grammar("anbn", "ab", support, lambda s: s.count("a") == s.count("b"), lambda s: "ba" not in s, "as many a as b", "a before b")


def anbncn(largest: int = 5) -> Grammar:
    """a^n b^n c^n, n uniform on 1..largest. Kept: equal counts. Broken: in alphabetical order."""
    support = {"a" * n + "b" * n + "c" * n: Fraction(1, largest) for n in range(1, largest + 1)}
    kept = lambda s: s.count("a") == s.count("b") == s.count("c")  # noqa: E731
    return Grammar("anbncn", "abc", support, kept, lambda s: list(s) == sorted(s), "equal counts", "a before b before c", 2)


def dyck1(largest: int = 4) -> Grammar:
    """Balanced brackets of n pairs, n uniform on 1..largest, then the word uniform. Kept: as many ( as ). Broken: none closes before it opens."""
    kept = lambda s: s.count("(") == s.count(")")  # noqa: E731
    support: dict[str, Fraction] = {}
    for n in range(1, largest + 1):
        words = [w for w in map("".join, itertools.product("()", repeat=2 * n)) if kept(w) and _balanced(w)]
        support |= {word: Fraction(1, largest * len(words)) for word in words}
    return Grammar("dyck1", "()", support, kept, _balanced, "as many ( as )", "none closes before it opens")


def anbmcnm(largest: int = 3) -> Grammar:
    """a^n b^m c^(n+m), (n, m) uniform on 0..largest except (0, 0). Kept: as many c as a and b together. Broken: in alphabetical order."""
    pairs = [(n, m) for n in range(largest + 1) for m in range(largest + 1) if n + m]
    support = {"a" * n + "b" * m + "c" * (n + m): Fraction(1, len(pairs)) for n, m in pairs}
    kept = lambda s: s.count("a") + s.count("b") == s.count("c")  # noqa: E731
    return Grammar("anbmcnm", "abc", support, kept, lambda s: list(s) == sorted(s), "as many c as a and b", "a before b before c", 3)


def nested(text: str, brackets: Sequence[str] = ("()", "[]")) -> bool:
    """Whether every closing bracket meets the one opened last; what is still open at the end is no fault.

    >>> nested("([])("), nested("([)]")
    (True, False)
    """
    opened: list[str] = []
    closes = {pair[1]: pair[0] for pair in brackets}
    for symbol in text:
        if symbol in closes:
            if not opened or opened.pop() != closes[symbol]:
                return False
        elif symbol in closes.values():
            opened.append(symbol)
    return True


def _nested_words(pairs: int) -> list[str]:
    """Every word of Dyck-2 with that many pairs: the first bracket, what it encloses, the rest."""
    if pairs == 0:
        return [""]
    return [
        opening + inside + closing + rest
        for enclosed in range(pairs)
        for opening, closing in ("()", "[]")
        for inside in _nested_words(enclosed)
        for rest in _nested_words(pairs - 1 - enclosed)
    ]


def dyck2(largest: int = 3) -> Grammar:
    """Two kinds of brackets, n pairs, n uniform on 1..largest, then the word uniform. Kept: as many opening as closing of each kind. Broken: they nest."""
    support: dict[str, Fraction] = {}
    for n in range(1, largest + 1):
        words = _nested_words(n)
        support |= {word: Fraction(1, largest * len(words)) for word in words}
    kept = lambda s: s.count("(") == s.count(")") and s.count("[") == s.count("]")  # noqa: E731
    return Grammar("dyck2", "()[]", support, kept, nested, "as many ( as ) and [ as ]", "brackets nest", 3)


GRAMMARS: dict[str, Callable[[], Grammar]] = {"anbn": anbn, "dyck1": dyck1, "anbncn": anbncn, "anbmcnm": anbmcnm, "dyck2": dyck2}


def construction(grammar: Grammar) -> tuple[NextSymbol, NextSymbol]:
    """Two predictors equal on every prefix of the support; after a prompt, one keeps the rule for certain, the other breaks it for certain.

    >>> keep, spoil = construction(anbn(3))
    >>> keep("a") == spoil("a"), keep("b"), spoil("b")
    (True, {'a': Fraction(1, 1)}, {'': Fraction(1, 1)})
    """

    def predictor(keep: bool) -> NextSymbol:
        def following(prefix: str) -> dict[str, Fraction]:
            if prefix in grammar.prefixes:
                return grammar.prefixes[prefix]
            rest = grammar.completion(prefix, keep=keep)
            return {rest[0] if rest else END: Fraction(1)}

        return following

    return predictor(True), predictor(False)


def divergence(grammar: Grammar, p: NextSymbol, q: NextSymbol) -> tuple[Fraction, float]:
    """Total variation (exact) and KL(p || q) in nats (0.0 exactly when every ratio is 1) between the strings of the support under p and q."""
    variation, kl = Fraction(0), []
    for text in grammar.support:
        of = []
        for predictor in (p, q):
            probability = Fraction(1)
            for k in range(len(text) + 1):
                probability *= predictor(text[:k]).get(text[k] if k < len(text) else END, Fraction(0))
            of.append(probability)
        variation += abs(of[0] - of[1]) / 2
        if of[0]:
            kl.append(float(of[0]) * math.log(of[0] / of[1]) if of[1] else math.inf)
    return variation, math.fsum(kl)
