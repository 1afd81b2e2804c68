"""The whole way on a small ladder: every file there, every certificate verified, interruption without consequence."""

import json
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from scalebound.core.certificate import load_certificate
from scalebound.core.demo import Demo
from scalebound.core.io import load_struct
from scalebound.demo import run_demo
from scalebound.demo.rung import METHODS
from scalebound.report import write_report
from scalebound_verify.check import verify

SIZES = (15_000, 17_000, 20_000, 24_000, 30_000)
RUN = f"""
import sys
from scalebound.demo import run_demo
if __name__ == "__main__":
    run_demo(sys.argv[1], text=sys.argv[2], sizes={SIZES!r}, tokens_per_param=2.0)
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for k in range(60):
        (folder / f"{k:02d}.txt").write_text("".join(f"chapter {k}: sentence {j} has {j * j % 89} words, or {k * j % 71}.\n" for j in range(80)))
    return folder


@pytest.fixture(scope="module")
def demo(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "a"
    return out, run_demo(out, text=text, sizes=SIZES, tokens_per_param=2.0)


def without_times(demo: Demo) -> dict:
    return {key: value for key, value in msgspec.to_builtins(demo).items() if key not in ("seconds", "commands")}


def test_every_file_is_there_and_every_certificate_holds(demo):
    out, made = demo
    assert load_struct(out / "demo.json", Demo) == made and [r.params for r in made.rungs] == sorted(r.params for r in made.rungs)
    for rung in made.rungs:
        assert set(rung.certificates) == set(METHODS)
        for method, entry in rung.certificates.items():
            certificate = load_certificate(out / entry.path)
            assert verify(out / entry.path)["holds"] and certificate.bound == entry.bound and certificate.method == method
            assert entry.bound > certificate.empirical_loss + certificate.terms.smoothing  # the measured loss of the predictor that is certified
        product, freedman = (load_certificate(out / rung.certificates[m].path) for m in ("product", "freedman"))
        assert product.code.bits == 8 * rung.file_bytes + 2 * ((8 * rung.file_bytes).bit_length() - 1) + 1
        assert {c.setting: c.options for c in product.code.choices} == {"alpha": 8}
        rounded = load_certificate(out / rung.rounded.certificate.path)
        assert verify(out / rung.rounded.certificate.path)["holds"] and rounded.method == "freedman" and rounded.bound == rung.rounded.certificate.bound
        assert rung.file_bytes < rung.rounded.file_bytes and product.bound < rounded.bound
        assert product.bound <= freedman.bound
    assert len((out / "table.csv").read_text().splitlines()) == 1 + len(SIZES)
    assert {f.target for f in made.forecasts} >= {"train_loss", "product", "anchored"}
    for f in made.forecasts:
        assert f.prediction.low <= f.prediction.value <= f.prediction.high and f.rows == len(SIZES) - 1


def test_streams_are_disjoint_by_document(demo):
    from scalebound.data import Stream

    out, _ = demo
    chapters = {}
    for name in ("train", "anchor", "heldout"):
        text = bytes(Stream(out / "streams" / f"{name}.json").tokens.astype("uint8"))
        chapters[name] = {part.split(b":")[0] for part in text.split(b"chapter ")[1:] if b":" in part}
    assert not chapters["train"] & chapters["anchor"] and not chapters["train"] & chapters["heldout"] and not chapters["anchor"] & chapters["heldout"]


def test_the_page_is_drawn_from_the_files(demo):
    out, made = demo
    page = write_report(out).read_text()
    assert f"{made.rungs[-1].params:,}" in page and made.hashes["table.csv"][:12] in page


def test_forged_statistics_are_caught(demo, tmp_path):
    """A certificate whose numbers were edited after the fact does not hold."""
    import shutil

    out, made = demo
    shutil.copytree(out, tmp_path / "copy")
    path = tmp_path / "copy" / made.rungs[-1].certificates["product"].path
    record = json.loads(path.read_text())
    record["bound"] -= 0.01
    record["terms"]["complexity"] -= 0.01
    path.write_text(json.dumps(record))
    assert not verify(path)["holds"]


def test_interrupted_and_run_again_gives_the_same_numbers(demo, text, tmp_path):
    _, made = demo
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(tmp_path / "b"), str(text)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "b").glob("rungs/*/run/run.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.wait(30)
    assert process.returncode != 0 and not (tmp_path / "b" / "demo.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").glob("rungs/*/run/run.json")}
    assert kept
    subprocess.run(command, check=True, capture_output=True)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    again = load_struct(tmp_path / "b" / "demo.json", Demo)
    assert {name for name in made.hashes if again.hashes[name] != made.hashes[name]} == set()
    assert without_times(again) == without_times(made)


def test_a_text_too_short_is_refused(tmp_path):
    from scalebound.core.errors import InputError

    (tmp_path / "t.txt").write_text("a few words\n" * 1000)
    with pytest.raises(InputError, match="expected at least"):
        run_demo(tmp_path / "out", text=tmp_path / "t.txt")
    assert not (tmp_path / "out").exists()
