"""Llama-style models from folders and ``.gguf`` files, one tensor at a time: read, hashed, cast and put in its place, then forgotten.

So loading needs the weights in their final precision and one piece of one tensor, whatever the precision of the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalebound.core.errors import InputError, UsageError
from scalebound.core.hashing import model_sha256
from scalebound.models.folder import DTYPE_NAMES, bytes_of
from scalebound.models.gguf_file import GgufFile
from scalebound.models.gguf_llama import folder_config, folder_name, folder_pieces
from scalebound.models.language_model import LanguageModel, first_token, linear_head
from scalebound.models.llama import Llama, LlamaShape
from scalebound.models.ranks import ALONE, Ranks

# what a .gguf file is identified by beside its numbers: the settings that its configuration in a folder would have
IDENTITY = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_parameters")


def llama_of_gguf(path: Path, *, dtype: torch.dtype, device: str, ranks: Ranks = ALONE) -> LanguageModel | None:
    """The model of a ``.gguf`` file; None when it is none of these families."""
    file = GgufFile(path)
    config = folder_config(file)
    shape = LlamaShape.of(config) if config is not None else None
    if config is None or shape is None:
        return None
    stored = {str(folder_name(name)): name for name in file.tensors}
    model = _Filling(shape, stored, dtype, device, ranks)
    if not model.fits({name: file.tensors[own].shape for name, own in stored.items()}, tied="lm_head.weight" not in stored):
        return None

    def pieces(name: str) -> Iterator[Tensor]:
        return map(torch.from_numpy, folder_pieces(file, config, stored[name]))

    entries = ((name, "F32", file.tensors[stored[name]].shape, model.filled(name, pieces)) for name in stored)
    sha256 = model_sha256({key: config[key] for key in IDENTITY if key in config}, entries)
    params = sum(int(np.prod(file.tensors[own].shape)) for own in stored.values())
    return model.done(str(path), sha256, params, config, str(path))


def llama_of_folder(path: Path, config: dict[str, Any], *, dtype: torch.dtype, device: str, tokenizer: str, ranks: Ranks = ALONE) -> LanguageModel | None:
    """The model of a Hugging Face folder; None when it is none of these families."""
    from safetensors import SafetensorError, safe_open

    shape = LlamaShape.of(config)
    files = sorted(path.glob("model*.safetensors"))
    if shape is None or not files:
        return None
    with contextlib.ExitStack() as stack:
        try:
            opened = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
            slices = {name: file.get_slice(name) for file in opened for name in file.keys()}
            where = {name: file for file in opened for name in file.keys()}
        except (OSError, SafetensorError) as error:
            raise InputError(f"cannot be read as safetensors ({error})", where=str(path)) from error
        model = _Filling(shape, slices, dtype, device, ranks)
        if not model.fits({name: tuple(part.get_shape()) for name, part in slices.items()}, tied=config.get("tie_word_embeddings", False)):
            return None
        entries = ((name, part.get_dtype(), tuple(part.get_shape()), model.filled(name, lambda name: iter([where[name].get_tensor(name)]))) for name, part in slices.items())
        sha256 = model_sha256(config, entries)
        params = sum(int(np.prod(part.get_shape())) for part in slices.values())
    return model.done(str(path), sha256, params, config, tokenizer)


def llama_of_tensors(config: dict[str, Any], tensors: dict[str, Tensor], *, name: str, dtype: torch.dtype, device: str, tokenizer: str) -> LanguageModel | None:
    """The model of tensors in memory; None when it is none of these families."""
    shape = LlamaShape.of(config)
    if shape is None:
        return None
    model = _Filling(shape, tensors, dtype, device)
    if not model.fits({key: tuple(tensor.shape) for key, tensor in tensors.items()}, tied=config.get("tie_word_embeddings", False)):
        return None
    entries = ((key, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), model.filled(key, lambda key: iter([tensors[key]]))) for key, tensor in tensors.items())
    return model.done(name, model_sha256(config, entries), sum(t.numel() for t in tensors.values()), config, tokenizer)


class _Filling:
    """A decoder while its weights come in."""

    def __init__(self, shape: LlamaShape, names: Iterable[str], dtype: torch.dtype, device: str, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self.shape, self.names, self.dtype, self.device = shape, set(names), dtype, device
        self.model: Llama | None = None

    def fits(self, shapes: dict[str, tuple[int, ...]], *, tied: bool) -> bool:
        """Whether every tensor has a place of its shape and every place a tensor: otherwise this is another function."""
        if tied == ("lm_head.weight" in self.names):  # transformers would take the other one, or start from random weights
            return False
        bare = Llama(self.shape, self.names, dtype=self.dtype, device="meta")
        if {name: slot.shape for name, slot in bare.slots.items()} != shapes:
            return False
        if any(size % self.ranks.world for size in (self.shape.heads, self.shape.key_heads, self.shape.feed_forward)):
            raise UsageError(f"{self.ranks.world} processes cannot share {self.shape.heads} heads, {self.shape.key_heads} key heads and {self.shape.feed_forward} feed-forward units",
                             where="torchrun", expected="a number that divides all three")  # fmt: skip
        self.model = Llama(self.shape, self.names, dtype=self.dtype, device=self.device, ranks=self.ranks)
        return True

    def filled(self, name: str, pieces: Callable[[str], Iterator[Tensor]]) -> Callable[[], Iterator[np.ndarray]]:
        """For the hash: a function that gives the bytes of a tensor and on the way puts it in its place."""

        def read() -> Iterator[np.ndarray]:
            assert self.model is not None
            slot, at = self.model.slots[name], 0
            for piece in pieces(name):
                slot.put(at, piece)
                at += len(piece)
                yield bytes_of(piece)

        return read

    def done(self, name: str, sha256: str, params: int, config: dict[str, Any], tokenizer: str) -> LanguageModel:
        assert self.model is not None
        model, shape = self.model, self.shape
        model.settle()
        part = linear_head(model.output)
        first = first_token(config.get("bos_token_id"), config.get("eos_token_id"))
        return LanguageModel(name, sha256, params, shape.vocab_size, shape.context, first, model.hidden, lambda hidden: part(hidden, 0, shape.vocab_size), tokenizer, self.device,
                             str(self.dtype).removeprefix("torch."), part, model.extend)  # fmt: skip
