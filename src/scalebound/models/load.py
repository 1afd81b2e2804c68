"""Whatever people call a model, loaded behind :class:`~scalebound.models.language_model.LanguageModel`.

A Hugging Face folder, a ``.gguf`` file, a run (its newest checkpoint), a checkpoint, a package (``.sbz``), or the folder of a certified
mixture (:mod:`scalebound.models.mixture`). Folders that GPTQ, AWQ, bitsandbytes or compressed-tensors quantized are dequantized, in float32, by
:mod:`scalebound.compress.foreign`, and are the same models as the packages that keep their integers. No code from a model folder is ever run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalebound.compress.foreign import is_known, keep_folder
from scalebound.core.errors import InputError, UsageError
from scalebound.models import mixture
from scalebound.models.folder import hash_tensors, read_config, read_tensors, stored_dtypes
from scalebound.models.language_model import LanguageModel, Past, first_token, linear_head
from scalebound.models.llama_load import IDENTITY, llama_of_folder, llama_of_gguf, llama_of_tensors
from scalebound.models.ranks import ALONE, Ranks
from scalebound.models.transformer import Transformer, own_shape

# Families whose logits are exactly output_embedding(decoder(tokens)), soft-capped where their configuration says so.
PLAIN_HEADS = ("llama", "gpt2", "gpt_neox", "qwen2", "qwen3", "mistral", "smollm3", "phi", "opt", "olmo", "olmo2", "mamba", "gemma", "gemma2", "gemma3_text")


def load_model(path: str | os.PathLike, *, dtype: torch.dtype | str = torch.float32, device: str = "cpu", ranks: Ranks = ALONE) -> LanguageModel:
    """Load any causal language model.

    Parameters
    ----------
    path
        A Hugging Face folder, a ``.gguf`` file, a run, a checkpoint or a package.
    dtype
        Precision of the weights in memory and of the arithmetic up to the logits; statistics are accumulated in float32 whatever it is.
        ``"float32"``, ``"bfloat16"``, or ``"auto"``: bfloat16 where the weights are stored in 16 bits or fewer and the processor has
        bfloat16 matrix instructions. Packages are float32 under ``"auto"``: what is certified is exactly what they decode to.
    device
        ``"cpu"`` or ``"cuda"``.
    ranks
        The processes that share one Llama-style model (:func:`~scalebound.models.ranks.join_ranks`), each with its part of every layer.

    Raises
    ------
    InputError
        Nothing there, no model in it, or corrupt weights.
    UsageError
        A model that cannot be shared by so many processes.
    """
    path = Path(path)
    dtype = choose_dtype(path, dtype, device)
    if ranks.world > 1:
        return _shared(path, dtype, device, ranks)
    if path.suffix == ".sbz":
        return _package(path, dtype, device)
    if path.suffix == ".gguf":
        return llama_of_gguf(path, dtype=dtype, device=device) or _transformers(path, dtype, device)
    if (path / mixture.FILE).is_file():
        return mixture.load_mixture(path, lambda part: load_model(part, dtype=dtype, device=device))
    path = model_folder(path)
    config = read_config(path)
    tokenizer = str(path / "tokenizer.json") if (path / "tokenizer.json").is_file() else "byte"
    if is_known(config):
        kept = keep_folder(path)
        return from_tensors(kept.config, {name: torch.from_numpy(data) for name, data in kept.dequantized().items()}, name=str(path), dtype=dtype, device=device, tokenizer=tokenizer)
    if own_shape(config) is None and (found := llama_of_folder(path, config, dtype=dtype, device=device, tokenizer=tokenizer)):
        return found
    tensors = read_tensors(path)
    if own_shape(config) is None:
        return _transformers(path, dtype, device, sha256=hash_tensors(config, tensors))
    return from_tensors(config, tensors, name=str(path), dtype=dtype, device=device, tokenizer=tokenizer)


def _shared(path: Path, dtype: torch.dtype, device: str, ranks: Ranks) -> LanguageModel:
    found = None
    if path.suffix == ".gguf":
        found = llama_of_gguf(path, dtype=dtype, device=device, ranks=ranks)
    elif path.suffix != ".sbz" and not (path / mixture.FILE).is_file():
        path = model_folder(path)
        tokenizer = str(path / "tokenizer.json") if (path / "tokenizer.json").is_file() else "byte"
        found = llama_of_folder(path, read_config(path), dtype=dtype, device=device, tokenizer=tokenizer, ranks=ranks)
    if found is None:
        raise UsageError(f"{path.name} is no model that {ranks.world} processes can share", where="torchrun", expected="a folder or .gguf file of Llama, Mistral, Qwen2 or Qwen3", hint="one process scores any model; --workers shares the text instead")
    return found


def model_folder(path: Path) -> Path:
    """The folder with a ``config.json`` that ``path`` means: itself, or the newest checkpoint of a run."""
    if path.is_file():
        raise InputError("is not a model", where=str(path), expected="a Hugging Face folder, a .gguf file, a run, a checkpoint or a .sbz package")
    if not path.exists():
        raise InputError("no such file or folder", where=str(path), expected="a model")
    if (path / "checkpoints").is_dir():
        path = newest_checkpoint(path)
    if not (path / "config.json").is_file():
        raise InputError("holds no model (no config.json)", where=str(path), expected="a Hugging Face folder, a run, or a checkpoint")
    return path


def choose_dtype(path: Path, dtype: torch.dtype | str, device: str = "cpu") -> torch.dtype:
    """``"auto"`` and the names of precisions as a torch type, for the model at ``path``."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype in ("float32", "bfloat16"):
        return getattr(torch, dtype)
    if dtype != "auto":
        raise UsageError(f"dtype = {dtype!r}", expected="auto, float32 or bfloat16")
    if path.suffix == ".sbz" or (device == "cpu" and not has_bfloat16()):
        return torch.float32
    if path.suffix == ".gguf":
        return torch.bfloat16
    found = stored_dtypes(path)
    return torch.bfloat16 if found and found <= {"F16", "BF16"} else torch.float32


