"""A model is moved where its stream says nothing (planted) and not where the stream decides (null); losses are those of the models."""

import json

import numpy as np
import pytest
import torch

from scalebound.cli.main import main
from scalebound.core.errors import MachineError, UsageError
from scalebound.core.probe import load_probe
from scalebound.models import Transformer, load_model, save_folder, shape_for
from scalebound.probe import Item, logits_of, probe_room
from scalebound.probe.grammar import anbn
from scalebound.probe.room import preferences, token_losses
from scalebound.probe.room_case import grammar_blocks, grammar_items, standard_case


@pytest.fixture(scope="module")
def case():
    return standard_case(0, grammar=anbn(3), steps=100, blocks=200, length=24)


def test_the_planted_room_is_found_and_the_null_is_not(case):
    # items said several times: their number sets the width of the intervals, not what is found
    items = {name: [item for item in group for _ in range(8)][:80] for name, group in case.items.items()}
    room = probe_room(case.config, case.weights, case.blocks, items, first=0, epsilon=0.08, steps=60, lr=6e-3, batch=8)
    assert room.found("off the support") and not room.found("on the support"), room.rows
    of = {(row.items, row.model): row for row in room.rows}
    assert of["off the support", "up"].prefers_a - of["off the support", "down"].prefers_a > 0.5
    assert of["on the support", "down"].prefers_a > 0.8
    held = case.blocks[140:]  # the last three tenths
    for (name, model), weights in room.models.items():
        gap = float((token_losses(case.config, weights, held, 0) - token_losses(case.config, case.weights, held, 0)).mean())
        row = of[name, model]
        assert abs(row.loss - float(token_losses(case.config, weights, held, 0).mean())) < 1e-5
        assert -0.08 <= row.low <= row.difference <= row.high <= 0.08 and abs(gap - row.difference) < 0.01  # mixed by 0.01


def test_preferences_and_losses_are_sums_of_log_probabilities(case):
    items = [Item((1, 2), (1,), (2, 2, 0)), Item((), (2, 1), (1,)), Item((2,), (1, 1), (0,))]

    def slow(prompt, end):
        text = [0, *prompt, *end]
        log_p = logits_of(case.config, case.weights, torch.tensor([text[:-1]])).log_softmax(-1)[0]
        return sum(float(log_p[k - 1, text[k]]) for k in range(1 + len(prompt), len(text)))

    found = preferences(case.config, case.weights, items, 0)
    assert torch.allclose(found, torch.tensor([slow(i.prompt, i.a) - slow(i.prompt, i.b) for i in items]), atol=1e-5)
    block = case.blocks[:1, :6]
    assert np.allclose(float(token_losses(case.config, case.weights, block, 0).sum()), -slow((), block[0].tolist()), atol=1e-5)


def test_blocks_and_items_are_the_grammar():
    grammar = anbn(3)
    blocks = grammar_blocks(grammar, np.random.default_rng(0), 4, 20)
    text = "".join(".ab"[k] for k in blocks[0].tolist())
    assert all(word in grammar.support for word in text.split(".")[:-1] if word)
    for name, group in grammar_items(grammar).items():
        for item in group:
            prompt, a, b = ("".join(".ab"[k] for k in part).rstrip(".") for part in (item.prompt, item.a, item.b))
            if name == "off the support":
                assert prompt not in grammar.prefixes and grammar.kept(prompt + a) and not grammar.kept(prompt + b)
            else:
                assert set(grammar.prefixes[prompt]) == {a} and b != a


def test_a_model_of_ones_own(tmp_path, capsys):
    shape = shape_for(16_000)
    save_folder(tmp_path / "model", shape.config(64), Transformer(shape, 64, torch.Generator().manual_seed(0)).tensors())
    (tmp_path / "text.txt").write_text("some words, and more of them. " * 40)
    (tmp_path / "items.jsonl").write_text("".join(json.dumps({"prompt": f"{k} is", "a": " even", "b": " odd"}) + "\n" for k in range(8)))
    call = ["probe", "room", str(tmp_path / "model"), "--items", str(tmp_path / "items.jsonl"), "--text", str(tmp_path / "text.txt"), "--steps", "2", "--context", "32"]
    assert main([*call, "--out", str(tmp_path / "r.json"), "--save", str(tmp_path / "saved"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in printed["rows"]] == ["checkpoint", "up", "down"] and len(load_probe(tmp_path / "r.json").figures) == 2
    assert load_model(tmp_path / "saved" / "items-up").vocab_size == 256
    assert main(["probe", "room", str(tmp_path / "model")]) == 2
    assert main([*call[:-1], "1000"]) == 3 and main([*call[:-1], "60", "--max-tokens", "300"]) == 3
    (tmp_path / "items.jsonl").write_text('{"prompt": "x", "a": "y"}\n')
    assert main(call) == 3 and "line 1" in capsys.readouterr().err
    (tmp_path / "items.jsonl").write_text('{"prompt": "x", "a": "y", "b": "y"}\n')
    assert main(call) == 3


def test_bad_arguments(case):
    with pytest.raises(UsageError, match="positive"):
        probe_room(case.config, case.weights, case.blocks, case.items, first=0, epsilon=0.0)
    with pytest.raises(UsageError, match="blocks"):
        probe_room(case.config, case.weights, case.blocks[:5], case.items, first=0)
    broken = {name: tensor * float("nan") for name, tensor in case.weights.items()}
    with pytest.raises(MachineError, match="not finite"):
        probe_room(case.config, broken, case.blocks, case.items, first=0, steps=1)
