"""A run's weights with Gaussian noise, scored on random blocks of its window: what PAC-Bayes bounds of weights need."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call

from scalebound.certify.pac_bayes import WeightNoise
from scalebound.certify.smoothing import smooth_uniform
from scalebound.core.errors import InputError
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import derive, generator
from scalebound.data.stream import Stream
from scalebound.models.folder import read_tensors
from scalebound.models.load import newest_checkpoint
from scalebound.models.transformer import Transformer
from scalebound.train.parametrization import build
from scalebound.train.recipe import load_recipe

SIGMAS = (0.003, 0.01, 0.03)
SAMPLES = 256
ALPHA = 0.05


def weight_noise(run: str | os.PathLike, stream: str | os.PathLike, window: tuple[int, int], *, sigmas: tuple[float, ...] = SIGMAS, samples: int = SAMPLES, alpha: float = ALPHA, seed: int = 0,
                 progress: Progress = silent) -> WeightNoise:  # fmt: skip
    """Losses of ``w + sigma z`` for a run that started from random weights; w0 is that start, rebuilt from the recipe's seed.

    Parameters
    ----------
    sigmas, samples, alpha      fixed in advance; every sample is a fresh z and a fresh block

    Raises
    ------
    InputError                  a run that started from another model, or a window without a whole sequence

    Cost: ``len(sigmas) * samples`` passes over one sequence.
    """
    recipe = load_recipe(Path(run) / "recipe.toml")
    if recipe.base:
        raise InputError("started from another model, not from random weights", where=str(run), expected="a run whose start its recipe gives")
    opened = Stream(stream)
    whole = (window[1] - window[0]) // recipe.context
    if whole < 1:
        raise InputError("holds no whole sequence", where=str(stream), expected=f"{recipe.context} tokens")
    start = build(recipe, torch.Generator().manual_seed(derive(recipe.seed, "init", recipe.params)))[0].tensors()
    weights = {name: tensor.float() for name, tensor in read_tensors(newest_checkpoint(run)).items()}
    model = Transformer(recipe.shape, recipe.context)
    rng, draws = generator(seed, "weight noise"), torch.Generator().manual_seed(derive(seed, "weight noise"))
    sequences = np.asarray(opened.tokens[window[0] : window[0] + whole * recipe.context]).reshape(whole, -1)

    @torch.no_grad()
    def loss(tensors: dict[str, torch.Tensor], block: int) -> float:
        targets = torch.from_numpy(sequences[block : block + 1].astype(np.int64))
        logits = functional_call(model, Transformer.fused(tensors, recipe.depth), (F.pad(targets[:, :-1], (1, 0), value=opened.info.separator),))
        nll = F.cross_entropy(logits[0], targets[0], reduction="none").numpy()
        return float(smooth_uniform(nll, recipe.vocab_size, alpha).mean())

    table, plain = np.empty((len(sigmas), samples)), []
    for row, sigma in enumerate(sigmas):
        for column in range(samples):
            block = int(rng.integers(whole))
            noisy = {name: tensor + sigma * torch.randn(tensor.shape, generator=draws) for name, tensor in weights.items()}
            table[row, column] = loss(noisy, block)
            if not row:
                plain.append(loss(weights, block))
            progress(row * samples + column + 1, table.size)
    pairs = [(float(torch.linalg.matrix_norm(w, 2)), float((w - start[name]).norm())) for name, w in weights.items() if w.ndim == 2]
    distance = sum(float((w - start[name]).double().square().sum()) for name, w in weights.items())
    return WeightNoise(sum(w.numel() for w in weights.values()), distance, sigmas, table, float(np.mean(plain)), alpha, tuple(pairs))
