"""Where the passes are computed: the processor, or a CUDA device with settings under which the same run gives the same numbers twice.

On CUDA: deterministic kernels only, no TF32, fused attention without the memory-efficient kernel (its backward pass adds up in no fixed
order). Precision and compilation are the recipe's, as on the processor; initial weights are drawn there. Not tried on a device yet.
"""

from __future__ import annotations

import os

import torch

from scalebound.core.errors import MachineError, UsageError

DEVICES = ("cpu", "cuda", "auto")


def find_device(name: str) -> torch.device:
    """The device that ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA where there is one) means, made ready; under ``torchrun`` each process has its own.

    Raises
    ------
    UsageError
        No such name.
    MachineError
        CUDA is asked for and there is no device, or fewer than processes.

    >>> find_device("cpu")
    device(type='cpu')
    """
    if name not in DEVICES:
        raise UsageError(f"a device {name!r}", where="--device", expected=f"one of {', '.join(DEVICES)}")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    number, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= found:
        raise MachineError(f"process {number} finds {found} CUDA devices", where="--device cuda", expected="a device of its own for every process", hint="--device cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.cuda.set_device(number)
    return torch.device("cuda", number)
