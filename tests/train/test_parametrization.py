"""Maximal update: flat coordinates where the standard parametrization's grow; the same model at the base width; a plain checkpoint."""

import msgspec
import numpy as np
import pytest
import torch

from scalebound.core.errors import InputError, UsageError
from scalebound.train import abc_table, derive_recipe, seconds_for, train_run
from scalebound.train.coordinates import coordinates, growth
from scalebound.train.parametrization import build
from scalebound.train.recipe import load_recipe

TOKENS = np.random.default_rng(0).zipf(1.3, size=(8, 16)) % 64


def at(width, **keys):
    keys = {"width": width, "depth": 2, "heads": width // 16, "feed_forward": 2 * width, "learning_rate": 0.004, "tokens": 128, "context": 16} | keys
    return derive_recipe(15_000 + 24 * width**2, vocab_size=64, overrides=keys)


@pytest.mark.parametrize("optimizer, rate", [("adamw", 0.004), ("lion", 0.002), ("muon", 0.004)])
def test_coordinate_check(optimizer, rate):
    widths = (32, 64, 128, 256)
    mup, standard = ([coordinates(at(w, optimizer=optimizer, learning_rate=rate, parametrization=p), TOKENS) for w in widths] for p in ("mup", "standard"))
    assert all(abs(growth(mup, name)) < 0.2 for name in ("layer 1", "layer 2", "hidden")), mup
    assert abs(np.polyfit(np.log(widths), np.log([c.start["layer 2"] for c in mup]), 1)[0]) < 0.1
    assert -0.45 < growth(mup, "logits") < 0.1  # a random part that vanishes like 1/sqrt(width), and one that stays
    assert growth(standard, "layer 2") > 0.3 and growth(standard, "logits") > 0.2  # at one rate the standard one is not flat: the check can fail


@pytest.mark.nightly
def test_coordinate_check_to_width_1024():
    widths = (64, 128, 256, 512, 1024)
    mup, standard = ([coordinates(at(w, parametrization=p), TOKENS) for w in widths] for p in ("mup", "standard"))
    assert all(abs(growth(mup, name)) < 0.05 for name in ("layer 1", "layer 2", "hidden")), mup
    assert all(0.8 < c.change["layer 2"] / mup[0].change["layer 2"] < 1.25 for c in mup)
    assert growth(standard, "layer 2") > 1 and standard[-1].change["layer 2"] > 50 * standard[0].change["layer 2"]


def test_both_agree_at_the_base_width_and_not_elsewhere():
    def last(width, parametrization):
        return coordinates(at(width, parametrization=parametrization), TOKENS, steps=2).change

    assert last(64, "mup") == last(64, "standard")
    assert last(32, "mup") != last(32, "standard")


def test_folding_the_multiplier_changes_nothing():
    """Training E (g n) / r with rate eta on g equals training E (g' n), g' = g / r, with rate eta / r, for sign-like updates."""
    r, eta = 4.0, 0.01
    with_multiplier, folded = torch.ones(8, requires_grad=True), torch.full((8,), 1 / r, requires_grad=True)
    n, e = torch.randn(8, generator=torch.Generator().manual_seed(0)), torch.randn(8, generator=torch.Generator().manual_seed(1))
    one, two = torch.optim.Adam([with_multiplier], lr=eta, eps=1e-20), torch.optim.Adam([folded], lr=eta / r, eps=1e-20)
    for _ in range(20):
        for gain, factor, optimizer in ((with_multiplier, 1 / r, one), (folded, 1.0, two)):
            optimizer.zero_grad()
            ((e * (gain * n)).sum() * factor - 3.0).square().backward()
            optimizer.step()
    torch.testing.assert_close(with_multiplier.detach() / r, folded.detach())


def test_table_and_groups():
    table = abc_table("mup", width=256, base_width=64, optimizer="muon")
    assert table["hidden"].rate == 0.5 and table["final gain"].initial == 0.25 and table["embedding"].initial == 2.0
    with pytest.raises(UsageError, match="sgd"):
        abc_table("mup", width=256, base_width=64, optimizer="sgd")
    recipe = at(128, parametrization="mup")
    model, optimizer = build(recipe, torch.Generator().manual_seed(0))
    rates = {id(p): group["rate"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["rate"] * group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        assert rates[id(p)] == (0.5 if p.ndim == 2 and name != "embedding" or name == "norm" else 1.0)
        assert decays[id(p)] == pytest.approx(0.1 if p.ndim == 2 else 0.0)
    assert model.embedding.std().item() == pytest.approx(1 / 8, rel=0.05) and model.norm[0].item() == 0.5


def test_seconds_are_estimated():
    recipe = at(32)
    assert 0 < seconds_for(recipe, budget_s=0.0) < 60


@pytest.mark.parametrize("line, what", [
    ("learnin_rate = 1.0", "'learning_rate', perhaps"), ('optimizer = "adam"', "one of adamw, muon, lion, sgd"), ("width = 30\nheads = 4", "width = 30 with heads = 4"), ("params = 7", "contradicts the shape"),
    ("tokens = 1000", "no multiple of the context"), ("warmup = 2.0", "between 0 and 1"), ("learning_rate = -1.0", "above 0"), ("accumulation = 1000", "at most one part a sequence"), ("vocab_size = 99", "the tokenizer's"),
    ('parametrization = "mup"\noptimizer = "sgd"', "adamw, muon or lion"), ('learning_rate = "high"', "learning_rate"), ("depth = 0", "at least 1"), ("depth = ", "not valid TOML"), ("base_width = 0", "at least 1"),
    ("learning_rate = nan", "above 0"),
])  # fmt: skip
def test_bad_recipes_are_refused_by_name(tmp_path, line, what):
    from scalebound.train.recipe import read_toml

    (tmp_path / "r.toml").write_text(line + "\n")
    with pytest.raises(InputError, match="r.toml") as caught:
        derive_recipe(60_000, overrides=read_toml(tmp_path / "r.toml"), where=str(tmp_path / "r.toml"))
    assert what in str(caught.value)


def test_what_follows_from_an_override_is_derived_from_it():
    plain, wide = derive_recipe(60_000), derive_recipe(60_000, overrides={"width": 64, "batch_sequences": 8})
    assert wide.learning_rate == 0.3 / 64 and wide.params == wide.shape.num_params != plain.params and wide.steps < 2 * wide.tokens / (8 * 256)
    assert derive_recipe(60_000, overrides=msgspec.to_builtins(plain)) == plain
    mup = [derive_recipe(n, overrides={"parametrization": "mup"}) for n in (24_000, 150_000, 1_000_000)]
    assert {r.learning_rate for r in mup} == {0.3 / 64} and {r.width // r.heads for r in mup} == {16}


def test_runs_with_other_methods_resume_to_the_bit_and_open_elsewhere(stream, tmp_path):
    transformers = pytest.importorskip("transformers")
    recipe = derive_recipe(24_000, context=32, overrides={"tokens": 32 * 4 * 20, "batch_sequences": 4, "parametrization": "mup", "optimizer": "muon", "schedule": "wsd-sqrt", "accumulation": 2})
    right = train_run(recipe, stream.path, tmp_path / "a")

    def kill(done, total):
        if done > total * 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(recipe, stream.path, tmp_path / "b", checkpoint_s=0.0, progress=kill)
    seen: list[int] = []
    assert train_run(recipe, stream.path, tmp_path / "b", progress=lambda done, _: seen.append(done)).model_sha256 == right.model_sha256
    assert len(seen) < 12 and load_recipe(tmp_path / "b" / "recipe.toml") == recipe
    from scalebound.models import load_model

    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a" / right.checkpoint).eval()
    tokens = torch.arange(32)[None]
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path / "a").logits(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)


def test_accumulation_is_the_same_update_up_to_rounding(stream, tmp_path):
    recipe = derive_recipe(15_000, context=32, overrides={"tokens": 32 * 4 * 10, "batch_sequences": 4})
    one = train_run(recipe, stream.path, tmp_path / "one")
    four = train_run(msgspec.structs.replace(recipe, accumulation=4), stream.path, tmp_path / "four")
    assert one.model_sha256 != four.model_sha256 and one.train_loss == pytest.approx(four.train_loss, abs=1e-4)


def test_default_runs_are_what_they_were(stream, tmp_path):
    """The loop of the first version, written out: the same weights to the bit."""
    from safetensors.torch import load_file

    from scalebound.core.seeds import derive
    from scalebound.models import Transformer

    recipe = derive_recipe(15_000, context=32, overrides={"tokens": 32 * 4 * 20, "batch_sequences": 4})
    info = train_run(recipe, stream.path, tmp_path / "run")
    model = Transformer(recipe.shape, 32, torch.Generator().manual_seed(derive(0, "init", recipe.params)))
    parameters = list(model.parameters())
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1}, {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True)
    sequences = np.asarray(stream.tokens[: recipe.tokens]).reshape(-1, 32).astype(np.int64)
    for step in range(20):
        targets = torch.from_numpy(sequences[4 * step : 4 * step + 4])
        logits = model(torch.nn.functional.pad(targets[:, :-1], (1, 0), value=255))
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, (step + 1) / max(1, round(recipe.warmup * 20)), (20 - step) / 10)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    saved = load_file(tmp_path / "run" / info.checkpoint / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.tensors().items())
