"""Certificates relative to a base: the checker rebuilds the measured model from the base's file, and believes nothing it cannot see."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from scalebound.certify import certify, package_code_bits
from scalebound.compress import encode, quantize, tensors_sha256
from scalebound.compress.delta import apply_delta, pack_delta
from scalebound.core.certificate import Base, FileRef, Inputs, load_certificate
from scalebound.core.hashing import model_sha256
from scalebound.core.stats import Stats
from scalebound_replay.base import floats, read_base, rebuild
from scalebound_verify import Refused, verify
from scalebound_verify.__main__ import main
from scalebound_verify.package import decode

KINDS = ("full", "lora", "subspace")
PARAMS = 2712  # of the tiny model
MATRIX, GAIN = "model.layers.0.mlp.gate_proj.weight", "model.norm.weight"


def delta_of(kind: str, tensors: dict):
    rng = np.random.default_rng(8)
    rows, columns = tensors[MATRIX].shape
    numbers = {
        "full": {GAIN: rng.normal(0, 0.1, tensors[GAIN].shape), MATRIX: rng.normal(0, 0.1, (rows, columns))},
        "lora": {f"{MATRIX}.a": rng.normal(0, 0.3, (2, columns)), f"{MATRIX}.b": rng.normal(0, 0.3, (rows, 2))},
        "subspace": {"w": rng.normal(0, 0.1, 30)},
    }[kind]
    return pack_delta(kind, {name: value.astype("f4") for name, value in numbers.items()}, seed=2**31 + 5)


def write_base(folder, config: dict, tensors: dict) -> str:
    """A Hugging Face folder with its weights in one file; returns the model's SHA-256."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    names = {np.dtype("f4"): "F32", np.dtype("f2"): "F16"}
    return model_sha256(config, [(name, names[value.dtype], value.shape, value) for name, value in tensors.items()])


def named(folder, file: str) -> FileRef:
    return FileRef(path=f"../{file}", sha256=hashlib.sha256((folder / file).read_bytes()).hexdigest())


@pytest.fixture(params=KINDS)
def relative(request, copy, tiny):
    """A certificate of a delta on a folder of float16 weights."""
    folder, config = copy.folder, tiny.CONFIG
    tensors = {name: value.astype("f2") for name, value in tiny.make_tensors(3).items()}
    identity = write_base(folder / "base", config, tensors)
    package = delta_of(request.param, tensors)
    (folder / "delta.sbz").write_bytes(encode(package))
    found = tensors_sha256(config, apply_delta(package.config, package.dequantized(), tensors))
    path = folder / "stats.safetensors"
    params = sum(value.size for value in tensors.values())
    copy.rewrite_stats(path, model={"name": "tuned", "sha256": found, "params": params})
    stats = Stats.load(path)
    inputs = Inputs(stats=named(folder, path.name), package=named(folder, "delta.sbz"), stream=named(folder, "train.json"), base=named(folder, "base/model.safetensors"),
                    stream_sha256=stats.info.stream.sha256, model_sha256=found)  # fmt: skip
    bits = package_code_bits((folder / "delta.sbz").stat().st_size)
    certify(stats, method="anchored", code_bits=bits, package_sha256=inputs.package.sha256, base=Base(kind="model", sha256=identity), inputs=inputs).save(copy.path("relative"))
    copy.tensors = tensors
    return copy


def bad(path) -> dict[str, str]:
    return {check["name"]: check["detail"] for check in verify(path)["checks"] if not check["ok"]}


def test_the_model_is_rebuilt_and_held(relative):
    path = relative.path("relative")
    assert verify(path)["holds"] and main([str(path)]) == 0
    assert load_certificate(path).inputs.base.path == "../base/model.safetensors"


