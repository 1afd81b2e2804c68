"""The manifest of a certified ladder, ``demo.json``: every number of the closing table, and where each came from.

``scalebound demo`` writes it last; ``scalebound report`` draws it. Paths are relative to its folder.
"""

from __future__ import annotations

import msgspec

SCHEMA = "scalebound.demo/1"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One certificate of one rung."""

    path: str
    bound: float
    vacuous: bool
    verified: bool
    checks: int  # how many the independent checker made


class Rounded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same model without training for its certificate: plain rounding, certified in the published form. For comparison."""

    package: str
    bits: int  # width, fixed in advance
    file_bytes: int
    bits_per_parameter: float
    loss: float  # over the tokens it was trained on
    certificate: Entry  # method freedman


class Rung(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model of the ladder. Losses are nats per token."""

    name: str
    params: int
    tokens: int
    flops: float
    shape: str
    run: str
    package: str
    train_loss: float  # full precision, over the tokens it was trained on
    heldout_loss: float
    quantized_loss: float  # the package, over the tokens it was trained on
    trajectory_loss: float  # mean online loss of the last tenth
    finetune_steps: int
    file_bytes: int
    bits_per_parameter: float
    certificates: dict[str, Entry]
    rounded: Rounded


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    params: float
    value: float
    low: float
    high: float


class Forecast(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the smaller rungs say of the largest, beside what happened."""

    target: str  # a column of table.csv
    law: str
    fit: str
    level: float
    rows: int  # rungs the fit saw
    prediction: Point
    truth: float
    curve: tuple[Point, ...]


class Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    params: int
    tokens: int
    run: str
    loss: float  # on the largest rung's training window


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    sha256: str
    num_documents: int
    num_bytes: int


class Demo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole ladder. Everything but ``seconds`` is equal between two runs of one seed on one machine."""

    schema: str = SCHEMA
    seed: int
    text: Text
    vocab_size: int
    context: int
    delta: float
    anchor: Anchor
    rungs: tuple[Rung, ...]  # by size, smallest first
    forecasts: tuple[Forecast, ...]
    commands: tuple[str, ...]  # what reproduces the folder, and what checks it
    hashes: dict[str, str]  # file: sha256
    host: str
    versions: dict[str, str]
    seconds: dict[str, float]  # stage: wall clock
    version: str


Demo.SCHEMA = SCHEMA  # type: ignore[attr-defined]
