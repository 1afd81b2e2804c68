"""Shapes chosen by timing: what is tried, what wins, what it may cost; and that a plan once made is kept by workers and resumed runs."""

import importlib
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scalebound.core.errors import InputError
from scalebound.core.io import load_struct
from scalebound.data import build_stream, load_tokenizer, read_corpus
from scalebound.data.stream import SourceRef
from scalebound.measure import measure, shapes
from scalebound.measure.measure import plan_path
from scalebound.measure.plan import Plan
from scalebound.measure.shapes import SHARE, Shapes, calibrate, rule
from scalebound.models import Transformer, load_model, save_folder, shape_for
from scalebound.models.compiled import compiled

RULE = Shapes(batch_tokens=1000, rows=256, stretch=4096)


class Machine:
    """A clock that runs as far as a pass is said to take: seconds a token, and once seconds of setup."""

    def __init__(self, each, setup=lambda tried: 0.0, refused=lambda tried: False):
        self.now, self.each, self.setup, self.refused, self.tried = 0.0, each, setup, refused, []

    def run(self, tried):
        if self.refused(tried):
            return None
        self.tried.append(tried)
        left = [self.setup(tried)]

        def once():
            self.now += tried.batch_tokens * self.each(tried) + (left.pop() if left else 0.0)
            return tried.batch_tokens

        return once

    def calibrate(self, tokens, **change):
        return calibrate(self.run, RULE, clock=lambda: self.now, wall=lambda: self.now, **{"tokens": tokens, "vocab_size": 50_000, "workers": 1, "compiles": True} | change)


def test_a_run_too_short_is_not_timed():
    machine = Machine(lambda tried: 1e-3)
    assert machine.calibrate(149_000) == (RULE, ()) and not machine.tried
    assert machine.calibrate(299_000, workers=2) == (RULE, ()) and not machine.tried
    assert len(machine.calibrate(151_000)[1]) == 1


@pytest.mark.parametrize("tokens", [10**7, 10**8])
def test_the_fastest_of_every_dial_wins_and_slow_ones_lose(tokens):
    def each(tried):
        return 1e-3 * {2000: 0.8, 500: 3.0, 4000: 0.9}.get(tried.batch_tokens, 1.0) * {(512, 4096): 0.7, (256, 2048): 5.0}.get((tried.rows, tried.stretch), 1.0)

    machine = Machine(each)
    found, trials = machine.calibrate(tokens)
    assert (found.batch_tokens, found.rows, found.stretch) == (2000, 512, 4096) and not found.compiled
    assert all(trial.seconds / trial.tokens >= each(found) * 0.999 for trial in trials)
    assert trials[0].shapes == RULE and machine.now <= SHARE * 1e-3 * tokens * 1.5, "slow ones cost more than was foreseen, not much more"


def test_a_gain_within_the_clocks_noise_changes_nothing():
    machine = Machine(lambda tried: 1e-3 if tried == RULE else 0.96e-3)
    assert machine.calibrate(10**7)[0] == RULE
    assert Machine(lambda tried: 1e-3 if tried == RULE else 0.94e-3).calibrate(10**7)[0] != RULE


def test_compiling_is_tried_when_the_run_is_long_and_pays_for_itself():
    def machine(gain, setup_s):
        return Machine(lambda tried: 1e-3 * (gain if tried.compiled else 1.0), lambda tried: setup_s if tried.compiled else 0.0)

    short, long = machine(0.7, 40.0), machine(0.7, 40.0)
    assert not short.calibrate(10**6)[0].compiled and not any(tried.compiled for tried in short.tried), "2% of 1000 s do not pay for compiling"
    found, trials = long.calibrate(10**7)
    assert found.compiled and trials[-1].setup_s == pytest.approx(40.0)
    assert not machine(0.99, 40.0).calibrate(10**7)[0].compiled
    assert not machine(0.7, 40.0).calibrate(10**7, compiles=False)[0].compiled
    assert machine(0.9, 900.0).calibrate(10**7)[0].compiled, "alone, what was compiled is there"
    assert not machine(0.9, 900.0).calibrate(2 * 10**7, workers=2)[0].compiled, "of two workers each compiles again: 900 s for a gain of 1000 s is too little"


