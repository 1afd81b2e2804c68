"""Documents to a stream: packing, order, identity, refusal of what does not fit."""

import numpy as np
import pytest

from scalebound.core.errors import InputError, MachineError, UsageError
from scalebound.data import Stream, build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef, is_stream

SOURCE = SourceRef("test", "")


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for k in range(20):
        (folder / f"{k:02d}").write_text(f"document {k} é\n" * (k + 3))
    return read_corpus(folder).documents


def test_text_order_is_the_documents_with_separators(tmp_path, documents):
    made = build_stream(documents, load_tokenizer(), tmp_path / "s", sequence_tokens=64, source=SOURCE)
    assert bytes(made.tokens.astype(np.uint8)) == b"".join(d.read() + b"\xff" for d in documents)
    assert made.info.text_bytes == sum(d.num_bytes for d in documents)
    starts = np.cumsum([0] + [d.num_bytes + 1 for d in documents])[:-1]
    assert list(made.info.documents) == starts.tolist()


def test_drawn_order_is_a_permutation_of_sequences_fixed_by_the_seed(tmp_path, documents):
    plain = build_stream(documents, load_tokenizer(), tmp_path / "p", sequence_tokens=64, source=SOURCE)
    drawn = [build_stream(documents, load_tokenizer(), tmp_path / f"s{k}", sequence_tokens=64, source=SOURCE, seed=seed) for k, seed in enumerate((0, 0, 1))]
    whole = len(plain) // 64 * 64
    rows = {bytes(row) for row in plain.tokens[:whole].astype(np.uint8).reshape(-1, 64)}
    for stream in drawn:
        assert len(stream) == whole and {bytes(row) for row in stream.tokens.astype(np.uint8).reshape(-1, 64)} == rows
    assert drawn[0].sha256 == drawn[1].sha256 != drawn[2].sha256
    assert not np.array_equal(drawn[0].tokens, plain.tokens[:whole])
    for position in drawn[0].info.documents:
        assert position % 64 == 0 or drawn[0].tokens[position - 1] == 255
        assert bytes(drawn[0].tokens[position : position + 4].astype(np.uint8)) == b"docu"[: 64 - position % 64][:4] or position % 64 > 60


def test_max_tokens_stops_there(tmp_path, documents):
    assert len(build_stream(documents, load_tokenizer(), tmp_path / "s", sequence_tokens=64, source=SOURCE, max_tokens=100)) == 100
    assert len(build_stream(documents, load_tokenizer(), tmp_path / "t", sequence_tokens=64, source=SOURCE, max_tokens=100, seed=0)) == 64


def test_text_shorter_than_a_sequence_is_refused_and_leaves_nothing(tmp_path, documents):
    with pytest.raises(InputError, match="shorter than one sequence"):
        build_stream(documents[:1], load_tokenizer(), tmp_path / "new" / "s", sequence_tokens=4096, source=SOURCE, seed=0)
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError):
        build_stream(documents, load_tokenizer(), tmp_path / "s", sequence_tokens=1, source=SOURCE)


def test_damaged_streams_are_refused(tmp_path, documents):
    made = build_stream(documents, load_tokenizer(), tmp_path / "s", sequence_tokens=64, source=SOURCE)
    assert is_stream(tmp_path / "s.bin") and is_stream(tmp_path / "s") and not is_stream(tmp_path / "text")
    data = bytearray((tmp_path / "s.bin").read_bytes())
    data[10] ^= 1
    (tmp_path / "s.bin").write_bytes(data)
    with pytest.raises(InputError, match="hash"):
        Stream(tmp_path / "s.json").check()
    (tmp_path / "s.bin").write_bytes(data[:-2])
    with pytest.raises(InputError, match=f"expected {2 * len(made):,}"):
        Stream(tmp_path / "s.bin")


def test_disk_full_leaves_no_stream(tmp_path, documents, monkeypatch):
    import os

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="no space left"):
        build_stream(documents, load_tokenizer(), tmp_path / "new" / "s", sequence_tokens=64, source=SOURCE)
    assert not (tmp_path / "new").exists()


def test_tokenizers_file(tmp_path, documents):
    tokenizers = pytest.importorskip("tokenizers")
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    library.train_from_iterator([d.read().decode() for d in documents], trainer)
    library.save(str(tmp_path / "tokenizer.json"))
    words = load_tokenizer(tmp_path / "tokenizer.json")
    made = build_stream(documents, words, tmp_path / "s", sequence_tokens=16, source=SOURCE)
    assert made.info.vocab_size == words.vocab_size and made.info.text_bytes == sum(d.num_bytes for d in documents)
    assert made.tokenizer().sha256 == words.sha256 and words.separator == library.token_to_id("<|endoftext|>")


@pytest.mark.parametrize("content", ["{}", "not json", '{"model": 1}'])
def test_broken_tokenizers_are_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="not a tokenizer file"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_unknown_tokenizer_is_refused():
    with pytest.raises(InputError, match="unknown tokenizer 'sentencepieces'"):
        load_tokenizer("sentencepieces")
