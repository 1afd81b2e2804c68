"""``scalebound crossover``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scalebound.cli.output import Result


def crossover(
    a: Annotated[Path, Parameter(name="A")],
    b: Annotated[Path, Parameter(name="B")],
    /,
    *,
    tokens_per_param: float | None = None,
    level: float | None = None,
    seed: int = 0,
) -> Result:
    """At which compute do two recipes swap order? With an interval, or "not within 100 times your largest run".

    Parameters
    ----------
    a
        Fit of the first recipe.
    b
        Fit of the second recipe; it must read the same quantities.
    tokens_per_param
        Compare both at this ratio instead of at each one's own optimum.
    level
        Level of the interval.
    seed
        Seed of the pairing of draws.

    Examples
    --------
    scalebound crossover muon.json adamw.json
    scalebound crossover c4.json redpajama.json --tokens-per-param 20 --json

    next: scalebound plan muon.json --flops 1e21
    """
    from scalebound import scaling

    found = scaling.crossover(a, b, tokens_per_param=tokens_per_param, level=level, seed=seed)
    record = {
        "flops": None if found.flops is None else found.flops.record(),
        "quantity": found.quantity,
        "reason": found.reason,
        "better_below": found.better_below,
        "better_above": found.better_above,
        "share_of_refits_that_cross": found.probability,
        "searched": list(found.searched),
    }
    names = {"A": a.name, "B": b.name}
    if found.flops is None:
        first = "no crossing established"
    else:
        ends = (
            "interval unknown"
            if found.flops.low is None
            else f"interval {found.flops.low:.3g} to {'beyond the range' if found.flops.high is None else format(found.flops.high, '.3g')}"
        )
        first = f"{names[found.better_below]} and {names[found.better_above]} cross at {found.flops.value:.3g} {found.quantity} ({ends})"
    return Result(record, [first, f"A is {a.name}, B is {b.name}: {found.reason}"])
