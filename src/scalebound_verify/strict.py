"""Reading what a stranger sent: strict JSON, exact forms, paths that stay where they say, files hashed as they lie on the disk."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FORMS = json.loads(Path(__file__).with_name("forms.json").read_text())  # the exact keys of every file that is read
KINDS = {str: "str", int: "int", float: "float", bool: "bool", dict: "object", list: "array", type(None): "null"}

class Refused(Exception):
    """A file is missing or malformed, so nothing can be said about the claim: ``what`` is wrong at ``where``. ``status``: exit status."""
    def __init__(self, what: str, where: str = "", expected: str = "", hint: str = "", status: int = 3) -> None:
        super().__init__(f"{where}: {what}".removeprefix(": ") + (f"; expected {expected}" if expected else ""))
        self.what, self.where, self.expected, self.hint, self.status = what, where, expected, hint, status

def parse(text: bytes, where: str) -> Any:
    """JSON with every key once, finite numbers, integers of at most 18 digits and no depth that would exhaust the parser."""
    def refuse(literal: str) -> Any:
        raise Refused(f"contains {literal[:60]}", where, "every key once and finite numbers")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return found if len(found := dict(pairs)) == len(pairs) else refuse(f"a key twice among {', '.join(sorted(k for k, _ in pairs))!a}")

    def number(literal: str) -> Any:
        whole = literal.lstrip("-").isdecimal()
        return (int if whole else float)(literal) if (len(literal) < 19 if whole else abs(float(literal)) < math.inf) else refuse(literal)
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse, parse_float=number, parse_int=number)
    except (ValueError, RecursionError) as error:
        raise Refused(f"is not valid JSON ({type(error).__name__}: {str(error)[:120]})", where) from error

def conform(value: Any, form: Any, where: str, key: str = "it") -> Any:
    """Return ``value`` if it has exactly the given form (see ``FORMS``), else raise naming the key. A form is an object (exactly these
    keys), an array of one form (any number) or of several (one each), or alternatives: types, texts. An integer may stand for a float."""
    if isinstance(form, dict) and isinstance(value, dict):
        form = {name.rstrip("?"): each for name, each in form.items() if name[-1] != "?" or name[:-1] in value}  # "key?" may be missing
        for name in sorted(form.keys() ^ value.keys()):
            raise Refused(f"{key} {'lacks' if name in form else 'has the unknown key'} {name!a}", where, "the keys " + ", ".join(form))
        return {name: conform(value[name], form[name], where, f"{key}.{name}".removeprefix("it.")) for name in form}
    if isinstance(form, list) and isinstance(value, list) and len(form) in (1, len(value)):
        forms = form * len(value) if len(form) == 1 else form
        return [conform(item, each, where, f"{key}[{k}]") for k, (item, each) in enumerate(zip(value, forms, strict=True))]
    options, kind = form.split(" | ") if isinstance(form, str) else [], KINDS[type(value)]
    if kind == "array" and "float[]" in options:
        return conform(value, ["float"], where, key)
    if kind in options or (kind == "str" and value in options and value not in KINDS.values()) or (kind == "int" and "float" in options):
        return value if kind in options or kind != "int" else float(value)
    raise Refused(f"{key} is {kind} {str(value)[:40]!a}", where, str(form)[:200])

class Claim:
    """A file that claims something: its content ``c`` of the form ``name``, the checks so far, and the ``files`` it names, hashed."""
    def __init__(self, path: str, name: str) -> None:
        self.path, self.name, self.checks, self.claim, self.c = path, name, list[dict[str, Any]](), "", load(path, name)

    def say(self, name: str, detail: str, conditions: dict[str, bool]) -> bool:
        """Record a check: good when every condition is; the detail of a bad one is the texts of those that are not."""
        bad = "; ".join(text for text, good in conditions.items() if not good)
        self.checks.append({"name": name, "ok": not bad, "detail": bad or detail})
        return not bad

    def differing(self, stated: dict[str, Any], true: dict[str, Any]) -> dict[str, bool]:
        """A condition for every number that must be as recomputed."""
        return {f"{x} is {stated[x]!r}, not {y!r}": close(stated[x], y) if isinstance(y, float) else stated[x] == y for x, y in true.items()}

    def hashes(self, names: Sequence[str], needed: Sequence[str]) -> None:
        """Find the named files; each must be the one that was certified."""
        inputs, folder = self.c["inputs"], os.path.dirname(os.path.abspath(self.path))
        names = [x for x in names if x in inputs]  # files of an earlier version name no base
        self.files = {x: inside(folder, inputs[x]["path"], self.path) for x in names if inputs[x]["path"] or x in needed}
        self.say("hashes", f"{len(self.files)} files", {f"{name} is not the file that was certified":
            inputs[name]["sha256"] == (sha256(self.files[name]) if name in self.files else "") for name in names})  # fmt: skip

def close(a: float | None, b: float | None, tolerance: float = 1e-9) -> bool:
    return a is b if a is None or b is None else abs(a - b) <= tolerance * max(1.0, abs(a), abs(b))

def regular(path: str) -> int:
    """Size in bytes of a file that must exist and be an ordinary one (a pipe or a device could hang or never end)."""
    if not os.path.isfile(path):
        raise Refused("is not an ordinary file" if os.path.exists(path) else "cannot be read (No such file)", ascii(path)[1:-1])
    return os.path.getsize(path)

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

def load(path: str, form: str) -> Any:
    """A strict JSON file of the form of that name."""
    return conform(parse(read(path), path), FORMS.get(form, form), path)

def sha256(path: str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
