"""A measurement on a Ray cluster of this machine; what is said when Ray is missing."""

import importlib.util
from pathlib import Path

import pytest
import torch

from scalebound.core.cluster import run_on_ray
from scalebound.core.errors import InputError, MachineError, MissingExtra
from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef
from scalebound.measure import measure
from scalebound.models import Transformer, save_folder, shape_for

there = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'scalebound[ray]'")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    (folder / "text.txt").write_text("".join(f"line {k} of the text, with number {k * k % 97}\n" for k in range(60)))
    corpus = read_corpus(folder / "text.txt")
    stream = build_stream(corpus.documents, load_tokenizer(), folder / "stream", sequence_tokens=64, source=SourceRef("text", corpus.sha256))
    shape = shape_for(15_000)
    model = Transformer(shape, 64, torch.Generator().manual_seed(0))
    save_folder(folder / "model", shape.config(64), model.tensors())
    with torch.no_grad():
        model.norm[0] = float("nan")
    save_folder(folder / "broken", shape.config(64), model.tensors())
    return folder, stream


def test_without_ray_the_extra_is_named(files, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ray" else find(name, *a))
    folder, stream = files
    with pytest.raises(MissingExtra, match="'ray' is not installed") as error:
        measure(folder / "model", stream.path, tmp_path / "s", ray_address="auto")
    assert error.value.status == 4 and "scalebound[ray]" in error.value.hint and not list(tmp_path.iterdir())


@there
@pytest.mark.filterwarnings("ignore")
def test_the_file_is_the_one_of_a_single_process(files, tmp_path):
    folder, stream = files
    right = measure(folder / "model", stream.path, tmp_path / "a")
    seen = []
    found = measure(folder / "model", stream.path, tmp_path / "b", ray_address="local", workers=2, progress=lambda done, total: seen.append((done, total)))
    assert Path(found.path).read_bytes() == Path(right.path).read_bytes() and seen[-1][1] > 0
    with pytest.raises(InputError, match="gives nll = nan"):  # what a task raises arrives as it was
        measure(folder / "broken", stream.path, tmp_path / "c", ray_address="local", workers=2)


@there
@pytest.mark.filterwarnings("ignore")
def test_a_task_whose_process_is_killed_is_run_again(tmp_path):
    def dies_once(number, folder):  # inside, so that it travels with its code
        import os
        import signal
        from pathlib import Path

        mark = Path(folder) / f"{number}"
        if number == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * 10

    assert run_on_ray(dies_once, [(number, str(tmp_path)) for number in range(3)], address="local") == [0, 10, 20]
    assert (tmp_path / "1").exists()


@there
@pytest.mark.filterwarnings("ignore")
def test_no_cluster_at_the_address(files, tmp_path):
    folder, stream = files
    with pytest.raises(MachineError, match="no Ray cluster answers"):
        measure(folder / "model", stream.path, tmp_path / "s", ray_address="auto")
