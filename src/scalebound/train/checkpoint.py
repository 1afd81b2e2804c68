"""Checkpoints of a run: ``checkpoints/step-N/``, a model folder and, where training can go on from it, the optimizer's state.

While a run trains, the newest two that it can go on from are kept, and those it was asked to keep; when it has finished, the last one and those
asked for. ``training.safetensors`` (optimizer and whatever else resumption needs) is written before the weights, and ``config.json`` last: a
folder with it is complete. Removing goes the other way round.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from scalebound.core.errors import InputError
from scalebound.core.io import atomic_write
from scalebound.models.folder import save_folder
from scalebound.models.ranks import share_of, whole
from scalebound.models.trainable import Trainable

STATE = "training.safetensors"
BESIDE = "beside."  # prefix of what Trainable.beside gives


def checkpoint_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step}"


def step_of(folder: Path) -> int:
    """The number of updates behind a checkpoint."""
    return int(folder.name.removeprefix("step-"))


def complete_checkpoints(run: Path, *, resumable: bool = False) -> list[Path]:
    """Complete checkpoints of a run, oldest first; only those that training can go on from with ``resumable``."""
    found = [folder for folder in (run / "checkpoints").glob("step-*") if (folder / "config.json").is_file() and (not resumable or (folder / STATE).is_file())]
    return sorted(found, key=step_of)


def write_checkpoint(run: Path, step: int, model: Trainable, *, optimizer: torch.optim.Optimizer | None, extra: dict[str, Tensor] | None = None,
                     files: dict[str, bytes] | None = None, write: bool = True) -> str:  # fmt: skip
    """Write ``checkpoints/step-N`` and return the model's SHA-256.

    Of a model in shards, all processes call this together and gather it; with ``write`` false, that is all a process does.

    Parameters
    ----------
    optimizer
        Its state makes the checkpoint one to go on from; None leaves it out.
    extra
        More tensors for :func:`read_state` to give back.
    files
        Tokenizer files; none means bytes.
    """
    from safetensors.torch import save

    folder, tensors = checkpoint_folder(run, step), model.tensors()
    if optimizer is not None:
        state = {f"{number}.{key}": whole(value) for number, entry in optimizer.state_dict()["state"].items() for key, value in entry.items()}
        state |= {BESIDE + name: tensor for name, tensor in model.beside().items()} | (extra or {})
        if write:
            atomic_write(folder / STATE, save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}))
    return save_model(folder, model.config(), tensors, files) if write else ""


def save_model(folder: Path, config: dict, tensors: dict[str, Tensor], files: dict[str, bytes] | None) -> str:
    """A model folder with the tokenizer files given, or the byte tokenizer; returns the model's SHA-256."""
    for name, data in (files or {}).items():
        atomic_write(folder / name, data)
    return save_folder(folder, config, tensors, byte_tokenizer=not files)


def prune(run: Path, *, newest: int, keep: Collection[int]) -> None:
    """Remove all checkpoints but the ``newest`` last ones and those of the steps ``keep``."""
    found = sorted((run / "checkpoints").glob("step-*"), key=step_of)
    for folder in found[:-newest] if newest else found:
        if step_of(folder) not in keep:
            (folder / "config.json").unlink(missing_ok=True)
            shutil.rmtree(folder)


def read_state(folder: Path, model: Trainable, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Put a checkpoint's weights and optimizer state in place and return what ``extra`` held.

    Raises
    ------
    InputError
        The checkpoint holds no training state, or that of another optimizer or model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / STATE).is_file():
        raise InputError("holds weights but no optimizer state", where=str(folder), expected="a checkpoint that training can go on from", hint='ask for it with the recipe key checkpoints, e.g. checkpoints = [0.5, 0.8]')
    try:
        weights, stored = load_file(folder / "model.safetensors"), load_file(folder / STATE)
    except SafetensorError as error:
        raise InputError(f"cannot be read ({error})", where=str(folder)) from error
    missing = sorted(set(model.tensors()) - set(weights))
    if missing or any(weights[name].shape != own.shape for name, own in model.tensors().items()):
        raise InputError("is of a model of another shape", where=str(folder))
    model.load_tensors(weights)
    model.load_beside({name.removeprefix(BESIDE): stored.pop(name) for name in list(stored) if name.startswith(BESIDE)})
    state: dict[int, dict[str, Tensor]] = {}
    for name in [name for name in stored if name.split(".", 1)[0].isdigit()]:
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = stored.pop(name)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if state and max(state) >= len(parameters):
        raise InputError("holds the state of another optimizer", where=str(folder))
    for index, entry in state.items():
        own = parameters[index]
        entry |= {key: share_of(value, own) for key, value in entry.items() if value.shape == own.shape}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return stored
