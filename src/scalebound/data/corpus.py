"""Text to documents: what is read, what is left out and why, and the split that keeps streams apart.

A *document* is a file of a folder, or a passage of a single text file. Files that are not valid UTF-8 or hold a NUL byte are binary:
left out of a folder (and counted), refused when named alone. Documents with the same bytes are kept once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scalebound.core.errors import InputError, UsageError, from_os_error
from scalebound.core.seeds import generator

# The default text: sources of packages that the constraints file pins, hence the same bytes on every machine (BSD and Apache licences).
DEFAULT_PACKAGES = ("networkx", "numpy", "scipy", "sympy", "torch", "transformers")
PASSAGE_BYTES = 8192  # a single text file is cut into passages of about this size, at line ends


@dataclass(frozen=True)
class Document:
    """Bytes [start, stop) of a file."""

    name: str
    path: Path
    start: int
    stop: int

    def read(self) -> bytes:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start)
                return file.read(self.stop - self.start)
        except OSError as error:
            raise from_os_error(error, self.path) from error

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, and how they were found.

    ``sha256`` is over the names and bytes of all documents in order: the identity of the text.
    """

    name: str
    documents: tuple[Document, ...]
    sha256: str
    num_bytes: int
    num_binary: int
    num_duplicates: int


def read_corpus(text: str | os.PathLike | None = None) -> Corpus:
    """Find the documents of a file or folder, or of the default text.

    Parameters
    ----------
    text
        A text file, a folder (searched for files, symbolic links not followed), or None for the default text: the Python sources of
        ``DEFAULT_PACKAGES`` where they are installed, else of the standard library.

    Raises
    ------
    InputError
        Nothing there, nothing but binary files, or no text at all.

    Notes
    -----
    Reads every byte once (hashing at about 1 GB/s); keeps names and offsets only.
    """
    if text is None:
        return _corpus("default", _default_files())
    path = Path(text)
    if path.is_dir():
        files = [(str(file.relative_to(path)), file) for file in sorted(_walk(path))]
        if not files:
            raise InputError("holds no files", where=str(path), expected="a folder of text files")
        return _corpus(path.name, files)
    if not path.exists():
        raise InputError("no such file or folder", where=str(path), expected="a text file or a folder of text files")
    return _passages(path)


def _walk(folder: Path) -> list[Path]:
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root) / name for name in names if not name.startswith(".")]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _default_files() -> list[tuple[str, Path]]:
    roots = []
    for package in DEFAULT_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            roots.append((package, Path(next(iter(spec.submodule_search_locations)))))
    if len(roots) < len(DEFAULT_PACKAGES):
        roots = [("python", Path(sysconfig.get_paths()["stdlib"]))]
    return [
        (f"{package}/{file.relative_to(root)}", file)
        for package, root in roots
        for file in sorted(_walk(root))
        if file.suffix == ".py" and "site-packages" not in file.relative_to(root).parts
    ]


def _is_text(data: bytes) -> bool:
    if b"\0" in data:
        return False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _corpus(name: str, files: Sequence[tuple[str, Path]]) -> Corpus:
    documents, seen, identity = [], set(), hashlib.sha256()
    num_binary = num_duplicates = num_bytes = 0
    for label, path in files:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise from_os_error(error, path) from error
        if not data.strip():
            continue
        if not _is_text(data):
            num_binary += 1
            continue
        digest = hashlib.sha256(data).digest()
        if digest in seen:
            num_duplicates += 1
            continue
        seen.add(digest)
        identity.update(label.encode() + b"\0" + digest)
        documents.append(Document(label, path, 0, len(data)))
        num_bytes += len(data)
    if not documents:
        what = f"holds {num_binary} binary files and no text" if num_binary else "holds no text: every file is empty"
        raise InputError(what, where=name, expected="UTF-8 text")
    return Corpus(name, tuple(documents), identity.hexdigest(), num_bytes, num_binary, num_duplicates)


def _passages(path: Path) -> Corpus:
    """One text file as passages, so that a held-out part can be set apart from it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise from_os_error(error, path) from error
    if not data.strip():
        raise InputError("is empty", where=str(path), expected="UTF-8 text")
    if not _is_text(data):
        raise InputError("is a binary file", where=str(path), expected="UTF-8 text")
    documents, seen, start, num_duplicates = [], set(), 0, 0
    while start < len(data):
        stop = data.find(b"\n", min(start + PASSAGE_BYTES, len(data))) + 1 or len(data)
        digest = hashlib.sha256(data[start:stop]).digest()
        if digest in seen:
            num_duplicates += 1
        else:
            seen.add(digest)
            documents.append(Document(f"{path.name}:{start}", path, start, stop))
        start = stop
    return Corpus(path.name, tuple(documents), hashlib.sha256(data).hexdigest(), sum(d.num_bytes for d in documents), 0, num_duplicates)


def split_documents(corpus: Corpus, min_bytes: dict[str, int], *, seed: int, rest: str = "train") -> dict[str, list[Document]]:
    """Deal the documents out to disjoint splits, in an order drawn from the seed.

    Parameters
    ----------
    min_bytes
        For each split, how many bytes of text it needs at least; filled one after the other.
    rest
        The name of the split that gets all remaining documents (at least one).

    Returns
    -------
    dict
        Lists of documents in the drawn order; no document is in two.

    Raises
    ------
    InputError
        The text is too short for what is asked, with the number of bytes it would take.
    """
    if rest in min_bytes:
        raise UsageError(f"the split {rest!r} takes what remains and cannot have a size")
    order = generator(seed, "split", corpus.sha256).permutation(len(corpus.documents))
    waiting = [corpus.documents[k] for k in order]
    splits: dict[str, list[Document]] = {}
    for name, needed in min_bytes.items():
        splits[name], got = [], 0
        while got < needed and waiting:
            splits[name].append(waiting.pop())
            got += splits[name][-1].num_bytes
        if got < needed:
            raise InputError(f"has {corpus.num_bytes:,} bytes of text in {len(corpus.documents)} documents, too few to set {needed:,} apart for {name!r}",
                             where=corpus.name, hint="give more text, or ask for less")  # fmt: skip
    splits[rest] = waiting
    if not waiting:
        raise InputError("no document is left to train on", where=corpus.name, expected=f"more than {sum(min_bytes.values()):,} bytes of text",
                         hint="give more text, or ask for smaller models")  # fmt: skip
    return splits
