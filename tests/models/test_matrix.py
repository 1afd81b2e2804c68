"""Packed matrices: the plain product, with what follows it inside."""

import pytest
import torch
import torch.nn.functional as F

from scalebound.models import load_model, matrix
from scalebound.models.matrix import Matrix, can_pack


def drawn(dtype, rows=37, inputs=24, outputs=40):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw).to(dtype) for shape in ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("pack", [True, False])
def test_products_and_what_follows_them(dtype, with_bias, pack):
    x, weight, bias, other = drawn(dtype)
    made = Matrix(weight.clone(), bias if with_bias else None)
    if pack:
        made.pack()
        if not made.packed:
            assert not can_pack(weight)
            pytest.skip("this processor's PyTorch has no packed matrices of this kind")
    right = F.linear(x.double(), weight.double(), bias.double() if with_bias else None)
    tolerance = {"rtol": 2**-7, "atol": 0.05} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    with torch.inference_mode():
        for found, wanted in ((made(x), right), (made.silu(x), F.silu(right)), (made.times(x, other), right * other), (made.plus(x, other), right + other)):
            assert found.dtype == dtype and found.shape == wanted.shape
            torch.testing.assert_close(found.double(), wanted, **tolerance)
    with pytest.raises(AssertionError):  # the tolerance tells another function
        torch.testing.assert_close(made.silu(x).double(), F.gelu(right), **tolerance)


def test_what_follows_inside_is_rounded_once():
    """In bfloat16 the sum made inside is nearer to the exact one than that of two roundings."""
    x, weight, _, other = drawn(torch.bfloat16, 200, 64, 96)
    made = Matrix(weight.clone())
    made.pack()
    if not made.packed:
        pytest.skip("this processor's PyTorch has no packed matrices in bfloat16")
    right = x.double() @ weight.double().T + other.double()
    inside, after = ((found.double() - right).abs().mean() for found in (made.plus(x, other), F.linear(x, weight) + other))
    assert inside < 0.9 * after


def test_a_model_without_packed_matrices_gives_the_same_numbers(tmp_path, monkeypatch):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, max_position_embeddings=32, attention_bias=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokens = torch.randint(0, 64, (2, 30), generator=torch.Generator().manual_seed(0))
    packed = load_model(tmp_path)
    monkeypatch.setattr(matrix, "can_pack", lambda weight: False)
    plain = load_model(tmp_path)
    assert not any(layer.gate.packed for layer in plain.hidden.__self__.layers)
    torch.testing.assert_close(packed.logits(tokens), plain.logits(tokens), atol=2e-6, rtol=1e-4)