CHANGES = {
    "the base not among the files": (lambda c: c["inputs"].update(base={"path": "", "sha256": ""}), "base"),
    "a certificate of before bases were files": (lambda c: c["inputs"].pop("base"), "base"),
    "another base's hash": (lambda c: c["base"].update(sha256="b" * 64), "base"),
    "another file's hash": (lambda c: c["inputs"]["base"].update(sha256="b" * 64), "hashes"),
    "no base at all": (lambda c: c["base"].update(kind="none", sha256=""), "package"),
    "one bit left out": (lambda c: c["code"].update(bits=c["code"]["bits"] - 1), "code"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_changed_certificate(relative, what):
    change, name = CHANGES[what]
    assert name in bad(relative.edit("relative", change))


def test_changed_base_and_another_delta(relative):
    tensors = dict(relative.tensors)
    tensors[GAIN] = tensors[GAIN] + np.float16(2**-6)
    save_file(tensors, relative.folder / "base" / "model.safetensors")
    assert {"hashes", "base", "package"} <= bad(relative.path("relative")).keys()
    assert {"base", "package"} <= bad(relative.rehash("relative")).keys()  # with the hashes the files now have
    identity = hashed_folder(relative.folder / "base")
    path = relative.edit("relative", lambda c: c["base"].update(sha256=identity))
    assert bad(path).keys() == {"package"}  # a true base, but not the measured model's


def hashed_folder(folder) -> str:
    from scalebound_verify.package import model_sha256 as own

    return own(*read_base(str(folder / "model.safetensors"), PARAMS))


def test_a_package_that_stands_alone_needs_no_base(copy):
    path = copy.edit("product", lambda c: (c["base"].update(kind="model", sha256="a" * 64), c["inputs"].update(base=c["inputs"]["package"])))
    assert "belongs to a delta" in bad(path)["package"]


def test_a_base_that_saw_the_window(relative):
    identity = json.loads(relative.path("relative").read_text())["base"]["sha256"]
    stream = hashlib.sha256((relative.folder / "train.json").read_bytes()).hexdigest()
    relative.rewrite_stats(relative.folder / "stats.safetensors", anchor={"kind": "model", "deployable": True, "sha256": identity, "name": "", "predictable": "", "eps": 0.01,
        "alphas": [0.05, 0.1], "trained": {"stream_sha256": stream, "window": [39_000, 41_000], "source_sha256": "", "split": ""}})  # fmt: skip
    relative.rehash("relative")
    assert "trained on tokens" in bad(relative.edit("relative", lambda c: c["anchor"].update(sha256=identity)))["base"]


def test_hostile_bases(relative):
    path, base = relative.path("relative"), relative.folder / "base"
    config = (base / "config.json").read_text()
    for text in ("[]", "{", ""):
        (base / "config.json").write_text(text)
        with pytest.raises(Refused):
            verify(path)
    (base / "config.json").unlink()
    with pytest.raises(Refused, match="No such file"):
        verify(path)
    (base / "config.json").write_text(config)
    data = (base / "model.safetensors").read_bytes()
    for cut in (0, 7, 100, len(data) - 1):
        (base / "model.safetensors").write_bytes(data[:cut])
        with pytest.raises(Refused):
            verify(relative.rehash("relative"))


def test_a_base_of_another_size_is_not_read(relative):
    """Its size is known before anything is allocated."""
    tensors = relative.tensors | {"more": np.zeros(3, "f2")}
    save_file(tensors, relative.folder / "base" / "model.safetensors")
    with pytest.raises(Refused, match="another number of parameters"):
        verify(relative.rehash("relative"))


def test_a_package_as_base(relative, tiny):
    """The numbers of a base may also be those of a package."""
    path = relative.folder / "base.sbz"
    model = quantize(tiny.CONFIG, tiny.make_tensors(1), bits=6)
    path.write_bytes(encode(model))
    config, tensors = read_base(str(path), sum(value.size for value in model.dequantized().values()))
    package = decode((relative.folder / "delta.sbz").read_bytes(), 10**6)
    ours = rebuild(*package, tensors)
    theirs = apply_delta(package[0], {name: array for name, (_, array) in package[1].items()}, model.dequantized())
    assert config == tiny.CONFIG and all(dtype == "F32" and np.array_equal(array, theirs[name]) for name, (dtype, array) in ours.items())
    assert read_base(str(relative.folder / "model.gguf"), 0) == ({}, {})


def f4(**numbers) -> dict:
    return {name.replace("_", "."): ("F32", np.ones(shape, "f4")) for name, shape in numbers.items()}


BASE = {"b": ("F32", np.ones((6, 9), "f4")), "a": ("BF16", np.full(5, 0x3F80, "<u2")), "s": ("F32", np.ones((), "f4"))}
BAD = {
    "another kind": ({"delta": "other"}, f4(b=(6, 9))),
    "no seed": ({"delta": "subspace"}, f4(w=3)),
    "a negative seed": ({"delta": "subspace", "seed": -1}, f4(w=3)),
    "no vector": ({"delta": "subspace", "seed": 1}, f4(v=3)),
    "a matrix for a vector": ({"delta": "subspace", "seed": 1}, f4(w=(3, 1))),
    "an empty vector": ({"delta": "subspace", "seed": 1}, f4(w=0)),
    "a number too many": ({"delta": "subspace", "seed": 1}, f4(w=3, v=3)),
    "another shape": ({"delta": "full"}, f4(b=(6, 8))),
    "another tensor": ({"delta": "full"}, f4(c=(6, 9))),
    "one factor": ({"delta": "lora"}, f4(b_a=(2, 9))),
    "factors that do not match": ({"delta": "lora"}, f4(b_a=(2, 9), b_b=(6, 3))),
    "factors that do not fit": ({"delta": "lora"}, f4(b_a=(2, 8), b_b=(6, 2))),
    "factors of a vector": ({"delta": "lora"}, f4(a_a=(2, 5), a_b=(1, 2))),
    "factors of a scalar": ({"delta": "lora"}, f4(s_a=(2, 5), s_b=(1, 2))),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_deltas_that_do_not_fit(what):
    with pytest.raises(Refused):
        rebuild(*BAD[what], BASE)


def test_against_the_text_of_section_11():
    """A vector's delta, number by number in Python integers; sixteen-bit bases are the numbers they stand for."""
    w, seed, mask = np.array([0.5, -0.25, 3.0], "f4"), 9, 2**64 - 1
    found = rebuild({"delta": "subspace", "seed": seed}, {"w": ("F32", w)}, BASE)
    for t, name in enumerate(sorted(BASE)):
        start = floats(*BASE[name])
        e = 1 if name == "b" else 0  # nine columns: floor(floor(log2 9)/2)
        for i in range(start.size):
            z = (i + 1 + (seed << 20 ^ t) * 0x94D049BB133111EB) * 0x9E3779B97F4A7C15 & mask
            z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
            z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
            z ^= z >> 31
            delta = float(w[(z >> 32) % 3]) * 2.0**-e * (-1 if z & 1 else 1)
            assert found[name][1].reshape(-1)[i] == np.float32(float(start.reshape(-1)[i]) + delta)
