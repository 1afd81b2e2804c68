"""``scalebound export CERTIFICATE``: the folder is the certified predictor. Its measured loss is the certified one; what is refused."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from scalebound.certify import Artefact, certify, certify_best, package_code_bits
from scalebound.cli import main
from scalebound.compress import quantize, save_package
from scalebound.core.certificate import Inputs, file_ref, load_certificate
from scalebound.core.stats import AnchorRef, Stats
from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef
from scalebound.measure import Item, measure, score_items
from scalebound.measure.statistics import token_statistics
from scalebound.models import Shape, Transformer, load_model, save_folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A stream, a package and an anchor, measured together, and a certificate of each kind."""
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "t.txt").write_text("".join(f"def g{k % 13}(y):\n    return y * {k}\n" for k in range(400)))
    corpus = read_corpus(folder / "t.txt")
    stream = build_stream(corpus.documents, load_tokenizer(), folder / "s", sequence_tokens=64, source=SourceRef("t", corpus.sha256), seed=0)
    models = [Transformer(shape, 64, torch.Generator().manual_seed(k)) for k, shape in enumerate((Shape(256, 32, 2, 4, 64), Shape(256, 16, 1, 4, 32)))]
    tensors = {name: tensor.contiguous().numpy() for name, tensor in models[0].tensors().items()}
    save_package(folder / "m.sbz", quantize(models[0].shape.config(64), tensors, step=0.5))
    anchor_sha = save_folder(folder / "anchor", models[1].shape.config(64), models[1].tensors())
    is_ = AnchorRef(kind="model", deployable=True, predictable="drawn at random")
    stats = measure(folder / "m.sbz", stream.path, folder / "m.safetensors", anchor=folder / "anchor", anchor_is=is_)
    assert stats.info.anchor.sha256 == anchor_sha
    for name, method in (("product", "product"), ("anchored", "anchored")):
        inputs = Inputs(stats=file_ref(folder / "m.safetensors", folder), package=file_ref(folder / "m.sbz", folder), stream=file_ref(stream.path, folder),
                        stream_sha256=stats.info.stream.sha256, model_sha256=stats.info.model.sha256)  # fmt: skip
        bits = package_code_bits((folder / "m.sbz").stat().st_size)
        certify(stats, method=method, code_bits=bits, inputs=inputs, package_sha256=inputs.package.sha256).save(folder / f"{name}.json")
    return folder, stream


