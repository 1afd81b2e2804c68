"""What happens to one trained model: train its rounding, measure, certify by every method, verify.

Nothing is picked after looking, so no certificate pays for a choice but that of alpha. Beside the package whose rounding was trained stands
the same model rounded to 4 bits, certified in the form of Finzi et al. 2025 (``certificates/rounded.json``): what there was before.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scalebound.certify import certify
from scalebound.compress import code_bits, quantize, read_checkpoint, save_package
from scalebound.core.certificate import Certificate, Inputs, file_ref
from scalebound.core.demo import Entry, Rounded, Rung
from scalebound.core.errors import ClaimFails
from scalebound.core.io import load_struct
from scalebound.core.progress import Progress
from scalebound.core.stats import AnchorRef, Stats
from scalebound.data.stream import Stream
from scalebound.measure import measure
from scalebound.models.load import newest_checkpoint
from scalebound.train.finetune import default_steps
from scalebound.train.loop import RunInfo
from scalebound.train.packages import package_run
from scalebound_verify.check import verify

DELTA = 0.01
ROUNDED_BITS = 4  # width of the plain rounding that stands beside, that of Finzi et al. 2025
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

    @property
    def rounded(self) -> Path:
        return self.folder / "rounded.sbz"


def finish_rung(plan: Plan, *, progress: Progress) -> Rung:
    """Everything after training, for one rung; files that are there already are used, not made again."""
    torch.set_num_threads(1)
    info = load_struct(plan.run / "run.json", RunInfo)
    total = 4 * info.tokens + len(Stream(plan.heldout_stream))

    def stage(before: int, share: int = 0) -> Progress:
        """Progress of a part that counts tokens, or whose whole counts as ``share`` tokens."""
        return lambda done, of: progress(before + (done * share // of if share else done), total)

    package_run(plan.run, plan.train_stream, plan.folder, seed=plan.seed, fresh=plan.fresh, progress=stage(0, info.tokens))
    if not plan.rounded.is_file() or plan.fresh:
        save_package(plan.rounded, quantize(*read_checkpoint(newest_checkpoint(plan.run)), bits=ROUNDED_BITS))
    full = measure(plan.run, plan.train_stream, plan.folder / "train.full.safetensors", window=info.window, fresh=plan.fresh, progress=stage(info.tokens))
    anchor_is = AnchorRef(kind="model", deployable=True, predictable="trained on a slice of the text disjoint by file from the stream, before it")
    train = measure(plan.package, plan.train_stream, plan.folder / "train.safetensors", window=info.window, anchor=plan.anchor, anchor_is=anchor_is, fresh=plan.fresh, progress=stage(2 * info.tokens))
    rounded = measure(plan.rounded, plan.train_stream, plan.folder / "train.rounded.safetensors", window=info.window, fresh=plan.fresh, progress=stage(3 * info.tokens))
    heldout = measure(plan.run, plan.heldout_stream, plan.folder / "heldout.full.safetensors", fresh=plan.fresh, progress=stage(4 * info.tokens))
    online = Stats.load(plan.run / "online.safetensors")
    sources = {"freedman": train, "product": train, "anchored": train, "heldout": heldout, "trajectory": online}
    entries = {method: _certify(plan, method, method, sources[method], full, plan.package) for method in METHODS}
    plain = Rounded(
        package=_relative(plan.rounded, plan), bits=ROUNDED_BITS, file_bytes=plan.rounded.stat().st_size, bits_per_parameter=8 * plan.rounded.stat().st_size / info.params, loss=_mean(rounded),
        certificate=_certify(plan, "rounded", "freedman", rounded, full, plan.rounded),
    )  # fmt: skip
    size = plan.package.stat().st_size
    shape = Path(plan.run / "recipe.toml").read_text()
    fields = dict(line.split(" = ") for line in shape.splitlines() if " = " in line)
    return Rung(
        name=plan.name, params=info.params, tokens=info.tokens, flops=info.flops, shape=f"{fields['width']} x {fields['depth']}", run=_relative(plan.run, plan),
        package=_relative(plan.package, plan), train_loss=_mean(full), heldout_loss=_mean(heldout), quantized_loss=_mean(train), trajectory_loss=info.train_loss, finetune_steps=default_steps(info.tokens, int(fields["context"])),
        file_bytes=size, bits_per_parameter=8 * size / info.params, certificates=entries, rounded=plain,
    )  # fmt: skip


def _mean(stats: Stats) -> float:
    return math.fsum(float(stats.read("nll", a, b).sum(dtype=np.float64)) for a, b in stats.chunks()) / len(stats)


def _relative(path: Path, plan: Plan) -> str:
    return Path(os.path.relpath(path, plan.folder.parent.parent)).as_posix()


def _certify(plan: Plan, name: str, method: str, stats: Stats, full: Stats, package: Path) -> Entry:
    """Write ``certificates/NAME.json`` and have the independent checker verify it."""
    out = plan.folder / "certificates" / f"{name}.json"
    coded = method in ("freedman", "product", "anchored")
    stream = plan.heldout_stream if method == "heldout" else plan.train_stream
    inputs = Inputs(
        stats=file_ref(Path(stats.path), out.parent), full=file_ref(Path(full.path) if coded else None, out.parent), package=file_ref(package if coded else None, out.parent),
        stream=file_ref(stream, out.parent), stream_sha256=stats.info.stream.sha256, model_sha256=stats.info.model.sha256,
    )  # fmt: skip
    certificate: Certificate = certify(
        stats, method=method, delta=DELTA, code_bits=code_bits(package.stat().st_size) if coded else None,
        full=full if coded else None, package_sha256=inputs.package.sha256, inputs=inputs,
    )  # fmt: skip
    certificate.save(out)
    record = verify(out)
    if not record["holds"]:
        wrong = next(check for check in record["checks"] if not check["ok"])
        raise ClaimFails(f"the independent checker refuses it: {wrong['name']}: {wrong['detail']}", where=str(out), hint=f"scalebound verify {out}")
    return Entry(path=_relative(out, plan), bound=certificate.bound, vacuous=certificate.vacuous, verified=True, checks=len(record["checks"]))
