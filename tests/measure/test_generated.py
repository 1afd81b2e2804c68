"""Text under a stated sampler: the numbers against their definitions, samples that pass their own test and fail another's, the commands."""

import json

import numpy as np
import pytest
import torch

from scalebound.certify import detect, detect_documents
from scalebound.cli import main
from scalebound.core.errors import InputError, UsageError
from scalebound.measure.generated import read_documents, sample_documents, sampler, score_documents
from scalebound.measure.orders import order_likelihoods
from scalebound.models import Transformer, load_model, save_folder, shape_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    for name, seed in (("a", 0), ("b", 1)):
        shape = shape_for(15_000)
        model = Transformer(shape, 64, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            model.embedding *= 3.0
        save_folder(folder / name, shape.config(64), model.tensors())
    return folder


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8), (1.0, 0.3)])
def test_sampler_is_its_definition(temperature, top_p):
    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)) * 2
    log_p, clear = sampler(logits, temperature, top_p)
    for row, found in zip(logits.double(), log_p.double(), strict=True):
        p = torch.softmax(row / temperature, 0)
        order = torch.argsort(p, descending=True)
        kept, total = [], 0.0
        for token in order.tolist():
            kept.append(token)
            total += float(p[token])
            if total >= top_p:
                break
        right = torch.zeros(30, dtype=torch.float64)
        right[kept] = p[kept] / p[kept].sum()
        assert torch.allclose(found.exp(), right, atol=1e-6)
    assert clear.sum() >= 38


def test_numbers_and_samples(folder):
    a, b = load_model(folder / "a"), load_model(folder / "b")
    for settings in ({}, {"temperature": 0.8, "top_p": 0.9}):
        texts = sample_documents(a, 30, 64, seed=1, **settings)
        scored = score_documents(a, list(texts), **settings)
        one, tokens = scored[0], torch.from_numpy(texts[0])
        log_p, _ = sampler(a.logits(torch.cat([torch.tensor([255]), tokens[:-1]])[None])[0], settings.get("temperature", 1.0), settings.get("top_p", 1.0))
        p = log_p.double().exp()
        x = torch.where(p > 0, -log_p.double(), 0.0)
        assert np.allclose(one.nll, -log_p[torch.arange(64), tokens], atol=2e-5)
        assert np.allclose(one.entropy, (p * x).sum(1), atol=2e-5)
        assert np.allclose(one.varentropy, (p * (x - (p * x).sum(1, keepdim=True)) ** 2).sum(1), atol=2e-4)
        found, called = detect_documents([(s, None) for s in scored])
        assert not called.any() and sum(f.verdict == "not_a" for f in found) <= 6 and not any(f.impossible for f in found)
        other = score_documents(b, list(texts), **settings)
        assert sum(detect(s, o).verdict in ("not_b", "neither") for s, o in zip(scored, other, strict=True)) >= 25
    # the sampler of the second round, judged as if it were the plain one, leaves traces; the plain one falls outside the nucleus
    assert any(s.nll.max() == np.inf for s in score_documents(a, list(sample_documents(a, 5, 64, seed=2)), top_p=0.5))
    assert score_documents(a, [texts[0]], prompt_tokens=10)[0].bet[:10].sum() == 0


def test_orders(folder):
    a = load_model(folder / "a")
    items = [np.array([10 + k, 20 + k, 10]) for k in range(12)]
    published, shuffled = order_likelihoods(a, items, shards=2, orders=3)
    assert published.shape == (2,) and shuffled.shape == (3, 2)
    flat = torch.from_numpy(np.concatenate(items[:6]))
    log_p = torch.log_softmax(a.logits(torch.cat([torch.tensor([255]), flat[:-1]])[None])[0].double(), -1)
    assert published[0] == pytest.approx(float(log_p[torch.arange(18), flat].sum()), abs=1e-3)
    assert np.array_equal(shuffled, order_likelihoods(a, items, shards=2, orders=3)[1]) and len(np.unique(shuffled)) == 6
    with pytest.raises(InputError, match="model.s context"):
        order_likelihoods(a, [np.zeros(40, dtype=int)] * 4, shards=1, orders=2)
    with pytest.raises(UsageError):
        order_likelihoods(a, items, shards=7, orders=2)


