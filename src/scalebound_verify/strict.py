"""Reading what a stranger sent: strict JSON, exact forms, paths that stay where they say, files hashed as they lie on the disk."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

FORMS = json.loads(Path(__file__).with_name("forms.json").read_text())  # the exact keys of every file that is read
KINDS = {str: "str", int: "int", float: "float", bool: "bool", dict: "object", list: "array", type(None): "null"}

class Refused(Exception):
    """A file is missing or malformed, so nothing can be said about the claim (exit status 3; 2 for wrong usage, 4 for a missing package).
    ``what`` is wrong at ``where``; ``expected`` would be right."""
    def __init__(self, what: str, where: str = "", expected: str = "", hint: str = "", status: int = 3) -> None:
        super().__init__(f"{where}: {what}".removeprefix(": ") + (f"; expected {expected}" if expected else ""))
        self.what, self.where, self.expected, self.hint, self.status = what, where, expected, hint, status

def parse(text: bytes, where: str) -> Any:
    """JSON with every key once, finite numbers, integers of at most 18 digits and no depth that would exhaust the parser."""
    def refuse(literal: str) -> Any:
        raise Refused(f"contains {literal[:60]}", where, "every key once and finite numbers")
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return found if len(found := dict(pairs)) == len(pairs) else refuse(f"a key twice among {', '.join(sorted(k for k, _ in pairs))!a}")
    def real(literal: str) -> float:
        return value if (value := float(literal)) - value == 0.0 else refuse(literal)
    def whole(literal: str) -> int:
        return int(literal) if len(literal) < 19 else refuse(literal)
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse, parse_float=real, parse_int=whole)
    except (ValueError, RecursionError) as error:
        raise Refused(f"is not valid JSON ({type(error).__name__}: {str(error)[:120]})", where) from error

def conform(value: Any, form: Any, where: str, key: str = "it") -> Any:
    """Return ``value`` if it has exactly the given form (see ``FORMS``), else raise naming the key. A form is an object (exactly these
    keys), an array of one form (any number) or of several (one each), or alternatives: types, texts. An integer may stand for a float."""
    if isinstance(form, dict) and isinstance(value, dict):
        for name in sorted(form.keys() ^ value.keys()):
            raise Refused(f"{key} {'lacks' if name in form else 'has the unknown key'} {name!a}", where, "the keys " + ", ".join(form))
        return {name: conform(value[name], form[name], where, f"{key}.{name}".removeprefix("it.")) for name in form}
    if isinstance(form, list) and isinstance(value, list) and len(form) in (1, len(value)):
        forms = form * len(value) if len(form) == 1 else form
        return [conform(item, each, where, f"{key}[{k}]") for k, (item, each) in enumerate(zip(value, forms, strict=True))]
    options, kind = form.split(" | ") if isinstance(form, str) else [], KINDS[type(value)]
    if kind in options or (kind == "str" and value in options and value not in KINDS.values()):
        return value
    if kind == "int" and "float" in options:
        return float(value)
    raise Refused(f"{key} is {kind} {str(value)[:40]!a}", where, str(form)[:200])

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
    """The file a certificate in ``folder`` names by ``path``: relative, no symbolic link below the folder both have in common. ``..`` is
    allowed, since certificates lie in a folder beside the statistics they name; it is taken literally, as a reader would."""
    if not path or os.path.isabs(path) or "\\" in path or "\0" in path:
        raise Refused(f"names the file {path!a}", where, "a path relative to the certificate's folder")
    target = os.path.normpath(os.path.join(folder, path))
    common = os.path.commonpath([folder, target])
    if os.path.realpath(target) != os.path.normpath(os.path.join(os.path.realpath(common), os.path.relpath(target, common))):
        raise Refused(f"names {path!a}, which is reached through a symbolic link", where, "the file itself")
    regular(target)
    return target

def read(path: str, limit: int = 256 << 20) -> bytes:
    """All bytes of an ordinary file of at most ``limit`` bytes."""
    if regular(path) > limit:
        raise Refused("is too long", path, f"at most {limit:,} bytes")
    return Path(path).read_bytes()

def sha256(path: str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