def test_what_cannot_be_tried_is_left_out():
    machine = Machine(lambda tried: 1e-3 if tried.batch_tokens == 1000 else 1e-4, refused=lambda tried: tried.batch_tokens != 1000)
    assert machine.calibrate(10**7)[0].batch_tokens == 1000
    found, trials = calibrate(lambda tried: (lambda: 1000) if not tried.compiled else (lambda: 0), RULE, tokens=10**9, vocab_size=50_000, workers=1, compiles=True, clock=time.perf_counter)
    assert trials and not any(trial.shapes.compiled for trial in trials), "a pass of no tokens is one that failed"


def test_pieces_wider_than_the_vocabulary_are_tried_once():
    machine = Machine(lambda tried: 1e-3)
    machine.calibrate(10**8, vocab_size=256)
    rows = [tried.rows for tried in machine.tried if tried.batch_tokens == 1000 and not tried.compiled]
    assert sorted(rows) == [128, 256, 512]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate")
    (folder / "text.txt").write_text("".join(f"line {k} of the text, with number {k * k % 97}\n" for k in range(120)))
    corpus = read_corpus(folder / "text.txt")
    stream = build_stream(corpus.documents, load_tokenizer(), folder / "stream", sequence_tokens=64, source=SourceRef("text", corpus.sha256))
    shape = shape_for(15_000)
    save_folder(folder / "model", shape.config(64), Transformer(shape, 64, torch.Generator().manual_seed(0)).tensors())
    return folder, stream


@pytest.fixture
def room(monkeypatch):
    """The room with runs long enough for everything but compiling, and pieces of 128 rows slow."""
    module = importlib.import_module("scalebound.measure.measure")
    whole, seen = module.score_pieces, []

    def slow(*a, **k):
        seen.append(k["rows"])
        if k["rows"] == 128:
            until = time.process_time() + 0.1
            while time.process_time() < until:
                pass
        return whole(*a, **k)

    monkeypatch.setattr(module, "score_pieces", slow)
    monkeypatch.setattr(shapes, "SHARE", 1e4)
    monkeypatch.setattr(shapes, "COMPILE_S", 1e9)
    monkeypatch.setattr(shapes, "BATCHES", (0.5, 2.0))  # a part holds neither
    monkeypatch.setattr(shapes, "TILES", ((128, 4096), (96, 4096)))
    return module, seen


def test_the_plan_is_kept_by_workers_and_resumed_runs(files, tmp_path, monkeypatch, room):
    folder, stream = files
    module, seen = room
    monkeypatch.setattr(shapes, "MARGIN", 2.0)  # the last that is not slow wins: shapes that the rule would not choose

    def never(*a, **k):
        raise AssertionError("timed again")

    right = measure(folder / "model", stream.path, tmp_path / "a.safetensors", calibrated=True)
    plan = load_struct(tmp_path / "a.plan.json", Plan)
    assert (plan.shapes.rows, plan.shapes.batch_tokens) == (96, 4096) and [trial.shapes.rows for trial in plan.trials] == [1024, 128, 96]
    slow, quick = plan.trials[1:]
    assert slow.seconds > 0.1 > quick.seconds and not (tmp_path / "a.safetensors.parts").exists()
    assert seen[-1] == 96 and seen.count(128) == shapes.PASSES

    monkeypatch.setattr(module, "calibrate", never)
    seen.clear()
    again = measure(folder / "model", stream.path, tmp_path / "b.safetensors")
    assert set(seen) == {1024} and not plan_path(tmp_path / "b.safetensors").exists(), "the rule, and no file more"

    shutil.copy(tmp_path / "a.plan.json", tmp_path / "c.plan.json")
    two = measure(folder / "model", stream.path, tmp_path / "c.safetensors", calibrated=True, workers=2)
    assert Path(two.path).read_bytes() == Path(right.path).read_bytes()
    assert load_struct(tmp_path / "c.plan.json", Plan) == plan

    class Killed(Exception):
        pass

    def stop(done, total):
        if done > total / 2:
            raise Killed

    shutil.copy(tmp_path / "a.plan.json", tmp_path / "d.plan.json")
    with pytest.raises(Killed):
        measure(folder / "model", stream.path, tmp_path / "d.safetensors", calibrated=True, progress=stop)
    seen.clear()
    resumed = measure(folder / "model", stream.path, tmp_path / "d.safetensors")  # without being told
    assert set(seen) == {96} and Path(resumed.path).read_bytes() == Path(right.path).read_bytes()
    assert len(again) == len(right)


