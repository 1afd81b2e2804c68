"""One run in several processes (``torchrun``): every batch is cut among them, gradients are summed, process 0 writes.

Each process computes the loss of its sequences, weighted by their share of the batch; the sum of gradients over processes is then the gradient of the
batch's mean loss, as in one process up to the order of additions. Weights and optimizer state are replicated and stay equal, so any number of
processes resumes from any checkpoint. Gloo on processors, NCCL where every process has a device.

Outside ``torchrun`` everything here is for one process and does nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist

from scalebound.models.ranks import join_ranks, started_by_torchrun


def rank() -> int:
    """Number of this process, 0 when there is only one."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def size() -> int:
    """Processes that share this run, as ``torchrun`` says."""
    return int(os.environ["WORLD_SIZE"]) if started_by_torchrun() else 1


@contextlib.contextmanager
def first_alone(device: str = "cpu") -> Iterator[None]:
    """A block that process 0 goes through before the others: what it writes is there when they look. The first such block makes them meet."""
    join_ranks(device)
    if size() > 1 and rank() > 0:
        dist.barrier()
    yield
    if size() > 1 and rank() == 0:
        dist.barrier()


def wait() -> None:
    """Until every process is here."""
    if size() > 1:
        dist.barrier()


def share(batch: np.ndarray) -> np.ndarray:
    """This process's sequences of a batch: consecutive stretches, in the order of the processes; possibly none."""
    return np.array_split(batch, size())[rank()] if size() > 1 else batch


def sum_gradients(model: torch.nn.Module) -> None:
    """Replace every gradient by its sum over the processes; a process without sequences contributes zeros."""
    if size() <= 1:
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    flat = torch.cat([(parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)).flatten() for parameter in parameters])
    dist.all_reduce(flat)
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter).clone()
        start += parameter.numel()


def join_losses(mean: float, losses: bytes) -> tuple[float, bytes]:
    """The batch's mean loss (sum of the weighted parts) and all of its losses in order, the same in every process."""
    if size() <= 1:
        return mean, losses
    found: list = [None] * size()
    dist.all_gather_object(found, (mean, losses))
    return sum(part[0] for part in found), b"".join(part[1] for part in found)


def agreed(flag: bool, needed: bool = True) -> bool:
    """What process 0 says, where every process must do the same; its own ``flag`` where that is not ``needed``."""
    if size() <= 1 or not needed:
        return flag
    said = [flag]
    dist.broadcast_object_list(said, src=0)
    return said[0]
