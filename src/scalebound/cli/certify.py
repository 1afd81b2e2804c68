"""``scalebound certify``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from scalebound.cli.output import Result, note, table

if TYPE_CHECKING:
    from scalebound.core.certificate import Base, Certificate, Choice
    from scalebound.core.stats import Stats


def certify(
    stats: Path,
    *,
    package: Path | None = None,
    base: Path | None = None,
    code_bits: int | None = None,
    full: Path | None = None,
    reference: Path | None = None,
    predictable: str = "",
    method: Literal["product", "freedman", "anchored", "heldout", "trajectory"] = "product",
    alpha: float | None = None,
    alphas: str | None = None,
    eps: float | None = None,
    delta: float = 0.01,
    window: str | None = None,
    centres: str | None = None,
    horizon: int | None = None,
    choice: Annotated[tuple[str, ...], Parameter(consume_multiple=False)] = (),
    vocab_size: int = 0,
    stream_tokens: int = 0,
    require: float | None = None,
    best: bool = False,
    deployable: bool = False,
    also: Annotated[tuple[str, ...], Parameter(consume_multiple=False)] = (),
    also_reference: Annotated[tuple[Path, ...], Parameter(consume_multiple=False)] = (),
    survey: bool = False,
    heldout: Path | None = None,
    online: Path | None = None,
    weights: Path | None = None,
    out: Path | None = None,
) -> Result:
    """Prove a bound on the mean expected loss of a (smoothed) model on a stream, and write it as a certificate.

    product: from training losses and the size of the model's package. anchored: the same, relative to a reference known beforehand;
    usually tightest.
    freedman: the published inequality, for comparison. heldout: a stream the model never saw, no package. trajectory: online losses of one
    epoch, no package.

    Parameters
    ----------
    stats
        Losses in stream order: a stats file, .npy, or .csv with a column nll.
    package
        The .sbz file that decodes to the measured model; its size is the code length.
    base
        Of a package of `compress --base`: the model it is relative to, known before the window. Both this command and `verify` rebuild the
        measured model from it; `verify` reads packages and folders with one model.safetensors.
    code_bits
        The code length in bits, self-delimitation included, when there is no package.
    full
        Statistics of the full-precision model, for the decomposition.
    reference
        Statistics of the reference on the same tokens (anchored). Default: the anchor's losses in STATS.
    predictable
        Why the reference was known before each token, unless its file says so.
    method
        The form of the certificate.
    alpha
        Share mixed in, fixed in advance.
    alphas
        Shares separated by commas, of which the best is taken and paid for. Default: a list of 8; anchored: the measured ones; heldout and
        trajectory: 2^-13 fixed.
    eps
        Share of uniform inside the reference. Default: as measured.
    delta
        Probability that the statement fails.
    window
        trajectory: the last fraction of the tokens (default 0.1) or START:STOP in stream tokens, fixed in advance.
    centres
        The mixture of centres, such as zero,entropy:0.5,running:1 (kind and clip). Default: by method.
    horizon
        Number of tokens the grid is made for. Default: the window's length.
    choice
        Another setting picked after looking and its number of options, such as bits=7. May be repeated.
    vocab_size
        For losses from a bare array.
    stream_tokens
        The stream's length, when a bare array is a uniform sample of its tokens.
    require
        Exit with status 1 unless the bound is at most this many nats per token.
    best
        Try every form, alpha and eps, and keep the smallest bound, all choices paid; prints the table of what was tried.
    deployable
        With --best: keep only what can be run as it stands (scalebound export), not mixtures with counts or online losses.
    also
        With --best: another package of the same run as STATS=PACKAGE, such as another bit width. May be repeated.
    also_reference
        With --best: a further reference. May be repeated.
    survey
        Show what published bounds give for the same run, with their assumptions, instead of writing a certificate.
    heldout
        With --survey: statistics on a stream the model never saw.
    online
        With --survey: the run's online losses.
    weights
        With --survey: the run, for bounds from its weights (PAC-Bayes, sharpness, norms); some 800 short passes of the model.
    out
        The certificate to write (.json).

    Examples
    --------
    scalebound certify runs/demo/rungs/59760/train.safetensors --package runs/demo/rungs/59760/model.sbz --out product.json

    scalebound certify runs/demo/rungs/60k/train.safetensors --package runs/demo/rungs/60k/model.sbz --best --out best.json

    scalebound certify runs/small/online.safetensors --method trajectory --window 0.1 --out trajectory.json

    next: scalebound verify product.json
    """
    import msgspec

    from scalebound.certify import certify as run
    from scalebound.certify import package_code_bits
    from scalebound.certify.parts import parse_centres
    from scalebound.core.certificate import Inputs, file_ref
    from scalebound.core.errors import UsageError
    from scalebound.core.io import sha256_file
    from scalebound.core.stats import open_losses

    losses = open_losses(stats, vocab_size=vocab_size)
    if package is not None and code_bits is not None:
        raise UsageError("a package and a code length were given", where="--package and --code-bits", expected="one of them")
    package_sha256, based, base_file = "", None, None
    if base is not None and (package is None or survey):
        raise UsageError("belongs to a package", where="--base", expected="--package M.sbz, without --survey")
    if package is not None:
        package_sha256 = sha256_file(package)
        based, base_file = check_package(package, losses, base)
        if method not in ("heldout", "trajectory"):
            code_bits = package_code_bits(os.stat(package).st_size)
    folder = out.parent if out is not None else Path()
    stream = find_stream(losses)
    if best:
        fixed = {"--method": method != "product", "--alpha": alpha is not None, "--alphas": alphas is not None, "--eps": eps is not None,
                 "--centres": centres is not None, "--window": window is not None, "--horizon": horizon is not None, "--stream-tokens": stream_tokens,
                 "--predictable": predictable}  # fmt: skip
        for flag, given in fixed.items():
            if given:
                raise UsageError("is what --best looks for itself, or has no place in it", where=flag, expected="--best without it")
        return certify_best_of(
            stats, package, code_bits, losses, also=also, references=[*([reference] if reference else []), *also_reference], delta=delta, full=full,
            vocab_size=vocab_size, choice=choice, require=require, out=out, deployable=deployable, based=based, base_file=base_file,
        )  # fmt: skip
    if deployable:
        raise UsageError("belongs to --best", where="--deployable", expected="--best")
    if survey:
        if code_bits is None or out is not None or require is not None:
            raise UsageError("--survey shows a table for a model with a package", where="--survey", expected="--package or --code-bits, without --out and --require")
        return survey_of(losses, code_bits, delta, heldout, online, vocab_size, stream, weights)
    if heldout or online or weights:
        raise UsageError("belong to --survey", where="--heldout, --online and --weights", expected="--survey, or STATS with --method heldout or trajectory")
    if also or also_reference:
        raise UsageError("several packages or references need --best", where="--also", expected="--best")
    inputs = Inputs(
        stats=file_ref(stats, folder),
        reference=file_ref(reference, folder),
        full=file_ref(full, folder),
        package=file_ref(package, folder),
        stream=file_ref(stream, folder),
        base=file_ref(base_file, folder),
        stream_sha256=losses.info.stream.sha256,
        model_sha256=losses.info.model.sha256,
    )
    certificate = run(
        losses,
        method=method,
        code_bits=code_bits,
        delta=delta,
        alpha=alpha,
        alphas=parse_list(alphas, "--alphas") if alphas is not None else None,
        eps=eps,
        centres=parse_centres(centres) if centres is not None else None,
        horizon=horizon,
        choices=[parse_choice(text) for text in choice],
        reference=open_losses(reference, vocab_size=vocab_size) if reference else None,
        predictable=predictable,
        full=open_losses(full, vocab_size=vocab_size) if full else None,
        window=parse_window(window),
        vocab_size=vocab_size,
        stream_tokens=stream_tokens,
        package_sha256=package_sha256,
        inputs=inputs,
        base=based,
    )
    if out is not None:
        certificate.save(out)
    met = require is None or certificate.bound <= require
    return Result(msgspec.to_builtins(certificate), view_of(certificate, out, require), status=0 if met else 1)


def certify_best_of(
    stats: Path,
    package: Path | None,
    code_bits: int | None,
    losses: Stats,
    *,
    also: tuple[str, ...],
    references: list[Path],
    delta: float,
    full: Path | None,
    vocab_size: int,
    choice: tuple[str, ...],
    require: float | None,
    out: Path | None,
    deployable: bool,
    based: Base | None,
    base_file: Path | None,
) -> Result:
    """``certify --best``: the search, and the table of what was tried. ``based``: the base of ``package``, and the file of its numbers."""
    from dataclasses import asdict

    import msgspec

    from scalebound.certify import Artefact, certify_best, package_code_bits
    from scalebound.core.certificate import Inputs, file_ref
    from scalebound.core.errors import UsageError
    from scalebound.core.io import sha256_file
    from scalebound.core.stats import open_losses

    folder = out.parent if out is not None else Path()
    if package is not None:
        code_bits = package_code_bits(os.stat(package).st_size)
    if code_bits is None:
        raise UsageError("the code length is not known", where="--package or --code-bits", expected="the package that decodes to the measured model")
    paths: dict[str, tuple[Path, Path | None]] = {str(package or stats): (stats, package)}
    artefacts = [Artefact(losses, code_bits, sha256_file(package) if package else "", str(package or stats))]
    for text in also:
        other, _, file = text.partition("=")
        if not file:
            raise UsageError(f"{text!r} is no pair", where="--also", expected="STATS=PACKAGE")
        opened = open_losses(other, vocab_size=vocab_size)
        check_package(Path(file), opened)
        paths[file] = (Path(other), Path(file))
        artefacts.append(Artefact(opened, package_code_bits(os.stat(file).st_size), sha256_file(file), file))

    def inputs(artefact: Artefact, reference: Stats | None, kept: Inputs) -> Inputs:
        own, file = paths[artefact.name]
        named = {"stats": own, "package": file, "full": full, "stream": find_stream(artefact.stats), "reference": Path(reference.path) if reference else None,
                 "base": base_file if file == package else None}  # fmt: skip
        return msgspec.structs.replace(kept, **{key: file_ref(path, folder) for key, path in named.items()})

    certificate, tried = certify_best(
        artefacts, references=[open_losses(path, vocab_size=vocab_size) for path in references], delta=delta,
        full=open_losses(full, vocab_size=vocab_size) if full else None, vocab_size=vocab_size, choices=[parse_choice(text) for text in choice], inputs=inputs,
        deployable=deployable,
    )  # fmt: skip
    if based is not None and package is not None and certificate.code.package_sha256 == sha256_file(package):
        certificate = msgspec.structs.replace(certificate, base=based)
    if out is not None:
        certificate.save(out)
    rows = [
        [line.artefact, line.method, line.reference or "-", line.centres, f"{line.eps:g}" if line.eps else "-", f"{line.alpha:g}", f"{line.choice_bits:.2f}", f"{line.bound:.4f}", "yes" if line.deployable else "no",
         "best" if line.chosen else "" if line.candidate else "for comparison"]
        for line in tried
    ]  # fmt: skip
    met = require is None or certificate.bound <= require
    view = view_of(certificate, out, require)
    view.insert(1, table(["package", "form", "reference", "centres", "eps", "alpha", "bits for choices", "bound", "deployable", ""], rows))
    return Result({**msgspec.to_builtins(certificate), "tried": [asdict(line) for line in tried]}, view, status=0 if met else 1)


def survey_of(losses: Stats, code_bits: int, delta: float, heldout: Path | None, online: Path | None, vocab_size: int, stream: Path | None, weights: Path | None) -> Result:
    """``certify --survey``: our certificates and others' bounds in one table."""
    from dataclasses import asdict

    from scalebound.certify import survey
    from scalebound.certify.units import document_starts
    from scalebound.core.errors import InputError
    from scalebound.core.stats import open_losses

    try:
        documents = document_starts(losses, stream) if stream is not None else None
    except InputError:
        documents = None  # the line says what it needs
    noise = None
    if weights is not None:
        from scalebound.core.errors import require_extra

        require_extra("torch")
        from scalebound.cli.output import progress_bar
        from scalebound.train.noise_on_weights import weight_noise

        if stream is None:
            raise InputError("does not say where its stream is", where=losses.path, expected="statistics beside their stream, for --weights")
        with progress_bar("noise on the weights", "passes") as progress:
            noise = weight_noise(weights, stream, losses.info.window, progress=progress)
    lines = survey(
        losses, noise=noise, code_bits=code_bits, delta=delta, documents=documents, vocab_size=vocab_size,
        heldout=open_losses(heldout, vocab_size=vocab_size) if heldout else None, online=open_losses(online, vocab_size=vocab_size) if online else None,
    )  # fmt: skip
    rows = [
        [line.name, f"{line.value:.3f}" if line.value is not None else "-", f"{line.tightness:+.3f}" if line.tightness is not None else "-",
         "no number" if line.value is None else "vacuous" if line.vacuous else "", f"{line.seconds:.2f} s", line.reason or line.assumes]
        for line in lines
    ]  # fmt: skip
    view = [table(["bound", "nats/token", "above the loss", "", "cost", "assumes, or needs"], rows)]
    view.append(f"At delta = {delta:g}; code of {code_bits:,} bits. Sources: " + "; ".join(dict.fromkeys(line.source for line in lines)) + ".")
    return Result({"lines": [asdict(line) for line in lines], "delta": delta, "code_bits": code_bits}, view)


