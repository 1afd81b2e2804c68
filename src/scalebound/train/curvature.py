"""What an error in each matrix costs, from calibration text: Fisher information of outputs, with labels sampled from the model itself.

For logits with probabilities p, a label y drawn from p and ``delta = d(-log p_y)/d(output)``, ``E[delta delta^T]`` is the Fisher information:
the curvature of the expected change of the model's own distribution (Kunstner et al., arXiv 1905.12558, on why labels are sampled and not
read from the text). For a linear map ``y = W x`` this module keeps what its Kronecker approximation needs of the outputs (Martens and
Grosse, arXiv 1503.05671): the mean of ``delta_i^2`` over tokens. An embedding is used twice when it is tied, row v as the input of a token
and as output weights, so it gets frequencies and the curvature of its output, whose probabilities need no sampling.

The second moments of x are not weighted by the tokens' gradients: on a model of 135M parameters and 4,096 tokens that did much more harm
than good (benchmarks/LOG.md).

One forward and one backward pass over some tokens, a few sequences at a time; no gradient of a weight is formed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from scalebound.core.progress import Progress, silent

AT_ONCE, LOGITS = 2048, 1 << 27  # tokens of one backward pass, and logits


@dataclass
class Curvature:
    """Of every linear map, by module name; means are over calibration tokens.

    ``rows[name]`` (outputs,); ``group[name]``: maps that read one tensor share a number, counted from 1 in the order of the network.
    ``spread`` (V,): mean of p_v (1 - p_v); ``top`` (D, D): second moments of the final
    hidden states, weighted by ``1 - sum p^2``; ``bottom`` (D, D): those of the gradient that reaches the embedded tokens.
    """

    rows: dict[str, np.ndarray]
    group: dict[str, int]
    spread: np.ndarray
    top: np.ndarray
    bottom: np.ndarray


def curvature(module: nn.Module, linears: dict[str, nn.Module], tokens_ST: np.ndarray, rng: torch.Generator, progress: Progress = silent) -> Curvature:
    """Measure it.

    Parameters
    ----------
    module
        A causal model of ``transformers``, without gradients of its weights.
    linears
        The linear maps to look at, by name; the output embedding is not among them.
    tokens_ST
        Inputs, sequences by tokens.
    rng
        Draws the labels.
    """
    S, T = tokens_ST.shape
    embedding, head = module.get_input_embeddings(), module.get_output_embeddings()  # type: ignore[operator]
    V, D = embedding.weight.shape
    rows: dict[str, Tensor] = {}
    group: dict[str, int] = {}
    seen: list[tuple[int, torch.Size]] = []
    spread, top, bottom = torch.zeros(V), torch.zeros(D, D), torch.zeros(D, D)
    final: list[Tensor] = []

    def keep(name: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            rows[name] = rows.get(name, torch.zeros(())) + gradient.detach().float().flatten(0, -2).square().sum(0)

        return hook

    def watch(name: str) -> Callable:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if name not in group:
                key = (inputs[0].data_ptr(), inputs[0].shape)
                if not seen or seen[-1] != key:
                    seen.append(key)
                group[name] = len(seen)
            output.register_hook(keep(name))

        return hook

    def at_embedding(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        output = output.detach().requires_grad_()

        def hook(gradient: Tensor) -> None:
            flat = gradient.float().flatten(0, -2)
            bottom.addmm_(flat.T, flat)

        output.register_hook(hook)
        return output

    hooks = [linear.register_forward_hook(watch(name)) for name, linear in linears.items()]
    hooks.append(embedding.register_forward_hook(at_embedding))
    hooks.append(head.register_forward_pre_hook(lambda _, inputs: final.append(inputs[0].detach())))
    try:
        batch = max(1, min(AT_ONCE, LOGITS // V) // T)
        for start in range(0, S, batch):
            progress(start, S)
            part = torch.from_numpy(tokens_ST[start : start + batch].astype(np.int64))
            final.clear()
            with torch.enable_grad():
                logits = module(part, use_cache=False).logits
            probability = logits.detach().float().softmax(-1).flatten(0, -2)
            labels = sampled_labels(probability, rng)
            squared = probability.square()
            weight = 1 - squared.sum(1)
            spread += probability.sum(0) - squared.sum(0)
            del squared
            flat = final[0].float().flatten(0, -2)
            top.addmm_(flat.T * weight, flat)
            gradient = probability.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=torch.float32)).view_as(logits).to(logits.dtype)
            logits.backward(gradient)
    finally:
        for handle in hooks:
            handle.remove()
    n = S * T
    return Curvature({name: (found / n).numpy() for name, found in rows.items()}, group, (spread / n).numpy(), (top / n).numpy(), (bottom / n).numpy())


def sampled_labels(probability: Tensor, rng: torch.Generator) -> Tensor:
    """(tokens, 1) one label a token, drawn by inverting the distribution function: one random number each, where ``multinomial`` takes one a probability."""
    below = probability.cumsum(1)
    drawn = torch.rand(len(below), 1, generator=rng) * below[:, -1:]
    return torch.searchsorted(below, drawn, right=True).clamp_(max=probability.shape[1] - 1)
