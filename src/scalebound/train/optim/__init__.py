"""Optimizers, one a file: ``name(parameters or groups, *, lr, betas, weight_decay)`` to a ``torch.optim.Optimizer`` stepped by the loop.

In: groups of parameters (:mod:`~scalebound.train.optim.groups`). Out: an optimizer whose state is tensors only, so that a checkpoint is one
safetensors file. The recipe's key ``optimizer`` names a row of :data:`OPTIMIZERS`; a new optimizer is a module and a row, and receives the
contract test of its family. Start reading at :mod:`~scalebound.train.optim.adamw`, the default.
"""

from collections.abc import Callable

import torch

from scalebound.train.optim.adamw import adamw as adamw
from scalebound.train.optim.groups import as_groups as as_groups
from scalebound.train.optim.groups import set_rate as set_rate
from scalebound.train.optim.lion import lion as lion
from scalebound.train.optim.muon import muon as muon
from scalebound.train.optim.sgd import sgd as sgd

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": adamw, "muon": muon, "lion": lion, "sgd": sgd}
