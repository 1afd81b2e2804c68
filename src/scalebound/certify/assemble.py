"""From statistics and a code length to a :class:`~scalebound.core.certificate.Certificate`, for every method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import scalebound
from scalebound.certify.bound import Bound, check_confidence, log_weights, solve_freedman, solve_product
from scalebound.certify.codelength import choice_bits, reference_choice_bits
from scalebound.certify.grid import default_grid, paper_grid
from scalebound.certify.logsums import LogSums, as_grid
from scalebound.certify.parts import Part, difference_part, reference_part, uniform_part
from scalebound.certify.provenance import anchor_of, check_method, check_reference, check_same_tokens
from scalebound.certify.sampling import Evaluated, Layout, evaluate, layout_of, pilot
from scalebound.certify.settings import (
    EPS,
    METHODS,
    check_shares,
    default_centres,
    default_shares,
    settle_alphas,
    settle_choices,
    settle_vocab,
    settle_window,
)
from scalebound.certify.sketched import sketched_difference_part, sketched_reference_part, sketched_uniform_part
from scalebound.certify.wording import assumptions_of, statement_of
from scalebound.core.certificate import (
    Anchor,
    Base,
    Centre,
    Certificate,
    Choice,
    Code,
    FileRef,
    Inputs,
    Shares,
    Smoothing,
    Terms,
    Tokens,
)
from scalebound.core.errors import InputError, UsageError
from scalebound.core.sketch import Sketch
from scalebound.core.stats import Stats

MEAN_READ = 1 << 16
SKETCHED = ("The sums were bounded from a sketch of the losses, in the safe direction; the independent checker needs the losses themselves.",)


def certify(
    stats: Stats,
    *,
    method: str = "product",
    code_bits: int | None = None,
    delta: float = 0.01,
    alpha: float | None = None,
    alphas: Sequence[float] | None = None,
    eps: float | None = None,
    centres: Sequence[Centre] | None = None,
    grid: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    horizon: int | None = None,
    shares: Shares | None = None,
    choices: Sequence[Choice] = (),
    reference: Stats | None = None,
    predictable: str = "",
    full: Stats | None = None,
    window: float | tuple[int, int] | None = None,
    vocab_size: int = 0,
    stream_tokens: int = 0,
    package_sha256: str = "",
    base: Base | None = None,
    inputs: Inputs | None = None,
) -> Certificate:
    """Certify the mean expected loss of a smoothed model on a stream.

    With probability at least 1 - delta over the stream, ``bound`` is not below ``(1/n) sum_k E[-log p'(x_k | x_<k) | x_<k]``, where p' is
    the model mixed with a share alpha of the uniform distribution (or of a predictable reference: ``anchored``). Tokens may depend on each
    other in any way.

    Parameters
    ----------
    stats                   losses of the model that the code describes, in stream order, complete or of a random sample of blocks
    method                  "product" (default), "freedman" (for comparison), "anchored", "heldout" (a stream the model never saw),
                            "trajectory" (``online`` statistics)
    code_bits : bits        length of the prefix-free code, see :func:`~scalebound.certify.codelength.package_code_bits`; needed by
                            product, freedman and anchored
    delta : in (0, 1)       probability that the statement fails
    alpha, alphas           one share fixed in advance (free), or a list from which the best is taken (paid: ``log2`` of its length, in
                            bits). Default: a list of 8 (``settings.UNIFORM_ALPHAS``), the ones measured for anchored, and 2^-13 fixed for
                            heldout and trajectory
    eps : in (0, 1)         share of uniform inside the reference; default: what the reference was measured with, else 0.01
    centres                 the mixture of centres; default: ``settings.default_centres``
    grid, weights, horizon  values of s, their weights (None: uniform) and the n0 they were made for; default: ``default_grid(window
                            length)``, the paper's for freedman
    shares                  how delta is divided; default: ``settings.default_shares``
    choices                 every other setting picked after looking, with the number of options
    reference, predictable  anchored: statistics of the reference on the same tokens (default: ``reference_nll`` of ``stats``) and why it
                            is predictable, unless its file says so
    full                    statistics of the full-precision model, for the terms only
    window                  trajectory: the last fraction of the tokens (default 0.1) or a range of stream tokens, fixed in advance
    vocab_size, stream_tokens  for losses from a bare array: V, and the stream's length when the array is a uniform sample of its tokens
    package_sha256, base, inputs  recorded as given

    Returns
    -------
    Certificate             bound in nats per token, the terms that add up to it, and everything needed to recompute it

    Raises
    ------
    UsageError              an argument out of range or without meaning for the method
    InputError              statistics that do not fit: NaN or negative losses, another vocabulary, stream, window or model, a reference
                            that is not predictable

    Notes
    -----
    Exact at every length: nothing is binned, unless ``stats`` is a sketch, whose bound at the same alpha is never below this one. When alpha is picked from a list and there are more than 65,536 tokens, it is picked on 16
    stretches of 1,024 tokens; any rule is valid, since the choice is paid for. With 32 values of s and four centres on one core,
    10^6 tokens took 0.07 s at one alpha and 0.1 s with the list, 10^8 tokens 6 to 9 s; about 10 MB of memory at any length.

    Source: docs/mathematics.md sections 2 to 5 and 7 to 9.

    >>> from scalebound.core.stats import Stats, StatsInfo
    >>> losses = np.random.default_rng(0).gamma(2.0, 1.0, 100_000).astype(np.float32)
    >>> stats = Stats(StatsInfo(kind="bare", tokens=100_000, window=(0, 100_000), vocab_size=256), {"nll": losses})
    >>> certificate = certify(stats, code_bits=8025)
    >>> 2 < certificate.bound < 4, certificate.vacuous
    (True, False)
    """
    job = _settle(
        stats,
        method,
        code_bits,
        delta,
        alpha,
        alphas,
        eps,
        centres,
        grid,
        weights,
        horizon,
        shares,
        choices,
        reference,
        predictable,
        full,
        window,
        vocab_size,
        stream_tokens,
    )
    picked = job.alphas[0] if len(job.alphas) == 1 else min(job.alphas, key=job.pilot_bound)
    main = job.part(picked)
    found = job.evaluate(main)
    bits = code_bits or 0
    paid = choice_bits(job.choices)
    budget = check_confidence(delta * job.shares.difference, bits + paid)
    plain, safe = (job.solve(sums, main, budget) for sums in (found.plain, found.safe))
    bound, plain_bound, complexity, mean_smoothed = safe.value, plain.value, plain.complexity, found.mean_x
    anchor = Anchor()
    if job.reference is not None:
        ref = job.evaluate(job.reference)
        ref_budget = check_confidence(delta * job.shares.reference, reference_choice_bits(job.choices))
        ref_plain, ref_safe = (solve_product(sums, job.log_w(job.reference), ref_budget) for sums in (ref.plain, ref.safe))
        bound, plain_bound = bound + ref_safe.value, plain_bound + ref_plain.value
        complexity, mean_smoothed = complexity + ref_plain.complexity, mean_smoothed + ref.mean_x
        anchor = anchor_of(stats, reference, mean_loss=ref.mean_x, certified=ref_safe.value)
    empirical = _mean_nll(stats, job.start, job.start + job.layout.evaluated)
    terms = _terms(bound, plain_bound, complexity, mean_smoothed, empirical, empirical if full is None else _mean_nll(full, 0, len(full)))
    n, log_v = job.layout.n, math.log(job.vocab_size)
    whole_file = job.window == stats.info.window or stats.info.kind == "bare"
    first = next((j for j, c in enumerate(main.centres) if c.kind != "zero"), 0)
    smoothing = Smoothing(alpha=picked, eps=job.eps, candidates=job.alphas)
    return Certificate(
        bound=bound,
        method=method,  # type: ignore[arg-type]
        delta=delta,
        statement=statement_of(method, bound, delta, smoothing, n, job.vocab_size, anchor),
        assumptions=assumptions_of(method, stats, job.layout, job.predictable) + (SKETCHED if isinstance(stats, Sketch) else ()),
        empirical_loss=empirical,
        vacuous=bound >= log_v,
        random_guess=log_v,
        bound_bits_per_byte=bound * job.layout.evaluated / stats.info.text_bytes / math.log(2)
        if stats.info.text_bytes and whole_file
        else None,
        tokens=Tokens(stream=n, evaluated=job.layout.evaluated, unique=n),
        vocab_size=job.vocab_size,
        params=stats.info.model.params,
        code=Code(
            bits=bits,
            bits_per_parameter=bits / stats.info.model.params if stats.info.model.params else 0.0,
            choice_bits=paid,
            choices=job.choices,
            package_sha256=package_sha256,
        ),
        smoothing=smoothing,
        grid=tuple(map(float, job.grid)),
        weights=job.weights,
        horizon=job.horizon,
        centres=main.centres,
        delta_shares=job.shares,
        anchor=anchor,
        base=base or Base(),
        window=job.window,
        terms=terms,
        loss_variation=float(found.rms[first]),
        complexity_per_token=(math.log(1 / delta) + (bits + paid) * math.log(2)) / n,
        inputs=inputs or Inputs(stats=FileRef(), stream_sha256=stats.info.stream.sha256, model_sha256=stats.info.model.sha256),
        version=scalebound.__version__,
    )


@dataclass(frozen=True)
class _Job:
    """Everything settled before the losses are read."""

    part: Callable[[float], Part]  # the main part for one alpha
    reference: Part | None
    predictable: str
    solve_sums: Callable[[LogSums, np.ndarray, float], Bound]
    alphas: tuple[float, ...]
    eps: float
    choices: tuple[Choice, ...]
    grid: np.ndarray
    weights: tuple[float, ...] | None
    horizon: int
    shares: Shares
    vocab_size: int
    window: tuple[int, int]
    start: int
    layout: Layout
    delta: float
    budget: float

    def log_w(self, part: Part) -> np.ndarray:
        values = np.ones(len(self.grid)) if self.weights is None else np.asarray(self.weights)
        return log_weights(np.asarray([c.weight for c in part.centres])[:, None] * values, len(part.centres), len(values))

    def solve(self, sums: LogSums, part: Part, budget: float) -> Bound:
        return self.solve_sums(sums, self.log_w(part), budget)

    def pilot_bound(self, alpha: float) -> float:
        part = self.part(alpha)
        return self.solve(pilot(part, self.grid, self.start, self.start + self.layout.evaluated, self.layout.n), part, self.budget).value

    def evaluate(self, part: Part) -> Evaluated:
        main = self.part(self.alphas[0])
        quantities = (
            len(self.grid) * len(main.centres) + sum(c.kind != "zero" for c in main.centres) + (len(self.grid) if self.reference else 0)
        )
        # a setting picked after looking was picked on the sample too: every alternative's sampling statements must hold at once
        each = self.delta * self.shares.subsampling / (quantities * math.prod(choice.options for choice in self.choices))
        return evaluate(part, self.grid, self.layout, start=self.start, delta_each=each)


def _settle(
    stats: Stats,
    method: str,
    code_bits: int | None,
    delta: float,
    alpha: float | None,
    alphas: Sequence[float] | None,
    eps: float | None,
    centres: Sequence[Centre] | None,
    grid: Sequence[float] | None,
    weights: Sequence[float] | None,
    horizon: int | None,
    shares: Shares | None,
    choices: Sequence[Choice],
    reference: Stats | None,
    predictable: str,
    full: Stats | None,
    window: float | tuple[int, int] | None,
    vocab_size: int,
    stream_tokens: int,
) -> _Job:
    """Check every argument and file against the others; nothing of the losses' values is looked at but their validity."""
    if method not in METHODS:
        raise UsageError(f"no method {method!r}", where="--method", expected=f"one of {', '.join(METHODS)}")
    check_confidence(delta, code_bits or 0)
    check_method(stats, method, code_bits)
    vocab = settle_vocab(stats, vocab_size, reference)
    span, start = settle_window(method, stats, window, stream_tokens)
    layout = (
        layout_of(stats, span[1] - span[0])
        if method != "trajectory"
        else Layout(span[1] - span[0], 1, span[1] - span[0], span[1] - span[0], 0)
    )
    if not layout.n:
        raise InputError("holds no token", where=stats.path)
    anchored, sampled = method == "anchored", not layout.complete
    divided = check_shares(shares or default_shares(anchored=anchored, sampled=sampled), anchored=anchored, sampled=sampled)
    own = stats.info.anchor if anchored and reference is None and stats.info.anchor else None
    measured = own.alphas if own and "centre" in stats else ()
    candidates = settle_alphas(method, alpha, alphas, measured)
    paid = settle_choices(choices, candidates)
    n0 = layout.n if horizon is None else horizon
    values = as_grid(grid) if grid is not None else (paper_grid() if method == "freedman" else default_grid(n0))
    log_weights(weights, 1, len(values))  # raises when they are no weights
    share_eps, why = 0.0, ""
    if anchored:
        share_eps = eps if eps is not None else ((own.eps if own else 0.0) or EPS)
        why = check_reference(stats, reference, predictable)
        if measured and own and share_eps != own.eps:
            measured = ()  # those centres belong to another reference
    elif eps is not None or reference is not None:
        raise UsageError(f"a reference has no place in the method {method!r}", where="--eps or --reference", expected="--method anchored")
    kl = anchored and bool(measured) and set(candidates) <= set(measured)
    if anchored and centres is not None and any(c.kind == "kl" for c in centres) and not kl:
        raise InputError(
            "holds no centre for these settings", where=stats.path, expected="alphas and eps that `measure --anchor` computed it for"
        )
    if full is not None:
        check_same_tokens(stats, full, "the full-precision model")
    chosen = tuple(centres) if centres is not None else default_centres(method, stats, vocab, candidates, kl=kl)
    if any(c.kind == "entropy" for c in chosen) and "entropy" not in stats:
        raise InputError(
            "has no array 'entropy', which the centre 'entropy' needs",
            where=stats.path,
            hint="measure again with `scalebound measure`, or use --centres zero",
        )
    if method == "freedman" and len(chosen) != 1:
        raise UsageError(f"{len(chosen)} centres", where="--centres", expected="one: the inequality of section 2 has no mixture")

    if isinstance(stats, Sketch):
        _check_sketch(stats, reference, span)

    def part(value: float) -> Part:
        if isinstance(stats, Sketch):
            return sketched_difference_part(stats, vocab, value, share_eps, chosen) if anchored else sketched_uniform_part(stats, vocab, value, chosen)
        if anchored:
            return difference_part(stats, reference, vocab, value, share_eps, chosen)
        return uniform_part(stats, vocab, value, chosen)

    for value in candidates:
        part(value)  # raises when a centre does not fit
    for file in (stats, reference, full):
        if file is not None:
            file.check_values()
    total = float(np.sum(weights)) if weights is not None else 1.0
    return _Job(
        part=part,
        reference=None
        if not anchored
        else sketched_reference_part(stats, vocab, share_eps)
        if isinstance(stats, Sketch)
        else reference_part(stats, reference, vocab, share_eps),
        predictable=why,
        solve_sums=solve_freedman if method == "freedman" else solve_product,
        alphas=candidates,
        eps=share_eps,
        choices=paid,
        grid=values,
        weights=None if weights is None else tuple(float(w) / total for w in weights),
        horizon=n0,
        shares=divided,
        vocab_size=vocab,
        window=span,
        start=start,
        layout=layout,
        delta=delta,
        budget=check_confidence(delta * divided.difference, (code_bits or 0) + choice_bits(paid)),
    )


def _check_sketch(sketch: Sketch, reference: Stats | None, span: tuple[int, int]) -> None:
    if reference is not None:
        raise InputError("is a sketch: losses of a reference in another file cannot be matched to its tokens", where=sketch.path, expected="a sketch of statistics that hold the reference's losses")
    if span != sketch.info.window:
        raise InputError(f"is a sketch of the tokens {sketch.info.window[0]:,} to {sketch.info.window[1]:,}", where=sketch.path, expected=f"one of {span[0]:,} to {span[1]:,} and nothing else",
                         hint="a sketch cannot be cut: sketch the statistics of that window, or give --window with its ends")  # fmt: skip


def _mean_nll(stats: Stats, start: int, stop: int) -> float:
    if isinstance(stats, Sketch):
        return stats.mean_nll
    sums = [float(stats.read("nll", first, min(first + MEAN_READ, stop)).sum(dtype=np.float64)) for first in range(start, stop, MEAN_READ)]
    return math.fsum(sums) / (stop - start)


def _terms(bound: float, plain_bound: float, complexity: float, mean_smoothed: float, empirical: float, full_precision: float) -> Terms:
    """The decomposition; ``variance`` is what is left, so that the terms add up to the bound."""
    known = {
        "full_precision_loss": full_precision,
        "quantization": empirical - full_precision,
        "smoothing": mean_smoothed - empirical,
        "complexity": complexity,
        "subsampling": bound - plain_bound,
    }
    return Terms(**known, variance=math.fsum([bound, *[-value for value in known.values()]]))
