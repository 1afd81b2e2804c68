"""Run by run.py with the Python of an environment that has the PyPI package ``chinchilla``; prints one JSON object.

The grid is the one of Hoffmann et al. thinned to 4 x 4 x 3 x 3 x 3 points; Huber, delta 1e-3, on log losses, in one process.
"""

import json
import sys
import time

import numpy as np
from chinchilla import Chinchilla


def huber(y_true, y_pred):
    r = np.abs(y_true - y_pred)
    inner = np.minimum(r, 1e-3)
    return inner * (r - 0.5 * inner)


if __name__ == "__main__":
    grid = {"E": [1.0, 1.6, 2.2], "A": [1e1, 1e2, 1e3, 1e4], "B": [1e1, 1e2, 1e3, 1e4], "alpha": [0.2, 0.5, 1.0], "beta": [0.2, 0.5, 1.0]}
    cc = Chinchilla(sys.argv[1], param_grid=grid, seed_ranges={"C": (1e18, 1e19), "N_to_D": (1, 100)}, loss_fn=huber, weight_fn=None)
    start = time.perf_counter()
    cc.fit(parallel=False)
    seconds = time.perf_counter() - start
    found = cc.get_params()
    print(json.dumps({"seconds": seconds, "starts": 432, **{name: float(found[name]) for name in ("E", "A", "B", "alpha", "beta")}}))
