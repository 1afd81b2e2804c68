"""``scalebound config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from scalebound.cli.output import Result


def config(action: Annotated[Literal["init"], Parameter(name="ACTION")], /, *, out: Path = Path("recipe.toml"), size: str = "150k", force: bool = False) -> Result:
    """Write a commented recipe file: every key of a run with its meaning, its formula and its value at a size.

    Every line is a comment until you remove its sign; then it wins over the formula, and what follows from it is derived from it.

    Parameters
    ----------
    action
        init: write the file.
    out
        Where to.
    size
        Number of parameters whose values are shown.
    force
        Replace a file that is there.

    Examples
    --------
    scalebound config init

    scalebound config init --size 1M --out muon.toml

    next: scalebound train --recipe recipe.toml --sizes 150k --dry-run --out runs/one
    """
    from scalebound.cli.numbers import parse_number
    from scalebound.core.errors import UsageError, require_extra
    from scalebound.core.io import atomic_write

    require_extra("torch")
    from scalebound.train import derive_recipe
    from scalebound.train.explain import commented_recipe

    if out.exists() and not force:
        raise UsageError(f"{out} exists", expected="a new file", hint="another --out, or --force to replace it")
    example = derive_recipe(int(parse_number(size, "--size")))
    atomic_write(out, commented_recipe(example).encode())
    return Result({"recipe": str(out), "params": example.params}, [f"{out}: every key of a recipe, as comments, with the values of {example.params:,} parameters"])
