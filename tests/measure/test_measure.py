"""Per-token numbers against their plain definitions; parts, workers, interruption, refusal."""

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats, merge
from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef
from scalebound.measure import measure, statistics, stream_of
from scalebound.measure import measure as measure_function
from scalebound.measure.score import score_pieces
from scalebound.measure.shapes import Shapes
from scalebound.models import LanguageModel, Transformer, load_model, save_folder, shape_for


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A stream with a ragged end, a model and an anchor whose predictions are far from uniform."""
    folder = tmp_path_factory.mktemp("measure")
    (folder / "text.txt").write_text("".join(f"line {k} of the text, with number {k * k % 97}\n" for k in range(120)))
    corpus = read_corpus(folder / "text.txt")
    stream = build_stream(corpus.documents, load_tokenizer(), folder / "stream", sequence_tokens=64, source=SourceRef("text", corpus.sha256))
    assert len(stream) % 64
    for name, seed, scale in (("model", 0, 3.0), ("anchor", 1, 2.0)):
        shape = shape_for(15_000)
        model = Transformer(shape, 64, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            model.embedding *= scale
        save_folder(folder / name, shape.config(64), model.tensors())
    return folder, stream


def plain(model, tokens, T=64):
    """The definitions, block by block in float64."""
    out = []
    for start in range(0, len(tokens), T):
        block = torch.from_numpy(tokens[start : start + T].astype(np.int64))
        inputs = torch.cat([torch.tensor([255]), block[:-1]])[None]
        log_p = torch.log_softmax(model.logits(inputs)[0].double(), dim=-1)
        entropy = -(log_p.exp() * log_p).sum(1)
        varentropy = (log_p.exp() * log_p**2).sum(1) - entropy**2
        out.append((-log_p[torch.arange(len(block)), block], entropy, varentropy, log_p))
    return [torch.cat([piece[k] for piece in out]).numpy() for k in range(4)]


def test_numbers_equal_their_definitions(files, tmp_path):
    folder, stream = files
    stats = measure(folder / "model", stream.path, tmp_path / "s", anchor=folder / "anchor", eps=0.02, alphas=(0.1, 0.4))
    nll, entropy, varentropy, log_p = plain(load_model(folder / "model"), stream.tokens)
    reference_nll, _, _, log_q = plain(load_model(folder / "anchor"), stream.tokens)
    for name, right in (("nll", nll), ("entropy", entropy), ("varentropy", varentropy), ("reference_nll", reference_nll)):
        np.testing.assert_allclose(stats.read(name), right, atol=2e-5, err_msg=name)
    smooth = 0.98 * np.exp(log_q) + 0.02 / 256
    for row, alpha in enumerate((0.1, 0.4)):
        mixed = (1 - alpha) * np.exp(log_p) + alpha * smooth
        np.testing.assert_allclose(stats.read("centre")[row], -(mixed * np.log(mixed / smooth)).sum(1), atol=2e-5)
    assert stats.complete and stats.info.text_bytes == stream.info.text_bytes and stats.info.policy.first_token == 255
    stats.check_values()


@pytest.mark.parametrize("rows, stretch", [(1, 8192), (7, 100), (256, 1), (64, 255)])
def test_chunks_of_rows_and_vocabulary_do_not_change_the_numbers(files, rows, stretch):
    folder, stream = files
    model, tokens = load_model(folder / "model"), torch.from_numpy(np.asarray(stream.tokens[:64], dtype=np.int64))
    hidden = model.hidden(torch.nn.functional.pad(tokens[:-1], (1, 0), value=255)[None])[0]
    found = statistics.token_statistics(model, hidden, tokens, rows=rows, stretch=stretch)
    for values, right in zip(found, plain(model, np.asarray(stream.tokens[:64])), strict=False):
        np.testing.assert_allclose(values, right, atol=1e-5)


@pytest.mark.parametrize("rows, stretch", [(7, 100), (256, 8192), (64, 1)])
def test_the_anchors_numbers_do_not_depend_on_chunks(files, rows, stretch):
    """Two passes over stretches of the vocabulary give what whole rows give; no product is wider than a stretch."""
    folder, stream = files
    widths = []
    model, anchor = load_model(folder / "model"), load_model(folder / "anchor")
    part = anchor.head_part
    anchor.head_part = lambda hidden, start, stop: widths.append((hidden.shape[0], stop - start)) or part(hidden, start, stop)
    found = score_pieces(model, [np.asarray(stream.tokens[:64], dtype=np.int64)], [0], 255, anchor=anchor, eps=0.02, alphas=(0.1, 0.4), rows=rows, stretch=stretch)
    log_p, (reference_nll, _, _, log_q) = plain(model, stream.tokens[:64])[3], plain(load_model(folder / "anchor"), stream.tokens[:64])
    smooth = 0.98 * np.exp(log_q) + 0.02 / 256
    np.testing.assert_allclose(found["reference_nll"], reference_nll, atol=2e-5)
    for row, alpha in enumerate((0.1, 0.4)):
        mixed = (1 - alpha) * np.exp(log_p) + alpha * smooth
        np.testing.assert_allclose(found["centre"][row], -(mixed * np.log(mixed / smooth)).sum(1), atol=2e-5)
    assert max(widths)[0] <= rows and max(width for _, width in widths) <= stretch


@pytest.mark.parametrize("stretch", [256, 2])
def test_extreme_logits_stay_finite(files, stretch):
    model = load_model(files[0] / "model")
    z = torch.full((256,), -2e4).index_fill(0, torch.tensor([3]), 2e4)
    z[8:20] = -torch.inf
    model.head_part = lambda hidden, start, stop: z[start:stop].expand(*hidden.shape[:-1], -1)
    found = statistics.token_statistics(model, torch.zeros(4, 8), torch.full((4,), 5), stretch=stretch).numpy()
    assert np.isfinite(found).all() and np.allclose(found[0], 4e4) and np.all(found[1:] == 0)
    assert not np.isfinite(statistics.token_statistics(model, torch.zeros(4, 8), torch.full((4,), 9), stretch=stretch)[0].numpy()).any()


def test_workers_interruptions_and_shards_give_the_same_bytes(files, tmp_path, monkeypatch):
    folder, stream = files
    right = measure(folder / "model", stream.path, tmp_path / "a", anchor=folder / "anchor")
    two = measure(folder / "model", stream.path, tmp_path / "b", anchor=folder / "anchor", workers=2)
    assert Path(two.path).read_bytes() == Path(right.path).read_bytes()

    class Killed(Exception):
        pass

    def stop(done, total):
        if done > total / 2:
            raise Killed

    with pytest.raises(Killed):
        measure(folder / "model", stream.path, tmp_path / "c", anchor=folder / "anchor", progress=stop)
    kept = [name for name in os.listdir(tmp_path / "c.parts") if name.endswith(".safetensors")]
    assert len(kept) > 10 and not (tmp_path / "c").exists()
    scored = []
    module = __import__("scalebound.measure.measure", fromlist=["score_pieces"])
    original = module.score_pieces
    monkeypatch.setattr(module, "score_pieces", lambda *a, **k: scored.append(1) or original(*a, **k))
    again = measure(folder / "model", stream.path, tmp_path / "c", anchor=folder / "anchor")
    assert Path(again.path).read_bytes() == Path(right.path).read_bytes() and not (tmp_path / "c.parts").exists()
    assert 0 < len(scored) < right.num_blocks - len(kept) + 3
    scored.clear()
    measure(folder / "model", stream.path, tmp_path / "c", anchor=folder / "anchor")
    assert not scored


def test_a_sketch_instead_of_numbers_per_token(files, tmp_path, monkeypatch):
    """The sketch of the stats file, for any number of workers and any size of parts."""
    from scalebound.core.sketch import sketch_of

    folder, stream = files
    whole = sketch_of(measure(folder / "model", stream.path, tmp_path / "s", anchor=folder / "anchor"))
    whole.save(tmp_path / "right.sketch")
    measure(folder / "model", stream.path, tmp_path / "a.sketch", anchor=folder / "anchor", sketch=True)
    module = __import__("scalebound.measure.measure", fromlist=["HELD"])
    monkeypatch.setattr(module, "HELD", 2)
    monkeypatch.setattr(module, "SKETCHES", 3)
    found = measure(folder / "model", stream.path, tmp_path / "b.sketch", anchor=folder / "anchor", sketch=True)
    assert found.complete and abs(found.mean_nll - whole.mean_nll) < 2e-5 and abs(found.mean("entropy") - float(Stats.load(tmp_path / "s").read("entropy").mean())) < 2e-5
    assert (tmp_path / "a.sketch").read_bytes() == (tmp_path / "right.sketch").read_bytes()
    assert measure(folder / "model", stream.path, tmp_path / "b.sketch", anchor=folder / "anchor", sketch=True).path == str(tmp_path / "b.sketch")


@pytest.mark.parametrize("stretch", [8192, 3])
def test_the_likeliest_tokens(files, tmp_path, monkeypatch, stretch):
    """Those of the whole distribution, joined from many parts, from stretches narrower than k too."""
    from scalebound.measure.top import read_top, top_path

    folder, stream = files
    model = load_model(folder / "model")
    log_p = torch.from_numpy(plain(model, stream.tokens)[3])
    monkeypatch.setattr(__import__("scalebound.measure.measure", fromlist=["rule"]), "rule", lambda model: Shapes(batch_tokens=8192, rows=50, stretch=stretch))
    stats = measure(folder / "model", stream.path, tmp_path / "s.safetensors", top_k=5)
    found = read_top(top_path(tmp_path / "s.safetensors"))
    right, ids = log_p.topk(5, dim=1)
    np.testing.assert_allclose(found["top_log_p"], right.T, atol=2e-5)
    assert found["top_ids"].shape == (5, len(stats)) and (found["top_ids"] == ids.T.numpy()).mean() > 0.999
    assert np.array_equal(stats.read("nll"), measure(folder / "model", stream.path, tmp_path / "t.safetensors").read("nll"))
    for wrong in ({"top_k": 257}, {"top_k": 5, "sketch": True}):
        with pytest.raises(UsageError, match="top-k"):
            measure(folder / "model", stream.path, tmp_path / "v.safetensors", **wrong)


def test_windows_and_samples(files, tmp_path):
    folder, stream = files
    whole = measure(folder / "model", stream.path, tmp_path / "a")
    window = measure(folder / "model", stream.path, tmp_path / "b", window=(128, 640))
    np.testing.assert_allclose(window.read("nll"), whole.read("nll", 128, 640), atol=2e-5)
    sample = measure(folder / "model", stream.path, tmp_path / "c", sample=5, seed=1)
    assert len(sample.blocks) == 6 and sample.blocks[-1] == whole.num_blocks - 1  # the ragged block is scored besides
    np.testing.assert_allclose(sample.read("nll", 0, 64), whole.read("nll", sample.blocks[0] * 64, sample.blocks[0] * 64 + 64), atol=2e-5)
    assert not sample.complete
    others = [b for b in range(whole.num_blocks) if b not in sample.blocks]
    index = np.concatenate([np.arange(b * 64, min((b + 1) * 64, len(whole))) for b in others])
    rest = Stats(msgspec.structs.replace(whole.info, tokens=len(index)), {n: whole.read(n)[index] for n in ("nll", "entropy", "varentropy")} | {"blocks": np.array(others)})
    np.testing.assert_allclose(merge([sample, rest]).read("nll"), whole.read("nll"), atol=2e-5)


def test_text_becomes_a_stream(files, tmp_path):
    folder, _ = files
    model = load_model(folder / "model")
    made = stream_of(folder / "text.txt", model, tmp_path / "t", context=32)
    assert bytes(made.tokens.astype(np.uint8)).startswith(b"line 0 of the text") and made.info.seed is None


def test_text_for_a_model_without_its_tokenizer_is_refused(files, tmp_path):
    shape = shape_for(20_000, 300)
    save_folder(tmp_path / "m", shape.config(64), Transformer(shape, 64).tensors(), byte_tokenizer=False)
    with pytest.raises(InputError, match="comes without a tokenizer"):
        stream_of(files[0] / "text.txt", load_model(tmp_path / "m"), tmp_path / "t", context=32)


@pytest.mark.parametrize("change, error, what", [
    ({"context": 65}, UsageError, "at most|between 2 and the model's 64"), ({"context": 1}, UsageError, "context = 1"), ({"window": (0, 10**9)}, UsageError, "window"), ({"window": (5, 5)}, UsageError, "window"),
    ({"sample": 10**6}, UsageError, "sample"), ({"sample": 0}, UsageError, "sample"), ({"anchor": "anchor", "eps": 0.0}, UsageError, "eps"), ({"anchor": "anchor", "alphas": (1.5,)}, UsageError, "alphas"),
])  # fmt: skip
def test_arguments_out_of_range_are_refused(files, tmp_path, change, error, what):
    folder, stream = files
    if "anchor" in change:
        change = change | {"anchor": folder / "anchor"}
    with pytest.raises(error, match=what):
        measure(folder / "model", stream.path, tmp_path / "s", **change)
    assert not (tmp_path / "s").exists()


def test_predictions_that_are_no_numbers_are_reported_with_their_token(files, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, stream = files
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((folder / "model" / "config.json").read_bytes())
    tensors = load_file(folder / "model" / "model.safetensors")
    tensors["model.embed_tokens.weight"][ord("7")] = float("nan")
    save_file(tensors, broken / "model.safetensors")
    first = int(np.argmax(np.asarray(stream.tokens) == ord("7")))
    with pytest.raises(InputError, match="gives nll = nan at token"):
        measure(broken, stream.path, tmp_path / "s")
    assert first > 0 and not (tmp_path / "s").exists()


def test_another_measurement_is_not_overwritten(files, tmp_path):
    folder, stream = files
    measure(folder / "model", stream.path, tmp_path / "s", window=(0, 128))
    with pytest.raises(InputError, match="holds another measurement"):
        measure(folder / "anchor", stream.path, tmp_path / "s", window=(0, 128))
    assert measure_function(folder / "anchor", stream.path, tmp_path / "s", window=(0, 128), fresh=True).info.model.name.endswith("anchor")


def test_a_stream_of_another_vocabulary_is_refused(files, tmp_path):
    folder, stream = files
    shape = shape_for(15_000, 200)
    save_folder(tmp_path / "small", shape.config(64), Transformer(shape, 64).tensors())
    with pytest.raises(InputError, match="token ids up to 255"):
        measure(tmp_path / "small", stream.path, tmp_path / "s")


def test_a_stream_of_another_tokenizer_is_refused(files, tmp_path):
    """Same ids, other words: nothing would fail, and every number would be wrong."""
    import json

    folder, stream = files
    words = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None,
             "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False}}  # fmt: skip
    shape = shape_for(20_000, 300)
    model = tmp_path / "model"
    save_folder(model, shape.config(64), Transformer(shape, 64).tensors())
    vocabulary = {f"w{k}": k for k in range(299)} | {"</s>": 299}
    for name, change in (("model", {}), ("same", {}), ("other", {"w0": 1, "w1": 0})):
        (tmp_path / name).mkdir(exist_ok=True)
        library = words | {"model": {"type": "WordLevel", "vocab": vocabulary | change, "unk_token": "w0"}}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(library, indent=1 if name == "same" else None))
    (tmp_path / "text.txt").write_text("w1 w0 w5 w7 " * 40)
    for name in ("same", "other"):
        tokens = load_tokenizer(tmp_path / name)
        made = build_stream(read_corpus(tmp_path / "text.txt").documents, tokens, tmp_path / f"{name}-stream", sequence_tokens=64, source=SourceRef("t", ""))
        if name == "same":  # the same tokens in a file that is written differently
            assert len(measure(model, made.path, tmp_path / "a")) == 161
        else:
            with pytest.raises(InputError, match="another tokenizer"):
                measure(model, made.path, tmp_path / "b")
    with pytest.raises(InputError, match="another tokenizer"):
        measure(model, stream.path, tmp_path / "b")
    assert not (tmp_path / "b").exists() and not (tmp_path / "b.parts").exists()


def test_a_token_outside_the_vocabulary_is_reported_with_its_place(files, tmp_path):
    from scalebound.core.io import save_struct, sha256_file

    folder, stream = files
    tokens = np.array(stream.tokens)
    tokens[333] = 999
    (tmp_path / "s.bin").write_bytes(tokens.astype("<u2").tobytes())
    save_struct(tmp_path / "s.json", msgspec.structs.replace(stream.info, bin_sha256=sha256_file(tmp_path / "s.bin")))
    with pytest.raises(InputError, match="id 999 at token 333"):
        measure(folder / "model", tmp_path / "s.json", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_large_vocabulary_costs_no_accuracy():
    """50,000 logits in seven stretches, against float64."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40, 50_000, generator=generator) * torch.linspace(0.1, 5, 40)[:, None]
    targets = torch.randint(0, 50_000, (40,), generator=generator)
    model = LanguageModel("m", "", 0, 50_000, 64, 0, hidden=lambda x: x, head=lambda hidden: hidden)
    found = statistics.token_statistics(model, z, targets)
    log_p = torch.log_softmax(z.double(), -1)
    entropy = -(log_p.exp() * log_p).sum(1)
    right = torch.stack([-log_p.gather(1, targets[:, None])[:, 0], entropy, (log_p.exp() * (log_p + entropy[:, None]) ** 2).sum(1)])
    np.testing.assert_allclose(found.numpy(), right.numpy(), atol=2e-5, rtol=1e-6)
