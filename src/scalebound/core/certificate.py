"""The certificate: one JSON file that states a bound and everything needed to recompute it.

Field by field in docs/formats.md. ``terms`` add up to ``bound`` (``math.fsum``, within 1e-12). Two programs read it: this library
and the independent checker ``scalebound_verify``, which shares no code with it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from scalebound.core.io import load_struct, relative, save_struct, sha256_file

SCHEMA = "scalebound.certificate/1"


class Tokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    stream: int = 0  # n, the tokens the statement is about (the window's length)
    evaluated: int = 0  # tokens with statistics; fewer than ``stream`` when subsampled
    unique: int = 0  # tokens that count: repeated epochs do not multiply them


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One setting picked after looking, from ``options`` alternatives fixed in advance."""

    setting: str
    options: int


class Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    bits: int = 0  # 8 x file size + self-delimitation; 0 for a stream the model never saw
    bits_per_parameter: float = 0.0
    choice_bits: float = 0.0  # log2 of the product of all options in ``choices``
    choices: tuple[Choice, ...] = ()
    package_sha256: str = ""


class Smoothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    alpha: float
    eps: float = 0.0  # anchored only: the share of uniform inside the reference
    candidates: tuple[float, ...] = ()  # the alphas fixed in advance, among which one was picked


class Centre(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    kind: Literal["zero", "running", "entropy", "kl"]
    y_min: float = 0.0  # every Y_k is clipped below at it; for ``kl`` it is -c
    weight: float = 1.0


class Shares(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fractions of ``delta``; they sum to at most 1. ``difference`` is the main part when there is no reference."""

    difference: float = 1.0
    reference: float = 0.0
    subsampling: float = 0.0


class Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    kind: Literal["none", "model", "checkpoint", "ngram", "online"] = "none"
    deployable: bool = True
    sha256: str = ""
    mean_loss: float = 0.0
    certified: float = 0.0  # the bound on the reference's own mean expected loss


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    kind: Literal["none", "model", "checkpoint"] = "none"
    sha256: str = ""


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    full_precision_loss: float = 0.0
    quantization: float = 0.0
    smoothing: float = 0.0
    complexity: float = 0.0
    variance: float = 0.0
    subsampling: float = 0.0


class FileRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    path: str = ""  # relative to the certificate's folder
    sha256: str = ""


class Inputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    stats: FileRef
    reference: FileRef = FileRef()
    full: FileRef = FileRef()
    package: FileRef = FileRef()
    stream: FileRef = FileRef()  # the stream's .json
    base: FileRef = FileRef()  # the file that holds the numbers of the base, when a checker can read it
    stream_sha256: str = ""
    model_sha256: str = ""


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A bound on the mean expected loss of one predictor on one stream, with its derivation."""

    schema: str = SCHEMA
    bound: float
    method: Literal["product", "freedman", "anchored", "trajectory", "heldout"]
    unit: str = "nats/token"
    delta: float
    statement: str
    empirical_loss: float  # mean NLL of the measured (quantized) model on the evaluated tokens
    bound_bits_per_byte: float | None
    vacuous: bool  # bound >= random_guess
    random_guess: float  # log(vocab_size)
    tokens: Tokens
    vocab_size: int
    params: int
    code: Code
    smoothing: Smoothing
    grid: tuple[float, ...]
    weights: tuple[float, ...] | None
    horizon: int
    centres: tuple[Centre, ...]
    delta_shares: Shares
    anchor: Anchor = Anchor()
    base: Base = Base()
    window: tuple[int, int]
    terms: Terms
    loss_variation: float  # the variance term of MATH section 3 per Finzi et al.: sqrt of the mean squared deviation of loss and centre
    complexity_per_token: float  # (log 1/delta + (code + choice bits) log 2) / n
    inputs: Inputs
    assumptions: tuple[str, ...]
    version: str

    def save(self, path: str | os.PathLike) -> Path:
        return save_struct(path, self)


def load_certificate(path: str | os.PathLike) -> Certificate:
    """Read a certificate strictly; see :func:`scalebound.core.io.load_struct` for what is refused."""
    return load_struct(path, Certificate)


Certificate.SCHEMA = SCHEMA  # type: ignore[attr-defined]


def file_ref(path: str | os.PathLike | None, folder: str | os.PathLike) -> FileRef:
    """How a certificate saved in ``folder`` names a file: relative path and hash; empty for None."""
    if path is None:
        return FileRef()
    return FileRef(path=relative(path, folder), sha256=sha256_file(path))
