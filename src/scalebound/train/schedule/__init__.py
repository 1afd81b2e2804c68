"""Learning-rate schedules, one a file: pure functions ``(step, steps, *, warmup, decay)`` to a factor of the peak rate in (0, 1].

In: a step counted from 0, the number of steps, the shares of warmup and of cooldown. Out: a factor. The recipe's key ``schedule`` names a row
of :data:`SCHEDULES`; a new schedule is a module and a row. ``constant`` and ``cosine`` have no cooldown of their own and ignore ``decay``.
Start reading at :mod:`~scalebound.train.schedule.warmup_stable_decay`, the default.
"""

from collections.abc import Callable

from scalebound.train.schedule.constant import constant as constant
from scalebound.train.schedule.cosine import cosine as cosine
from scalebound.train.schedule.warmup_stable_decay import warmup_stable_decay as warmup_stable_decay
from scalebound.train.schedule.wsd_cosine import wsd_cosine as wsd_cosine
from scalebound.train.schedule.wsd_geometric import wsd_geometric as wsd_geometric
from scalebound.train.schedule.wsd_sqrt import wsd_sqrt as wsd_sqrt

SCHEDULES: dict[str, Callable[..., float]] = {
    "wsd": warmup_stable_decay, "wsd-cosine": wsd_cosine, "wsd-sqrt": wsd_sqrt, "wsd-geometric": wsd_geometric, "cosine": cosine, "constant": constant,
}  # fmt: skip
