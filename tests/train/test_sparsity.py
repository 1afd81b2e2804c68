"""Zeros while training: the share reached to the weight, masks that stay between their changes, runs that resume, what is refused."""

import json

import msgspec
import numpy as np
import pytest
import torch

from scalebound.compress import decode, encode, quantize, read_checkpoint
from scalebound.core.errors import InputError
from scalebound.models import Transformer
from scalebound.train import branch_run, derive_recipe, train_run
from scalebound.train.recipe import check_recipe
from scalebound.train.sparsity import GradualPruning, SparsePretraining, cubic_sparsity, masks_for

RECIPE = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 60, batch_sequences=4, warmup=0.1, checkpoints=(0.5,))
GRADUAL = msgspec.structs.replace(RECIPE, pruning="gradual", sparsity=0.7, pruning_until=0.5)
SPDF = msgspec.structs.replace(RECIPE, pruning="spdf", sparsity=0.7, pruning_until=0.5)


def hidden(tensors):
    """The matrices that are pruned, fused as the model holds them."""
    fused = Transformer.fused({name: torch.from_numpy(np.array(data)) for name, data in tensors.items()}, RECIPE.depth)
    return {name: data.numpy() for name, data in fused.items() if name.endswith(("qkv", "attention_out", "gate_up", "down"))}


def test_the_schedule_against_the_papers_equation():
    for step in range(10, 31):
        assert cubic_sparsity(step, first=10, last=30, final=0.9) == pytest.approx(0.9 + (0.0 - 0.9) * (1 - (step - 10) / 20) ** 3, abs=1e-12)
    assert cubic_sparsity(0, first=10, last=30, final=0.9) == 0.0 and cubic_sparsity(31, first=10, last=30, final=0.9) == 0.9
    assert cubic_sparsity(20, first=10, last=30, final=0.9) > 0.75, "control: a linear schedule would have 0.45"


