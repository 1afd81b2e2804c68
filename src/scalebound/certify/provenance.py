"""Which statistics may stand together in one certificate: the same tokens, the right kind, a reference that is predictable."""

from __future__ import annotations

import numpy as np

from scalebound.core.certificate import Anchor
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats


def check_method(stats: Stats, method: str, code_bits: int | None) -> None:
    if method in ("heldout", "trajectory"):
        if code_bits:
            raise UsageError(
                f"code_bits is {code_bits}", where="--code-bits", expected=f"none: the method {method!r} has no code to pay for"
            )
        if (method == "trajectory") != (stats.info.kind == "online"):
            raise InputError(
                f"holds statistics of kind {stats.info.kind!r}",
                where=stats.path,
                expected="'online' for a trajectory"
                if method == "trajectory"
                else "the losses of one model; for online losses use --method trajectory",
            )
        return
    if code_bits is None:
        raise UsageError(
            "the code length is not known",
            where="--package or --code-bits",
            expected="the package that decodes to the measured model",
            hint="make one with `scalebound compress`, or use --method heldout on a stream the model never saw",
        )
    if stats.info.kind == "online":
        raise InputError(
            "holds online losses: a different predictor at every token, which no code describes",
            where=stats.path,
            hint="use --method trajectory",
        )


def check_same_tokens(stats: Stats, other: Stats, what: str) -> None:
    a, b = stats.info, other.info
    if a.stream.sha256 and b.stream.sha256 and a.stream.sha256 != b.stream.sha256:
        raise InputError(
            f"{what} was measured on another stream", where=other.path, expected=f"stream {a.stream.sha256[:12]}.. of {stats.path}"
        )
    if "bare" not in (a.kind, b.kind) and a.window != b.window:
        raise InputError(
            f"{what} was measured on the window {b.window[0]}:{b.window[1]}",
            where=other.path,
            expected=f"{a.window[0]}:{a.window[1]} of {stats.path}",
        )
    # block ids say which tokens only when both files are cut into blocks of one size
    cut = a.block_tokens == b.block_tokens and a.block_tokens > 0
    if (
        len(other) != len(stats)
        or (cut and not np.array_equal(other.blocks, stats.blocks))
        or (not cut and not (stats.complete and other.complete))
    ):
        raise InputError(
            f"{what} has losses of {len(other):,} tokens in other places",
            where=other.path,
            expected=f"the same {len(stats):,} tokens as {stats.path}",
            hint="measure both in full, or with the same --sample and --seed",
        )


def check_reference(stats: Stats, reference: Stats | None, predictable: str) -> str:
    """Why the reference is predictable, or :class:`InputError`: one that saw the token it predicts proves nothing."""
    if reference is None:
        if "reference_nll" not in stats or stats.info.anchor is None:
            raise InputError(
                "has no reference losses",
                where=stats.path,
                hint="measure with `scalebound measure --anchor MODEL`, or give --reference STATS",
            )
        why, sha256, where = predictable or stats.info.anchor.predictable, stats.info.anchor.sha256, stats.path
        trained = stats.info.anchor.trained
        if trained is not None and trained.overlaps(stats.info.stream.sha256, stats.info.window):
            raise InputError(
                f"its anchor was trained on the tokens {trained.window[0]:,} to {trained.window[1]:,} of this stream: it saw what it predicts",
                where=where,
                expected="a predictable reference",
                hint="train one on other documents: scalebound train --anchor-slice 5%",
            )
    else:
        check_same_tokens(stats, reference, "the reference")
        why, sha256, where = predictable or reference.info.predictable, reference.info.model.sha256, reference.path
    if sha256 and sha256 == stats.info.model.sha256:
        raise InputError(
            "the reference is the certified model itself",
            where=where,
            expected="a predictor that does not depend on the model the code describes",
        )
    if not why:
        raise InputError(
            "nothing says that the reference was known before each token",
            where=where,
            expected="a predictable reference",
            hint='say why with --predictable "a model trained on tokens outside the window"',
        )
    return why


def anchor_of(stats: Stats, reference: Stats | None, *, mean_loss: float, certified: float) -> Anchor:
    if reference is None and stats.info.anchor is not None:
        known = stats.info.anchor
        return Anchor(kind=known.kind, deployable=known.deployable, sha256=known.sha256, mean_loss=mean_loss, certified=certified)
    assert reference is not None
    fixed = reference.info.kind == "model"  # losses without a model may be anyone's: nothing to deploy
    return Anchor(
        kind="model" if fixed else "online",
        deployable=fixed,
        sha256=reference.info.model.sha256,
        mean_loss=mean_loss,
        certified=certified,
    )
