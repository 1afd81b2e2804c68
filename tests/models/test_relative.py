"""Deltas on a base: rebuilt exactly by loops, trained in a subspace or by factors, certified, exported; what does not fit is refused."""

import json

import msgspec
import numpy as np
import pytest
import torch

from scalebound.cli import main
from scalebound.compress import load_package, save_package
from scalebound.compress.delta import apply_delta, coordinates, hashed, pack_delta, spread_of
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import Stats
from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef
from scalebound.measure import measure
from scalebound.models import load_model, open_trainable
from scalebound.models.partial import Partial
from scalebound.models.relative import rebuild
from scalebound.train import derive_continuation, derive_recipe, train_run

RNG = np.random.default_rng(2)
BASE = {"b.weight": RNG.normal(size=(6, 9)).astype("f4"), "a.weight": RNG.normal(size=(5,)).astype("f4")}


def splitmix(z: int) -> int:
    """The textbook form in Python integers."""
    mask = (1 << 64) - 1
    z = z * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


def test_hash_against_python_integers():
    for seed, tensor in ((0, 0), (7, 3), (2**31, 250)):
        start = (seed << 20 ^ tensor) * 0x94D049BB133111EB + 1
        assert hashed(seed, tensor, 0, 5).tolist() == [splitmix((i + start) % 2**64) for i in range(5)]
    which, sign = coordinates(1, 0, 0, 200_000, 50)
    assert np.abs(np.bincount(which, minlength=50) - 4000).max() < 6 * 4000**0.5 and abs(sign.mean()) < 0.02
    assert set(np.unique(sign)) == {-1.0, 1.0}


def test_each_kind_against_a_loop():
    w = RNG.normal(size=4).astype("f4")
    found = apply_delta({"delta": "subspace", "seed": 5}, {"w": w}, BASE)
    for tensor, name in enumerate(sorted(BASE)):
        which, sign = coordinates(5, tensor, 0, BASE[name].size, 4)
        for i, old in enumerate(BASE[name].reshape(-1)):
            right = np.float32(float(old) + float(sign[i]) * float(w[which[i]]) * spread_of(BASE[name].shape))
            assert found[name].reshape(-1)[i] == right
    a, b = RNG.normal(size=(2, 9)).astype("f4"), RNG.normal(size=(6, 2)).astype("f4")
    found = apply_delta({"delta": "lora"}, {"b.weight.a": a, "b.weight.b": b}, BASE)
    for i in range(6):
        for j in range(9):
            total = 0.0
            for k in range(2):
                total += float(b[i, k]) * float(a[k, j])
            assert found["b.weight"][i, j] == np.float32(float(BASE["b.weight"][i, j]) + total)
    assert np.array_equal(found["a.weight"], BASE["a.weight"])
    full = apply_delta({"delta": "full"}, {"a.weight": np.ones(5, "f4")}, BASE)
    assert np.array_equal(full["a.weight"], (BASE["a.weight"].astype("f8") + 1).astype("f4"))


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        ({"delta": "other"}, {}),
        ({"delta": "subspace", "seed": -1}, {"w": np.ones(3)}),
        ({"delta": "subspace", "seed": 1}, {"w": np.ones((3, 1))}),
        ({"delta": "subspace", "seed": 1}, {"w": np.ones(3), "v": np.ones(3)}),
        ({"delta": "full"}, {"b.weight": np.ones((6, 8))}),
        ({"delta": "full"}, {"c.weight": np.ones((6, 9))}),
        ({"delta": "lora"}, {"b.weight.a": np.ones((2, 9))}),
        ({"delta": "lora"}, {"b.weight.a": np.ones((2, 9)), "b.weight.b": np.ones((6, 3))}),
    ],
)
def test_deltas_that_do_not_fit(config, numbers):
    with pytest.raises(InputError):
        apply_delta(config, numbers, BASE)


