"""``forecast``: a fitted law at new rows, with intervals that include the noise of a single run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scalebound.core.errors import InputError, UsageError
from scalebound.core.seeds import derive, generator
from scalebound.scaling.fit import check_level
from scalebound.scaling.fitted import Fit, load_fit
from scalebound.scaling.laws import get_law
from scalebound.scaling.laws.protocol import Law
from scalebound.scaling.rows import decades_beyond, decades_past, input_column, sizes
from scalebound.scaling.table import Table, as_table

FAR_DECADES = 1.5
LEAST_SAMPLES = 300
NEAR_AND_FAR = (0.5, 2.0)  # least and most of the backtest's mean distance that widening is scaled by


@dataclass(frozen=True)
class Forecast:
    """Predictions for rows, in their order. ``low`` and ``high`` are None when the fit has no draws."""

    target: str
    level: float
    value: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    decades_beyond: np.ndarray
    inputs: dict[str, np.ndarray]
    warnings: tuple[str, ...] = ()
    samples: np.ndarray | None = field(default=None, repr=False)  # (draws, rows), noise and widening included

    def records(self) -> list[dict]:
        """One dictionary per row: value, low, high, decades_beyond, then the inputs."""
        out = []
        for k in range(len(self.value)):
            out.append(
                {
                    "value": float(self.value[k]),
                    "low": None if self.low is None else float(self.low[k]),
                    "high": None if self.high is None else float(self.high[k]),
                    "decades_beyond": round(float(self.decades_beyond[k]), 3),
                    **{name: float(values[k]) for name, values in self.inputs.items()},
                }
            )
        return out


def law_of(fit: Fit) -> Law:
    """The law a fit was made with, on its own columns.

    Raises :class:`~scalebound.core.errors.UsageError` for a law that was a Python function: it is not in the file.
    """
    law = get_law(fit.law, fit.inputs)
    if tuple(law.inputs) != fit.inputs:
        law = get_law(f"{fit.law}:{fit.inputs[0]}")
    return law


def forecast(
    fit: Fit | str | os.PathLike,
    rows: Table | str | os.PathLike | Mapping[str, object],
    *,
    columns: str = "",
    where: str = "",
    level: float | None = None,
    group: str | None = None,
    law: Law | None = None,
    then: Sequence[Fit | str | os.PathLike] = (),
    noise: bool = True,
    seed: int = 0,
) -> Forecast:
    """Predict the target of a fitted law at new inputs.

    The interval takes every bootstrap draw of the parameters, adds a residual drawn from the fit's own (scaled up by
    ``sqrt(n/(n-p))``, since fitting makes residuals smaller than noise), and cuts the tails; then its half-width is multiplied by
    :func:`widening_at`, if a backtest asked for that. ``value`` is the fitted curve itself.

    Parameters
    ----------
    fit : a Fit or its file
    rows : a table (or mapping of arrays) with the law's input columns
    level : in (0, 1); that of the fit when not given
    group : column naming the curve of a row, for the laws of whole curves; that of the fit when not given
    law : needed only when the fitted law was a Python function
    then : further fits applied in turn to what the one before predicts (loss, then error from loss; loss at constant rate, then after the
        cooldown, whose law also reads the tokens of the rows); every draw is carried through, so that the last interval holds the
        uncertainty of all steps
    noise : False for the uncertainty of the curve alone

    Raises
    ------
    InputError      an input column is missing or not positive

    Notes
    -----
    O(draws x rows) time and memory.

    Examples
    --------
    >>> from scalebound.scaling.fit import fit as fit_law
    >>> n = np.geomspace(1e6, 1e9, 8)
    >>> found = fit_law({"params": n, "loss": 1.7 + 40 * n**-0.3}, "power", bootstrap=0)
    >>> [round(float(v), 4) for v in forecast(found, {"params": [1e10]}).value]
    [1.74]
    """
    if not isinstance(fit, Fit):
        fit = load_fit(fit)
    level = fit.level if level is None else level
    check_level(level)
    law = law_of(fit) if law is None else law
    table = as_table(rows, columns=columns, where=where)
    seen = forecast_inputs(fit, law, input_columns(table, law, group or fit.bootstrap.group), level=level, noise=noise, seed=seed)
    for k, following in enumerate(then, start=1):
        following = following if isinstance(following, Fit) else load_fit(following)
        seen = _chain(seen, following, table, level=level, noise=noise, seed=derive(seed, "chain", k))
    return seen


def _carried(first: Forecast, fit: Fit, law: Law) -> str:
    """The input of the next law that the forecast before it becomes: the only one, or the one of its name, or the loss."""
    if len(law.inputs) == 1:
        return law.inputs[0]
    alike = [name for name in law.inputs if name == first.target]
    if not alike and "loss" in law.inputs:
        alike = ["loss"]  # losses go by many names
    if not alike:
        raise UsageError(
            f"the fit of {fit.law} reads {', '.join(law.inputs)}",
            expected=f"a law of one quantity, or of {first.target}, which is forecast",
        )
    return alike[0]


def _chain(first: Forecast, fit: Fit, table: Table, *, level: float, noise: bool, seed: int) -> Forecast:
    """The next step of a chain: ``fit`` applied to every sample of ``first``."""
    law = law_of(fit)
    name = _carried(first, fit, law)
    others = {column: values for column, values in input_columns(table, law, given=name).items() if column != name}
    value = law.predict(fit.vector, {**others, name: first.value})
    beyond = np.maximum(first.decades_beyond, decades_beyond(others, fit.data.ranges)) if others else first.decades_beyond
    low_seen, high_seen = fit.data.ranges[name]
    outside = (first.value < low_seen) | (first.value > high_seen)
    warnings = [*first.warnings]
    if outside.any():
        worst = float(first.value[outside][0])
        warnings.append(
            f"the predicted {first.target} ({worst:.4g}) lies outside the range "
            f"in which {fit.target} was fitted ({low_seen:.4g} to {high_seen:.4g})"
        )
    draws = fit.draw_matrix()
    if first.samples is None or len(draws) < 20:
        warnings.append("a step of the chain has no bootstrap draws: the interval is unknown")
        return replace(
            first, target=fit.target, value=value, low=None, high=None, decades_beyond=beyond, warnings=tuple(warnings), samples=None
        )
    rng = generator(seed, "chain pairing")
    count = max(len(first.samples), len(draws))
    incoming = first.samples[rng.permutation(count) % len(first.samples)]
    chosen = draws[np.arange(count) % len(draws)]
    samples = np.stack([law.predict(draw, {**others, name: row}) for draw, row in zip(chosen, incoming, strict=True)])
    if noise:
        samples = _with_noise(fit, samples, rng)
    samples = _widened(fit, {**others, name: first.value}, samples[np.isfinite(samples).all(axis=1)])
    low, high = _interval(value, samples, level)
    return replace(
        first, target=fit.target, value=value, low=low, high=high, decades_beyond=beyond, warnings=tuple(warnings), samples=samples
    )


def _interval(value: np.ndarray, samples: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Tails of the samples; the fitted curve is always inside."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.minimum(low, value), np.maximum(high, value)


def widening_at(fit: Fit, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Factor on the half-width at each row: what a backtest asked for, scaled with the distance beyond the largest run.

    ``1 + (widening - 1) clip(d / reach, 1/2, 2)`` with d decades beyond; the limits keep it within what the backtest can have seen.
    """
    count = len(next(iter(inputs.values())))
    if fit.widening == 1.0 or not fit.widening_reach > 0:
        return np.full(count, fit.widening)
    size, _ = sizes(dict(inputs))
    return 1.0 + (fit.widening - 1.0) * np.clip(decades_past(size, fit.widening_size) / fit.widening_reach, *NEAR_AND_FAR)


