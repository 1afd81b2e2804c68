"""``compress --frontier``: the best is the smallest bound, every certificate verifies, what is done is not done again, the figure shows the numbers."""

import json

import msgspec
import pytest

pytest.importorskip("torch")
from scalebound.certify.codelength import choice_bits
from scalebound.cli import main
from scalebound.compress import code_bits, save_package
from scalebound.core.certificate import load_certificate
from scalebound.core.frontier import Frontier, FrontierPoint
from scalebound.core.io import load_struct
from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef
from scalebound.report.frontier import draw_frontier, frontier_csv
from scalebound.train import derive_recipe, train_run
from scalebound_verify.check import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier")
    (folder / "t.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(1200)))
    corpus = read_corpus(folder / "t.txt")
    stream = build_stream(corpus.documents, load_tokenizer(), folder / "s", sequence_tokens=32, source=SourceRef("t", corpus.sha256), seed=0)
    train_run(msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 40, batch_sequences=4, warmup=0.1), stream.path, folder / "run")
    return folder, ["compress", str(folder / "run"), "--frontier", "--stream", str(stream.path), "--step", "1", "--bits", "2.5", "--sequences", "16", "--out", str(folder / "out"), "--json"]


def test_sweep(made, capsys):
    folder, arguments = made
    assert main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    found = load_struct(folder / "out/frontier.json", Frontier)
    assert record["best"] == found.best == min(found.points, key=lambda p: p.bound).name and [p.name for p in found.points] == ["rtn-1", "gptq-2.5"]
    assert found.window == (0, 32 * 4 * 40) and found.package_choice_bits == 0
    for point in found.points:
        certificate = load_certificate(folder / "out" / point.certificate)
        size = (folder / "out" / point.package).stat().st_size
        assert verify(folder / "out" / point.certificate)["holds"] and certificate.bound == point.bound and certificate.code.bits == code_bits(size) == point.code_bits
        assert choice_bits(certificate.code.choices) == found.alpha_choice_bits == 3 and certificate.empirical_loss == pytest.approx(point.loss, abs=1e-9)
        assert point.bits_per_parameter == pytest.approx(8 * size / found.params)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "out").glob("*.s*")}
    sizes = {path.name: path.read_bytes() for path in (folder / "out").glob("*.sbz")}
    (folder / "out/gptq-2.5.sbz").unlink()
    assert main(arguments) == 0
    assert {path.name: path.read_bytes() for path in (folder / "out").glob("*.sbz")} == sizes, "made again, the same bytes"
    assert (folder / "out/rtn-1.sbz").stat().st_mtime_ns == before["rtn-1.sbz"] and (folder / "out/full.safetensors").stat().st_mtime_ns == before["full.safetensors"]


def test_a_package_that_was_exchanged_is_noticed(made, tmp_path, capsys):
    folder, arguments = made
    from scalebound.compress import load_package

    exchanged = load_package(folder / "out/gptq-2.5.sbz")
    kept = (folder / "out/rtn-1.sbz").read_bytes()
    save_package(folder / "out/rtn-1.sbz", exchanged)
    assert main(arguments) == 3, "the statistics there are of another model"
    (folder / "out/rtn-1.sbz").write_bytes(kept)
    capsys.readouterr()


