"""What every optimizer here is given: parameters in groups, each with its own share of the learning rate.

A group is a dictionary: ``params`` (tensors), ``weight_decay``, ``rate`` (the group's learning rate is the schedule's times this; 1 unless the
parametrization says otherwise), ``pieces`` (matrices stacked along the rows of each tensor: 3 for fused query, key and value) and, for Muon, ``hidden``
(whether its update applies).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

Group = dict[str, Any]


def as_groups(parameters: Iterable[Tensor] | Iterable[Group], weight_decay: float) -> list[Group]:
    """Groups as they are; plain tensors as two groups, matrices with decay and vectors (norm gains) without.

    >>> import torch
    >>> [len(group["params"]) for group in as_groups([torch.zeros(2, 2), torch.zeros(2), torch.zeros(3, 2)], 0.1)]
    [2, 1]
    """
    given: list[Any] = list(parameters)
    if given and isinstance(given[0], dict):
        return [{"rate": 1.0, "pieces": 1, "weight_decay": weight_decay} | group for group in given]
    return [
        {"params": [p for p in given if p.ndim >= 2], "weight_decay": weight_decay, "rate": 1.0, "pieces": 1},
        {"params": [p for p in given if p.ndim < 2], "weight_decay": 0.0, "rate": 1.0, "pieces": 1},
    ]


def set_rate(groups: list[Group], rate: float) -> None:
    """Give every group its share of the step's learning rate."""
    for group in groups:
        group["lr"] = rate * group.get("rate", 1.0)