def _widened(fit: Fit, inputs: Mapping[str, np.ndarray], samples: np.ndarray) -> np.ndarray:
    """Samples moved away from the middle of their interval, when a backtest asked for it: so a chain hands on the wider spread."""
    factor = widening_at(fit, inputs)
    if np.all(factor == 1.0):
        return samples
    low, high = np.quantile(samples, [(1 - fit.level) / 2, (1 + fit.level) / 2], axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        middle = 0.5 * (low + high)
        return np.where(np.isfinite(middle), middle + factor * (samples - middle), samples)


def forecast_inputs(
    fit: Fit, law: Law, inputs: dict[str, np.ndarray], *, level: float | None = None, noise: bool = True, seed: int = 0
) -> Forecast:
    """:func:`forecast` for inputs already checked."""
    level = fit.level if level is None else level
    value = law.predict(fit.vector, inputs)
    beyond = decades_beyond(inputs, fit.data.ranges)
    warnings = []
    if np.any(beyond > FAR_DECADES):
        warnings.append(
            f"a row lies {beyond.max():.1f} decades beyond the data the law was fitted to; intervals there rest on the law being right"
        )
    samples = sample(fit, law, inputs, noise=noise, seed=seed)
    if samples is None:
        warnings.append("the fit has no bootstrap draws: the interval is unknown")
        return Forecast(fit.target, level, value, None, None, beyond, inputs, tuple(warnings))
    samples = _widened(fit, inputs, samples)
    low, high = _interval(value, samples, level)
    return Forecast(fit.target, level, value, low, high, beyond, inputs, tuple(warnings), samples)


def input_columns(table: Table, law: Law, group: str | None = None, *, given: str = "") -> dict[str, np.ndarray]:
    """The law's inputs from a table, checked to be finite and positive; ``given`` is an input that comes from elsewhere."""
    found: dict[str, str] = {}
    group = group if group is not None and group in table else None
    inputs = {name: input_column(table, name, found, group) for name in law.inputs if name != given}
    positive = law.inputs if law.positive is None else law.positive
    for name, values in inputs.items():
        wrong = ~np.isfinite(values) | ((values <= 0) if name in positive else np.zeros(len(values), dtype=bool))
        if wrong.any():
            k = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"{name} is {values[k]}",
                where=f"{table.source}, row {table.rows[k]}",
                expected="a positive number" if name in positive else "a number",
            )
    return inputs