@pytest.mark.parametrize("change", [["--bits", "2.5,2.5"], ["--seed", "4"], ["--prune", "wanda"], ["--finetune"]])
def test_refusals(made, change, capsys):
    assert main([*made[1], *change]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["what"]


def test_packages_made_otherwise_stand_beside_the_sweep(made, tmp_path, capsys):
    """Scored, certified and verified like the others, marked in both panels; the best of all is the best; another package under its name is noticed."""
    from scalebound.compress import load_package, quantize, read_checkpoint
    from scalebound.compress.model import QuantizedModel

    folder, arguments = made
    arguments = [*arguments[:-3], "--out", str(tmp_path / "out"), "--json"]
    save_package(tmp_path / "coarse.sbz", quantize(*read_checkpoint(folder / "run"), step=1.5))
    save_package(tmp_path / "fine.sbz", quantize(*read_checkpoint(folder / "run"), step=0.2))
    beside = ["--beside", f"very coarse={tmp_path / 'coarse.sbz'}", "--beside", f"fine={tmp_path / 'fine.sbz'}"]
    arguments = [text for text in arguments if text not in ("--bits", "2.5")]
    assert main([*arguments, *beside]) == 0
    record = json.loads(capsys.readouterr().out)
    found = load_struct(tmp_path / "out/frontier.json", Frontier)
    assert [(p.name, p.way, p.setting) for p in found.points] == [("rtn-1", "rtn", 1.0), ("very coarse", "beside", 0.0), ("fine", "beside", 0.0)]
    assert record["best"] == min(found.points, key=lambda p: p.bound).name and record["search_bits"] == found.search_bits == 3.0
    for point, source in zip(found.points[1:], ("coarse", "fine"), strict=True):
        size = (tmp_path / f"{source}.sbz").stat().st_size
        assert (tmp_path / "out" / point.package).read_bytes() == (tmp_path / f"{source}.sbz").read_bytes()
        assert verify(tmp_path / "out" / point.certificate)["holds"] and load_certificate(tmp_path / "out" / point.certificate).code.bits == code_bits(size) == point.code_bits
    by_bits = sorted(found.points, key=lambda p: p.bits_per_parameter)
    assert [p.name for p in by_bits] == ["very coarse", "rtn-1", "fine"] and by_bits[0].loss > by_bits[2].loss, "fewer bits, more loss"
    svg = (tmp_path / "out/frontier.svg").read_text()
    assert svg.count(">very coarse<") == svg.count(">fine<") == 2 and "made otherwise" in svg and "calibrated" not in svg
    assert main([*arguments, "--beside", f"fine={tmp_path / 'coarse.sbz'}"]) == 3, "the statistics there are of the other package"
    save_package(tmp_path / "delta.sbz", QuantizedModel({"delta": "full"}, load_package(tmp_path / "fine.sbz").tensors))
    for wrong, status in ((f"d={tmp_path / 'delta.sbz'}", 3), (f"d={tmp_path / 'none.sbz'}", 3), ("fine", 2), (f"rtn-1={tmp_path / 'fine.sbz'}", 2), (f"../x={tmp_path / 'fine.sbz'}", 2), (f"full={tmp_path / 'fine.sbz'}", 2)):
        assert main([*arguments, "--beside", wrong]) == status, wrong
    capsys.readouterr()
    assert main(["compress", str(folder / "run"), "--beside", "a=b", "--out", str(tmp_path / "x.sbz"), "--json"]) == 2
    assert "--frontier" in json.loads(capsys.readouterr().out)["error"]["what"]


def test_the_figure_and_the_table_hold_the_points():
    points = tuple(
        FrontierPoint(name=name, way=name[:3] if name[0] == "r" else "gptq", setting=1.0, package=f"{name}.sbz", file_bytes=1000 * k, code_bits=8000 * k, bits_per_parameter=1.0 * k, loss=2.5 - 0.1 * k, certificate=f"{name}.json", bound=bound, alpha=0.1, vacuous=False)
        for k, (name, bound) in enumerate((("rtn-1", 3.25), ("gptq-2", 3.0), ("rtn-0.5", 3.5)), start=1)
    )
    found = Frontier(model_sha256="", stream_sha256="", params=8000, window=(0, 10), delta=0.01, full_loss=2.0, package_choice_bits=0.0, alpha_choice_bits=3.0, best="gptq-2", points=points, version="0")
    svg = draw_frontier(found)
    assert svg.count("<circle") == 2 * 3 + 2 and "best certificate, 3.000 at 2.00 bits" in svg and "full precision 2.000" in svg and "3 bits" in svg
    lines = frontier_csv(found).splitlines()
    assert len(lines) == 4 and lines[1].startswith("rtn-1,rtn,1.0,1000,1.0,2.4,3.25") and lines[2].split(",")[0] == "gptq-2"
