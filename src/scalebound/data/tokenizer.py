"""Text to token ids: bytes (the default), any ``tokenizers`` JSON file, or the tokenizer inside a ``.gguf`` file.

The byte tokenizer is the identity on UTF-8; its separator is 255, a byte that no UTF-8 text contains, so the vocabulary stays 256.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scalebound.core.errors import InputError, require_extra
from scalebound.core.io import MAX_JSON_BYTES, read_bytes, sha256_bytes

MARK = "\u2581"  # how metaspace tokenizers write a space
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
# the letters a byte-level vocabulary writes bytes with: themselves where they can be seen, else the characters from 256 on
BYTE_LETTERS = frozenset(map(chr, [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 256 + 68)]))
SEPARATOR_NAMES = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "[SEP]", "<|im_end|>")


class Tokenizer(Protocol):
    """What the rest of the library needs to know of a tokenizer."""

    kind: str
    path: str
    sha256: str
    vocab_size: int
    separator: int
    content: bytes

    def encode(self, data: bytes) -> np.ndarray:
        """Token ids of a UTF-8 document, without special tokens."""
        ...

    def count_bytes(self, tokens: np.ndarray, previous: int | None = None) -> int:
        """Bytes of text that the tokens stand for, once decoded behind ``previous`` (None: at the start of a text); separators count nothing."""
        ...

    def vocabulary(self) -> dict[str, int]:
        """Every token and its id."""
        ...

    def opening(self) -> list[int]:
        """The special tokens it would put before a text, if it were asked for special tokens: a Llama's begin-of-text, most others' none."""
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
    content = b""  # no file is needed to make it again

    def encode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, dtype=np.uint8).astype(np.uint16)

    def count_bytes(self, tokens: np.ndarray, previous: int | None = None) -> int:
        return int(np.count_nonzero(tokens != self.separator))

    def vocabulary(self) -> dict[str, int]:
        return {chr(byte): byte for byte in range(256)}

    def opening(self) -> list[int]:
        return []


class FileTokenizer:
    """A ``tokenizer.json`` of the ``tokenizers`` library, or the tokenizer of a ``.gguf`` file, which ``transformers`` turns into one."""

    kind = "tokenizers"

    separator: int

    def __init__(self, path: str | os.PathLike) -> None:
        require_extra("tokenizers")
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        text = _gguf_tokenizer(str(path), os.stat(path).st_mtime_ns) if path.suffix == ".gguf" else read_bytes(path, limit=MAX_JSON_BYTES)
        self.path, self.sha256, self.content = str(path), sha256_bytes(text), text
        try:
            self._library = _library(text)
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

    def count_bytes(self, tokens: np.ndarray, previous: int | None = None) -> int:
        """Additive over pieces of a stream, whatever tokens they are cut between: a character whose bytes are several tokens counts once.

        Of a tokenizer that puts a space before a text (and whose decoder takes it off again) the space of a text's first token counts
        nothing. For decoders other than byte-level, byte-fallback and metaspace the piece itself is decoded, and a cut may cost a character.
        """
        ids = np.asarray(tokens, dtype=np.int64)
        table = self._byte_table
        if table is None:
            return len(self._library.decode(ids[ids != self.separator].tolist(), skip_special_tokens=False).encode())
        sizes, opens = table
        before = np.concatenate([[self.separator if previous is None else previous], ids[:-1]])
        return int(sizes[ids].sum()) - int(np.count_nonzero(opens[ids] & (before == self.separator)))

    @cached_property
    def _byte_table(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Bytes of every token's text, and which tokens begin with the space that is taken off at the start of a text."""
        decoder = json.loads(self._library.decoder.__getstate__()) if self._library.decoder is not None else {}
        steps = decoder.get("decoders", [decoder])
        kinds = {step.get("type") for step in steps}
        byte_level = "ByteLevel" in kinds
        marked = "Metaspace" in kinds or any(step.get("type") == "Replace" and step.get("pattern") == {"String": MARK} and step.get("content") == " " for step in steps)
        if not byte_level and not marked and "ByteFallback" not in kinds:
            return None
        strips = any((step.get("type") == "Strip" and step.get("content") == " " and step.get("start", 0) == 1)
                     or (step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never") for step in steps)  # fmt: skip
        added = {number: token.content for number, token in self._library.get_added_tokens_decoder().items()}
        vocabulary = self.vocabulary()
        sizes = np.zeros(max(vocabulary.values(), default=0) + 1, dtype=np.int64)
        opens = np.zeros(len(sizes), dtype=bool)
        for token, number in vocabulary.items():
            if number in added:
                sizes[number] = len(added[number].encode())
            elif byte_level:  # a letter is a byte
                sizes[number] = len(token) if all(letter in BYTE_LETTERS for letter in token) else len(token.encode())
            elif "ByteFallback" in kinds and BYTE_TOKEN.fullmatch(token):
                sizes[number] = 1
            else:
                sizes[number] = len((token.replace(MARK, " ") if marked else token).encode())
                opens[number] = strips and marked and token.startswith(MARK)
        sizes[self.separator] = 0
        return sizes, opens

    def vocabulary(self) -> dict[str, int]:
        return self._library.get_vocab(with_added_tokens=True)

    def opening(self) -> list[int]:
        plain, full = (self._library.encode("a", add_special_tokens=special).ids for special in (False, True))
        return next((full[:k] for k in range(len(full)) if full[k : k + len(plain)] == plain), [])


@lru_cache(maxsize=2)
def _library(text: bytes) -> Any:
    """A tokenizer is tens of megabytes: one that a model, a stream and a check all ask for exists once."""
    from tokenizers import Tokenizer as Library

    return Library.from_buffer(text)


MAKE = """
import pathlib, sys
from transformers import AutoTokenizer
path = pathlib.Path(sys.argv[1])
try:
    made = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True, trust_remote_code=False)
    sys.stdout.buffer.write(made.backend_tokenizer.to_str().encode())
except Exception as error:  # the library raises whatever its readers raise
    sys.exit(" ".join(str(error).split())[:200] or "no reason given")
"""


@lru_cache(maxsize=4)
def _gguf_tokenizer(path: str, changed: int) -> bytes:
    """The tokenizer.json of a ``.gguf`` file (``changed``: its time of change), made by ``transformers`` in a process of its own: for some
    seconds that takes several times the memory that scoring does."""
    require_extra("transformers")
    done = subprocess.run([sys.executable, "-c", MAKE, path], capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"})
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(f"holds no tokenizer that can be read ({lines[-1] if lines else 'the reader was killed'})", where=path)
    return done.stdout


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
