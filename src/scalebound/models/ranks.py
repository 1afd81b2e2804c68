"""One model over several processes, as ``torchrun`` starts them: who this process is, and sums over all of them.

Each process holds a share of every layer's heads and of its feed-forward units (Shoeybi et al. 2019, arXiv 1909.08053): two sums over the
processes a layer, of one hidden state a token. The embedding and the head are held, and the numbers per token computed, by every process.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from scalebound.core.errors import MachineError


@dataclass(frozen=True)
class Ranks:
    """``rank`` of ``world`` processes that hold one model."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all processes' ``x``, in place."""
        if self.world > 1:
            torch.distributed.all_reduce(x)
        return x

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.world > 1:
            torch.distributed.barrier()


ALONE = Ranks()


def started_by_torchrun() -> bool:
    """Whether this process is one of several that ``torchrun`` started."""
    return "MASTER_ADDR" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def join_ranks(device: str = "cpu") -> Ranks:
    """Meet the other processes that ``torchrun`` started (gloo on processors, nccl on CUDA devices); alone when there are none.

    They part when the program ends, which must be after a common :meth:`Ranks.wait`: one that exits without parting brings the others down.

    Raises
    ------
    MachineError
        They do not all answer.
    """
    if not started_by_torchrun():
        return ALONE
    try:
        if device.startswith("cuda"):  # nccl wants to know before it begins
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
            atexit.register(torch.distributed.destroy_process_group)
    except (RuntimeError, ValueError) as error:
        raise MachineError(f"the processes of torchrun do not find each other ({' '.join(str(error).split())[:150]})") from error
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())


def whole(tensor: Tensor) -> Tensor:
    """A tensor whose rows are spread over the processes, gathered (all of them must call this); any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def share_of(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor that every process has, spread over them as ``like`` is."""
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
