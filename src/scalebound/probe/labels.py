"""In-context learning of a user's model: words and their categories, with the real labels and with labels permuted.

A prompt lists examples ``word: label`` and ends with a new word. Under *real* labels a model may answer from what it knew before; under
*permuted* labels (a rearrangement without fixed point, drawn anew for every prompt) it is right only by reading the examples; a model that
goes on answering with real labels is below chance. Under *random* labels (drawn independently for every example and for the answer) there
is nothing to learn: whoever answers is right at chance, which is the null of the probe.

Source: Brown et al. 2020, arXiv 2005.14165; flipped labels: Wei et al. 2023, arXiv 2303.03846; random labels: Min et al. 2022, arXiv 2202.12837.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from scalebound.core.errors import InputError, UsageError
from scalebound.core.progress import Progress, silent
from scalebound.core.seeds import generator
from scalebound.data.tokenizer import Tokenizer
from scalebound.measure import tokenizer_of
from scalebound.models.language_model import LanguageModel
from scalebound.probe.exact import check_level, clopper_pearson

MAPPINGS = ("real", "permuted", "random")
WORDS: dict[str, tuple[str, ...]] = {
    "animal": ("dog", "cat", "horse", "lion", "sheep", "tiger", "rabbit", "wolf", "mouse", "goat", "bear", "frog"),
    "fruit": ("apple", "banana", "cherry", "grape", "lemon", "mango", "orange", "peach", "pear", "plum", "melon", "lime"),
    "color": ("red", "blue", "green", "yellow", "purple", "brown", "black", "white", "pink", "grey", "violet", "beige"),
    "metal": ("iron", "gold", "silver", "copper", "zinc", "lead", "nickel", "tin", "steel", "brass", "bronze", "platinum"),
}


@dataclass(frozen=True)
class LabelRow:
    """Share of prompts with ``examples`` examples under a mapping whose likeliest label was the mapping's; chance is one in the number of labels."""

    mapping: str
    examples: int
    accuracy: float
    low: float
    high: float
    n: int
    chance: float


def label_prompt(rng: np.random.Generator, examples: int, mapping: str) -> tuple[str, str]:
    """A prompt (ends with ``word:``) and the label that the mapping gives its last word. Words do not repeat; categories are drawn evenly.

    >>> text, label = label_prompt(np.random.default_rng(0), 2, "real")
    >>> text.count(chr(10)), text.endswith(":"), label in WORDS
    (2, True, True)
    """
    labels = list(WORDS)
    if mapping not in MAPPINGS:
        raise UsageError(f"unknown mapping {mapping!r}", expected=f"one of {', '.join(MAPPINGS)}")
    if not 0 <= examples < len(labels) * len(WORDS[labels[0]]):
        raise UsageError(f"{examples} examples", where="--examples", expected=f"0 to {len(labels) * len(WORDS[labels[0]]) - 1}")
    order = np.arange(len(labels))
    while mapping == "permuted" and np.any(order == np.arange(len(labels))):
        order = rng.permutation(len(labels))
    # categories in turn, so that with as many examples as labels every label was shown
    category = np.concatenate([rng.permutation(len(labels)) for _ in range(examples // len(labels) + 1)])[:examples]
    category = np.append(category, rng.integers(len(labels)))
    place = [rng.permutation(len(WORDS[label])) for label in labels]
    lines, given = [], ""
    for k, kind in enumerate(category):
        word = WORDS[labels[kind]][place[kind][k // len(labels)]] if k < examples else WORDS[labels[kind]][place[kind][-1]]
        given = labels[rng.integers(len(labels))] if mapping == "random" else labels[order[kind]]
        lines.append(f"{word}: {given}\n" if k < examples else f"{word}:")
    return "".join(lines), given


@torch.inference_mode()
def likeliest_label(model: LanguageModel, words: Tokenizer, prompt: str) -> str:
    """The label whose text is likeliest after the prompt. One forward pass when the labels part at their first own token."""
    given = words.encode(prompt.encode()).astype(np.int64)
    endings = [words.encode(f" {label}".encode()).astype(np.int64) for label in WORDS]
    shared = 0
    while all(len(e) > shared + 1 for e in endings) and len({int(e[shared]) for e in endings}) == 1:
        shared += 1
    if len({int(e[shared]) for e in endings}) == len(endings):
        log_p = _next(model, np.concatenate([given, endings[0][:shared]]), 1)[0]
        return list(WORDS)[int(np.argmax([log_p[int(e[shared])] for e in endings]))]
    scores = []
    for ending in endings:
        rows = _next(model, np.concatenate([given, ending[:-1]]), len(ending))
        scores.append(sum(float(row[int(token)]) for row, token in zip(rows, ending, strict=True)))
    return list(WORDS)[int(np.argmax(scores))]


def _next(model: LanguageModel, tokens: np.ndarray, last: int) -> np.ndarray:
    """Log-probabilities of the next token at the last positions of a text: (last, V)."""
    if len(tokens) + 1 > model.max_context:
        raise InputError(f"a prompt has {len(tokens):,} tokens", where="--examples", expected=f"fewer than the model's context of {model.max_context:,}")
    inputs_BT = F.pad(torch.from_numpy(tokens)[None], (1, 0), value=model.first_token).to(model.device)
    hidden = model.hidden(inputs_BT)[0, -last:]
    return F.log_softmax(model.head(hidden).float(), dim=-1).cpu().numpy()


def probe_labels(model: LanguageModel, *, examples: Sequence[int] = (0, 16), prompts: int = 40, mappings: Sequence[str] = MAPPINGS, level: float = 0.95,
                 seed: int = 0, progress: Progress = silent) -> list[LabelRow]:  # fmt: skip
    """Accuracy of one model under each mapping for each number of examples.

    Parameters
    ----------
    model : any causal language model with a tokenizer
    examples : numbers of examples, 0 or more
    prompts : >= 1            of each kind, drawn independently
    level : in (0, 1)         of all intervals together (union bound over Clopper-Pearson intervals)

    Raises
    ------
    UsageError                unknown mapping, numbers out of range
    InputError                a prompt longer than the model's context

    Cost: one forward pass per prompt (four, where labels begin with one token).
    """
    check_level(level)
    if prompts < 1 or not examples or not mappings:
        raise UsageError("there are no prompts to ask", where="--prompts", expected="at least 1, of some mapping and number of examples")
    words = tokenizer_of(model)
    one = 1 - (1 - level) / (len(examples) * len(mappings))
    rows: list[LabelRow] = []
    total = len(examples) * len(mappings) * prompts
    for mapping in mappings:
        for n in examples:
            right = 0
            for k in range(prompts):
                text, label = label_prompt(generator(seed, "label prompts", mapping, n, k), n, mapping)
                right += likeliest_label(model, words, text) == label
                progress(len(rows) * prompts + k + 1, total)
            rows.append(LabelRow(mapping, n, right / prompts, *clopper_pearson(right, prompts, one), prompts, 1 / len(WORDS)))
    return rows


def verdict_of(rows: Sequence[LabelRow]) -> str:
    """What the permuted prompts with most examples say: "learns_in_context" (above chance), "keeps_its_own_labels" (below), else "undecided"."""
    last = max((row for row in rows if row.mapping == "permuted"), key=lambda row: row.examples, default=None)
    if last is None:
        return "undecided"
    return "learns_in_context" if last.low > last.chance else "keeps_its_own_labels" if last.high < last.chance else "undecided"
