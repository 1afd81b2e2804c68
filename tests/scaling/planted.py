"""Planted truths for every law: parameters as printed in the papers, and designs on which they can be recovered."""

import numpy as np

_N = np.repeat(np.geomspace(1e7, 1e10, 8), 6) * np.exp(0.05 * np.cos(np.arange(48.0)))
_D = np.tile(np.geomspace(1e9, 1e12, 6), 8) * np.exp(0.2 * np.sin(np.arange(48.0)))
DESIGN = {
    "params": _N,
    "tokens": _D,
    "unique_tokens": np.minimum(_D, np.tile([1e9, 5e9, 2e10], 16)),
    "loss": np.linspace(2.0, 5.0, 48),
    "flops": 6 * _N * _D,
    "step": np.tile(np.geomspace(1e3, 1e5, 6), 8),
    "batch_tokens": np.tile([3e4, 3e5, 3e6], 16) * (1 + 0.01 * np.arange(48)),
    "lr": np.tile([3e-4, 3e-4, 3e-4, 2e-4, 1e-4, 3e-5], 8) * np.repeat([1, 1.5, 0.5, 1, 0.7, 2, 1, 0.3], 6),
    "curve": np.repeat(np.arange(8.0), 6),
}
TRUTHS = {
    "power": [1.7, 40.0, 0.3],
    "chinchilla": [1.7, 400.0, 2000.0, 0.34, 0.36],
    "overtraining": [1.7, 150.0, 250.0, 0.13],
    "kaplan": [6.4e13, 1.8e13, 0.076, 0.103],
    "repetition": [1.7, 400.0, 2000.0, 0.34, 0.36, 15.0, 5.0],
    "exponential-error": [0.85, 2.2, 0.75],
    "sigmoid": [-0.7, 0.95, 2.5, 3.0],
    "annealing": [2.6, 0.5, 0.5, 0.05],
    "annealing-sized": [2.0, 0.5, 0.5, 0.05, 60.0, 0.25],
    "multipower": [2.6, 0.5, 0.5, 400.0, 2.0, 0.6, 0.65],
    "cooldown": [0.96, 300.0, 0.4],
    "critical-batch": [6.5e13, 0.077, 2.1e3, 0.76, 2e8, 0.21],
    "passuntil": [1e4, 0.45],
    "filtering": [300.0, 0.2, 4.0],
    "isoflop": [0.1, 0.5],
}
NOISE = {"exponential-error": 0.002, "sigmoid": 0.005}


def table(law, noise=None, seed=0, design=None):
    """Columns of the planted law with noise of the law's own kind (relative for losses, plain for errors)."""
    design = DESIGN if design is None else design
    inputs = {name: design[name] for name in law.inputs}
    y = law.predict(np.array(TRUTHS[law.name]), inputs)
    noise = NOISE.get(law.name, 0.003) if noise is None else noise
    z = noise * np.random.default_rng(seed).standard_normal(len(y))
    y = y * np.exp(z) if law.residual == "log" else y + z
    target = law.target if law.target not in inputs else "explained"
    return {**inputs, target: y}
