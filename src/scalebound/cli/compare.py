"""``scalebound compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scalebound.cli.output import Result, table

if TYPE_CHECKING:
    from scalebound.certify import Comparison

WORDS = {"better_a": "A predicts better", "better_b": "B predicts better", "equal": "equal within epsilon", "undecided": "not yet"}


def compare(
    a: Path,
    b: Path,
    *more: Path,
    level: float = 0.95,
    epsilon: float = 0.0,
    alpha: float | None = None,
    sigma: float | None = None,
    horizon: int | None = None,
    unit: Literal["tokens", "documents"] = "tokens",
    stream: Path | None = None,
    group: str = "",
    out: Path | None = None,
) -> Result:
    """Decide which of two or more models predicts the same tokens better, with evidence that is valid at every length.

    With more than two models, all pairs are compared and the expected share of false claims is kept at 1 - level (e-BH). Each model is mixed with a share --alpha of the other, which bounds the difference; the claim is about the mixed pair.

    Parameters
    ----------
    a
        Losses of the first model.
    b
        Losses of the second, on the same tokens in the same order.
    more
        Losses of further models.
    level
        Confidence of the interval for the mean difference, A minus B.
    epsilon
        Say "equal" when the whole interval lies within this many nats of 0.
    alpha
        Share mixed in, fixed in advance, below 1/2. Default 0.01.
    sigma
        Standard deviation of the difference per token, named in advance.
    horizon
        Number of tokens (or units) at which the interval should be shortest, named in advance.
    unit
        What counts once: a token, or a document of the stream.
    stream
        The stream's .json, when it is no longer where the statistics say (for --unit documents).
    group
        Of a .csv, the column whose runs of equal values are units, such as item or document.
    out
        Save the comparison of two models with its settings and the hashes of its files (.json), for `scalebound verify`.

    Examples
    --------
    scalebound compare full.safetensors quantized.safetensors --epsilon 0.01

    scalebound compare a.npy b.npy c.npy --level 0.99 --json

    next: scalebound compare a.safetensors b.safetensors --out ab.json, then scalebound verify ab.json
    """
    from dataclasses import asdict

    from scalebound.certify import compare as run
    from scalebound.certify import compare_many
    from scalebound.certify.compare import MIXED
    from scalebound.cli.interval import horizon_of, stream_of_units, units_of
    from scalebound.core.errors import UsageError
    from scalebound.core.records import save_record
    from scalebound.core.stats import open_losses

    if more and out is not None:
        raise UsageError("a record is about two models", where="--out", expected="two files; save the pairs that matter one by one")
    files = [open_losses(path) for path in (a, b, *more)]
    units = units_of(files[0], unit, stream, group)
    share = MIXED if alpha is None else alpha
    if not more:
        found = run(files[0], files[1], level=level, alpha=share, epsilon=epsilon, sigma=sigma, horizon=horizon, units=units)
        view = lines_of(found, group or unit)
        if out is not None:
            settings = {"epsilon": epsilon, "sigma": sigma, "horizon": horizon or horizon_of(files[0], units), "units": group or unit}
            save_record("compare", out, asdict(found) | settings, {"a": a, "b": b, "stream": stream_of_units(files[0], unit, stream)})
            view.append(f"Written: {out}. Check it: scalebound verify {out}")
        return Result(asdict(found), view)
    ranked = compare_many(files, level=level, alpha=share, epsilon=epsilon, sigma=sigma, horizon=horizon, units=units)
    names = [str(path) for path in (a, b, *more)]
    rows, record = [], []
    for (i, j), pair in zip(ranked.indices, ranked.pairs, strict=True):
        record.append({"a": names[i], "b": names[j], **asdict(pair)})
        verdict = WORDS[pair.verdict] + (f" (about {pair.more:,} more)" if pair.more else "")
        rows.append([names[i], names[j], f"{pair.difference:+.5f}", f"[{pair.low:+.5f}, {pair.high:+.5f}]", f"{pair.e_value:.3g}", verdict])
    view = [
        table(["A", "B", "A minus B", "interval", "e-value", "verdict"], rows),
        f"Over all claims made, the expected share of false ones is at most {1 - level:.3g}, whenever you stop and however the pairs depend.",
    ]
    return Result({"models": names, "wins": list(ranked.wins), "pairs": record, "level": level}, view)


def lines_of(found: Comparison, unit: str) -> list[str]:
    """What people read of one comparison."""
    waiting = ""
    if found.verdict == "undecided":
        waiting = f"; about {found.more:,} more {unit} like these would decide" if found.more else "; more like these would not decide"
    return [
        f"{WORDS[found.verdict]}{waiting}: A minus B is {found.difference:+.5f} nats, "
        f"{100 * found.level:g}% interval [{found.low:+.5f}, {found.high:+.5f}], n = {found.n:,} {unit}",
        f"Evidence against equality: e-value {found.e_value:.4g}, p-value {found.p_value:.4g}, both valid whenever you stop. "
        f"Each model is mixed with {found.alpha:g} of the other.",
    ]
