"""The record of a probe: what is saved is what is read, and what does not fit together is refused."""

import json

import numpy as np
import pytest

from scalebound.core.errors import InputError
from scalebound.core.probe import ProbeFigure, ProbeRecord, ProbeTable, Series, load_probe, row_of

POINTS = ProbeFigure(
    id="rates", kind="points", title="Rates", sentence="They differ.", x="model", y="share", band="Whiskers: exact.", names=("a", "b"),
    series=(Series(label="kept", x=(0.0, 1.0), value=(0.1, 0.9), low=(0.0, 0.8), high=(0.2, 1.0)),),
)  # fmt: skip
RECORD = ProbeRecord(
    name="rules", title="Same loss", verdict="found", seed=3, level=0.95, settings={"steps": 3}, rows=(row_of(loss=np.float32(1.5), n=np.int64(3), ends=[0, 1]),),
    words=("A sentence.",), tables=(ProbeTable(title="t", columns=("a", "b"), rows=(("1", "2"),)),), figures=(POINTS,), source="arXiv:0000.00000", version="0",
)  # fmt: skip


def test_what_is_saved_is_what_is_read(tmp_path):
    path = RECORD.save(tmp_path / "a" / "r.json")
    assert load_probe(path) == RECORD and json.loads(path.read_text())["schema"] == "scalebound.probe/1"
    assert RECORD.brief()["rows"] == [{"loss": 1.5, "n": 3, "ends": (0.0, 1.0)}]


def change(record, *path, to):
    *steps, last = path
    place = record
    for step in steps:
        place = place[step]
    place[last] = to


@pytest.mark.parametrize("path, to, said", [
    (("schema",), "scalebound.probe/9", "schema"), (("level",), 1.0, "level"), (("extra",), 1, "extra"), (("figures", 0, "kind"), "pie", "pie"),
    (("figures", 0, "series", 0, "low"), [0.0], "different lengths"), (("figures", 0, "series", 0, "low"), [0.5, 0.8, ], "rates|kept|low"),
    (("figures", 0, "series", 0, "low"), [0.3, 0.8], "above its high"), (("figures", 0, "id"), "</script>", "id"), (("figures", 0, "names"), ["a"], "without a name"),
    (("figures", 0, "series"), [], "no series"), (("tables", 0, "rows"), [["1"]], "cells"), (("rows", 0, "loss"), {"a": 1}, "rows"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, path, to, said):
    file = RECORD.save(tmp_path / "r.json")
    record = json.loads(file.read_text())
    change(record, *path, to=to)
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match=said):
        load_probe(file)


def test_a_heat_map_fits_its_names():
    with pytest.raises(ValueError, match="do not fit"):
        ProbeFigure(id="h", kind="heat", title="", sentence="", x="", y="", band="", names=("a",), lines=("b",), cells=((1.0, 2.0),))
