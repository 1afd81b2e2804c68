"""Text to a verified ladder: the stages in order, each resumable, each timed."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch

import scalebound
from scalebound.core.certificate import load_certificate
from scalebound.core.demo import Anchor, Demo, Forecast, Point, Rung, Text
from scalebound.core.errors import InputError, ScaleboundError
from scalebound.core.io import atomic_write, save_struct, sha256_file
from scalebound.core.progress import Progress, silent
from scalebound.core.stats import Stats
from scalebound.core.workers import run_tasks
from scalebound.data import build_stream, load_tokenizer, read_corpus, split_documents
from scalebound.data.stream import SourceRef
from scalebound.demo.rung import DELTA, METHODS, Plan, finish_rung
from scalebound.scaling import fit, forecast
from scalebound.train import derive_recipe, train_ladder

RUNGS = 6
SMALLEST, LARGEST = 15_000, 150_000
FULL_SIZES = (300_000, 550_000, 1_000_000)  # what --full adds
ANCHOR_SHARE = 4 / 15  # size of the anchor over that of the largest rung of the default ladder: 40k
TOKENS_PER_PARAM = 20.0
CONTEXT = 256
HELDOUT_BYTES = 262_144
LEVEL = 0.95
TARGETS = ("train_loss", "heldout_loss", "product", "anchored", "freedman", "quantization", "smoothing", "complexity", "variance")

Bar = Callable[[str], AbstractContextManager[Progress]]


def run_demo(out: str | os.PathLike, *, text: str | os.PathLike | None = None, full: bool = False, seed: int = 0, sizes: tuple[int, ...] | None = None, tokens_per_param: float = TOKENS_PER_PARAM, workers: int | None = None,
             fresh: bool = False, bar: Bar | None = None, say: Callable[[str], None] = lambda line: None) -> Demo:  # fmt: skip
    """Train a ladder, measure, compress, certify by every method, verify, fit, forecast the largest rung from the others, and draw the page.

    Parameters
    ----------
    out
        The folder; what is there already from an interrupted demo of the same settings is used.
    text
        A file or folder; default the text of :func:`scalebound.data.read_corpus`.
    full
        Rungs up to 1M parameters (estimated at one to two hours on two cores) instead of 150k.
    sizes
        Other rungs than those the length of the text allows.
    tokens_per_param
        Length of training.
    workers
        Processes; default one per core. Results do not depend on it.

    Returns
    -------
    Demo
        The manifest, also saved as ``demo.json``.

    Raises
    ------
    InputError
        The text is too short for a ladder, or ``out`` holds another demo.
    ClaimFails
        The independent checker refused a certificate (which would be a bug of ours).
    """
    out, bar = Path(out), bar or (lambda description: nullcontext(silent))
    clock = _Clock()
    with clock("text"), bar("read text"):
        corpus = read_corpus(text)
        sizes = sizes or _sizes(corpus.num_bytes, corpus.name, full)
        recipes = [derive_recipe(size, tokens_per_param=tokens_per_param, context=CONTEXT, seed=seed) for size in sorted(sizes)]
        anchor_recipe = derive_recipe(max(SMALLEST, int(ANCHOR_SHARE * min(recipes[-1].params, LARGEST))), tokens_per_param=tokens_per_param, context=CONTEXT, seed=seed + 1)
        heldout_bytes = min(HELDOUT_BYTES, corpus.num_bytes // 20)
        splits = split_documents(corpus, {"heldout": heldout_bytes, "anchor": anchor_recipe.tokens + CONTEXT}, seed=seed)
        source, words = SourceRef(corpus.name, corpus.sha256), load_tokenizer()
        train = build_stream(splits["train"], words, out / "streams" / "train", sequence_tokens=CONTEXT, source=source, split="train", seed=seed, max_tokens=recipes[-1].tokens)
        anchor_stream = build_stream(splits["anchor"], words, out / "streams" / "anchor", sequence_tokens=CONTEXT, source=source, split="anchor", seed=seed, max_tokens=anchor_recipe.tokens)
        heldout = build_stream(splits["heldout"], words, out / "streams" / "heldout", sequence_tokens=CONTEXT, source=source, split="heldout", max_tokens=heldout_bytes // CONTEXT * CONTEXT)
    if len(train) < recipes[-1].tokens:
        raise InputError(f"leaves {len(train):,} tokens to train on after the other parts are set apart", where=corpus.name, expected=f"{recipes[-1].tokens:,}", hint="give more text")
    say(f"text: {corpus.name}, {len(corpus.documents):,} documents, {corpus.num_bytes / 1e6:,.1f} MB; training on {len(train):,} bytes of it")
    folders = [out / "rungs" / f"{recipe.params}" for recipe in recipes]
    with clock("train"), bar(f"train {len(recipes)} rungs and the anchor") as progress:
        jobs: list[tuple] = [(recipe, train.path, folder / "run") for recipe, folder in zip(recipes, folders, strict=True)]
        train_ladder([*jobs, (anchor_recipe, anchor_stream.path, out / "anchor")], workers=workers, fresh=fresh, progress=progress)
    with clock("compress, measure, certify, verify"), bar("compress, measure, certify, verify") as progress:
        plans = [Plan(folder.name, folder, train.path, heldout.path, out / "anchor", seed, fresh) for folder in folders]
        rungs = run_tasks(finish_rung, [(plan,) for plan in reversed(plans)], workers=workers, progress=progress)[::-1]
    with clock("fit and forecast"), bar("fit and forecast"):
        columns = _table(rungs, out)
        forecasts = _forecasts(columns, out, say)
    largest = Stats.load(folders[-1] / "train.safetensors")
    demo = Demo(
        seed=seed, text=Text(name=corpus.name, sha256=corpus.sha256, num_documents=len(corpus.documents), num_bytes=corpus.num_bytes), vocab_size=words.vocab_size, context=CONTEXT,
        delta=DELTA, rungs=tuple(rungs), forecasts=tuple(forecasts),
        anchor=Anchor(params=anchor_recipe.params, tokens=anchor_recipe.tokens, run="anchor", loss=float(largest.read("reference_nll").mean(dtype=np.float64))),
        commands=_commands(out, text, full, seed, rungs[-1]), hashes=_hashes(out, rungs), host=f"{platform.machine()} {platform.system()}",
        versions={"python": platform.python_version(), "torch": torch.__version__.split("+")[0], "numpy": np.__version__}, seconds=clock.seconds, version=scalebound.__version__,
    )  # fmt: skip
    save_struct(out / "demo.json", demo)
    return demo


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - began, 1)


def _sizes(num_bytes: int, name: str, full: bool) -> tuple[int, ...]:
    """Six sizes in equal ratios from 15k to 150k, or to what a shorter text can feed."""
    per_param = TOKENS_PER_PARAM * (1 + ANCHOR_SHARE) * 1.1  # a tenth for the held-out part and for documents that do not divide evenly
    largest = min(LARGEST, int(num_bytes / per_param))
    if largest < 3 * SMALLEST:
        raise InputError(f"has {num_bytes:,} bytes of text", where=name, expected=f"at least {int(3 * SMALLEST * per_param):,} for a ladder at {TOKENS_PER_PARAM:.0f} tokens per parameter", hint="give a larger --text, or leave it out for the default text")
    sizes = tuple(int(SMALLEST * (largest / SMALLEST) ** (k / (RUNGS - 1))) for k in range(RUNGS))
    return sizes + tuple(size for size in FULL_SIZES if size * per_param < num_bytes) if full else sizes


def _table(rungs: list[Rung], out: Path) -> dict[str, list[float]]:
    """One row a rung, as ``scalebound fit`` reads it: sizes, losses, every bound, and the terms of the product certificate."""
    columns: dict[str, list[float]] = {name: [] for name in ("params", "tokens", "flops", "loss", "train_loss", "heldout_loss", *METHODS, "rounded", "quantization", "smoothing", "complexity", "variance")}
    for rung in rungs:
        terms = load_certificate(out / rung.certificates["product"].path).terms
        row = {"params": rung.params, "tokens": rung.tokens, "flops": rung.flops, "loss": rung.heldout_loss, "train_loss": rung.train_loss, "heldout_loss": rung.heldout_loss,
               **{m: rung.certificates[m].bound for m in METHODS}, "rounded": rung.rounded.certificate.bound, **{t: getattr(terms, t) for t in ("quantization", "smoothing", "complexity", "variance")}}  # fmt: skip
        for name, value in row.items():
            columns[name].append(value)
    lines = [",".join(columns)] + [",".join(repr(values[k]) for values in columns.values()) for k in range(len(rungs))]
    atomic_write(out / "table.csv", ("\n".join(lines) + "\n").encode())
    return columns


def _forecasts(columns: dict[str, list[float]], out: Path, say: Callable[[str], None]) -> list[Forecast]:
    """Fit every target on all rungs but the largest, and predict the largest."""
    found = []
    sizes = np.asarray(columns["params"], dtype=float)
    at = np.geomspace(sizes[0], sizes[-1] * 10, 41)
    for target in TARGETS:
        values = np.asarray(columns[target])
        try:
            law = fit({"params": sizes[:-1], target: values[:-1]}, "power", target=target, level=LEVEL)
        except ScaleboundError as error:  # a term that is zero or of mixed sign has no power law; the page says which
            say(f"no power law for {target}: {error}")
            continue
        law.save(out / "fits" / f"{target}.json")
        curve = forecast(law, {"params": np.append(at, sizes[-1])})
        if curve.low is None or curve.high is None or not (np.isfinite(curve.low) & np.isfinite(curve.high)).all():
            say(f"no forecast of {target}: too few or too noisy rungs for an interval")
            continue
        points = [Point(params=float(p), value=float(v), low=float(a), high=float(b)) for p, v, a, b in zip(curve.inputs["params"], curve.value, curve.low, curve.high, strict=True)]
        found.append(Forecast(target=target, law=law.law, fit=f"fits/{target}.json", level=LEVEL, rows=len(sizes) - 1, prediction=points[-1], truth=float(values[-1]), curve=tuple(points[:-1])))
    return found


def _commands(out: Path, text: str | os.PathLike | None, full: bool, seed: int, largest: Rung) -> tuple[str, ...]:
    options = (f" --text {text}" if text is not None else "") + (" --full" if full else "") + (f" --seed {seed}" if seed else "")
    return (
        f"scalebound demo --out {out}{options}",
        f"scalebound verify {out}/{largest.certificates['anchored'].path} --replay 8",
        f"scalebound fit {out}/table.csv --law power --target train_loss",
        f"scalebound report {out}",
    )


def _hashes(out: Path, rungs: list[Rung]) -> dict[str, str]:
    names = ["streams/train.json", "streams/anchor.json", "streams/heldout.json", "table.csv"]
    names += sorted(str(path.relative_to(out)) for path in (out / "fits").glob("*.json"))
    for rung in rungs:
        names += [f"{rung.run}/log.jsonl", rung.package, rung.rounded.package, rung.rounded.certificate.path, *(entry.path for entry in rung.certificates.values())]
    return {name: sha256_file(out / name) for name in names}


