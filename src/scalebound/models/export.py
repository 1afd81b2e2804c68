"""A package becomes a Hugging Face folder: what is certified can be run by any program that opens such folders.

The weights are written in float32, exactly the numbers the package decodes to, so folder and package have one identity (SHA-256 of tensors
and configuration). Narrower types would be shorter and another model.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from scalebound.compress import load_package
from scalebound.compress.delta import is_delta
from scalebound.core.errors import InputError, UsageError
from scalebound.core.io import atomic_write, read_bytes
from scalebound.models.folder import save_folder

BYTE_VOCABULARY = 256
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Exported:
    """What was written: the model's SHA-256, its number of parameters, the size of its weights' file, and the tokenizer's kind ("byte", a path, or "")."""

    sha256: str
    params: int
    size_bytes: int
    tokenizer: str


def export_package(package: str | os.PathLike, out: str | os.PathLike, *, tokenizer: str | os.PathLike | None = None) -> Exported:
    """Write a package (``.sbz``) as a Hugging Face folder.

    Parameters
    ----------
    out
        A folder that does not exist yet, or an empty one.
    tokenizer
        A ``tokenizer.json``, or a folder that holds one (its configuration is copied as well). Models of 256 tokens get the byte tokenizer.

    Raises
    ------
    UsageError
        ``out`` holds something, a tokenizer for a model of bytes.
    InputError
        A damaged package, no tokenizer there.

    Examples
    --------
    >>> export_package("small.sbz", "small-hf").sha256 == load_package("small.sbz").sha256()  # doctest: +SKIP
    True
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("exists and is not an empty folder", where=str(out), expected="a new folder", hint="name another one with --out")
    model = load_package(package)
    if is_delta(model.config):
        raise InputError("holds how a model differs from its base, and no model", where=str(package), expected="the base beside it", hint="--base MODEL")
    of_bytes = model.config.get("vocab_size") == BYTE_VOCABULARY
    if tokenizer is not None and of_bytes:
        raise UsageError("--tokenizer was given for a model of bytes", where=str(package), hint="leave it out: the byte tokenizer is written")
    copies = _tokenizer_files(Path(tokenizer)) if tokenizer is not None else {}
    tensors = {name: torch.from_numpy(data) for name, data in model.dequantized().items()}
    out.mkdir(parents=True, exist_ok=True)
    for name, content in copies.items():
        atomic_write(out / name, content)
    sha256 = save_folder(out, model.config, tensors, byte_tokenizer=of_bytes)  # writes the configuration last: until then the folder is no model
    return Exported(sha256, model.num_params, (out / "model.safetensors").stat().st_size, "byte" if of_bytes else "" if tokenizer is None else str(tokenizer))


def _tokenizer_files(path: Path) -> dict[str, bytes]:
    """The files to copy, by the name they get."""
    if path.is_file():
        return {"tokenizer.json": read_bytes(path)}
    found = {name: read_bytes(path / name) for name in TOKENIZER_FILES if (path / name).is_file()}
    if "tokenizer.json" not in found:
        raise InputError("holds no tokenizer.json", where=str(path), expected="a tokenizer.json, or a folder with one")
    return found
