"""The page: what stands on it, that it asks for nothing, that user text cannot break it, that it is the same every time."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources

import pytest

from scalebound.report import build_page, write_report
from scalebound.report.folder import read_folder

VOID = {"meta", "link", "img", "br", "input", "path", "rect", "circle"}


class Reader(HTMLParser):
    """Every element with its attributes, the text of every table cell, and whether the elements close as they open."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.open, self.balanced, self.scripts, self.text = [], [], True, [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        if tag not in VOID:
            self.balanced &= bool(self.open) and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag, **wanted):
        return [found for name, found in self.elements if name == tag and all(found.get(key) == value for key, value in wanted.items())]


@pytest.fixture(scope="module")
def page(folder):
    return build_page(folder)


@pytest.fixture(scope="module")
def read(page):
    return Reader(page.html)


def test_every_section_and_figure_is_there(page, read):
    assert page.figures == ("loss-curves", "bound-against-size", "decomposition", "forecasts")
    ids = [found["id"] for _, found in read.elements if "id" in found]
    assert len(ids) == len(set(ids))
    assert {"ladder", "statements", "reproduce", "words", "drawings", *page.figures} <= set(ids)
    assert read.balanced and not read.open
    drawings = json.loads(next(text for text in read.scripts if text.startswith("{")))
    assert [f"{name}-{k}" for name, panels in drawings.items() for k in range(len(panels))] == [
        found["id"] for found in read.all("div", **{"class": "plot"})
    ]
    text = " ".join(" ".join(read.text).split())
    for said in ("The numbers (", "Across: ", "Up: "):  # a data table and the units of each figure
        assert text.count(said) == len(page.figures)
    assert text.count("No band: ") + text.count(" Band: ") == len(page.figures)


def test_the_ladder_shows_every_number_of_the_manifest(folder, read):
    text = " ".join(read.text)
    demo = read_folder(folder).demo
    for rung in demo.rungs:
        shown = [
            f"{rung.params:,}",
            f"{rung.tokens:,}",
            *(f"{x:.3f}" for x in (rung.train_loss, rung.heldout_loss, *(entry.bound for entry in rung.certificates.values()))),
        ]
        assert all(number in text for number in shown)
    assert text.count("✓ verified") == 36 and text.count("✗ not verified") == 0
    assert sum(found.get("class") == "value vacuous" for _, found in read.elements) == 2  # the plain rounding of the smallest rung too


def test_it_is_one_script_that_the_policy_names_and_nothing_from_elsewhere(page, read):
    from plotly.offline import get_plotlyjs

    assert page.html.count(get_plotlyjs()) == 1
    policy = read.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    run = [text for text, found in zip(read.scripts, read.all("script"), strict=True) if found.get("type") != "application/json"]
    named = re.findall(r"'sha256-([^']+)'", policy)
    assert [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run] == named and len(named) == 2
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe-eval" not in policy and "http" not in policy
    ours = page.html.replace(get_plotlyjs(), "")
    assert outside(ours) == []
    assert outside(ours.replace("</main>", '<img src="//example.org/x.png"></main>')) == ['src="//example.org/x.png']  # the check can see


def outside(text):
    """Whatever in a page could name a thing outside it."""
    return re.findall(r"""(?:src|href|action|data|poster|srcset)\s*=\s*["'][^#"']*|url\([^)]*|@import[^;]*|https?://[^\s"'<]*""", text)


def test_the_same_folder_gives_the_same_bytes(folder, tmp_path):
    first = write_report(folder, tmp_path / "a.html").read_bytes()
    code = f"from scalebound.report import write_report; write_report({str(folder)!r}, {str(tmp_path / 'b.html')!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)})
    assert (tmp_path / "b.html").read_bytes() == first
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert write_report(moved) == moved / "report.html" and (moved / "report.html").read_bytes() == first


def test_text_of_the_user_stays_text(make_folder, read):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    page = Reader(build_page(make_folder(text_name=evil, rung_name="<b>{}</b>", law="<a href='http://example.org'>law</a>")).html)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in read.elements]
    assert evil in " ".join(page.text)
    drawings = next(text for text in page.scripts if text.startswith("{"))
    assert "<" not in drawings and "alert" not in drawings and "example.org" not in drawings


def test_the_parts_of_the_page_travel_with_the_package():
    for name in ("page.html.j2", "page.css", "page.js"):
        assert resources.files("scalebound.report").joinpath(name).is_file()
