"""Activation patching: which activation, put from one run into another, moves the answer.

A *clean* prompt has one answer, a *corrupted* prompt of equal length another. Let a run's activation be a residual stream before a layer, the
output of an attention or feed-forward block (each at one position), or what one head reads (at all positions). For activation c:

* **denoising** runs the corrupted prompt with c taken from the clean run: does c *suffice* to restore the clean behaviour?
* **noising** runs the clean prompt with c taken from the corrupted run: is c *needed* for it?

The two differ: of two parts that must act together neither suffices alone (only noising finds both); of two that can stand in for each other
neither is needed alone (only denoising finds either). With a metric m of the logits after the last position,

    effect of denoising = m(patched) - m(corrupted),  effect of noising = m(clean) - m(patched),  share = effect / (m(clean) - m(corrupted)),

so that a share of 0 is nothing and 1 everything, in both. Three metrics stand beside each other, because each can mislead (``PITFALLS``):

    logit_difference = z[answer] - z[wrong],   probability = softmax(z)[answer],   kl = -KL(softmax(z_clean) || softmax(z))  (nats).

Facts the tests hold: clean = corrupted gives 0 everywhere; all positions of one layer's stream from the clean run are the clean run;
positions before the first difference have no effect in a causal model (they are not computed).

Sources: Meng et al. 2022, arXiv 2202.05262; Wang et al. 2022, arXiv 2211.00593; Heimersheim and Nanda 2024, arXiv 2404.15255 (how to, and
what to beware of).

Letters: N pairs, T positions, D width, H heads, K head width, V vocabulary, L layers, C cells (of a layer: positions or heads).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.core.errors import InputError, UsageError
from scalebound.core.progress import Progress, silent
from scalebound.probe.exact import check_level, over_seeds
from scalebound.probe.llama import Edit, Weights, block, head_counts, keys_values, readout, rotary_of
from scalebound.probe.patch_tasks import Pairs

SITES = ("residual", "attention", "mlp", "heads")
DIRECTIONS = ("denoising", "noising")
METRICS = ("logit_difference", "probability", "kl")
LARGE = 0.5  # a head with at least this share of the logit difference is said to carry the answer
TOKENS = 4096  # of one forward pass: memory stays small, matrices large enough

PITFALLS = (
    "logit_difference compares two tokens only: a patch that raises both, or a third token, does not show; it is linear in the last stream, so parts add up.",
    "probability saturates near 0 and 1 and is not linear: it hides parts that lower the answer and can make one part of several look like all of it.",
    "kl sees every token, also changes that have nothing to do with the answer, and has no sign: a patch that overshoots looks like one that falls short.",
    "denoising shows what suffices, noising what is needed: parts that must act together show only in noising, parts that back each other up only in denoising.",
    "an effect belongs to this pair of prompts: what both share (grammar, format) is never seen, and later parts may change to make up for a patched one.",
)


@dataclass(frozen=True)
class Run:
    """The activations of one run: lists over layers of (N, T, ..), and the logits (N, V) after the last position."""

    tokens: Tensor
    residual: list[Tensor]
    attention: list[Tensor]
    mlp: list[Tensor]
    heads: list[Tensor]
    logits: Tensor


def record(config: dict, weights: Weights, tokens_NT: Tensor) -> Run:
    """Run the model and keep its activations. O(N T L (D + H K)) memory."""
    kept: dict[str, list[Tensor]] = {site: [] for site in SITES}

    def keep(site: str) -> Edit:
        def edit(activation: Tensor) -> Tensor:
            kept[site].append(activation)
            return activation

        return edit

    with torch.no_grad():
        rotary = rotary_of(config, weights, tokens_NT.shape[1])
        x_NTD = F.embedding(tokens_NT, weights["model.embed_tokens.weight"])
        for number in range(config["num_hidden_layers"]):
            kept["residual"].append(x_NTD)
            x_NTD = block(config, weights, number, x_NTD, rotary, heads=keep("heads"), attention=keep("attention"), mlp=keep("mlp"))
        return Run(tokens_NT, **kept, logits=readout(config, weights, x_NTD[:, -1]))


def _instead(other: Tensor, activation: Tensor) -> Tensor:
    """An edit: use the other activation."""
    return other


def patched(config: dict, weights: Weights, into: Run, source: Run, site: str, layer: int, cells: Sequence[Sequence[int]], *, begin: int = 0) -> Tensor:
    """Logits (C, N, V) of the run ``into`` with activations of ``source`` at one layer, once for every cell.

    A cell is the set of positions (of heads, for the site "heads") patched together. The run begins at the layer, what comes before is known;
    and at the position ``begin``, up to which both runs must be the same: of earlier positions only keys and values are needed.
    """
    N, T, _ = into.residual[layer].shape
    layers, out = range(layer, config["num_hidden_layers"]), []
    per_pass = max(1, TOKENS // (N * (T - begin)))
    with torch.no_grad():
        cos_TK, sin_TK = rotary_of(config, weights, T)
        early, late = (cos_TK[:begin], sin_TK[:begin]), (cos_TK[begin:], sin_TK[begin:])
        pasts = {number: keys_values(config, weights, number, into.residual[number][:, :begin], early) for number in layers} if begin else {}
        mine, other = (getattr(run, site)[layer][:, begin:] for run in (into, source))
        for start in range(0, len(cells), per_pass):
            chunk = cells[start : start + per_pass]
            mixed = mine.expand(len(chunk), *mine.shape).clone()
            for row, cell in enumerate(chunk):
                at = (slice(None), slice(None), list(cell)) if site == "heads" else (slice(None), [position - begin for position in cell])
                mixed[row][at] = other[at]
            mixed = mixed.flatten(0, 1)
            x = mixed if site == "residual" else into.residual[layer][:, begin:].repeat(len(chunk), 1, 1)
            for number in layers:
                edit = {site: functools.partial(_instead, mixed)} if number == layer and site != "residual" else {}
                past = None if not begin else (pasts[number][0].repeat(len(chunk), 1, 1, 1), pasts[number][1].repeat(len(chunk), 1, 1, 1))
                x = block(config, weights, number, x, late, past=past, **edit)
            out.append(readout(config, weights, x[:, -1]).view(len(chunk), N, -1))
    return torch.cat(out)


def metrics(logits: Tensor, clean_logits: Tensor, answers: np.ndarray, wrong: np.ndarray) -> dict[str, np.ndarray]:
    """The three metrics (.., N) of logits (.., N, V), in float64.

    >>> z = torch.tensor([[2.0, 1.0, 0.0]])
    >>> found = metrics(z, z, np.array([0]), np.array([1]))
    >>> float(found["logit_difference"][0]), round(float(found["probability"][0]), 3), float(found["kl"][0])
    (1.0, 0.665, 0.0)
    """
    at = torch.arange(logits.shape[-2])
    right, other = torch.from_numpy(answers), torch.from_numpy(wrong)
    log_p, log_clean = logits.double().log_softmax(-1), clean_logits.double().log_softmax(-1)
    divergence = (log_clean.exp() * (log_clean - log_p)).sum(-1)
    return {
        "logit_difference": (logits[..., at, right].double() - logits[..., at, other].double()).numpy(),
        "probability": log_p[..., at, right].exp().numpy(),
        "kl": 0.0 - divergence.numpy(),
    }


@dataclass(frozen=True)
class PatchMap:
    """Effects of one site in one direction: metric -> (N, L, columns); columns are positions, or heads."""

    site: str
    direction: str
    columns: tuple[str, ...]
    effects: dict[str, np.ndarray]


@dataclass(frozen=True)
class PatchRow:
    """The largest cell of one map (attention, mlp or heads) by one metric, chosen on the pairs of even number and estimated on those of odd number.

    ``effect`` is the mean over the odd pairs with Student's interval; ``share`` that mean over the mean gap of the same pairs (None where
    no gap is :func:`established`). With fewer than four pairs choice and estimate use all pairs: the effect is then too large if anything, and has no interval.
    """

    site: str
    direction: str
    metric: str
    layer: int
    column: str
    effect: float
    low: float | None
    high: float | None
    share: float | None
    n: int


@dataclass(frozen=True)
class Patching:
    """What :func:`probe_patch` found. ``gaps``: metric -> (N,), m(clean) - m(corrupted); ``verdict``: see there."""

    maps: list[PatchMap]
    rows: list[PatchRow]
    gaps: dict[str, np.ndarray]
    accuracy: tuple[float, float]
    verdict: str


def probe_patch(config: dict, weights: Weights, pairs: Pairs, *, sites: Sequence[str] = ("residual", "heads"), directions: Sequence[str] = DIRECTIONS,
                level: float = 0.95, progress: Progress = silent) -> Patching:  # fmt: skip
    """Patch every layer and position (or head), in both directions, and measure all three metrics.

    Parameters
    ----------
    config, weights : a Llama-style model, see :func:`~scalebound.probe.llama.read_llama`
    pairs : prompts, answers and wrong answers
    sites : of residual, attention, mlp (by layer and position) and heads (by layer and head, all positions at once)
    level : in (0, 1)         of every interval, each on its own

    Returns
    -------
    Patching                  verdict "no_gap": the interval of the mean logit-difference gap contains 0 (or there is no gap at all), so
                              there is nothing to locate; "one_head": some head restores at least half of the gap by itself, shown by an
                              interval above 0; "spread": otherwise, or heads were not asked; ``accuracy``: how often the clean run
                              prefers the answer, and the corrupted run the wrong answer, of the two

    Raises
    ------
    UsageError                unknown site or direction, none at all, level out of range
    InputError                a token outside the model's vocabulary

    Cost: about ``N L^2 / 2 (T' or H)`` layers of T' tokens for every site and direction, T' the tokens from the first difference on.
    """
    check_level(level)
    for chosen, known, what in ((sites, SITES, "site"), (directions, DIRECTIONS, "direction")):
        if not chosen or not set(chosen) <= set(known):
            raise UsageError(f"{what}s {', '.join(chosen) or '(none)'}", where=f"{what}s", expected=f"of {', '.join(known)}")
    largest = int(max(x.max() for x in (pairs.clean, pairs.corrupted, pairs.answers, pairs.wrong)))
    if largest >= config["vocab_size"]:
        raise InputError(f"token {largest}", where="pairs", expected=f"ids below the vocabulary's size, {config['vocab_size']}")
    L, (N, T) = config["num_hidden_layers"], pairs.clean.shape
    clean, corrupted = (record(config, weights, torch.from_numpy(x)) for x in (pairs.clean, pairs.corrupted))
    ends = [metrics(run.logits, clean.logits, pairs.answers, pairs.wrong) for run in (clean, corrupted)]
    gaps = {name: ends[0][name] - ends[1][name] for name in METRICS}
    accuracy = (float((ends[0]["logit_difference"] > 0).mean()), float((ends[1]["logit_difference"] < 0).mean()))
    maps = []
    for number, (site, direction) in enumerate([(s, d) for s in sites for d in directions]):
        labels = tuple(str(k) for k in range(head_counts(config)[0])) if site == "heads" else pairs.labels
        begin = pairs.first_difference
        cells = [[column] for column in range(0 if site == "heads" else begin, len(labels))]
        into, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
        effects = {name: np.zeros((N, L, len(labels))) for name in METRICS}
        for layer in range(L):
            if begin < T:  # else the prompts are the same, and nothing has an effect
                found = metrics(patched(config, weights, into, source, site, layer, cells, begin=begin), clean.logits, pairs.answers, pairs.wrong)
                for name in METRICS:
                    change = found[name] - ends[1][name] if direction == "denoising" else ends[0][name] - found[name]
                    effects[name][:, layer, -len(cells) :] = change.T
            progress(number * L + layer + 1, L * len(sites) * len(directions))
        maps.append(PatchMap(site, direction, labels, effects))
    # of the residual stream the largest cell is the changed token itself, before layer 0: its map says more than that cell
    rows = [_largest(one, name, gaps[name], level) for one in maps if one.site != "residual" for name in METRICS]
    return Patching(maps, rows, gaps, accuracy, _verdict(rows, gaps["logit_difference"], level))


def established(gap: np.ndarray, level: float) -> float | None:
    """The mean gap over pairs, or None when its interval contains 0 (or the only pair has none): then no share can be taken of it."""
    mean, low, high = over_seeds(gap, level) if len(gap) > 1 else (float(gap[0]),) * 3
    return None if low <= 0 <= high else mean


def _largest(one: PatchMap, metric: str, gap: np.ndarray, level: float) -> PatchRow:
    effects = one.effects[metric]
    N = len(effects)
    choose, estimate = (slice(0, None, 2), slice(1, None, 2)) if N >= 4 else (slice(None), slice(None))
    layer, column = np.unravel_index(int(np.argmax(effects[choose].mean(0))), effects.shape[1:])
    values, together = effects[estimate, layer, column], float(gap[estimate].mean())
    effect, low, high = over_seeds(values, level) if N >= 4 else (float(values.mean()), None, None)
    share = effect / together if established(gap, level) is not None and together else None
    return PatchRow(one.site, one.direction, metric, int(layer), one.columns[column], effect, low, high, share, len(values))


def _verdict(rows: list[PatchRow], gap: np.ndarray, level: float) -> str:
    if established(gap, level) is None:
        return "no_gap"
    carries = [row for row in rows if (row.site, row.direction, row.metric) == ("heads", "denoising", "logit_difference")]
    if carries and (carries[0].share or 0.0) >= LARGE and (carries[0].low is None or carries[0].low > 0):
        return "one_head"
    return "spread"
