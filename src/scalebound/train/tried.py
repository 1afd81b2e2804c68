"""What a search has computed so far, kept in a file: called again after an interruption it computes nothing twice and ends where it would have.

A search that draws its choices from a seed comes to the same choices again, so its numbers are all that needs to be kept: looked up in the
same order, they bring it back to where it was in no time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from scalebound.core.errors import InputError
from scalebound.core.io import atomic_write, canonical_json, read_json
from scalebound.train.loop import CHECKPOINT_S


class Tried:
    """Numbers by what they belong to: a tuple of whole numbers.

    Parameters
    ----------
    path
        The file; None keeps them in memory alone. It is not removed: who asked for it does so once the search's result is in use.
    identity
        Of all that the numbers depend on. A file of another one is left unread, and written over.

    Raises
    ------
    InputError
        The file is none of these.

    Examples
    --------
    >>> tried = Tried(None, "")
    >>> [tried((1, 2), lambda: 0.5), tried((1, 2), lambda: 7.0), len(tried)]
    [0.5, 0.5, 1]
    """

    def __init__(self, path: str | os.PathLike | None, identity: str, *, interval_s: float = CHECKPOINT_S) -> None:
        self.path, self.identity, self.interval_s = None if path is None else Path(path), identity, interval_s
        self.known: dict[tuple[int, ...], float] = {}
        self.used: set[tuple[int, ...]] = set()
        if self.path is not None and self.path.is_file():
            kept = read_json(self.path)
            try:
                found = {tuple(key): float(value) for key, value in kept["tried"]}
                self.known = found if kept["search"] == identity else {}
            except (TypeError, KeyError, ValueError) as error:
                raise InputError("is not the state of a search", where=str(self.path), hint="delete it") from error
        self.saved_at = time.monotonic()

    def __len__(self) -> int:
        """How many the search has asked for; the same whether it was interrupted or not."""
        return len(self.used)

    def __call__(self, key: tuple[int, ...], compute: Callable[[], float]) -> float:
        """The number that belongs to ``key``, computed the first time."""
        self.used.add(key)
        if key not in self.known:
            self.known[key] = compute()
            if time.monotonic() - self.saved_at > self.interval_s:
                self.save()
        return self.known[key]

    def save(self) -> None:
        """Write the file now; floats as their shortest decimal form, which reads back as the same bits."""
        if self.path is not None:
            atomic_write(self.path, canonical_json({"search": self.identity, "tried": [[list(key), value] for key, value in self.known.items()]}))
            self.saved_at = time.monotonic()
