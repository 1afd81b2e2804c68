"""Figures: every number drawn is in the table beside it, stacks reach their bound, curves lose no step."""

import dataclasses
import json

import numpy as np
import pytest
from msgspec.structs import replace

from scalebound.report.drawing import to_json
from scalebound.report.figures import CURVE_POINTS, all_figures, thin
from scalebound.report.folder import Log, Points, read_folder


@pytest.fixture(scope="module")
def found(folder):
    return read_folder(folder)


@pytest.fixture(scope="module")
def figures(found):
    return {figure.id: figure for figure in all_figures(found)}


@pytest.mark.parametrize("steps", [1, 2, 59, 60, 61, 733, 100_000])
def test_thinning_puts_every_step_into_one_bin(steps):
    rng = np.random.default_rng(steps)
    losses = rng.random(steps)
    x, y = thin(Log(np.arange(1.0, steps + 1), losses))
    assert len(x) == len(y) <= CURVE_POINTS and x == sorted(x)
    # the mean position of consecutive integers tells the bin's ends; loop over them as the reference
    start = 0
    for place, mean in zip(x, y, strict=True):
        size = round(2 * (place - start)) - 1
        assert mean == pytest.approx(np.mean(losses[start : start + size]), rel=1e-12)
        start += size
    assert start == steps


def test_bars_stack_up_to_the_bound(found, figures):
    panels = to_json(figures["decomposition"])
    assert [panel.title for panel in figures["decomposition"].panels] == ["Freedman bound", "product bound", "anchored bound"]
    for method, panel in zip(("freedman", "product", "anchored"), panels, strict=True):
        heights = np.sum([trace["y"] for trace in panel["data"] if trace["type"] == "bar"], axis=0)
        assert heights == pytest.approx([certificates[method].bound for certificates in found.certificates], rel=1e-12)
    anchored = panels[2]["data"]
    positive = np.sum([np.maximum(trace["y"], 0) for trace in anchored if trace["type"] == "bar"], axis=0)
    label = next(trace for trace in anchored if trace.get("mode") == "text")
    assert label["y"] == pytest.approx(positive) and label["text"][-1] == f"{found.certificates[-1]['anchored'].bound:.2f}"
    assert panels[0]["layout"]["yaxis"]["range"][1] == panels[2]["layout"]["yaxis"]["range"][1]
    assert panels[2]["layout"]["yaxis"]["range"][0] < 0  # the anchored certificates have a negative term


def test_lines_of_the_bound_figure_are_its_table(found, figures):
    drawn = [trace for trace in to_json(figures["bound-against-size"])[0]["data"] if trace.get("name")]
    table = figures["bound-against-size"]
    columns = {"training loss": 1, "held-out loss": 2} | {
        name.removesuffix(" bound"): k for k, name in enumerate(table.columns) if name.endswith(" bound")
    }
    assert len(drawn) == 7
    for trace in drawn:
        assert [f"{y:.3f}" for y in trace["y"]] == [row[columns[trace["name"]]] for row in table.rows]


def test_forecasts_show_points_band_and_truth_inside_the_frame(found, figures):
    for forecast, points, panel in zip(found.demo.forecasts, found.points, to_json(figures["forecasts"]), strict=True):
        low, high = panel["layout"]["yaxis"]["range"]
        assert all(low <= y <= high for y in (*points.values, forecast.truth, forecast.prediction.value))
        assert [trace for trace in panel["data"] if trace.get("fill") == "toself"]
        assert any(list(trace["y"]) == [forecast.truth] for trace in panel["data"]) and any(
            list(trace["y"]) == list(points.values) for trace in panel["data"]
        )
        assert all(max(trace["x"]) <= 1.06 * forecast.prediction.params for trace in panel["data"])
    notes = [panel.note for panel in figures["forecasts"].panels]
    assert ["wider than the frame" in note for note in notes] == [False, False, True]
    assert [panel.warnings for panel in figures["forecasts"].panels] == [("only 2 more rows than parameters",)] * 3
    assert len(figures["forecasts"].rows) == 3 * 6


def test_an_interval_of_astronomic_width_leaves_the_points_legible(found):
    wild = replace(found.demo.forecasts[0], prediction=replace(found.demo.forecasts[0].prediction, low=-1e12, high=1e15))
    changed = dataclasses.replace(found, demo=replace(found.demo, forecasts=(wild, *found.demo.forecasts[1:])))
    low, high = to_json(all_figures(changed)[3])[0]["layout"]["yaxis"]["range"]
    assert high - low < 5 * (max(found.points[0].values) - wild.truth)


def test_what_the_folder_lacks_is_left_out(found):
    bare = dataclasses.replace(
        found,
        demo=replace(found.demo, forecasts=(), rungs=tuple(replace(rung, certificates={}) for rung in found.demo.rungs)),
        certificates=({},) * 6,
        fits=(),
        points=(),
    )
    assert [figure.id for figure in all_figures(bare)] == ["loss-curves"]


def test_one_rung_and_equal_values_still_draw(found):
    last = found.demo.rungs[-1]
    flat = replace(
        found.demo.forecasts[0],
        curve=(),
        truth=1.0,
        prediction=replace(found.demo.forecasts[0].prediction, value=1.0, low=1.0, high=1.0),
        rows=1,
    )
    alone = dataclasses.replace(
        found,
        demo=replace(found.demo, rungs=(last,), forecasts=(flat,)),
        certificates=found.certificates[-1:],
        logs=(Log(np.array([4096.0]), np.array([5.5])),),
        fits=found.fits[:1],
        points=(Points((20_000.0,), (1.0,)),),
    )
    for figure in all_figures(alone):
        text = json.dumps(to_json(figure), allow_nan=False)
        assert "NaN" not in text
        for panel in to_json(figure):
            low, high = panel["layout"]["xaxis"]["range"]
            assert low < high
