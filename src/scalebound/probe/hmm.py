"""A mixture of hidden Markov models over documents with delimiters, and its exact predictors.

A document draws a concept k from ``prior`` and a hidden state h from ``start[k]``. At every token the delimiter (id 0) comes with probability
``delimiter``; then h is drawn afresh from ``start[k]``. Otherwise the token is drawn from ``emissions[h]`` and h moves by ``transitions[k]``.
The concept never changes within a document: whoever infers it from earlier segments predicts later ones better.

The exact predictor keeps the joint belief b over (concept, state about to emit), starting with prior times start:

    P(o | past) = (1 - d) sum_kh b[k,h] E[h,o]                 b'[k,j] = sum_h b[k,h] E[h,o] A[k,h,j] / normalizer         (o a token)
    P(0 | past) = d                                            b'[k,j] = (sum_h b[k,h]) start[k,j]                         (the delimiter)

The *forgetting* predictor of reach g is the same except that a delimiter after a segment of at most g tokens also puts the concepts back
to ``prior``. It is what a model does that treats short segments as documents of their own. For long segments both are one; and since the
documents come from the mixture itself, their divergence per token is the mean of the conditional divergences KL(P(. | past) || Q(. | past)),
which :meth:`Mixture.predict` gives exactly.

Letters: B sequences, T positions, K concepts, H states, V tokens with the delimiter. Source: Xie et al. 2022, arXiv 2111.02080 (their delimiter is
a state too; their documents are longer and their concepts more). Forward algorithm: Rabiner 1989, Proc. IEEE 77(2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import InputError, UsageError
from scalebound.core.seeds import generator

DELIMITER = 0


@dataclass(frozen=True)
class Mixture:
    """``prior`` (K,), ``start`` (K, H), ``transitions`` (K, H, H), ``emissions`` (H, V) with a first column of zeros, ``delimiter`` in (0, 1).

    Raises
    ------
    InputError
        Shapes that do not fit, rows that are no distributions.
    """

    prior: np.ndarray
    start: np.ndarray
    transitions: np.ndarray
    emissions: np.ndarray
    delimiter: float

    def __post_init__(self) -> None:
        K, H = self.start.shape
        if self.prior.shape != (K,) or self.transitions.shape != (K, H, H) or len(self.emissions) != H:
            raise InputError("the arrays of the mixture do not fit each other", where="Mixture")
        for name in ("prior", "start", "transitions", "emissions"):
            rows = getattr(self, name)
            if np.any(rows < 0) or np.abs(rows.sum(-1) - 1).max() > 1e-9:
                raise InputError(f"{name} is no distribution", where="Mixture", expected="numbers of at least 0 that sum to 1")
        if not 0 < self.delimiter < 1 or np.any(self.emissions[:, DELIMITER]):
            raise InputError("the delimiter must have its own probability in (0, 1) and no state may emit it", where="Mixture")

    @property
    def vocab_size(self) -> int:
        return self.emissions.shape[1]

    @property
    def largest_divergence(self) -> float:
        """No two beliefs predict with a larger KL: every token but the delimiter has probability at least (1-d) min E, the delimiter d."""
        return float(np.log(self.emissions[:, 1:].max() / self.emissions[:, 1:].min()))

    def sample(self, rng: np.random.Generator, count: int, length: int) -> np.ndarray:
        """Documents (count, length)."""
        concepts = rng.choice(len(self.prior), size=count, p=self.prior)
        return self._walk(rng, concepts, length, rng.random((count, length)) < self.delimiter)

    def prompts(self, rng: np.random.Generator, count: int, *, examples: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Prompts (count, examples * (length + 1) + length - 1) and answers (count,).

        A prompt holds ``examples`` segments of ``length`` tokens of one concept, each closed by the delimiter, and the first length - 1 tokens of
        one more. The answer is the likeliest last token for whoever knows the concept: argmax P(o | segment, concept), the paper's label.
        """
        if examples < 0 or length < 2:
            raise UsageError(f"{examples} examples of length {length}", where="prompts", expected="examples >= 0 of at least 2 tokens")
        total = examples * (length + 1) + length - 1
        marks = np.zeros((count, total), dtype=bool)
        marks[:, length :: length + 1] = True
        concepts = rng.choice(len(self.prior), size=count, p=self.prior)
        prompts = self._walk(rng, concepts, total, marks)
        known = np.zeros((count, *self.start.shape))
        known[np.arange(count), concepts] = self.start[concepts]
        for column in prompts[:, total - length + 1 :].T:
            known = self._seen(known, column)
        return prompts, np.einsum("bkh,hv->bv", known, self.emissions).argmax(1)

    def predict(self, documents: np.ndarray, *, reach: int = 0) -> np.ndarray:
        """P(next | past) at every position of the documents: (B, T, V). ``reach`` > 0: of the forgetting predictor. O(B T K H (H + V))."""
        B, T = documents.shape
        belief = np.broadcast_to(self.prior[:, None] * self.start, (B, *self.start.shape)).copy()
        since = np.zeros(B, dtype=np.int64)
        out = np.empty((B, T, self.vocab_size))
        for t in range(T):
            out[:, t] = self.next_token(belief)
            belief, since = self.step(belief, since, documents[:, t], reach)
        return out

    def after(self, prompts: np.ndarray, *, reach: int = 0) -> np.ndarray:
        """P(next | whole prompt): (B, V)."""
        belief = np.broadcast_to(self.prior[:, None] * self.start, (len(prompts), *self.start.shape)).copy()
        since = np.zeros(len(prompts), dtype=np.int64)
        for column in prompts.T:
            belief, since = self.step(belief, since, column, reach)
        return self.next_token(belief)

    def next_token(self, belief: np.ndarray) -> np.ndarray:
        """P(next token) under a belief: (B, K, H) to (B, V)."""
        out = (1 - self.delimiter) * (belief.sum(1) @ self.emissions)
        out[:, DELIMITER] = self.delimiter
        return out

    def step(self, belief: np.ndarray, since: np.ndarray, tokens: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
        """The belief after one more token of every sequence, and the tokens since each one's last delimiter."""
        ended = tokens == DELIMITER
        concepts = belief[ended].sum(2)
        if reach:
            concepts[since[ended] <= reach] = self.prior
        moved = belief.copy()
        moved[ended] = concepts[:, :, None] * self.start
        moved[~ended] = self._seen(belief[~ended], tokens[~ended])
        return moved, np.where(ended, 0, since + 1)

    def _seen(self, belief: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        weighted = belief * self.emissions[:, tokens].T[:, None, :]
        weighted /= weighted.sum((1, 2), keepdims=True)
        return np.einsum("bkh,khj->bkj", weighted, self.transitions, optimize=True)

    def _walk(self, rng: np.random.Generator, concepts: np.ndarray, length: int, marks: np.ndarray) -> np.ndarray:
        """Tokens (B, length) of given concepts, with the delimiter where ``marks`` says."""
        out = np.zeros(marks.shape, dtype=np.int64)
        state = _draw(rng, self.start[concepts])
        for t in range(length):
            token = _draw(rng, self.emissions[state])
            state = np.where(marks[:, t], _draw(rng, self.start[concepts]), _draw(rng, self.transitions[concepts, state]))
            out[:, t] = np.where(marks[:, t], DELIMITER, token)
        return out


def _draw(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    """One index for each row of probabilities."""
    edges = rows.cumsum(-1)
    return np.minimum((rng.random(len(rows))[:, None] * edges[:, -1:] > edges).sum(-1), rows.shape[-1] - 1)


def random_mixture(seed: int, *, concepts: int = 8, states: int = 6, tokens: int = 12, delimiter: float = 0.05, sharpness: float = 0.1, noise: float = 0.1) -> Mixture:
    """A mixture whose concepts differ in how states follow each other and share what states emit (as in the paper: the vocabulary is common).

    ``sharpness`` is the concentration of the Dirichlet rows of transitions, ``noise`` the share of a uniform emission in every state.
    """
    rng = generator(seed, "mixture of hidden Markov models")
    own = rng.dirichlet(np.full(tokens, 0.1), size=states)
    emissions = np.zeros((states, tokens + 1))
    emissions[:, 1:] = (1 - noise) * own + noise / tokens
    return Mixture(
        prior=np.full(concepts, 1 / concepts),
        start=np.full((concepts, states), 1 / states),
        transitions=rng.dirichlet(np.full(states, sharpness), size=(concepts, states)),
        emissions=emissions / emissions.sum(1, keepdims=True),
        delimiter=delimiter,
    )


def divergences(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) in nats of distributions along the last axis.

    >>> divergences(np.array([0.5, 0.5]), np.array([0.25, 0.75])).round(4)
    0.1438
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / q), 0.0).sum(-1)
