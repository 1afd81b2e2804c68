"""References: the counts against a loop, the probabilities against 1, predictability against a variant that leaks, and their files."""

import json
import math
from collections import defaultdict

import msgspec
import numpy as np
import pytest
import torch

from scalebound.certify import certify
from scalebound.cli import main
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import ModelRef, Policy, Stats, StatsInfo
from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef
from scalebound.measure import checkpoint_reference, measure, ngram_losses, ngram_reference, online_reference
from scalebound.train import derive_recipe, train_run


def by_hand(tokens, vocab_size, order, *, leaks=False, everything=False):
    """The definition, position by position. ``leaks`` counts each token before it is predicted; ``everything`` gives all V probabilities."""
    counts = [defaultdict(lambda: defaultdict(int)) for _ in range(order)]
    out = []
    for k, token in enumerate(tokens):
        if leaks:
            for width in range(min(order, k + 1)):
                counts[width][tuple(tokens[k - width : k])][token] += 1
        p = [1 / vocab_size] * vocab_size
        for width in range(min(order, k + 1)):
            found = counts[width][tuple(tokens[k - width : k])]
            n, d = sum(found.values()), len(found)
            if n:
                p = [(found.get(x, 0) + d * p[x]) / (n + d) for x in range(vocab_size)]
        out.append(p if everything else -math.log(p[token]))
        if not leaks:
            for width in range(min(order, k + 1)):
                counts[width][tuple(tokens[k - width : k])][token] += 1
    return np.array(out)


@pytest.mark.parametrize("vocab_size, length", [(2, 300), (7, 400), (300, 60)])
@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_losses_equal_the_loop(vocab_size, length, order):
    tokens = np.random.default_rng(order).integers(0, vocab_size, length) ** 2 % vocab_size
    right = by_hand(tokens.tolist(), vocab_size, order)
    np.testing.assert_allclose(ngram_losses(tokens, vocab_size=vocab_size, order=order), right, rtol=1e-12)
    again = ngram_losses(tokens, vocab_size=vocab_size, order=order, restart=37)
    pieces = [by_hand(tokens[k : k + 37].tolist(), vocab_size, order) for k in range(0, length, 37)]
    np.testing.assert_allclose(again, np.concatenate(pieces), rtol=1e-12)
    if vocab_size <= 7:
        assert np.abs(by_hand(tokens.tolist(), vocab_size, order, leaks=True) - right).max() > 0.01


def test_probabilities_sum_to_one_at_every_position():
    """Exchanging the last token for every other one gives the whole distribution."""
    tokens = np.array([0, 1, 0, 2, 0, 1, 1, 3, 0, 1, 0, 2, 0, 1])
    for length in range(1, len(tokens) + 1):
        for order in (1, 2, 4):
            total = 0.0
            for last in range(5):
                changed = np.append(tokens[: length - 1], last)
                total += math.exp(-ngram_losses(changed, vocab_size=5, order=order)[-1])
            assert abs(total - 1) < 1e-12
    assert np.allclose(by_hand(tokens.tolist(), 5, 3, everything=True).sum(1), 1)


def test_later_tokens_change_no_loss():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 20, 3000)
    before = ngram_losses(tokens, vocab_size=20, order=4)
    tokens[2000:] = rng.integers(0, 20, 1000)
    after = ngram_losses(tokens, vocab_size=20, order=4)
    np.testing.assert_array_equal(before[:2000], after[:2000])
    assert not np.allclose(before[2000:], after[2000:])


def test_empty_and_bad_tokens():
    assert len(ngram_losses(np.empty(0, np.uint16), vocab_size=5, order=2)) == 0
    assert ngram_losses(np.array([3]), vocab_size=5, order=4) == pytest.approx([math.log(5)])
    with pytest.raises(InputError, match="token 2 is 5"):
        ngram_losses(np.array([0, 4, 5]), vocab_size=5, order=2)
    for wrong in ({"order": 0}, {"order": 13}, {"order": 2, "restart": 0}):
        with pytest.raises(UsageError):
            ngram_losses(np.array([0]), vocab_size=5, **wrong)


def test_a_reference_that_leaks_certifies_what_is_false():
    """Independent uniform tokens: nobody can expect less than log V. The honest reference respects that, one that has counted does not."""
    V, n = 32, 6000
    tokens = np.random.default_rng(1).integers(0, V, n)
    info = StatsInfo(kind="model", model=ModelRef("m", "a", 10), window=(0, n), vocab_size=V, tokens=n, block_tokens=50, policy=Policy("packed", 50, 0))
    stats = Stats(info, {"nll": np.full(n, math.log(V), np.float32), "entropy": np.full(n, math.log(V), np.float32)})
    bounds = {}
    for leaks in (False, True):
        losses = by_hand(tokens.tolist(), V, 2, leaks=True) if leaks else ngram_losses(tokens, vocab_size=V, order=2)
        known = StatsInfo(kind="online", window=(0, n), vocab_size=V, tokens=n, block_tokens=50, predictable="counts of earlier tokens, so it says")
        certificate = certify(stats, method="anchored", code_bits=8, reference=Stats(known, {"nll": losses.astype(np.float32)}), alpha=0.5, eps=0.01)
        bounds[leaks] = (losses.mean(), certificate.anchor.certified, certificate.bound)
    truth = math.log(V)
    assert bounds[False][0] > truth and bounds[False][1] > truth and bounds[False][2] > truth
    assert bounds[True][0] < truth - 0.2 and bounds[True][1] < truth, "the control must be seen"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A stream, a run on its first part, and statistics of the run's model on two windows."""
    folder = tmp_path_factory.mktemp("references")
    (folder / "text.txt").write_text("".join(f"line {k} of the text, with number {k * k % 97}\n" for k in range(900)))
    corpus = read_corpus(folder / "text.txt")
    stream = build_stream(corpus.documents, load_tokenizer(), folder / "s", sequence_tokens=32, source=SourceRef("t", corpus.sha256), seed=0)
    torch.set_num_threads(1)
    train_run(msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=20_480), stream.path, folder / "run")
    measure(folder / "run", stream.path, folder / "in", window=(0, 20_480))
    measure(folder / "run", stream.path, folder / "sampled", window=(0, 20_480), sample=200, seed=4)
    return folder, stream


