"""Mixtures: exact shares over training, every sequence once an epoch, unique tokens counted, the record tied to its stream."""

import doctest

import numpy as np
import pytest

import scalebound.data.mixture
from scalebound.core.errors import InputError, UsageError
from scalebound.data import Phase, build_mixture, first_seen, load_mixture, load_tokenizer, read_corpus
from scalebound.data.mixture import deal, flat
from scalebound.data.stream import SourceRef, build_stream

PHASES = [Phase(0.8, {"code": 3.0, "docs": 1.0}), Phase(1.0, {"docs": 1.0})]


@pytest.fixture
def sources(tmp_path):
    found = []
    for name, lines in (("code", 3000), ("docs", 200)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} line {k} of the text\n" for k in range(lines)))
        corpus = read_corpus(tmp_path / f"{name}.txt")
        found.append((name, corpus.documents, SourceRef(name, corpus.sha256)))
    return found


def test_examples():
    assert doctest.testmod(scalebound.data.mixture).failed == 0


def test_every_sequence_is_where_the_record_says(tmp_path, sources):
    stream = build_mixture(sources, PHASES, load_tokenizer(), tmp_path / "m", sequence_tokens=32, num_tokens=32 * 500, seed=0)
    mix = load_mixture(stream)
    stream.check()
    assert len(stream) == 32 * 500 == len(mix.source) * 32
    first, late = mix.shares(0, 400), mix.shares(400)
    assert first == {"code": 0.75, "docs": 0.25} and late == {"code": 0.0, "docs": 1.0}
    parts = [build_stream(documents, load_tokenizer(), tmp_path / name, sequence_tokens=32, source=ref, max_tokens=32 * int((mix.source == k).sum())) for k, (name, documents, ref) in enumerate(sources)]
    for place in range(500):
        k, j = mix.source[place], mix.number[place]
        assert np.array_equal(stream.tokens[place * 32 : place * 32 + 32], parts[k].tokens[j * 32 : j * 32 + 32])
    for k in range(2):  # without replacement: within an epoch every sequence at most once, and an epoch begins when the last is over
        mine = mix.source == k
        epochs, numbers = mix.epoch[mine], mix.number[mine]
        assert np.all(np.diff(epochs) >= 0)
        for e in range(1, epochs.max() + 1):
            drawn = numbers[epochs == e]
            assert len(set(drawn)) == len(drawn) and (e == epochs.max() or len(drawn) == len(parts[k]) // 32)
    assert mix.info.sources[1].epochs > 1 == mix.info.sources[0].epochs
    docs = [numbers for e in (1, 2) for numbers in [mix.number[(mix.source == 1) & (mix.epoch == e)]]]
    assert not np.array_equal(docs[0][: len(docs[1])], docs[1])  # another order every epoch


def test_unique_tokens_are_counted(tmp_path, sources):
    stream = build_mixture(sources, PHASES, load_tokenizer(), tmp_path / "m", sequence_tokens=32, num_tokens=32 * 500, seed=0)
    mix = load_mixture(stream)
    seen, unique = set(), 0
    for place in range(500):
        key = (int(mix.source[place]), int(mix.number[place]))
        unique += key not in seen
        seen.add(key)
        assert (mix.epoch[place] == 1) == (len(seen) == unique and key not in list(zip(mix.source[:place], mix.number[:place], strict=True)))
        assert mix.unique_tokens((place + 1) * 32) == 32 * unique
    assert mix.info.unique_tokens == 32 * unique < len(stream) and len(first_seen(mix)) == unique and first_seen(mix, 32 * 10).max() < 10
    assert sum(found.sequences for found in mix.info.sources) == unique


def test_seed_decides_and_text_positions_are_right(tmp_path, sources):
    made = [build_mixture(sources, PHASES, load_tokenizer(), tmp_path / name, sequence_tokens=32, num_tokens=32 * 100, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert made[0].sha256 == made[1].sha256 != made[2].sha256
    for start in made[0].info.documents:
        assert start == 0 or made[0].tokens[start - 1] == 255 or start % 32 == 0
    assert made[0].info.text_bytes == int((made[0].tokens != 255).sum()) and made[0].info.num_documents > 0


def test_counts_are_exact_to_one_sequence():
    which = deal(1000, [Phase(0.333, {"a": 1.0, "b": 2.0, "c": 4.0}), Phase(1.0, {"a": 1.0})], ["a", "b", "c"], seed=0)
    counts = np.bincount(which[:333], minlength=3)
    assert np.all(np.abs(counts - 333 * np.array([1, 2, 4]) / 7) < 1) and np.all(which[333:] == 0)
    flat_phase = flat(PHASES, ["code", "docs"])
    assert flat_phase[0].weights == pytest.approx({"code": 0.6, "docs": 0.4})
    assert np.abs(np.bincount(deal(500, PHASES, ["code", "docs"], seed=0)) - np.bincount(deal(500, flat_phase, ["code", "docs"], seed=0))).max() <= 1


def test_refusals(tmp_path, sources):
    tokens = load_tokenizer()
    for phases, what in (([Phase(0.5, {"code": 1.0})], "the last 1.0"), ([Phase(1.0, {"cod": 1.0})], "'cod'"), ([Phase(1.0, {"code": 0.0})], "not all of them 0"), ([], "the last 1.0"), ([Phase(1.0, {"code": -1.0})], "at least 0")):
        with pytest.raises(InputError, match=what):
            build_mixture(sources, phases, tokens, tmp_path / "x", sequence_tokens=32, num_tokens=320, seed=0)
    with pytest.raises(InputError, match="at most 2 epochs"):
        build_mixture(sources, [Phase(1.0, {"docs": 1.0})], tokens, tmp_path / "x", sequence_tokens=32, num_tokens=32 * 500, seed=0, max_epochs=2)
    for wrong in ({"num_tokens": 33}, {"num_tokens": 0}):
        with pytest.raises(UsageError):
            build_mixture(sources, PHASES, tokens, tmp_path / "x", **({"sequence_tokens": 32, "num_tokens": 320, "seed": 0} | wrong))
    assert not (tmp_path / "x.json").exists()
    stream = build_mixture(sources, PHASES, tokens, tmp_path / "m", sequence_tokens=32, num_tokens=320, seed=0)
    other = build_mixture(sources, PHASES, tokens, tmp_path / "n", sequence_tokens=32, num_tokens=320, seed=1)
    (tmp_path / "m.mix.json").write_bytes((tmp_path / "n.mix.json").read_bytes())
    with pytest.raises(InputError, match="another stream"):
        load_mixture(stream)
    (tmp_path / "n.mix.json").unlink()
    assert load_mixture(other) is None
