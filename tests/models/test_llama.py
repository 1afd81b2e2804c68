"""Our decoder for Llama-style models: its attention against a loop, folders and .gguf files against ``transformers``, tensor by tensor."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scalebound.core.errors import InputError
from scalebound.models import load_model
from scalebound.models.attention import by_stretches, causal_attention
from scalebound.models.gguf_file import GgufFile
from scalebound.models.load import _transformers


@pytest.mark.parametrize("heads, key_heads, T, stretch", [(4, 4, 37, 8), (6, 2, 37, 16), (9, 3, 16, 16), (2, 1, 5, 64), (2, 2, 1, 4)])
def test_attention_by_stretches_is_attention(heads, key_heads, T, stretch):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, T, 8, generator=draw, dtype=torch.float64) for n in (heads, key_heads, key_heads))
    right = torch.empty_like(q)
    for b in range(2):
        for h in range(heads):
            for t in range(T):
                scores = q[b, h, t] @ k[b, h * key_heads // heads, : t + 1].T / 8**0.5
                right[b, h, t] = torch.softmax(scores, 0) @ v[b, h * key_heads // heads, : t + 1]
    torch.testing.assert_close(by_stretches(q, k, v, stretch), right)
    torch.testing.assert_close(causal_attention(q.float(), k.float(), v.float()).double(), right, atol=1e-5, rtol=1e-5)
    near = causal_attention(q.bfloat16(), k.bfloat16(), v.bfloat16()).double()
    assert 0 < float((near - right).abs().max()) < 0.05


@pytest.mark.parametrize("kind, tied", [("llama", False), ("llama", True), ("qwen2", True)])
def test_gguf_files_load_as_transformers_loads_them(tmp_path, kind, tied, write_gguf):
    path = write_gguf(tmp_path / "m.gguf", kind=kind, tied=tied)
    ours, theirs = load_model(path, dtype="float32"), _transformers(path, torch.float32, "cpu")
    assert type(ours.hidden.__self__).__name__ == "Llama" and ours.sha256 == theirs.sha256 and ours.num_params == theirs.num_params
    assert (ours.vocab_size, ours.max_context, ours.first_token) == (theirs.vocab_size, theirs.max_context, theirs.first_token) == (128, 64, 3)
    tokens = torch.randint(0, 128, (2, 50), generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(ours.logits(tokens), theirs.logits(tokens), atol=2e-5 * float(theirs.logits(tokens).abs().max()))
    assert load_model(path, dtype="bfloat16").sha256 == ours.sha256  # who it is does not depend on how it is computed


def test_gguf_files_of_other_forms_are_left_to_transformers(tmp_path, write_gguf):
    """A setting our decoder does not know must not be passed over."""
    path = write_gguf(tmp_path / "m.gguf", extra=[("llama.rope.scaling.factor", 4.0)])
    assert type(getattr(load_model(path, dtype="float32").hidden, "__self__", None)).__name__ != "Llama"


def test_header_and_pieces_of_a_gguf_file(tmp_path, monkeypatch, write_gguf):
    from gguf import GGUFReader, dequantize

    path = write_gguf(tmp_path / "m.gguf")
    file = GgufFile(path)
    assert file.fields["llama.embedding_length"] == 64 and "tokenizer.ggml.tokens" not in file.fields
    whole = {name: file.read(name) for name in file.tensors}
    for tensor in GGUFReader(path).tensors:
        np.testing.assert_array_equal(whole[tensor.name], dequantize(tensor.data, tensor.tensor_type))
    monkeypatch.setattr("scalebound.models.gguf_file.PIECE", 300)
    assert len(list(file.pieces("token_embd.weight"))) == 32
    np.testing.assert_array_equal(file.read("token_embd.weight"), whole["token_embd.weight"])


@pytest.mark.parametrize("cut", [3, 20, 200, -1])
def test_gguf_files_cut_short_are_refused(tmp_path, cut, write_gguf):
    data = write_gguf(tmp_path / "m.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[:cut])
    with pytest.raises(InputError, match="gguf"):
        load_model(tmp_path / "cut.gguf", dtype="float32")


def test_random_damage_to_a_header_ends_in_a_plain_error_or_a_model(tmp_path, write_gguf):
    data, rng = bytearray(write_gguf(tmp_path / "m.gguf", depth=1).read_bytes()), np.random.default_rng(0)
    end, refused = 2000, 0
    for _ in range(100):
        broken = bytearray(data)
        for place in rng.integers(0, end, 3):
            broken[place] = rng.integers(0, 256)
        (tmp_path / "b.gguf").write_bytes(broken)
        try:
            GgufFile(tmp_path / "b.gguf")
        except InputError:
            refused += 1
    assert refused > 33


MEASURE = """
import sys
from pathlib import Path
from scalebound.measure import measure, stream_of
from scalebound.models import load_model
model = load_model(sys.argv[1], dtype="bfloat16")
out = Path(sys.argv[2])
stream = stream_of(out / "text.txt", model, out / "stream", context=512, max_tokens=2048)
stats = measure(model, stream.path, out / "s.safetensors", context=512)
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(model.num_params, int(peak) / 1024, float(stats.read("nll").mean()))
"""


@pytest.mark.smollm2
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_peak_memory_of_a_real_model_load_included(tmp_path, real_model):
    """Under 1.3 times the bfloat16 weights plus 300 MB; before weights were read one by one it was 1.2 GB."""
    (tmp_path / "text.txt").write_text((Path(__file__).parents[2] / "LICENSE").read_text())
    gguf = real_model()
    done = subprocess.run([sys.executable, "-c", MEASURE, str(gguf), str(tmp_path)], capture_output=True, text=True, check=True)
    params, peak, loss = map(float, done.stdout.split())
    limit = (1.3 * 2 * params + 300e6) / 2**20
    assert 2 * params / 2**20 < peak < limit, f"{peak:.0f} MB of {limit:.0f}"
    assert 0 < loss < 3


@pytest.mark.nightly
@pytest.mark.smollm2
def test_a_real_gguf_file_is_the_model_transformers_reads(tmp_path, real_model):
    ours, theirs = load_model(real_model(), dtype="float32"), _transformers(real_model(), torch.float32, "cpu")
    assert ours.sha256 == theirs.sha256 and ours.num_params == theirs.num_params
    tokens = torch.randint(0, ours.vocab_size, (1, 40), generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(ours.logits(tokens), theirs.logits(tokens), atol=1e-3)
