"""The page in a real browser: drawn, silent, and asking for nothing.

Requests are read from Chromium's own network log. The browser has errands of its own (updates, clock); those carry no initiator, while
a request of a page carries the page's origin. The two controls show that a request and an error would be seen.
"""

import json
import re
import shutil
import subprocess

import pytest

from scalebound.core.probe import ProbeFigure, ProbeRecord, Series
from scalebound.report import build_page

BROWSER = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
pytestmark = [pytest.mark.chromium, pytest.mark.skipif(BROWSER is None, reason="no Chromium binary: apt-get install chromium")]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
LEAK = '<img src="http://scalebound.invalid/x.png"></main>'


@pytest.fixture(scope="module")
def page(folder):
    return build_page(folder)


def visit(html, folder):
    """(the document after its scripts ran, lines on the console, URLs the page asked for)"""
    folder.mkdir()
    (folder / "page.html").write_text(html, encoding="utf-8")
    log = folder / "net.json"
    options = (*FLAGS, f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--v=0", f"--log-net-log={log}", "--dump-dom")
    done = subprocess.run([BROWSER, *options, (folder / "page.html").as_uri()], capture_output=True, text=True, timeout=120)
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    asked = {
        event["url"]
        for event in events
        if event.get("initiator") not in (None, "not an origin") and event.get("url", "").startswith(("http", "ws", "ftp"))
    }
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked


def test_it_draws_every_figure_in_silence_and_asks_for_nothing(page, tmp_path):
    document, console, asked = visit(page.html, tmp_path / "page")
    assert console == []
    assert asked == set()
    panels = document.split("</main>")[0].split('<div class="panel">')[1:]
    assert len(panels) == 8
    for panel in panels:
        drawn = re.search(r'<svg class="main-svg".*(?:scatterlayer|barlayer)', panel, flags=re.S)
        marks = re.findall(r'<path class="(?:js-line|js-fill|point|xtick|xgrid crisp|ygrid crisp)[^>]* d="M([^"]+)"', panel)
        assert drawn and len(marks) > 5 and not any("NaN" in mark for mark in marks), panel[:200]
    assert "Drawings need JavaScript" not in re.sub(r"<noscript>.*?</noscript>", "", document)


def test_it_draws_every_kind_of_figure_of_a_probe(tmp_path):
    series = (Series(label="a <b>", x=(0.0, 1.0), value=(0.25, 0.75), low=(0.1, 0.7), high=(0.5, 0.8)),)
    say = {"title": "t", "sentence": "s", "x": "x", "y": "y", "band": "b"}
    figures = (
        ProbeFigure(id="points", kind="points", names=("one", "two"), series=series, **say),
        ProbeFigure(id="curves", kind="curves", series=series, **say),
        ProbeFigure(id="heat", kind="heat", names=("one", "two"), lines=("three",), cells=((0.5, None),), **say),
    )
    record = ProbeRecord(name="p", title="t", verdict="v", seed=0, level=0.95, settings={}, rows=(), words=(), tables=(), figures=figures, source="s", version="0")
    page = build_page(None, probes=[record.save(tmp_path / "r.json")])
    document, console, asked = visit(page.html, tmp_path / "page")
    assert console == [] and asked == set()
    panels = document.split("</main>")[0].split('<div class="panel">')[1:]
    assert len(panels) == 3
    for panel, marks in zip(panels, ("errorbars", "errorbars", "heatmaplayer"), strict=True):
        assert re.search(r'<svg class="main-svg"', panel) and marks in panel and "NaN" not in panel
    assert len(re.findall(r'class="point\b', panels[0])) == 2 and 'data:image/png' in panels[2]  # two points with whiskers; the cells
    blocked = visit(page.html.replace("img-src data:; ", ""), tmp_path / "blocked")[1]
    assert any("data:image/png" in line for line in blocked)  # without the rule for images of its own the cells would be missing
    assert "img-src data:; style-src" in page.html  # nothing beside what is written out in the page


def test_the_policy_stops_a_request_and_the_console_would_tell(page, tmp_path):
    _, console, asked = visit(page.html.replace("</main>", LEAK), tmp_path / "page")
    assert asked == set()
    assert any("Content Security Policy" in line for line in console)


def test_without_the_policy_the_request_is_seen(page, tmp_path):
    open_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.html, count=1)
    _, _, asked = visit(open_page.replace("</main>", LEAK), tmp_path / "page")
    assert asked == {"http://scalebound.invalid/x.png"}