def has_bfloat16(device: str = "cpu") -> bool:
    """Whether this processor, or the CUDA device, multiplies bfloat16 matrices by instructions of its own."""
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    # names with an underscore may go; without them the answer is no
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in names if hasattr(torch.cpu, name))


def newest_checkpoint(run: str | os.PathLike) -> Path:
    """The last checkpoint folder of a run."""
    found = [folder for folder in (Path(run) / "checkpoints").glob("step-*") if (folder / "config.json").is_file()]
    if not found:
        raise InputError("is a run without a checkpoint", where=str(run), hint="go on with `scalebound train`")
    return max(found, key=lambda folder: int(folder.name.removeprefix("step-")))


def from_tensors(config: dict, tensors: dict[str, Tensor], *, name: str, dtype: torch.dtype = torch.float32, device: str = "cpu", tokenizer: str = "byte") -> LanguageModel:
    """A model from a configuration and the tensors of its folder."""
    if own_shape(config) is None and (found := llama_of_tensors(config, tensors, name=name, dtype=dtype, device=device, tokenizer=tokenizer)):
        return found
    sha256 = hash_tensors(config, tensors)
    num_params = sum(t.numel() for t in tensors.values())
    shape = own_shape(config)
    if shape is None:
        return _wrap(transformers_from_config(config, tensors, name), name, sha256, num_params, device, tokenizer, dtype)
    model = own_model(config, tensors, name)
    model = model.to(dtype=dtype, device=device).eval().requires_grad_(False)
    first = config.get("bos_token_id")
    return LanguageModel(name, sha256, num_params, shape.vocab_size, config["max_position_embeddings"], 255 if first is None and shape.vocab_size == 256 else first or 0, model.hidden, model.head, tokenizer, device, str(dtype).removeprefix("torch."), linear_head(model.embedding), model.extend)


def own_model(config: dict, tensors: dict[str, Tensor], name: str) -> Transformer:
    """Our transformer of a configuration that :func:`own_shape` knows, filled with a folder's tensors; a missing or misshapen one is named."""
    shape = own_shape(config)
    assert shape is not None
    model = Transformer(shape, config["max_position_embeddings"])
    missing = sorted(set(model.tensors()) - set(tensors))
    if missing:
        raise InputError(f"lacks the tensor {missing[0]!r}", where=name)
    for key, own in model.tensors().items():
        if tensors[key].shape != own.shape:
            raise InputError(f"tensor {key!r} has shape {tuple(tensors[key].shape)}", where=name, expected=f"{tuple(own.shape)} as config.json says")
    model.load_tensors(tensors)
    return model


def _package(path: Path, dtype: torch.dtype, device: str) -> LanguageModel:
    from scalebound.compress import read_package

    config, arrays = read_package(path)
    return from_tensors(config, {name: torch.from_numpy(array) for name, array in arrays.items()}, name=str(path), dtype=dtype, device=device)


def read_transformers(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model that ``transformers`` builds of a folder or ``.gguf`` file (whose weights it gives in float32)."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    gguf = path.suffix == ".gguf"
    folder, options = (path.parent, {"gguf_file": path.name}) if gguf else (path, {})
    if not path.exists():
        raise InputError("no such file", where=str(path), expected="a .gguf file")
    try:
        return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32 if gguf else dtype, **options)
    except Exception as error:  # the library raises whatever its readers raise; each means the file is not a model it can read
        raise InputError(f"cannot be read as a causal language model ({' '.join(str(error).split())[:200]})", where=str(path)) from error


