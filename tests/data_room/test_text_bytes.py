"""Bytes of text behind tokens: re-decoded text, counted the same however a stream is cut."""

import json

import numpy as np
import pytest

from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef

TEXTS = [" leading space, café", "naïve 日本語 🙂 text\n", "plain words and words", "  two spaces", "é", "\U0001f642\U0001f642 tail "]


def byte_level(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False))
    library.save(str(tmp_path / "tokenizer.json"))
    return load_tokenizer(tmp_path / "tokenizer.json")


def byte_fallback(tmp_path, *, llama: bool):
    """A vocabulary in Llama's form: spaces as a mark, unknown characters as bytes; with or without the space before a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    letters = sorted({c for text in TEXTS for c in text.replace(" ", "\u2581") if ord(c) < 128 or c == "\u2581"})
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + letters + ["\u2581w", "or", "\u2581wor"]
    merges = [("\u2581", "w"), ("o", "r"), ("\u2581w", "or")]
    library = Tokenizer(models.BPE(vocab={name: k for k, name in enumerate(names)}, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    steps = [normalizers.Replace(" ", "\u2581")]
    library.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), *steps] if llama else steps)
    back = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if llama else back)
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    library.save(str(tmp_path / "tokenizer.json"))
    return load_tokenizer(tmp_path / "tokenizer.json")


MAKERS = {"byte level": byte_level, "llama": lambda p: byte_fallback(p, llama=True), "fallback": lambda p: byte_fallback(p, llama=False), "bytes": lambda p: load_tokenizer()}


@pytest.fixture(params=MAKERS)
def tokenizer(request, tmp_path):
    return MAKERS[request.param](tmp_path)


def test_whole_texts_count_their_bytes(tokenizer):
    for text in TEXTS:
        ids = tokenizer.encode(text.encode())
        assert tokenizer.count_bytes(ids) == len(text.encode()), text
        if tokenizer.kind == "tokenizers":
            assert tokenizer._library.decode(ids.tolist(), skip_special_tokens=False) == text


def test_counts_add_up_over_any_cut(tokenizer):
    """Also inside a character whose bytes are several tokens, and before a token that begins with a space."""
    ids = np.concatenate([np.append(tokenizer.encode(text.encode()), tokenizer.separator) for text in TEXTS])
    whole = sum(len(text.encode()) for text in TEXTS)
    assert tokenizer.count_bytes(ids) == whole
    for cut in range(1, len(ids)):
        assert tokenizer.count_bytes(ids[:cut]) + tokenizer.count_bytes(ids[cut:], previous=int(ids[cut - 1])) == whole
    assert sum(tokenizer.count_bytes(ids[k : k + 1], previous=int(ids[k - 1]) if k else None) for k in range(len(ids))) == whole


def test_decoding_pieces_would_count_wrongly(tmp_path):
    """Control: what decoding token by token gives for a character in four tokens, and for a leading space."""
    tokenizer = byte_fallback(tmp_path, llama=True)
    ids = tokenizer.encode("\U0001f642 w".encode()).tolist()
    assert sum(len(tokenizer._library.decode([k]).encode()) for k in ids) != len("\U0001f642 w".encode())
    assert tokenizer.count_bytes(np.array(ids)) == 6


def test_the_stream_counts_the_bytes_of_its_documents(tokenizer, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for k, text in enumerate(TEXTS):
        (folder / f"{k}.txt").write_text(text)
    corpus = read_corpus(folder)
    made = build_stream(corpus.documents, tokenizer, tmp_path / "s", sequence_tokens=16, source=SourceRef("t", ""))
    assert made.info.text_bytes == corpus.num_bytes


def test_an_unknown_decoder_decodes_the_piece(tmp_path):
    library = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None,
               "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False}, "model": {"type": "WordLevel", "vocab": {"one": 0, "two": 1, "</s>": 2}, "unk_token": "one"}}  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(library))
    assert load_tokenizer(tmp_path / "tokenizer.json").count_bytes(np.array([0, 1, 2])) == len("one two")
