"""Context policies: which tokens are seen, each scored once; the numbers against token-by-token scoring."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalebound.core.errors import UsageError
from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef
from scalebound.measure import measure
from scalebound.measure.spans import Span, batches_of, spans_of, text_boundaries
from scalebound.models import Transformer, load_model, save_folder, shape_for


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_every_token_is_scored_once_from_at_most_a_context_inside_its_window(data):
    start, length, context = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 200)), data.draw(st.integers(2, 30))
    policy = data.draw(st.sampled_from(["packed", "documents", "sliding"]))
    block = data.draw(st.integers(1, context)) if policy == "sliding" else context
    window = (start, start + length)
    num_blocks = -(-length // block)
    blocks = sorted(data.draw(st.sets(st.integers(0, num_blocks - 1), min_size=1)))
    documents = data.draw(st.lists(st.integers(0, 240), max_size=12))
    bounds = text_boundaries(documents, 16, data.draw(st.booleans()), window)
    spans = spans_of(policy, blocks, window=window, context=context, block_tokens=block, boundaries=bounds)
    scored = [t for span in spans for t in range(span.scored, span.stop)]
    assert scored == [t for b in blocks for t in range(start + b * block, min(start + (b + 1) * block, window[1]))]
    for span in spans:
        assert window[0] <= span.start <= span.scored < span.stop <= span.start + context
        if policy == "documents":  # no text starts inside, and the piece starts where a whole number of contexts of its document ends
            assert not any(span.start < b < span.stop for b in bounds)
            assert (span.start - max(b for b in bounds if b <= span.start)) % context == 0
        if policy == "sliding":
            assert span.start == max(window[0], span.stop - context)
    batches = batches_of(spans, 64)
    assert sorted(k for batch in batches for k in batch) == list(range(len(spans)))
    for batch in batches:
        lengths = [spans[k].stop - spans[k].start for k in batch]
        assert len(batch) == 1 or (len(batch) * max(lengths) <= 64 and min(lengths) >= 0.75 * max(lengths))


def test_sliding_by_the_whole_context_is_packed():
    for blocks in (range(5), [1, 4]):
        given_ = dict(window=(3, 50), context=10, block_tokens=10, boundaries=np.array([3]))
        assert spans_of("sliding", list(blocks), **given_)[:-1] == spans_of("packed", list(blocks), **given_)[:-1]
    assert spans_of("packed", [0], window=(3, 50), context=10, block_tokens=10, boundaries=np.array([3])) == [Span(3, 3, 13)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    text = folder / "text"
    text.mkdir()
    for k, repeats in enumerate((1, 3, 11, 2, 7, 1)):
        (text / f"{k}").write_text(f"text {k} says {k * k * 7919 % 1000} " * repeats)
    corpus = read_corpus(text)
    streams = [build_stream(corpus.documents, load_tokenizer(), folder / f"s{seed}", sequence_tokens=32, source=SourceRef("t", ""), seed=seed) for seed in (None, 0)]
    shape = shape_for(15_000)
    model = Transformer(shape, 32, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.embedding *= 3.0
    save_folder(folder / "model", shape.config(32), model.tensors())
    return folder, *streams


def one_by_one(model, stream, window, policy, context, stride):
    """Each token by itself, by the sentences of the documentation."""
    out, starts = [], list(stream.info.documents)
    if stream.info.seed is not None:
        starts += range(0, len(stream), stream.info.sequence_tokens)
    for t in range(*window):
        offset = t - window[0]
        if policy == "packed":
            begin = window[0] + offset // context * context
        elif policy == "sliding":
            begin = max(window[0], min(window[0] + (offset // stride + 1) * stride, window[1]) - context)
        else:
            own = max(s for s in [*starts, window[0]] if window[0] <= s <= t)
            begin = own + (t - own) // context * context
        seen = torch.tensor([[255, *stream.tokens[begin:t].tolist()]])
        out.append(-torch.log_softmax(model.logits(seen)[0, -1].double(), -1)[int(stream.tokens[t])].item())
    return np.array(out)


@pytest.mark.parametrize("policy, stride", [("packed", None), ("documents", None), ("sliding", 8), ("sliding", 7)])
@pytest.mark.parametrize("drawn", [False, True])
def test_losses_are_those_of_the_stated_context(files, tmp_path, policy, stride, drawn):
    folder, stream = files[0], files[1 + drawn]
    window = (13, 13 + 250)
    stats = measure(folder / "model", stream.path, tmp_path / "a", context=24, window=window, policy=policy, stride=stride)
    right = one_by_one(load_model(folder / "model"), stream, window, policy, 24, stride)
    np.testing.assert_allclose(stats.read("nll"), right, atol=3e-5)
    assert (stats.info.policy.name, stats.info.policy.context, stats.info.block_tokens) == (policy, 24, stride or 24)
    assert stats.complete and len(stats) == 250
    two = measure(folder / "model", stream.path, tmp_path / "b", context=24, window=window, policy=policy, stride=stride, workers=1, sample=4, seed=3)
    index = np.concatenate([np.arange(b * two.info.block_tokens, min((b + 1) * two.info.block_tokens, 250)) for b in two.blocks])
    np.testing.assert_allclose(two.read("nll"), right[index], atol=3e-5)
    assert stats.info.text_bytes == int(np.count_nonzero(stream.tokens[slice(*window)] != 255))


def test_the_policies_differ_and_the_wrong_one_is_seen(files):
    """Control of the test above: scored under another policy the losses are others."""
    folder, stream = files[0], files[1]
    model = load_model(folder / "model")
    found = [one_by_one(model, stream, (0, 150), policy, 24, 8) for policy in ("packed", "documents", "sliding")]
    assert all(np.abs(found[a] - found[b]).max() > 0.01 for a, b in ((0, 1), (0, 2), (1, 2)))


def test_later_tokens_change_no_loss(files, tmp_path):
    folder, stream = files[0], files[1]
    changed = np.array(stream.tokens)
    changed[200:] = ord("z")
    (tmp_path / "c.bin").write_bytes(changed.astype("<u2").tobytes())
    from scalebound.core.io import save_struct, sha256_file

    save_struct(tmp_path / "c.json", msgspec.structs.replace(stream.info, bin_sha256=sha256_file(tmp_path / "c.bin")))
    for policy, stride in (("packed", None), ("documents", None), ("sliding", 5)):
        before = measure(folder / "model", stream.path, tmp_path / f"{policy}-a", policy=policy, stride=stride, context=24)
        after = measure(folder / "model", tmp_path / "c.json", tmp_path / f"{policy}-b", policy=policy, stride=stride, context=24)
        np.testing.assert_allclose(before.read("nll", 0, 200), after.read("nll", 0, 200), atol=2e-5)
        assert np.abs(before.read("nll", 200) - after.read("nll", 200)).max() > 0.1


@pytest.mark.parametrize("change, what", [({"policy": "sliding"}, "stride = None"), ({"stride": 4}, "stride = 4"), ({"policy": "sliding", "stride": 25}, "between 1 and the context"),
                                          ({"policy": "sliding", "stride": 0}, "stride = 0"), ({"policy": "striding"}, "one of packed")])  # fmt: skip
def test_policies_that_make_no_sense_are_refused(files, tmp_path, change, what):
    with pytest.raises(UsageError, match=what):
        measure(files[0] / "model", files[1].path, tmp_path / "s", context=24, **change)
