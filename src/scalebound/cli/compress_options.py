"""``scalebound compress``: its options belong to one way of compressing or another, and which go together is told here."""

from __future__ import annotations

from typing import Any

from scalebound.core.errors import UsageError

# What each way takes beside MODEL and --out, by the parameter that asks for it; anything else given with it is refused.
TAKES: dict[str, tuple[str, ...]] = {
    "keep_codes": (),
    "frontier": ("stream", "step", "bits", "beside", "sequences", "tokens", "seed"),
    "base": ("step",),
    "finetune": ("stream", "tokens", "steps", "price", "reference", "alpha", "teacher", "teacher_share", "divergence", "start", "seed"),
    "gptq": ("bits", "stream", "tokens", "allocation", "rate_penalty", "sequences", "prune", "sparsity", "drop", "seed"),
    "rtn": ("step", "bits", "stream", "tokens"),
}
NEEDS = {"frontier": ("stream",), "finetune": ("stream",), "gptq": ("bits", "stream")}
FLAGS = {"gptq": "--quantizer gptq", "rtn": "plain rounding"}
TOKENS = 100_000  # to measure on, by default


def way_of(given: dict[str, Any]) -> str:
    """Which entry of TAKES the options that were ``given`` belong to; UsageError when they do not go together.

    >>> way_of({"gptq": True, "bits": "3", "stream": "docs"}), way_of({"step": "1"})
    ('gptq', 'rtn')
    """
    ways = [name for name in TAKES if name in given]
    if len(ways) > 1:
        raise UsageError(f"{flag(ways[0])} and {flag(ways[1])} were both given", expected="one of them")
    way = ways[0] if ways else "rtn"
    wrong = next((name for name in given if name not in (way, *TAKES[way])), None)
    if wrong is not None:
        homes = " or ".join(flag(other) for other, names in TAKES.items() if wrong in names)
        takes = ", ".join(map(flag, TAKES[way])) or "no other option: no weight changes, so nothing is chosen or measured"
        raise UsageError(f"{flag(wrong)} goes with {homes}, not with {flag(way)}", expected=f"{flag(way)} takes {takes}")
    lacking = next((name for name in NEEDS.get(way, ()) if name not in given), None)
    if lacking is not None:
        what = {"bits": "bits per parameter of the file", "stream": "text to calibrate on" if way == "gptq" else "the stream the model was trained on"}
        raise UsageError(f"{flag(way)} needs {flag(lacking)}", expected=what[lacking])
    if way == "rtn" and "bits" in given and "step" in given:
        raise UsageError("--bits and --step were both given", expected="one of them")
    if "alpha" in given and "reference" not in given:
        raise UsageError("--alpha was given without --reference", hint="add --reference STATS")
    lone = next((name for name in ("teacher_share", "divergence") if name in given and "teacher" not in given), None)
    if lone is not None:
        raise UsageError(f"{flag(lone)} was given without --teacher", hint="add --teacher MODEL")
    if given.get("allocation") == "evolution" and given.get("prune") == "kept":
        raise UsageError("--allocation evolution with --prune kept", expected="magnitude, wanda or sparsegpt, whose shares can be chosen")
    if "sparsity" in given and given.get("prune") in (None, "kept"):
        raise UsageError(f"--sparsity was given {'with --prune kept' if 'prune' in given else 'without --prune'}", expected="a rule: magnitude, wanda or sparsegpt")
    for name, least in (("tokens", 2), ("sequences", 1)):
        if given.get(name, least) < least:
            raise UsageError(f"{flag(name)} {given[name]}", expected=f"at least {least}")
    for name in ("drop", "sparsity", "alpha"):
        if not 0 < given.get(name, 0.5) < 1:
            raise UsageError(f"{flag(name)} {given[name]}", expected="a share above 0 and below 1")
    return way


def flag(name: str) -> str:
    """A parameter, or a way, as people type it."""
    return FLAGS.get(name) or f"--{name.replace('_', '-')}"