def tied_names(model: Any) -> set[str]:
    """Names under which a ``transformers`` model holds a tensor a second time."""
    found = getattr(model, "all_tied_weights_keys", None)  # empty where the head is a matrix of its own
    return set(getattr(model, "_tied_weights_keys", None) or () if found is None else found)


def gguf_sha256(model: Any) -> str:
    """The identity of a ``.gguf`` file: the numbers it stands for, once each, and the keys that decide what is computed with them."""
    names = tied_names(model)
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in names}
    config = {key: value for key, value in model.config.to_dict().items() if key in IDENTITY}
    return hash_tensors(config, state)


def _transformers(path: Path, dtype: torch.dtype, device: str, sha256: str = "") -> LanguageModel:
    """A folder (whose hash is known) or ``.gguf`` file that ``transformers`` computes."""
    model = read_transformers(path, dtype)
    return _wrap(model, str(path), sha256 or gguf_sha256(model), sum(p.numel() for p in model.parameters()), device, str(path), dtype)


def transformers_from_config(config: dict, tensors: dict[str, Tensor], name: str) -> Any:
    """A model that ``transformers`` builds from its configuration, filled with given tensors."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if "model_type" not in config:
        raise InputError("has a configuration without model_type", where=name)
    try:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), trust_remote_code=False)
        report = model.load_state_dict(tensors, strict=False)
    except (ValueError, KeyError, RuntimeError) as error:  # an unknown model_type, a tensor of another shape
        raise InputError(f"does not fit its configuration ({' '.join(str(error).split())[:200]})", where=name) from error
    tied = tied_names(model)
    absent = [key for key in report.missing_keys if key not in tied and key != "lm_head.weight"]
    if absent or report.unexpected_keys:
        raise InputError(f"does not fit its configuration (tensor {(absent + report.unexpected_keys)[0]!r})", where=name)
    model.tie_weights()
    return model


def in_precision(model: Any, dtype: torch.dtype, device: str = "cpu") -> Any:
    """A ``transformers`` model with its weights in a precision, and tables that are not stored (rotary frequencies) in the one they were made in.

    ``model.to(torch.bfloat16)`` alone rounds the frequencies as well: at position 500 the fastest angles are then wrong by a radian.
    """
    made = [(part, name, part._buffers[name]) for part in model.modules() for name in part._non_persistent_buffers_set]
    model = model.to(device=device, dtype=dtype)
    for part, name, buffer in made:
        part._buffers[name] = None if buffer is None else buffer.to(device)
    return model


def _wrap(model: Any, name: str, sha256: str, num_params: int, device: str, tokenizer: str, dtype: torch.dtype) -> LanguageModel:
    model = in_precision(model, dtype, device).eval().requires_grad_(False)
    config = model.config
    head = model.get_output_embeddings()
    decoder = getattr(model, model.base_model_prefix, None)
    if config.model_type in PLAIN_HEADS and head is not None and decoder is not None:
        hidden = lambda tokens_BT: decoder(tokens_BT, use_cache=False).last_hidden_state  # noqa: E731
        part = linear_head(head.weight, head.bias, getattr(config, "final_logit_softcapping", None))
    else:  # logits are whatever the model makes of them
        decoder, hidden = None, lambda tokens_BT: model(tokens_BT, use_cache=False).logits
        part = lambda logits, start, stop: logits[..., start:stop]  # noqa: E731
    first = first_token(config.bos_token_id, config.eos_token_id)
    context = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 20
    keeps = not getattr(model, "_is_stateful", False)  # recurrent states cannot be cut back to a shorter text
    return LanguageModel(name, sha256, num_params, config.vocab_size, context, first, hidden, lambda hidden: part(hidden, 0, config.vocab_size), tokenizer, device,
                         str(dtype).removeprefix("torch."), part, _extender(model, decoder) if keeps else None)  # fmt: skip


def _extender(model: Any, decoder: Any) -> Callable[[Tensor, Past | None], tuple[Tensor, Past]]:
    """``extend`` of a model of ``transformers``: its hidden states where the head is ours to apply (a ``decoder``), else its logits."""
    from transformers import DynamicCache

    def extend(tokens_BT: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        cache = DynamicCache(past.layers if past is not None else None)
        found = (model if decoder is None else decoder)(tokens_BT, past_key_values=cache, use_cache=True)
        return found.logits if decoder is None else found.last_hidden_state, Past([(layer.keys, layer.values) for layer in cache.layers])  # type: ignore

    return extend
