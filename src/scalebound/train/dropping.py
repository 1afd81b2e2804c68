"""Attention and feed-forward modules that are left out: which, for a given share of their parameters.

A module that adds to the residual stream is left out by setting its linear maps to zero: it then adds nothing, whatever computes the model, and a package
pays next to nothing for tensors of zeros (117 bytes for the three tensors, 10,752 zeros, of a demo rung's feed-forward part). The configuration stays, so every program opens the model; it is
the file that is short, not the computation.

Which to leave out is searched as EvoPress does (Sieberling et al., arXiv 2410.14649): units are attention and feed-forward parts on their own, a
mutation takes one back and leaves another out. The prediction to compare with is of second order: leaving out f changes the residual
stream of token t by ``-f_t``, and with g_t the gradient there under labels drawn from the model, the damage is ``1/2 E[(g_t . f_t)^2]`` nats per token.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scalebound.compress.selection import additive
from scalebound.core.errors import InputError, UsageError
from scalebound.core.progress import Progress, silent
from scalebound.data.stream import Stream
from scalebound.train.calibration import Calibration
from scalebound.train.curvature import sampled_labels
from scalebound.train.posttraining import SEQUENCES, calibration_inputs
from scalebound.train.trials import Method, Trials, Variant, check_search

AT_ONCE = 2048  # tokens of one backward pass


@dataclass(frozen=True)
class DroppedBlocks:
    """``dropped``: names of the modules. Losses and divergences (from the whole model) are those of the calibration text in full precision, in nats per token; ``start``: of the fisher choice."""

    dropped: tuple[str, ...]
    share: float
    loss_full: float
    loss_start: float
    loss_chosen: float
    divergence_start: float
    divergence_chosen: float
    evaluations: int


def drop_blocks(config: dict[str, Any], tensors: dict[str, np.ndarray], stream: str | os.PathLike, *, share: float, method: Method = "evolution",
                sequences: int = SEQUENCES, start: int = 0, seed: int = 0, generations: int = 40, threads: int = 1, state: str | os.PathLike | None = None, progress: Progress = silent) -> DroppedBlocks:  # fmt: skip
    """Choose modules that hold at least this share of what all such modules hold.

    Parameters
    ----------
    config, tensors, stream, sequences, start, seed, threads
        As for :func:`~scalebound.train.posttraining.quantize_calibrated`.
    share : in (0, 1)
        Of the parameters of all attention and feed-forward modules.
    method
        As :mod:`~scalebound.train.trials` says; evolution begins at the choice of ``fisher``.
    generations
        Of 16 children each.
    state
        A file that keeps what an interrupted call had computed; a later call with the same settings goes on from it. It is not removed.

    Raises
    ------
    UsageError
        A setting out of its range.
    InputError
        As for ``quantize_calibrated``; or linear maps that are not in modules of their own.

    Examples
    --------
    >>> config, tensors = read_checkpoint("model")  # doctest: +SKIP
    >>> without_blocks(tensors, drop_blocks(config, tensors, "calibration.json", share=0.25).dropped)  # doctest: +SKIP
    """
    check_search(method, generations)
    if not 0 < share < 1:
        raise UsageError(f"share = {share}", expected="above 0 and below 1")
    torch.set_num_threads(threads)
    arrays = {name: np.asarray(data, dtype=np.float32) if data.dtype.kind == "f" else data for name, data in tensors.items()}
    calibration = Calibration(config, arrays, calibration_inputs(Stream(stream), config, sequences, start), curved=True, seed=seed, progress=silent)
    blocks = blocks_of(list(calibration.linears))
    names = [tensors_of(block, arrays) for block in blocks]
    size = np.array([sum(arrays[name].size for name in unit) for unit in names], dtype=np.float64)
    sizes = np.stack([size, np.zeros_like(size)], axis=1)
    damages = block_damages(calibration.module, blocks, calibration.inputs_ST, torch.Generator().manual_seed(seed))
    predicted = np.stack([np.zeros_like(size), damages], axis=1)
    zeros: list[list[Variant]] = [[{}, {name: np.broadcast_to(np.float32(0), arrays[name].shape) for name in unit}] for unit in names]
    trials, budget = Trials(calibration, zeros), float((1 - share) * size.sum())
    first = additive(sizes, predicted, budget)
    base, loss_start = trials.loss(np.zeros(len(blocks), dtype=int)), trials.loss(first)
    chosen, evaluations = trials.choose(method, sizes, first, budget, seed=seed, generations=generations, progress=progress, state=state, predicted=predicted)
    dropped = tuple(block for block, level in zip(blocks, chosen, strict=True) if level)
    return DroppedBlocks(dropped, float(size[chosen == 1].sum() / size.sum()), base, loss_start, trials.loss(chosen), trials.divergence(first), trials.divergence(chosen), evaluations)


def without_blocks(tensors: dict[str, np.ndarray], dropped: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The tensors of a model with those of some modules set to zero.

    Raises
    ------
    InputError
        A module that has none.

    >>> without_blocks({"a.w": np.ones(2), "b.w": np.ones(2)}, ("a",))["a.w"].tolist()
    [0.0, 0.0]
    """
    gone = {name for block in dropped for name in tensors_of(block, tensors)}
    return {name: np.zeros_like(data) if name in gone else data for name, data in tensors.items()}


