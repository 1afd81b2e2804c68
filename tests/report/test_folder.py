"""Folders that do not hold together are refused, and nothing is left behind."""

import json

import pytest

from scalebound.core.errors import InputError, MachineError
from scalebound.report import write_report


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "demo.json").unlink(), "holds no demo.json"),
        (lambda f: edit(f, lambda d: d.update(schema="scalebound.demo/9")), "scalebound.demo/9"),
        (lambda f: edit(f, lambda d: d.update(rungs=[])), "names no rung"),
        (lambda f: edit(f, lambda d: d["rungs"].reverse()), "ordered by size"),
        (lambda f: edit(f, lambda d: d["rungs"][0].update(params=0)), "a size is"),
        (lambda f: edit(f, lambda d: d["rungs"][5].update(params=10**400)), "a size is"),
        (lambda f: edit(f, lambda d: d["forecasts"][1]["curve"][0].update(params=-2.0)), "a size is -2"),
        (lambda f: edit(f, lambda d: d["forecasts"][1].update(fit="demo.json")), "scalebound.fit/1"),
        (lambda f: edit(f, lambda d: d["forecasts"][1].update(target="absent")), "'absent'"),
        (lambda f: edit(f, lambda d: d["rungs"][0].update(run="../elsewhere")), "../elsewhere"),
        (lambda f: edit(f, lambda d: d["rungs"][0].update(run="/etc")), "/etc"),
        (lambda f: edit(f, lambda d: d["rungs"][5]["certificates"]["product"].update(bound=1.0)), "demo.json one of 1.0"),
        (lambda f: edit(f, lambda d: d["forecasts"][0].update(rows=4)), "5 rows below"),
        (lambda f: (f / "table.csv").write_text("params,loss\n1,2\n"), "SHA-256"),
        (lambda f: free(f, lambda: (f / "table.csv").write_text("params,loss\n1,two\n")), "'two'"),
        (lambda f: free(f, lambda: (f / "table.csv").write_bytes(b"\xff\xfe")), "not a CSV table"),
        (lambda f: free(f, lambda: (f / "rungs/15104/run/log.jsonl").write_text("")), "holds no step"),
        (lambda f: free(f, lambda: (f / "rungs/15104/run/log.jsonl").write_text('{"tokens": 1, "loss": NaN}\n')), "line 1"),
        (lambda f: free(f, lambda: (f / "rungs/15104/run/log.jsonl").write_text('{"tokens": 1, "loss": 2}\n{"tokens": 2}\n')), "line 2"),
        (lambda f: (f / "rungs/15104/run/log.jsonl").unlink(), "log.jsonl: no such file"),
        (lambda f: free(f, lambda: (f / "fits/loss.json").write_text("[]")), "loss.json"),
    ],
)
def test_a_folder_that_does_not_hold_together_is_refused(make_folder, spoil, says):
    made = make_folder()
    spoil(made)
    with pytest.raises(InputError) as error:
        write_report(made)
    assert says in str(error.value)
    assert not (made / "report.html").exists()


def edit(folder, change):
    manifest = json.loads((folder / "demo.json").read_text())
    change(manifest)
    (folder / "demo.json").write_text(json.dumps(manifest))


def free(folder, change):
    """Make a change that the manifest's hashes would have caught, and take the hashes away."""
    change()
    edit(folder, lambda manifest: manifest.update(hashes={}))


def test_a_page_that_cannot_be_written_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(MachineError, match="no space left"):
        write_report(folder, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
