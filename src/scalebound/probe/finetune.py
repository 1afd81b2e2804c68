"""Fine-tunability: one function, several parametrizations, the same recipe, different outcomes.

A model is rewritten by every transformation of :mod:`~scalebound.probe.reparametrize` (equal logits, measured), then the original and the
rewritten models are fine-tuned on the same batches. What theory says of an optimizer and a transformation ``theta -> A theta``:

* a permutation commutes with every coordinatewise optimizer: SGD and AdamW end at the same function. LoRA on q and v does too: permuting heads
  permutes the rows of its B, which starts at 0, and leaves its A alone; what LoRA leaves frozen (up and down here) may be rewritten freely;
* an orthogonal A commutes with SGD (the gradient turns with the weights), not with Adam, whose step divides by each coordinate's own size;
* a scaling commutes with none: the gradient of s w is that of w divided by s, so SGD's step on the function changes by s^-2 and Adam's, whose
  size does not see s, by s^-1.

What is held fixed so that the statements are exact: the head is untied, norm gains are frozen, the gradient norm is clipped at 1 (a global
norm, kept by permutations and rotations), no weight decay. The rotation is compared with the model whose gains are folded and nothing else.

Source: Reizinger et al. 2024, arXiv 2405.01964; Dinh et al. 2017, arXiv 1703.04933. LoRA: Hu et al. 2021, arXiv 2106.09685.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.core.errors import MachineError, UsageError
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import derive
from scalebound.probe.exact import check_level, over_seeds
from scalebound.probe.llama import Weights, logits_of, random_llama, untied
from scalebound.probe.reparametrize import TRANSFORMATIONS, fold

OPTIMIZERS = ("sgd", "adamw", "lora")
RATES = {"sgd": 0.5, "adamw": 3e-3, "lora": 1e-2}
RANK = 4
SAME = 1e-3  # nats: two fine-tuned losses this close in every seed are called the same; float32 rounding is far below
SMALL = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
         "intermediate_size": 64, "vocab_size": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000.0}  # fmt: skip


def invariant(optimizer: str, transformation: str) -> bool:
    """What theory says: does fine-tuning with this optimizer end at the same function after this transformation?

    >>> invariant("sgd", "rotate_residual"), invariant("adamw", "rotate_residual"), invariant("adamw", "permute_heads")
    (True, False, True)
    """
    return transformation.startswith("permute") or (optimizer, transformation) in (("sgd", "rotate_residual"), ("lora", "up_down"))


@dataclass(frozen=True)
class Task:
    """A Markov chain over a few token ids: a text-free task that every vocabulary admits.

    ``ids`` (states,) token ids; ``transitions`` (states, states), rows sum to 1. The best possible loss is the chain's entropy rate.
    """

    ids: np.ndarray
    transitions: np.ndarray

    def sample(self, rng: np.random.Generator, sequences: int, length: int) -> Tensor:
        """Token ids (sequences, length), int64; the first state uniform."""
        states = np.empty((sequences, length), dtype=np.int64)
        states[:, 0] = rng.integers(len(self.ids), size=sequences)
        edges = self.transitions.cumsum(1)
        edges[:, -1] = 1.0
        for k in range(1, length):
            states[:, k] = (rng.random((sequences, 1)) > edges[states[:, k - 1]]).sum(1)
        return torch.from_numpy(self.ids[states])


def markov_task(vocab_size: int, seed: int, *, states: int = 16, concentration: float = 0.2) -> Task:
    """A chain with Dirichlet rows over ``states`` random ids of the vocabulary."""
    rng = np.random.default_rng(derive(seed, "probe task"))
    states = min(states, vocab_size)
    ids = np.sort(rng.choice(vocab_size, size=states, replace=False)).astype(np.int64)
    return Task(ids, rng.dirichlet(np.full(states, concentration), size=states))


def mean_loss(config: dict, weights: Weights, tokens_BT: Tensor) -> float:
    """Mean loss of the tokens after the first."""
    with torch.no_grad():
        return float(F.cross_entropy(logits_of(config, weights, tokens_BT[:, :-1]).flatten(0, 1), tokens_BT[:, 1:].flatten()))


def tune(config: dict, weights: Weights, batches: Sequence[Tensor], *, optimizer: str, lr: float, seed: int = 0) -> Weights:
    """Fine-tune on the batches, in order, and return new weights; norm gains stay as they are.

    Parameters
    ----------
    batches : (B, T) int64 each
    optimizer : "sgd" (momentum 0.9), "adamw" (betas 0.9 and 0.95, no decay) or "lora" (AdamW on rank-4 updates of q and v)
    lr : > 0, decays linearly to 0
    seed : draws LoRA's A

    Raises
    ------
    UsageError
        Unknown optimizer.
    MachineError
        The weights are no longer finite.
    """
    generator = torch.Generator().manual_seed(derive(seed, "lora"))
    parameters: dict[str, Tensor] = {}
    if optimizer == "lora":
        for name, tensor in weights.items():
            if name.endswith(("q_proj.weight", "v_proj.weight")):
                parameters[name + ":A"] = torch.randn(RANK, tensor.shape[1], generator=generator) / tensor.shape[1] ** 0.5
                parameters[name + ":B"] = torch.zeros(tensor.shape[0], RANK)
    elif optimizer in OPTIMIZERS:
        parameters = {name: tensor.clone() for name, tensor in weights.items() if tensor.ndim == 2}
    else:
        raise UsageError(f"unknown optimizer {optimizer!r}", expected=f"one of {', '.join(OPTIMIZERS)}")
    for tensor in parameters.values():
        tensor.requires_grad_(True)

    def current() -> Weights:
        if optimizer != "lora":
            return weights | parameters
        return weights | {
            name[:-2]: weights[name[:-2]] + parameters[name[:-2] + ":B"] @ A for name, A in parameters.items() if name.endswith(":A")
        }

    values = list(parameters.values())
    if optimizer == "sgd":
        stepper: torch.optim.Optimizer = torch.optim.SGD(values, lr=lr, momentum=0.9)
    else:
        stepper = torch.optim.AdamW(values, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    for step, tokens_BT in enumerate(batches):
        stepper.param_groups[0]["lr"] = lr * (1 - step / len(batches))
        loss = F.cross_entropy(logits_of(config, current(), tokens_BT[:, :-1]).flatten(0, 1), tokens_BT[:, 1:].flatten())
        stepper.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(values, 1.0)
        if not torch.isfinite(norm):
            raise MachineError(f"the gradient is not finite at step {step}", hint="choose a smaller learning rate")
        stepper.step()
    return {name: tensor.detach() for name, tensor in current().items()}


def small_model(seed: int, *, steps: int = 150) -> tuple[dict, Weights]:
    """A two-layer model trained in the probe on a first chain, so that there is something to fine-tune."""
    task = markov_task(SMALL["vocab_size"], derive(seed, "before"))  # type: ignore[arg-type]
    rng = np.random.default_rng(derive(seed, "pretraining"))
    weights = random_llama(SMALL, torch.Generator().manual_seed(derive(seed, "small model")))
    g = torch.Generator().manual_seed(derive(seed, "gains"))
    # trained models have gains away from 1; with gains of 1 folding would be tested on nothing
    weights = {k: torch.exp(0.2 * torch.randn(v.shape, generator=g)) if v.ndim == 1 else v for k, v in weights.items()}
    return SMALL, tune(SMALL, weights, [task.sample(rng, 16, 33) for _ in range(steps)], optimizer="adamw", lr=3e-3)


@dataclass(frozen=True)
class Row:
    """One optimizer and one transformation. Losses are held-out means after fine-tuning, over seeds; ``difference`` is transformed minus
    reference, paired by seed, with its interval. ``invariant`` is what theory says, ``found`` what was measured: "same", "spread" or "shifted".
    ``separate``: the two loss intervals do not overlap; ``separate_together``: nor do those that hold for all rows at once (a union bound).
    """

    optimizer: str
    transformation: str
    logit_gap: float
    loss_before: float
    reference_loss: tuple[float, float, float]
    loss: tuple[float, float, float]
    difference: tuple[float, float, float]
    largest_difference: float
    invariant: bool
    found: str
    separate: bool
    separate_together: bool


def probe_finetune(config: dict, weights: Weights, *, seeds: int = 6, steps: int = 40, strength: float = 2.0, level: float = 0.95, seed: int = 0,
                   optimizers: Sequence[str] = OPTIMIZERS, transformations: Sequence[str] = tuple(TRANSFORMATIONS),
                   rates: dict[str, float] | None = None, batch: int = 8, length: int = 33, progress: Progress = silent) -> list[Row]:  # fmt: skip
    """Fine-tune a model and its exact reparametrizations and compare the outcomes.

    Parameters
    ----------
    config, weights : a Llama-style model, see :func:`~scalebound.probe.llama.read_llama`
    seeds : >= 2              each draws the order of the data, the transformation and LoRA's A
    steps, batch, length      of fine-tuning: steps of (batch, length) tokens
    strength : >= 0           standard deviation of the log of scaling factors; 0 is the null: scalings do nothing
    level : in (0, 1)         of every interval, each on its own

    Returns
    -------
    list of Row               found "same": within 1e-3 nats in every seed; "shifted": not that, and the interval of the paired difference
                              excludes 0; "spread": outcomes differ by more than 1e-3 nats in some seed, without a direction shown

    Raises
    ------
    UsageError                fewer than 2 seeds, unknown names, level or strength out of range
    MachineError              fine-tuning diverged, or a transformation changed the logits

    Cost: ``seeds x optimizers x (transformations + 2)`` fine-tunings. The intervals are Student's over seeds.
    """
    check_level(level)
    if seeds < 2:
        raise UsageError(f"seeds is {seeds}", where="seeds", expected="at least 2: an interval over seeds needs them")
    if not 0 <= strength <= 5:
        raise UsageError(f"strength is {strength}", where="strength", expected="from 0 to 5")
    if steps < 1:
        raise UsageError(f"steps is {steps}", where="steps", expected="at least 1")
    for chosen, known, what in ((optimizers, OPTIMIZERS, "optimizer"), (transformations, TRANSFORMATIONS, "transformation")):
        for name in chosen:
            if name not in known:
                raise UsageError(f"unknown {what} {name!r}", expected=f"one of {', '.join(known)}")
    original = untied(weights) if "lm_head.weight" not in weights else dict(weights)
    task = markov_task(config["vocab_size"], derive(seed, "after"))
    held_out = task.sample(np.random.default_rng(derive(seed, "held out")), 64, length)
    names = ["original", *(["fold"] if "rotate_residual" in transformations else []), *transformations]
    losses: dict[tuple[str, str], list[float]] = {(o, name): [] for o in optimizers for name in names}
    gaps = dict.fromkeys(names, 0.0)
    before = mean_loss(config, original, held_out)
    with torch.no_grad():
        logits = logits_of(config, original, held_out)
    total, done = seeds * len(names) * len(optimizers), 0
    for number in range(seeds):
        rng = np.random.default_rng(derive(seed, "fine-tuning", number))
        batches = [task.sample(rng, batch, length) for _ in range(steps)]
        for name in names:
            generator = torch.Generator().manual_seed(derive(seed, name, number))
            model = (
                original
                if name == "original"
                else fold(config, original)
                if name == "fold"
                else TRANSFORMATIONS[name](config, original, generator, strength)
            )
            with torch.no_grad():
                gaps[name] = max(gaps[name], float((logits_of(config, model, held_out) - logits).abs().max()))
            if gaps[name] > 1e-3 * max(1.0, float(logits.abs().max())):
                raise MachineError(
                    f"{name} changed the logits by {gaps[name]:.2g}", expected="an exact reparametrization", hint="lower the strength"
                )
            for optimizer in optimizers:
                tuned = tune(config, model, batches, optimizer=optimizer, lr=(rates or RATES)[optimizer], seed=derive(seed, number))
                losses[optimizer, name].append(mean_loss(config, tuned, held_out))
                done += 1
                progress(done, total)
    together = 1 - (1 - level) / (2 * len(optimizers) * len(transformations))
    return [_row(o, name, losses, gaps[name], before, level, together) for o in optimizers for name in transformations]


def _row(optimizer: str, name: str, losses: dict[tuple[str, str], list[float]], gap: float, before: float, level: float, together: float) -> Row:
    reference = np.array(losses[optimizer, "fold" if name == "rotate_residual" else "original"])
    own = np.array(losses[optimizer, name])
    difference, largest = over_seeds(own - reference, level), float(np.abs(own - reference).max())
    found = "same" if largest <= SAME else "shifted" if difference[1] > 0 or difference[2] < 0 else "spread"
    a, b = over_seeds(reference, level), over_seeds(own, level)
    apart = [one[1] > other[2] or one[2] < other[1] for one, other in ((b, a), (over_seeds(own, together), over_seeds(reference, together)))]
    return Row(optimizer, name, gap, before, a, b, difference, largest, invariant(optimizer, name), found, *apart)
