"""Scored items as files: a table with a row per item, and beside it what was scored with what.

The table (``.csv``) has the column ``nll``, so ``scalebound compare A.csv B.csv`` compares two models item by item, in pairs. The summary
(``.json``, ``scalebound.answers/1``) names the model, the file of items and the table by SHA-256.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import msgspec
import numpy as np

import scalebound
from scalebound.core.errors import UsageError
from scalebound.core.io import atomic_write, relative, save_struct, sha256_bytes, sha256_file
from scalebound.core.progress import Progress, silent
from scalebound.core.stats import ModelRef
from scalebound.measure.choices import ItemScore, score_items
from scalebound.measure.items import read_items
from scalebound.models.language_model import LanguageModel

COLUMNS = ("item", "gold", "chosen", "correct", "chosen_per_byte", "correct_per_byte", "nll", "log_probabilities", "choice_bytes", "choice_tokens")


class Answers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file of items says of a model. ``mean_nll``: of the right answer given that one of the choices comes, nats per item."""

    schema: str = "scalebound.answers/1"
    model: ModelRef
    dtype: str
    items_path: str
    items_sha256: str
    table_path: str
    table_sha256: str
    items: int
    correct: int
    correct_per_byte: int
    mean_nll: float
    version: str


Answers.SCHEMA = "scalebound.answers/1"  # type: ignore[attr-defined]


def answer_items(model: LanguageModel, path: str | os.PathLike, out: str | os.PathLike, *, progress: Progress = silent) -> tuple[Answers, list[ItemScore]]:
    """Score the items of a file (:func:`~scalebound.measure.items.read_items`) and write ``out`` (``.csv``) and ``out`` with the ending ``.json``.

    Raises
    ------
    UsageError
        ``out`` does not end in ``.csv``.
    InputError
        Unusable items or predictions; nothing is written.
    """
    out = Path(out)
    if out.suffix != ".csv":
        raise UsageError(f"{out.name} is no table", where="--out", expected="a name that ends in .csv")
    items = read_items(path)
    scores = score_items(model, items, progress=progress)
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for score in scores:
        item = score.item
        lists = (" ".join(repr(float(v)) for v in score.log_probabilities), " ".join(map(str, item.choice_bytes)), " ".join(map(str, score.tokens)))
        rows.writerow([item.name, item.gold, score.chosen, int(score.chosen == item.gold), score.chosen_per_byte, int(score.chosen_per_byte == item.gold), repr(score.nll), *lists])
    data = text.getvalue().encode()
    atomic_write(out, data)
    found = Answers(
        model=ModelRef(relative(model.name, out.parent), model.sha256, model.num_params), dtype=model.dtype, items_path=relative(path, out.parent), items_sha256=sha256_file(path),
        table_path=out.name, table_sha256=sha256_bytes(data), items=len(scores), correct=sum(s.chosen == s.item.gold for s in scores),
        correct_per_byte=sum(s.chosen_per_byte == s.item.gold for s in scores), mean_nll=float(np.mean([s.nll for s in scores])), version=scalebound.__version__,
    )  # fmt: skip
    save_struct(out.with_suffix(".json"), found)
    return found, scores
