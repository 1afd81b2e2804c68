"""Files: written atomically, hashed, and read strictly.

A writer makes a temporary file in the same folder, flushes it to the disk, renames it over the target and flushes the folder:
whoever looks sees the old file or the new one, never a part. A failed write (disk full, Ctrl-C) removes its temporary file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from scalebound.core.errors import InputError, MachineError, from_os_error

MAX_JSON_BYTES = 256 << 20

T = TypeVar("T")


def atomic_write(path: str | os.PathLike, content: bytes | Callable[[BinaryIO], object]) -> Path:
    """Write ``content`` (bytes, or a function that writes to an open file) to ``path``, all of it or nothing.

    Raises :class:`~scalebound.core.errors.MachineError` when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise from_os_error(error, path) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    return path


def check_target(path: str | os.PathLike) -> None:
    """Refuse a file that could not be written, before minutes of work are done for it; makes nothing.

    Raises
    ------
    InputError
        A folder stands there, or a file where its folder should be.
    MachineError
        The folder cannot be written.
    """
    path = Path(path).absolute()
    if path.is_dir():
        raise InputError("is a folder", where=str(path), expected="the name of a file")
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir():
        raise InputError("is a file", where=str(folder), expected=f"a folder, to write {path.name} into")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MachineError("the folder cannot be written", where=str(folder))


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder that is made when absent; if the block fails, the folders made for it are removed again as far as they are empty."""
    path = Path(path)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield path
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def relative(path: str | os.PathLike, folder: str | os.PathLike) -> str:
    """How an artefact in ``folder`` names another file: relative, so that both can move together and no machine's paths are in their bytes."""
    return Path(os.path.relpath(path, folder)).as_posix()


def sha256_bytes(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise from_os_error(error, path) from error


def read_bytes(path: str | os.PathLike, *, limit: int | None = None) -> bytes:
    """The bytes of a file of at most ``limit`` bytes, its size checked before anything is allocated."""
    try:
        size = os.stat(path).st_size
        if limit is not None and size > limit:
            raise InputError(f"has {size:,} bytes", where=str(path), expected=f"at most {limit:,}")
        return Path(path).read_bytes()
    except OSError as error:
        raise from_os_error(error, path) from error


def canonical_json(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8, no NaN. Hashes of configurations are over it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse_json(text: bytes | str, *, where: str) -> Any:
    """Parse JSON strictly: duplicate keys, NaN, infinities and nesting beyond Python's recursion limit are refused with the place named."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [key for key, _ in pairs]
            twice = next(key for key in names if names.count(key) > 1)
            raise InputError(f"the key {twice!r} stands twice", where=where, expected="every key once")
        return found

    def refuse(constant: str) -> Any:
        raise InputError(f"contains {constant}", where=where, expected="finite numbers")

    def finite(literal: str) -> float:
        value = float(literal)
        if value - value != 0.0:
            refuse(literal)
        return value

    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(decoded, object_pairs_hook=unique, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or an integer of more digits than Python reads
        raise InputError(f"is not valid JSON ({error})", where=where) from error


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file strictly (see :func:`parse_json`)."""
    return parse_json(read_bytes(path, limit=MAX_JSON_BYTES), where=str(path))


def to_struct(value: Any, kind: type[T], *, where: str) -> T:
    """Turn parsed JSON into an artefact type; an unknown, missing or mistyped field is named with its path."""
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise InputError(str(error), where=where, expected=f"the form of {kind.__name__}") from error


def load_struct(path: str | os.PathLike, kind: type[T]) -> T:
    """Read an artefact saved as JSON by :func:`save_struct`."""
    value = read_json(path)
    schema = getattr(kind, "SCHEMA", None)
    found = value.get("schema") if isinstance(value, dict) else None
    if schema is not None and found != schema:
        raise InputError(f"has schema {found!r}", where=str(path), expected=repr(schema))
    return to_struct(value, kind, where=str(path))


def save_struct(path: str | os.PathLike, artefact: Any) -> Path:
    """Write an artefact as indented JSON with the fields in their declared order."""
    return atomic_write(path, json.dumps(msgspec.to_builtins(artefact), indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n")