def sample(fit: Fit, law: Law, inputs: dict[str, np.ndarray], *, noise: bool = True, seed: int = 0) -> np.ndarray | None:
    """(draws, rows): the target under each draw of the parameters, with a run's noise; None without draws."""
    draws = fit.draw_matrix()
    if len(draws) < 20:
        return None
    values = law.predict(draws, inputs)
    values = values[np.isfinite(values).all(axis=1)]
    if not noise:
        return values
    # few draws (of laws dear to refit) get several runs' noise each: tails of 5% need hundreds of samples
    values = np.tile(values, (-(-LEAST_SAMPLES // max(len(values), 1)), 1))
    return _with_noise(fit, values, generator(seed, "forecast noise"))


def _with_noise(fit: Fit, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One run's noise on each value: a residual of the fit, or Student's when there are few rows."""
    r = noise_residuals(fit)
    picked = r[rng.integers(0, len(r), size=values.shape)] if fit.bootstrap.method != "residuals" else _student(fit, values.shape, rng)
    with np.errstate(over="ignore"):  # noise beyond floating point is an infinite end of an interval, which its reader handles
        return values * np.exp(picked) if fit.objective.residual == "log" else values + picked


def noise_residuals(fit: Fit) -> np.ndarray:
    """The fit's residuals, scaled to the size that noise has outside the fitted rows."""
    r = np.array(fit.residuals)
    n, p = len(r), len(fit.params) - len(fit.fixed)
    return r * np.sqrt(n / max(n - p, 1))


def _student(fit: Fit, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    freedom = max(fit.n - len(fit.params) + len(fit.fixed), 1)
    return (fit.scale or 0.0) * rng.standard_t(freedom, size=shape)