def test_each_kind_serves_certify(files, tmp_path):
    folder, stream = files
    for like in ("in", "sampled"):
        stats = Stats.load(folder / like)
        honest = ngram_reference(stream.path, tmp_path / f"n-{like}", order=3, like=folder / like)
        online = online_reference(folder / "run", tmp_path / f"o-{like}", like=folder / like, stream=stream.path)
        for reference in (honest, online):
            assert reference.info.kind == "online" and reference.info.predictable and np.array_equal(reference.blocks, stats.blocks)
            assert len(reference) == len(stats) and reference.info.text_bytes == stats.info.text_bytes
            certificate = certify(stats, method="anchored", code_bits=1000, reference=reference, alpha=0.5, eps=0.01)
            assert certificate.anchor.kind == "online" and not certificate.anchor.deployable and certificate.bound > 0
    whole = ngram_losses(np.asarray(stream.tokens[:20_480]), vocab_size=256, order=3)
    assert np.allclose(Stats.load(tmp_path / "n-in").read("nll"), whole, atol=1e-6)
    sampled = Stats.load(tmp_path / "n-sampled")
    rows = np.concatenate([np.arange(b * 32, b * 32 + 32) for b in sampled.blocks])
    np.testing.assert_allclose(sampled.read("nll"), whole[rows], atol=1e-6)
    np.testing.assert_array_equal(Stats.load(tmp_path / "o-in").read("nll"), Stats.load(folder / "run" / "online.safetensors").read("nll"))


def test_a_checkpoint_after_its_training(files, tmp_path):
    folder, stream = files
    later = (20_480, 20_480 + 3_200)
    other = measure(folder / "run", stream.path, tmp_path / "like", window=later, sample=20, seed=1)
    found = checkpoint_reference(folder / "run", stream.path, tmp_path / "c", like=tmp_path / "like")
    np.testing.assert_allclose(found.read("nll"), other.read("nll"), atol=2e-5)
    assert found.info.kind == "model" and "frozen after token 20,480" in found.info.predictable and np.array_equal(found.blocks, other.blocks)
    assert checkpoint_reference(folder / "run", stream.path, tmp_path / "d").info.window == (20_480, len(stream))
    for window in ((0, 20_480), (20_448, 21_000)):
        with pytest.raises(InputError, match="trained on tokens up to 20,480"):
            checkpoint_reference(folder / "run", stream.path, tmp_path / "e", window=window)


def test_references_about_other_tokens_are_refused(files, tmp_path):
    folder, stream = files
    corpus = read_corpus(folder / "text.txt")
    other = build_stream(corpus.documents, load_tokenizer(), tmp_path / "s", sequence_tokens=32, source=SourceRef("t", corpus.sha256), seed=1)
    with pytest.raises(InputError, match="another stream"):
        ngram_reference(other.path, tmp_path / "a", order=2, like=folder / "in")
    with pytest.raises(InputError, match="another stream"):
        online_reference(folder / "run", tmp_path / "a", stream=other.path)
    with pytest.raises(InputError, match="another stream"):
        checkpoint_reference(folder / "run", other.path, tmp_path / "a")
    with pytest.raises(InputError, match="a run trained on all of"):
        online_reference(folder / "run", tmp_path / "a", window=(0, 20_500))
    with pytest.raises(InputError, match="of kind 'model'"):
        online_reference(folder / "in.safetensors" if (folder / "in.safetensors").exists() else _renamed(folder), tmp_path / "a")
    with pytest.raises(UsageError, match="window"):
        ngram_reference(stream.path, tmp_path / "a", order=2, window=(5, 10**9))
    assert not (tmp_path / "a").exists()


def _renamed(folder):
    (folder / "in.safetensors").write_bytes((folder / "in").read_bytes())
    return folder / "in.safetensors"


def test_the_command(files, tmp_path, capsys):
    folder, stream = files
    out = str(tmp_path / "r.safetensors")
    assert main(["reference", "ngram", str(stream.path), "--like", str(folder / "in"), "--out", out, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["kind"] == "online" and "5-gram" in record["predictable"] and 0.5 < record["mean_nll"] < 3
    assert main(["certify", str(folder / "in"), "--method", "anchored", "--reference", out, "--code-bits", "5000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["anchor"]["mean_loss"] > 0
    for arguments in (["online", str(stream.path)], ["ngram", str(stream.path), "--run", str(folder / "run")], ["online", str(stream.path), "--run", str(folder / "run"), "--order", "3"]):
        assert main(["reference", *arguments, "--out", out, "--json"]) == 2
        capsys.readouterr()
    assert main(["reference", "checkpoint", str(stream.path), "--run", str(folder / "run"), "--window", "20480", "21000", "--out", str(tmp_path / "c.safetensors"), "--json"]) == 0
