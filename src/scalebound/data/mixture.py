"""Several sources in one stream: weights that may change over training, drawn without replacement, repetition counted.

A *mixture* has sources (each a text) and phases: over every phase the sequences are dealt out by that phase's weights (largest remainders, so
counts are exact to one sequence) and shuffled. Within a source sequences are drawn without replacement, in an order drawn from the seed; when a source is
used up its next *epoch* begins, in a new order. The result is an ordinary stream in the order training meets it, so that everything else here
works on it, and beside it ``NAME.mix.json`` with ``NAME.mix.safetensors``: for every sequence its source, its epoch and its number in the source.

Raising a small good source over the last 10 to 20% of training: Blakeney et al. 2024, arXiv 2406.03476. What repetition costs: Muennighoff et al.
2023, arXiv 2305.16264, whose four epochs are the limit by default. A token certificate counts sequences of epoch 1 only: :func:`first_seen`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

import scalebound
from scalebound.core.errors import InputError, UsageError
from scalebound.core.io import atomic_write, load_struct, save_struct, sha256_bytes, sha256_file
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import generator
from scalebound.data.corpus import Document
from scalebound.data.stream import SCHEMA as STREAM_SCHEMA
from scalebound.data.stream import SourceRef, Stream, StreamInfo, TokenizerRef, build_stream
from scalebound.data.tokenizer import Tokenizer

SCHEMA = "scalebound.mixture/1"
MAX_EPOCHS = 4


class Phase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights up to a share of training; they need not add up to one."""

    until: float
    weights: dict[str, float]


class SourceCount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A source and how much of it was used. ``epochs`` counts the begun ones."""

    name: str
    sha256: str
    sequences: int  # of its own that were met
    drawn: int  # times one was met
    epochs: int


class MixtureInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``NAME.mix.json``."""

    schema: str = SCHEMA
    stream_sha256: str
    sequence_tokens: int
    sources: tuple[SourceCount, ...]
    phases: tuple[Phase, ...]
    unique_tokens: int  # of the whole stream: those of sequences met for the first time
    arrays_sha256: str
    seed: int
    version: str


