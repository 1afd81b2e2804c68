"""The best certificate that given artefacts allow, with everything that was tried, and every choice paid.

What is searched: which package (bit width), which form (uniform smoothing, or anchored on one of several references), alpha, and eps. The
theorem holds for all models of the code at once, so choosing among packages costs nothing beyond each one's own length (except on a sample of
the tokens, where it is a choice like the others); all the rest is listed in ``code.choices``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from scalebound.certify.assemble import certify
from scalebound.certify.provenance import check_same_tokens
from scalebound.certify.settings import zero
from scalebound.core.certificate import Certificate, Choice, Inputs
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats

EPSILONS = (0.01, 0.001)  # shares of uniform inside a reference, tried when one is given
PLAIN_ALPHAS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)  # anchored without a measured centre: any alpha can be tried


@dataclass(frozen=True)
class Artefact:
    """A model as one of the codes under comparison: its losses on the stream and the length of its description."""

    stats: Stats
    code_bits: int
    package_sha256: str = ""
    name: str = ""


@dataclass(frozen=True)
class Tried:
    """One line of the table: a form, its settings, the bound in nats per token and the bits paid for choices. ``chosen`` marks the best;
    forms with ``candidate`` False are shown for comparison and could not be chosen; ``deployable`` says whether the predictor can be run as
    it stands (``scalebound export``), which a mixture with counts or online losses cannot."""

    artefact: str
    method: str
    reference: str
    centres: str
    eps: float
    alpha: float
    bound: float
    choice_bits: float
    vacuous: bool
    candidate: bool = True
    deployable: bool = True
    chosen: bool = False


def no_inputs(artefact: Artefact, reference: Stats | None, kept: Inputs) -> Inputs:
    return kept


def certify_best(
    artefacts: Sequence[Artefact],
    *,
    references: Sequence[Stats] = (),
    epsilons: Sequence[float] = EPSILONS,
    delta: float = 0.01,
    full: Stats | None = None,
    vocab_size: int = 0,
    choices: Sequence[Choice] = (),
    compare: bool = True,
    deployable: bool = False,
    inputs: Callable[[Artefact, Stats | None, Inputs], Inputs] = no_inputs,
) -> tuple[Certificate, tuple[Tried, ...]]:
    """Try every form and keep the smallest bound.

    Forms: ``product`` with the default mixture of centres, and ``anchored`` for each reference (the one measured with an artefact, and each
    of ``references``), each eps, and both with the centre that was measured for some alphas and without it for any. With k forms of
    reference ("none" is one) and m values of eps, each form pays ``log2 k`` bits, an anchored one ``log2 m`` more, in both its parts, and in
    the main part 1 bit for the centre and alpha's list: the probability that any of the statements compared is false is at most delta.

    Parameters
    ----------
    artefacts           models with their code lengths, all measured on the same tokens
    references          statistics of predictable references on these tokens, each saying why it is predictable
    epsilons            values of eps, fixed in advance
    choices             whatever else was picked after looking
    compare             also compute the published inequality, as a line of the table that cannot be chosen
    deployable          only predictors that can be run as they stand are candidates; other references are shown for comparison, and not paid for
    inputs              fills in the files' names and hashes for the artefact and reference that won

    Returns
    -------
    Certificate, (Tried, ...)     the best certificate, and the table in the order tried

    Raises
    ------
    UsageError, InputError        as :func:`~scalebound.certify.assemble.certify`; artefacts measured on different tokens

    Source: docs/mathematics.md section 15.

    >>> import numpy as np
    >>> from scalebound.core.stats import StatsInfo
    >>> losses = np.random.default_rng(0).gamma(2.0, 1.0, 100_000).astype(np.float32)
    >>> info = StatsInfo(kind="bare", tokens=100_000, window=(0, 100_000), vocab_size=256)
    >>> three, two = Artefact(Stats(info, {"nll": losses}), 30_000), Artefact(Stats(info, {"nll": losses * 1.1}), 8_000)
    >>> best, table = certify_best([three, two], compare=False)
    >>> best.code.bits, [line.chosen for line in table]
    (8000, [False, True])
    """
    if not artefacts:
        raise UsageError("no model to certify", where="certify_best", expected="at least one artefact")
    if not epsilons or len(set(epsilons)) != len(epsilons):
        raise UsageError(f"eps is picked from {list(epsilons)}", where="epsilons", expected="at least one value, each once")
    if any(choice.setting in ("alpha", "eps", "reference", "centres", "package") for choice in choices):
        raise UsageError("alpha, eps, reference, centres and package are counted already", where="--choice", expected="other settings")
    for other in artefacts[1:]:
        check_same_tokens(artefacts[0].stats, other.stats, "another package")
    own = [artefact.stats.info.anchor is not None and "reference_nll" in artefact.stats for artefact in artefacts]
    anchors = {artefact.stats.info.anchor.sha256 for artefact, has in zip(artefacts, own, strict=True) if has and artefact.stats.info.anchor}
    if len(anchors) > 1:
        raise InputError("was measured with another anchor than the first", where=artefacts[-1].stats.path, expected="one anchor for all packages")
    fixed = [reference.info.kind != "online" for reference in references]
    first = next((artefact.stats.info.anchor for artefact, has in zip(artefacts, own, strict=True) if has), None)
    runs = first is not None and first.deployable  # the measured anchor's mixture can be run
    # forms that could be chosen: plain, with the measured anchor, with each reference
    forms = 1 + (bool(anchors) and (runs or not deployable)) + (sum(fixed) if deployable else len(references))
    paid = [*choices, *([Choice(setting="reference", options=forms)] if forms > 1 else [])]
    if len(artefacts) > 1 and not artefacts[0].stats.complete:  # the code pays for packages in (3), nothing does in what a sample says of the rest
        paid.append(Choice(setting="package", options=len(artefacts)))
    paid_anchored = [*paid, *([Choice(setting="eps", options=len(epsilons))] if len(epsilons) > 1 else []), Choice(setting="centres", options=2)]

    found: list[tuple[Certificate, Tried, Artefact, Stats | None]] = []
    for artefact, has in zip(artefacts, own, strict=True):
        plans: list[tuple[str, Stats | None, float | None, tuple[float, ...] | None]] = [("freedman", None, None, None)] if compare else []
        plans.append(("product", None, None, None))
        anchor = artefact.stats.info.anchor
        if has and anchor is not None and "centre" in artefact.stats and anchor.eps in epsilons:
            plans.append(("anchored", None, anchor.eps, None))
        plans += [("anchored", source, eps, PLAIN_ALPHAS) for source in ([None] if has else []) + list(references) for eps in epsilons]
        for method, source, eps, alphas in plans:
            certificate = certify(
                artefact.stats,
                method=method,
                code_bits=artefact.code_bits,
                delta=delta,
                eps=eps,
                alphas=alphas,
                centres=zero() if alphas else None,
                choices=(paid_anchored if method == "anchored" else paid) if method != "freedman" else choices,
                reference=source,
                full=full,
                vocab_size=vocab_size,
                package_sha256=artefact.package_sha256,
            )
            named = "" if method != "anchored" else (source.path or source.info.model.name) if source is not None else "measured anchor"
            line = Tried(
                artefact.name, method, named, "+".join(dict.fromkeys(c.kind for c in certificate.centres)), certificate.smoothing.eps, certificate.smoothing.alpha, certificate.bound,
                certificate.code.choice_bits, certificate.vacuous, candidate=method != "freedman" and (certificate.anchor.deployable or not deployable),
                deployable=certificate.anchor.deployable,
            )  # fmt: skip
            found.append((certificate, line, artefact, source))
    best = min((k for k, (_, line, _, _) in enumerate(found) if line.candidate), key=lambda k: found[k][0].bound)
    certificate, _, artefact, source = found[best]
    lines = tuple(replace(line, chosen=True) if k == best else line for k, (_, line, _, _) in enumerate(found))
    return msgspec.structs.replace(certificate, inputs=inputs(artefact, source, certificate.inputs)), lines
