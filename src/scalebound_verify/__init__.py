"""The independent checker of scalebound's certificates; imports nothing of scalebound, and numpy only (``replay``: torch, transformers).
In: a certificate and the files it names. Out: yes or no, a line for every check. Written from docs/mathematics.md (Conventions),
docs/formats.md and docs/package-format.md alone. Start reading at :func:`verify`."""

from scalebound_verify.check import verify as verify
from scalebound_verify.strict import Refused as Refused
