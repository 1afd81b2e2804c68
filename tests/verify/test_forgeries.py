"""Forged certificates and files: each must be refused, and for the reason it was forged for; the unforged ones hold (the control)."""

import hashlib
import json
import math
import os

import msgspec
import numpy as np
import pytest

from scalebound.core.stats import Stats
from scalebound_verify import Refused, verify
from scalebound_verify.__main__ import main

TRUE = ("product", "fixed", "freedman", "anchored", "anchored-eps", "anchored-bits", "anchored-online", "heldout", "trajectory",
    "sampled", "sampled-freedman",
        "sampled-anchored", "few", "bernstein", "bernstein-anchored", "running", "weighted")  # fmt: skip


def failing(path) -> set[str]:
    record = verify(path)
    assert not record["holds"]
    return {check["name"] for check in record["checks"] if not check["ok"]}


def lower(c: dict, by: float) -> None:
    """Lower the bound and hide it: the terms still add up and every derived number follows."""
    c["bound"] -= by
    c["terms"]["complexity"] -= by
    c["terms"]["complexity"] += c["bound"] - math.fsum(c["terms"].values())
    if c["bound_bits_per_byte"] is not None:
        c["bound_bits_per_byte"] = c["bound"] / math.log(2)


@pytest.mark.parametrize("name", TRUE)
def test_true_certificates_hold(world, name):
    path = world / "certificates" / f"{name}.json"
    record, stated = verify(path), json.loads(path.read_text())["bound"]
    assert record["holds"], [check for check in record["checks"] if not check["ok"]]
    assert stated * (1 - 1e-11) <= record["bound"] <= stated * (1 + 1e-12)
    assert main([str(path)]) == 0


@pytest.mark.parametrize("name", TRUE)
def test_bound_lowered(copy, name):
    path = copy.edit(name, lambda c: lower(c, 1e-8 * c["bound"]))
    assert failing(path) == {"bound"}
    assert main([str(path)]) == 1


def test_a_looser_claim_is_true(copy):
    assert verify(copy.edit("product", lambda c: lower(c, -1e-3)))["holds"]


