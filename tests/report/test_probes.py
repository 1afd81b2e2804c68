"""Records of probes on the page: every number in a table, every kind of figure drawn, text stays text."""

import json
import re
import shutil

import pytest

from scalebound.cli.main import main
from scalebound.core.errors import InputError, UsageError
from scalebound.core.probe import ProbeFigure, ProbeRecord, ProbeTable, Series
from scalebound.report import build_page

EVIL = "</script><img src=http://example.org onerror=alert(2)><a href='http://example.org'>x</a>"


def record(name="rules", label="kept", **more):
    ends = {"x": (0.0, 1.0), "value": (0.1234, 0.9), "low": (0.05, 0.8), "high": (0.2, 0.95)}
    say = {"sentence": f"About {label}.", "x": "place", "y": f"share {label}"}
    figures = (
        ProbeFigure(id="points", kind="points", title="Points", band="Whiskers: exact.", names=(label, "b"), series=(Series(label=label, **ends),), span=(0.0, 1.0), **say),
        ProbeFigure(id="curves", kind="curves", title="Curves", band="No band: exact.", series=(Series(label="one", x=(1.0, 2.0), value=(3.0, 4.0)), Series(label=label, **ends)), **say),
        ProbeFigure(id="heat", kind="heat", title="Heat", band="No band: exact.", names=(label, "c"), lines=("d", label), cells=((0.1, -2.25), (None, 0.3)), scale="nats", **say),
    )
    settings = {"title": "A probe", "verdict": "found", "seed": 0, "level": 0.95, "settings": {"text": label}, "rows": ({"a": 1.0},), "words": (f"Of {label}.",), "source": "here", "version": "0"}
    table = ProbeTable(title="t", columns=("model", "loss"), rows=((label, "1.2345"),))
    return ProbeRecord(name=name, tables=(table,), figures=figures, **settings, **more)


@pytest.fixture
def file(tmp_path):
    return record().save(tmp_path / "one" / "probes" / "a.json")


def test_a_page_of_probes_alone(file):
    page = build_page(file.parent.parent)
    assert page.figures == ("probe-1-0-points", "probe-1-1-curves", "probe-1-2-heat")
    for said in ("1.2345", "0.1234", "-2.2500", "Verdict: <strong>found</strong>", "Down: share kept. Colour: nats.", "Whiskers: exact."):
        assert said in page.html
    drawings = json.loads(re.search(r'id="drawings">(.*?)</script>', page.html)[1])
    points, curves, heat = (drawings[name][0]["data"] for name in page.figures)
    assert points[0]["y"] == [0.1234, 0.9] and points[0]["error_y"]["arrayminus"] == pytest.approx([0.0734, 0.1])
    assert "error_y" not in curves[0] and curves[1]["error_y"]["array"] == pytest.approx([0.0766, 0.05])
    assert heat[0]["z"] == [[0.1, -2.25], [None, 0.3]] and heat[0]["zmax"] == 2.25
    assert build_page(None, probes=[file]).html == page.html


def test_probes_beside_a_demo(folder, tmp_path, file):
    whole = shutil.copytree(folder, tmp_path / "demo")
    alone = build_page(whole)
    both = build_page(whole, probes=[file, file])  # one file named twice counts once
    assert both.figures == (*alone.figures, "probe-1-0-points", "probe-1-1-curves", "probe-1-2-heat")
    assert "Whiskers: exact." in both.html and "Whiskers: exact." not in alone.html


def test_text_of_a_record_stays_text(tmp_path):
    page = build_page(None, probes=[record(label=EVIL).save(tmp_path / "e.json")])
    assert EVIL not in page.html and "<img" not in page.html.split("<script>")[0] and page.html.count("</script>") == build_page(None, probes=[record().save(tmp_path / "f.json")]).html.count("</script>")
    drawings = json.loads(re.search(r'id="drawings">(.*?)</script>', page.html)[1])
    assert "<a" not in json.dumps(drawings) and "&lt;a" in json.dumps(drawings)


def test_what_is_no_record_is_refused(tmp_path, file, capsys):
    with pytest.raises(UsageError, match="neither"):
        build_page(None)
    with pytest.raises(InputError, match="is a folder"):
        build_page(None, probes=[tmp_path])
    with pytest.raises(InputError, match="holds no demo.json"):
        build_page(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    assert main(["report", "--probes", str(file), str(tmp_path / "x.json")]) == 3
    assert "scalebound.probe/1" in capsys.readouterr().err
    assert main(["report", "--probes", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(file.parent / "report.html")
