"""Where a model is computed: this machine's processor or its CUDA devices, chosen once and prepared the same way by every process."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from scalebound.core.errors import UsageError

DEVICES = ("auto", "cpu", "cuda")


def choose_device(device: str) -> str:
    """``"cpu"`` or ``"cuda"``; ``"auto"`` is CUDA where there is a device.

    Raises
    ------
    UsageError
        Another name, or ``"cuda"`` where PyTorch finds none.

    >>> choose_device("cpu")
    'cpu'
    """
    if device not in DEVICES:
        raise UsageError(f"device = {device!r}", expected=f"one of {', '.join(DEVICES)}")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("PyTorch finds no CUDA device", where="--device cuda", expected="a machine with one, and a build of PyTorch for it", hint="--device auto takes what there is")
    return device


def prepare_device(device: str, process: int = 0) -> None:
    """Before the first tensor of process number ``process``: its CUDA device (processes take them in turn), and kernels that give the same bits every time."""
    if device != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts: without it products of one shape may sum in different orders
    torch.cuda.set_device(process % torch.cuda.device_count())
    torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def moved(tensor: Tensor, device: str) -> Tensor:
    """A tensor of this machine on the device; to CUDA from pinned memory, so that the processor goes on meanwhile."""
    return tensor.pin_memory().to(device, non_blocking=True) if device == "cuda" else tensor.to(device)