# (certificate, what is changed in it, the checks that must fail at least)
CHANGES = {
    "delta is not split": ("anchored", lambda c: c["delta_shares"].update(difference=1.0, reference=1.0), {"delta"}),
    "shares just above one": ("anchored", lambda c: c["delta_shares"].update(reference=c["delta_shares"]["reference"] + 1e-9), {"delta"}),
    "a negative share": ("anchored", lambda c: c["delta_shares"].update(difference=1.5, reference=-0.5), {"delta"}),
    "sampling has no share": ("sampled", lambda c: c["delta_shares"].update(subsampling=0.0), {"delta"}),
    "delta raised": ("product", lambda c: c.update(delta=0.5), {"terms"}),
    "delta is one": ("product", lambda c: c.update(delta=1.0), {"delta"}),
    "choice bits left out": ("product", lambda c: c["code"].update(choice_bits=0.0), {"choices"}),
    "a choice not paid": ("fixed", lambda c: c["code"]["choices"].append({"setting": "run", "options": 3}), {"choices"}),
    "a choice listed afterwards": ("fixed", lambda c: c["code"].update(
        choices=c["code"]["choices"] + [{"setting": "run", "options": 2}], choice_bits=c["code"]["choice_bits"] + 1), {"bound"}),
    "alpha's choice left out": ("product", lambda c: c["code"].update(choices=[], choice_bits=0.0), {"smoothing"}),
    "a choice with no options": ("fixed", lambda c: c["code"].update(choices=[{"setting": "bits", "options": 0}]), {"choices"}),
    "eps chosen, paid in the difference alone": ("anchored-bits", lambda c: c["code"]["choices"][-1].update(setting="eps"), {"bound"}),
    "code understated by one bit": ("product", lambda c: c["code"].update(bits=c["code"]["bits"] - 1), {"code"}),
    "no self-delimitation": ("product", lambda c: c["code"].update(bits=8 * (c["code"]["bits"] // 8)), {"code"}),
    "no package": ("product", lambda c: c["inputs"].update(package={"path": "", "sha256": ""}), {"package", "code"}),
    "heldout with the model's own stream": ("product", lambda c: c.update(method="heldout"), {"code"}),
    "alpha outside its list": ("product", lambda c: c["smoothing"].update(alpha=0.031), {"smoothing"}),
    "alpha's list shortened": ("product", lambda c: c["smoothing"]["candidates"].pop(0), {"smoothing"}),
    "alpha zero": ("fixed", lambda c: c["smoothing"].update(alpha=0.0, candidates=[0.0]), {"smoothing"}),
    "smoothed less": ("fixed", lambda c: c["smoothing"].update(alpha=0.05, candidates=[0.05]), {"terms"}),
    "a grid point at one": ("product", lambda c: c["grid"].__setitem__(-1, 1.0), {"mixture"}),
    "a grid point at zero": ("product", lambda c: c["grid"].__setitem__(0, 0.0), {"mixture"}),
    "no grid": ("product", lambda c: c.update(grid=[]), {"mixture"}),
    "weights above one": ("weighted", lambda c: c.update(weights=[0.2, 0.3, 0.6]), {"mixture"}),
    "a negative weight": ("weighted", lambda c: c.update(weights=[-0.5, 0.3, 1.2]), {"mixture"}),
    "weights too few": ("weighted", lambda c: c.update(weights=[0.5, 0.5]), {"mixture"}),
    "weights empty": ("product", lambda c: c.update(weights=[]), {"mixture"}),
    "centre weights above one": ("product", lambda c: [x.update(weight=1.0) for x in c["centres"]], {"mixture"}),
    "no centre": ("product", lambda c: c.update(centres=[]), {"mixture"}),
    "the Freedman form with two centres": ("freedman", lambda c: c.update(centres=[x | {"weight": 0.5} for x in c["centres"]] * 2),
        {"mixture"}),
    "a centre of zero moved": ("running", lambda c: c["centres"][1].update(y_min=0.5), {"mixture"}),
    "y_min above the range": ("running", lambda c: c["centres"][0].update(y_min=20.0), {"mixture"}),
    "y_min beyond doubles": ("running", lambda c: c["centres"][0].update(y_min=-1e300), {"mixture"}),
    "y_min lowered": ("running", lambda c: c["centres"][0].update(y_min=-3.0), {"terms"}),
    "y_min raised": ("running", lambda c: c["centres"][0].update(y_min=3.0), {"terms"}),
    "a kl centre above zero": ("anchored", lambda c: c["centres"][-1].update(kind="kl", y_min=0.1), {"mixture"}),
    "a kl centre without an anchor": ("product", lambda c: c["centres"][-1].update(kind="kl", y_min=-1.0), {"mixture", "anchor"}),
    "a running mean of a sample": ("sampled", lambda c: c["centres"][-1].update(kind="running"), {"mixture"}),
    "a sample declared complete": ("sampled", lambda c: c["tokens"].update(evaluated=c["tokens"]["stream"]), {"statistics"}),
    "a window as long as the sample": ("sampled", lambda c: (c["tokens"].update(stream=32017, evaluated=32017, unique=32017),
        c.update(window=[0, 32017])),
                                       {"statistics"}),
    "tokens counted twice": ("product", lambda c: c["tokens"].update(stream=80_000, evaluated=80_000, unique=80_000), {"tokens",
        "statistics"}),
    "epochs counted": ("product", lambda c: (c["tokens"].update(stream=80_000), c.update(window=[0, 80_000])), {"tokens", "statistics"}),
    "unique understated": ("product", lambda c: c["tokens"].update(unique=20_000), {"tokens"}),
    "window moved": ("product", lambda c: c.update(window=[1000, 41_000]), {"statistics"}),
    "window outside the losses": ("trajectory", lambda c: c.update(window=[31_000, 41_000]), {"statistics"}),
    "window before the stream": ("trajectory", lambda c: c.update(window=[-10_000, 0]), {"tokens"}),
    "a trajectory chosen after looking": ("trajectory", lambda c: c.update(window=[20_000, 30_000]), {"terms"}),
    "model losses as a trajectory": ("heldout", lambda c: c.update(method="trajectory"), {"statistics"}),
    "the anchor called another kind": ("anchored", lambda c: c["anchor"].update(kind="checkpoint"), {"anchor"}),
    "the anchor another model": ("anchored", lambda c: c["anchor"].update(sha256="b" * 64), {"anchor"}),
    "an online anchor deployable": ("anchored-online", lambda c: c["anchor"].update(deployable=True), {"anchor"}),
    "an online anchor called a model": ("anchored-online", lambda c: c["anchor"].update(kind="model"), {"anchor"}),
    "no anchor at all": ("anchored", lambda c: c["anchor"].update(kind="none"), {"anchor"}),
    "an anchor without its method": ("product", lambda c: c["anchor"].update(kind="model"), {"anchor"}),
    "eps without an anchor": ("product", lambda c: c["smoothing"].update(eps=0.1), {"smoothing"}),
    "eps changed": ("anchored", lambda c: c["smoothing"].update(eps=0.1), {"anchor"}),
    "a base named": ("product", lambda c: c["base"].update(kind="model"), {"package"}),
    "another vocabulary": ("product", lambda c: c.update(vocab_size=128), {"statistics"}),
    "vocabulary of one": ("product", lambda c: c.update(vocab_size=1), {"smoothing"}),
    "parameters overstated": ("product", lambda c: c.update(params=c["params"] + 1), {"statistics", "package"}),
    "vacuous hidden": ("few", lambda c: c.update(vacuous=not c["vacuous"]), {"terms"}),
    "random_guess raised": ("product", lambda c: c.update(random_guess=9.0), {"terms"}),
    "bits per byte lowered": ("product", lambda c: c.update(bound_bits_per_byte=0.5), {"terms"}),
    "bits per byte dropped": ("product", lambda c: c.update(bound_bits_per_byte=None), {"terms"}),
    "terms that do not add up": ("product", lambda c: c["terms"].update(variance=0.0), {"terms"}),
    "a full-precision loss invented": ("product", lambda c: c["terms"].update(
        full_precision_loss=1.0, quantization=c["terms"]["quantization"] + c["terms"]["full_precision_loss"] - 1.0), {"terms"}),
    "sampling hidden in the variance": ("sampled", lambda c: c["terms"].update(
        subsampling=0.0, variance=c["terms"]["variance"] + c["terms"]["subsampling"]), {"terms"}),
    "the reference's bound invented": ("anchored", lambda c: c["anchor"].update(certified=1.0), {"terms"}),
    "complexity_per_token lowered": ("product", lambda c: c.update(complexity_per_token=0.0), {"terms"}),
    "another model's hash": ("product", lambda c: c["inputs"].update(model_sha256="c" * 64), {"package"}),
    "a stream named by hash only": ("product", lambda c: c["inputs"].update(stream={"path": "", "sha256": ""}), {"stream"}),
    "a hash without its file": ("product", lambda c: c["inputs"]["full"].update(path=""), {"hashes"}),
    "swapped stream": ("product", lambda c: c["inputs"]["stream"].update(path="../other.json"), {"hashes"}),
    "package of another model": ("product", lambda c: c["inputs"]["package"].update(path="../foreign.sbz"), {"hashes", "package"}),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_changed_certificate(copy, what):
    name, change, expected = CHANGES[what]
    path = copy.edit(name, change)
    assert expected <= failing(path)
    assert main([str(path)]) == 1


def stats_of(change=lambda arrays: arrays, file="stats", **fields):
    return lambda copy: copy.rewrite_stats(copy.folder / f"{file}.safetensors", change, **fields)


def times(name: str, factor: float):
    return lambda arrays: arrays | {name: arrays[name] * np.float32(factor)}


def swap(copy, a: str, b: str) -> None:
    os.replace(copy.folder / a, copy.folder / b)


def new_bin(copy) -> None:
    data = bytearray((copy.folder / "train.bin").read_bytes())
    data[10] ^= 1
    (copy.folder / "train.bin").write_bytes(data)


def rewrite_stream(copy, **fields) -> None:
    path = copy.folder / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# (certificate, what is done to its files, checks that fail as they lie, checks that fail when all hashes are stated anew)
FILES = {
    "losses lowered": ("product", stats_of(times("nll", 0.99)), {"hashes"}, {"terms"}),
    "losses raised": ("product", stats_of(times("nll", 1.5)), {"hashes"}, {"bound"}),
    "online losses as the model's": ("product", stats_of(kind="online"), {"hashes"}, {"statistics"}),
    "statistics of another model": ("product", stats_of(model={"name": "x", "sha256": "d" * 64, "params": 2712}), {"hashes"}, {"package"}),
    "a window outside the stream": ("product", stats_of(window=[2_000, 42_000]), {"hashes"}, {"statistics", "stream"}),
    "statistics of another stream": ("product", stats_of(stream={"path": "", "sha256": "e" * 64, "num_tokens": 41_000}), {"hashes"},
        {"stream"}),
    "a reference that is no fixed model": ("anchored", stats_of(anchor={
        "kind": "ngram", "deployable": True, "sha256": "a" * 64, "name": "", "predictable": "", "eps": 0.01, "alphas": [0.05, 0.1]}),
            {"hashes"}, {"anchor"}),
    "an anchor that was trained on the window": ("anchored", lambda copy: copy.rewrite_stats(copy.folder / "stats.safetensors", anchor={
        "kind": "model", "deployable": True, "sha256": "a" * 64, "name": "", "predictable": "", "eps": 0.01, "alphas": [0.05, 0.1], "trained": {
            "stream_sha256": hashlib.sha256((copy.folder / "train.json").read_bytes()).hexdigest(), "window": [39_000, 41_000],
            "source_sha256": "", "split": ""}}), {"hashes"}, {"anchor"}),
    "an anchor measured at another eps": ("anchored", stats_of(anchor={
        "kind": "model", "deployable": True, "sha256": "a" * 64, "name": "", "predictable": "", "eps": 0.5, "alphas": [0.05, 0.1]}),
            {"hashes"}, {"anchor"}),
    "full statistics of other tokens": ("product", stats_of(file="full", window=[1_000, 41_000]), {"hashes"}, {"statistics"}),
    "a reference of other tokens": ("anchored-online", stats_of(file="online", window=[1_000, 41_000]), {"hashes"}, {"statistics"}),
    "another model's package": ("product", lambda copy: swap(copy, "foreign.sbz", "model.sbz"), {"hashes", "package"}, {"package"}),
    "a swapped stream": ("product", lambda copy: (swap(copy, "other.json", "train.json"), swap(copy, "other.bin", "train.bin")),
        {"hashes"}, {"stream"}),
    "a token of the stream changed": ("product", new_bin, {"stream"}, {"stream"}),
    "a stream of a smaller vocabulary": ("product", lambda copy: rewrite_stream(copy, vocab_size=100), {"hashes", "stream"}, {"stream"}),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_changed_files(copy, what):
    name, change, as_they_lie, with_new_hashes = FILES[what]
    change(copy)
    assert as_they_lie <= failing(copy.path(name))
    assert with_new_hashes <= failing(copy.rehash(name))


def test_statistics_that_lie_in_another_folder_than_the_full_ones(copy):
    """They name the stream by another path, and by the same hash; another hash is another stream."""
    stream = Stats.load(copy.folder / "full.safetensors").info.stream
    copy.rewrite_stats(copy.folder / "full.safetensors", stream=msgspec.to_builtins(stream) | {"path": "elsewhere/train.json"})
    assert verify(copy.rehash("product"))["holds"]
    copy.rewrite_stats(copy.folder / "full.safetensors", stream=msgspec.to_builtins(stream) | {"sha256": "0" * 64})
    assert failing(copy.rehash("product")) == {"statistics"}


def test_reference_that_is_the_model_itself(copy):
    identity = json.loads(copy.path("anchored").read_text())["inputs"]["model_sha256"]
    anchor = {"kind": "model", "deployable": True, "sha256": identity, "name": "", "predictable": "", "eps": 0.01, "alphas": [0.05, 0.1]}
    copy.rewrite_stats(copy.folder / "stats.safetensors", anchor=anchor)
    copy.rehash("anchored")
    assert failing(copy.edit("anchored", lambda c: c["anchor"].update(sha256=identity))) == {"anchor"}


def test_tokens_counted_twice_in_the_statistics(copy):
    path = copy.folder / "sampled.safetensors"
    copy.rewrite_stats(path, lambda arrays: arrays | {"blocks": np.sort(np.append(arrays["blocks"][:-1], arrays["blocks"][3]))})
    with pytest.raises(Refused, match="a token counts once"):
        verify(copy.rehash("sampled"))


def test_the_shorter_last_block_left_out(copy):
    def drop(arrays: dict) -> dict:
        return {name: value[:-1] if name == "blocks" else value[..., :-17] for name, value in arrays.items()}

    copy.rewrite_stats(copy.folder / "sampled.safetensors", drop, tokens=32_000, text_bytes=32_000)
    copy.rehash("sampled")
    assert "statistics" in failing(copy.edit("sampled", lambda c: c["tokens"].update(evaluated=32_000)))
