"""``scalebound systems``."""

from __future__ import annotations

from scalebound.cli.output import Result, table


def systems(*, family: str | None = None) -> Result:
    """List the published methods that are implemented, with their sources and a command that shows each.

    Parameters
    ----------
    family
        Only methods of this family, such as bound, law, optimizer or test.

    Examples
    --------
    scalebound systems

    scalebound systems --family law --json

    next: the command in the last column
    """
    from dataclasses import asdict

    from scalebound.core.errors import UsageError
    from scalebound.core.systems import SYSTEMS

    families = sorted({system.family for system in SYSTEMS})
    if family is not None and family not in families:
        raise UsageError(f"no family {family!r}", where="--family", expected=f"one of {', '.join(families)}")
    found = [system for system in SYSTEMS if family in (None, system.family)]
    rows = [[s.family, s.title, s.source, s.demo] for s in found]
    return Result({"systems": [asdict(system) for system in found]}, [table(["family", "method", "source", "shown by"], rows)])