def decoded_sha256(package: Path) -> str | None:
    """The hash of the model a package decodes to; None when this installation cannot decode (the ``lm`` extra is missing). A delta is refused."""
    import importlib.util

    if importlib.util.find_spec("constriction") is None:
        return None
    from scalebound.compress import load_package
    from scalebound.compress.delta import is_delta
    from scalebound.core.errors import InputError

    model = load_package(package)
    if is_delta(model.config):
        raise InputError("holds how a model differs from its base, and no model", where=str(package), expected="its base, on which it decodes to the measured model", hint="--base MODEL")
    return model.sha256()


def check_package(package: Path, stats: Stats, base: Path | None = None) -> tuple[Base | None, Path | None]:
    """Raise unless the package decodes (on its base) to the measured model; say so when that cannot be known here. What the base is, if any, and the file a checker rebuilds from."""
    from scalebound.core.certificate import Base
    from scalebound.core.errors import InputError, require_extra

    measured, based, base_file = stats.info.model.sha256, None, None
    if base is not None:
        require_extra("torch")
        from scalebound.data.stream import Stream
        from scalebound.measure.provenance import check_anchor, trained_on
        from scalebound.models.relative import rebuild

        rebuilt = rebuild(package, base)
        found: str | None = rebuilt.sha256
        stream = find_stream(stats)
        if stream is not None:  # a base that saw the window is no base, as an anchor that did is no anchor
            check_anchor(base, Stream(stream), stats.info.window)
        known = trained_on(base)
        based = Base(kind="checkpoint" if known is not None and known[0].stream_sha256 == stats.info.stream.sha256 else "model", sha256=rebuilt.base_sha256)
        base_file = rebuilt.base_file
        if base_file is None:
            note(f"note: `scalebound verify` cannot read the numbers of {base}, so it will not confirm this certificate; a folder with one model.safetensors, or a package, it can")
    else:
        found = decoded_sha256(package)
    if found is None:
        note("note: the package was not decoded (needs scalebound[lm]); `scalebound verify` does it")
    elif not measured:
        note(f"note: {stats.path} names no model; that the package decodes to the one measured is your word")
    elif found != measured:
        raise InputError(
            f"decodes to model {found[:12]}..",
            where=str(package),
            expected=f"{measured[:12]}.., the model measured in {stats.path}",
            hint="measure the package itself: scalebound measure M.sbz STREAM --out S.safetensors" if base is None else "measure what it decodes to: scalebound export M.sbz --base BASE --out FOLDER",
        )
    return based, base_file


