"""Tasks are what they say; the planted program is exact at every length and what memorizes is not; nothing is said of what was not learned."""

import json

import numpy as np
import pytest
import torch

from scalebound.cli.main import main
from scalebound.core.errors import UsageError
from scalebound.core.probe import load_probe
from scalebound.probe import (
    TASKS,
    LengthRow,
    counting_program,
    length_record,
    probe_length,
    problems,
    right_answers,
    summarize,
    train_decoder,
)
from scalebound.probe.exact import clopper_pearson
from scalebound.probe.length_tasks import ARROW, END, FIRST_MARK, LONGEST, MARKS, PLUS, SYMBOLS, VOCABULARY


def split(inputs, targets):
    """The prompt and the answer of one row, and the marks taken out of both."""
    size = int(np.flatnonzero(targets >= 0)[-1])
    prompt = inputs[: int(np.flatnonzero(inputs == ARROW)[0])].tolist()
    answer = targets[(targets >= 0)][:-1].tolist()
    assert inputs[len(prompt) + 1 : size + 1].tolist() == answer and targets[size] == END
    return prompt, answer, [t for t in prompt if t < FIRST_MARK], [t for t in answer if t < FIRST_MARK]


RIGHT = {
    "copy": lambda x: x,
    "reverse": lambda x: x[::-1],
    "sort": sorted,
    "count": lambda x: list(range(x[0], x[1] + 1)),
    "parity": lambda x: [sum(x) % 2],
    "addition": lambda x: [int(c) for c in reversed(str(sum(int("".join(map(str, part))) for part in halves(x))).zfill(len(x) // 2 + 1))],
}


def halves(x):
    at = x.index(PLUS)
    return x[:at], x[at + 1 :]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("hints", [False, True])
def test_answers_are_right_and_marks_belong_to_their_items(task, hints):
    if hints and not TASKS[task].takes_hints:
        with pytest.raises(UsageError, match="no index hints"):
            problems(task, True, np.random.default_rng(0), np.array([3]))
        return
    rng = np.random.default_rng(0)
    inputs, targets = problems(task, hints, rng, np.array([1, 2, 5, 11, LONGEST] * 8))
    assert inputs.max() < VOCABULARY and (inputs >= 0).all()
    for row, target in zip(inputs, targets, strict=True):
        prompt, answer, plain, said = split(row, target)
        if task == "addition" and hints:  # one place of zeros in front of each
            a, b = halves(plain)
            assert a[0] == b[0] == 0
            plain = [*a[1:], PLUS, *b[1:]]
        right = RIGHT[task](plain)
        assert said == (np.cumsum(plain) % 2).tolist() if (task, hints) == ("parity", True) else said == right
        if hints:
            marks = [t for t in prompt if t >= FIRST_MARK]
            if task in ("copy", "reverse", "sort"):  # every symbol carries its own mark
                of = dict(zip(marks, plain, strict=True))
                assert all(of[mark] == value for mark, value in zip(answer[::2], answer[1::2], strict=True))
            else:  # every place of the answer carries the mark of its place
                places = list(dict.fromkeys(marks))
                assert answer[::2] == (places if task == "parity" else places[::-1])
            assert marks[: len(set(marks))] == list(range(marks[0], marks[0] + len(set(marks)))) and max(marks) < FIRST_MARK + MARKS


def test_one_pass_is_greedy_writing():
    model = train_decoder("sort", "alibi", 0, steps=60)
    inputs, targets = problems("sort", False, np.random.default_rng(1), np.full(60, 3))
    right = 0
    for row, target in zip(inputs, targets, strict=True):
        start = int(np.flatnonzero(row == ARROW)[0]) + 1
        tokens = row[:start].tolist()
        while len(tokens) < start + 4:
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        right += tokens[start:] == target[target >= 0].tolist()
    with torch.no_grad():
        said = model(torch.from_numpy(inputs)).argmax(-1)
    fast = int(((said == torch.from_numpy(targets)) | (torch.from_numpy(targets) == -100)).all(1).sum())
    assert fast == right and 0 < right < 60


def test_the_program_counts_at_every_length():
    program = counting_program()
    assert all(right_answers(program, "count", n, 40, 0) == 40 for n in (1, 2, 3, 10, 30, LONGEST))
    with torch.no_grad():
        program.head[END] = 0  # the control: without its END it never stops
    assert right_answers(program, "count", 10, 40, 0) == 0


def memorizer(tokens_BT):
    """Right up to length 10, and END from there on: what a model that has learned only its training lengths may do."""
    out = torch.zeros(*tokens_BT.shape, VOCABULARY)
    for row, tokens in enumerate(tokens_BT):
        first, last = int(tokens[0]), int(tokens[1])
        out[row, :, END] = 1
        for k in range(2, len(tokens)):
            if first + k - 2 <= min(last, first + 9):
                out[row, k, first + k - 2] = 2
    return out


def rows_of(model, lengths=(5, 10, 15, 30), tests=200):
    counts = [right_answers(model, "count", n, tests, 0) for n in lengths]
    return [LengthRow("count", "none", "0", n, n <= 10, k, tests, k / tests, *clopper_pearson(k, tests, 0.99)) for n, k in zip(lengths, counts, strict=True)]


def test_planted_generalization_is_found_and_memory_is_not():
    planted, null = summarize(rows_of(counting_program())), summarize(rows_of(memorizer))
    assert (planted.verdict, planted.reach) == ("generalizes", 30)
    assert (null.verdict, null.reach) == ("fails", 10)
    guesser = summarize(rows_of(lambda tokens: torch.zeros(*tokens.shape, VOCABULARY)))
    assert (guesser.verdict, guesser.reach) == ("not learned", 0)


def test_the_probe_says_nothing_of_models_that_learned_nothing():
    rows, models, verdict = probe_length(["count"], ["none", "t5"], seeds=1, steps=2, tests=150, lengths=(5, 12), workers=1)
    assert verdict == "no_pair_found" and [m.verdict for m in models] == ["not learned", "not learned", "generalizes"]
    assert [m.model for m in models] == ["0", "0", "by hand"] and len(rows) == 6
    record = length_record(rows, models, verdict, seeds=1, train_length=10, steps=2, level=0.95, seed=0)
    assert "0 of 2 trained models learned it" in record.words[0] and len(record.figures[0].series) == 3
    again = probe_length(["count"], ["none", "t5"], seeds=1, steps=2, tests=150, lengths=(5, 12), workers=1)
    assert again[0] == rows


@pytest.mark.nightly
def test_sorting_without_positions_goes_farther_than_with_absolute_ones():
    rows, models, verdict = probe_length(["sort"], ["none", "absolute"], seeds=1, lengths=(10, 20), workers=1)
    assert verdict == "same_training_different_length"
    assert {m.positions: m.verdict for m in models}["absolute"] == "fails"


def test_bad_arguments():
    for wrong, words in (
        ({"tasks": ["shuffle"]}, "unknown task"),
        ({"tasks": ["count+hints"]}, "no index hints"),
        ({"positions": ["learned"]}, "positions"),
        ({"tasks": []}, "one task or more"),
        ({"lengths": (20, 30)}, "some trained"),
        ({"lengths": (5, 61)}, "some trained"),
        ({"steps": 0}, "at least 1"),
        ({"level": 1.0}, "level"),
    ):
        with pytest.raises(UsageError, match=words):
            probe_length(**wrong)
    assert SYMBOLS >= LONGEST and MARKS > LONGEST


def test_the_command_writes_its_record_and_refuses_what_it_cannot_use(capsys, tmp_path):
    out = tmp_path / "length.json"
    asked = ["--tasks", "count,copy+hints", "--positions", "alibi", "--seeds", "1", "--steps", "2", "--tests", "20", "--workers", "1", "--lengths", "5,12"]
    assert main(["probe", "length", *asked, "--out", str(out), "--json"]) == 0
    saved = load_probe(out)
    assert json.loads(capsys.readouterr().out)["verdict"] == saved.verdict == "no_pair_found"
    assert [figure.id for figure in saved.figures] == ["length-count", "length-copy-hints"] and len(saved.rows) == 6 and len(saved.parts["models"]) == 3
    for wrong in (["--tasks", "english"], ["--positions", "learned"], ["--lengths", "ten"], ["--lengths", "12,30"], ["--steps", "0"]):
        assert main(["probe", "length", *wrong]) == 2
    assert "Traceback" not in capsys.readouterr().err
