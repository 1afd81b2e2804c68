"""Writes compressed-tensors/: a folder as the ``compressed-tensors`` package saves it, and the weights that it dequantizes, in float32.

    python tests/golden/make_compressed_tensors.py tests/golden/compressed-tensors      (where torch, safetensors and compressed-tensors 0.20.0 are installed)
"""

import json
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file

ROWS, COLUMNS = 16, 64
CASES = {
    "four": ("pack-quantized", {"num_bits": 4, "symmetric": True, "strategy": "group", "group_size": 32}),
    "four_zeros": ("pack-quantized", {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 16}),
    "three_zeros": ("pack-quantized", {"num_bits": 3, "symmetric": False, "strategy": "group", "group_size": 32}),
    "two": ("pack-quantized", {"num_bits": 2, "symmetric": True, "strategy": "channel"}),
    "eight": ("pack-quantized", {"num_bits": 8, "symmetric": True, "strategy": "channel"}),
    "plain_eight": ("int-quantized", {"num_bits": 8, "symmetric": True, "strategy": "channel"}),
    "float_matrix": ("float-quantized", {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}),
    "float_rows": ("float-quantized", {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}),
    "float_blocks": ("float-quantized", {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "block", "block_structure": [8, 32]}),
}


def ends(weight, args):
    """Least and greatest number of every group, row or block, or of all."""
    if args.strategy == "group":
        parts = weight.reshape(ROWS, -1, args.group_size)
        return parts.amin(-1), parts.amax(-1)
    if args.strategy == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if args.strategy == "block":
        parts = weight.reshape(ROWS // 8, 8, COLUMNS // 32, 32)
        return parts.amin((1, 3)), parts.amax((1, 3))
    return weight.amin().reshape(1), weight.amax().reshape(1)


def main(out):
    torch.manual_seed(0)
    tensors, wanted, groups = {}, {}, {}
    for name, (form, given) in CASES.items():
        args = QuantizationArgs(**given)
        scheme = QuantizationScheme(targets=[f"re:.*{name}$"], weights=args, format=form)
        weight = torch.randn(ROWS, COLUMNS) * torch.exp(torch.randn(ROWS, 1))
        scale, zero = calculate_qparams(*ends(weight, args), args)
        state = {"weight": weight, "weight_scale": scale.float()} | ({} if args.symmetric else {"weight_zero_point": zero})
        compressor = BaseCompressor.get_value_from_registry(form)
        stored = compressor.compress(state, scheme)
        wanted[f"h.{name}.weight"] = compressor.decompress(stored, scheme)["weight"].float().contiguous()
        tensors |= {f"h.{name}.{key}": value.contiguous() for key, value in stored.items()}
        groups[name] = {"targets": scheme.targets, "format": form, "weights": given}
    tensors["norm.weight"] = wanted["norm.weight"] = torch.ones(4)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors")
    save_file(wanted, out / "expected.safetensors")
    settings = {"quant_method": "compressed-tensors", "format": "mixed-precision", "quantization_status": "compressed", "config_groups": groups}
    (out / "config.json").write_text(json.dumps({"model_type": "toy", "quantization_config": settings}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
