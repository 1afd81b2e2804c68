"""``scalebound verify``: the independent checker behind the product's own command line."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result


def verify(certificate: Path, *, replay: int = 0, seed: int | None = None) -> Result:
    """Check a certificate, or a saved interval, comparison or table of prompts, with code that shares nothing with the code that made it.

    Hashes, code length, decoded weights, delta, choices and the bound itself are computed again from the files the certificate names.
    What no file can show is on trust, and written in the certificate's assumptions: that settings were fixed in advance, samples fresh,
    references and held-out text independent. Exit status 0: the claim holds; 1: it does not; 3: a file is missing or malformed.

    Parameters
    ----------
    certificate
        A .json written by `certify`, or by `interval`, `compare` (--out) or `certify-prompt` (--certificate); the files it names are
        looked for beside it.
    replay
        Also score this many random blocks again with the decoded model, through plain transformers.
    seed
        Draws the blocks to replay. Default: a fresh one, printed.

    Examples
    --------
    scalebound verify runs/small/certificate.json

    scalebound verify certificate.json --replay 20

    next: scalebound report runs/small
    """
    from scalebound.core.errors import InputError, MachineError, MissingExtra, UsageError
    from scalebound_verify import Refused
    from scalebound_verify import verify as check
    from scalebound_verify.__main__ import lines

    if replay < 0 or (seed is not None and seed < 0):
        raise UsageError("--replay and --seed cannot be negative", hint="scalebound verify --help")
    try:
        record = check(certificate, replay, seed)
    except Refused as error:
        family = {2: UsageError, 3: InputError, 4: MissingExtra}.get(error.status, MachineError)
        raise family(error.what, where=error.where, expected=error.expected, hint=error.hint) from error
    return Result(record, list(lines(record)), 0 if record["holds"] else 1)
