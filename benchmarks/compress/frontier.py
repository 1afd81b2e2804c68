"""Loss and certified bound against the bits of real files of one demo rung, other programs' quantizers marked: the gallery's frontier.

    scalebound demo --out runs/demo
    python benchmarks/compress/frontier.py runs/demo/rungs/38048 [--out runs/frontier] [--note "..."]

Run it where torchao, bitsandbytes and hqq are installed (peers that are not are left out, with their reason). The rung's weights, rounded to bfloat16 as users
of these programs have them, are quantized by each peer's own code: linear maps only, the embedding stays in bfloat16, as they leave it. Their integers, scales and
codebooks become packages without a weight changing (bitsandbytes by a folder in its own format and ``--keep-codes``; torchao and hqq, whose saved forms are pickles
or not documented, from the tensors they hold in memory; ``gguf``'s blocks as in a .gguf file), each compared bit for bit with the peer's own arithmetic in
float32. Groups are 64 consecutive weights, of torchao 16 (it wants whole groups in a row, and rows of 112 hold no more), of Q4_0 32 (``down_proj``, whose rows are no whole
blocks, stays in 16 bits). Then ``compress --frontier --beside``: every token of the window scored, every bound certified and verified. The demo's own package, trained for its
certificate, stands beside them. Writes ``frontier.json`` here and ``docs/gallery/frontier.svg``; ``python benchmarks/readme.py`` renders the table.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scalebound.compress import QuantizedModel, decode, encode, read_checkpoint
from scalebound.compress.foreign import Blocks, assemble, keep_folder, unpack
from scalebound.compress.foreign.assemble import Scale
from scalebound.core.io import atomic_write, sha256_file
from scalebound.demo.frontier import run_frontier
from scalebound.report.frontier import draw_frontier

HERE = Path(__file__).parent
GROUP = 64
Arrays = dict[str, np.ndarray]
Made = tuple[QuantizedModel, int, Arrays]  # a model, bytes as stored, the numbers it must decode to
Linear = tuple[Blocks, int, np.ndarray]  # blocks, bytes as the peer stores them, its own numbers in float32


def bfloat(values: np.ndarray) -> np.ndarray:
    """To the nearest bfloat16, as float32."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def torchao_int4(weight: np.ndarray) -> Linear:
    import torch
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_

    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.bfloat16)
    linear.weight.data.copy_(torch.from_numpy(weight))
    quantize_(linear, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(16)))
    made: Any = linear.weight
    q, scales, zeros = made.qdata.numpy(), made.scale.float().numpy(), made.zero_point.numpy()
    if zeros.any():
        raise RuntimeError("has zero points, against what is written here")
    own = (q.reshape(len(q), -1, 16) * scales[:, :, None]).astype(np.float32).reshape(q.shape)
    if not np.array_equal(bfloat(own), made.dequantize().float().numpy()):
        raise RuntimeError("dequantizes to other numbers than integer times scale, rounded to bfloat16")
    return Blocks(q, (Scale("times", scales, 16, "d"),)), q.size // 2 + made.scale.nbytes, own


