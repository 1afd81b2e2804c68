"""Malformed files: refused with exit status 3 and one line, never a traceback, and nothing outside the named files is read."""

import json
import os
import struct

import numpy as np
import pytest

from scalebound_verify import Refused, verify
from scalebound_verify.__main__ import main
from scalebound_verify.strict import conform, parse


def refused(path, match: str) -> None:
    with pytest.raises(Refused, match=match) as caught:
        verify(path)
    assert caught.value.status == 3
    assert main([str(path), "--json"]) == 3


TEXTS = {
    "NaN": (lambda text: text.replace('"delta": 0.01', '"delta": NaN'), "contains NaN"),
    "infinity": (lambda text: text.replace('"delta": 0.01', '"delta": -Infinity'), "contains -Infinity"),
    "overflow": (lambda text: text.replace('"delta": 0.01', '"delta": 1e999'), "contains 1e999"),
    "duplicate key": (lambda text: text.replace('"delta": 0.01', '"delta": 0.01, "delta": 0.5'), "a key twice"),
    "a huge integer": (lambda text: text.replace('"horizon": ', '"horizon": 1' + "0" * 400), "contains 1000"),
    "cut short": (lambda text: text[: len(text) // 2], "not valid JSON"),
    "nothing": (lambda text: "", "not valid JSON"),
    "no object": (lambda text: "[]", "expected"),
    "deep": (lambda text: "[" * 200_000, "not valid JSON"),
    "another schema": (lambda text: text.replace("certificate/1", "certificate/2"), "schema is"),
    "unknown key": (lambda text: text.replace('"delta": 0.01', '"delta": 0.01, "extra": 1'), "unknown key 'extra'"),
    "unknown key deep down": (lambda text: text.replace('"alpha": ', '"beta": 1, "alpha": ', 1), "smoothing has the unknown key 'beta'"),
    "missing key": (lambda text: text.replace('"unit": "nats/token",', ""), "lacks 'unit'"),
    "a number as text": (lambda text: text.replace('"delta": 0.01', '"delta": "0.01"'), "delta is str"),
    "a truth value as a number": (lambda text: text.replace('"delta": 0.01', '"delta": true'), "delta is bool"),
    "the name of a type as a number": (lambda text: text.replace('"delta": 0.01', '"delta": "float"'), "delta is str 'float'"),
    "a fraction of a token": (lambda text: text.replace('"evaluated": 40000', '"evaluated": 40000.0'), "tokens.evaluated is float"),
    "another method": (lambda text: text.replace('"method": "product"', '"method": "hearsay"'), "method is str 'hearsay'"),
    "a lone surrogate": (lambda text: text.replace("nats/token", "\\ud800"), "unit is"),
}  # fmt: skip


@pytest.mark.parametrize("what", TEXTS)
def test_certificate_text(copy, what, capsys):
    change, match = TEXTS[what]
    path = copy.path("fixed")
    text = path.read_text()
    path.write_text(change(text))
    assert path.read_text() != text
    refused(path, match)
    assert set(json.loads(capsys.readouterr().out)) == {"error", "status"}


def test_not_text_at_all(copy):
    copy.path("fixed").write_bytes(b"\xff\xfe\x00")
    refused(copy.path("fixed"), "not valid JSON")


def name(copy, what: str, path: str):
    return copy.edit("fixed", lambda c: c["inputs"][what].update(path=path))


def test_paths_that_leave(copy, tmp_path):
    secret = tmp_path / "secret.safetensors"
    os.replace(copy.folder / "stats.safetensors", secret)
    refused(name(copy, "stats", str(secret)), "relative to the certificate")
    (copy.folder / "stats.safetensors").symlink_to(secret)
    refused(name(copy, "stats", "../stats.safetensors"), "symbolic link")
    (copy.folder / "door").symlink_to(tmp_path)
    refused(name(copy, "stats", "../door/secret.safetensors"), "symbolic link")
    refused(name(copy, "stats", ""), "names the file ''")
    refused(name(copy, "stats", "..\\secret.safetensors"), "names the file")
    refused(name(copy, "stats", "a\0b"), "names the file")
    refused(name(copy, "stats", "../absent"), "No such file")
    refused(name(copy, "stats", ".."), "not an ordinary file")
    os.mkfifo(copy.folder / "pipe")
    refused(name(copy, "stats", "../pipe"), "not an ordinary file")
    os.replace(secret, copy.folder / "moved.safetensors")
    assert verify(name(copy, "stats", "../moved.safetensors"))["holds"]  # a plain file elsewhere in the tree is fine


def test_links_above_the_common_folder_do_not_matter(copy, tmp_path):
    (tmp_path / "alias").symlink_to(copy.folder)
    assert verify(tmp_path / "alias" / "certificates" / "fixed.json")["holds"]


def test_stream_binary_behind_a_link(copy):
    os.replace(copy.folder / "train.bin", copy.folder / "elsewhere")
    (copy.folder / "train.bin").symlink_to(copy.folder / "elsewhere")
    refused(copy.path("fixed"), "symbolic link")


@pytest.mark.parametrize("file", ["stats.safetensors", "model.sbz", "train.bin", "train.json", "certificates/fixed.json"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated(copy, file, share):
    path = copy.folder / file
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(Refused):
        verify(copy.path("fixed"))
    if not file.startswith("certificates"):
        with pytest.raises(Refused):
            verify(copy.rehash("fixed"))


@pytest.mark.parametrize("value, match", [(np.nan, "nll = nan"), (np.inf, "nll = inf"), (-1.0, "nll = -1")])
def test_impossible_losses(copy, value, match):
    def spoil(arrays: dict) -> dict:
        arrays["nll"][1234] = value
        return arrays

    copy.rewrite_stats(copy.folder / "stats.safetensors", spoil)
    refused(copy.rehash("fixed"), f"token 1234 has {match}")


def test_impossible_entropy_and_centre(copy):
    copy.rewrite_stats(
        copy.folder / "stats.safetensors", lambda arrays: arrays | {"entropy": arrays["entropy"] + 5, "centre": arrays["centre"] + 1}
    )
    refused(copy.rehash("product"), "has entropy = ")
    refused(copy.rehash("anchored"), "has centre = ")


def header(path, change) -> None:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    content = json.loads(data[8 : 8 + length])
    text = change(content) or json.dumps(content)
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + data[8 + length :])


HEADERS = {
    "offsets beyond the file": lambda h: h["nll"]["data_offsets"].__setitem__(1, 10**12),
    "overlapping arrays": lambda h: h["nll"].update(data_offsets=h["entropy"]["data_offsets"]),
    "another shape": lambda h: h["nll"]["shape"].append(1),
    "negative shape": lambda h: h["nll"].update(shape=[-1, -h["nll"]["shape"][0]]),
    "another type": lambda h: h["nll"].update(dtype="I32"),
    "unknown array": lambda h: h.update(gold=h.pop("varentropy")),
    "no losses": lambda h: h.update(varentropy2=h.pop("nll")),
    "no metadata": lambda h: h.pop("__metadata__") and None,
    "metadata that is no JSON": lambda h: h["__metadata__"].update(scalebound="{"),
    "metadata with a key too many": lambda h: h["__metadata__"].update(scalebound=h["__metadata__"]["scalebound"].replace('"kind"',
        '"x": 1, "kind"', 1)),
    "metadata with a key twice": lambda h: h["__metadata__"].update(scalebound=h["__metadata__"]["scalebound"].replace('"kind"',
        '"tokens": 1, "kind"', 1)),
    "a window that does not hold its tokens": lambda h: h["__metadata__"].update(
        scalebound=h["__metadata__"]["scalebound"].replace("40000]", "30000]")),
    "a header key twice": lambda h: json.dumps(h).replace('"nll"', '"entropy"'),
}  # fmt: skip


@pytest.mark.parametrize("what", HEADERS)
def test_statistics_headers(copy, what):
    header(copy.folder / "stats.safetensors", HEADERS[what])
    with pytest.raises(Refused):
        verify(copy.rehash("fixed"))


def test_a_header_longer_than_its_file(copy):
    path = copy.folder / "stats.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])
    refused(copy.rehash("fixed"), "names a header")


def test_a_sample_that_claims_a_huge_window(copy):
    """No array of the window's length is made before the blocks are compared with it."""
    copy.rewrite_stats(copy.folder / "stats.safetensors", window=[0, 10**17])
    refused(copy.rehash("fixed"), "block ids")


def test_stream_with_unknown_or_missing_keys(copy):
    path = copy.folder / "train.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"extra": 1}))
    refused(copy.path("fixed"), "unknown key 'extra'")
    del info["bin_sha256"]
    path.write_text(json.dumps(info))
    refused(copy.path("fixed"), "lacks 'bin_sha256'")


def test_usage_is_status_two(copy, capsys):
    for arguments in ([], ["a", "b"], [str(copy.path("fixed")), "--replay", "-1"], [str(copy.path("fixed")), "--replay", "x"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    assert main([str(copy.path("heldout")), "--replay", "2"]) == 2  # no package to decode
    assert main([str(copy.folder / "absent.json")]) == 3
    assert capsys.readouterr().err.count("Traceback") == 0


def test_what_is_printed(copy, capsys):
    assert main([str(copy.path("fixed")), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {"holds", "bound", "checks"} <= set(record) and all(set(check) == {"name", "ok", "detail"} for check in record["checks"])
    assert main([str(copy.path("fixed"))]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(record["checks"]) + 1 and printed[-1].startswith("holds")
    assert main([str(copy.edit("fixed", lambda c: c.update(delta=0.5)))]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("does NOT hold")


def test_forms():
    assert conform({"a": [1, 2.5], "b": None}, {"a": ["float"], "b": "null | int"}, "x") == {"a": [1.0, 2.5], "b": None}
    assert parse(b'{"a": [1e-3, -2]}', "x") == {"a": [0.001, -2]}
    for value, form in (
        ({"a": 1}, {"a": "str"}),
        ([1], ["int", "int"]),
        (True, "int"),
        (None, "a | b"),
        ({"a": 1, "b": 2}, {"a": "int"}),
        ([], "x"),
    ):
        with pytest.raises(Refused):
            conform(value, form, "x")
