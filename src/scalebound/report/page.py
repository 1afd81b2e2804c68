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
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

import scalebound
from scalebound.core.demo import Demo
from scalebound.core.errors import UsageError
from scalebound.core.io import atomic_write
from scalebound.report import words
from scalebound.report.drawing import Figure, to_json
from scalebound.report.figures import all_figures
from scalebound.report.folder import MANIFEST, Folder, read_folder
from scalebound.report.probes import Probe, read_probes

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


def write_report(folder: str | os.PathLike | None, out: str | os.PathLike | None = None, *, probes: Sequence[str | os.PathLike] = ()) -> Path:
    """Write the page of a demo folder, of records of probes, or of both, and return its path.

    Reads ``demo.json`` and the files it names (certificates, ``run/log.jsonl``, ``table.csv``, fits), ``probes/*.json`` and the records named
    in ``probes``, nothing else. A folder without ``demo.json`` is enough when there is a record.

    Parameters
    ----------
    folder
        The folder of ``scalebound demo``, one with ``probes/*.json``, or None.
    out
        The HTML file; ``report.html`` in the folder by default, or beside the first record.
    probes
        Records of ``scalebound probe --out``.

    Raises
    ------
    InputError
        Neither ``demo.json`` nor a record, or a file missing, malformed, changed since, or at odds with the manifest.
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
    return build_page(folder, probes=probes).save(default_path(folder, probes) if out is None else out)


def default_path(folder: str | os.PathLike | None, probes: Sequence[str | os.PathLike] = ()) -> Path:
    """Where a page goes unless told: ``report.html`` in the folder, or beside the first record."""
    return (Path(folder) if folder is not None else Path(probes[0]).parent) / "report.html"


def build_page(folder: str | os.PathLike | None, *, probes: Sequence[str | os.PathLike] = ()) -> Page:
    """Render the page without writing it; arguments and errors as in :func:`write_report`."""
    records = read_probes(folder, probes)
    if folder is None and not records:
        raise UsageError("neither a folder nor a probe was named", expected="a folder of scalebound demo, or --probes FILE", hint="scalebound report --help")
    if folder is None or (records and not (Path(folder) / MANIFEST).exists()):
        return _probes_page(records)
    return _demo_page(read_folder(folder), records)


def _demo_page(found: Folder, records: Sequence[Probe]) -> Page:
    figures = all_figures(found)
    drawn = (*figures, *_figures_of(records))
    html = _render(
        "page.html.j2",
        drawn,
        figures=figures,
        probes=records,
        folder=found,
        demo=found.demo,
        ladder=_ladder_rows(found),
        comparison=words.comparison_sentence(found),
        methods=[words.method_name(name) for name in found.methods],
        versions=_versions(found.demo),
        guess=math.log(found.demo.vocab_size),
        shown=(words.headline_certificate(found) or (None, None))[0],
        words=words,
    )
    return Page(html, tuple(figure.id for figure in drawn))


def _probes_page(records: Sequence[Probe]) -> Page:
    drawn = _figures_of(records)
    return Page(_render("probes.html.j2", drawn, probes=records, version=scalebound.__version__), tuple(figure.id for figure in drawn))


def _figures_of(records: Sequence[Probe]) -> tuple[Figure, ...]:
    return tuple(figure for probe in records for figure in probe.figures)


def _render(template: str, drawn: Sequence[Figure], **values: Any) -> str:
    """A page from its template, with the style sheet, the two scripts and the data of the figures."""
    plotly, draw = get_plotlyjs(), _part("page.js")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_part), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals["symbols"] = SYMBOL_PATHS  # for imported macros, which do not see what is given to render
    return environment.get_template(template).render(
        policy=content_policy([plotly, draw], images=any(trace.type == "heatmap" for figure in drawn for panel in figure.panels for trace in panel.plot.data)),
        style=Markup(_part("page.css")),
        plotly=Markup(plotly),
        draw=Markup(draw),
        drawings=Markup(_script_json({figure.id: to_json(figure) for figure in drawn})),
        **values,
    )


def content_policy(scripts: list[str], *, images: bool = False) -> str:
    """A Content-Security-Policy under which only these inline scripts run and no request leaves the page.

    ``images`` allows those that are written out in the page itself: plotly draws a heat map as one.
    """
    hashes = " ".join("'sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode() + "'" for script in scripts)
    pictures = " img-src data:;" if images else ""
    return f"default-src 'none'; script-src {hashes};{pictures} style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


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
