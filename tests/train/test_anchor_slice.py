"""``train --anchor-slice``: documents of its own, provenance recorded, an anchor that saw the tokens refused at every door."""

import json

import msgspec
import pytest

from scalebound.certify import certify
from scalebound.cli import main
from scalebound.cli.numbers import parse_share
from scalebound.core.errors import InputError, UsageError
from scalebound.core.stats import AnchorRef, Stats
from scalebound.data import Stream
from scalebound.measure import measure
from scalebound.measure.provenance import trained_on
from scalebound.train.anchor_slice import anchor_recipe


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slice")
    for k in range(60):
        (folder / f"text/{k}.py").parent.mkdir(exist_ok=True)
        (folder / f"text/{k}.py").write_text("".join(f"def f{j}_{k}(x):\n    return x * {j + k}\n" for j in range(60)))
    words = ["train", "--text", folder / "text", "--sizes", "15k", "--tokens-per-param", "2", "--context", "64", "--anchor-slice", "50%", "--workers", "1", "--out", folder / "run"]
    assert main(list(map(str, words))) == 0
    return folder


def test_slice_is_disjoint_and_recorded(ladder):
    out = ladder / "run"
    train, anchor = Stream(out / "streams" / "train"), Stream(out / "streams" / "anchor")
    texts = ["".join(map(chr, stream.tokens[:])).split("\xff") for stream in (train, anchor)]
    names = [{line.split("(")[0].split("_")[-1] for text in part for line in text.splitlines() if line.startswith("def ") and "(" in line} for part in texts]
    assert names[0] and names[1] and not names[0] & names[1]  # the number of the file is in every function's name
    anchored = json.loads((out / "anchor" / "run.json").read_text())
    largest = json.loads((out / "run.json").read_text())
    assert anchored["params"] < largest["params"] and anchored["tokens"] < 0.75 * largest["tokens"]
    stats = measure(out, train.path, ladder / "m.safetensors", anchor=out / "anchor")
    found = stats.info.anchor.trained
    assert found == trained_on(out / "anchor")[0] and (found.split, found.stream_sha256) == ("anchor", anchor.sha256)
    assert found == trained_on(next((out / "anchor" / "checkpoints").iterdir()))[0] and "disjoint by document" in stats.info.anchor.predictable
    assert certify(stats, method="anchored", code_bits=900).anchor.deployable


def test_an_anchor_that_saw_the_tokens(ladder, tmp_path):
    """Refused when measured; when its statistics say so, by `certify` and by the checker."""
    out = ladder / "run"
    train = Stream(out / "streams" / "train")
    with pytest.raises(InputError, match="saw what it is to predict"):
        measure(out / "anchor", train.path, tmp_path / "s", anchor=out)
    # the same documents as another stream: other tokens, same part of the text
    copy = json.loads(train.path.read_text()) | {"num_documents": 59}
    (tmp_path / "copy.json").write_text(json.dumps(copy))
    (tmp_path / "copy.bin").write_bytes(train.path.with_suffix(".bin").read_bytes())
    with pytest.raises(InputError, match="the same text"):
        measure(out / "anchor", tmp_path / "copy.json", tmp_path / "s", anchor=out)
    # statistics forged or made elsewhere: the provenance in them is looked at again
    honest = measure(out, train.path, tmp_path / "m.safetensors", anchor=out / "anchor")
    seen = msgspec.structs.replace(honest.info.anchor.trained, stream_sha256=train.sha256, window=(100, 200))
    info = msgspec.structs.replace(honest.info, anchor=msgspec.structs.replace(honest.info.anchor, trained=seen))
    arrays = {name: honest.read(name) for name in ("nll", "entropy", "varentropy", "reference_nll", "centre")}
    with pytest.raises(InputError, match="saw what it predicts"):
        certify(Stats(info, arrays), method="anchored", code_bits=900)
    before = msgspec.structs.replace(seen, window=(honest.info.window[1], honest.info.window[1] + 10))
    assert certify(Stats(msgspec.structs.replace(info, anchor=msgspec.structs.replace(info.anchor, trained=before)), arrays), method="anchored", code_bits=900)


def test_a_folder_that_says_nothing(ladder, tmp_path):
    import shutil

    shutil.copytree(next((ladder / "run/anchor/checkpoints").iterdir()), tmp_path / "plain" / "deep" / "model")
    assert trained_on(tmp_path / "plain/deep/model") is None
    stats = measure(ladder / "run", ladder / "run/streams/heldout.json", tmp_path / "s", anchor=tmp_path / "plain/deep/model")
    assert stats.info.anchor.trained is None and "as stated by whoever measured" in stats.info.anchor.predictable
    own = AnchorRef(kind="model", deployable=True, predictable="drawn at random")
    stats = measure(ladder / "run", ladder / "run/streams/heldout.json", tmp_path / "t", anchor=tmp_path / "plain/deep/model", anchor_is=own)
    assert stats.info.anchor.predictable == "drawn at random"


def test_refusals(ladder, capsys):
    out = ladder / "run"
    for words, status in (
        (["--sizes", "15k", "--anchor-slice", "0"], 2),
        (["--sizes", "15k", "--anchor-slice", "200%"], 2),
        (["--sizes", "15k", "--anchor-slice", "1%"], 2),
        (["--sizes", "15k", "--tokens-per-param", "2", "--context", "64", "--anchor-slice", "90%"], 3),  # the documents are trained on already
        (["--from", str(out), "--anchor-slice", "5%"], 2),
    ):
        assert main(["train", "--text", str(ladder / "text"), *words, "--out", str(out), "--json"]) == status, words
        assert json.loads(capsys.readouterr().out)["error"]["what"]
    assert parse_share("5%", "x") == parse_share("0.05", "x") == 0.05
    with pytest.raises(UsageError, match="smallest model|fewer than any shape"):
        anchor_recipe(0.01, 100_000, tokens_per_param=20, vocab_size=256, context=64, seed=0)
