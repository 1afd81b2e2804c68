"""What a measurement will do, decided before its first token and kept beside it: who scores which tokens how, in which parts and batches.

Everything that could change a bit of the result is in the plan, so workers and resumed runs that read the same plan write the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

import scalebound
from scalebound.core.errors import InputError, UsageError
from scalebound.core.io import relative
from scalebound.core.seeds import generator
from scalebound.core.stats import AnchorRef, ModelRef, Policy, StatsInfo
from scalebound.data.stream import Stream
from scalebound.data.tokenizer import load_tokenizer
from scalebound.measure.provenance import check_anchor
from scalebound.measure.shapes import Shapes, Trial
from scalebound.measure.spans import POLICIES
from scalebound.models.language_model import LanguageModel


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the parts beside a measurement belong to. ``trials``: what was timed to choose the ``shapes``; none when the rule chose them."""

    schema: str = "scalebound.plan/4"
    info: StatsInfo
    blocks_sha256: str
    part_blocks: int
    shapes: Shapes
    trials: tuple[Trial, ...] = ()
    device: str = "cpu"
    dtype: str = "float32"
    sketch: bool = False
    top_k: int = 0
    ranks: int = 1


Plan.SCHEMA = "scalebound.plan/4"  # type: ignore[attr-defined]


def check_request(model: LanguageModel, anchor: LanguageModel | None, stream: Stream, context: int, window: tuple[int, int], alphas: Sequence[float], eps: float,
                  policy: str, stride: int | None) -> None:  # fmt: skip
    """Raise unless the model can score this window of this stream this way."""
    stream.check()
    if policy not in POLICIES:
        raise UsageError(f"policy = {policy!r}", expected=f"one of {', '.join(POLICIES)}")
    if not 2 <= context <= model.max_context:
        raise UsageError(f"context = {context:,}", expected=f"between 2 and the model's {model.max_context:,}")
    if (stride is not None) != (policy == "sliding"):
        raise UsageError(f"stride = {stride} with the policy {policy!r}", expected="a stride with the policy 'sliding' and with no other", hint="--policy sliding --stride 256")
    if stride is not None and not 1 <= stride <= context:
        raise UsageError(f"stride = {stride:,}", expected=f"between 1 and the context ({context:,})")
    if not 0 <= window[0] < window[1] <= len(stream):
        raise UsageError(f"window = {window}", expected=f"a range inside the stream's {len(stream):,} tokens")
    if stream.info.vocab_size > model.vocab_size:
        raise InputError(f"has token ids up to {stream.info.vocab_size - 1:,}", where=str(stream.path), expected=f"the model's vocabulary ({model.vocab_size:,})")
    _check_tokenizer(model, stream)
    if anchor is None:
        return
    if anchor.vocab_size != model.vocab_size:
        raise InputError(f"predicts {anchor.vocab_size:,} tokens", where=anchor.name, expected=f"{model.vocab_size:,}, as the model it anchors")
    if context > anchor.max_context:
        raise UsageError(f"context = {context:,}", expected=f"at most the anchor's {anchor.max_context:,}")
    if not 0 < eps < 1 or not alphas or not all(0 < alpha < 1 for alpha in alphas):
        raise UsageError(f"eps = {eps}, alphas = {tuple(alphas)}", expected="numbers between 0 and 1")


def _check_tokenizer(model: LanguageModel, stream: Stream) -> None:
    """A model that names its tokenizer must be given a stream made with it: other ids would be scored without a complaint."""
    path = os.path.join(model.tokenizer, "tokenizer.json") if os.path.isdir(model.tokenizer) else model.tokenizer
    if path == "byte" or not os.path.isfile(path) or model.vocab_size == 256:
        return
    own = load_tokenizer(path)
    if own.sha256 == stream.info.tokenizer.sha256:
        return
    if stream.info.tokenizer.kind != "byte" and stream.tokenizer().vocabulary() == own.vocabulary():
        return  # the same tokens, written down another way
    raise InputError("was made with another tokenizer than the model's", where=str(stream.path), expected=f"the tokens of {path}", hint="measure the text itself, or build the stream with the model's tokenizer")


def describe(model: LanguageModel, anchor: LanguageModel | None, stream: Stream, window: tuple[int, int], context: int, anchor_is: AnchorRef | None, eps: float,
             alphas: tuple[float, ...], folder: Path, *, anchor_path: str | os.PathLike | None = None, policy: str = "packed", stride: int | None = None, dtype: str = "float32", predictable: str = "") -> StatsInfo:  # fmt: skip
    """The metadata of the file to come, without the counts. Arithmetic in another precision than float32 is said in the model's name."""
    first = stream.info.separator if stream.info.tokenizer.kind == "byte" else model.first_token
    ref = None
    if anchor is not None:
        trained, why = check_anchor(anchor_path or anchor.name, stream, window)
        same = trained is not None and trained.stream_sha256 == stream.sha256
        known = anchor_is or AnchorRef(kind="checkpoint" if same else "model", deployable=True, predictable=why)
        ref = msgspec.structs.replace(known, trained=trained, sha256=anchor.sha256, name=relative(anchor.name, folder), eps=eps, alphas=alphas)
    name = relative(model.name, folder) + ("" if dtype == "float32" else f" ({dtype})")
    return StatsInfo(
        model=ModelRef(name, model.sha256, model.num_params), stream=stream.ref(folder), window=window, vocab_size=model.vocab_size, anchor=ref,
        policy=Policy(policy, context, first), block_tokens=stride or context, predictable=predictable, version=scalebound.__version__,
    )  # fmt: skip


def draw_blocks(num_blocks: int, sample: int | None, seed: int, *, ragged: bool) -> np.ndarray:
    """Ids of the blocks to score: all, or a sample without replacement and the ragged last one."""
    if sample is None:
        return np.arange(num_blocks, dtype=np.int64)
    whole = num_blocks - ragged
    if not 1 <= sample <= whole:
        raise UsageError(f"sample = {sample:,} blocks", expected=f"between 1 and {whole:,}")
    drawn = np.sort(generator(seed, "subsample").choice(whole, size=sample, replace=False)).astype(np.int64)
    return np.append(drawn, whole) if ragged else drawn
