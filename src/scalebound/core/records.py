"""What ``interval``, ``compare`` and ``certify-prompt`` save: one JSON file each, with everything the checker needs to recompute it.

Field by field in docs/formats.md. As for certificates, two programs read them: this library, and ``scalebound_verify``, which shares no code
with it. Files are named by relative path and SHA-256.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

import scalebound
from scalebound.core.certificate import FileRef, file_ref
from scalebound.core.io import save_struct


class IntervalInputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    stats: FileRef
    stream: FileRef = FileRef()  # where documents are the units


class IntervalRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An interval for a mean loss (docs/mathematics.md section 10)."""

    schema: str = "scalebound.interval/1"
    mean: float
    mean_smoothed: float
    low: float
    high: float
    level: float
    n: int  # tokens, or units
    unit: str
    target: str
    alpha: float  # 0 with a maximum
    maximum: float | None
    sigma: float | None
    horizon: int
    vocab_size: int
    units: str  # "tokens", "documents", or the column of a .csv whose runs of equal values are units
    inputs: IntervalInputs
    version: str = scalebound.__version__


class CompareInputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    a: FileRef
    b: FileRef
    stream: FileRef = FileRef()


class CompareRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A comparison of two models on the same tokens (docs/mathematics.md section 10)."""

    schema: str = "scalebound.compare/1"
    difference: float
    low: float
    high: float
    level: float
    e_value: float
    log_e_value: float
    p_value: float
    verdict: Literal["better_a", "better_b", "equal", "undecided"]
    n: int
    alpha: float
    epsilon: float
    sigma: float | None
    horizon: int
    units: str
    inputs: CompareInputs
    version: str = scalebound.__version__


class PromptLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    prompt: str
    mean: float
    code_bits: float
    bound: float
    uniform_bound: float


class PromptInputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    table: FileRef  # prompts, code lengths, and a row of 0 and 1 for each


class PromptRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds for every prompt of a list at once (docs/mathematics.md section 18)."""

    schema: str = "scalebound.prompts/1"
    delta: float
    items: int
    best: int
    bound: float
    prompts: tuple[PromptLine, ...]
    heldout_prompt: int
    heldout_bound: float
    inputs: PromptInputs
    version: str = scalebound.__version__


RECORDS: dict[str, tuple[type, type]] = {"interval": (IntervalRecord, IntervalInputs), "compare": (CompareRecord, CompareInputs), "prompts": (PromptRecord, PromptInputs)}


def save_record(kind: str, out: str | os.PathLike, fields: Mapping[str, Any], files: Mapping[str, str | os.PathLike | None]) -> Path:
    """Write a record of one of :data:`RECORDS`. ``fields`` may hold more than it takes; ``files`` are named relative to it and hashed."""
    record, inputs = RECORDS[kind]
    taken = {name: value for name, value in fields.items() if name in record.__struct_fields__}  # type: ignore[attr-defined]
    named = inputs(**{name: file_ref(path, Path(out).parent) for name, path in files.items()})
    return save_struct(out, record(**taken, inputs=named))


for _kind, (_record, _) in RECORDS.items():
    _record.SCHEMA = f"scalebound.{_kind}/1"  # type: ignore[attr-defined]