def test_a_plan_of_another_measurement_is_no_plan(files, tmp_path, room):
    folder, stream = files
    measure(folder / "model", stream.path, tmp_path / "a.safetensors", calibrated=True, window=(0, 640))
    before = load_struct(tmp_path / "a.plan.json", Plan)
    (tmp_path / "a.safetensors").unlink()
    measure(folder / "model", stream.path, tmp_path / "a.safetensors", calibrated=True)
    assert load_struct(tmp_path / "a.plan.json", Plan).info.window != before.info.window
    (tmp_path / "b.safetensors.parts").mkdir()
    shutil.copy(tmp_path / "a.plan.json", tmp_path / "b.safetensors.parts" / "plan.json")
    with pytest.raises(InputError, match="parts of another measurement"):
        measure(folder / "model", stream.path, tmp_path / "b.safetensors", window=(0, 640))
    measure(folder / "model", stream.path, tmp_path / "a.safetensors", fresh=True)
    assert not (tmp_path / "a.plan.json").exists()


def test_only_the_full_batch_is_compiled(files, monkeypatch):
    """What a batch is computed by depends on its shape alone."""
    model = load_model(files[0] / "model")
    monkeypatch.setattr(torch, "compile", lambda function, **k: lambda tokens: function(tokens) + 1.0)
    made = compiled(model, 3, 16)
    for shape, gain in (((3, 16), 1.0), ((2, 16), 0.0), ((3, 15), 0.0)):
        tokens = torch.ones(shape, dtype=torch.int64)
        assert torch.equal(made.hidden(tokens), model.hidden(tokens) + gain)
    assert made.extend is model.extend and replace(made, hidden=model.hidden) == model


def test_a_model_that_cannot_be_compiled_is_measured_without(files, tmp_path, monkeypatch, room):
    folder, stream = files
    asked = []

    def refuses(tokens):
        asked.append(tokens.shape)
        raise torch._dynamo.exc.TorchDynamoException("no compiler")

    monkeypatch.setattr(torch, "compile", lambda function, **k: refuses)
    monkeypatch.setattr(shapes, "COMPILE_S", 0.0)
    monkeypatch.setattr(importlib.import_module("scalebound.measure.measure"), "rule", lambda model: Shapes(batch_tokens=128, rows=256, stretch=4096))
    measure(folder / "model", stream.path, tmp_path / "a.safetensors", calibrated=True)
    plan = load_struct(tmp_path / "a.plan.json", Plan)
    assert asked == [(2, 64)] and plan.trials and not any(trial.shapes.compiled for trial in (plan, *plan.trials))


@pytest.mark.nightly
def test_a_compiled_measurement_gives_the_same_numbers(files, tmp_path, monkeypatch):
    """For real, with its compiler: within rounding of the rule's, byte-identical between one process and two."""
    folder, stream = files
    module = importlib.import_module("scalebound.measure.measure")
    right = measure(folder / "model", stream.path, tmp_path / "a.safetensors")
    monkeypatch.setattr(module, "rule", lambda model: Shapes(batch_tokens=64, rows=256, stretch=4096, compiled=True))
    one, two = (measure(folder / "model", stream.path, tmp_path / f"{workers}.safetensors", workers=workers) for workers in (1, 2))
    assert Path(one.path).read_bytes() == Path(two.path).read_bytes()
    for name in ("nll", "entropy", "varentropy"):
        np.testing.assert_allclose(one.read(name), right.read(name), atol=2e-5, rtol=1e-5)


def test_the_rule_asks_no_clock(files):
    model = load_model(files[0] / "model")
    assert rule(model) == Shapes(batch_tokens=4096, rows=1024, stretch=4096)
    assert rule(replace(model, num_params=10**8, vocab_size=50_000)) == Shapes(batch_tokens=1024, rows=256, stretch=4096)
    assert rule(replace(model, num_params=10**8, device="cuda")).batch_tokens == 8192
