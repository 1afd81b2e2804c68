"""A measurement killed with SIGKILL: the process, or one of its workers. What was done is kept, the rest is done once, the file is the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scalebound.core.stats import Stats
from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef
from scalebound.measure import measure
from scalebound.models import Transformer, save_folder, shape_for

MEASURE = """
import sys
from scalebound.measure import measure
if __name__ == "__main__":
    model, stream, out, workers = sys.argv[1:]
    print(len(measure(model, stream, out, workers=int(workers))))
"""
# the same measurement, slowed down so that a kill falls between its first and its last part
SLOW = MEASURE.replace("import sys\n", """import sys, time
from importlib import import_module
room = import_module("scalebound.measure.measure")
whole = room.score_pieces
def slow(*a, **k):
    time.sleep(0.15)
    return whole(*a, **k)
room.score_pieces = slow
""")  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    (folder / "text.txt").write_text("".join(f"line {k} of the text, with number {k * k % 97}\n" for k in range(120)))
    corpus = read_corpus(folder / "text.txt")
    stream = build_stream(corpus.documents, load_tokenizer(), folder / "stream", sequence_tokens=64, source=SourceRef("text", corpus.sha256))
    shape = shape_for(15_000)
    save_folder(folder / "model", shape.config(64), Transformer(shape, 64, torch.Generator().manual_seed(0)).tensors())
    return folder, stream


def start(folder, stream, out, workers):
    script = out.with_name("slow.py")  # workers import it again, so it is a file
    script.write_text(SLOW)
    return subprocess.Popen([sys.executable, str(script), str(folder / "model"), str(stream.path), str(out), str(workers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def parts_of(out):
    folder = out.with_name(out.name + ".parts")
    return sorted(folder.glob("*.safetensors")) if folder.is_dir() else []


def wait_for(condition, running, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and running.poll() is None, running.communicate()
        time.sleep(0.02)


def children(pid):
    """Ids of the processes that a process started and that are working: its multiprocessing workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(status.rsplit(")", 1)[1].split()[1]) == pid and b"spawn_main" in command:
            found.append(int(folder.name))
    return found


def test_the_process_is_killed(files, tmp_path):
    folder, stream = files
    right = Path(measure(folder / "model", stream.path, tmp_path / "whole").path).read_bytes()
    out = tmp_path / "out"
    running = start(folder, stream, out, 1)
    wait_for(lambda: len(parts_of(out)) >= 5, running)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL and not out.exists()
    kept = {path: path.stat().st_mtime_ns for path in parts_of(out)}
    assert 5 <= len(kept) < 60
    seen = []
    stats = measure(folder / "model", stream.path, out, progress=lambda done, total: seen.append((done, total)))
    assert Path(stats.path).read_bytes() == right and not out.with_name("out.parts").exists()
    assert seen[0][0] >= len(kept) * 64 and seen[-1][0] == seen[-1][1], "parts that were kept are not measured again"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
def test_a_worker_is_killed(files, tmp_path):
    """The command ends with one clear error; the parts of both workers are kept; the same command finishes the file."""
    folder, stream = files
    right = Path(measure(folder / "model", stream.path, tmp_path / "whole").path).read_bytes()
    out = tmp_path / "out"
    running = start(folder, stream, out, 2)
    wait_for(lambda: len(parts_of(out)) >= 6 and len(children(running.pid)) == 2, running)
    victim = children(running.pid)[0]
    os.kill(victim, signal.SIGKILL)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1 and "a worker process was killed" in said.splitlines()[-1] and not out.exists()
    kept = parts_of(out)
    assert 6 <= len(kept) < 60 and all(len(Stats.load(path)) for path in kept), "every part that is there is whole"
    stats = measure(folder / "model", stream.path, out)
    assert Path(stats.path).read_bytes() == right
    assert not list(tmp_path.glob(".*tmp")) and not out.with_name("out.parts").exists()


def test_progress_says_rate_and_time_left(files, tmp_path):
    """On a terminal: tokens per second and ETA; stdout holds one JSON object and nothing else."""
    import pty

    folder, stream = files
    command = [sys.executable, "-c", "import sys; from scalebound.cli.main import main; sys.exit(main(sys.argv[1:]))", "measure", str(folder / "model"), str(stream.path), "--threads", "1", "--json"]
    ours, theirs = pty.openpty()
    shown = subprocess.Popen([*command, "--out", str(tmp_path / "b.safetensors")], stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "140"})
    os.close(theirs)
    text = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:
            break
        if not piece:
            break
        text += piece
    said, _ = shown.communicate()
    os.close(ours)
    assert json.loads(said)["tokens"] == len(stream)
    assert shown.returncode == 0 and b"tokens/s" in text and b"ETA" in text
