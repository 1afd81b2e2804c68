"""``scalebound report``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result


def report(folder: Path, *, out: Path | None = None) -> Result:
    """Put a finished demo on one page: an HTML file that needs no network and no other file.

    Reads demo.json and the files it names; a file that changed since is refused.

    Parameters
    ----------
    folder
        The folder of scalebound demo.
    out
        The file to write. Default: report.html in the folder.

    Examples
    --------
    scalebound report runs/demo

    scalebound report runs/demo --out ladder.html --json

    next: open the file in a browser, or check a certificate with scalebound verify
    """
    from scalebound.report import build_page

    page = build_page(folder)
    path = page.save(Path(folder) / "report.html" if out is None else out)
    size = path.stat().st_size
    record = {"report": str(path), "bytes": size, "figures": list(page.figures)}
    return Result(record, [f"{path}: {size / 1e6:.1f} MB, {len(page.figures)} figures"])