def test_unknown_ways():
    with pytest.raises(UsageError):
        pack_delta("half", {})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base trained on one text, a stream of another, and runs that go on from it in three ways."""
    folder = tmp_path_factory.mktemp("relative")
    streams = {}
    for name, word in (("old", "def f"), ("new", "class K")):
        (folder / f"{name}.txt").write_text("".join(f"{word}{k % 17}(x):\n    return x + {k}\n" for k in range(900)))
        corpus = read_corpus(folder / f"{name}.txt")
        streams[name] = build_stream(corpus.documents, load_tokenizer(), folder / name, sequence_tokens=32, source=SourceRef(name, corpus.sha256), seed=0)
    recipe = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 80, batch_sequences=4, warmup=0.1)
    train_run(recipe, streams["old"].path, folder / "base")
    for name, adapter in (("subspace", "subspace:200"), ("lora", "lora:2"), ("full", "")):
        start = open_trainable(folder / "base")
        found = derive_continuation(start, 32 * 4 * 60, context=32, overrides={"batch_sequences": 4, **({"adapter": adapter} if adapter else {})})
        train_run(found, streams["new"].path, folder / name, base=start)
    return folder, streams


@pytest.mark.parametrize("kind", ["subspace", "lora", "full"])
def test_trained_packaged_certified_exported(world, tmp_path, capsys, kind):
    folder, streams = world
    base = folder / "base"
    online = Stats.load(folder / kind / "online.safetensors").read("nll")
    assert online[-1280:].mean() < online[:1280].mean() - 0.1  # it learns
    package = tmp_path / "d.sbz"
    assert main(["compress", str(folder / kind), "--base", str(base), "--step", "0.1", "--out", str(package), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["kind"] == kind and record["numbers"] == {"subspace": 200}.get(kind, record["numbers"])
    assert main(["export", str(package), "--base", str(base), "--out", str(tmp_path / "tuned"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_sha256"] == record["model_sha256"] == load_model(tmp_path / "tuned").sha256
    window = (0, 32 * 4 * 60)
    stats = measure(tmp_path / "tuned", streams["new"].path, tmp_path / "s.safetensors", window=window, anchor=base)
    # the rounded numbers are close to those that were trained: the loss is the run's, not the base's
    run = measure(folder / kind, streams["new"].path, tmp_path / "r.safetensors", window=window)
    losses = {name: float(part.read(array).mean(dtype="f8")) for name, part, array in (("tuned", stats, "nll"), ("run", run, "nll"), ("base", stats, "reference_nll"))}
    assert abs(losses["tuned"] - losses["run"]) < 0.2 * (losses["base"] - losses["run"])
    words = ["certify", str(tmp_path / "s.safetensors"), "--package", str(package), "--method", "anchored"]
    assert main([*words, "--base", str(base), "--out", str(tmp_path / "c.json"), "--json"]) == 0
    certificate = json.loads(capsys.readouterr().out)
    assert certificate["base"] == {"kind": "model", "sha256": record["base_sha256"]} and certificate["code"]["bits"] == record["code_bits"]
    assert main([*words, "--json"]) == 3  # without its base the package decodes to nothing that was measured
    capsys.readouterr()
    assert main([*words, "--base", str(folder / "lora" if kind != "lora" else folder / "full"), "--json"]) == 3  # another base
    capsys.readouterr()
    # the checker rebuilds the same model from the base with its own code, and scores it again
    assert certificate["inputs"]["base"]["path"].endswith("model.safetensors")
    assert main(["verify", str(tmp_path / "c.json"), "--replay", "3", "--seed", "0", "--json"]) == 0
    assert {"base", "package", "replay"} <= {check["name"] for check in json.loads(capsys.readouterr().out)["checks"]}
    best = ["certify", str(tmp_path / "s.safetensors"), "--package", str(package), "--base", str(base), "--best", "--out", str(tmp_path / "best.json")]
    assert main(best) == 0 and main(["verify", str(tmp_path / "best.json")]) == 0
    # what is certified is a mixture of the rebuilt model and the anchor, and can be written and scored
    words, mix = ["export", str(tmp_path / "c.json"), "--anchor", str(base)], tmp_path / "mix"
    other = folder / ("lora" if kind != "lora" else "full")
    assert main(["export", str(package), "--out", str(mix)]) == 3 and main([*words, "--out", str(mix)]) == 2
    assert main([*words, "--base", str(other), "--out", str(mix)]) == 3 and not (mix / "model").exists()
    assert main([*words, "--base", str(base), "--out", str(mix)]) == 0
    loss = measure(mix, streams["new"].path, tmp_path / "m.safetensors", window=window).read("nll").mean(dtype="f8")
    assert float(loss) == pytest.approx(certificate["empirical_loss"] + certificate["terms"]["smoothing"], abs=1e-4)


def test_which_bases_a_checker_can_read(world, tmp_path):
    """One weights file, or a package; the same base in two files, or behind a link, is rebuilt here and named by no file."""
    from safetensors.numpy import load_file, save_file

    from scalebound.models.load import model_folder

    whole = model_folder(world[0] / "base")
    save_package(tmp_path / "d.sbz", pack_delta("subspace", {"w": np.array([0.5, -0.25], "f4")}, seed=1))
    right = rebuild(tmp_path / "d.sbz", whole)
    assert right.base_file == whole / "model.safetensors"
    tensors = load_file(right.base_file)
    for name in ("parts", "linked", "alone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes((whole / "config.json").read_bytes())
    half = sorted(tensors)[: len(tensors) // 2]
    save_file({name: tensors[name] for name in half}, tmp_path / "parts" / "model-00001-of-00002.safetensors")
    save_file({name: tensors[name] for name in tensors.keys() - set(half)}, tmp_path / "parts" / "model-00002-of-00002.safetensors")
    (tmp_path / "linked" / "model.safetensors").symlink_to(right.base_file)
    save_file(tensors, tmp_path / "alone" / "model.safetensors")
    found = {name: rebuild(tmp_path / "d.sbz", tmp_path / name) for name in ("parts", "linked", "alone")}
    assert {made.sha256 for made in found.values()} == {right.sha256} and {made.base_sha256 for made in found.values()} == {right.base_sha256}
    assert {name: made.base_file is not None for name, made in found.items()} == {"parts": False, "linked": False, "alone": True}


def test_an_interrupted_run_of_few_numbers_goes_on(world, tmp_path):
    folder, streams = world
    start = open_trainable(folder / "base")
    recipe = derive_continuation(start, 32 * 4 * 20, context=32, overrides={"batch_sequences": 4, "adapter": "lora:2"})
    right = train_run(recipe, streams["new"].path, tmp_path / "a", base=folder / "base")

    class Killed(Exception):
        pass

    def kill(done, total):
        if done > total * 0.6:
            raise Killed

    with pytest.raises(Killed):
        train_run(recipe, streams["new"].path, tmp_path / "b", base=folder / "base", checkpoint_s=0.0, progress=kill)
    assert train_run(recipe, streams["new"].path, tmp_path / "b", base=folder / "base").model_sha256 == right.model_sha256
    assert (tmp_path / "a/adapter.safetensors").read_bytes() == (tmp_path / "b/adapter.safetensors").read_bytes()


def test_gradients_reach_the_numbers_alone(world):
    folder, _ = world
    for adapter in ("subspace:8", "lora:1"):
        start = open_trainable(folder / "base")
        model = Partial(start.model, adapter, 0)
        tokens = torch.arange(20)[None]
        before = load_model(folder / "base").logits(tokens)
        assert torch.allclose(model(tokens), before, atol=1e-5)  # starts as the base
        model(tokens).square().mean().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        assert all(p.grad is None for p in start.model.parameters())


def test_refusals(world, tmp_path, capsys):
    folder, _ = world
    base = str(folder / "base")

    def status(*words) -> int:
        found = main([*map(str, words), "--json"])
        assert json.loads(capsys.readouterr().out)["error"]["what"]
        return found

    assert status("train", "--sizes", "15k", "--adapter", "lora:2", "--out", tmp_path / "x") == 2
    assert status("train", "--from", base, "--adapter", "lora", "--text", folder / "new.txt", "--out", tmp_path / "x") == 2
    assert status("compress", base, "--base", base, "--out", tmp_path / "d.sbz") == 3  # its own base
    assert status("compress", folder / "full", "--base", base, "--bits", "4", "--out", tmp_path / "d.sbz") == 2
    assert status("compress", folder / "full", "--base", folder / "lora", "--out", tmp_path / "d.sbz") == 3
    save_package(tmp_path / "d.sbz", pack_delta("subspace", {"w": np.ones(3)}, seed=1))
    assert load_package(tmp_path / "d.sbz").config == {"delta": "subspace", "seed": 1}
    with pytest.raises(InputError, match="stands alone"):
        from scalebound.compress import quantize

        save_package(tmp_path / "alone.sbz", quantize({}, {"x": np.ones((2, 2), "f4")}, bits=4))
        rebuild(tmp_path / "alone.sbz", base)
