"""What happens to one trained model: compress, measure, certify by every method, verify."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scalebound.certify import certify, product_bound, smooth_uniform, uniform_range
from scalebound.compress import code_bits, quantize, read_checkpoint, save_package
from scalebound.core.certificate import Certificate, Choice, Inputs, file_ref
from scalebound.core.demo import Entry, Rung
from scalebound.core.errors import ClaimFails
from scalebound.core.io import load_struct
from scalebound.core.progress import Progress
from scalebound.core.seeds import generator
from scalebound.core.stats import AnchorRef, Stats
from scalebound.data.stream import Stream
from scalebound.measure import measure
from scalebound.measure.score import score_blocks
from scalebound.models.load import from_tensors, newest_checkpoint
from scalebound.train.loop import RunInfo
from scalebound_verify.check import verify

DELTA = 0.01
BITS = (2, 3, 4, 5, 6, 7, 8)  # widths tried for the package; the choice is paid for in every certificate that uses it
PILOT_BLOCKS = 64
PILOT_ALPHA = 0.05
METHODS = ("freedman", "product", "anchored", "heldout", "trajectory")


@dataclass(frozen=True)
class Plan:
    """Where one rung's files are."""

    name: str
    folder: Path
    train_stream: Path
    heldout_stream: Path
    anchor: Path
    seed: int
    fresh: bool

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def package(self) -> Path:
        return self.folder / "model.sbz"


def finish_rung(plan: Plan, *, progress: Progress) -> Rung:
    """Everything after training, for one rung; files that are there already are used, not made again."""
    torch.set_num_threads(1)
    info = load_struct(plan.run / "run.json", RunInfo)
    bits = _compress(plan, info)
    total, heldout_tokens = 2 * info.tokens, len(Stream(plan.heldout_stream))

    def stage(before: int) -> Progress:
        return lambda done, _: progress(before + done, total + heldout_tokens)

    full = measure(plan.run, plan.train_stream, plan.folder / "train.full.safetensors", window=info.window, fresh=plan.fresh, progress=stage(0))
    anchor_is = AnchorRef(kind="model", deployable=True, predictable="trained on a slice of the text disjoint by file from the stream, before it")
    train = measure(plan.package, plan.train_stream, plan.folder / "train.safetensors", window=info.window, anchor=plan.anchor, anchor_is=anchor_is, fresh=plan.fresh, progress=stage(info.tokens))
    heldout = measure(plan.run, plan.heldout_stream, plan.folder / "heldout.full.safetensors", fresh=plan.fresh, progress=stage(total))
    online = Stats.load(plan.run / "online.safetensors")
    paths = {"train": Path(train.path), "full": Path(full.path), "heldout": Path(heldout.path), "online": Path(online.path)}
    entries = {method: _certify(plan, method, info, {"train": train, "full": full, "heldout": heldout, "online": online}, paths) for method in METHODS}
    size = plan.package.stat().st_size
    shape = Path(plan.run / "recipe.toml").read_text()
    fields = dict(line.split(" = ") for line in shape.splitlines() if " = " in line)
    return Rung(
        name=plan.name, params=info.params, tokens=info.tokens, flops=info.flops, shape=f"{fields['width']} x {fields['depth']}", run=_relative(plan.run, plan),
        package=_relative(plan.package, plan), train_loss=_mean(full), heldout_loss=_mean(heldout), quantized_loss=_mean(train), trajectory_loss=info.train_loss, bits=bits,
        file_bytes=size, bits_per_parameter=8 * size / info.params, certificates=entries,
    )  # fmt: skip


def _mean(stats: Stats) -> float:
    return math.fsum(float(stats.read("nll", a, b).sum(dtype=np.float64)) for a, b in stats.chunks()) / len(stats)


def _relative(path: Path, plan: Plan) -> str:
    return Path(os.path.relpath(path, plan.folder.parent.parent)).as_posix()


def _compress(plan: Plan, info: RunInfo) -> int:
    """Write the package at the width whose certificate a pilot of random blocks says will be best; any rule is valid, as the choice is paid for."""
    config, tensors = read_checkpoint(newest_checkpoint(plan.run))
    stream = Stream(plan.train_stream)
    T = int(config["max_position_embeddings"])
    num_blocks = info.tokens // T
    drawn = generator(plan.seed, "pilot", plan.name).choice(num_blocks, size=min(PILOT_BLOCKS, num_blocks), replace=False)
    blocks = np.stack([np.asarray(stream.tokens[b * T : (b + 1) * T]) for b in np.sort(drawn)])
    best, chosen = math.inf, BITS[0]
    for bits in BITS:
        model = quantize(config, tensors, bits=bits)
        path = plan.folder / f"pilot.{bits}.sbz"
        save_package(path, model)
        loaded = from_tensors(config, {name: torch.from_numpy(array) for name, array in model.dequantized().items()}, name=str(path))
        losses = score_blocks(loaded, blocks, stream.info.separator)["nll"]
        smoothed = smooth_uniform(np.resize(losses, info.tokens), stream.info.vocab_size, PILOT_ALPHA)
        bound = product_bound(smoothed, 0.0, range_=uniform_range(stream.info.vocab_size, PILOT_ALPHA), code_bits=code_bits(path.stat().st_size), delta=DELTA).value
        path.unlink()
        if bound < best:
            best, chosen = bound, bits
    save_package(plan.package, quantize(config, tensors, bits=chosen))
    return chosen


def _certify(plan: Plan, method: str, info: RunInfo, stats: dict[str, Stats], paths: dict[str, Path]) -> Entry:
    out = plan.folder / "certificates" / f"{method}.json"
    coded = method in ("freedman", "product", "anchored")
    key = {"heldout": "heldout", "trajectory": "online"}.get(method, "train")
    source = stats[key]
    stream = plan.heldout_stream if method == "heldout" else plan.train_stream
    inputs = Inputs(
        stats=file_ref(paths[key], out.parent), full=file_ref(paths["full"] if coded else None, out.parent), package=file_ref(plan.package if coded else None, out.parent),
        stream=file_ref(stream, out.parent), stream_sha256=source.info.stream.sha256, model_sha256=source.info.model.sha256,
    )  # fmt: skip
    certificate: Certificate = certify(
        source, method=method, delta=DELTA, code_bits=code_bits(plan.package.stat().st_size) if coded else None, choices=[Choice(setting="bits", options=len(BITS))] if coded else [],
        full=stats["full"] if coded else None, package_sha256=inputs.package.sha256, inputs=inputs,
    )  # fmt: skip
    certificate.save(out)
    record = verify(out)
    if not record["holds"]:
        wrong = next(check for check in record["checks"] if not check["ok"])
        raise ClaimFails(f"the independent checker refuses it: {wrong['name']}: {wrong['detail']}", where=str(out), hint=f"scalebound verify {out}")
    return Entry(path=_relative(out, plan), bound=certificate.bound, vacuous=certificate.vacuous, verified=True, checks=len(record["checks"]))
