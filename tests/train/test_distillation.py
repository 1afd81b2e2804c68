"""Learning from a teacher: divergences against loops in double precision, what their gradients are, and what training does with them."""

import json
import math

import msgspec
import pytest
import torch

from scalebound.compress import encode
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats, StatsInfo
from scalebound.core.workers import cores
from scalebound.models.load import from_tensors
from scalebound.train import derive_recipe, finetune, train_run
from scalebound.train.distillation import DIVERGENCES, FAVOUR, Teacher, balanced_divergence, forward_divergence

RECIPE = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 100, batch_sequences=4, warmup=0.1)
LARGER = msgspec.structs.replace(derive_recipe(24_000, context=32), tokens=32 * 4 * 200, batch_sequences=4, warmup=0.1)


def pairs(seed: int = 0, tokens: int = 40, vocabulary: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-1, 1, tokens, dtype=torch.float64)[torch.randperm(tokens, generator=rng), None]  # sure and unsure ones on both sides
    return tuple(torch.log_softmax(torch.randn(tokens, vocabulary, generator=rng, dtype=torch.float64) * size, dim=-1) for size in (sizes, sizes.flip(0)))  # type: ignore[return-value]


def looped(teacher: torch.Tensor, model: torch.Tensor, kind: str) -> list[float]:
    out = []
    for p_log, q_log in zip(teacher.tolist(), model.tolist(), strict=True):
        p, q = [math.exp(x) for x in p_log], [math.exp(x) for x in q_log]
        forward = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        reverse = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        entropies = [-sum(x * math.log(x) for x in some) for some in (p, q)]
        weight = 1.0 if kind == "forward" else FAVOUR if entropies[1] < entropies[0] else 1 - FAVOUR
        out.append(weight * forward + (1 - weight) * reverse)
    return out


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_against_a_loop(kind):
    teacher, model = pairs()
    found = DIVERGENCES[kind](teacher, model)
    torch.testing.assert_close(found, torch.tensor(looped(teacher, model, kind), dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert (found > 0).all() and DIVERGENCES[kind](model, model).abs().max() < 1e-15


def test_the_balance_differs_from_both_divergences_alone():
    """A control: with one weight for all tokens the loop's answer is missed on either side of equal entropies."""
    teacher, model = pairs()
    right = torch.tensor(looped(teacher, model, "balanced"), dtype=torch.float64)
    forward, reverse = forward_divergence(teacher, model), forward_divergence(model, teacher)
    for weight in (FAVOUR, 0.5, 1 - FAVOUR):
        missed = ((weight * forward + (1 - weight) * reverse - right).abs() > 1e-6).double().mean()
        assert 0.2 < missed <= 1.0
    assert torch.equal(balanced_divergence(teacher, model) > forward, reverse > forward)


def test_the_forward_gradient_is_that_of_soft_targets():
    """By logits: q - p, the cross entropy's with the teacher in the token's place."""
    teacher, _ = pairs()
    logits = torch.randn(teacher.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5), requires_grad=True)
    forward_divergence(teacher, torch.log_softmax(logits, -1)).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - teacher.exp())


def test_the_balanced_gradient_holds_its_weights():
    teacher, model = pairs(tokens=12)
    free = model.clone().requires_grad_()
    balanced_divergence(teacher, free).sum().backward()
    rate = 1e-6
    for token in range(3):
        for word in range(7):
            moved = [model.clone(), model.clone()]
            moved[0][token, word] += rate
            moved[1][token, word] -= rate
            slope = float((balanced_divergence(teacher, moved[0]) - balanced_divergence(teacher, moved[1])).sum()) / (2 * rate)
            assert float(free.grad[token, word]) == pytest.approx(slope, abs=1e-8)


@pytest.fixture(scope="module")
def made(tmp_path_factory, stream):
    """A run, a larger run that saw twice the tokens, and their stream."""
    folder = tmp_path_factory.mktemp("distillation")
    train_run(RECIPE, stream.path, folder / "run")
    train_run(LARGER, stream.path, folder / "larger")
    return folder, stream


def test_what_is_minimised(made):
    """A share of the mean divergence beside the rest of the loss, by the teacher's own logits."""
    folder, _ = made
    teacher = Teacher(folder / "larger", share=0.3, kind="balanced", vocab_size=256, context=32)
    inputs, logits = torch.randint(0, 256, (2, 32)), torch.randn(2, 32, 256)
    with torch.no_grad():
        theirs = torch.log_softmax(teacher.model.head(teacher.model.hidden(inputs)), -1)
    expected = 0.7 * 5.0 + 0.3 * sum(looped(theirs.double().flatten(0, 1), torch.log_softmax(logits.double(), -1).flatten(0, 1), "balanced")) / 64
    assert float(teacher.mixed(torch.tensor(5.0), inputs, logits)) == pytest.approx(expected, rel=1e-5)