MixtureInfo.SCHEMA = SCHEMA  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Mixture:
    """An opened record of a mixture: arrays over the sequences of the stream, in its order."""

    info: MixtureInfo
    source: np.ndarray
    epoch: np.ndarray
    number: np.ndarray

    def unique_tokens(self, tokens: int) -> int:
        """Tokens met for the first time among the first ``tokens`` of the stream."""
        return int((self.epoch[: tokens // self.info.sequence_tokens] == 1).sum()) * self.info.sequence_tokens

    def shares(self, start: int = 0, stop: int | None = None) -> dict[str, float]:
        """Share of every source among the sequences [start, stop)."""
        part = self.source[start:stop]
        return {found.name: float((part == k).mean()) if len(part) else 0.0 for k, found in enumerate(self.info.sources)}


def check_phases(phases: Sequence[Phase], names: Sequence[str], *, where: str = "mixture") -> None:
    """Refuse phases that do not cover training once, or weights that name no source or are all zero."""
    ends = [phase.until for phase in phases]
    if not ends or ends != sorted(set(ends)) or ends[0] <= 0 or ends[-1] != 1.0:
        raise InputError(f"phases end at {ends}", where=where, expected="rising shares of training, the last 1.0")
    for phase in phases:
        unknown = sorted(set(phase.weights) - set(names))
        if unknown:
            raise InputError(f"weights name {unknown[0]!r}", where=where, expected=f"one of {', '.join(names)}")
        if any(not 0 <= weight < float("inf") for weight in phase.weights.values()) or not sum(phase.weights.values()) > 0:
            raise InputError(f"weights {phase.weights}", where=where, expected="numbers of at least 0, not all of them 0")


def flat(phases: Sequence[Phase], names: Sequence[str]) -> list[Phase]:
    """One phase whose weights are the phases' average over training: as much of every source, at no particular time.

    >>> flat([Phase(0.8, {"a": 1.0}), Phase(1.0, {"a": 1.0, "b": 1.0})], ["a", "b"])
    [Phase(until=1.0, weights={'a': 0.9, 'b': 0.1})]
    """
    total, start = dict.fromkeys(names, 0.0), 0.0
    for phase in phases:
        size = sum(phase.weights.values())
        for name in names:
            total[name] += (phase.until - start) * phase.weights.get(name, 0.0) / size
        start = phase.until
    return [Phase(1.0, {name: round(share, 12) for name, share in total.items()})]


def deal(num_sequences: int, phases: Sequence[Phase], names: Sequence[str], *, seed: int) -> np.ndarray:
    """The source of every sequence, (num_sequences,): exact counts per phase, shuffled inside it."""
    out, start = [], 0
    for number, phase in enumerate(phases):
        stop = round(phase.until * num_sequences)
        exact = np.array([phase.weights.get(name, 0.0) for name in names])
        exact = exact / exact.sum() * (stop - start)
        counts = np.floor(exact).astype(int)
        counts[np.argsort(counts - exact, kind="stable")[: stop - start - counts.sum()]] += 1
        out.append(generator(seed, "mixture", number).permutation(np.repeat(np.arange(len(names)), counts)))
        start = stop
    return np.concatenate(out)


def build_mixture(sources: Sequence[tuple[str, Sequence[Document], SourceRef]], phases: Sequence[Phase], tokenizer: Tokenizer, out: str | os.PathLike, *, sequence_tokens: int,
                  num_tokens: int, seed: int, max_epochs: int = MAX_EPOCHS, split: str = "train", progress: Progress = silent) -> Stream:  # fmt: skip
    """Write the stream of a mixture, and its record beside it.

    Parameters
    ----------
    sources
        ``(name, documents, reference)``; names differ.
    phases
        Weights over training; see :class:`Phase`.
    out
        Path without ending.
    num_tokens
        Length of the stream, a whole number of sequences.
    max_epochs
        How often a source may be begun.

    Raises
    ------
    InputError
        Phases or weights out of range, a source shorter than a sequence, or one that would be repeated more often than ``max_epochs``.

    Notes
    -----
    Time O(text of the sources), memory O(one document + a few numbers a sequence).
    """
    names = [name for name, _, _ in sources]
    if len(set(names)) < len(names) or not names:
        raise UsageError(f"sources {names}", expected="at least one source, every name once")
    check_phases(phases, names)
    if num_tokens < sequence_tokens or num_tokens % sequence_tokens:
        raise UsageError(f"num_tokens = {num_tokens}", expected=f"a whole number of sequences of {sequence_tokens}")
    out = Path(out)
    which = deal(num_tokens // sequence_tokens, phases, names, seed=seed)
    epoch, number = np.zeros(len(which), dtype=np.int32), np.zeros(len(which), dtype=np.int64)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        parts = []
        for k, (name, documents, source) in enumerate(sources):
            need = int((which == k).sum())
            parts.append(build_stream(documents, tokenizer, Path(folder) / str(k), sequence_tokens=sequence_tokens, source=source, split=name, max_tokens=max(need, 1) * sequence_tokens, progress=progress))
            have = len(parts[-1]) // sequence_tokens
            if not have:
                raise InputError(f"has {len(parts[-1]):,} tokens", where=name, expected=f"at least one sequence of {sequence_tokens:,}")
            if need > max_epochs * have:
                raise InputError(f"has {have:,} sequences, of which the weights ask {need:,}: {need / have:.1f} epochs", where=name, expected=f"at most {max_epochs} epochs", hint="give more text, a smaller weight, or fewer tokens")
            places = np.flatnonzero(which == k)
            for e in range(-(-need // have)):
                part = places[e * have : (e + 1) * have]
                epoch[part], number[part] = e + 1, generator(seed, "mixture epoch", name, e).permutation(have)[: len(part)]
        dtype, tokens_of = parts[0].tokens.dtype, [part.tokens for part in parts]

        def write(file) -> None:
            for k, j in zip(which, number, strict=True):
                file.write(np.asarray(tokens_of[k][j * sequence_tokens : (j + 1) * sequence_tokens]).tobytes())

        binary = atomic_write(out.with_name(out.name + ".bin"), write)
        starts = [np.asarray(part.info.documents, dtype=np.int64) for part in parts]
        documents_at = np.concatenate([np.sort(_positions(starts[k], which == k, number, sequence_tokens)) for k in range(len(parts))])
    tokens = np.memmap(binary, dtype=dtype, mode="r")
    text_bytes = sum(tokenizer.count_bytes(tokens[a : a + (1 << 20)], previous=int(tokens[a - 1]) if a else None) for a in range(0, num_tokens, 1 << 20))
    info = StreamInfo(
        schema=STREAM_SCHEMA, tokenizer=TokenizerRef(tokenizer.kind, tokenizer.sha256, tokenizer.path), vocab_size=tokenizer.vocab_size, separator=tokenizer.separator,
        dtype=np.dtype(dtype).newbyteorder("=").name, num_tokens=num_tokens, sequence_tokens=sequence_tokens, seed=seed, documents=tuple(int(p) for p in np.sort(documents_at)),
        num_documents=len(documents_at), text_bytes=text_bytes, split=split, source=SourceRef("+".join(names), sha256_bytes("\0".join(source.sha256 for _, _, source in sources).encode())),
        bin_sha256=sha256_file(binary), version=scalebound.__version__,
    )  # fmt: skip
    save_struct(out.with_name(out.name + ".json"), info)
    _record(out, sources, phases, which, epoch, number, sequence_tokens, seed)
    return Stream(out.with_name(out.name + ".json"))


def _positions(starts: np.ndarray, mine: np.ndarray, number: np.ndarray, sequence_tokens: int) -> np.ndarray:
    """Where in the stream the documents of a source begin: their offsets, once for every time their sequence was drawn."""
    found = []
    at = np.searchsorted(starts, number[mine] * sequence_tokens)
    until = np.searchsorted(starts, (number[mine] + 1) * sequence_tokens)
    for place, j, a, b in zip(np.flatnonzero(mine), number[mine], at, until, strict=True):
        found.append(place * sequence_tokens + starts[a:b] - j * sequence_tokens)
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def _record(out: Path, sources, phases, which, epoch, number, sequence_tokens: int, seed: int) -> None:
    from safetensors.numpy import save

    data = save({"source": which.astype(np.int32), "epoch": epoch, "number": number})
    atomic_write(out.with_name(out.name + ".mix.safetensors"), data)
    counts = []
    for k, (name, _, source) in enumerate(sources):
        mine = which == k
        counts.append(SourceCount(name, source.sha256, int((epoch[mine] == 1).sum()), int(mine.sum()), int(epoch[mine].max(initial=0))))
    info = MixtureInfo(
        stream_sha256=sha256_file(out.with_name(out.name + ".json")), sequence_tokens=sequence_tokens, sources=tuple(counts), phases=tuple(phases),
        unique_tokens=int((epoch == 1).sum()) * sequence_tokens, arrays_sha256=sha256_bytes(data), seed=seed, version=scalebound.__version__,
    )  # fmt: skip
    save_struct(out.with_name(out.name + ".mix.json"), info)


def load_mixture(stream: Stream) -> Mixture | None:
    """The record of a stream's mixture; None for a stream that is none.

    Raises
    ------
    InputError
        The record is of another stream, or its arrays are not the ones it names.
    """
    from safetensors.numpy import load

    path = stream.path.with_suffix(".mix.json")
    if not path.is_file():
        return None
    info = load_struct(path, MixtureInfo)
    data = path.with_suffix(".safetensors").read_bytes()
    if info.stream_sha256 != stream.sha256 or info.arrays_sha256 != sha256_bytes(data):
        raise InputError("is the record of another stream", where=str(path), hint="build the mixture again")
    arrays = load(data)
    return Mixture(info, arrays["source"], arrays["epoch"], arrays["number"])


def first_seen(mixture: Mixture, tokens: int | None = None) -> np.ndarray:
    """Ids of the sequences (blocks of ``sequence_tokens``) that training met for the first time, ascending: what a certificate may count."""
    stop = None if tokens is None else tokens // mixture.info.sequence_tokens
    return np.flatnonzero(mixture.epoch[:stop] == 1)
