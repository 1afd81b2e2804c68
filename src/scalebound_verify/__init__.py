"""The independent checker: a certificate and the files it names go in, yes or no and a line for every check come out (:func:`verify`).
It imports numpy and nothing of scalebound; written from docs/mathematics.md (Conventions), formats.md and package-format.md alone.
Models relative to a base are rebuilt by :mod:`scalebound_replay.base`, which is loaded for their certificates only."""

from scalebound_verify.check import verify as verify
from scalebound_verify.strict import Refused as Refused
