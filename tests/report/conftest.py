"""A small demo folder built from the artefact types themselves, so that it cannot drift from them. Its numbers follow smooth laws and
are not measurements."""

import json
import math
import shutil

import pytest

from scalebound.core.certificate import Anchor, Centre, Certificate, Code, FileRef, Inputs, Shares, Smoothing, Terms, Tokens
from scalebound.core.demo import Anchor as DemoAnchor
from scalebound.core.demo import Demo, Entry, Forecast, Point, Rounded, Rung, Text
from scalebound.core.io import save_struct, sha256_bytes, sha256_file

SIZES = (15_104, 24_000, 38_016, 60_288, 95_040, 150_144)
GUESS = math.log(256)
EXTRA = {"freedman": (0.62, 0.45), "product": (0.40, 0.22), "anchored": (0.24, 0.09), "trajectory": (0.0, 0.05), "heldout": (0.0, 0.04)}


def loss_at(params):
    return 1.15 + 30.0 * params**-0.32


def certificate(method, params, *, loss, guess=GUESS):
    complexity, variance = EXTRA[method]
    scale = (15_000 / params) ** 0.1
    quantization = 0.09 * scale if complexity else 0.0
    smoothing = -0.012 if method == "anchored" else 0.03
    terms = Terms(
        full_precision_loss=loss, quantization=quantization, smoothing=smoothing, complexity=complexity * scale, variance=variance * scale
    )
    bound = math.fsum(getattr(terms, name) for name in Terms.__struct_fields__) + (2.0 if method == "freedman" and params < 20_000 else 0.0)
    if method == "freedman" and params < 20_000:  # one vacuous certificate
        terms = Terms(
            full_precision_loss=loss,
            quantization=quantization,
            smoothing=smoothing,
            complexity=complexity * scale + 2.0,
            variance=variance * scale,
        )
    return Certificate(
        bound=bound,
        method=method,
        delta=0.01,
        statement=f"With probability at least 0.99 the expected loss is at most {bound:.4f} nats per token ({method}).",
        empirical_loss=loss + quantization,
        bound_bits_per_byte=bound / math.log(2),
        vacuous=bound >= guess,
        random_guess=guess,
        tokens=Tokens(stream=20 * params, evaluated=20 * params, unique=20 * params),
        vocab_size=256,
        params=params,
        code=Code(bits=int(2.9 * params), bits_per_parameter=2.9),
        smoothing=Smoothing(alpha=0.1, eps=0.01),
        grid=(0.5, 0.9),
        weights=None,
        horizon=20 * params,
        centres=(Centre(kind="zero"),),
        delta_shares=Shares(),
        anchor=Anchor(kind="model" if method == "anchored" else "none"),
        window=(0, 20 * params),
        terms=terms,
        loss_variation=0.1,
        complexity_per_token=0.1,
        inputs=Inputs(stats=FileRef(path="../train.safetensors")),
        assumptions=("The model is causal.", "The statement is about this stream."),
        version="0.1.0",
    )


def forecast(target, *, law, value, low, high, truth):
    curve = tuple(
        Point(params=n, value=value(n), low=value(n) - low * (1 + n / SIZES[-1]), high=value(n) + high * (1 + n / SIZES[-1]))
        for n in (14e3 * 1.2**k for k in range(14))
    )
    n = SIZES[-1]
    point = Point(params=n, value=value(n), low=value(n) - 2 * low, high=value(n) + 2 * high)
    return Forecast(target=target, law=law, fit=f"fits/{target}.json", level=0.9, rows=5, prediction=point, truth=truth, curve=curve)


