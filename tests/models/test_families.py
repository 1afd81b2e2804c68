"""Random small models of each family that people have: every number equals the plain definition on transformers' own float32 logits."""

import numpy as np
import pytest
import torch

from scalebound.measure import measure
from scalebound.models import load_model
from scalebound.models.load import in_precision

COMMON = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64,
          "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
FAMILIES = {
    "llama": COMMON | {"num_key_value_heads": 2},
    "llama tied": COMMON | {"model_type": "llama", "tie_word_embeddings": True, "attention_bias": True},
    "gpt2": {"vocab_size": 256, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2, "model_type": "gpt2"},
    "gpt_neox": COMMON | {"rotary_pct": 0.25},
    "qwen2": COMMON | {"num_key_value_heads": 2},
    "qwen3": COMMON | {"num_key_value_heads": 2, "head_dim": 16},
    "gemma": COMMON | {"num_key_value_heads": 1, "head_dim": 16},
    "gemma2": COMMON | {"num_key_value_heads": 2, "head_dim": 16, "final_logit_softcapping": 3.0, "sliding_window": 16, "query_pre_attn_scalar": 16},
    "gemma3_text": COMMON | {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16},
    "mistral": COMMON | {"num_key_value_heads": 2},
    "phi": COMMON,
    "olmo2": COMMON | {"num_key_value_heads": 2},
    "opt": {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 64, "word_embed_proj_dim": 32},
    "cohere": COMMON | {"num_key_value_heads": 2, "logit_scale": 0.25},
    "mamba": {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def stream(tmp_path_factory, stream_of_lines):
    return stream_of_lines(tmp_path_factory.mktemp("families"), 9)


@pytest.mark.filterwarnings("ignore::UserWarning")  # transformers says that it has no fast kernels for this machine
@pytest.mark.parametrize("family", FAMILIES)
def test_every_number_equals_its_definition(family, stream, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    settings = dict(FAMILIES[family])
    config = AutoConfig.for_model(settings.pop("model_type", family), **settings)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # freshly made models predict almost evenly; these do not
        model.get_output_embeddings().weight.mul_(3.0 if family == "mamba" else 20.0)
    model.save_pretrained(tmp_path / "model")
    stats = measure(tmp_path / "model", stream.path, tmp_path / "s.safetensors", policy="sliding", stride=20, context=48)
    tokens = torch.from_numpy(np.asarray(stream.tokens).astype(np.int64))
    rows = []
    for start in range(0, len(tokens), 20):
        stop = min(start + 20, len(tokens))
        begin = max(0, stop - 48)
        with torch.no_grad():
            logits = model(torch.cat([torch.tensor([255]), tokens[begin : stop - 1]])[None], use_cache=False).logits[0, start - begin :]
        log_p = torch.log_softmax(logits.float(), -1).double()
        entropy = -(log_p.exp() * log_p).sum(-1)
        rows.append(torch.stack([-log_p.gather(1, tokens[start:stop, None])[:, 0], entropy, (log_p.exp() * (log_p + entropy[:, None]) ** 2).sum(-1)]))
    right = torch.cat(rows, 1).numpy()
    assert right[2].mean() > 0.05, "the model must predict neither evenly nor with certainty"
    for name, values in zip(("nll", "entropy", "varentropy"), right, strict=True):
        np.testing.assert_allclose(stats.read(name), values, atol=2e-5, err_msg=name)
    # the head must be cut by vocabulary wherever it is a matrix: an array of [tokens, vocabulary] never exists
    assert (load_model(tmp_path / "model").hidden(torch.zeros(1, 3, dtype=torch.int64)).shape[-1] == 256) == (family == "cohere")
    loaded = load_model(tmp_path / "model")
    ours = settings.get("model_type", family) in ("llama", "mistral", "qwen2", "qwen3") or family == "llama tied"
    assert (type(getattr(loaded.hidden, "__self__", None)).__name__ == "Llama") == ours
    assert (loaded.extend is None) == (family == "mamba")
    if loaded.extend is not None:  # a text in three pieces, each behind the past of those before it, the last one read by two rows
        with torch.inference_mode():
            whole, past = loaded.hidden(tokens[None, :40]), None
            first, past = loaded.extend(tokens[None, :7], None)
            second, past = loaded.extend(tokens[None, 7:33], past)
            third, _ = loaded.extend(tokens[None, 20:40].expand(2, -1), past.cut(20).repeat(2))
        np.testing.assert_allclose(torch.cat([first, second[:, :13], third[1:]], 1), whole, atol=2e-4 * float(whole.abs().max()))


def test_rotary_frequencies_are_not_rounded_with_the_weights():
    """Plain ``.to(bfloat16)``, the control, turns tokens far into a text by other angles."""
    import transformers

    config = transformers.AutoConfig.for_model("llama", vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, intermediate_size=48, max_position_embeddings=1024)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 64, (2, 700)))

    def logits(change):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.data.mul_(20.0)  # sharp attention
        with torch.no_grad():
            return change(model)(tokens).logits.float()

    exact = logits(lambda model: model)
    kept, rounded = (float((logits(change) - exact)[:, 500:].abs().mean()) for change in (lambda model: in_precision(model, torch.bfloat16), lambda model: model.to(torch.bfloat16)))
    assert kept < 0.7 * rounded, (kept, rounded)
