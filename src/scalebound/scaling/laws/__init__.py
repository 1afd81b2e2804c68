"""The laws, one a file. :func:`get_law` turns a name, an expression or a law into a law.

In: columns of a table (params, tokens, flops, ...). Out: predictions and their exact derivatives for many parameter vectors at once.
Start reading at :mod:`scalebound.scaling.laws.protocol`, then :mod:`scalebound.scaling.laws.chinchilla`.
"""

from __future__ import annotations

from collections.abc import Collection

from scalebound.core.errors import UsageError
from scalebound.scaling.laws.annealing import Annealing as Annealing
from scalebound.scaling.laws.annealing import AnnealingSized as AnnealingSized
from scalebound.scaling.laws.chinchilla import Chinchilla as Chinchilla
from scalebound.scaling.laws.cooldown import Cooldown as Cooldown
from scalebound.scaling.laws.critical_batch import CriticalBatch as CriticalBatch
from scalebound.scaling.laws.exponential_error import ExponentialError as ExponentialError
from scalebound.scaling.laws.expression import expression_law as expression_law
from scalebound.scaling.laws.expression import function_law as function_law
from scalebound.scaling.laws.filtering import Filtering as Filtering
from scalebound.scaling.laws.isoflop import IsoFlopLaw as IsoFlopLaw
from scalebound.scaling.laws.kaplan import Kaplan as Kaplan
from scalebound.scaling.laws.multipower import MultiPower as MultiPower
from scalebound.scaling.laws.overtraining import Overtraining as Overtraining
from scalebound.scaling.laws.passuntil import PassUntil as PassUntil
from scalebound.scaling.laws.power import Power as Power
from scalebound.scaling.laws.protocol import Law as Law
from scalebound.scaling.laws.protocol import Parameter as Parameter
from scalebound.scaling.laws.repetition import Repetition as Repetition
from scalebound.scaling.laws.sigmoid import Sigmoid as Sigmoid

LAWS: dict[str, type[Law]] = {
    kind.name: kind
    for kind in (
        Power,
        Chinchilla,
        Overtraining,
        Kaplan,
        Repetition,
        ExponentialError,
        Sigmoid,
        Annealing,
        AnnealingSized,
        MultiPower,
        Cooldown,
        CriticalBatch,
        PassUntil,
        Filtering,
        IsoFlopLaw,
    )
}
# laws of one quantity, which may be any column: power:flops
ONE_COLUMN = ("power", "exponential-error", "sigmoid", "passuntil")


def get_law(law: str | Law, columns: Collection[str] = ()) -> Law:
    """A law by its name; ``name:column`` picks the column of a law of one quantity; anything else is read as an expression.

    ``columns`` are names of the table that an expression may use besides the canonical ones.

    >>> get_law("power:flops").inputs
    ('flops',)
    """
    if isinstance(law, Law):
        return law
    name, _, column = law.partition(":")
    if name in LAWS:
        if column and name not in ONE_COLUMN:
            raise UsageError(f"the law {name} reads {', '.join(LAWS[name].inputs)}; it takes no column after a colon")
        return LAWS[name](column) if column else LAWS[name]()  # type: ignore[call-arg]
    if law.replace("-", "_").isidentifier() or not any(sign in law for sign in "+-*/("):
        raise UsageError(f"no law named {law!r}", expected=f"one of {', '.join(LAWS)}, or an expression such as E + A/params**a")
    return expression_law(law, columns)