@pytest.mark.parametrize("method", ["product", "anchored"])
def test_measured_loss_is_the_certified_predictors(world, tmp_path, capsys, method):
    folder, stream = world
    anchor = ["--anchor", str(folder / "anchor")] if method == "anchored" else []
    assert main(["export", str(folder / f"{method}.json"), *anchor, "--out", str(tmp_path / "p"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    certificate = load_certificate(folder / f"{method}.json")
    found = measure(tmp_path / "p", stream.path, tmp_path / "p.safetensors")
    loss = float(found.read("nll").mean(dtype="f8"))
    terms = certificate.terms
    certified = terms.full_precision_loss + terms.quantization + terms.smoothing
    assert loss == pytest.approx(certified, abs=2e-6) and record["loss"] == certified and loss <= certificate.bound
    # control: the model alone has another loss, and so has another alpha
    assert abs(float(Stats.load(folder / "m.safetensors").read("nll").mean(dtype="f8")) - certified) > 1e-3
    edited = json.loads((tmp_path / "p/mixture.json").read_text()) | {"alpha": 0.9}
    (tmp_path / "p/mixture.json").write_text(json.dumps(edited))
    other = measure(tmp_path / "p", stream.path, tmp_path / "q.safetensors")
    assert abs(float(other.read("nll").mean(dtype="f8")) - certified) > 1e-3 and other.info.model.sha256 != found.info.model.sha256
    assert found.info.model.sha256 == record["model_sha256"]


def test_probabilities_against_a_loop(world, tmp_path):
    folder, _ = world
    assert main(["export", str(folder / "anchored.json"), "--anchor", str(folder / "anchor"), "--out", str(tmp_path / "p")]) == 0
    c = load_certificate(folder / "anchored.json")
    tokens = torch.arange(20)[None]
    mixture, asked = load_model(tmp_path / "p"), []
    head = mixture.head
    mixture.head = lambda hidden: asked.append(len(hidden)) or head(hidden)
    nll = token_statistics(mixture, mixture.hidden(tokens)[0], tokens[0], rows=16, stretch=64)[0]
    assert asked == [16, 4], "a head that cannot be cut is computed once a row, not once a stretch"
    torch.testing.assert_close(nll, -mixture.logits(tokens)[0].log_softmax(-1)[tokens[0], tokens[0]], atol=1e-5, rtol=1e-5)
    p, q, both = (load_model(path).logits(tokens).double().softmax(-1)[0].numpy() for path in (folder / "m.sbz", folder / "anchor", tmp_path / "p"))
    a, e = c.smoothing.alpha, c.smoothing.eps
    for t in range(20):
        for v in (0, 7, 255):
            assert both[t, v] == pytest.approx((1 - a) * p[t, v] + a * ((1 - e) * q[t, v] + e / 256), rel=1e-5)
    assert np.allclose(both.sum(-1), 1, atol=1e-6)
    # every command that takes a model takes it: a certificate on text it never saw, with no more smoothing than it has
    assert math.isclose(float(load_model(tmp_path / "p").logits(tokens).exp().sum(-1).max()), 1.0, abs_tol=1e-5)
    text = tmp_path / "new.txt"
    text.write_text("def h(z):\n    return z\n" * 20)
    assert main(["detect", str(text), "--model", str(tmp_path / "p")]) in (0, 1)


def test_refusals(world, tmp_path, capsys):
    folder, stream = world
    out = tmp_path / "p"

    def status(*words) -> int:
        found = main(["export", *map(str, words), "--out", str(out), "--json"])
        assert json.loads(capsys.readouterr().out)["error"]["what"] and not (out / "mixture.json").exists()
        return found

    assert status(folder / "anchored.json") == 2  # no anchor
    assert status(folder / "product.json", "--anchor", folder / "anchor") == 2  # one too many
    assert status(folder / "m.sbz", "--anchor", folder / "anchor") == 2
    other = Transformer(Shape(256, 16, 1, 4, 32), 64, torch.Generator().manual_seed(9))
    save_folder(tmp_path / "other", other.shape.config(64), other.tensors())
    assert status(folder / "anchored.json", "--anchor", tmp_path / "other") == 3  # another anchor
    best, _ = certify_best([Artefact(Stats.load(folder / "m.safetensors"), 900)], references=[online_of(folder)], compare=False)
    best.save(tmp_path / "online.json")
    assert best.method == "anchored" and not best.anchor.deployable
    assert status(tmp_path / "online.json", "--anchor", folder / "anchor") == 2
    shutil.copytree(folder, tmp_path / "moved")
    package = tmp_path / "moved" / "m.sbz"
    package.write_bytes(package.read_bytes()[:-1] + b"\0")
    assert status(tmp_path / "moved" / "product.json") == 3  # another package
    # a part exchanged afterwards is found out
    assert main(["export", str(folder / "product.json"), "--out", str(out)]) == 0
    save_folder(out / "model", other.shape.config(64), other.tensors())
    assert main(["measure", str(out), str(stream.path), "--out", str(tmp_path / "s.safetensors")]) == 3


def online_of(folder) -> Stats:
    """Losses known before each token that no single model has: better than the model's, so that the search takes them."""
    import msgspec

    stats = Stats.load(folder / "m.safetensors")
    info = msgspec.structs.replace(stats.info, kind="online", anchor=None, predictable="made for the test", model=msgspec.structs.replace(stats.info.model, sha256=""))
    return Stats(info, {"nll": stats.read("nll") * np.float32(0.5)})


@pytest.mark.parametrize("method", ["product", "anchored"])
def test_items_that_share_a_context_are_scored_by_the_mixture(world, tmp_path, method):
    """Reading a context once must read it with both parts, or not be done."""
    folder, _ = world
    anchor = ["--anchor", str(folder / "anchor")] if method == "anchored" else []
    assert main(["export", str(folder / f"{method}.json"), *anchor, "--out", str(tmp_path / "p")]) == 0
    items = [Item("a", ("def g", "def g"), ("1(y):", "(y"), 0), Item("b", ("def g1", "def g1"), ("(y):", "2"), 1)]
    mixed, alone = load_model(tmp_path / "p"), load_model(folder / "m.sbz")
    for shared, anew, other in zip(score_items(mixed, items), score_items(mixed, items, share=False), score_items(alone, items), strict=True):
        np.testing.assert_allclose(shared.log_probabilities, anew.log_probabilities, atol=2e-5)
        assert np.abs(shared.log_probabilities - other.log_probabilities).max() > 1e-3  # control: the model alone says something else
