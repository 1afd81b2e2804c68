"""Settings of a certificate that are fixed in advance, and what each method takes when nothing was said.

Defaults are constants of this file: the same for every stream, they depend on which arrays a file holds and never on its values, so they
cost nothing. What is picked from a list after looking is paid for in bits; so is a default changed after looking.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scalebound.core.certificate import Centre, Choice, Shares
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats

METHODS = ("product", "freedman", "anchored", "heldout", "trajectory")
UNIFORM_ALPHAS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
ANCHORED_ALPHAS = (0.05, 0.1, 0.2, 0.4)
STREAM_ALPHA = 2.0**-13  # held-out and trajectory: with no code to pay for, a small share costs less than a list
EPS = 0.01  # share of uniform inside the reference, when the measurement did not fix another


def zero() -> tuple[Centre, ...]:
    return (Centre(kind="zero"),)


def equal(*centres: tuple[str, float]) -> tuple[Centre, ...]:
    """Centres of equal weight from (kind, y_min)."""
    return tuple(Centre(kind=kind, y_min=y_min, weight=1 / len(centres)) for kind, y_min in centres)  # type: ignore[arg-type]


def default_centres(method: str, stats: Stats, vocab_size: int, alphas: Sequence[float], *, kl: bool) -> tuple[Centre, ...]:
    """The mixture of centres of a method, given which arrays the file holds.

    product: zero, and the entropy clipped below at 0.5, 1 and 2; heldout: zero and the entropy; freedman: the entropy alone, as in the
    paper; anchored: zero, and with the centres measured, those clipped at -0.25, -0.5 and -1; trajectory, and whatever has no entropy:
    zero.
    Clips at or above ``log V`` are left out.
    """
    if method == "anchored":
        return equal(("zero", 0.0), ("kl", -0.25), ("kl", -0.5), ("kl", -1.0)) if kl else zero()
    if method == "trajectory" or "entropy" not in stats:
        return zero()
    if method == "freedman":
        return equal(("entropy", 0.0))
    if method == "heldout":
        return equal(("zero", 0.0), ("entropy", 0.0))
    return equal(("zero", 0.0), *[("entropy", y) for y in (0.5, 1.0, 2.0) if y < math.log(vocab_size)])


def default_shares(*, anchored: bool, sampled: bool) -> Shares:
    """How delta is divided: the part that carries the code needs little of it, sampling as much as can be spared."""
    if anchored:
        return Shares(difference=0.03, reference=0.47, subsampling=0.5) if sampled else Shares(difference=0.05, reference=0.95)
    return Shares(difference=0.5, subsampling=0.5) if sampled else Shares()


def check_shares(shares: Shares, *, anchored: bool, sampled: bool) -> Shares:
    """The shares, or :class:`UsageError` when one is missing, idle or they sum to more than 1."""
    used = {"difference": True, "reference": anchored, "subsampling": sampled}
    for name, needed in used.items():
        value = getattr(shares, name)
        if not (0 < value <= 1 if needed else value == 0):
            raise UsageError(
                f"the share {name!r} is {value}",
                where="delta_shares",
                expected="inside (0, 1]" if needed else "0: this certificate has no such part",
            )
    if math.fsum([shares.difference, shares.reference, shares.subsampling]) > 1:
        raise UsageError("the shares sum to more than 1", where="delta_shares")
    return shares


def settle_alphas(method: str, alpha: float | None, alphas: Sequence[float] | None, measured: Sequence[float]) -> tuple[float, ...]:
    """The candidates for alpha: one that was fixed, a list given, or the method's own; each inside (0, 1), none twice."""
    if alpha is not None and alphas is not None:
        raise UsageError("alpha is fixed and a list was given", where="--alpha and --alphas", expected="one of them")
    if alpha is not None:
        found: tuple[float, ...] = (alpha,)
    elif alphas is not None:
        found = tuple(alphas)
    elif method == "anchored":
        found = tuple(measured) or ANCHORED_ALPHAS
    else:
        found = (STREAM_ALPHA,) if method in ("heldout", "trajectory") else UNIFORM_ALPHAS
    if not found or len(set(found)) != len(found) or not all(0 < value < 1 for value in found):
        raise UsageError(
            f"alphas are {', '.join(map(str, found)) or 'none'}", where="--alphas", expected="numbers inside (0, 1), each once"
        )
    return found


def settle_choices(choices: Sequence[Choice], alphas: Sequence[float]) -> tuple[Choice, ...]:
    """All choices, the one of alpha first; a setting may stand once."""
    found = (*([Choice(setting="alpha", options=len(alphas))] if len(alphas) > 1 else []), *choices)
    names = [choice.setting for choice in found]
    if len(set(names)) != len(names):
        raise UsageError("a setting is listed twice", where="--choice", expected="every setting once; alpha is counted from --alphas")
    if "" in names or any(choice.options < 2 for choice in choices):
        raise UsageError("a choice needs a name and at least two options", where="--choice", expected="for example bits=7")
    return found


def settle_vocab(stats: Stats, vocab_size: int, reference: Stats | None) -> int:
    """The vocabulary size, the same wherever it is stated."""
    measured = stats.info.vocab_size
    if vocab_size and measured and vocab_size != measured:
        raise InputError(f"was measured with a vocabulary of {measured:,}", where=stats.path, expected=f"{vocab_size:,} as stated")
    size = measured or vocab_size
    if size < 2:
        raise UsageError("the vocabulary size is not known", where="--vocab-size", expected="at least 2", hint="add --vocab-size V")
    if reference is not None and reference.info.vocab_size not in (0, size):
        raise InputError(
            f"was measured with a vocabulary of {reference.info.vocab_size:,}",
            where=reference.path,
            expected=f"{size:,} as in {stats.path}",
        )
    return size


def settle_window(method: str, stats: Stats, window: float | tuple[int, int] | None, stream_tokens: int) -> tuple[tuple[int, int], int]:
    """The window in stream tokens and the position in the file at which it starts.

    trajectory: a fraction (the last part of the file's window; 0.1 when nothing is said) or a range of stream tokens. Other methods: the
    file's window; ``stream_tokens`` extends it only when the file has no block structure and is a uniform sample of tokens.
    """
    low, high = stats.info.window
    if method != "trajectory":
        if window is not None:
            raise UsageError(
                "a window is a setting of trajectory certificates", where="--window", expected="the whole file for other methods"
            )
        if stream_tokens and stats.info.kind == "bare":
            return (low, low + stream_tokens), 0
        if stream_tokens and stream_tokens != high - low:
            raise InputError(
                f"is about {high - low:,} tokens", where=stats.path, expected=f"{stream_tokens:,} as stated with --stream-tokens"
            )
        return (low, high), 0
    if not stats.complete:
        raise InputError(
            "holds a part of its window only", where=stats.path, expected="every token: a trajectory cannot be sampled afterwards"
        )
    if window is None or isinstance(window, float):
        fraction = 0.1 if window is None else window
        if not 0 < fraction <= 1:
            raise UsageError(f"window is {fraction}", where="--window", expected="a fraction in (0, 1], or START:STOP in stream tokens")
        start, stop = high - max(1, round(fraction * (high - low))), high
    else:
        start, stop = window
    if not low <= start < stop <= high:
        raise UsageError(
            f"window is {start}:{stop}", where="--window", expected=f"inside {low}:{high}, the tokens of {stats.path or 'the file'}"
        )
    return (start, stop), start - low
