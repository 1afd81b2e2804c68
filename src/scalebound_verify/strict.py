"""Reading what a stranger sent: strict JSON, exact forms, paths that stay where they say, files hashed as they lie on the disk.

Nothing here trusts a size, a key or a path before it was checked; whatever is not exactly of its form raises :class:`Refused`.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from typing import Any

MAX_JSON_BYTES = 256 << 20


class Refused(Exception):
    """A file is missing, malformed or cannot be read: nothing can be said about the claim (exit status 3).

    ``what`` is wrong at ``where``; ``expected`` would be right; ``status`` is 2 for wrong usage, 4 for a missing package.
    """

    def __init__(self, what: str, where: str = "", expected: str = "", hint: str = "", status: int = 3) -> None:
        super().__init__(what)
        self.what, self.where, self.expected, self.hint, self.status = what, where, expected, hint, status

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line}; expected {self.expected}" if self.expected else line

    def record(self) -> dict[str, Any]:
        """What ``--json`` prints of it."""
        return {"error": {key: getattr(self, key) for key in ("what", "where", "expected", "hint")}, "status": self.status}


def parse(text: bytes, where: str) -> Any:
    """JSON with every key once, finite numbers, integers of at most 64 bits and no depth that would exhaust the parser."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            raise Refused(f"the key {next(k for k in keys if keys.count(k) > 1)!a} stands twice", where, "every key once")
        return found

    def refuse(literal: str) -> Any:
        raise Refused(f"contains {literal[:40]}", where, "finite numbers")

    def real(literal: str) -> float:
        value = float(literal)
        return value if value - value == 0.0 else refuse(literal)

    def whole(literal: str) -> int:
        return int(literal) if len(literal) < 19 else refuse(literal)

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse, parse_float=real, parse_int=whole)
    except (ValueError, RecursionError) as error:
        raise Refused(f"is not valid JSON ({type(error).__name__}: {str(error)[:120]})", where) from error


def conform(value: Any, form: Any, where: str, key: str = "") -> Any:
    """Return ``value`` if it has exactly the given form, else raise naming the key.

    A form is a type; a dict (exactly these keys); a one-element list (an array of that form); a longer list (that many elements of
    these forms); or a tuple of alternatives, each a literal, None or a form. An integer is accepted where a float is meant.
    """
    place = key or "the file"
    if isinstance(form, tuple):
        for option in form:
            if value is option or (isinstance(option, str) and value == option):
                return value
        forms = [option for option in form if option is not None and not isinstance(option, str)]
        if not forms:
            raise Refused(f"{place} is {str(value)[:40]!a}", where, "one of " + ", ".join(map(repr, form)))
        return conform(value, forms[0], where, key)
    if isinstance(form, dict):
        if not isinstance(value, dict):
            raise Refused(f"{place} is no object", where)
        for name in [*form.keys() - value.keys(), *value.keys() - form.keys()]:
            raise Refused(f"{place} {'lacks' if name in form else 'has the unknown key'} {name!a}", where, "the keys " + ", ".join(form))
        return {name: conform(value[name], form[name], where, f"{key}.{name}" if key else name) for name in form}
    if isinstance(form, list):
        if not isinstance(value, list) or (len(form) > 1 and len(value) != len(form)):
            raise Refused(f"{place} is no array of the right length", where)
        forms = form if len(form) > 1 else form * len(value)
        return [conform(item, each, where, f"{key}[{k}]") for k, (item, each) in enumerate(zip(value, forms, strict=True))]
    if form is float and type(value) is int:
        return float(value)
    if type(value) is not form:
        raise Refused(f"{place} is {type(value).__name__}", where, form.__name__)
    return value


def regular(path: str) -> int:
    """Size in bytes of a file that must exist and be an ordinary one (a pipe or a device could hang or never end)."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise Refused(f"cannot be read ({getattr(error, 'strerror', None) or error})", ascii(path)[1:-1]) from error
    if not stat.S_ISREG(found.st_mode):
        raise Refused("is not an ordinary file", ascii(path)[1:-1])
    return found.st_size


def inside(folder: str, path: str, where: str) -> str:
    """The file a certificate in ``folder`` names by ``path``: relative, no symbolic link below the folder both have in common.

    ``..`` is allowed, since certificates lie in a folder below the statistics they name; it is taken literally, as a reader would.
    """
    if not path or os.path.isabs(path) or "\\" in path or "\0" in path:
        raise Refused(f"names the file {path!a}", where, "a path relative to the certificate's folder")
    folder = os.path.abspath(folder)
    target = os.path.normpath(os.path.join(folder, path))
    common = os.path.commonpath([folder, target])
    if os.path.realpath(target) != os.path.normpath(os.path.join(os.path.realpath(common), os.path.relpath(target, common))):
        raise Refused(f"names {path!a}, which is reached through a symbolic link", where, "the file itself")
    regular(target)
    return target


def read(path: str, limit: int = MAX_JSON_BYTES) -> bytes:
    """All bytes of an ordinary file of at most ``limit`` bytes."""
    size = regular(path)
    if size > limit:
        raise Refused(f"has {size:,} bytes", path, f"at most {limit:,}")
    try:
        with open(path, "rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise Refused(f"cannot be read ({error.strerror})", path) from error


def sha256(path: str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    regular(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refused(f"cannot be read ({error.strerror})", path) from error
