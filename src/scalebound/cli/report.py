"""``scalebound report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scalebound.cli.output import Result


def report(folder: Path | None = None, *, probes: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)] = (), out: Path | None = None) -> Result:
    """Put a finished demo, records of probes, or both on one page: an HTML file that needs no network and no other file.

    Reads demo.json and the files it names (a file that changed since is refused), probes/*.json in the folder, and the records named.

    Parameters
    ----------
    folder
        The folder of scalebound demo, or one with probes/*.json.
    probes
        Records written by scalebound probe NAME --out.
    out
        The file to write. Default: report.html in the folder, or beside the first record.

    Examples
    --------
    scalebound report runs/demo

    scalebound report --probes rules.json finetune.json --out probes.html --json

    next: open the file in a browser, or check a certificate with scalebound verify
    """
    from scalebound.report import build_page, default_path

    page = build_page(folder, probes=probes)
    path = page.save(default_path(folder, probes) if out is None else out)
    size = path.stat().st_size
    record = {"report": str(path), "bytes": size, "figures": list(page.figures)}
    return Result(record, [f"{path}: {size / 1e6:.1f} MB, {len(page.figures)} figures"])
