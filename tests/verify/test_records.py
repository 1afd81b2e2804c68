"""Saved intervals, comparisons and tables of prompts: true ones hold, each forged field, hash and file is refused."""

import json
import math
import shutil

import numpy as np
import pytest

from scalebound.cli.main import main as scalebound
from scalebound_verify import Refused, verify
from scalebound_verify.__main__ import main

RNG = np.random.default_rng(11)
NAMES = ("tokens", "sigma", "bare", "errors", "items", "documents", "compare", "equal", "compare-items", "compare-documents", "prompts")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, world, tiny):
    """A folder with a record of every kind, each made by its command."""
    folder = tmp_path_factory.mktemp("records")
    for name in ("stats.safetensors", "full.safetensors"):
        shutil.copy(world / name, folder / name)
    n = 3_000
    losses = RNG.gamma(2.0, 1.0, n)
    np.save(folder / "a.npy", losses.astype("f4"))
    np.save(folder / "b.npy", (losses * 1.02).astype("f4"))
    np.save(folder / "copy.npy", losses.astype("f4"))
    rows = [f"q{k // 3},{int(x)}" for k, x in enumerate(RNG.random(600) < 0.2)]
    (folder / "errors.csv").write_text("question,nll\n" + "\n".join(rows))
    other = [f"q{k // 3},{int(x)}" for k, x in enumerate(RNG.random(600) < 0.3)]
    (folder / "others.csv").write_text("question,nll\n" + "\n".join(other))
    # statistics on a stream in the order of its text, so that documents are in one piece
    documents = sorted({0, *RNG.integers(1, 40_000, 400).tolist()})
    tokens = RNG.integers(0, 200, 40_000)
    ref = tiny.write_stream(folder / "text.json", tokens)
    text = json.loads((folder / "text.json").read_text()) | {"seed": None, "documents": documents, "num_documents": len(documents)}
    (folder / "text.json").write_text(json.dumps(text))
    import hashlib

    named = {"path": "text.json", "sha256": hashlib.sha256((folder / "text.json").read_bytes()).hexdigest(), "num_tokens": ref.num_tokens}
    for name in ("stats", "full"):
        shutil.copy(world / f"{name}.safetensors", folder / f"{name}-text.safetensors")
        tiny.rewrite_stats(folder / f"{name}-text.safetensors", stream=named)
    table = {"prompts": ["say {text}", "is it {text}?", "a long odd one"], "code_bits": [4.0, 9.0, 30.0],
             "errors": [(RNG.random(200) < p).astype(int).tolist() for p in (0.4, 0.2, 0.15)]}  # fmt: skip
    (folder / "table.json").write_text(json.dumps(table))
    commands = {
        "tokens": ["interval", "stats.safetensors"],
        "sigma": ["interval", "full.safetensors", "--sigma", "2", "--horizon", "10000", "--level", "0.9", "--alpha", "0.001"],
        "bare": ["interval", "a.npy", "--vocab-size", "256"],
        "errors": ["interval", "errors.csv", "--maximum", "1"],
        "items": ["interval", "errors.csv", "--maximum", "1", "--group", "question"],
        "documents": ["interval", "stats-text.safetensors", "--unit", "documents", "--stream", "text.json"],
        "compare": ["compare", "full.safetensors", "stats.safetensors"],
        "equal": ["compare", "a.npy", "copy.npy", "--epsilon", "0.1", "--sigma", "0.1"],
        "compare-items": ["compare", "errors.csv", "others.csv", "--group", "question"],
        "compare-documents": ["compare", "full-text.safetensors", "stats-text.safetensors", "--unit", "documents", "--stream", "text.json"],
        "prompts": ["certify-prompt", "table.json"],
    }
    for name, words in commands.items():
        words = [str(folder / word) if "." in word and word[0].isalpha() else word for word in words]
        flag = "--certificate" if name == "prompts" else "--out"
        assert scalebound([*words, flag, str(folder / f"{name}.json")]) == 0
    return folder


@pytest.fixture
def forge(saved, tmp_path):
    folder = tmp_path / "forged"
    shutil.copytree(saved, folder)

    def change(name, edit):
        path = folder / f"{name}.json"
        record = json.loads(path.read_text())
        edit(record)
        path.write_text(json.dumps(record))
        return path

    change.folder = folder
    return change


@pytest.mark.parametrize("name", NAMES)
def test_true_records_hold(saved, name, capsys):
    record = verify(saved / f"{name}.json")
    assert record["holds"], record["checks"]
    stated = json.loads((saved / f"{name}.json").read_text())
    upper = stated["bound"] if name == "prompts" else stated["high"]
    assert upper - 1e-9 * abs(upper) <= record["bound"] <= upper + 1e-12 * abs(upper)
    assert scalebound(["verify", str(saved / f"{name}.json")]) == 0
    assert "holds: with probability" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in NAMES if name != "prompts"])
