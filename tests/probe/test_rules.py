"""Grammars, exact intervals, the exact construction, and models that are equal on the support and opposite off it."""

import itertools
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch

from scalebound.core.errors import InputError, UsageError
from scalebound.probe import GRAMMARS, clopper_pearson, construction, divergence, exact_pair, from_sampler, probe_rules
from scalebound.probe.grammar import END, Grammar, anbn, nested
from scalebound.probe.rules import complete, encode, going_on, losses_on, train_on


def test_exact_intervals_solve_their_equation():
    for k, n in ((0, 10), (3, 10), (10, 10), (299, 300)):
        low, high = clopper_pearson(k, n, 0.9)
        tail = lambda p, ks, n=n: mpmath.fsum(mpmath.binomial(n, j) * mpmath.mpf(p) ** j * (1 - mpmath.mpf(p)) ** (n - j) for j in ks)  # noqa: E731
        assert low == 0 if k == 0 else abs(tail(low, range(k, n + 1)) - 0.05) < 1e-9
        assert high == 1 if k == n else abs(tail(high, range(k + 1)) - 0.05) < 1e-9
    with pytest.raises(UsageError):
        clopper_pearson(3, 2)


@pytest.mark.parametrize("name", GRAMMARS)
def test_grammars_and_their_construction(name):
    grammar = GRAMMARS[name]()
    assert sum(grammar.support.values()) == 1
    # no extension of a prompt obeys both rules: checked on every continuation up to five symbols
    for prompt in grammar.prompts():
        frontier = [prompt]
        for _ in range(5):
            assert not any(grammar.kept(text) and grammar.broken(text) for text in frontier)
            frontier = [text + symbol for text in frontier for symbol in grammar.symbols]
    exact = exact_pair(grammar)
    assert (exact.total_variation, exact.kl, exact.kept_by_one, exact.kept_by_other) == (0, 0, 1, 0)


def test_divergence_sees_a_difference_on_the_support():
    grammar = anbn(3)
    p, _ = construction(grammar)
    other = Grammar("other", "ab", {"ab": Fraction(1, 2), "aabb": Fraction(1, 4), "aaabbb": Fraction(1, 4)}, grammar.kept, grammar.broken)
    variation, kl = divergence(grammar, p, construction(other)[0])
    assert variation == Fraction(1, 6)
    assert abs(kl - sum(np.log((1 / 3) / q) / 3 for q in (0.5, 0.25, 0.25))) < 1e-12


def test_a_grammar_of_ones_own():
    sampler = lambda rng: "xy" * int(rng.integers(1, 4))  # noqa: E731
    grammar = from_sampler(
        "alternating", "xy", sampler, lambda s: len(s) % 2 == 0, lambda s: "xx" not in s and "yy" not in s, rng=np.random.default_rng(0)
    )
    assert set(grammar.support) == {"xy", "xyxy", "xyxyxy"} and "y" in grammar.prompts() and exact_pair(grammar).kept_by_other == 0
    with pytest.raises(InputError, match="breaks a rule"):
        from_sampler("wrong", "xy", sampler, lambda s: len(s) < 3, lambda s: True, rng=np.random.default_rng(0))


def test_losses_are_those_of_the_strings():
    grammar = anbn(3)
    model = train_on(grammar, "lstm", 0, steps=1)
    texts = ["ab", "aabb", "ab"]
    inputs, targets = encode(grammar, texts)
    log_p = model(inputs).log_softmax(-1)
    slow = [-float(log_p[row, k, targets[row, k]]) for row, text in enumerate(texts) for k in range(len(text) + 1)]
    assert np.allclose(losses_on(grammar, model, texts), slow, atol=1e-6)


def test_completions_follow_the_model():
    grammar = anbn(2)

    def certain(tokens):  # always b, then the end mark after four symbols
        logits = torch.full((*tokens.shape, 3), -100.0)
        logits[..., 2 if tokens.shape[1] < 5 else 0] = 100.0
        return logits

    assert complete(grammar, certain, ["b", "ba", "bba"], torch.Generator()) == ["bbbb", "babb", "bbab"]
    assert complete(grammar, lambda tokens: torch.nn.functional.one_hot(tokens * 0 + 1, 3) * 200.0, ["b"], torch.Generator()) == [None]


def test_planted_models_are_found_and_a_twin_is_not():
    grammar = anbn(3)
    rows, pairs, _ = probe_rules(grammar, models=("keeps", "breaks"), steps=120, prompts=120, strings=2500)
    assert pairs[0].found and rows[0].low > 0.7 and rows[1].high < 0.3, (rows, pairs)
    # the null: one recipe and one seed twice, so one model under two names, sampled independently
    model = train_on(grammar, "keeps", 0, steps=40)
    prompts = [grammar.prompts()[k % len(grammar.prompts())] for k in range(150)]
    ends = []
    for seed in (1, 2):
        done = complete(grammar, model, prompts, torch.Generator().manual_seed(seed))
        ends.append(clopper_pearson(sum(text is not None and grammar.kept(text) for text in done), 150, 0.999))
    assert ends[0][0] <= ends[1][1] and ends[1][0] <= ends[0][1]


def test_the_penalty_is_the_mass_outside_and_leaves_the_minimum():
    grammar = anbn(3)
    mask = going_on(grammar, ["aabb", "ab"], 5)
    assert mask[0, :5].tolist() == [[False, True, False], [False, True, True], [False, True, True], [False, False, True], [True, False, False]]
    assert mask[1, 3:].all()  # after the end nothing is penalised
    # the true distribution puts nothing outside: both terms have one minimizer
    assert all(set(after) <= {END, "a", "b"} for after in grammar.prefixes.values())
    model, plain = (train_on(grammar, kind, 0, steps=60) for kind in ("penalty", "transformer"))
    inputs, targets = encode(grammar, ["aaabbb"])
    outside = [float((m(inputs).softmax(-1) * ~going_on(grammar, ["aaabbb"], 7)).sum(-1).mean()) for m in (model, plain)]
    assert outside[0] < outside[1] and losses_on(grammar, model, ["aaabbb"]).mean() < 0.5


def test_dyck_2_has_all_words_and_no_other():
    words = set(GRAMMARS["dyck2"]().support)
    slow = {w for n in (2, 4, 6) for w in map("".join, itertools.product("()[]", repeat=n)) if nested(w) and w.count("(") == w.count(")") and w.count("[") == w.count("]")}
    assert words == slow and len(words) == 2 + 8 + 40


def test_bad_arguments():
    with pytest.raises(UsageError, match="two"):
        probe_rules(anbn(), models=("lstm",))
    with pytest.raises(UsageError, match="kind"):
        train_on(anbn(), "oracle", 0)
