"""Where the passes are computed: the processor, or a CUDA device with settings under which the same run gives the same numbers twice.

On CUDA: deterministic kernels only, no TF32, fused attention without the memory-efficient kernel (its backward pass adds up in no fixed
order). Precision and compilation are the recipe's, as on the processor; initial weights are drawn there. Not tried on a device yet.
"""

from __future__ import annotations

import os

import torch

from scalebound.models.device import choose_device, prepare_device


def find_device(name: str) -> torch.device:
    """The device that ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA where there is one) means, made ready; processes under ``torchrun`` take a machine's devices in turn.

    Raises
    ------
    UsageError
        Another name, or CUDA where there is no device.

    >>> find_device("cpu")
    device(type='cpu')
    """
    if choose_device(name) == "cpu":
        return torch.device("cpu")
    prepare_device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    return torch.device("cuda", torch.cuda.current_device())
