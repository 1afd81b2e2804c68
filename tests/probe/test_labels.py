"""Label mapping: a model that reads the prompt is found, one that answers what it knew is told apart, one that knows nothing is at chance."""

import json

import numpy as np
import pytest
import torch

from scalebound.cli.main import main
from scalebound.core.errors import UsageError
from scalebound.core.probe import load_probe
from scalebound.data.tokenizer import ByteTokenizer
from scalebound.models import Transformer, save_folder, shape_for
from scalebound.models.language_model import LanguageModel
from scalebound.probe.labels import MAPPINGS, WORDS, label_prompt, likeliest_label, probe_labels, verdict_of

KIND = {word: label for label, words in WORDS.items() for word in words}


def answering(answer):
    """A byte model that is nearly certain of ``answer(prompt)`` after the last colon."""

    def hidden(tokens_BT):
        text = bytes(tokens_BT[0, 1:].tolist()).decode()
        place = text.rindex(":") + 1  # the position that predicts what follows the colon
        target = f" {answer(text[:place])}".encode().ljust(99)
        out = torch.zeros(1, tokens_BT.shape[1], 256)
        for k in range(place, tokens_BT.shape[1]):
            out[0, k, target[k - place]] = 9.0
        return out

    return LanguageModel("test", "", 0, 256, 4096, 255, hidden, lambda x: x)


def reader(prompt):
    """What the examples say of the last word's category; the real label when they say nothing."""
    *lines, last = prompt.splitlines()
    said = {KIND[line.split(":")[0]]: line.split(": ")[1] for line in lines}
    return said.get(KIND[last[:-1]], KIND[last[:-1]])


def test_prompts_hold_their_mapping():
    rng = np.random.default_rng(0)
    for _ in range(30):
        text, label = label_prompt(rng, 8, "real")
        lines = text.splitlines()
        words = [line.split(":")[0] for line in lines]
        assert len(set(words)) == 9 and all(line == f"{word}: {KIND[word]}" for line, word in zip(lines[:-1], words[:-1], strict=True)) and label == KIND[words[-1]]
        text, label = label_prompt(rng, 8, "permuted")
        said = {KIND[line.split(":")[0]]: line.split(": ")[1] for line in text.splitlines()[:-1]}
        assert len(set(said.values())) == 4 and all(kind != label for kind, label in said.items()) and label == reader(text)
    drawn = [label_prompt(rng, 8, "random")[1] for _ in range(200)]
    assert len(set(drawn)) == 4


def test_who_reads_is_found_and_who_does_not_is_told_apart():
    rows = {kind: probe_labels(answering(who), examples=(0, 8), prompts=60) for kind, who in (("reads", reader), ("knows", lambda p: KIND[p.splitlines()[-1][:-1]]))}
    of = {kind: {(r.mapping, r.examples): r for r in found} for kind, found in rows.items()}
    assert verdict_of(rows["reads"]) == "learns_in_context" and of["reads"]["permuted", 8].accuracy == 1 and of["reads"]["permuted", 0].accuracy == 0
    assert verdict_of(rows["knows"]) == "keeps_its_own_labels" and of["knows"]["real", 0].accuracy == 1
    for found in of.values():  # the null: random labels cannot be learned
        assert found["random", 8].low < 0.25 < found["random", 8].high
    constant = probe_labels(answering(lambda prompt: "fruit"), examples=(8,), prompts=60)
    assert verdict_of(constant) == "undecided" and all(row.low < 0.25 < row.high for row in constant)


def test_labels_that_begin_alike_are_scored_whole(monkeypatch):
    import scalebound.probe.labels as labels

    monkeypatch.setattr(labels, "WORDS", {"red": ("a",), "rod": ("b",), "blue": ("c",)})
    words = ByteTokenizer()
    for wanted in ("red", "rod", "blue"):
        assert likeliest_label(answering(lambda prompt, wanted=wanted: wanted), words, "x:") == wanted


def test_the_command_writes_its_record(tmp_path, capsys):
    shape = shape_for(16_000)
    save_folder(tmp_path / "model", shape.config(64), Transformer(shape, 64, torch.Generator().manual_seed(0)).tensors())
    call = ["probe", "icl", str(tmp_path / "model"), "--prompts", "3", "--examples", "0,2"]
    assert main([*call, "--out", str(tmp_path / "r.json"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["name"] == "icl" and len(printed["rows"]) == 6 and load_probe(tmp_path / "r.json").figures[0].kind == "curves"
    assert main(["probe", "icl", "--steps", "0", "--prompts", "20", "--examples", "0,4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] in ("same_loss_different_in_context", "no_pair_found")
    assert main([*call, "--concepts", "3"]) == 2 and main(["probe", "icl", "--examples", "many"]) == 2 and main(["probe", "icl", "--concepts", "0"]) == 2
    assert main(["probe", "icl", str(tmp_path / "model"), "--examples", "30"]) == 3  # longer than its context


def test_bad_arguments():
    with pytest.raises(UsageError, match="mapping"):
        label_prompt(np.random.default_rng(0), 2, "upside down")
    with pytest.raises(UsageError, match="examples"):
        label_prompt(np.random.default_rng(0), 48, "real")
    with pytest.raises(UsageError, match="no prompts"):
        probe_labels(answering(reader), prompts=0)
    assert MAPPINGS == ("real", "permuted", "random")
