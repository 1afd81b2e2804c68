"""The import table of the rooms: who may import whom, and what stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scalebound

SOURCE = Path(scalebound.__file__).parent
ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
# room: rooms it may import, besides core and itself
MAY_IMPORT = {
    "core": set(),
    "data": set(),
    "models": {"compress"},  # a package is one of the things a MODEL argument may be
    "train": {"data", "models", "compress", "certify"},  # finetuning trains what a package will hold; a run shows its trajectory's bound
    "measure": {"data", "models"},
    "compress": set(),
    "certify": set(),
    "scaling": set(),
    "probe": {"data", "models", "train", "measure", "certify", "compress"},  # what a probe trained becomes a file whose size bounds something
    "report": set(),
    "demo": set(ROOMS) - {"cli"},  # the whole way in one function
    "cli": set(ROOMS),
}
HEAVY = {"torch", "transformers", "tokenizers", "constriction", "plotly", "jinja2", "rich", "cyclopts", "pyarrow", "gguf", "accelerate"}
LIGHT_ROOMS = {"core", "certify", "scaling"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_room_is_in_the_table():
    assert set(ROOMS) <= set(MAY_IMPORT)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_one_way(room):
    allowed = MAY_IMPORT[room] | {"core", room}
    for path in (SOURCE / room).rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            assert parts[0] != "scalebound_verify" or room in ("cli", "demo"), f"{path} imports the checker"
            if parts[0] == "scalebound" and len(parts) > 1 and parts[1] in ROOMS:
                assert parts[1] in allowed, f"{path} imports {name}: {room} may import {sorted(allowed)}"


@pytest.mark.parametrize("room", sorted(LIGHT_ROOMS & set(ROOMS)))
def test_light_rooms_need_numpy_scipy_and_msgspec_only(room):
    for path in (SOURCE / room).rglob("*.py"):
        heavy = {name.split(".")[0] for name in imports(path)} & (HEAVY - ({"pyarrow"} if room == "scaling" else set()))
        assert not heavy, f"{path} imports {heavy}"


def test_the_checker_imports_nothing_of_ours():
    import scalebound_verify

    for path in Path(scalebound_verify.__file__).parent.rglob("*.py"):
        assert not {name for name in imports(path) if name.split(".")[0] == "scalebound"}, path


@pytest.mark.parametrize("module", ["scalebound", "scalebound.certify", "scalebound.scaling"])
def test_import_needs_no_heavy_package(module):
    code = f"import sys, {module}; print([m for m in {sorted(HEAVY)!r} + ['scipy.optimize'] if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_help_imports_no_room():
    code = (
        "import sys; from scalebound.cli import main; main(['--help'])\n"
        f"bad = [m for m in sys.modules if m in {sorted(HEAVY - {'rich', 'cyclopts'})!r} or m.startswith(('scalebound.certify', 'scalebound.scaling', 'numpy'))]\n"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