def test_commands(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a = load_model(folder / "a")
    for k, text in enumerate(sample_documents(a, 3, 64, seed=3)):
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / f"{k}.txt").write_bytes(text.astype("u1").tobytes())
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"a line of text, number {k}"}) + "\n" for k in range(8)))
    (tmp_path / "bad.jsonl").write_text('{"txt": "x"}\n')
    (tmp_path / "twice.txt").write_text("same\nsame\nother\n")
    (tmp_path / "empty.txt").write_text("")

    def run(*words):
        status = main([*words, "--json"])
        return status, json.loads(capsys.readouterr().out)

    status, record = run("detect", "own", "--model", str(folder / "a"), "--against", str(folder / "b"))
    assert status == 0 and record["verdict"] == "not_b" and len(record["documents"]) == 3 and record["n"] == 192
    status, record = run("detect", "rows.jsonl", "--model", str(folder / "a"), "--top-p", "0.9", "--temperature", "0.9")
    assert status == 0 and record["verdict"] == "not_a" and all(one["called"] for one in record["documents"])
    status, record = run("contamination", "rows.jsonl", "--model", str(folder / "a"), "--shards", "4", "--orders", "9")
    assert status == 0 and record["shards"] == 4 and 0 < record["p_value"] <= 1
    assert main(["detect", "own", "--model", str(folder / "a")]) == 0 and "false calls" in capsys.readouterr().out
    for words, expected in (
        (["detect", "bad.jsonl", "--model", str(folder / "a")], 3),
        (["detect", "empty.txt", "--model", str(folder / "a")], 3),
        (["detect", "none.txt", "--model", str(folder / "a")], 3),
        (["detect", "own", "--model", str(folder / "a"), "--top-p", "0"], 2),
        (["detect", "own", "--model", str(folder / "a"), "--temperature", "-1"], 2),
        (["contamination", "twice.txt", "--model", str(folder / "a")], 3),
        (["contamination", "rows.jsonl", "--model", str(folder / "a"), "--shards", "9"], 2),
    ):
        assert run(*words)[0] == expected, words
    assert len(read_documents(tmp_path / "rows.jsonl", a)) == 8


def test_prompts(folder, tmp_path, monkeypatch, capsys):
    from scalebound.measure.prompting import prompt_code_bits, prompt_errors

    a = load_model(folder / "a")
    text = torch.tensor([255, *b"x {text}"])
    log_p = torch.log_softmax(a.logits(text[None])[0].double(), -1)
    right = -float(log_p[torch.arange(9), torch.tensor([*b"x {text}", 255])].sum()) / np.log(2)
    assert prompt_code_bits(a, "x {text}") == pytest.approx(right, rel=1e-5)
    items = [(f"item {k}", "ab"[k % 2]) for k in range(6)]
    errors = prompt_errors(a, ["q {text}", "{text}?"], items, ["a", "b"])
    ids = torch.tensor([255, *b"q item 0 "])
    scores = torch.log_softmax(a.logits(ids[None])[0, -1], -1)
    assert errors.shape == (2, 6) and errors[0, 0] == float(scores[ord("a")] < scores[ord("b")])
    with monkeypatch.context() as patch, pytest.raises(InputError, match="end-of-text"):
        patch.setattr("scalebound.data.tokenizer.ByteTokenizer.separator", ord("z"))
        prompt_code_bits(a, "zebra {text}")
    with pytest.raises(UsageError):
        prompt_errors(a, ["no place"], items, ["a", "b"])
    with pytest.raises(InputError):
        prompt_errors(a, ["{text}"], items, ["a"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "i.jsonl").write_text("".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in items))
    (tmp_path / "p.txt").write_text("q {text}\\n\n{text}?\n")
    assert main(["certify-prompt", "i.jsonl", "--prompts", "p.txt", "--model", str(folder / "a"), "--out", "t.json", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["prompts"]) == 2 and record["prompts"][0]["prompt"] == "q {text}\n"
    assert main(["certify-prompt", "t.json", "--json"]) == 0 and json.loads(capsys.readouterr().out) == record
    (tmp_path / "p.txt").write_text("{text}\n{text}\n")
    assert main(["certify-prompt", "i.jsonl", "--prompts", "p.txt", "--model", str(folder / "a")]) == 3


def test_separators_between_documents_are_not_held_against_the_text(folder, tmp_path, monkeypatch, capsys):
    """Documents joined with separators and measured as one stream: the separators were put there by us, nobody sampled them."""
    from scalebound.measure import measure, stream_of

    monkeypatch.chdir(tmp_path)
    a = load_model(folder / "a")
    (tmp_path / "own").mkdir()
    for k in range(8):
        (tmp_path / "own" / f"{k}.txt").write_text(f"text number {k} " * 5)
    stream = stream_of("own", a, "s", context=64)
    measure(folder / "a", stream.path, "s.safetensors")
    from scalebound.cli.detect import sampled_tokens
    from scalebound.core.stats import Stats

    kept = sampled_tokens(Stats.load("s.safetensors"), None)
    assert kept.size == len(stream) and (~kept).sum() == 8 and np.array_equal(kept, np.asarray(stream.tokens) != 255)
    excess = []
    for words in ([], ["--no-separators"]):
        assert main(["detect", "s.safetensors", "--json", *words]) == 0
        excess.append(json.loads(capsys.readouterr().out)["mean_excess"])
    stats = Stats.load("s.safetensors")
    difference = stats.read("nll").astype("f8") - stats.read("entropy")
    assert excess == pytest.approx([difference[kept].mean(), difference.mean()])
