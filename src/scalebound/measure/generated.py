"""Text under a stated sampler: losses, and the mean and variance the sampler gives them, at a temperature and a nucleus.

For tests of "was this sampled from the model" (:mod:`scalebound.certify.detect`). Each document is scored from ``first_token`` on, at most
one context of it: what comes after the context would need to know how the sampler cut it.

Letters: B batch, T tokens, R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.core.errors import InputError, UsageError, from_os_error
from scalebound.core.io import parse_json
from scalebound.core.scored import Scored
from scalebound.measure.text import tokenizer_of
from scalebound.models.language_model import LanguageModel

BOUNDARY = 1e-4  # where a cumulative probability is this close to top_p, rounding decides who is in the nucleus
CHUNK_ELEMENTS = 1 << 22


def sampler(logits_RV: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities (R, V) at a temperature, cut to the smallest set of tokens that holds ``top_p`` and renormalised (minus infinity
    outside); and whether that set is clear of rounding, (R,)."""
    log_p = F.log_softmax(logits_RV.float() / temperature, dim=-1)
    if top_p >= 1:
        return log_p, torch.ones(len(log_p), dtype=torch.bool)
    ordered, order = log_p.sort(dim=-1, descending=True)
    before = ordered.exp().double().cumsum(-1) - ordered.exp().double()
    kept = before < top_p  # a token stays when those above it do not yet hold top_p
    kept[:, 0] = True
    clear = (before[:, 1:] - top_p).abs().amin(-1) > BOUNDARY
    inside = torch.zeros_like(kept).scatter(1, order, kept)
    cut = log_p.masked_fill(~inside, -torch.inf)
    return cut - cut.logsumexp(-1, keepdim=True), clear


def _check(temperature: float, top_p: float) -> None:
    if not 0 < temperature < float("inf"):
        raise UsageError(f"temperature is {temperature}", where="--temperature", expected="above 0")
    if not 0 < top_p <= 1:
        raise UsageError(f"top-p is {top_p}", where="--top-p", expected="in (0, 1]")


@torch.inference_mode()
def score_documents(model: LanguageModel, documents: Sequence[np.ndarray], *, temperature: float = 1.0, top_p: float = 1.0, prompt_tokens: int = 0) -> list[Scored]:
    """Score documents of token ids, each by itself, the first ``prompt_tokens`` of each given and not judged.

    Raises :class:`InputError` for a document without tokens or with ids the model does not know, :class:`UsageError` for settings out of range.
    """
    _check(temperature, top_p)
    if prompt_tokens < 0:
        raise UsageError(f"prompt-tokens is {prompt_tokens}", where="--prompt-tokens", expected="0 or more")
    out = []
    for number, tokens in enumerate(documents):
        tokens = np.asarray(tokens[: model.max_context], dtype=np.int64)
        if not len(tokens) or tokens.max() >= model.vocab_size:
            raise InputError("has no token" if not len(tokens) else f"holds token {int(tokens.max()):,}", where=f"document {number}", expected=f"ids below {model.vocab_size:,}")
        targets_T = torch.from_numpy(tokens).to(model.device)
        inputs_BT = F.pad(targets_T[None, :-1], (1, 0), value=model.first_token)
        hidden = model.hidden(inputs_BT)[0]
        rows, pieces = max(1, CHUNK_ELEMENTS // model.vocab_size), []
        for start in range(0, len(tokens), rows):
            log_p, clear = sampler(model.head(hidden[start : start + rows]), temperature, top_p)
            nll = -log_p.gather(1, targets_T[start : start + rows, None])[:, 0]
            p, finite = log_p.exp(), log_p.clamp_min(-1e4)
            entropy = -(p * finite).sum(1)
            pieces.append(torch.stack([nll.clamp_min(0), entropy.clamp_min(0), (p * (finite + entropy[:, None]).square()).sum(1), clear.to(nll)]))
        nll, entropy, varentropy, clear = torch.cat(pieces, dim=1).cpu().numpy()
        bet = (clear > 0) & (np.arange(len(tokens)) >= prompt_tokens)
        out.append(Scored(nll, entropy, varentropy, bet))
    return out


@torch.inference_mode()
def sample_documents(model: LanguageModel, number: int, tokens: int, *, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0) -> np.ndarray:
    """``number`` documents of ``tokens`` ids each, (B, T), sampled from ``first_token`` on. The whole prefix is read again at every step:
    for small models and short texts."""
    _check(temperature, top_p)
    source = torch.Generator().manual_seed(seed)
    inputs_BT = torch.full((number, 1), model.first_token, dtype=torch.long)
    for _ in range(min(tokens, model.max_context)):
        log_p, _ = sampler(model.head(model.hidden(inputs_BT.to(model.device))[:, -1]).cpu(), temperature, top_p)
        inputs_BT = torch.cat([inputs_BT, torch.multinomial(log_p.exp(), 1, generator=source)], dim=1)
    return inputs_BT[:, 1:].numpy()


def read_documents(path: Path, model: LanguageModel) -> list[tuple[str, np.ndarray]]:
    """Names and token ids of the documents of a text: a file (one document), a folder (one a file), or ``.jsonl`` (one a line, key ``text``)."""
    tokenizer = tokenizer_of(model)
    found = [(name, _encode(tokenizer.encode, data, name)) for name, data in read_texts(path)]
    if not found:
        raise InputError("holds no text", where=str(path))
    return found


def read_texts(path: Path) -> list[tuple[str, bytes]]:
    """Names and bytes of documents; empty ones are left out."""
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
            return [(str(file.relative_to(path)), file.read_bytes()) for file in files if file.stat().st_size]
        data = path.read_bytes()
    except OSError as error:
        raise from_os_error(error, path) from error
    if path.suffix != ".jsonl":
        return [(path.name, data)] if data else []
    out = []
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            row = parse_json(line, where=f"{path}: line {number}")
            if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"]:
                raise InputError("has no text", where=f"{path}: line {number}", expected='an object with a string under "text"')
            out.append((f"line {number}", row["text"].encode()))
    return out


def _encode(encode: Callable[[bytes], np.ndarray], data: bytes, name: str) -> np.ndarray:
    try:
        return encode(data)
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8 text", where=name) from error
