"""Models that are written down as a base and a delta package: rebuilt, identified, exported (:mod:`scalebound.compress.delta`)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from scalebound.compress import QuantizedModel
from scalebound.compress.delta import apply_delta, is_delta, pack_delta
from scalebound.compress.package import read_package
from scalebound.core.errors import InputError, UsageError
from scalebound.core.io import atomic_write
from scalebound.models.folder import hash_tensors, read_config, save_folder
from scalebound.models.load import model_folder
from scalebound.models.start import open_trainable

ADAPTER = "adapter.safetensors"  # of a run: the trained numbers, in its folder


@dataclass(frozen=True)
class Rebuilt:
    """``base + delta``: configuration, float32 tensors, their SHA-256, and that of the base.

    ``base_file`` is the one file from which the independent checker rebuilds the same model: a package, or the ``model.safetensors`` of a
    folder; None for a ``.gguf``, for weights in several files or behind a symbolic link, or stored under other names than they are computed.
    """

    config: dict
    tensors: dict[str, Tensor]
    sha256: str
    base_sha256: str
    files: dict[str, bytes]
    base_file: Path | None


def rebuild(package: str | os.PathLike, base: str | os.PathLike) -> Rebuilt:
    """Decode a delta package on its base (anything :func:`~scalebound.models.start.open_trainable` opens).

    Raises :class:`InputError` for a package that stands alone, or one that does not fit the base.
    """
    header, numbers = read_package(package)
    if not is_delta(header):
        raise InputError("stands alone: it is no delta", where=str(package), expected="a package of `scalebound compress --base`")
    start = open_trainable(base)
    arrays = apply_delta(header, numbers, {name: tensor.numpy() for name, tensor in start.model.tensors().items()})
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    config, file = _stored(base, set(tensors))
    config = start.model.config() if config is None else config | {key: "float32" for key in ("torch_dtype", "dtype") if key in config}
    return Rebuilt(config, tensors, hash_tensors(config, tensors), start.sha256, start.files, file)


def _stored(base: str | os.PathLike, names: set[str]) -> tuple[dict | None, Path | None]:
    """The configuration beside a base's weights, and the file that holds exactly the tensors of these names."""
    path = Path(base)
    if path.suffix == ".gguf":
        return None, None
    if path.suffix == ".sbz":
        config, arrays = read_package(path)
        return config, path if set(arrays) == names else None
    folder = model_folder(path)
    file = folder / "model.safetensors"
    if [file] != sorted(folder.glob("model*.safetensors")) or file.is_symlink() or (folder / "config.json").is_symlink():
        return read_config(folder), None
    with safe_open(file, framework="np") as opened:
        return read_config(folder), file if set(opened.keys()) == names else None


def delta_of(model: str | os.PathLike, base: str | os.PathLike, *, step: float = 0.3) -> QuantizedModel:
    """The delta of a run on its base: the factors or the vector that were trained, else the difference of all weights, rounded.

    Raises
    ------
    InputError
        Another base than the run's, or a model of another shape.
    """
    from safetensors.numpy import load_file

    from scalebound.core.io import read_json

    start, run = open_trainable(base), Path(model)
    if (run / "run.json").is_file():
        named = read_json(run / "run.json").get("base") or {}
        if named.get("sha256") != start.sha256:
            raise InputError("was not trained from this base", where=str(run), expected=f"{str(named.get('sha256') or 'a run of --from')[:12]}.., not {start.sha256[:12]}..")
    if (run / ADAPTER).is_file():
        numbers = load_file(run / ADAPTER)
        kind = "subspace" if set(numbers) == {"w"} else "lora"
        return pack_delta(kind, numbers, seed=_seed(run) if kind == "subspace" else 0, step=step)
    theirs = {name: tensor.numpy() for name, tensor in open_trainable(model).model.tensors().items()}
    ours = {name: tensor.numpy() for name, tensor in start.model.tensors().items()}
    if {name: value.shape for name, value in theirs.items()} != {name: value.shape for name, value in ours.items()}:
        raise InputError("has tensors of other names or shapes than its base", where=str(model), expected=f"those of {base}")
    changed = {name: value - ours[name] for name, value in theirs.items() if not np.array_equal(value, ours[name])}
    if not changed:
        raise InputError("is its own base", where=str(model), expected="a model trained from it")
    return pack_delta("full", changed, step=step)


def _seed(run: Path) -> int:
    import tomllib

    return int(tomllib.loads((run / "recipe.toml").read_text())["seed"])


def export_relative(package: str | os.PathLike, base: str | os.PathLike, out: str | os.PathLike) -> Rebuilt:
    """Write ``base + delta`` as a model folder with the tokenizer files of the base's folder (a ``.gguf`` has none to copy); its measured losses are what a certificate of the package is about.

    Raises :class:`UsageError` when ``out`` holds something.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("exists and is not an empty folder", where=str(out), expected="a new folder", hint="name another one with --out")
    found = rebuild(package, base)
    for name, content in found.files.items():
        atomic_write(out / name, content)
    save_folder(out, found.config, found.tensors, byte_tokenizer=not found.files and found.config.get("vocab_size") == 256)
    return found