def blocks_of(linears: list[str]) -> list[str]:
    """The modules that hold linear maps, in order.

    >>> blocks_of(["h.0.attn.q", "h.0.attn.o", "h.0.mlp.up"])
    ['h.0.attn', 'h.0.mlp']
    """
    blocks = list(dict.fromkeys(name.rpartition(".")[0] for name in linears))
    inside = next((block for block in blocks for other in blocks if other.startswith(block + ".")), None)
    if inside is not None:
        raise InputError(f"has linear maps in {inside!r} and in modules within it", where="the model", expected="attention and feed-forward modules of their own")
    return blocks


def tensors_of(block: str, tensors: dict[str, np.ndarray]) -> list[str]:
    """Names of a module's tensors."""
    found = [name for name in tensors if name.startswith(block + ".")]
    if not found:
        raise InputError(f"has no tensors of {block!r}", where="the model")
    return found


def block_damages(module: nn.Module, blocks: list[str], tokens_ST: np.ndarray, rng: torch.Generator) -> np.ndarray:
    """``1/2 E[(g_t . f_t)^2]`` of each module's output, labels drawn from the model. (blocks,) nats per token"""
    total = dict.fromkeys(blocks, 0.0)

    def watch(block: str) -> Callable:
        def hook(_: nn.Module, __: Any, output: Tensor | tuple) -> None:
            f_BTD = output[0] if isinstance(output, tuple) else output

            def add(gradient: Tensor) -> None:
                total[block] += float((gradient.float() * f_BTD.detach().float()).sum(-1).square().sum())

            f_BTD.register_hook(add)

        return hook

    def at_embedding(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output.detach().requires_grad_()

    hooks = [module.get_submodule(block).register_forward_hook(watch(block)) for block in blocks]
    hooks.append(module.get_input_embeddings().register_forward_hook(at_embedding))  # type: ignore[operator]
    batch = max(1, AT_ONCE // tokens_ST.shape[1])
    try:
        for start in range(0, len(tokens_ST), batch):
            with torch.enable_grad():
                logits = module(torch.from_numpy(tokens_ST[start : start + batch].astype(np.int64)), use_cache=False).logits
            probability = logits.detach().float().softmax(-1).flatten(0, -2)
            labels = sampled_labels(probability, rng)
            gradient = probability.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=torch.float32)).view_as(logits).to(logits.dtype)
            logits.backward(gradient)
    finally:
        for handle in hooks:
            handle.remove()
    return np.array([0.5 * total[block] / tokens_ST.size for block in blocks])
