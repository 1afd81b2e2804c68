"""Six algorithmic tasks of a stated length, with or without index hints.

A task writes a prompt and its one right answer as token ids. The *length* n counts the items an algorithm must handle: symbols of copy and
reverse, distinct numbers to sort, numbers to count through, bits, digits of each summand.

=========  ======================  =============================  =============================================================
task       prompt                  answer                         with index hints
=========  ======================  =============================  =============================================================
copy       x1 .. xn >              x1 .. xn                       m1 x1 .. mn xn > m1 x1 .. mn xn
reverse    x1 .. xn >              xn .. x1                       m1 x1 .. mn xn > mn xn .. m1 x1
sort       x1 .. xn >              x in ascending order           every number after the mark it had in the prompt
count      first last >            first, first + 1, .., last     none: every symbol already says what follows it
parity     b1 .. bn >              their sum modulo 2             m1 b1 .. mn bn > m1 p1 .. mn pn, p the running parity
addition   a_n .. a_1 + b_n .. >   digits of a + b, lowest first  digits of one place share a mark; one place of zeros in front
=========  ======================  =============================  =============================================================

Every answer ends with the mark END. Index marks are consecutive tokens from a random start, so that training on short problems has seen all
of them: with hints, "the next position" is something to look up, not something to count. Whether hints help is what the probe measures.

Source: Zhou et al. 2023 (RASP-L, index hints), arXiv 2310.16028. There hints start at random as well; parity's running sum is their scratchpad.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import UsageError

SYMBOLS = 64  # numbers 0..63 are tokens 0..63; digits and bits are the first of them
ARROW, PLUS, END = 64, 65, 66
FIRST_MARK, MARKS = 67, 64
VOCABULARY = FIRST_MARK + MARKS
LONGEST = 60  # every task can be asked up to here: count and sort need distinct numbers, hints distinct marks
LETTERS = 10  # copy and reverse draw from ten symbols, so that symbols repeat

Pair = tuple[list[int], list[int]]  # prompt, answer


def _marked(marks: list[int], values: list[int]) -> list[int]:
    return [token for pair in zip(marks, values, strict=True) for token in pair]


def copy(rng: np.random.Generator, n: int, marks: list[int] | None) -> Pair:
    """The symbols again."""
    x = rng.integers(LETTERS, size=n).tolist()
    if marks:
        x = _marked(marks[:n], x)
    return [*x, ARROW], x


def reverse(rng: np.random.Generator, n: int, marks: list[int] | None) -> Pair:
    """The symbols from the last to the first."""
    x = rng.integers(LETTERS, size=n).tolist()
    if marks:
        return [*_marked(marks[:n], x), ARROW], _marked(marks[:n][::-1], x[::-1])
    return [*x, ARROW], x[::-1]


def sort(rng: np.random.Generator, n: int, marks: list[int] | None) -> Pair:
    """Distinct numbers, ascending."""
    x = rng.choice(SYMBOLS, size=n, replace=False).tolist()
    if marks:
        order = sorted(range(n), key=x.__getitem__)
        return [*_marked(marks[:n], x), ARROW], _marked([marks[k] for k in order], [x[k] for k in order])
    return [*x, ARROW], sorted(x)


def count(rng: np.random.Generator, n: int, marks: list[int] | None) -> Pair:
    """From the first number to the last, ``n`` of them."""
    first = int(rng.integers(SYMBOLS - n + 1))
    return [first, first + n - 1, ARROW], list(range(first, first + n))


def parity(rng: np.random.Generator, n: int, marks: list[int] | None) -> Pair:
    """Sum of the bits modulo 2; with hints, every partial sum."""
    bits = rng.integers(2, size=n)
    sums = np.cumsum(bits) % 2
    if marks:
        return [*_marked(marks[:n], bits.tolist()), ARROW], _marked(marks[:n], sums.tolist())
    return [*bits.tolist(), ARROW], [int(sums[-1])]


def addition(rng: np.random.Generator, n: int, marks: list[int] | None) -> Pair:
    """Two numbers of ``n`` digits, written highest digit first; their sum, n + 1 digits, lowest first."""
    a, b = (rng.integers(10, size=n).tolist() for _ in range(2))  # lowest digit first
    carry, total = 0, []
    for p, q in zip(a, b, strict=True):
        carry, digit = divmod(p + q + carry, 10)
        total.append(digit)
    total.append(carry)
    if marks:
        places = marks[: n + 1]  # the first mark stands for the highest place
        return [*_marked(places, [0, *a[::-1]]), PLUS, *_marked(places, [0, *b[::-1]]), ARROW], _marked(places[::-1], total)
    return [*a[::-1], PLUS, *b[::-1], ARROW], total


@dataclass(frozen=True)
class LengthTask:
    """A task: how a problem is written, and whether index hints apply."""

    write: Callable[[np.random.Generator, int, list[int] | None], Pair]
    takes_hints: bool = True


TASKS: dict[str, LengthTask] = {
    "copy": LengthTask(copy),
    "reverse": LengthTask(reverse),
    "sort": LengthTask(sort),
    "count": LengthTask(count, takes_hints=False),
    "parity": LengthTask(parity),
    "addition": LengthTask(addition),
}


def problems(task: str, hints: bool, rng: np.random.Generator, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One problem per length, as inputs and targets.

    Parameters
    ----------
    task : a name of ``TASKS``
    hints : whether items carry index marks
    lengths : (B,) each from 1 to ``LONGEST``

    Returns
    -------
    (inputs, targets)         (B, T) int64 each, padded on the right with END; targets are -100 except for the answer and its END

    Raises
    ------
    UsageError                unknown task, a length outside 1..60, hints for a task that has none

    >>> inputs, targets = problems("count", False, np.random.default_rng(0), np.array([3]))
    >>> bool((inputs[0, 3:6] == targets[0, 2:5]).all()), int(targets[0, 5] == END)
    (True, 1)
    """
    check_task(task, hints)
    if len(lengths) < 1 or lengths.min() < 1 or lengths.max() > LONGEST:
        raise UsageError("a length is out of range", where="lengths", expected=f"from 1 to {LONGEST}")
    pairs = []
    for n in lengths.tolist():
        start = FIRST_MARK + int(rng.integers(MARKS - n))  # n + 1 marks: addition has one place more
        pairs.append(TASKS[task].write(rng, n, list(range(start, start + n + 1)) if hints else None))
    T = max(len(prompt) + len(answer) for prompt, answer in pairs)
    inputs, targets = np.full((len(pairs), T), END, dtype=np.int64), np.full((len(pairs), T), -100, dtype=np.int64)
    for row, (prompt, answer) in enumerate(pairs):
        size = len(prompt) + len(answer)
        inputs[row, :size] = prompt + answer
        targets[row, len(prompt) - 1 : size] = [*answer, END]
    return inputs, targets


def check_task(task: str, hints: bool) -> None:
    """Refuse an unknown task, and hints for one that has none."""
    if task not in TASKS:
        raise UsageError(f"unknown task {task!r}", where="tasks", expected=f"of {', '.join(TASKS)}")
    if hints and not TASKS[task].takes_hints:
        raise UsageError(f"{task} has no index hints", where="tasks", expected=f"hints for {', '.join(k for k, t in TASKS.items() if t.takes_hints)}")
