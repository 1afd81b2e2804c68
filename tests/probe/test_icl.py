"""The exact predictors against enumeration of every hidden path, the pair, and its null."""

import itertools

import numpy as np
import pytest
import torch

from scalebound.core.errors import InputError, UsageError
from scalebound.probe import Mixture, divergences, learner, probe_icl, random_mixture
from scalebound.probe.icl import answers_of, divergence_interval


@pytest.fixture(scope="module")
def tiny():
    return random_mixture(3, concepts=2, states=2, tokens=2, delimiter=0.3, sharpness=0.5)


def likelihood(mixture, concept, tokens):
    """P(tokens | concept) as a sum over all hidden paths: the state that emits each token, delimiters included."""
    total = 0.0
    H = mixture.start.shape[1]
    for path in itertools.product(range(H), repeat=len(tokens)):
        p = mixture.start[concept, path[0]] if path else 1.0
        for k, (token, state) in enumerate(zip(tokens, path, strict=True)):
            p *= mixture.delimiter if token == 0 else (1 - mixture.delimiter) * mixture.emissions[state, token]
            if k + 1 < len(tokens):
                p *= mixture.start[concept, path[k + 1]] if token == 0 else mixture.transitions[concept, state, path[k + 1]]
        total += p
    return total


def brute(mixture, tokens, reach=0):
    """P(next | tokens): concepts weighed by all segments, or only by those since the last short one."""
    after, start = 0, 0
    for k, token in enumerate(tokens):
        if token == 0:
            if reach and k - start <= reach:
                after = k + 1
            start = k + 1
    tokens = list(tokens[after:])
    joint = np.array([[mixture.prior[c] * likelihood(mixture, c, [*tokens, o]) for o in range(mixture.vocab_size)] for c in range(len(mixture.prior))])
    return joint.sum(0) / joint.sum()


@pytest.mark.parametrize("reach", [0, 1, 2, 9])
def test_predictions_are_those_of_the_sum_over_paths(tiny, reach):
    documents = tiny.sample(np.random.default_rng(0), 12, 6)
    documents[0] = [1, 0, 2, 2, 0, 1]
    fast = tiny.predict(documents, reach=reach)
    for document, rows in zip(documents, fast, strict=True):
        for t in range(6):
            assert np.allclose(rows[t], brute(tiny, document[:t], reach), atol=1e-12)
        assert np.allclose(tiny.after(document[None], reach=reach)[0], brute(tiny, document, reach), atol=1e-12)


def test_the_chain_rule_gives_the_divergence_of_documents(tiny):
    """KL of whole documents, by enumeration of all of them, is what the conditional divergences average to."""
    T = 6
    documents = np.array(list(itertools.product(range(tiny.vocab_size), repeat=T)))
    p, q = tiny.predict(documents), tiny.predict(documents, reach=2)
    of = [np.take_along_axis(x, documents[..., None], -1)[..., 0].prod(1) for x in (p, q)]
    assert abs(of[0].sum() - 1) < 1e-12 and abs(of[1].sum() - 1) < 1e-12
    whole = (of[0] * np.log(of[0] / of[1])).sum()
    assert whole > 1e-4 and abs(whole - (of[0] * divergences(p, q).sum(1)).sum()) < 1e-12
    assert divergences(p, q).max() <= tiny.largest_divergence
    mean, low, high = divergence_interval(divergences(p, q)[tiny_draws(of[0])], tiny.largest_divergence, 0.99)
    assert low <= whole / T <= high and low <= mean <= high


def tiny_draws(weights):
    return np.random.default_rng(1).choice(len(weights), size=4000, p=weights)


def test_samples_follow_the_mixture(tiny):
    documents = tiny.sample(np.random.default_rng(2), 40_000, 3)
    for words in itertools.product(range(3), repeat=3):
        exact = sum(tiny.prior[c] * likelihood(tiny, c, words) for c in range(2))
        share = (documents == words).all(1).mean()
        assert abs(share - exact) < 5 * np.sqrt(exact / 40_000), words


def test_answers_are_those_of_the_known_concept():
    mixture = random_mixture(0, concepts=3)
    single = Mixture(np.ones(1), mixture.start[:1], mixture.transitions[:1], mixture.emissions, mixture.delimiter)
    prompts, answers = single.prompts(np.random.default_rng(0), 200, examples=2, length=4)
    assert prompts.shape == (200, 13) and np.all(prompts[:, [4, 9]] == 0) and np.all((prompts != 0).sum(1) == 11)
    assert np.array_equal(single.after(prompts)[:, 1:].argmax(1) + 1, answers)  # with one concept nothing is left to infer


def test_a_pair_within_epsilon_is_found_and_one_concept_gives_none():
    found = probe_icl(random_mixture(0), models=(), documents=1500, prompts=300, examples=(0, 8, 16), lengths=(3,), epsilon=0.06)
    assert found.found and found.reach and next(r for r in found.divergences if r.chosen).high <= 0.06
    exact, twin = found.gap
    assert exact.low - twin.high > 0.15 and exact.examples > 0
    start = [row for row in found.accuracies if row.examples == 0]
    assert start[0].accuracy == start[1].accuracy  # without examples there is nothing to forget
    null = probe_icl(random_mixture(0, concepts=1), models=(), documents=300, prompts=200, examples=(0, 8), lengths=(3,))
    assert not null.found and all(row.divergence < 1e-12 for row in null.divergences)
    strict = probe_icl(random_mixture(0), models=(), documents=300, prompts=50, examples=(8,), lengths=(3,), epsilon=1e-4)
    assert strict.reach == 0 and strict.gap is None and not strict.found


def test_training_lowers_the_loss_and_answers_are_tokens():
    mixture = random_mixture(0, concepts=2)
    found = probe_icl(mixture, models=("lstm",), steps=60, documents=200, prompts=40, examples=(2,), lengths=(3,), reaches=(4,))
    names = [row.predictor for row in found.losses]
    assert names[0] == "bayes" and names[-1] == "lstm" and 0 < found.losses[-1].excess < 1.0 and found.losses[-1].low > 0
    prompts = mixture.prompts(np.random.default_rng(0), 5, examples=1, length=3)[0]
    model = learner(mixture, "transformer", 0, steps=1)
    assert set(answers_of(model, prompts)) <= set(range(1, mixture.vocab_size))
    first = model(torch.tensor([[0, *prompts[0]]]))[0, -1, 1:].argmax() + 1
    assert answers_of(model, prompts)[0] == first


def test_bad_arguments():
    mixture = random_mixture(0)
    with pytest.raises(UsageError, match="kind"):
        learner(mixture, "oracle", 0, steps=1)
    with pytest.raises(UsageError, match="fits"):
        probe_icl(mixture, models=(), documents=20, examples=(100,))
    with pytest.raises(UsageError, match="positive"):
        probe_icl(mixture, models=(), epsilon=0.0)
    with pytest.raises(UsageError, match="length 1"):
        mixture.prompts(np.random.default_rng(0), 3, examples=1, length=1)
    with pytest.raises(InputError, match="distribution"):
        Mixture(mixture.prior * 2, mixture.start, mixture.transitions, mixture.emissions, 0.1)
    with pytest.raises(InputError, match="delimiter"):
        Mixture(mixture.prior, mixture.start, mixture.transitions, mixture.emissions, 0.0)
    with pytest.raises(InputError, match="fit"):
        Mixture(mixture.prior[:2], mixture.start, mixture.transitions, mixture.emissions, 0.1)
