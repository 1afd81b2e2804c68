"""Text to token ids: bytes (the default), any ``tokenizers`` JSON file, or the tokenizer inside a ``.gguf`` file.

The byte tokenizer is the identity on UTF-8; its separator is 255, a byte that no UTF-8 text contains, so the vocabulary stays 256.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np

from scalebound.core.errors import InputError, require_extra
from scalebound.core.io import MAX_JSON_BYTES, read_bytes, sha256_bytes

SEPARATOR_NAMES = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "[SEP]", "<|im_end|>")


class Tokenizer(Protocol):
    """What the rest of the library needs to know of a tokenizer."""

    kind: str
    path: str
    sha256: str
    vocab_size: int
    separator: int

    def encode(self, data: bytes) -> np.ndarray:
        """Token ids of a UTF-8 document, without special tokens."""
        ...

    def count_bytes(self, tokens: np.ndarray) -> int:
        """Bytes of text that the tokens stand for; separators count nothing."""
        ...


class ByteTokenizer:
    """Every byte is a token.

    >>> ByteTokenizer().encode("né".encode()).tolist()
    [110, 195, 169]
    """

    kind = "byte"
    path = ""
    sha256 = sha256_bytes(b"scalebound byte tokenizer")
    vocab_size = 256
    separator = 255

    def encode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, dtype=np.uint8).astype(np.uint16)

    def count_bytes(self, tokens: np.ndarray) -> int:
        return int(np.count_nonzero(tokens != self.separator))


class FileTokenizer:
    """A ``tokenizer.json`` of the ``tokenizers`` library, or the tokenizer of a ``.gguf`` file, which ``transformers`` turns into one."""

    kind = "tokenizers"

    separator: int

    def __init__(self, path: str | os.PathLike) -> None:
        require_extra("tokenizers")
        from tokenizers import Tokenizer as Library

        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        text = _gguf_tokenizer(path) if path.suffix == ".gguf" else read_bytes(path, limit=MAX_JSON_BYTES)
        self.path, self.sha256 = str(path), sha256_bytes(text)
        try:
            self._library = Library.from_buffer(text)
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise InputError(f"is not a tokenizer file ({error})", where=self.path, expected="a tokenizer.json of the tokenizers library") from error
        self.vocab_size = self._library.get_vocab_size()
        found = [token for token in map(self._library.token_to_id, SEPARATOR_NAMES) if token is not None]
        if not found:
            raise InputError("has no end-of-text token to separate documents with", where=self.path, expected=f"one of {', '.join(SEPARATOR_NAMES)}")
        self.separator = found[0]

    def encode(self, data: bytes) -> np.ndarray:
        ids = self._library.encode(data.decode("utf-8"), add_special_tokens=False).ids
        return np.asarray(ids, dtype=np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)

    def count_bytes(self, tokens: np.ndarray) -> int:
        return len(self._library.decode([int(t) for t in tokens if t != self.separator], skip_special_tokens=False).encode())


def _gguf_tokenizer(path: Path) -> bytes:
    require_extra("transformers")
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever its readers raise
        raise InputError(f"holds no tokenizer that can be read ({' '.join(str(error).split())[:200]})", where=str(path)) from error
    return found.backend_tokenizer.to_str().encode()


def load_tokenizer(name: str | os.PathLike = "byte") -> Tokenizer:
    """``"byte"``, the path of a ``tokenizer.json`` or of a folder that holds one, or of a ``.gguf`` file.

    Raises
    ------
    InputError
        No such tokenizer.
    """
    if str(name) == "byte":
        return ByteTokenizer()
    if not os.path.exists(name):
        raise InputError(f"unknown tokenizer {str(name)!r}", expected="'byte', or the path of a tokenizer.json", hint="--tokenizer byte")
    return FileTokenizer(name)
