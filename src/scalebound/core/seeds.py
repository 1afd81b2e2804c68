"""Seeds: one number given by the user, one named stream of randomness for every purpose.

``derive(seed, "sequence order")`` and ``derive(seed, "subsample")`` are independent however similar the seeds are,
so adding a use of randomness never shifts another.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for the purpose ``names``: the first bytes of SHA-256 over seed and names.

    >>> derive(0, "init") == derive(0, "init"), derive(0, "init") == derive(1, "init")
    (True, False)
    """
    text = "\x00".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object) -> np.random.Generator:
    """A numpy generator (PCG64, stable over numpy versions for the methods used here) for the purpose ``names``."""
    return np.random.Generator(np.random.PCG64(derive(seed, *names)))