def write_folder(root, *, text_name="Python sources", rung_name="rung-{}", law="power", hashes=None):
    root.mkdir(parents=True, exist_ok=True)
    rungs, table = [], ["name,params,tokens,flops,loss,novelty,quantization"]
    for size in SIZES:
        name = rung_name.format(size)
        base = root / "rungs" / str(size)
        (base / "run").mkdir(parents=True, exist_ok=True)
        steps = 20 * size // 4096
        with open(base / "run" / "log.jsonl", "w") as log:
            for step in range(1, steps + 1):
                loss = loss_at(size) + (GUESS - loss_at(size)) * math.exp(-9 * (step / steps) ** 0.4) + 0.05 * math.sin(7.3 * step)
                log.write(json.dumps({"step": step, "tokens": step * 4096, "loss": loss, "lr": 0.01, "grad_norm": 1.0}) + "\n")
        entries = {}
        for method in EXTRA:
            made = certificate(method, size, loss=loss_at(size) + (0.02 if method == "heldout" else 0.0))
            path = f"rungs/{size}/certificates/{method}.json"
            save_struct(root / path, made)
            entries[method] = Entry(path=path, bound=made.bound, vacuous=made.vacuous, verified=True, checks=12)
        rungs.append(
            Rung(
                name=name,
                params=size,
                tokens=20 * size,
                flops=120.0 * size**2,
                shape="4 layers",
                run=f"rungs/{size}/run",
                package=f"rungs/{size}/model.sbz",
                train_loss=loss_at(size),
                heldout_loss=loss_at(size) + 0.02,
                quantized_loss=loss_at(size) + 0.09,
                trajectory_loss=loss_at(size) + 0.03,
                finetune_steps=300,
                file_bytes=int(2.9 * size / 8),
                bits_per_parameter=2.9,
                certificates=entries,
                rounded=Rounded(package=f"rungs/{size}/rounded.sbz", bits=4, file_bytes=size // 2, bits_per_parameter=4.0, loss=loss_at(size) + 0.1, certificate=next(iter(entries.values()))),
            )
        )
        table.append(
            f"{name},{size},{20 * size},{120.0 * size**2},{loss_at(size) + 0.02},{0.27 + 80 * size**-0.54},{0.09 * (15e3 / size) ** 0.1}"
        )
    (root / "table.csv").write_text("\n".join(table) + "\n")
    forecasts = (
        forecast("loss", law=law, value=lambda n: loss_at(n) + 0.03, low=0.03, high=0.04, truth=loss_at(SIZES[-1]) + 0.02),
        forecast("novelty", law=law, value=lambda n: 0.26 + 80 * n**-0.54, low=0.01, high=0.01, truth=0.27 + 80 * SIZES[-1] ** -0.54),
        forecast("quantization", law=law, value=lambda n: 0.09 * (15e3 / n) ** 0.1, low=0.3, high=0.9, truth=0.2),
    )
    (root / "fits").mkdir(exist_ok=True)
    for made in forecasts:
        (root / made.fit).write_text(
            json.dumps(
                {
                    "schema": "scalebound.fit/1",
                    "law": law,
                    "params": {"c": 1.1, "a": 30.0, "b": 0.3},
                    "warnings": ["only 2 more rows than parameters"],
                    "draws": [],
                }
            )
        )
    recorded = {
        path.relative_to(root).as_posix(): sha256_file(path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in ("demo.json", "report.html")
    }
    demo = Demo(
        seed=0,
        text=Text(name=text_name, sha256=sha256_bytes(b"text"), num_documents=120, num_bytes=9_000_000),
        vocab_size=256,
        context=256,
        delta=0.01,
        anchor=DemoAnchor(params=40_064, tokens=801_280, run="anchor", loss=2.31),
        rungs=tuple(rungs),
        forecasts=forecasts,
        commands=("scalebound demo --out runs/demo --seed 0", "scalebound verify runs/demo/rungs/150144/certificates/anchored.json"),
        hashes=recorded if hashes is None else hashes,
        host="a test",
        versions={"scalebound": "0.1.0", "numpy": "2.4.6"},
        seconds={"train": 200.0, "certify": 12.5},
        version="0.1.0",
    )
    save_struct(root / "demo.json", demo)
    return root


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """One folder for the tests that only read it."""
    return write_folder(tmp_path_factory.mktemp("report") / "demo")


@pytest.fixture
def make_folder(folder, tmp_path):
    """``make_folder(**changes)`` gives a folder of the test's own."""
    return lambda **changes: write_folder(tmp_path / "demo", **changes) if changes else shutil.copytree(folder, tmp_path / "demo")