def test_gradual_pruning_reaches_its_share_to_the_weight_and_the_file_holds_it(stream, tmp_path):
    train_run(GRADUAL, stream.path, tmp_path / "run")
    train_run(RECIPE, stream.path, tmp_path / "dense")
    config, tensors = read_checkpoint(tmp_path / "run")
    for name, matrix in hidden(tensors).items():
        assert int((matrix == 0).sum()) == int(0.7 * matrix.size), name
    assert np.count_nonzero(tensors["model.embed_tokens.weight"] == 0) == 0, "control: the embedding is not pruned"
    logged = [json.loads(line)["sparsity"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert logged == sorted(logged) and logged[4] == 0.0 and logged[29] == logged[-1] == pytest.approx(0.7, abs=1e-3)
    packages = {which: encode(quantize(*read_checkpoint(tmp_path / which), step=0.3)) for which in ("run", "dense")}
    found = decode(packages["run"])[1]
    assert all(not np.any(found[name][tensors[name] == 0]) for name in tensors)
    assert len(packages["run"]) < 0.75 * len(packages["dense"]), "zeros are cheap"


def test_masks_change_when_they_should_and_never_let_a_weight_back():
    recipe = msgspec.structs.replace(GRADUAL, tokens=32 * 4 * 400)
    model = Transformer(recipe.shape, 32, torch.Generator().manual_seed(0))
    masks = GradualPruning(model, recipe)
    rng = torch.Generator().manual_seed(1)
    changes, before = [], None
    for step in range(401):
        with torch.no_grad():
            for parameter in model.parameters():  # an update that moves everything, zeros too
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
        masks.after_update(step)
        after = {name: matrix == 0 for name, matrix in masks.matrices.items()}
        if before is not None:
            assert all(bool((after[name] >= before[name]).all()) for name in after), "once zero, always zero"
            if any(not torch.equal(after[name], before[name]) for name in after):
                changes.append(step)
        before = after
    planned = [step for step in range(401) if masks.changes_at(step)]
    assert masks.first == 40 < planned[0] and planned[-1] == masks.last == 200 and len(planned) == 32 and len(set(np.diff(planned))) == 1
    assert set(changes) <= set(planned) and len(changes) > 24, "frozen between; the last steps of a cubic are less than one weight of so small a matrix"


def test_masked_gradients_do_not_count():
    model = Transformer(RECIPE.shape, 32, torch.Generator().manual_seed(0))
    masks = masks_for(model, SPDF)
    masks.after_update(0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    masks.hide_gradients()
    for name, matrix in masks.matrices.items():
        assert torch.equal(matrix.grad, masks.keep[name].float()) and int((matrix == 0).sum()) == int(0.7 * matrix.numel())
    assert bool((model.embedding.grad == 1).all()), "control"


def test_spdf_is_sparse_at_first_and_dense_at_last(stream, tmp_path):
    train_run(SPDF, stream.path, tmp_path / "run")
    shares = {step: [float((matrix == 0).mean()) for matrix in hidden(read_checkpoint(tmp_path / "run" / "checkpoints" / f"step-{step}")[1]).values()] for step in (30, 60)}
    logged = [json.loads(line)["sparsity"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert logged[28] == pytest.approx(0.7, abs=1e-3) and logged[29:] == [0.0] * 31
    assert min(shares[30]) > 0.699 and max(shares[60]) < 0.01, shares
    whole = msgspec.structs.replace(SPDF, pruning_until=1.0)
    train_run(whole, stream.path, tmp_path / "whole")
    ended = hidden(read_checkpoint(tmp_path / "whole")[1])
    assert all(int((matrix == 0).sum()) == int(0.7 * matrix.size) for matrix in ended.values()), "until the end: it ends sparse"
    other = SparsePretraining(Transformer(RECIPE.shape, 32, torch.Generator().manual_seed(0)), msgspec.structs.replace(SPDF, seed=1))
    assert any(not np.array_equal(other.keep[name].numpy(), ended[name] != 0) for name in ended), "control: another seed, another mask"


@pytest.mark.parametrize(("recipe", "share"), [(GRADUAL, 0.3), (SPDF, 0.3), (SPDF, 0.7)], ids=["gradual", "spdf", "spdf, dense"])
def test_an_interrupted_run_equals_an_uninterrupted_one(stream, tmp_path, recipe, share):
    right = train_run(recipe, stream.path, tmp_path / "a")

    def kill(done, total):
        if done > total * share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(recipe, stream.path, tmp_path / "b", checkpoint_s=0.0, progress=kill)
    assert list((tmp_path / "b").glob("checkpoints/*/training.safetensors"))
    assert train_run(recipe, stream.path, tmp_path / "b").model_sha256 == right.model_sha256
    assert (tmp_path / "b" / "log.jsonl").read_bytes() == (tmp_path / "a" / "log.jsonl").read_bytes()


def test_fine_tuning_with_gradual_pruning(stream, tmp_path):
    from scalebound.models import open_trainable
    from scalebound.train import derive_continuation

    train_run(RECIPE, stream.path, tmp_path / "run")
    start = open_trainable(tmp_path / "run")
    recipe = derive_continuation(start, 32 * 4 * 40, overrides={"pruning": "gradual", "sparsity": 0.5, "batch_sequences": 4})
    train_run(recipe, stream.path, tmp_path / "pruned", base=start)
    for matrix in hidden(read_checkpoint(tmp_path / "pruned")[1]).values():
        assert int((matrix == 0).sum()) == int(0.5 * matrix.size)


@pytest.mark.parametrize("change", [{"sparsity": 0.5}, {"pruning": "gradual"}, {"pruning": "gradual", "sparsity": 1.0}, {"pruning": "gradual", "sparsity": 0.5, "pruning_until": 0.0},
                                    {"pruning": "gradual", "sparsity": 0.5, "average": 0.9}, {"pruning": "spdf", "sparsity": 0.5, "base": "0" * 64}, {"pruning": "lottery", "sparsity": 0.5}])  # fmt: skip
def test_refusals(change):
    with pytest.raises(InputError, match="sparsity|pruning"):
        check_recipe(msgspec.structs.replace(RECIPE, **change))


def test_a_trunk_with_pruning_is_not_branched(stream, tmp_path):
    trunk = msgspec.structs.replace(GRADUAL, schedule="constant")
    train_run(trunk, stream.path, tmp_path / "trunk")
    longer = msgspec.structs.replace(trunk, schedule="wsd", decay=0.2, tokens=32 * 4 * 75, warmup=6 / 75)
    with pytest.raises(InputError, match="without pruning"):
        branch_run(tmp_path / "trunk" / "checkpoints" / "step-30", longer, stream.path, tmp_path / "branch")
