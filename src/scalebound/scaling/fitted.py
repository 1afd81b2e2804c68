"""The fitted law as an artefact: ``scalebound.fit/1``, one JSON file with everything a forecast needs and what it was made from."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np

from scalebound.core.io import load_struct, save_struct
from scalebound.scaling.objective import Objective

SCHEMA = "scalebound.fit/1"


class ObjectiveRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was minimised; ``value`` is the sum over rows at the optimum."""

    kind: str
    delta: float
    residual: str
    asymmetry: float
    value: float


class OptimumRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The evidence that the parameters are the global minimum."""

    established: bool
    reason: str
    gradient_norm: float
    basins: int
    next_best: float | None
    starts: int
    reached: int
    at_limit: tuple[str, ...]


class BootstrapRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the draws were made: ``rows``, ``groups`` (resampled with replacement) or ``residuals`` (new noise on the fitted curve)."""

    method: str
    count: int
    seed: int
    group: str | None


class DataRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the law was fitted to."""

    source: str
    sha256: str
    columns: dict[str, str]
    where: str
    n: int
    groups: int | None
    ranges: dict[str, tuple[float, float]]
    target_range: tuple[float, float]


class ProfileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The profile of one parameter: the best objective at each fixed value. ``low``/``high`` None: open on that side."""

    name: str
    low: float | None
    high: float | None
    flat_low: float
    flat_high: float
    words: str
    values: tuple[float, ...]
    objective: tuple[float, ...]


class RefitRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The law under another choice; ``moved``: parameters that left their interval."""

    choice: str
    n: int
    params: dict[str, float]
    moved: tuple[str, ...]


class InfluenceRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What leaving out one row changes: ``shift`` in jackknife standard errors of ``parameter``."""

    row: int
    shift: float
    parameter: str


class DiagnosisRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the data do not identify, and which choices and rows the answer depends on."""

    profiles: tuple[ProfileRecord, ...]
    refits: tuple[RefitRecord, ...]
    influence: tuple[InfluenceRecord, ...]


class Fit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A law fitted to a table.

    ``params`` and ``draws`` are in natural units in the order of the law's parameters; ``covariance`` is over internal coordinates
    (logarithms for coefficients; see ``internal``). ``residuals`` are those of the objective, in row order.
    ``widening`` multiplies the half-width of forecast intervals ``widening_reach`` decades beyond ``widening_size``, the size of the largest
    run; 1 unless a backtest showed that they must be wider.
    """

    schema: str = SCHEMA
    law: str
    inputs: tuple[str, ...]
    target: str
    params: dict[str, float]
    intervals: dict[str, tuple[float, float] | None]
    level: float
    internal: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...] | None
    objective: ObjectiveRecord
    optimum: OptimumRecord
    bootstrap: BootstrapRecord
    draws: tuple[tuple[float, ...], ...]
    residuals: tuple[float, ...]
    scale: float | None
    fixed: tuple[str, ...] = ()
    diagnosis: DiagnosisRecord | None = None
    widening: float = 1.0
    widening_reason: str = ""
    widening_reach: float = 0.0
    widening_size: float = 0.0
    data: DataRecord
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    version: str

    @property
    def n(self) -> int:
        return self.data.n

    @property
    def vector(self) -> np.ndarray:
        """(p,) the parameters in the law's order."""
        return np.array(list(self.params.values()))

    def draw_matrix(self) -> np.ndarray:
        """(draws, p)"""
        return np.array(self.draws, dtype=float).reshape(len(self.draws), len(self.params))

    def how(self) -> Objective:
        """The objective as it was given to the fit."""
        record = self.objective
        return Objective(record.kind, record.delta, record.residual, record.asymmetry)

    def save(self, path: str | os.PathLike) -> Path:
        return save_struct(path, self)


Fit.SCHEMA = SCHEMA  # type: ignore[attr-defined]


def load_fit(path: str | os.PathLike) -> Fit:
    """Read a fitted law strictly; a file of another kind or with a broken field is refused with its place named."""
    fit = load_struct(path, Fit)
    width = len(fit.params)
    if any(len(draw) != width for draw in fit.draws):
        from scalebound.core.errors import InputError

        raise InputError(
            f"a bootstrap draw does not have {width} numbers", where=str(path), expected="one number per parameter in every draw"
        )
    return fit