def find_stream(stats: Stats) -> Path | None:
    """The stream's .json, when it is where the statistics say and is still the same."""
    from scalebound.core.io import sha256_file

    named = stats.info.stream.path
    for path in (Path(named), Path(stats.path).parent / named) if named else ():
        if path.is_file() and sha256_file(path) == stats.info.stream.sha256:
            return path
    return None


def parse_list(text: str, flag: str) -> tuple[float, ...]:
    from scalebound.core.errors import UsageError

    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r} is no list of numbers", where=flag, expected="for example 0.05,0.1,0.2") from None


def parse_choice(text: str) -> Choice:
    from scalebound.core.certificate import Choice
    from scalebound.core.errors import UsageError

    setting, _, options = text.partition("=")
    if not setting or not options.isdecimal():
        raise UsageError(f"{text!r} is no choice", where="--choice", expected="a setting and its number of options, such as bits=7")
    return Choice(setting=setting, options=int(options))


def parse_window(text: str | None) -> float | tuple[int, int] | None:
    from scalebound.core.errors import UsageError

    if text is None:
        return None
    try:
        if ":" in text:
            start, stop = text.split(":")
            return int(start), int(stop)
        return float(text)
    except ValueError:
        raise UsageError(f"{text!r} is no window", where="--window", expected="a fraction such as 0.1, or START:STOP") from None


