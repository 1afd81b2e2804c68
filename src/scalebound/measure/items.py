"""Multiple-choice items: what comes before, the choices, and which one is right.

Two files are read, a JSON object a line:

* items: ``{"context": "The capital of France is", "choices": [" Paris", " Rome"], "gold": 0}``, and optionally ``"name"``. A choice is what
  follows the context letter for letter, its leading space included; ``gold`` is its place.
* the samples that lm-evaluation-harness exports (``--log_samples``): the context and continuations it sent to its model (``arguments``) and
  the right one (``target``). What it added for other uses (unconditional copies for mutual information) is left out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalebound.core.errors import InputError
from scalebound.core.io import MAX_JSON_BYTES, parse_json, read_bytes


@dataclass(frozen=True)
class Item:
    """``choices[gold]`` is right after ``contexts[gold]``; the contexts are equal unless the harness asked it otherwise (Winogrande)."""

    name: str
    contexts: tuple[str, ...]
    choices: tuple[str, ...]
    gold: int

    @property
    def choice_bytes(self) -> tuple[int, ...]:
        """Bytes of each choice without the white space it begins with, which belongs to how the text goes on and not to the answer."""
        return tuple(len(choice.strip().encode()) for choice in self.choices)


def read_items(path: str | os.PathLike) -> list[Item]:
    """All items of a file, in its order.

    Raises
    ------
    InputError
        No item; a line that is neither form, an empty choice, a gold that is no choice. The line is named.
    """
    found = []
    for number, line in enumerate(read_bytes(path, limit=MAX_JSON_BYTES).splitlines(), start=1):
        if line.strip():
            where = f"{path}: line {number}"
            row = parse_json(line, where=where)
            if not isinstance(row, dict):
                raise InputError("is no object", where=where, expected='{"context": .., "choices": [..], "gold": ..}')
            found.append(_sample(row, where) if "arguments" in row else _item(row, where, f"{Path(path).stem}-{number}"))
    if not found:
        raise InputError("holds no item", where=str(path), expected="a JSON object a line with context, choices and gold")
    return found


def _item(row: dict[str, Any], where: str, name: str) -> Item:
    context, choices, gold = row.get("context"), row.get("choices"), row.get("gold")
    if not isinstance(context, str) or not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise InputError("is no item", where=where, expected='a string under "context" and a list of strings under "choices"', hint="or the samples lm-evaluation-harness writes with --log_samples")
    return _checked(str(row.get("name", name)), [context] * len(choices), choices, gold, where)


def _sample(row: dict[str, Any], where: str) -> Item:
    """A line of the harness: ``arguments`` is a list of [context, continuation], or the same as ``{"gen_args_0": {"arg_0": .., "arg_1": ..}}``."""
    arguments = row["arguments"]
    if isinstance(arguments, dict):
        arguments = [list(value.values()) if isinstance(value, dict) else value for value in arguments.values()]
    if not isinstance(arguments, list) or not all(isinstance(a, list) and len(a) == 2 and all(isinstance(text, str) for text in a) for a in arguments):
        raise InputError("holds no pairs of context and continuation under 'arguments'", where=where, expected="a sample of a multiple-choice task")
    conditional = [pair for pair in arguments if pair[0]] or arguments
    contexts, choices = [context for context, _ in conditional], [choice for _, choice in conditional]
    gold = row.get("target")
    if isinstance(gold, str):  # a number in quotes, or the text of the choice
        texts = [choice.strip() for choice in choices]
        gold = int(gold) if gold.strip().isdecimal() and gold.strip() not in texts else texts.index(gold.strip()) if gold.strip() in texts else None
    return _checked(f"{row.get('task_name', 'doc')}-{row.get('doc_id', where)}", contexts, choices, gold, where)


def _checked(name: str, contexts: list[str], choices: list[str], gold: Any, where: str) -> Item:
    if len(choices) < 2 or not all(choice.strip() for choice in choices):
        raise InputError(f"has {len(choices)} choices" if len(choices) < 2 else "has an empty choice", where=where, expected="at least two choices with text")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise InputError(f"says that choice {gold!r} is right", where=where, expected=f"a number from 0 to {len(choices) - 1}")
    return Item(name, tuple(contexts), tuple(choices), gold)
