"""The preset DEFLATE dictionaries of packages: text that headers of small Llama-style models mostly consist of, and, for version 4, headers of deltas.

They belong to the format (docs/package-format.md quotes them with their SHA-256): a changed byte would be another version.
What is likelier, and what is longer, stands nearer the end, where references to it are cheaper.
"""

from __future__ import annotations

_PIECES = (
    '"BF16"]"F32"]"I64"]',
    '{"architectures":["GPT2LMHeadModel"],"layers":"n_layer","transformer.h.*.attn.c_',
    '"rope_scaling":null,"rope_theta":500000.0,"torch_dtype":"float32",',
    '{"config":{"architectures":["Qwen3ForCausalLM"],"attention_bias":false,',
    '"layer_types":["full_attention","full_attention","full_attention"],"max_position_embeddings":2048,"max_window_layers":',
    ',"model_type":"qwen3","sliding_window":null,"tie_word_embeddings":true,"use_sliding_window":false,"vocab_size":',
    '["lm_head.weight",["vocab_size","hidden_size"]],',
    '["model.layers.*.self_attn.k_norm.weight",["head_dim"],"F16"],["model.layers.*.self_attn.q_norm.weight",["head_dim"],"F16"],',
    '"attention_dropout":0.0,"bos_token_id":1,"eos_token_id":2,"initializer_range":0.02,"pad_token_id":null,"pretraining_tp":1,',
    '"rope_parameters":{"rope_theta":10000.0,"rope_type":"default"},"tie_word_embeddings":false,',
    '{"code":[0,1],"config":{"architectures":["LlamaForCausalLM"],"attention_bias":false,"bos_token_id":null,"eos_token_id":null,',
    '"head_dim":8,"hidden_act":"silu","hidden_size":32,"intermediate_size":64,"max_position_embeddings":256,"mlp_bias":false,',
    '"model_type":"llama","num_attention_heads":4,"num_hidden_layers":2,"num_key_value_heads":4,"rms_norm_eps":1e-05,',
    '"rope_theta":10000.0,"tie_word_embeddings":true,"vocab_size":256},',
    '"layers":"num_hidden_layers","shift":4,"tensors":[',
    '["model.embed_tokens.weight",["vocab_size","hidden_size"]],',
    '["model.layers.*.input_layernorm.weight",["hidden_size"],"F16"],',
    '["model.layers.*.mlp.down_proj.weight",["hidden_size","intermediate_size"]],',
    '["model.layers.*.mlp.gate_proj.weight",["intermediate_size","hidden_size"]],',
    '["model.layers.*.mlp.up_proj.weight",["intermediate_size","hidden_size"]],',
    '["model.layers.*.post_attention_layernorm.weight",["hidden_size"],"F16"],',
    '["model.layers.*.self_attn.k_proj.weight",["hidden_size","hidden_size"]],',
    '["model.layers.*.self_attn.o_proj.weight",["hidden_size","hidden_size"]],',
    '["model.layers.*.self_attn.q_proj.weight",["hidden_size","hidden_size"]],',
    '["model.layers.*.self_attn.v_proj.weight",["hidden_size","hidden_size"]],',
    '["model.norm.weight",["hidden_size"],"F16"]]}\0',
)

DICTIONARY = "".join(_PIECES).encode("ascii")

_DELTAS = (
    '"layers":4,"shift":5,"tensors":[["lm_head.weight.a",[8,256]],["lm_head.weight.b",[256,8]],["model.embed_tokens.weight.a",[4,',
    '["model.layers.*.mlp.down_proj.weight.a",[4,128]],["model.layers.*.mlp.down_proj.weight.b",[32,4]],',
    '["model.layers.*.mlp.gate_proj.weight.a",[4,32]],["model.layers.*.mlp.gate_proj.weight.b",[128,4]],',
    '["model.layers.*.mlp.up_proj.weight.a",[4,32]],["model.layers.*.mlp.up_proj.weight.b",[128,4]],',
    '["model.layers.*.self_attn.k_proj.weight.a",[2,64]],["model.layers.*.self_attn.k_proj.weight.b",[64,2]],',
    '["model.layers.*.self_attn.o_proj.weight.a",[2,64]],["model.layers.*.self_attn.o_proj.weight.b",[64,2]],',
    '["model.layers.*.self_attn.q_proj.weight.a",[8,64]],["model.layers.*.self_attn.q_proj.weight.b",[64,8]],',
    '["model.layers.*.self_attn.v_proj.weight.a",[8,64]],["model.layers.*.self_attn.v_proj.weight.b",[64,8]]]}',
    '{"code":[0,1],"config":{"delta":"full"},"layers":"num_hidden_layers","shift":4,"tensors":[["model.embed_tokens.weight",[256,',
    '{"code":[0,1],"config":{"delta":"lora"},"layers":2,"shift":6,"tensors":[["model.layers.*.',
    '{"code":[0],"config":{"delta":"subspace","seed":0},"layers":null,"shift":7,"tensors":[["w",[16]]]}\0',
)

DELTAS = "".join(_DELTAS).encode("ascii")  # follows DICTIONARY in packages of version 4


def dictionary_of(version: int) -> bytes:
    """What a package of this version presets."""
    return DICTIONARY + DELTAS if version == 4 else DICTIONARY
