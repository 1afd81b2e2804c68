"""From one model to the frontier of loss, file size and certified bound: many packages, each measured on its stream, certified, verified.

A package of whatever length comes with its own certificate; the smallest bound is the best certificate. That is sound without a price for
the search: the bound holds for all packages of the decoder at once (docs/mathematics.md, section 15), provided all of the window is scored,
which is so here. It also says which length suits this model and stream: past it, what a shorter file saves its loss costs.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import scalebound
from scalebound.certify import certify
from scalebound.certify.codelength import choice_bits
from scalebound.compress import code_bits, load_package, quantize, read_checkpoint, save_package
from scalebound.compress.delta import is_delta
from scalebound.core.certificate import Inputs, file_ref, load_certificate
from scalebound.core.errors import ClaimFails, InputError, UsageError
from scalebound.core.frontier import Frontier, FrontierPoint
from scalebound.core.io import atomic_write, canonical_json, load_struct, read_bytes, save_struct, sha256_file
from scalebound.core.progress import Progress, silent
from scalebound.core.stats import Stats
from scalebound.data.stream import Stream, is_stream
from scalebound.measure import measure
from scalebound.train import quantize_calibrated
from scalebound.train.loop import RunInfo
from scalebound_verify.check import verify

STEPS = (0.3, 0.5, 0.8, 1.2)  # of plain rounding
BITS = (3.5, 3.0, 2.5, 2.0, 1.5, 1.0)  # asked of calibrated rounding
DELTA = 0.01
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,_+-]{0,39}")


def run_frontier(model: str | os.PathLike, stream: str | os.PathLike, out: str | os.PathLike, *, steps: Sequence[float] = STEPS, bits: Sequence[float] = BITS, beside: Mapping[str, str | os.PathLike] | None = None,
                 window: tuple[int, int] | None = None, sequences: int = 32, delta: float = DELTA, seed: int = 0, threads: int = 1, progress: Progress = silent) -> Frontier:  # fmt: skip
    """Sweep, and write packages, statistics, certificates and ``frontier.json`` to a folder.

    Parameters
    ----------
    model
        Whatever ``compress`` takes; of a run, the window is the one it was trained on.
    stream
        The stream it was trained on.
    window
        Tokens the certificates are about; all are scored, once a package. Default: the run's, or the whole stream.
    steps, bits
        What is tried: relative steps of plain rounding, bits per parameter of the file of calibrated rounding (on the window's first
        ``sequences`` pieces of 512 tokens).
    beside
        Packages made in other ways, by the name to show them under: copied to the folder, then scored, certified and verified like the others.
        They too cost nothing to pick from.

    Raises
    ------
    UsageError
        Nothing to try, a setting or a name twice, a name that is no word.
    InputError
        No stream, model or package there; statistics in the folder that are of another package of that name.
    ClaimFails
        The independent checker refuses a certificate.

    Notes
    -----
    Interrupted, it goes on: packages whose certificates are there and hold are not made again. Cost: one pass over the window a package.
    """
    brought = {name: Path(path) for name, path in (beside or {}).items()}
    names = [*(f"rtn-{step:g}" for step in steps), *(f"gptq-{width:g}" for width in bits), *brought]
    if not names or len({_file_name(name) for name in names}) < len(names):
        raise UsageError("nothing to try, or a setting or a name twice", expected="different steps, bits and names")
    wrong = next((name for name in brought if not LABEL.fullmatch(name) or name in ("full", "frontier", "settings")), None)
    if wrong is not None:
        raise UsageError(f"a package named {wrong!r}", where="--beside", expected="letters, digits, spaces and . , _ + -, at most 40; not full, frontier or settings")
    if not is_stream(stream):
        raise InputError("is not a stream", where=str(stream), expected="the .json of the stream the model was trained on")
    model, stream, out = Path(model), Path(stream), Path(out)
    if window is None and (model / "run.json").is_file():
        window = load_struct(model / "run.json", RunInfo).window
    window = window or (0, len(Stream(stream)))
    config, tensors = read_checkpoint(model)
    out.mkdir(parents=True, exist_ok=True)
    settings = canonical_json({"sequences": sequences, "seed": seed})
    if (out / "settings.json").is_file() and read_bytes(out / "settings.json") != settings:
        raise UsageError("was made with other --sequences or another --seed", where=str(out), hint="choose another --out")
    atomic_write(out / "settings.json", settings)
    length = window[1] - window[0]
    total = length * (len(names) + 1)

    def passes(number: int) -> Progress:
        return lambda done, _: progress(number * length + done, total)

    full = measure(model, stream, out / "full.safetensors", window=window, threads=threads, progress=passes(0))
    points = []
    for number, (name, setting) in enumerate(zip(names, [*steps, *bits, *(0.0 for _ in brought)], strict=True)):
        way = "beside" if name in brought else name.partition("-")[0]
        package, certificate = out / f"{_file_name(name)}.sbz", out / f"{_file_name(name)}.json"
        if way == "beside":
            _bring(brought[name], package)
        elif not package.is_file():
            if way == "rtn":
                made = quantize(config, tensors, step=setting)
            else:
                made = quantize_calibrated(config, tensors, stream, bits=setting, sequences=sequences, start=window[0], seed=seed, threads=threads, state=out / f"{name}.state").model
            save_package(package, made)
        stats = measure(package, stream, package.with_suffix(".safetensors"), window=window, threads=threads, progress=passes(number + 1))
        points.append(_certified(name, way, setting, package, certificate, stats, full, stream, delta))
    progress(total, total)
    best = min(points, key=lambda point: point.bound)
    found = Frontier(
        model_sha256=full.info.model.sha256, stream_sha256=full.info.stream.sha256, params=full.info.model.params, window=window, delta=delta, full_loss=_mean(full),
        package_choice_bits=0.0, alpha_choice_bits=choice_bits(load_certificate(out / points[0].certificate).code.choices), best=best.name, points=tuple(points), version=scalebound.__version__,
    )  # fmt: skip
    save_struct(out / "frontier.json", found)
    return found


def _file_name(name: str) -> str:
    return name.replace(" ", "-")


def _bring(source: Path, package: Path) -> None:
    """Copy a package that was made elsewhere, if it is one of a whole model."""
    if is_delta(load_package(source).config):
        raise InputError("holds only how a model differs from another", where=str(source), expected="a package of a whole model")
    data = read_bytes(source)
    if not package.is_file() or read_bytes(package) != data:
        atomic_write(package, data)


def _certified(name: str, way: str, setting: float, package: Path, out: Path, stats: Stats, full: Stats, stream: Path, delta: float) -> FrontierPoint:
    """Certify a package on what was measured, and have the independent checker verify it."""
    inputs = Inputs(
        stats=file_ref(Path(stats.path), out.parent), full=file_ref(Path(full.path), out.parent), package=file_ref(package, out.parent),
        stream=file_ref(stream, out.parent), stream_sha256=stats.info.stream.sha256, model_sha256=stats.info.model.sha256,
    )  # fmt: skip
    size = package.stat().st_size
    found = certify(stats, code_bits=code_bits(size), delta=delta, full=full, package_sha256=sha256_file(package), inputs=inputs)
    found.save(out)
    record = verify(out)
    if not record["holds"]:
        wrong = next(check for check in record["checks"] if not check["ok"])
        raise ClaimFails(f"the independent checker refuses it: {wrong['name']}: {wrong['detail']}", where=str(out))
    return FrontierPoint(
        name=name, way=way, setting=setting, package=package.name, file_bytes=size, code_bits=code_bits(size), bits_per_parameter=8 * size / stats.info.model.params,
        loss=_mean(stats), certificate=out.name, bound=found.bound, alpha=found.smoothing.alpha, vacuous=found.vacuous,
    )  # fmt: skip


def _mean(stats: Stats) -> float:
    return math.fsum(float(stats.read("nll", a, b).sum(dtype="f8")) for a, b in stats.chunks()) / len(stats)
