"""A small stream of Python-like text that every test of the room trains on."""

import pytest

from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef


@pytest.fixture(scope="session")
def stream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    (folder / "t.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(2000)))
    corpus = read_corpus(folder / "t.txt")
    return build_stream(corpus.documents, load_tokenizer(), folder / "s", sequence_tokens=32, source=SourceRef("t", corpus.sha256), seed=0)
