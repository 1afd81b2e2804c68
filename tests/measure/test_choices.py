"""Multiple choice against a loop that reads every choice anew, and against what lm-evaluation-harness documents."""

import csv
import json

import numpy as np
import pytest
import torch

from scalebound.cli.main import main
from scalebound.core.errors import InputError, UsageError
from scalebound.data.tokenizer import ByteTokenizer, load_tokenizer
from scalebound.measure import Item, answer_items, read_items, score_items
from scalebound.measure.choices import encode_pair
from scalebound.models import Transformer, load_model, save_folder, shape_for

ITEMS = [
    {"name": "a", "context": "Once there was a fox. The fox was ", "choices": ["red", "reddish", "a cat"], "gold": 0},
    {"context": "Once there was a fox. The cat was", "choices": [" asleep", " awake"], "gold": 1},
    {"context": "", "choices": ["Yes", "No", "N"], "gold": 2},
    {"context": "Once there was a fox. A, B or C?", "choices": [" A", " B", " C"], "gold": 1},
    {"context": "x" * 90, "choices": ["yz", "zy"], "gold": 0},  # longer than the model reads
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choices") / "model"
    shape = shape_for(15_000)
    made = Transformer(shape, 64, torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.embedding *= 3.0
    save_folder(folder, shape.config(64), made.tensors())
    return load_model(folder)


@pytest.fixture
def items(tmp_path):
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in ITEMS))
    return tmp_path / "items.jsonl"


def harness(model, tokenizer, context, choice):
    """lm-evaluation-harness 0.4.13: ``_encode_pair``, ``loglikelihood`` for an empty context, the cut from the left, a float32 log_softmax."""
    if context == "":
        before, after = [model.first_token], tokenizer.encode(choice.encode()).tolist()
    else:
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, choice = context[:-spaces], context[-spaces:] + choice
        whole, before = tokenizer.encode((context + choice).encode()).tolist(), tokenizer.encode(context.encode()).tolist()
        after = whole[len(before) :]
    read = (before + after)[-(model.max_context + 1) :][:-1]
    log_p = torch.log_softmax(model.logits(torch.tensor([read]))[0].float(), -1)[-len(after) :].double()
    return float(log_p[torch.arange(len(after)), torch.tensor(after)].sum())


@pytest.mark.parametrize("share", [True, False])
def test_scores_are_those_of_the_harness(model, items, share):
    scores = score_items(model, read_items(items), share=share)
    right = [[harness(model, ByteTokenizer(), row["context"], choice) for choice in row["choices"]] for row in ITEMS]
    for score, expected in zip(scores, right, strict=True):
        np.testing.assert_allclose(score.log_probabilities, expected, atol=2e-5 * len(max(score.item.choices)) + 2e-5)
        per_byte = np.array(expected) / [len(choice.strip()) for choice in score.item.choices]
        assert (score.chosen, score.chosen_per_byte) == (int(np.argmax(expected)), int(np.argmax(per_byte)))
        assert abs(score.nll + np.log(np.exp(expected)[score.item.gold] / np.exp(expected).sum())) < 1e-4
    assert any(score.chosen != score.chosen_per_byte for score in scores), "the two rules must be told apart"


def test_what_is_shared_is_read_once(model, items):
    """Tokens that pass through the model: far fewer with sharing; letters behind one context are one row."""
    read = {}
    for share in (True, False):
        sizes = []
        counted = load_model(model.name)
        hidden, extend = counted.hidden, counted.extend
        counted.hidden = lambda tokens, sizes=sizes, hidden=hidden: sizes.append(tokens.numel()) or hidden(tokens)
        counted.extend = lambda tokens, past, sizes=sizes, extend=extend: sizes.append(tokens.numel()) or extend(tokens, past)
        score_items(counted, read_items(items)[:4], share=share)
        read[share] = sum(sizes)
    texts = [[row["context"].rstrip() + choice for choice in row["choices"]] for row in ITEMS]
    assert read[False] >= sum(len(text) for texts_of in (texts[0], texts[1]) for text in texts_of)
    assert read[True] < 0.5 * read[False]


def test_tokens_at_the_seam(tmp_path):
    """A tokenizer that joins letters across the seam: the choice gets what stands behind the encoded context; and a text's opening token."""
    words = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None, "decoder": None,
             "added_tokens": [{"id": 5, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}],
             "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                                "special_tokens": {"</s>": {"id": "</s>", "ids": [5], "tokens": ["</s>"]}}},
             "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                       "byte_fallback": False, "vocab": {"a": 0, "b": 1, " ": 2, " b": 3, "ab": 4}, "merges": [[" ", "b"], ["a", "b"]]}}  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(words))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.opening() == [5]
    assert encode_pair(tokenizer, "a ", "b", 9) == ([5, 0], [3])  # the space goes over to the choice
    assert encode_pair(tokenizer, "</s>a", " b", 9) == ([5, 0], [3])  # no second opening
    assert encode_pair(tokenizer, "aa", "ba", 9) == ([5, 0, 0], [0])  # together a, ab, a: the harness counts tokens, and so do we
    assert encode_pair(tokenizer, "", "ab", 9) == ([9], [4])
    assert encode_pair(tokenizer, " ", "b", 9) == ([9], [3])


