"""The commands certify, merge, interval and compare: what they print, write and refuse, with the exit status."""

import json

import msgspec
import numpy as np
import pytest
from certify_support import make_stats

from scalebound.certify import certify, package_code_bits
from scalebound.cli import main
from scalebound.core.certificate import load_certificate
from scalebound.core.io import sha256_file
from scalebound.core.stats import Stats


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stats = make_stats(n=3000)
    unnamed = Stats(
        msgspec.structs.replace(stats.info, model=msgspec.structs.replace(stats.info.model, sha256="")),
        {n: stats.read(n) for n in stats._arrays},
    )
    unnamed.save("s.safetensors")
    make_stats(n=3000, kind="online", anchor=False).save("online.safetensors")
    np.save("l.npy", stats.read("nll"))
    np.savetxt("l.csv", stats.read("nll"), header="nll", comments="")
    return tmp_path


def run(capsys, *words):
    status = main([*words, "--json"])
    out = capsys.readouterr()
    return status, json.loads(out.out), out.err


def test_certify_writes_what_it_prints(folder, capsys):
    status, record, _ = run(
        capsys,
        "certify",
        "s.safetensors",
        "--code-bits",
        "900",
        "--choice",
        "bits=7",
        "--choice",
        "step=2",
        "--full",
        "l.npy",
        "--vocab-size",
        "16",
        "--out",
        "out/c.json",
    )
    saved = load_certificate("out/c.json")
    assert status == 0 and json.loads((folder / "out" / "c.json").read_text()) == record
    assert record["inputs"]["stats"] == {"path": "../s.safetensors", "sha256": sha256_file("s.safetensors")}
    assert [c["setting"] for c in record["code"]["choices"]] == ["alpha", "bits", "step"]
    assert record["bound"] == certify(Stats.load("s.safetensors"), code_bits=900, choices=saved.code.choices[1:]).bound


@pytest.mark.parametrize("method", ["product", "freedman", "anchored", "heldout"])
def test_every_method_and_require(folder, capsys, method):
    code = [] if method == "heldout" else ["--code-bits", "500"]
    status, record, _ = run(capsys, "certify", "s.safetensors", "--method", method, *code, "--require", "100")
    assert status == 0 and record["method"] == method
    assert run(capsys, "certify", "s.safetensors", "--method", method, *code, "--require", "0.1")[0] == 1
    assert main(["certify", "s.safetensors", "--method", method, *code]) == 0
    assert "this is about the mixture" in capsys.readouterr().out


def test_trajectory_and_reference(folder, capsys):
    status, record, _ = run(capsys, "certify", "online.safetensors", "--method", "trajectory", "--window", "100:1100")
    assert status == 0 and record["window"] == [100, 1100]
    status, record, _ = run(
        capsys,
        "certify",
        "s.safetensors",
        "--method",
        "anchored",
        "--code-bits",
        "500",
        "--reference",
        "online.safetensors",
        "--eps",
        "0.001",
        "--alphas",
        "0.1,0.2",
    )
    assert (
        status == 0
        and record["anchor"]["kind"] == "online"
        and record["anchor"]["deployable"] is False
        and record["smoothing"]["candidates"] == [0.1, 0.2]
    )


def test_package_gives_the_code_length(folder, capsys, monkeypatch):
    (folder / "m.sbz").write_bytes(b"x" * 321)
    monkeypatch.setattr("scalebound.cli.certify.decoded_sha256", lambda path: "aa" * 32)
    status, record, _ = run(capsys, "certify", "s.safetensors", "--package", "m.sbz")
    assert status == 0 and record["code"]["bits"] == package_code_bits(321) and record["code"]["package_sha256"] == sha256_file("m.sbz")
    make_stats(n=3000).save("named.safetensors")
    assert run(capsys, "certify", "named.safetensors", "--package", "m.sbz")[0] == 0
    monkeypatch.setattr("scalebound.cli.certify.decoded_sha256", lambda path: "ab" * 32)
    status, record, _ = run(capsys, "certify", "named.safetensors", "--package", "m.sbz")
    assert status == 3 and "decodes to model" in record["error"]["what"]
    assert run(capsys, "certify", "s.safetensors", "--package", "m.sbz", "--code-bits", "9")[0] == 2


