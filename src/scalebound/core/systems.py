"""The table of implemented methods: data only, nothing imported.

One row brings a method into ``scalebound systems``, the documentation and its family's contract tests.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """One published method and where it lives.

    ``module`` is ``package.module:name``; ``demo`` a command that shows it; ``needs`` what the contract suite must find
    installed ("torch", "smollm2"), else it says what it skipped.
    """

    id: int
    title: str
    module: str
    family: str
    demo: str
    source: str
    needs: tuple[str, ...] = ()


SYSTEMS: tuple[System, ...] = ()
