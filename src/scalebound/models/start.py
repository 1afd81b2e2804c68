"""A model that training starts from: whatever people call a model, in float32, ready for gradients.

In: a Hugging Face folder, a ``.gguf`` file, a run, a checkpoint or a package. Out: a :class:`Start`, whose ``model`` is a
:class:`~scalebound.models.trainable.Trainable`: our own transformer where the configuration is one it computes, else :class:`Adopted`, the
model as ``transformers`` computes it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scalebound.core.errors import InputError
from scalebound.core.io import read_bytes
from scalebound.models.folder import hash_tensors, read_config, read_tensors
from scalebound.models.load import gguf_sha256, model_folder, own_model, read_transformers, tied_names, transformers_from_config
from scalebound.models.trainable import Trainable
from scalebound.models.transformer import own_shape

# copied from the folder a training starts from into every checkpoint, so that it opens with its own tokenizer
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "tokenizer.model",
                   "added_tokens.json", "chat_template.jinja", "generation_config.json")  # fmt: skip


class Adopted(Trainable):
    """A causal model of ``transformers`` under training, all weights; dropout is off, so that a batch's loss is one number.

    Parameters
    ----------
    model : a ``PreTrainedModel`` with a language-model head
    config : what its checkpoints say in ``config.json``
    """

    def __init__(self, model: Any, config: dict) -> None:
        super().__init__()
        self.model = nn.Module.float(model).eval()  # theirs refuses weights that once were quantized
        self._config = config | {key: "float32" for key in ("torch_dtype", "dtype") if key in config}
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        tied = tied_names(model)
        self._names = [name for name in model.state_dict() if name not in tied]
        embeddings = {id(model.get_input_embeddings().weight), id(getattr(model.get_output_embeddings(), "weight", None))}
        self._embeddings = {name for name, parameter in self.named_parameters() if id(parameter) in embeddings}

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.model(tokens_BT, use_cache=False).logits

    def config(self) -> dict:
        return self._config

    def tensors(self) -> dict[str, Tensor]:
        state = self.model.state_dict()
        return {name: state[name].detach() for name in self._names}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, own in self.tensors().items():
                own.copy_(tensors[name])

    def tensor_class(self, name: str) -> str:
        if name in self._embeddings:
            return "embedding"
        return "hidden" if self.get_parameter(name).ndim == 2 else "gain"


@dataclass
class Start:
    """A model that training begins from, in float32.

    ``sha256`` is that of :func:`~scalebound.models.load.load_model` for the same path: the identity by which a certificate names its base.
    """

    name: str
    sha256: str
    num_params: int
    vocab_size: int
    max_context: int
    width: int
    depth: int
    heads: int
    feed_forward: int
    model: Trainable
    tokenizer: str = "byte"
    files: dict[str, bytes] = field(default_factory=dict)


def open_trainable(path: str | os.PathLike) -> Start:
    """Load a model to train it: a Hugging Face folder, a ``.gguf`` file, a run, a checkpoint or a package.

    Raises
    ------
    InputError
        What :func:`~scalebound.models.load.load_model` raises; or a configuration without a vocabulary, width or depth.

    Notes
    -----
    Weights are held once, in float32. A quantized ``.gguf`` starts from the numbers it stands for.
    """
    path = Path(path)
    files: dict[str, bytes] = {}
    tokenizer = "byte"
    if path.suffix == ".gguf":
        theirs = read_transformers(path)
        return _adopted(Adopted(theirs, _config_of(theirs)), str(path), gguf_sha256(theirs), str(path), files)
    if path.suffix == ".sbz":
        from scalebound.compress import read_package

        config, arrays = read_package(path)
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    else:
        path = model_folder(path)
        config, tensors = read_config(path), read_tensors(path)
        files = {name: read_bytes(path / name) for name in TOKENIZER_FILES if (path / name).is_file()}
        tokenizer = str(path / "tokenizer.json") if "tokenizer.json" in files else "byte"
    sha256 = hash_tensors(config, tensors)
    shape = own_shape(config)
    if shape is None:
        theirs = transformers_from_config(config, tensors, str(path)) if path.suffix == ".sbz" else read_transformers(path)
        return _adopted(Adopted(theirs, config), str(path), sha256, tokenizer, files)
    model = own_model(config, tensors, str(path))
    if shape.vocab_size == 256:
        tokenizer = "byte"
    return Start(str(path), sha256, shape.num_params, shape.vocab_size, model.context, shape.width, shape.depth, shape.heads, shape.feed_forward, model, tokenizer, files)


def _adopted(model: Adopted, name: str, sha256: str, tokenizer: str, files: dict[str, bytes]) -> Start:
    config = model.model.config

    def of(*names: str) -> int:
        for key in names:
            value = getattr(config, key, None)
            if isinstance(value, int) and value > 0:
                return value
        return 0

    width, depth = of("hidden_size", "n_embd", "d_model"), of("num_hidden_layers", "n_layer", "num_layers")
    if not width or not depth:
        raise InputError("has a configuration without a width or a number of layers", where=name, expected="hidden_size and num_hidden_layers")
    count = sum(parameter.numel() for parameter in model.parameters())
    context = of("max_position_embeddings", "n_positions") or 1 << 20
    feed_forward = of("intermediate_size", "n_inner", "ffn_dim", "d_inner") or 4 * width
    return Start(name, sha256, count, config.vocab_size, context, width, depth, of("num_attention_heads", "n_head") or 1, feed_forward, model, tokenizer, files)


def _config_of(model: Any) -> dict:
    """The configuration of a ``transformers`` model as a ``config.json`` holds it, without what only says where it came from."""
    found = json.loads(model.config.to_json_string())
    return {key: value for key, value in found.items() if key not in ("_name_or_path", "transformers_version", "quantization_config")}
