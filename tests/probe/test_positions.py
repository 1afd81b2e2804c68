"""Every scheme is its equation; none depends on the future; what is relative does not see a shift."""

import math

import pytest
import torch

from scalebound.core.errors import UsageError
from scalebound.probe.positions import POSITIONS, T5, Decoder


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def shaken(scheme, **shape):
    model = Decoder(scheme, 12, width=16, heads=2, generator=generator(), **shape)
    if scheme == "t5":  # its table starts at 0, which would test nothing
        with torch.no_grad():
            model.positions.table.normal_(generator=generator(1))
    return model


def slow_scores(model, scheme, q, k):
    """Scores of one head by the equation of the map, query by query and key by key, in complex numbers where pairs are turned."""
    T, K = q.shape[1:]
    out = torch.full((q.shape[0], T, T), -math.inf)
    frequency = 10000.0 ** (-2 * torch.arange(K // 2) / K)
    for h in range(q.shape[0]):
        for i in range(T):
            for j in range(i + 1):
                if scheme == "rotary":
                    turned = torch.complex(q[h, i, : K // 2], q[h, i, K // 2 :]) * torch.complex(k[h, j, : K // 2], k[h, j, K // 2 :]).conj()
                    score = (turned * torch.polar(torch.ones(K // 2), (i - j) * frequency)).real.sum() / K**0.5
                else:
                    score = q[h, i] @ k[h, j] / K**0.5
                if scheme == "alibi":
                    score = score - 2 ** (-8 * (h + 1) / q.shape[0]) * (i - j)
                if scheme == "t5":
                    score = score + model.positions.table[h, int(T5.bucket(torch.tensor(i - j)))]
                out[h, i, j] = score
    return out


@pytest.mark.parametrize("scheme", POSITIONS)
def test_the_scores_are_the_equation(scheme):
    model = shaken(scheme)
    q, k, v = (torch.randn(2, 40, 8, generator=generator(s)) for s in (3, 4, 5))
    bias = model.positions.bias(40)
    mask = torch.full((40, 40), -math.inf).triu(1) + (0 if bias is None else bias)
    turned_q, turned_k = (model.positions.turn(x[None])[0] for x in (q, k))
    fast = torch.nn.functional.scaled_dot_product_attention(turned_q, turned_k, v, attn_mask=mask)
    assert torch.allclose(fast, slow_scores(model, scheme, q, k).softmax(-1) @ v, atol=1e-5)
    if scheme != "none":  # the control: the equation of no positions is not the one of another scheme
        embedded = model.positions.embed(40) is not None
        assert embedded or not torch.allclose(fast, slow_scores(model, "none", q, k).softmax(-1) @ v, atol=1e-2)


@pytest.mark.parametrize("scheme", POSITIONS)
def test_the_future_is_not_seen(scheme):
    model = shaken(scheme)
    tokens = torch.randint(0, 12, (2, 20), generator=generator(2))
    changed = tokens.clone()
    changed[:, 11:] = 3
    assert torch.allclose(model(tokens)[:, :11], model(changed)[:, :11], atol=1e-6)
    assert not torch.allclose(model(tokens)[:, 11:], model(changed)[:, 11:], atol=1e-2)


@pytest.mark.parametrize("scheme", POSITIONS)
def test_only_absolute_positions_and_none_differ_in_what_a_repeat_does(scheme):
    """Of one token said over and over, every position looks alike to all but absolute positions."""
    logits = shaken(scheme)(torch.full((1, 30), 5))[0]
    assert (logits - logits[0]).abs().max() < 1e-4 or scheme == "absolute"
    assert scheme != "absolute" or (logits - logits[0]).abs().max() > 1e-2


def test_order_reaches_a_model_without_positions_through_the_mask():
    tokens, swapped = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 1, 3, 4]])
    one = Decoder("none", 12, width=16, heads=2, depth=1, generator=generator())
    two = shaken("none", depth=2)
    assert torch.allclose(one(tokens)[:, -1], one(swapped)[:, -1], atol=1e-6)  # one layer sees a bag
    assert not torch.allclose(two(tokens)[:, -1], two(swapped)[:, -1], atol=1e-3)


def test_sinusoids_have_norm_one_and_buckets_grow():
    assert torch.allclose(shaken("absolute").positions.embed(50).norm(dim=1), torch.ones(50), atol=1e-5)
    buckets = T5.bucket(torch.arange(400))
    assert (buckets.diff() >= 0).all() and buckets[:17].tolist() == list(range(17)) and buckets.max() == 31


def test_all_schemes_start_from_the_same_weights():
    first = {name: dict(Decoder(name, 12, width=16, heads=2, generator=generator()).named_parameters()) for name in POSITIONS}
    for name in POSITIONS:
        assert all(torch.equal(first["none"][key], first[name][key]) for key in first["none"])


def test_bad_arguments():
    with pytest.raises(UsageError, match="positions"):
        Decoder("learned", 12, generator=generator())
    with pytest.raises(UsageError, match="heads"):
        Decoder("none", 12, width=18, heads=4, generator=generator())
