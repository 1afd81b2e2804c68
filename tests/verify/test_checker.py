"""What the checker is: small, alone, light, and behind two commands; and ``--replay`` against a model measured by the library."""

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scalebound_verify
from scalebound.cli.main import main as scalebound_main
from scalebound_verify.__main__ import main

SOURCE = Path(scalebound_verify.__file__).parent
STANDARD = sys.stdlib_module_names | {"numpy", "scalebound_verify"}


def test_at_most_800_lines():
    """Lines to read: blank ones are free."""
    assert sum(bool(line.strip()) for path in SOURCE.rglob("*.py") for line in path.read_text().splitlines()) <= 800


def test_numpy_and_the_standard_library_only():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert {name.split(".")[0] for name in names} <= STANDARD | ({"scalebound_replay"} if path.name == "check.py" else set()), path


def test_models_with_a_base_need_numpy_alone_too():
    """Rebuilding from a base lies beside the checker, which loads it for such certificates only; it needs nothing further."""
    code = "import sys, scalebound_replay.base; print(sorted({'torch', 'transformers', 'scalebound', 'safetensors', 'msgspec', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(SOURCE.parent)})
    assert done.stdout.strip() == "[]"


def test_runs_where_nothing_else_is_installed(world):
    """A fresh interpreter that refuses every import but numpy's checks a certificate."""
    code = """
import sys
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("scalebound", "scipy", "msgspec", "safetensors", "torch", "transformers", "cyclopts", "rich",
            "constriction"):
            raise ImportError(name)
sys.meta_path.insert(0, Only())
from scalebound_verify.__main__ import main
sys.exit(main(sys.argv[1:]) or main([*sys.argv[1:], "--replay", "1"]) - 4)
"""
    command = [sys.executable, "-c", code, str(world / "certificates" / "anchored.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(SOURCE.parent)})
    assert done.returncode == 0, done.stdout + done.stderr


def test_command_of_the_product(copy, capsys):
    assert scalebound_main(["verify", str(copy.path("product")), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["holds"] is True
    assert scalebound_main(["verify", str(copy.path("product"))]) == 0
    assert "holds: with probability at least 0.99" in " ".join(capsys.readouterr().out.split())
    assert scalebound_main(["verify", str(copy.path("product")), "--replay", "-1"]) == 2
    assert scalebound_main(["verify", str(copy.path("heldout")), "--replay", "1"]) == 2
    assert scalebound_main(["verify", str(copy.folder / "absent.json"), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["status"] == 3
    assert scalebound_main(["verify", str(copy.edit("product", lambda c: c.update(delta=0.5)))]) == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_memory_does_not_grow_with_tokens(tmp_path):
    """Sums over 16 million tokens, a file of 64 MB, leave the peak memory within 48 MB of what one slice needs."""
    n = 1 << 24
    info = {"schema": "scalebound.stats/1", "kind": "model", "model": {"name": "", "sha256": "", "params": 1}, "window": [0, n],
        "vocab_size": 256,
            "stream": {"path": "", "sha256": "", "num_tokens": n}, "policy": {"name": "packed", "context": 64, "first_token": 0},
                "tokens": n,
            "block_tokens": 64, "text_bytes": 0, "predictable": "", "anchor": None, "version": "0"}  # fmt: skip
    header = {"__metadata__": {"scalebound": json.dumps(info)}, "nll": {"dtype": "F32", "shape": [n], "data_offsets": [0, 4 * n]}}
    head = json.dumps(header).encode()
    with open(tmp_path / "stats.safetensors", "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        part = np.random.default_rng(0).exponential(2, 1 << 18).clip(0, 9).astype("<f4").tobytes()
        for _ in range(n >> 18):
            file.write(part)
    code = """
import sys, numpy as np
from scalebound_verify import bounds
from scalebound_verify.arrays import Statistics
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) >> 10
stats = Statistics(sys.argv[1], 256, [0, 1 << 24])
def sums(stop):
    return bounds.gather(lambda a, b: ((x := stats.slice("nll", a, b)), [0 * x]), 0, stop, np.array([9.1]), np.array([0.5, 0.05]))[0]
one, before = sums(1 << 18), peak()
np.testing.assert_allclose(sums(1 << 24), 64 * one, rtol=1e-13)
print(peak() - before)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "stats.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(SOURCE.parent)})
    assert int(done.stdout) < 48


def test_bare_losses(tmp_path):
    """Losses in .npy or .csv: a held-out certificate holds; with a code length it cannot, since no package shows it."""
    from scalebound.certify import certify
    from scalebound.core.certificate import FileRef, Inputs
    from scalebound.core.stats import open_losses

    losses = np.random.default_rng(0).gamma(2.0, 0.7, 20_000)
    np.save(tmp_path / "losses.npy", losses)
    (tmp_path / "losses.csv").write_text("token,nll\n" + "".join(f"{k},{loss!r}\n" for k, loss in enumerate(losses.tolist())))
    for name in ("losses.csv", "losses.npy"):
        inputs = Inputs(stats=FileRef(path=name, sha256=hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()))
        stats = open_losses(tmp_path / name, vocab_size=256)
        certify(stats, method="heldout", inputs=inputs).save(tmp_path / "heldout.json")
        assert main([str(tmp_path / "heldout.json")]) == 0
        certify(stats, method="product", code_bits=1000, inputs=inputs).save(tmp_path / "product.json")
        assert main([str(tmp_path / "product.json")]) == 1
    for content in (b"", b"\x93NUMPY", np.zeros((2, 2)).tobytes()):
        (tmp_path / "losses.npy").write_bytes(content)
        assert main([str(tmp_path / "heldout.json")]) == 3


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny):
    """A true certificate of a measured model."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from scalebound.certify import certify
    from scalebound.compress import code_bits, save_package
    from scalebound.compress import quantize as round_to_nearest
    from scalebound.core.certificate import FileRef, Inputs
    from scalebound.measure import measure

    folder = tmp_path_factory.mktemp("measured")
    ref = tiny.write_stream(folder / "train.json", np.random.default_rng(0).integers(0, 200, 3_000))
    save_package(folder / "model.sbz", round_to_nearest(tiny.CONFIG, tiny.make_tensors(1), bits=4))
    stats = measure(folder / "model.sbz", folder / "train.json", folder / "stats.safetensors", context=64)

    def named(name: str) -> FileRef:
        return FileRef(path=name, sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest())

    inputs = Inputs(stats=named("stats.safetensors"), package=named("model.sbz"), stream=named("train.json"), stream_sha256=ref.sha256,
                    model_sha256=stats.info.model.sha256)  # fmt: skip
    bits = code_bits((folder / "model.sbz").stat().st_size)
    certify(stats, code_bits=bits, package_sha256=named("model.sbz").sha256, inputs=inputs).save(folder / "certificate.json")
    return folder


def test_replay_agrees(measured, capsys):
    for seed in ([], ["--seed", "3"]):
        assert main([str(measured / "certificate.json"), "--replay", "6", "--json", *seed]) == 0
        last = json.loads(capsys.readouterr().out)["checks"][-1]
        assert last["name"] == "replay" and last["ok"] and "6 blocks, seed" in last["detail"]
    assert main([str(measured / "certificate.json"), "--replay", "1000"]) == 0  # more than there are: all of them


@pytest.mark.parametrize("array, factor", [("nll", 0.98), ("nll", 1 - 1e-4), ("entropy", 0.98)])
def test_replay_sees_invented_statistics(measured, tiny, tmp_path, array, factor):
    """Losses or entropies scaled, every hash and number recomputed by the library itself: only the model can tell."""
    import shutil

    from scalebound.certify import certify
    from scalebound.core.certificate import FileRef, load_certificate
    from scalebound.core.stats import Stats

    folder = tmp_path / "world"
    shutil.copytree(measured, folder)
    path = folder / "stats.safetensors"
    tiny.rewrite_stats(path, lambda arrays: arrays | {array: arrays[array] * np.float32(factor)})
    old = load_certificate(folder / "certificate.json")
    import msgspec

    inputs = msgspec.structs.replace(
        old.inputs, stats=FileRef(path="stats.safetensors", sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    )
    certify(Stats.load(path), code_bits=old.code.bits, package_sha256=old.code.package_sha256, inputs=inputs).save(
        folder / "certificate.json"
    )
    assert main([str(folder / "certificate.json")]) == 0
    assert main([str(folder / "certificate.json"), "--replay", "5", "--seed", "1"]) == 1


def test_replay_sees_a_model_that_looks_ahead(measured, monkeypatch):
    """Losses that depend on later tokens are no predictor's: a model whose logits shift by what follows is found out."""
    import scalebound_replay as replay
    from scalebound_verify.check import verify

    honest = replay.score

    def leaking(model, first, block):
        found = honest(model, first, block)
        return found | {"nll": found["nll"] - 0.01 * (block[-1] % 2)}

    monkeypatch.setattr(replay, "score", leaking)
    record = verify(measured / "certificate.json", 5, 1)
    assert not record["holds"] and record["checks"][-1]["detail"].endswith("depend on later tokens")


def test_replay_builds_only_what_fits(measured, tiny):
    from scalebound_replay import load
    from scalebound_verify import Refused

    tensors = {name: ("F32", value) for name, value in tiny.make_tensors(1).items()}
    assert load(tiny.CONFIG, tensors) is not None
    for config, given in ((tiny.CONFIG | {"hidden_size": 1 << 20}, tensors), (tiny.CONFIG | {"model_type": "nothing"}, tensors), ({},
        tensors),
                          (tiny.CONFIG, dict(list(tensors.items())[:-1])), (tiny.CONFIG, tensors | {"extra": ("F32",
                              np.ones(3))})):  # fmt: skip
        with pytest.raises(Refused, match="builds no model"):
            load(config, given)
