"""Multiple-choice items from Python's own docstrings: which summary belongs to this function?

    python benchmarks/measure/make_items.py examples/data/docstrings/items.jsonl

The context is a function of the standard library with its arguments; the choices are its summary and those of three other functions of the
same module. Written with Python 3.11 (docstrings under the PSF licence); another version gives other items.
"""

from __future__ import annotations

import importlib
import inspect
import json
import random
import re
import sys
from pathlib import Path

MODULES = ("ast base64 bisect calendar cmath codecs collections colorsys copy csv difflib dis fnmatch fractions functools gettext glob gzip heapq html imaplib inspect "
           "ipaddress itertools json keyword linecache locale logging math mimetypes operator os pathlib pickle platform pprint random re sched secrets "
           "shlex shutil statistics string struct tempfile textwrap threading tokenize traceback urllib.parse uuid warnings weakref").split()  # fmt: skip


def summaries(name: str) -> list[tuple[str, str]]:
    """Functions of a module with arguments, and the first sentence of what they say they do."""
    module, found = importlib.import_module(name), []
    for key, thing in sorted(vars(module).items()):
        if key.startswith("_") or not inspect.isroutine(thing) or not (thing.__doc__ or "").strip():
            continue
        try:
            arguments = ", ".join(p for p in inspect.signature(thing).parameters)
        except (ValueError, TypeError):
            continue
        first = re.split(r"(?<=\.)\s|\n\s*\n", thing.__doc__.strip())[0]
        line = " ".join(first.split())
        if 20 <= len(line) <= 110 and line[0].isupper() and key not in line and line not in [text for _, text in found]:
            found.append((f"{name}.{key}({arguments})", line.rstrip(".") + "."))
    return found


def main() -> None:
    draw, lines = random.Random(0), []
    for name in MODULES:
        functions = summaries(name)
        if len(functions) < 4:
            continue
        for function, right in draw.sample(functions, min(4, len(functions))):
            others = draw.sample([text for other, text in functions if other != function], 3)
            gold = draw.randrange(4)
            others.insert(gold, right)
            lines.append(json.dumps({"name": function.split("(")[0], "context": f"What the Python function {function} does:", "choices": [f" {text}" for text in others], "gold": gold}))
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n")
    print(len(lines), "items")


if __name__ == "__main__":
    main()
