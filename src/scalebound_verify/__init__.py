"""The independent checker of scalebound's certificates; it imports nothing of scalebound, and numpy only (``replay``: torch, transformers).

In: a certificate and the files it names. Out: yes or no, with a line for every check. Start reading at :func:`verify`; docs/mathematics.md
(Conventions), docs/formats.md and docs/package-format.md are all it was written from.
"""

from scalebound_verify.check import verify as verify
from scalebound_verify.strict import Refused as Refused
