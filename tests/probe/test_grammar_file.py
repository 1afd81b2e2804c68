"""Grammars from files are those of the library where they describe the same, and files are refused with their place."""

import re
from fractions import Fraction

import pytest

from scalebound.core.errors import InputError
from scalebound.probe import GRAMMARS, exact_pair, read_grammar
from scalebound.probe.grammar_file import parse_count

SUMS = """
name = "sums"
symbols = "abc"
[[strings]]
form = [["a", "n"], ["b", "m"], ["c", "n + m"]]
ranges = {n = [1, 3], m = [0, 3]}
weight = 12
[[strings]]
words = ["bc", "bbcc", "bbbccc"]
weight = 3
[kept]
words = "as many c as a and b"
equal = [["ab", "c"]]
[broken]
matches = "a*b*c*"
"""


def write(tmp_path, text):
    (tmp_path / "g.toml").write_text(text)
    return tmp_path / "g.toml"


def test_a_described_grammar_is_the_one_in_the_library(tmp_path):
    ours, theirs = read_grammar(write(tmp_path, SUMS)), GRAMMARS["anbmcnm"]()
    assert ours.support == dict(sorted(theirs.support.items())) and ours.prompts() == theirs.prompts()
    for text in ("", "abc", "abcc", "cba", "bca", "aacc", "cc"):
        assert (ours.kept(text), ours.broken(text)) == (theirs.kept(text), theirs.broken(text))
    assert exact_pair(ours).kept_by_other == 0


def test_brackets_and_forbidden_substrings(tmp_path):
    text = """
name = "brackets"
symbols = "()[]"
[[strings]]
words = ["()", "[]", "([])", "[()]"]
[kept]
equal = [["(", ")"], ["[", "]"]]
[broken]
balanced = ["()", "[]"]
avoids = ["()("]
"""
    grammar = read_grammar(write(tmp_path, text))
    assert grammar.broken("([") and not grammar.broken("(]") and not grammar.broken("()()") and grammar.kept("][") and not grammar.kept("(]")
    assert grammar.support["()"] == Fraction(1, 4)


def test_counts_have_a_parser_of_their_own():
    assert parse_count("2n+3*m + 4 + n") == {"n": 3, "m": 3, "": 4}
    for text in ("n - 1", "n*m", "__import__('os')", "", "n n", "9**9", "99999"):
        with pytest.raises(InputError, match="count"):
            parse_count(text)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('symbols = "abc"', 'symbols = "aab"', "symbols"),
        ('"n + m"', '"n + k"', "variables"),
        ('"n + m"', '"n + m + 1"', "breaks a rule"),
        ("n = [1, 3]", "n = [3, 1]", "range of n"),
        ("n = [1, 3]", "n = [1, 40]", "more than 40"),
        ('matches = "a*b*c*"', 'matches = "a*("', "no regular expression"),
        ('matches = "a*b*c*"', "", "without a condition"),
        ("[broken]", "surprise = 1\n[broken]", "surprise"),
        ("weight = 12", "weight = 0", "weight"),
        ('name = "sums"', 'name = "../sums"', "name"),
        ('name = "sums"', "name = ", "TOML"),
        ('name = "sums"', 'name = "sums"\nprompt_length = 7', "prompt_length"),
        ('equal = [["ab", "c"]]', 'equal = [["ab", "d"]]', "equal holds"),
        ('words = ["bc", "bbcc", "bbbccc"]', "words = []", "both or neither"),
    ],
)
def test_what_is_refused(tmp_path, old, new, words):
    assert SUMS.count(old) == 1
    with pytest.raises(InputError, match=re.escape(words)):
        read_grammar(write(tmp_path, SUMS.replace(old, new)))
    with pytest.raises(InputError, match="no such file"):
        read_grammar(tmp_path / "none.toml")
