"""A run whose weights, gradients and optimizer state are spread over the processes of ``torchrun`` (fully sharded data parallelism).

Each process holds its rows of every tensor and of its optimizer state. The tensors of a layer are gathered just before they are used and let go
after; gradients are added up over the processes and scattered in the same way (Zhao et al. 2023, arXiv 2304.11277; Rajbhandari et al. 2019,
arXiv 1910.02054, stage 3; PyTorch's ``fully_shard``). The sums are those of replicated training in another order, so losses agree with one process's to rounding.

Memory of a process while it trains: its share of 16 bytes a parameter (AdamW), one layer's weights and gradients, and its activations. Whole weights exist once in every process, on the
processor's side, when the run begins or goes on. Checkpoints are the files one process writes: process 0 gathers weights and optimizer state on the processor's side while it writes one, and any number of
processes goes on from them, sharded or not. Not with Muon (it needs whole matrices), a base or adapter, ``average``, ``noise_scale``, ``pruning`` or ``compile``; the watch
does not look.
"""

from __future__ import annotations

import torch

from scalebound.core.errors import InputError, UsageError
from scalebound.models.transformer import Transformer
from scalebound.train import parallel
from scalebound.train.recipe import Recipe


def check_sharding(shard: bool, recipe: Recipe) -> None:
    """Refuse to spread what cannot be spread.

    Raises
    ------
    UsageError
        There is only one process.
    InputError
        A recipe with a key that needs whole tensors.
    """
    if not shard:
        return
    if parallel.size() < 2:
        raise UsageError("--shard with one process", expected="several", hint="torchrun --nproc-per-node 2 -m scalebound train ... --shard")
    if recipe.optimizer == "muon":
        raise InputError('optimizer = "muon" with --shard', where="recipe", expected="adamw, lion or sgd: muon needs whole matrices")
    if recipe.pruning != "none":
        raise InputError(f"pruning = {recipe.pruning!r} with --shard", where="recipe", expected="a recipe without it")
    for key in ("base", "average", "noise_scale", "compile"):
        if getattr(recipe, key):
            raise InputError(f"{key} = {getattr(recipe, key)!r} with --shard", where="recipe", expected="a recipe without it")


def shard_model(model: Transformer, place: torch.device) -> None:
    """Replace the parameters of a model, equal in all processes, by each process's share of them on its device."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(place.type, (parallel.size(),))
    model.to(place)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # sums, as losses are weighted by their share of the batch already
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