def test_arrays_people_have(folder, capsys):
    bounds = [run(capsys, "certify", name, "--code-bits", "100", "--vocab-size", "16")[1]["bound"] for name in ("l.npy", "l.csv")]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-7)
    status, record, _ = run(capsys, "interval", "l.csv", "--vocab-size", "16", "--sigma", "1")
    assert status == 0 and set(record) >= {"mean", "low", "high", "level", "n", "unit", "target"}
    status, record, _ = run(capsys, "compare", "l.npy", "l.csv", "--epsilon", "0.5")
    assert status == 0 and set(record) >= {"difference", "low", "high", "e_value", "p_value", "verdict"} and record["verdict"] == "equal"
    assert main(["interval", "s.safetensors"]) == 0 and "95% interval" in capsys.readouterr().out
    assert main(["compare", "l.npy", "l.csv"]) == 0 and "not yet" in capsys.readouterr().out


def test_merge(folder, capsys):
    whole = Stats.load("s.safetensors")
    for k in (0, 1):
        ids = np.arange(k, 47, 2)
        keep = np.concatenate([np.arange(b * 64, min((b + 1) * 64, 3000)) for b in ids])
        Stats(
            msgspec.structs.replace(whole.info, tokens=len(keep), text_bytes=0),
            {**{n: whole.read(n)[..., keep] for n in whole._arrays}, "blocks": ids},
        ).save(f"p{k}.safetensors")
    status, record, _ = run(capsys, "merge", "p0.safetensors", "p1.safetensors", "--out", "w.safetensors")
    assert status == 0 and record["complete"] and record["tokens"] == 3000
    assert certify(Stats.load("w.safetensors"), code_bits=500).bound == certify(whole, code_bits=500).bound
    status, record, _ = run(capsys, "merge", "p0.safetensors", "p0.safetensors", "--out", "w2.safetensors")
    assert status == 3 and "counts once" in record["error"]["what"] and not (folder / "w2.safetensors").exists()
    assert run(capsys, "merge", "p0.safetensors", "online.safetensors", "--out", "w2.safetensors")[0] == 3


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["certify", "s.safetensors"], 2),
        (["certify", "s.safetensors", "--code-bits", "9", "--delta", "1.5"], 2),
        (["certify", "s.safetensors", "--code-bits", "-4"], 2),
        (["certify", "s.safetensors", "--code-bits", "9", "--alphas", "a,b"], 2),
        (["certify", "s.safetensors", "--code-bits", "9", "--choice", "bits"], 2),
        (["certify", "s.safetensors", "--code-bits", "9", "--centres", "median"], 2),
        (["certify", "online.safetensors", "--method", "trajectory", "--window", "x"], 2),
        (["certify", "l.npy", "--code-bits", "9"], 2),
        (["certify", "l.npy", "--code-bits", "9", "--vocab-size", "16", "--method", "anchored"], 3),
        (["certify", "s.safetensors", "--code-bits", "9", "--vocab-size", "17"], 3),
        (["certify", "none.safetensors", "--code-bits", "9"], 3),
        (["certify", "online.safetensors", "--code-bits", "9"], 3),
        (["certify", "s.safetensors", "--package", "none.sbz"], 3),
        (["interval", "l.npy"], 2),
        (["interval", "s.safetensors", "--level", "0"], 2),
        (["compare", "s.safetensors", "none.npy"], 3),
        (["merge", "l.npy", "--out", "x.safetensors"], 3),
    ],
)
def test_bad_input_has_its_status_and_one_line(folder, capsys, words, status):
    assert main(words) == status
    out = capsys.readouterr()
    assert out.out == "" and out.err.startswith("error: ") and out.err.count("\n") <= 2


def test_corrupt_statistics(folder, capsys):
    data = bytearray((folder / "s.safetensors").read_bytes())
    for name, content in (
        ("cut", data[: len(data) // 2]),
        ("header", b"\xff" * 8 + data[8:]),
        ("empty", b""),
        ("text", b"not statistics at all"),
    ):
        (folder / f"{name}.safetensors").write_bytes(bytes(content))
        assert run(capsys, "certify", f"{name}.safetensors", "--code-bits", "9")[0] == 3
    losses = np.load("l.npy")
    for value in (np.nan, -2.0):
        losses[7] = value
        np.save("bad.npy", losses)
        status, record, _ = run(capsys, "certify", "bad.npy", "--code-bits", "9", "--vocab-size", "16")
        assert status == 3 and "token 7 " in record["error"]["what"]