def view_of(certificate: Certificate, out: Path | None, require: float | None) -> list[Any]:
    """What people see: the sentence, the decomposition, where it was written."""
    c, terms = certificate, certificate.terms
    # without statistics of the full-precision model its loss is not known, and no number may be shown for it
    measured = [["loss at full precision", terms.full_precision_loss], ["quantization", terms.quantization]] if c.inputs.full.path else [["measured loss", c.empirical_loss]]
    rows = [
        *measured,
        [f"smoothing (alpha {c.smoothing.alpha:g})", terms.smoothing],
        ["complexity", terms.complexity],
        ["variance", terms.variance],
        ["subsampling", terms.subsampling],
        ["bound", c.bound],
    ]
    verdict = "vacuous: no better than guessing" if c.vacuous else "not vacuous"
    view: list[Any] = [c.statement, table([f"{c.method} certificate", "nats/token"], [[name, f"{value:+.4f}"] for name, value in rows])]
    view.append(
        f"Guessing at random loses {c.random_guess:.4f}: {verdict}. Code: {c.code.bits:,} bits and {c.code.choice_bits:.3g} for choices; "
        f"{c.tokens.evaluated:,} of {c.tokens.stream:,} tokens evaluated."
    )
    if require is not None:
        view.append(f"Required: at most {require:g}; {'met' if c.bound <= require else 'not met'}.")
    if out is not None:
        sketched = c.inputs.stats.path.endswith(".sketch")
        view.append(f"Written: {out}. " + ("The independent checker recomputes from losses and refuses a sketch." if sketched else f"Check it: scalebound verify {out}"))
    return view
