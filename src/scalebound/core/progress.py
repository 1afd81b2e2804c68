"""How a room reports progress without knowing who shows it: it calls ``progress(done, total)``.

The command line passes a bar with rate and ETA; a library user passes nothing, or their own function.
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Report nothing."""