@pytest.mark.parametrize(("end", "by"), [("high", -1e-9), ("low", 1e-9)])
def test_an_end_moved_inwards_by_one_in_a_billion(forge, name, end, by):
    path = forge(name, lambda r: r.update({end: r[end] + by * (abs(r[end]) or 1)}))  # a low of 0 claims nothing; anything above it would
    found = verify(path)
    assert not found["holds"] and [c["name"] for c in found["checks"] if not c["ok"]] == ["bound"]
    assert main([str(path)]) == 1


# fields that people read and no program: everything else of a record is checked
WORDS = {"unit", "target", "version", "schema", "inputs", "prompts"}


@pytest.mark.parametrize("name", ["sigma", "items", "equal", "compare", "prompts"])
def test_every_field(forge, name):
    """Each field altered on its own, in the direction that claims more: the record no longer holds, or is refused."""
    record = json.loads((forge.folder / f"{name}.json").read_text())
    claims_more = {"low": 1.0, "high": -1.0, "bound": -1.0, "heldout_bound": -1.0, "level": 1.0, "delta": -1.0, "log_e_value": 1.0}
    for key in sorted(record.keys() - WORDS):
        old = record[key]
        if isinstance(old, str):
            new = {"tokens": "question", "question": "tokens"}.get(old, "better_b" if old != "better_b" else "undecided")
        elif isinstance(old, float) or key in ("horizon",):
            step = 1e-3 * max(abs(old), 1e-3) * claims_more.get(key, 1.0)
            new = type(old)(old + step) if isinstance(old, float) else old * 2
        elif old is None:
            new = 0.7
        else:
            new = old + 1
        if key == "alpha" and name == "items":
            new = 0.5
        path = forge(name, lambda r, key=key, new=new: r.update({key: new}))
        try:
            held = verify(path)["holds"]
        except Refused:
            held = False
        # another horizon, sigma, alpha or maximum is another theorem; when its ends lie inside the stated ones, these are true all the same
        if held:
            assert key in ("sigma", "horizon", "epsilon", "alpha", "maximum"), (key, old, new)
        forge(name, lambda r, key=key, old=old: r.update({key: old}))


@pytest.mark.parametrize(("key", "new"), [("prompt", "another"), ("mean", 0.1), ("code_bits", 1.0), ("bound", 0.2), ("uniform_bound", 0.2)])
def test_fields_of_a_prompt(forge, key, new):
    assert not verify(forge("prompts", lambda r: r["prompts"][1].update({key: new})))["holds"]


@pytest.mark.parametrize("name", NAMES)
def test_wrong_hash_and_other_file(forge, name):
    inputs = json.loads((forge.folder / f"{name}.json").read_text())["inputs"]
    for key, ref in inputs.items():
        if not ref["path"]:
            continue
        path = forge(name, lambda r, key=key: r["inputs"][key].update(sha256="0" * 64))
        if key == "stream":  # without its documents there are no units
            with pytest.raises(Refused, match="no units"):
                verify(path)
        else:
            assert "hashes" in [c["name"] for c in verify(path)["checks"] if not c["ok"]]
        forge(name, lambda r, key=key, ref=ref: r["inputs"].update({key: ref}))
    assert verify(forge.folder / f"{name}.json")["holds"]


def test_losses_changed_and_hash_stated_anew(forge):
    import hashlib

    np.save(forge.folder / "a.npy", np.load(forge.folder / "a.npy") * np.float32(1.5))
    path = forge("bare", lambda r: r["inputs"]["stats"].update(sha256=hashlib.sha256((forge.folder / "a.npy").read_bytes()).hexdigest()))
    assert {c["name"] for c in verify(path)["checks"] if not c["ok"]} == {"numbers", "bound"}


def test_pair_of_different_tokens(forge):
    import hashlib

    np.save(forge.folder / "copy.npy", np.load(forge.folder / "copy.npy")[:-1])
    path = forge("equal", lambda r: r["inputs"]["b"].update(sha256=hashlib.sha256((forge.folder / "copy.npy").read_bytes()).hexdigest()))
    with pytest.raises((Refused, ValueError)):
        verify(path)


def test_prompts_that_belong_to_no_prefix_code(forge):
    import hashlib

    table = json.loads((forge.folder / "table.json").read_text())
    table["code_bits"] = [0.5, 0.5, 0.5]
    (forge.folder / "table.json").write_text(json.dumps(table))
    sha = hashlib.sha256((forge.folder / "table.json").read_bytes()).hexdigest()
    path = forge("prompts", lambda r: r["inputs"]["table"].update(sha256=sha))
    assert "code" in {c["name"] for c in verify(path)["checks"] if not c["ok"]}
    assert scalebound(["certify-prompt", str(forge.folder / "table.json")]) == 3


def test_replay_is_for_certificates(saved):
    assert main([str(saved / "bare.json"), "--replay", "2"]) == 2


def test_bound_of_the_binomial_tail():
    """Against the tail summed in plain floating point."""
    from scalebound_verify.records import most_errors

    for k, n, bits, delta in ((0, 10, 0.0, 0.05), (3, 20, 5.0, 0.1), (199, 200, 0.0, 0.05), (7, 7, 0.0, 0.05)):
        p = most_errors(k, n, bits, delta)
        tail = math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
        assert p == 1.0 if k == n else tail == pytest.approx(delta * 2**-bits, rel=1e-9)
