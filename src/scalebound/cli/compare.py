"""``scalebound compare``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result

WORDS = {"better_a": "A predicts better", "better_b": "B predicts better", "equal": "equal within epsilon", "undecided": "undecided"}


def compare(
    a: Path,
    b: Path,
    *,
    level: float = 0.95,
    epsilon: float = 0.0,
    alpha: float | None = None,
    sigma: float | None = None,
    horizon: int | None = None,
) -> Result:
    """Decide which of two models predicts the same tokens better, with evidence that is valid at every length.

    Each model is mixed with a share --alpha of the other, which bounds the difference; the claim is about the mixed pair.

    Parameters
    ----------
    a
        Losses of the first model.
    b
        Losses of the second, on the same tokens in the same order.
    level
        Confidence of the interval for the mean difference, A minus B.
    epsilon
        Say "equal" when the whole interval lies within this many nats of 0.
    alpha
        Share mixed in, fixed in advance, below 1/2. Default 0.01.
    sigma
        Standard deviation of the difference per token, named in advance.
    horizon
        Number of tokens at which the interval should be shortest, named in advance.

    Examples
    --------
    scalebound compare full.safetensors quantized.safetensors --epsilon 0.01

    scalebound compare a.npy b.npy --level 0.99 --json

    next: scalebound interval a.safetensors
    """
    from dataclasses import asdict

    from scalebound.certify import compare as run
    from scalebound.certify.compare import MIXED
    from scalebound.core.stats import open_losses

    found = run(
        open_losses(a), open_losses(b), level=level, alpha=MIXED if alpha is None else alpha, epsilon=epsilon, sigma=sigma, horizon=horizon
    )
    lines = [
        f"{WORDS[found.verdict]}: A minus B is {found.difference:+.5f} nats/token, "
        f"{100 * level:g}% interval [{found.low:+.5f}, {found.high:+.5f}], n = {found.n:,}",
        f"Evidence against equality: e-value {found.e_value:.4g}, p-value {found.p_value:.4g}, both valid whenever you stop. "
        f"Each model is mixed with {found.alpha:g} of the other.",
    ]
    return Result(asdict(found), lines)