def hqq(bits: int) -> Callable[[np.ndarray], Linear]:
    def one(weight: np.ndarray) -> Linear:
        import torch
        from hqq.core.quantize import BaseQuantizeConfig, HQQBackend, HQQLinear, Quantizer

        HQQLinear.set_backend(HQQBackend.PYTORCH)
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.bfloat16)
        linear.weight.data.copy_(torch.from_numpy(weight))
        made = HQQLinear(linear, BaseQuantizeConfig(nbits=bits, group_size=GROUP, axis=1), compute_dtype=torch.bfloat16, device="cpu")
        scale, zero = (made.meta[key].float() for key in ("scale", "zero"))
        q = Quantizer.unpack[made.meta["packing"]](made.W_q, dtype=torch.uint8)[: weight.size // GROUP]
        own = Quantizer.dequantize(made.W_q, made.meta | {"scale": scale, "zero": zero, "compute_dtype": torch.float32}).numpy()
        steps = (Scale("plus", -zero.numpy().reshape(1, -1), GROUP, "m"), Scale("times", scale.numpy().reshape(1, -1), GROUP, "d"))
        return Blocks(q.numpy().reshape(weight.shape).astype(np.int8), steps), made.W_q.nbytes + made.meta["scale"].nbytes + made.meta["zero"].nbytes, own

    return one


def gguf_q4_0(weight: np.ndarray) -> Linear:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    data = quantize(weight, GGMLQuantizationType.Q4_0)
    return unpack("Q4_0", data), data.nbytes, dequantize(data, GGMLQuantizationType.Q4_0)


def by_matrix(config: dict[str, Any], numbers: Arrays, way: Callable[[np.ndarray], Linear], *, block: int = 1) -> Made:
    """A model whose linear maps are quantized one by one: with the bytes as stored and the numbers it must decode to."""
    tensors: dict[str, np.ndarray | Blocks] = {}
    wanted, stored = dict(numbers), 0
    for name, value in numbers.items():
        if value.ndim < 2 or "embed" in name or value.shape[1] % block:
            tensors[name], stored = value, stored + 2 * value.size
            continue
        tensors[name], size, wanted[name] = way(value)
        stored += size
    return assemble(config, tensors), stored, wanted


def bitsandbytes_folder(config: dict[str, Any], numbers: Arrays, folder: Path) -> Made:
    """A folder as ``transformers`` saves one with nf4, taken over by ``--keep-codes``."""
    import torch
    from bitsandbytes import functional, nn
    from safetensors.torch import save_file

    saved, wanted = {}, dict(numbers)
    for name, value in numbers.items():
        given = torch.from_numpy(value).to(torch.bfloat16)
        if value.ndim < 2 or "embed" in name:
            saved[name] = given
            continue
        linear = nn.Linear4bit(value.shape[1], value.shape[0], bias=False, compute_dtype=torch.bfloat16, compress_statistics=False, quant_type="nf4")
        linear.weight = nn.Params4bit(given, requires_grad=False, compress_statistics=False, quant_type="nf4")
        linear = linear.to("cpu")
        saved |= {name.removesuffix("weight") + key: part.contiguous() for key, part in linear.state_dict().items()}
        state = linear.weight.quant_state
        state.dtype, state.shape = torch.float32, torch.Size([1, value.size])  # as one row: 0.50.2 on a processor takes other scales where blocks run over the ends of rows
        wanted[name] = functional.dequantize_4bit(linear.weight.data, state).numpy().reshape(value.shape)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(saved, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}))
    return keep_folder(folder), sum(part.nbytes for part in saved.values()), wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rung", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"))
    parser.add_argument("--threads", type=int, default=1, help="one is best for so small a model, above all beside other work")
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    began = time.process_time()
    config, numbers = read_checkpoint(given.rung / "run")
    numbers = {name: bfloat(value) for name, value in numbers.items()}
    ways: dict[str, tuple[str, Callable[[], Made]]] = {
        "bitsandbytes nf4": ("bitsandbytes", lambda: bitsandbytes_folder(config, numbers, given.out / "nf4")),
        "torchao int4": ("torchao", lambda: by_matrix(config, numbers, torchao_int4)),
        **{f"hqq {bits} bits": ("hqq", partial(by_matrix, config, numbers, hqq(bits))) for bits in (4, 3, 2)},
        "gguf Q4_0": ("gguf", lambda: by_matrix(config, numbers, gguf_q4_0, block=32)),
    }
    peers: list[dict[str, Any]] = []
    beside: dict[str, Path] = {}
    for name, (library, make) in ways.items():
        try:
            model, stored, wanted = make()
        except ImportError as error:
            peers.append({"name": name, "absent": " ".join(str(error).split())[:200]})
            continue
        package = encode(model)
        found = decode(package)[1]
        if not all(found[key].tobytes() == np.ascontiguousarray(value, dtype=np.float32).tobytes() for key, value in wanted.items()):
            raise SystemExit(f"{name}: the package decodes to other numbers than the peer's own")
        beside[name] = given.out / f"{name.replace(' ', '-')}.made.sbz"
        beside[name].parent.mkdir(parents=True, exist_ok=True)
        beside[name].write_bytes(package)
        peers.append({"name": name, "version": importlib.metadata.version(library), "stored_bytes": stored, "stored_bits": 8 * stored / model.num_params})
    beside["trained in the demo"] = given.rung / "model.sbz"
    stream = given.rung.parent.parent / "streams" / "train.json"
    swept = run_frontier(given.rung / "run", stream, given.out / "sweep", beside=beside, threads=given.threads)
    kept = {peer["name"]: peer for peer in peers}
    points = [{key: getattr(point, key) for key in ("name", "way", "setting", "file_bytes", "bits_per_parameter", "loss", "bound", "alpha", "vacuous")} | {"stored_bits": kept.get(point.name, {}).get("stored_bits")} for point in swept.points]
    about = {"date": datetime.date.today().isoformat(), "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", "note": given.note, "seconds": round(time.process_time() - began, 1),
             "params": swept.params, "tokens": swept.window[1] - swept.window[0], "delta": swept.delta, "method": swept.method, "full_loss": swept.full_loss, "best": swept.best, "search_bits": swept.search_bits,
             "trained_sha256": sha256_file(beside["trained in the demo"])}  # fmt: skip
    atomic_write(HERE / "frontier.json", (json.dumps(about | {"peers": peers, "points": points}, indent=1) + "\n").encode())
    atomic_write(HERE.parents[1] / "docs" / "gallery" / "frontier.svg", draw_frontier(swept).encode())


if __name__ == "__main__":
    main()