def test_samples_of_the_harness_and_a_table_for_compare(model, items, tmp_path, capsys):
    rows = []
    for number, row in enumerate(ITEMS):
        arguments = [[row["context"], choice] for choice in row["choices"]]
        newer = {f"gen_args_{k}": {"arg_0": pair[0], "arg_1": pair[1]} for k, pair in enumerate(arguments)}
        target = row["gold"] if number % 2 else row["choices"][row["gold"]].strip()
        rows.append({"doc_id": number, "target": target, "arguments": newer if number else arguments, "filtered_resps": []})
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one, scores = answer_items(model, items, tmp_path / "a.csv")
    two, _ = answer_items(model, tmp_path / "samples.jsonl", tmp_path / "b.csv")
    assert (one.correct, one.correct_per_byte, one.mean_nll) == (two.correct, two.correct_per_byte, two.mean_nll)
    table = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [float(row["nll"]) for row in table] == [score.nll for score in scores] and table[0]["item"] == "a"
    assert main(["compare", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] == 0.0


def test_command_gives_accuracy_with_its_exact_interval(model, items, tmp_path, capsys):
    from scipy.stats import beta

    assert main(["measure", model.name, "--tasks", str(items), "--out", str(tmp_path / "a.csv"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    k, n, found = record["accuracy"]["correct"], record["items"], record["accuracy"]
    assert n == 5 and found["value"] == k / n
    low, high = (beta.ppf(0.025, k, n - k + 1) if k else 0.0), (beta.ppf(0.975, k + 1, n - k) if k < n else 1.0)
    assert abs(found["low"] - low) < 1e-8 and abs(found["high"] - high) < 1e-8
    for wrong in ([], ["--tasks", str(items), str(items)], ["--tasks", str(items), "--context", "32"]):
        assert main(["measure", model.name, *wrong, "--out", str(tmp_path / "b.csv"), "--json"]) == 2
    capsys.readouterr()
    assert not (tmp_path / "b.csv").exists()


@pytest.mark.parametrize("line, what", [
    ("{}", "is no item"), ("[]", "is no object"), ("x", "not valid JSON"), ('{"context": "a", "choices": ["b"], "gold": 0}', "1 choices"), ('{"context": "a", "choices": ["b", " "], "gold": 0}', "empty choice"),
    ('{"context": "a", "choices": ["b", "c"], "gold": 2}', "choice 2 is right"), ('{"context": "a", "choices": ["b", "c"], "gold": true}', "True is right"), ('{"context": "a", "choices": ["b", "c"]}', "None is right"),
    ('{"arguments": [["a"]], "target": 0}', "no pairs"), ('{"arguments": [["a", "b"], ["a", "c"]], "target": "d"}', "None is right"), ("", "holds no item"),
])  # fmt: skip
def test_bad_items_are_refused_with_their_line(tmp_path, line, what):
    (tmp_path / "i.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=what) as error:
        read_items(tmp_path / "i.jsonl")
    assert not line or "line 1" in str(error.value)


def test_choices_that_cannot_be_scored(model, items, tmp_path):
    with pytest.raises(UsageError, match="no table"):
        answer_items(model, items, tmp_path / "a.txt")
    long = Item("long", ("a", "a"), ("b" * 100, "c"), 0)
    with pytest.raises(InputError, match="100 tokens"):
        score_items(model, [long])
    broken = load_model(model.name)
    broken.head_part = lambda hidden, start, stop: torch.full((*hidden.shape[:-1], stop - start), float("nan"))
    with pytest.raises(InputError, match="log-probability nan"):
        score_items(broken, [Item("x", ("a", "a"), ("b", "c"), 0)])


def test_the_shipped_items_can_be_read():
    from pathlib import Path

    items = read_items(Path(__file__).parents[2] / "examples" / "data" / "docstrings" / "items.jsonl")
    assert len(items) > 100 and all(len(item.choices) == 4 for item in items)
    counts = np.bincount([item.gold for item in items], minlength=4)
    assert counts.min() > len(items) / 8  # no place is favoured


def test_a_model_without_its_tokenizer_is_refused_and_not_read_as_bytes(tmp_path, items, capsys):
    shape = shape_for(20_000, vocab_size=320)
    save_folder(tmp_path / "model", shape.config(64), Transformer(shape, 64).tensors(), byte_tokenizer=False)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": f"item {k}"}) + "\n" for k in range(20)))
    texts, model = str(tmp_path / "texts.jsonl"), str(tmp_path / "model")
    for command in (["measure", model, "--tasks", str(items), "--out", str(tmp_path / "a.csv")], ["detect", texts, "--model", model], ["contamination", texts, "--model", model]):
        assert main(command) == 3 and "comes without a tokenizer" in capsys.readouterr().err, command
    assert not (tmp_path / "a.csv").exists()
    assert score_items(load_model(tmp_path / "model"), read_items(items), tokenizer=ByteTokenizer())  # control: who names one is taken at his word
