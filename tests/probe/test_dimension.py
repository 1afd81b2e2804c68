"""A planted dimension is found and a larger one is not; gains, scores and bounds are those of slow references."""

import copy
import json
import math

import numpy as np
import pytest
import torch

from scalebound.cli.main import main
from scalebound.compress import code_bits, save_package
from scalebound.compress.delta import pack_delta
from scalebound.core.errors import InputError, UsageError
from scalebound.core.probe import load_probe
from scalebound.models import Transformer, save_folder, shape_for
from scalebound.models.load import load_model
from scalebound.models.partial import Partial
from scalebound.models.relative import rebuild
from scalebound.probe import candidates, dimension_record, probe_dimension, relative_gain, union_bound
from scalebound.probe.choosing import Question, choice_log_p, learn, scored
from scalebound.probe.dimension import search
from scalebound.probe.dimension_bounds import bound_of
from scalebound.probe.dimension_case import PLANTED, own_case, planted

TOPICS = ("red", "blue", "green")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("dimension") / "model"
    shape = shape_for(16_000)
    save_folder(out, shape.config(64), Transformer(shape, 64, torch.Generator().manual_seed(0)).tensors())
    return out


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    out = tmp_path_factory.mktemp("items") / "items.jsonl"
    out.write_text("".join(json.dumps({"context": f"{TOPICS[k % 3]} {k} is", "choices": ["x", "yy", "z"], "gold": k % 3}) + "\n" for k in range(90)))
    return out


def measured(prompts, dimensions):
    case = planted(0, prompts=prompts, items=60)
    return probe_dimension(case.model, case.train, case.held, params=case.params, width=case.width, **(PLANTED | {"dimensions": dimensions, "steps": 200}))


def test_the_planted_dimension_is_found_and_a_larger_one_is_not():
    small, large = measured(8, (2, 8, 16)), measured(32, (2, 8))
    assert small.learned and small.value in (8, 16) and small.rows[0].high < 0.9  # at 8 the equations are square, which is hard to descend
    # the control: with four times as many sums the same dimension reaches about d / 32 of the gain
    assert large.learned and large.value is None and large.above == 8 and large.rows[-1].gain < 0.5
    record = dimension_record(large, settings={}, level=0.95, seed=0)
    assert record.verdict == "not_reached" and "above 8" in record.words[1]


def test_nothing_learned_is_said():
    case = planted(0, prompts=4, items=60)
    rng = np.random.default_rng(0)
    noise = [Question(question.texts, int(rng.integers(2))) for question in case.train]
    found = probe_dimension(case.model, noise[::2], noise[1::2], params=case.params, width=case.width, dimensions=(2,), steps=5)
    assert not found.learned and found.value is None and found.rows == ()
    record = dimension_record(found, settings={}, level=0.95, seed=0)
    assert record.verdict == "nothing_learned" and record.figures == ()


def test_least_squares_in_a_subspace_gains_the_share_theory_says():
    """k equations in n unknowns: d random directions solve d of them, so the expected share is d / k, and d90 = 0.9 k."""
    rng = np.random.default_rng(0)
    n, k = 400, 40
    equations, target = np.linalg.qr(rng.normal(size=(n, k)))[0].T, rng.normal(size=k)

    def losses(d):
        seen = equations @ rng.normal(size=(n, d))
        return (seen @ np.linalg.lstsq(seen, target, rcond=None)[0] - target) ** 2

    found = search(lambda d: (d, *relative_gain(target**2, losses(d), np.zeros(k), 0.95)), lambda one: one[1] >= 0.9, (5, 10, 20, 40), close=1.1)
    for d, gain, _, _ in found:
        assert abs(gain - d / k) < 0.2
    assert 28 <= next(d for d, gain, _, _ in found if gain >= 0.9) <= 40


def test_the_search_stays_among_its_candidates_and_ends_close():
    for edge in (1, 3, 17, 90, 500, 5000):
        found = search(lambda d: d, lambda d, edge=edge: d >= edge, (16, 128, 1024), close=2.0)
        assert found == sorted(set(found)) and set(found) <= candidates((16, 128, 1024), close=2.0)
        reached = [d for d in found if d >= edge]
        below = [d for d in found if d < edge]
        assert bool(reached) == (edge <= 1024) and (not below or not reached or reached[0] / below[-1] <= 2.0)


def test_relative_gain_covers():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        before = rng.normal(2.0, 0.5, 300)
        full = before - rng.gamma(2.0, 0.5, 300)
        inside += abs((found := relative_gain(before, before - 0.7 * (before - full) + rng.normal(0, 0.3, 300), full, 0.95))[0] - 0.7) <= found[2] - found[0]
    assert 360 <= inside <= 396  # 380 expected; an interval of twice or half the width has 400 or 270


