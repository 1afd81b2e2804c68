"""What is watched is what it says; looking changes nothing; qk-norm and z-loss do what they are for; instability is forecast from smaller models."""

import json
import math

import msgspec
import numpy as np
import pytest
import torch

from scalebound.cli import main
from scalebound.cli.train_sweep import summarize
from scalebound.core.errors import InputError
from scalebound.core.io import load_struct
from scalebound.core.sweep import Sweep
from scalebound.models import Transformer, load_model
from scalebound.models.transformer import own_shape
from scalebound.scaling.laws.lr_sensitivity import best_rate, forecast_onset, onset
from scalebound.train import derive_recipe, train_run, watch
from scalebound.train.passes import backward
from scalebound.train.sweep import sweep_recipe, train_sweep

RECIPE = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 40, batch_sequences=4, warmup=0.1, watch=10)


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("qk_norm", [False, True])
def test_against_a_readable_reference(qk_norm):
    """Loops over heads and pairs in float64, from the formulas."""
    recipe = derive_recipe(24_000, context=16, overrides={"depth": 2, "width": 32, "heads": 4, "feed_forward": 64, "qk_norm": qk_norm})
    model = Transformer(recipe.shape, 16, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in model.layers:
            layer.qkv.mul_(3.0)
    tokens = np.random.default_rng(0).integers(0, 255, size=(3, 16))
    seen = watch.before(model, tokens, 255).seen
    double, K = model.double(), 8
    cos, sin = model.cos_TK.numpy(), model.sin_TK.numpy()

    def norm(x, gain=1.0):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * gain

    def turn(v, t):
        return v * cos[t] + np.concatenate([-v[K // 2 :], v[: K // 2]]) * sin[t]

    x = double.embedding.detach().numpy()[[255, *tokens[0, :-1]]]
    for number, layer in enumerate(double.layers):
        qkv = norm(x, layer.attention_norm.detach().numpy()) @ layer.qkv.detach().numpy().T
        largest, mixed = -np.inf, np.zeros_like(x)
        for head in range(4):
            q, k, v = (qkv[:, part * 32 + head * K : part * 32 + (head + 1) * K] for part in range(3))
            q, k = (norm(q), norm(k)) if qk_norm else (q, k)
            for i in range(16):
                row = np.array([turn(q[i], i) @ turn(k[j], j) / math.sqrt(K) for j in range(i + 1)])
                largest = max(largest, row.max())
                weights = np.exp(row - row.max())
                mixed[i, head * K : (head + 1) * K] = weights / weights.sum() @ v[: i + 1]
        x = x + mixed @ layer.attention_out.detach().numpy().T
        gate, up = np.split(norm(x) @ layer.gate_up.detach().numpy().T, 2, axis=-1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ layer.down.detach().numpy().T
        assert seen["max_attention_logit"][number] == pytest.approx(largest, rel=1e-3)
        assert seen["activation"][number] == pytest.approx(np.sqrt((x**2).mean()), rel=1e-3)
        assert not qk_norm or largest <= math.sqrt(K) * 1.0001  # unit gains: Cauchy and Schwarz
    logits = norm(x) @ double.embedding.detach().numpy().T
    assert seen["log_normalizer"] == pytest.approx(np.log(np.exp(logits).sum(-1)).mean(), rel=1e-3)


def test_looking_changes_nothing_and_ratios_are_those_of_the_update(stream, tmp_path):
    seen = train_run(RECIPE, stream.path, tmp_path / "seen")
    assert train_run(msgspec.structs.replace(RECIPE, watch=0), stream.path, tmp_path / "unseen").model_sha256 == seen.model_sha256
    looks = [line for line in log_of(tmp_path / "seen") if "log_normalizer" in line]
    assert [line["step"] for line in looks] == [1, 11, 21, 31] and not any("log_normalizer" in line for line in log_of(tmp_path / "unseen"))
    assert {"max_attention_logit", "activation", "update_ratio"} <= set(looks[0]) and len(looks[0]["activation"]) == RECIPE.depth
    model = torch.nn.Linear(3, 2, bias=False)
    model.tensor_class = lambda name: "hidden"
    look = watch.Look({}, {"weight": model.weight.detach().clone()})
    with torch.no_grad():
        model.weight.add_(0.5 * model.weight)
    assert look.after(model) == {"update_ratio": {"hidden": pytest.approx(0.5)}}


def test_qk_norm_is_what_transformers_computes_and_packs(stream, tmp_path):
    transformers = pytest.importorskip("transformers")
    from scalebound.compress import quantize, read_checkpoint, save_package

    info = train_run(msgspec.structs.replace(RECIPE, qk_norm=True, params=RECIPE.params + 2 * RECIPE.width // RECIPE.heads * RECIPE.depth), stream.path, tmp_path / "run")
    loaded = load_model(tmp_path / "run")
    assert isinstance(loaded.hidden.__self__, Transformer) and own_shape(json.loads((tmp_path / "run" / info.checkpoint / "config.json").read_text())).qk_norm
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / info.checkpoint).eval()
    tokens = torch.arange(32)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.logits(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)
    assert type(theirs).__name__ == "Qwen3ForCausalLM" and theirs.model.layers[0].self_attn.q_norm.weight.std() > 0
    save_package(tmp_path / "m.sbz", quantize(*read_checkpoint(tmp_path / "run"), bits=8))
    assert load_model(tmp_path / "m.sbz").logits(tokens).isfinite().all()


def test_z_loss_pulls_the_normalizer_and_is_not_recorded(stream, tmp_path):
    tokens = np.asarray(stream.tokens[:64]).reshape(2, 32)
    grads = {}
    for z in (0.0, 0.1):
        model = Transformer(RECIPE.shape, 32, torch.Generator().manual_seed(0)).double()
        loss, losses = backward(model, tokens, 255, 1, z_loss=z)
        grads[z] = (loss, losses, model)
    assert grads[0.0][:2] == grads[0.1][:2]  # the recorded losses are the loss alone
    model, direction = grads[0.1][2], torch.randn(256, RECIPE.width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def objective(shift):
        with torch.no_grad():
            model.embedding.add_(shift * direction)
            logits = model(torch.nn.functional.pad(torch.from_numpy(tokens.astype(np.int64))[:, :-1], (1, 0), value=255)).flatten(0, 1)
            value = torch.nn.functional.cross_entropy(logits, torch.from_numpy(tokens.astype(np.int64)).flatten()) + 0.1 * logits.logsumexp(-1).square().mean()
            model.embedding.add_(-shift * direction)
        return float(value)

    slope = float((model.embedding.grad * direction).sum())
    assert slope == pytest.approx((objective(1e-5) - objective(-1e-5)) / 2e-5, rel=1e-4)
    assert slope != pytest.approx(float((grads[0.0][2].embedding.grad * direction).sum()), rel=1e-3)
    runs = {z: msgspec.structs.replace(RECIPE, z_loss=z) for z in (0.0, 0.05)}
    for z, recipe in runs.items():
        train_run(recipe, stream.path, tmp_path / str(z))
    last = {z: abs([line["log_normalizer"] for line in log_of(tmp_path / str(z)) if "log_normalizer" in line][-1]) for z in runs}
    assert last[0.05] < 0.7 * last[0.0]


def test_a_model_that_diverges_is_forecast_from_smaller_ones(stream, tmp_path):
    """Widths 16 and 32 forecast at which rate width 64 goes unstable; the control never sees an unstable rate and forecasts none."""
    rates = (0.01, 0.03, 0.09, 0.27)
    recipes = [sweep_recipe(width, rate, "standard", base_width=16, steps=60, context=32, overrides={"watch": 5}) for width in (16, 32, 64) for rate in rates]
    found = summarize(train_sweep(recipes, stream.path, tmp_path / "sweep", kind="lr", workers=1), "standard")["widths"][-1]
    assert found["onset"] is not None and found["onset"] < rates[-1]  # the largest does diverge at a rate that was tried
    assert 0.5 < found["forecast_onset"] / found["onset"] < 2
    sweep = load_struct(tmp_path / "sweep" / "sweep.json", Sweep)
    calm = msgspec.structs.replace(sweep, runs=tuple(run for run in sweep.runs if run.lr < 0.05))
    control = summarize(calm, "standard")["widths"][-1]
    assert control["onset"] is None and control["forecast_onset"] is None and "fewer than two" in control["forecast_reason"]


def test_forecast_recovers_a_planted_onset():
    """Logits N^0.4 lr^2, unstable at a logit of 1000: the onset moves as N^-0.2."""
    lr = np.geomspace(1e-3, 10, 60)

    def curve(n):
        logit = n**0.4 * (30 * lr) ** 2
        return n, lr, np.where(logit > 1000, 6.0, 2.0 + 1e-3 * np.log(lr / 0.01) ** 2), logit

    true = (1000 / (3e6) ** 0.4) ** 0.5 / 30
    told = forecast_onset([curve(n) for n in (1e4, 1e5, 3e5)], at=3e6, initial_loss=7.0)
    assert told.lr == pytest.approx(true, rel=0.2) and told.limit == pytest.approx(1000, rel=0.4) and told.sizes == 3
    flat = [(n, lr, np.where(lr > 1, 6.0, 2.0), np.full_like(lr, 5.0)) for n in (1e4, 1e5)]
    assert forecast_onset(flat, at=1e6, initial_loss=7.0).reason.startswith("logits do not grow")


def test_optimum_and_onset_of_known_curves():
    lr = 10.0 ** np.arange(-4, 0)
    assert best_rate(lr, (np.log(lr) - np.log(0.004)) ** 2).lr == pytest.approx(0.004)
    assert best_rate(lr, np.array([1.0, 2.0, 3.0, np.nan])).at_edge and best_rate(lr, np.array([3.0, 2.0, 1.0, np.nan])).at_edge
    with pytest.raises(InputError, match="no run"):
        best_rate(lr, np.full(4, np.nan))
    assert onset(lr, np.array([2.0, 1.0, 1.0, 1.1]), initial_loss=5.0) is None
    assert onset(lr, np.array([2.0, 1.0, 1.0, np.nan]), initial_loss=5.0) == pytest.approx(0.01 * 10**0.1)


def test_the_sweep_command(stream, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(1000)))
    (tmp_path / "r.toml").write_text("tokens = 1280\ncontext = 32\n")
    args = ["train", "--sweep", "lr", "--widths", "16,32", "--rates", "0.003,0.03,1e20", "--recipe", str(tmp_path / "r.toml"), "--text", str(tmp_path / "t.txt"), "--workers", "1", "--out", str(tmp_path / "s")]
    assert main([*args, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    mup, standard = (record["parametrizations"][name]["widths"] for name in ("mup", "standard"))
    assert mup[0] == standard[0] and mup[1] != standard[1]  # equal where the base is
    sweep = load_struct(tmp_path / "s" / "sweep.json", Sweep)
    assert len(sweep.runs) == 12 and sweep.initial_loss == math.log(256) and any(run.loss is None for run in sweep.runs)  # 1e20: no number, and that is a result
    drawing = (tmp_path / "s" / "sweep.svg").read_text()
    assert drawing.startswith("<svg") and drawing.count("<polyline") == 8 and "nan" not in drawing
    for wrong in (["--widths", "16,20"], ["--widths", "32"], ["--rates", "0.1,0.2"], ["--sizes", "20k"], ["--dry-run"]):
        assert main(["train", "--sweep", "lr", "--out", str(tmp_path / "x"), *wrong]) == 2
        capsys.readouterr()
    (tmp_path / "bad.toml").write_text("learning_rate = 0.1\n")
    assert main(["train", "--sweep", "lr", "--recipe", str(tmp_path / "bad.toml"), "--out", str(tmp_path / "x")]) == 2
