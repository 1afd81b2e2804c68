"""A network whose matrices are rounded while calibration text runs through it.

In: a configuration, arrays and token ids. :class:`Calibration` builds the network, measures what errors cost in every matrix
(:mod:`~scalebound.train.curvature`) and then lets text through, stopping before each linear map to hand out the second moments of its
inputs. :mod:`~scalebound.train.posttraining` decides what is rounded how.

Letters: S sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from scalebound.compress import Coded
from scalebound.compress.gptq import Factor, factor
from scalebound.core.errors import InputError
from scalebound.core.progress import Progress
from scalebound.models.load import has_bfloat16, in_precision, transformers_from_config
from scalebound.train.curvature import curvature

UNSEEN_TOKENS = 0.05  # of the mean, added to every token's weight: tokens that calibration lacks stay usable
CURVATURE_SHARE = 4  # of the sequences, one in so many goes backward: means over them are needed, not matrices


class Calibration:
    """The network, its weights as they were, and what errors in them cost.

    Attributes
    ----------
    arrays
        The checkpoint's tensors by name, floats as float32.
    groups
        Linear maps that read one tensor (queries, keys, values; gate and up), by number, in the order in which the network computes.
    embedding, head
        Names of the arrays that embed tokens and that give logits; the same when tied.
    same_as
        Arrays that are stored a second time (a tied output matrix, in some folders), by name, and the array they are rounded as.
    """

    def __init__(self, config: dict, arrays: dict[str, np.ndarray], inputs_ST: np.ndarray, *, curved: bool, seed: int, progress: Progress) -> None:
        self.arrays, self.inputs_ST, self.curved = arrays, inputs_ST, curved
        module = transformers_from_config(config, {key: torch.from_numpy(np.array(data)) for key, data in arrays.items()}, "the model").eval().requires_grad_(False)
        self.module: nn.Module = in_precision(module, torch.bfloat16 if has_bfloat16() else torch.float32)
        embedding, head = module.get_input_embeddings(), module.get_output_embeddings()
        decoder = getattr(module, module.base_model_prefix, None)
        if head is None or embedding is None or not isinstance(decoder, nn.Module):
            raise InputError("is not a decoder with an embedding and an output matrix", where="the model", expected="a causal language model")
        self.decoder: nn.Module = decoder
        self.parameters = {key: parameter for key, parameter in module.named_parameters(remove_duplicate=False) if key in arrays}
        name_of: dict[int, str] = {}
        for key, parameter in self.parameters.items():
            name_of.setdefault(id(parameter), key)
        self.same_as = {key: name_of[id(parameter)] for key, parameter in self.parameters.items() if name_of[id(parameter)] != key}
        self.embedding, self.head = name_of.get(id(embedding.weight), ""), name_of.get(id(head.weight), "")
        if not self.embedding or not self.head:
            raise InputError("stores no embedding under a name of the network", where="the model")
        linears = {key: part for key, part in module.named_modules() if isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"}
        self.linears = {key: part for key, part in linears.items() if part is not head and f"{key}.weight" in arrays}
        part = inputs_ST[: max(1, len(inputs_ST) // CURVATURE_SHARE)]
        self.cost = curvature(self.module, self.linears, part, torch.Generator().manual_seed(seed), progress)
        self.frequency = np.bincount(inputs_ST.reshape(-1), minlength=len(self.cost.spread)) / inputs_ST.size
        self.groups: dict[int, list[str]] = {}
        for key, number in self.cost.group.items():
            self.groups.setdefault(number, []).append(key)

    @property
    def names(self) -> set[str]:
        """The arrays that are rounded with calibration."""
        return {f"{key}.weight" for group in self.groups.values() for key in group} | {self.embedding, self.head}

    def transposed(self, key: str) -> bool:
        """Whether a map stores its weights as (inputs, outputs)."""
        return type(self.linears[key]).__name__ == "Conv1D"

    def weight(self, number: int) -> np.ndarray:
        """(outputs, inputs) of a group's maps, one below the other, as they were."""
        found = [(self.arrays[f"{key}.weight"], self.transposed(key)) for key in self.groups[number]]
        return np.concatenate([data.T if turned else data for data, turned in found])

    def split(self, number: int, coded: Coded) -> dict[str, Coded]:
        """A rounded group as the tensors of the checkpoint."""
        out, at = {}, 0
        for key in self.groups[number]:
            turned = self.transposed(key)
            rows = self.arrays[f"{key}.weight"].shape[1 if turned else 0]
            integers, row_scales, col_scales = coded.integers[at : at + rows], coded.row_scales[at : at + rows], coded.col_scales
            at += rows
            if turned and col_scales is not None:
                integers, row_scales, col_scales = integers.T, col_scales, row_scales
            out[f"{key}.weight"] = Coded(np.ascontiguousarray(integers), row_scales, col_scales)
        return out

    def put(self, name: str, data: np.ndarray) -> None:
        """Let the network compute with other weights."""
        self.parameters[name].data.copy_(torch.from_numpy(np.array(data)))

    def cost_of_embedding(self, name: str) -> tuple[Factor, np.ndarray]:
        """What errors in an embedding cost: factored second moments of the columns, and weights of the rows.

        Row v is read when token v is an input (``frequency``, with the curvature that reaches the embedded tokens) and written when it gives
        a logit (``spread``, with the second moments of the final hidden states); a tied one is both. The two curvatures are not
        proportional; they are added, and so are the rows' weights, each in proportion to its trace.
        """
        cost = self.cost
        if not self.curved:
            return factor(cost.top if name == self.head else np.eye(len(cost.top))), np.ones(len(cost.spread))
        read, written = float(np.trace(cost.bottom)), float(np.trace(cost.top))
        second, weights = np.zeros_like(cost.top), np.zeros(len(cost.spread))
        if name == self.embedding:
            second, weights = second + cost.bottom, weights + self.frequency * read
        if name == self.head:
            second, weights = second + cost.top, weights + cost.spread * (written / float(cost.spread.sum()))
        weights = weights / np.trace(second)
        return factor(second), weights + UNSEEN_TOKENS * weights.mean()

    def cost_of_group(self, number: int, inputs: Tensor) -> tuple[Factor, np.ndarray]:
        """Factored second moments of a group's inputs and weights of its outputs."""
        flat = inputs.flatten(0, -2).float().numpy()
        rows = [self.cost.rows[key] for key in self.groups[number]]
        return factor(flat.T @ flat / np.float32(len(flat))), np.concatenate(rows)  # numpy computes half of a product with itself

    def forward(self, visit: Callable[[int, Tensor], None], sequences: int | None = None) -> None:
        """Run calibration text; ``visit`` is called with the number of every group and its inputs, just before the group computes."""
        seen: set[int] = set()

        def before(number: int) -> Callable:
            def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                if number not in seen:
                    seen.add(number)
                    visit(number, args[0].detach())

            return hook

        hooks = [self.linears[key].register_forward_pre_hook(before(number)) for number, keys in self.groups.items() for key in keys]
        try:
            with torch.inference_mode():
                self.decoder(torch.from_numpy(self.inputs_ST[:sequences]), use_cache=False)
        finally:
            for handle in hooks:
                handle.remove()