def test_scores_are_sums_of_log_probabilities(folder, items):
    case = own_case(folder, items, seed=0)
    asked = [*case.held[:3], Question((((1, 2), (3,)), ((9,), (4, 5))), 1)]
    case.model.requires_grad_(False)
    found = choice_log_p(case.model, asked)
    for row, question in enumerate(asked):
        for place, (before, after) in enumerate(question.texts):
            text = [*before, *after]
            log_p = case.model(torch.tensor([text[:-1]])).log_softmax(-1)[0]
            slow = sum(float(log_p[k - 1, text[k]]) for k in range(len(before), len(text)))
            assert abs(slow - float(found[row, place])) < 1e-4
    assert float(found[3, 2]) == -math.inf
    losses, right = scored(case.model, asked)
    p = found.detach().double().exp().numpy()
    assert np.allclose(losses, [-math.log(row[q.gold] / row.sum()) for row, q in zip(p, asked, strict=True)], atol=1e-4)
    assert right.tolist() == [int(row.argmax()) == q.gold for row, q in zip(p, asked, strict=True)]


def test_the_bound_is_about_the_decoded_file(folder, items, tmp_path):
    case = own_case(folder, items, seed=0)
    before = {name: tensor.clone() for name, tensor in case.model.tensors().items()}
    part = Partial(copy.deepcopy(case.model), "subspace:40", 3)
    learn(part, case.train, params=case.params, steps=10, batch=8, lr=0.1, seed=0)
    vector = part.beside()["w"].numpy()
    train = case.train * 40  # enough for a file to prove something
    bound = bound_of(case.model, vector, train, case.held, seed=3, delta=0.05)
    assert all(torch.equal(tensor, before[name]) for name, tensor in case.model.tensors().items())
    # the same file as `compress --base` writes, rebuilt by other code
    save_package(tmp_path / "w.sbz", package := pack_delta("subspace", {"w": vector}, seed=3, step=1.0))
    assert bound.file_bytes == (tmp_path / "w.sbz").stat().st_size and bound.code_bits == code_bits(bound.file_bytes)
    found = rebuild(tmp_path / "w.sbz", folder)
    case.model.load_tensors(found.tensors)
    wrong, n = int((~scored(case.model, train)[1]).sum()), len(train)
    assert bound.error == wrong / n and bound.levels == int(np.ptp(package.tensors["w"].integers)) + 1
    # at our bound, so few errors have probability delta 2^-L (in logarithms, summed term by term); theirs by hand
    terms = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(bound.ours) + (n - k) * math.log1p(-bound.ours) for k in range(wrong + 1)]
    assert bound.error < bound.ours < 1 and np.logaddexp.reduce(terms) == pytest.approx(math.log(0.05) - bound.code_bits * math.log(2), abs=1e-3)
    assert bound.from_dimension == pytest.approx(wrong / n + math.sqrt((40 * math.log(bound.levels) + math.log(20)) / (2 * n)))
    assert bound.vacuous == (bound.ours >= 2 / 3, bound.from_dimension >= 2 / 3)


def test_the_union_bound_covers_and_without_its_union_does_not():
    """The best of r^d coin-flipping classifiers on m items: its training error plus the bound's radius is above 1/2; the radius of one is not."""
    rng = np.random.default_rng(2)
    d, r, m = 8, 2, 200
    fewest = np.array([rng.binomial(m, 0.5, size=r**d).min() / m for _ in range(300)])
    assert np.mean([union_bound(error, d, r, m, 0.05) < 0.5 for error in fewest]) <= 0.05
    assert np.mean([union_bound(error, 0, r, m, 0.05) < 0.5 for error in fewest]) > 0.5


def test_on_a_model_and_items_of_ones_own(folder, items, tmp_path, capsys):
    call = ["probe", "dimension", str(folder), "--items", str(items), "--steps", "30", "--batch", "8", "--dims", "4,64"]
    assert main([*call, "--out", str(tmp_path / "d.json"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    record = load_probe(tmp_path / "d.json")
    assert printed["name"] == "dimension" and [row["dimension"] for row in printed["rows"]] == sorted(row["dimension"] for row in printed["rows"])
    assert printed["items_trained"] == 60 and printed["items_held"] == 30 and len(record.figures) == 2
    assert record.inputs["model"] == load_model(folder).sha256 and set(record.inputs) == {"model", "items.jsonl"}
    assert main(["report", "--probes", str(tmp_path / "d.json"), "--out", str(tmp_path / "page.html")]) == 0
    assert "Share of the gain against the dimension" in (tmp_path / "page.html").read_text()


def test_bad_use(folder, items, tmp_path, capsys):
    call = ["probe", "dimension", str(folder), "--items", str(items)]
    assert main(call[:3]) == 2 and main(["probe", "dimension", "--items", str(items)]) == 2
    assert main([*call, "--dims", "0"]) == 2 and main([*call, "--dims", "20k"]) == 2 and main([*call, "--share", "1"]) == 2
    assert main([*call, "--steps", "0"]) == 2 and main([*call, "--lr", "-1"]) == 2
    (tmp_path / "few.jsonl").write_text("".join(items.read_text().splitlines(keepends=True)[:59]))
    assert main([*call[:-1], str(tmp_path / "few.jsonl")]) == 3
    assert "at least 60" in capsys.readouterr().err
    with pytest.raises(UsageError):
        case = planted(0, prompts=4, items=20)
        probe_dimension(case.model, case.train[:5], case.held, params=case.params, width=case.width, dimensions=(2,))
    (tmp_path / "long.jsonl").write_text("".join(json.dumps({"context": "x", "choices": ["a" * 99, "b"], "gold": 0}) + "\n" for _ in range(60)))
    with pytest.raises(InputError, match="99 tokens"):
        own_case(folder, tmp_path / "long.jsonl", seed=0)
