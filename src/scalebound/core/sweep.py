"""The record of a sweep: many small runs that differ in width and learning rate, or in batch size, and what came of each.

``scalebound train --sweep`` writes it as ``sweep.json``; figures and fits read it. Losses are nats per token.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA = "scalebound.sweep/1"


class SweepRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run. ``loss`` is None when it stopped at a loss that is no number."""

    parametrization: str
    width: int
    params: int
    lr: float  # peak, as the recipe gives it: before the parametrization's factors
    batch_tokens: int
    steps: int
    loss: float | None  # mean online loss of the last tenth
    max_logit: float | None  # the largest attention logit seen in any layer
    run: str  # folder, relative to the sweep's


class Sweep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A finished sweep."""

    schema: str = SCHEMA
    kind: Literal["lr", "batch"]
    runs: tuple[SweepRun, ...]
    initial_loss: float  # of guessing uniformly: log of the vocabulary
    stream_sha256: str
    seed: int
    version: str


Sweep.SCHEMA = SCHEMA  # type: ignore[attr-defined]
