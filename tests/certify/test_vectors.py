"""The 14 vectors: every bound against 60-digit arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest

from scalebound.certify import (
    freedman_bound,
    mixture_bound,
    mixture_lower_bound,
    product_bound,
    product_lower_bound,
    smooth_anchored,
    smooth_reference,
    smooth_uniform,
)

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "bounds.json").read_text())["vectors"]
RELATIVE = 1e-12


def close(found: float, expected: float | str, relative: float = RELATIVE) -> bool:
    return abs(found - float(expected)) <= relative * max(abs(float(expected)), 1e-300)


def outward(found: float, expected: float | str) -> bool:
    # the printed value is exact to 30 digits, its float to half a unit: a bound may not lie below it by more than that
    return found >= float(expected) * (1 - 2.3e-16)


def case(vector):
    """X, Y, Delta of a direct or uniform vector."""
    if vector["kind"] == "direct":
        return np.array(vector["X"]), np.array(vector["Y"]), vector["Delta"]
    x = smooth_uniform(np.array(vector["nll"]), vector["V"], vector["alpha"])
    return x, np.array(vector["Y"]), float(np.log(vector["V"] / vector["alpha"])) - vector["y_min"]


def test_all_fourteen_are_there():
    assert len(VECTORS) == 14


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["kind"] != "anchored"], ids=lambda v: v["id"])
def test_upper_and_lower(vector):
    x, y, delta_range = case(vector)
    common = {"code_bits": vector["code_bits"], "delta": vector["delta"], "grid": vector["grid"]}
    ceiling = float(np.mean(y)) + delta_range
    for name, function in (("grid", freedman_bound), ("mixture", mixture_bound), ("product", product_bound)):
        # section 2 is the union bound over the grid, whatever weights the mixture uses
        bound = function(x, y, range_=delta_range, weights=None if name == "grid" else vector["weights"], **common)
        raw = float(vector["expected"][name]["bound"])
        assert close(bound.value, min(raw, ceiling)), name
        assert outward(bound.value, min(raw, ceiling)), name
        if raw < ceiling and "complexity" in vector["expected"][name]:
            assert close(bound.complexity, vector["expected"][name]["complexity"], 1e-11)
            assert abs(bound.variance - float(vector["expected"][name]["variance"])) < 1e-11
        assert bound.complexity >= 0 and bound.variance >= -1e-12
        assert close(bound.mean + bound.complexity + bound.variance, bound.value)
    if "lower_Delta" in vector:
        lower = {"range_": vector["lower_Delta"], "weights": vector["weights"], **common}
        for name, function in (("lower", mixture_lower_bound), ("lower_product", product_lower_bound)):
            expected = vector["expected"][name]
            raw = float(expected["bound"] if isinstance(expected, dict) else expected)
            bound = function(x, y, **lower)
            assert close(bound.value, max(raw, float(np.mean(y)) - vector["lower_Delta"])), name
    if vector["kind"] == "uniform":
        assert close(x.max(), vector["expected"]["smoothed_max"], 1e-15 * 4)
        assert close(x[0], vector["expected"]["smoothed_first"], 1e-15 * 4)
        assert close(x.mean(), vector["expected"]["smoothed_mean"], 1e-14)


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["kind"] == "anchored"], ids=lambda v: v["id"])
def test_anchored(vector):
    reference = smooth_reference(np.array(vector["ref_nll"]), vector["V"], vector["eps"])
    x = smooth_anchored(np.array(vector["nll"]), reference, vector["alpha"])
    share, expected = vector["delta_share_difference"], vector["expected"]
    ranges = {"difference": float(np.log(1 / vector["alpha"])), "reference": float(np.log(vector["V"] / vector["eps"]))}
    parts = {"difference": (x - reference, vector["code_bits"], share), "reference": (reference, vector["ref_code_bits"], 1 - share)}
    for prefix, function in (("", mixture_bound), ("product_", product_bound)):
        for name, (losses, bits, part) in parts.items():
            bound = function(
                losses,
                0.0,
                range_=ranges[name],
                code_bits=bits,
                delta=vector["delta"] * part,
                grid=vector["grid"],
                weights=vector["weights"],
            )
            raw = expected[prefix + name] if prefix else expected[name]["bound"]
            assert close(bound.value, min(float(raw), ranges[name])), prefix + name
    assert close(x.mean(), expected["mean_smoothed"], 1e-14)
    assert close(reference.mean(), expected["mean_ref"], 1e-14)


def test_the_comparison_can_fail():
    assert not close(1 + 1e-11, 1.0) and not outward(1 - 1e-15, 1.0)
