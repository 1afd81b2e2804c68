"""A classification task by prompting: errors of prompts on items, and the prompts' code lengths under a language model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from scalebound.core.errors import InputError, UsageError
from scalebound.core.progress import Progress, silent
from scalebound.measure.statistics import token_statistics
from scalebound.measure.text import tokenizer_of
from scalebound.models.language_model import LanguageModel


@torch.inference_mode()
def prompt_code_bits(model: LanguageModel, prompt: str) -> float:
    """``-log2`` of the model's probability of the prompt followed by its separator: the length of a prefix-free code for all prompts.

    Raises :class:`InputError` for a prompt that holds the separator itself: it would end the code inside the prompt.
    """
    words = tokenizer_of(model)
    encoded = words.encode(prompt.encode())
    if np.any(encoded == words.separator):
        raise InputError(f"the prompt {prompt!r} holds the end-of-text token", where="prompts", expected="a prompt without it")
    tokens = np.append(encoded, words.separator).astype(np.int64)
    return -_continuation(model, np.zeros(0, dtype=np.int64), tokens) / math.log(2)


@torch.inference_mode()
def prompt_errors(model: LanguageModel, prompts: Sequence[str], items: Sequence[tuple[str, str]], labels: Sequence[str], progress: Progress = silent) -> np.ndarray:
    """(prompts, items) of 0 (right) and 1: the answer is the label whose text is likeliest after the prompt with ``{text}`` filled in.

    Raises :class:`UsageError` for a prompt without ``{text}``, :class:`InputError` for an item whose label is none of ``labels``.
    """
    words = tokenizer_of(model)
    for prompt in prompts:
        if prompt.count("{text}") != 1:
            raise UsageError(f"the prompt {prompt!r} has no place for the item", where="prompts", expected="{text} once in every prompt")
    unknown = [label for _, label in items if label not in labels]
    if unknown:
        raise InputError(f"the label {unknown[0]!r} is none of the labels", where="items", expected=", ".join(labels))
    endings = [words.encode((" " + label).encode()).astype(np.int64) for label in labels]
    out = np.empty((len(prompts), len(items)))
    for row, prompt in enumerate(prompts):
        for k, (text, label) in enumerate(items):
            given = words.encode(prompt.replace("{text}", text).encode()).astype(np.int64)
            scores = [_continuation(model, given, ending) for ending in endings]
            out[row, k] = labels[int(np.argmax(scores))] != label
            progress(row * len(items) + k + 1, out.size)
    return out


def _continuation(model: LanguageModel, given: np.ndarray, ending: np.ndarray) -> float:
    """Log-probability (nats) of ``ending`` after ``given``."""
    tokens = torch.from_numpy(np.concatenate([given, ending]))
    if len(tokens) > model.max_context:
        raise InputError(f"prompt and item have {len(tokens):,} tokens", where="prompts", expected=f"at most {model.max_context:,}, the model's context")
    inputs_BT = F.pad(tokens[None, :-1], (1, 0), value=model.first_token).to(model.device)
    hidden = model.hidden(inputs_BT)[0, len(given) :]
    return -float(token_statistics(model, hidden, torch.from_numpy(ending).to(model.device))[0].sum(dtype=torch.float64))
