"""The page: one HTML file that needs nothing but itself.

It holds one copy of plotly's script and asks for nothing over the network: its Content-Security-Policy allows exactly the two scripts
whose SHA-256 it names, inline styles, and no other source of anything. Without JavaScript every number is still there, in tables.
The same folder gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from scalebound.core.demo import Demo
from scalebound.core.io import atomic_write
from scalebound.report import words
from scalebound.report.drawing import to_json
from scalebound.report.figures import all_figures
from scalebound.report.folder import Folder, read_folder

# the legend's symbols, in a box of 24 x 12
SYMBOL_PATHS = {
    "circle": "M8 6a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
    "square": "M8.5 2.5h7v7h-7z",
    "diamond": "M12 1L17 6L12 11L7 6z",
    "triangle-up": "M12 1.5L16.5 9.5H7.5z",
    "triangle-down": "M12 10.5L16.5 2.5H7.5z",
}


@dataclass(frozen=True)
class Page:
    """A rendered page. ``figures`` are the ids of its figures, in order."""

    html: str
    figures: tuple[str, ...]

    def save(self, path: str | os.PathLike) -> Path:
        """Write the page, all of it or nothing."""
        return atomic_write(path, self.html.encode("utf-8"))


def write_report(folder: str | os.PathLike, out: str | os.PathLike | None = None) -> Path:
    """Write the page of a demo folder and return its path.

    Reads ``demo.json`` and the files it names (certificates, ``run/log.jsonl``, ``table.csv``, fits), nothing else.

    Parameters
    ----------
    folder
        The folder of ``scalebound demo``.
    out
        The HTML file; ``report.html`` in the folder by default.

    Raises
    ------
    InputError
        No ``demo.json``, or a file missing, malformed, changed since, or at odds with it.
    MachineError
        The page cannot be written.

    Notes
    -----
    About 5 MB, nearly all of it plotly's script; about a second, most of it importing plotly.

    Examples
    --------
    >>> from scalebound.report import write_report
    >>> write_report("runs/demo")  # doctest: +SKIP
    PosixPath('runs/demo/report.html')
    """
    return build_page(folder).save(Path(folder) / "report.html" if out is None else out)


def build_page(folder: str | os.PathLike) -> Page:
    """Render the page of a demo folder without writing it; errors as in :func:`write_report`."""
    found = read_folder(folder)
    figures = all_figures(found)
    plotly, draw = get_plotlyjs(), _part("page.js")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    html = environment.from_string(_part("page.html.j2")).render(
        policy=content_policy([plotly, draw]),
        style=Markup(_part("page.css")),
        plotly=Markup(plotly),
        draw=Markup(draw),
        drawings=Markup(_script_json({figure.id: to_json(figure) for figure in figures})),
        figures=figures,
        folder=found,
        demo=found.demo,
        ladder=_ladder_rows(found),
        comparison=words.comparison_sentence(found),
        methods=[words.method_name(name) for name in found.methods],
        versions=_versions(found.demo),
        guess=math.log(found.demo.vocab_size),
        shown=(words.headline_certificate(found) or (None, None))[0],
        symbols=SYMBOL_PATHS,
        words=words,
    )
    return Page(html, tuple(figure.id for figure in figures))


def content_policy(scripts: list[str]) -> str:
    """A Content-Security-Policy under which only these inline scripts run and no request leaves the page."""
    hashes = " ".join("'sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode() + "'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def _part(name: str) -> str:
    return resources.files("scalebound.report").joinpath(name).read_text(encoding="utf-8")


def _script_json(value: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can close the element or open a comment."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _ladder_rows(folder: Folder) -> list[dict[str, Any]]:
    """The rungs with one cell a method (None where a rung has no such certificate)."""
    return [{"rung": rung, "cells": [rung.certificates.get(name) for name in folder.methods]} for rung in folder.demo.rungs]


def _versions(demo: Demo) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(demo.versions.items()))
