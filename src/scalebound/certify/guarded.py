"""The guarded file: labels of a training and a holdout set behind :class:`~scalebound.certify.holdout.Thresholdout`.

An evaluation script hands in predictions and gets accuracies. Every question is written to the file before its answer is given, so a crash
or Ctrl-C never makes a question free. The file keeps honest people honest: whoever reads the labels in it, or asks a copy, has no guarantee.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

import scalebound
from scalebound.certify.holdout import Answer, HoldoutRules, Thresholdout
from scalebound.core.errors import InputError, from_os_error
from scalebound.core.io import load_struct, save_struct
from scalebound.core.seeds import generator

SCHEMA = "scalebound.holdout/1"


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of the log: what was asked, by which name, and what was answered."""

    name: str
    training: float
    answer: float
    source: str


class HoldoutFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Labels, rules and the log of every question."""

    schema: str = SCHEMA
    training: tuple[str, ...]
    holdout: tuple[str, ...]
    queries: int
    budget: int
    threshold: float
    step: float
    sigma: float
    delta: float
    error: float
    seed: int
    log: tuple[Question, ...] = ()
    version: str


HoldoutFile.SCHEMA = SCHEMA  # type: ignore[attr-defined]


def create_holdout(path: str | os.PathLike, training: Sequence[str], holdout: Sequence[str], rules: HoldoutRules, *, seed: int = 0) -> HoldoutFile:
    """Write a new guarded file. An existing one is never replaced: that would be a second budget on the same items.

    Raises :class:`InputError` when the file exists or a set is empty.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = create_holdout(f"{folder}/g.json", ["a", "b"], ["a"] * 2000, HoldoutRules(queries=10, budget=2))
    ...     Guarded(f"{folder}/g.json").ask("all a", ["a", "a"], ["a"] * 2000).value
    1.0
    """
    if Path(path).exists():
        raise InputError("exists already", where=str(path), expected="a new name: the same items must not get a second budget")
    if not len(training) or not len(holdout):
        raise InputError(f"has {len(training)} training and {len(holdout)} holdout items", where="holdout", expected="at least one of each")
    made = HoldoutFile(
        training=tuple(map(str, training)), holdout=tuple(map(str, holdout)), queries=rules.queries, budget=rules.budget, threshold=rules.threshold,
        step=rules.step, sigma=rules.sigma, delta=rules.delta, error=rules.error(len(holdout)), seed=seed, version=scalebound.__version__,
    )  # fmt: skip
    save_struct(path, made)
    os.chmod(path, 0o600)
    return made


class Guarded:
    """A guarded file, opened for questions from Python: ``Guarded("guard.json").ask(name, train_predictions, holdout_predictions)``."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        load_struct(self.path, HoldoutFile)  # a missing or malformed file is reported here

    @property
    def file(self) -> HoldoutFile:
        return load_struct(self.path, HoldoutFile)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One question at a time, also from several processes."""
        try:
            handle = os.open(self.path.with_name(self.path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise from_os_error(error, self.path) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def ask(self, name: str, training: Sequence[object], holdout: Sequence[object]) -> Answer:
        """The accuracy of predictions, one for each item of both sets, in the file's order.

        Raises
        ------
        InputError        a wrong number of predictions
        ClaimFails        questions or budget are spent; nothing is answered then
        """
        with self._locked():
            known = self.file
            means = []
            for which, given, labels in (("training", training, known.training), ("holdout", holdout, known.holdout)):
                if isinstance(given, str) or len(given) != len(labels):
                    raise InputError(f"{name}: {len(given):,} predictions for the {which} set", where=str(self.path), expected=f"a list of {len(labels):,}")
                means.append(float(np.mean([str(a) == b for a, b in zip(given, labels, strict=True)])))
            answer = self._mechanism(known).ask(*means)
            line = Question(name=name, training=means[0], answer=answer.value, source=answer.source)
            save_struct(self.path, msgspec.structs.replace(known, log=(*known.log, line)))
            os.chmod(self.path, 0o600)
        return answer

    @staticmethod
    def _mechanism(known: HoldoutFile) -> Thresholdout:
        """The mechanism as it stands after the log; its noise depends on seed and position only, so asking again after a crash draws no other."""
        rules = HoldoutRules(known.queries, known.budget, known.threshold, known.step, known.sigma, known.delta)
        spent = sum(line.source == "holdout" for line in known.log)
        last = max((k for k, line in enumerate(known.log) if line.source == "holdout"), default=-1)
        made = Thresholdout(rules, len(known.holdout), generator(known.seed, "threshold", last), asked=len(known.log), spent=spent)
        made.rng = generator(known.seed, "question", len(known.log))
        return made


def read_labels(path: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Labels of the training and of the holdout items from a CSV file with columns ``split`` (training or holdout) and ``label``."""
    import csv

    sets: dict[str, list[str]] = {"training": [], "holdout": []}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not {"split", "label"} <= set(rows.fieldnames or ()):
                raise InputError("has no columns 'split' and 'label'", where=str(path))
            for number, row in enumerate(rows, start=2):
                if row["split"] not in sets or row["label"] is None:
                    raise InputError(f"row {number} has split {row['split']!r}", where=str(path), expected="'training' or 'holdout', and a label")
                sets[row["split"]].append(row["label"])
    except OSError as error:
        raise from_os_error(error, path) from error
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8 text", where=str(path)) from error
    return sets["training"], sets["holdout"]
