"""Text to documents: what is read, left out, refused, and kept apart."""

import pytest

from scalebound.core.errors import InputError
from scalebound.data.corpus import PASSAGE_BYTES, read_corpus, split_documents


def write(folder, **files):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_folder_skips_binaries_and_duplicates(tmp_path):
    write(tmp_path, a=b"one", b=b"two", c=b"one", d=b"\0\1", e=b"\xff\xfe", f=b"  \n")
    found = read_corpus(tmp_path)
    assert [d.read() for d in found.documents] == [b"one", b"two"]
    assert (found.num_binary, found.num_duplicates, found.num_bytes) == (2, 1, 6)


def test_identity_follows_names_and_bytes(tmp_path):
    first = read_corpus(write(tmp_path, a=b"one", b=b"two")).sha256
    assert read_corpus(tmp_path).sha256 == first
    assert read_corpus(write(tmp_path, b=b"twO")).sha256 != first


@pytest.mark.parametrize("files, what", [({}, "no files"), ({"a": b""}, "every file is empty"), ({"a": b"\0"}, "1 binary files and no text")])
def test_folder_without_text_is_refused(tmp_path, files, what):
    with pytest.raises(InputError, match=what):
        read_corpus(write(tmp_path, **files))


@pytest.mark.parametrize("data, what", [(b"", "is empty"), (b"  \n ", "is empty"), (b"ab\0", "binary file"), (b"\x80abc", "binary file")])
def test_single_file_without_text_is_refused(tmp_path, data, what):
    with pytest.raises(InputError, match=what):
        read_corpus(write(tmp_path, a=data) / "a")


def test_missing_path_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_corpus(tmp_path / "absent")


def test_single_file_is_cut_at_line_ends(tmp_path):
    text = "".join(f"line {k} of a longer text\n" for k in range(3000)).encode()
    found = read_corpus(write(tmp_path, a=text) / "a")
    assert b"".join(d.read() for d in found.documents) == text and len(found.documents) > 4
    assert all(d.read().endswith(b"\n") and d.num_bytes < PASSAGE_BYTES + 100 for d in found.documents)


def test_splits_are_disjoint_and_reproducible(tmp_path):
    corpus = read_corpus(write(tmp_path, **{f"f{k}": f"document {k} ".encode() * 50 for k in range(40)}))
    splits = split_documents(corpus, {"heldout": 2000, "anchor": 3000}, seed=1)
    names = [d.name for part in splits.values() for d in part]
    assert len(names) == len(set(names)) == 40
    assert sum(d.num_bytes for d in splits["heldout"]) >= 2000 and sum(d.num_bytes for d in splits["anchor"]) >= 3000
    assert split_documents(corpus, {"heldout": 2000, "anchor": 3000}, seed=1) == splits != split_documents(corpus, {"heldout": 2000, "anchor": 3000}, seed=2)


def test_too_little_text_is_refused(tmp_path):
    corpus = read_corpus(write(tmp_path, a=b"one", b=b"two"))
    with pytest.raises(InputError, match="too few to set 100 apart for 'heldout'"):
        split_documents(corpus, {"heldout": 100}, seed=0)
    with pytest.raises(InputError, match="no document is left"):
        split_documents(corpus, {"heldout": 6}, seed=0)


def test_default_text_is_the_pinned_packages():
    found = read_corpus()
    assert found.num_bytes > 20_000_000 and all(d.name.endswith(".py") for d in found.documents)
