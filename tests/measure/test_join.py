"""One file from parts: the bytes of merge and save, in memory that does not grow with the stream."""

import tracemalloc

import msgspec
import numpy as np
import pytest
import torch

from scalebound.core.errors import InputError
from scalebound.core.io import save_struct, sha256_file
from scalebound.core.stats import AnchorRef, Policy, Stats, StatsInfo, merge
from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef
from scalebound.measure import measure
from scalebound.measure.join import join_parts
from scalebound.models import Transformer, load_model, save_folder, shape_for


def write_parts(folder, blocks, *, anchor, length=103, width=10):
    info = StatsInfo(window=(5, 5 + length), vocab_size=9, block_tokens=width, policy=Policy("packed", width, 0), anchor=AnchorRef(eps=0.1, alphas=(0.1, 0.2), name="é") if anchor else None)
    rng, paths = np.random.default_rng(0), []
    for number, ids in enumerate(blocks):
        n = sum(min(width, length - b * width) for b in ids)
        arrays = {name: rng.random(n, np.float32) for name in ("nll", "entropy", *(["reference_nll"] if anchor else []))}
        if anchor:
            arrays["centre"] = rng.random((2, n), np.float32)
        paths.append(folder / f"{number}")
        Stats(msgspec.structs.replace(info, tokens=n, text_bytes=n + number), arrays | {"blocks": np.array(ids)}).save(paths[-1])
    return paths


@pytest.mark.parametrize("anchor", [False, True])
@pytest.mark.parametrize("blocks", [[[0, 1, 2], [3, 4, 5], [6, 7, 8, 9, 10]], [[1, 4], [5, 10]], [[3]]])
def test_the_bytes_are_those_of_merge_and_save(tmp_path, anchor, blocks):
    paths = write_parts(tmp_path, blocks, anchor=anchor)
    merge([Stats.load(path) for path in paths]).save(tmp_path / "merged")
    join_parts(paths, tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "merged").read_bytes()


def test_parts_out_of_order_or_of_another_measurement_are_refused(tmp_path):
    paths = write_parts(tmp_path, [[1, 4], [5, 10]], anchor=False)
    for wrong in (paths[::-1], [paths[0], paths[0]]):
        with pytest.raises(InputError, match="in the order of the stream"):
            join_parts(wrong, tmp_path / "joined")
    (tmp_path / "x").mkdir()
    other = write_parts(tmp_path / "x", [[1], [5]], anchor=True)
    with pytest.raises(InputError, match="differs from"):
        join_parts([paths[0], other[1]], tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_memory_stays_flat_over_the_run(tmp_path, monkeypatch):
    """Eight times the tokens in parts of the same size: the same peak. Control: joining all parts in memory is seen."""
    (tmp_path / "text.txt").write_text("some text " * 2_000)
    corpus = read_corpus(tmp_path / "text.txt")
    stream = build_stream(corpus.documents, load_tokenizer(), tmp_path / "s", sequence_tokens=64, source=SourceRef("t", ""))
    tokens = np.resize(np.asarray(stream.tokens), 64 * 1280)
    (tmp_path / "s.bin").write_bytes(tokens.astype("<u2").tobytes())
    save_struct(tmp_path / "s.json", msgspec.structs.replace(stream.info, bin_sha256=sha256_file(tmp_path / "s.bin"), num_tokens=len(tokens), documents=(0,)))
    shape = shape_for(15_000)
    save_folder(tmp_path / "model", shape.config(64), Transformer(shape, 64, torch.Generator().manual_seed(0)).tensors())
    model = load_model(tmp_path / "model")
    module = __import__("scalebound.measure.measure", fromlist=["score_pieces"])
    monkeypatch.setattr(module, "score_pieces", lambda m, pieces, *a, **k: {name: np.ones(sum(map(len, pieces)), np.float32) for name in ("nll", "entropy", "varentropy")})

    def peak(share, joiner=None):
        monkeypatch.setattr(module, "PARTS", 32 // share)
        if joiner:
            monkeypatch.setattr(module, "join_parts", joiner)
        tracemalloc.start()
        measure(model, tmp_path / "s.json", tmp_path / "out", window=(0, len(tokens) // share), fresh=True)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(8)  # imports
    small, large = peak(8), min(peak(1), peak(1))  # twice: what is imported or collected once, whenever that falls, is not the run's
    assert large < 1.25 * small + 100_000
    in_memory = peak(1, lambda parts, out: merge([Stats.load(path) for path in parts]).save(out))
    assert in_memory > large + 800_000, "the control must be seen"