def test_the_taught_come_near_their_teacher(made):
    """At equal steps without a price on bits, by the divergence on the stream itself; an unlearned teacher spoils the package."""
    folder, stream = made
    settings = {"steps": 150, "price": 0.0}
    inputs = torch.from_numpy(stream.tokens[: 32 * 200].astype("int64")).view(-1, 32)
    teacher = Teacher(folder / "larger", vocab_size=256, context=32)

    def apart(done) -> float:
        model = from_tensors(done.model.config, {name: torch.from_numpy(data) for name, data in done.model.dequantized().items()}, name="package")
        with torch.no_grad():
            theirs, ours = (torch.log_softmax(one.head(one.hidden(inputs)), -1) for one in (teacher.model, model))
        return float(forward_divergence(theirs, ours).mean())

    alone = finetune(folder / "run", stream.path, **settings)
    taught = {kind: finetune(folder / "run", stream.path, teacher=folder / "larger", teacher_share=0.9, divergence=kind, **settings) for kind in DIVERGENCES}
    assert len({encode(done.model) for done in (alone, *taught.values())}) == 3
    assert all(apart(done) < 0.9 * apart(alone) for done in taught.values())
    train_run(msgspec.structs.replace(RECIPE, tokens=32 * 4, seed=1), stream.path, folder / "wrong")
    assert finetune(folder / "run", stream.path, teacher=folder / "wrong", teacher_share=0.9, **settings).loss_after > alone.loss_after + 0.1


def test_an_interrupted_call_goes_on_only_with_the_same_teacher(made, tmp_path):
    folder, stream = made
    right = finetune(folder / "run", stream.path, steps=8, teacher=folder / "larger")

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(folder / "run", stream.path, steps=8, teacher=folder / "larger", state=tmp_path / "state", checkpoint_s=0.0, progress=stop)
    kept = (tmp_path / "state").read_bytes()
    seen: list[int] = []
    again = finetune(folder / "run", stream.path, steps=8, teacher=folder / "larger", state=tmp_path / "state", progress=lambda done, total: seen.append(done))
    assert seen[0] == 5 and encode(again.model) == encode(right.model)
    for other in ({}, {"teacher": folder / "run"}, {"teacher": folder / "larger", "teacher_share": 0.4}, {"teacher": folder / "larger", "divergence": "balanced"}):
        (tmp_path / "state").write_bytes(kept)
        seen.clear()
        finetune(folder / "run", stream.path, steps=8, state=tmp_path / "state", progress=lambda done, total: seen.append(done), **other)
        assert seen[0] == 0


def test_with_a_reference_too(made):
    """The anchored bound and a teacher share the objective."""
    folder, stream = made
    nll = torch.full((RECIPE.tokens,), 2.0).numpy()
    reference = Stats(StatsInfo(kind="bare", tokens=RECIPE.tokens, window=(0, RECIPE.tokens), vocab_size=256), {"nll": nll})
    alone = finetune(folder / "run", stream.path, steps=5, reference=reference)
    taught = finetune(folder / "run", stream.path, steps=5, reference=reference, teacher=folder / "larger")
    assert encode(alone.model) != encode(taught.model) and taught.price == alone.price


def test_refusals(made, tmp_path):
    folder, stream = made
    for wrong in ({"teacher_share": 0.0}, {"teacher_share": 1.5}, {"divergence": "sideways"}):
        with pytest.raises(UsageError):
            finetune(folder / "run", stream.path, steps=1, teacher=folder / "larger", **wrong)
    with pytest.raises(InputError):
        finetune(folder / "run", stream.path, steps=1, teacher=tmp_path / "nothing")
    with pytest.raises(InputError, match="vocabulary"):
        Teacher(folder / "larger", vocab_size=300, context=32)
    with pytest.raises(InputError, match="reads at most 32"):
        Teacher(folder / "larger", vocab_size=256, context=64)


def test_the_command(made, tmp_path, capsys):
    from scalebound.cli import main

    folder, stream = made
    base = ["compress", str(folder / "run"), "--stream", str(stream.path), "--tokens", "640", "--out", str(tmp_path / "m.sbz"), "--json"]
    taught = ["--finetune", "--steps", "3", "--teacher", str(folder / "larger"), "--teacher-share", "0.4", "--divergence", "balanced"]
    assert main([*base, *taught]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["finetune"]["teacher"] == {"sha256": Teacher(folder / "larger", vocab_size=256, context=32).model.sha256, "share": 0.4, "divergence": "balanced"}
    torch.set_num_threads(cores())
    for wrong in (["--teacher", str(folder / "larger")], ["--finetune", "--teacher-share", "0.4"], ["--finetune", "--divergence", "forward"], [*taught[:-1], "sideways"]):
        assert main([*base, *wrong]) == 2
        capsys.readouterr()
