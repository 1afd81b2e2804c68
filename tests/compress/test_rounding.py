"""Round to nearest: the search for the scale against brute force, what is stored raw, and which inputs are refused."""

import numpy as np
import pytest

from scalebound.compress import Coded, Raw, encode_with_breakdown, quantize
from scalebound.compress.rounding import bfloat16, patterns_of, raw_tensor, round_clipped, round_step, scale_spacing
from scalebound.core.errors import InputError, UsageError


def errors_of_all_scales(row, largest, multiple):
    """Brute force: cubic error at every multiple of the spacing from six octaves below the one that clips nothing to one above."""
    top = int(patterns_of(np.array([np.abs(row).max() / largest]), multiple)[0]) + multiple
    scales = bfloat16(np.arange(top - 768 // multiple * multiple, top + 129, multiple)).astype(np.float64)
    integers = np.clip(np.rint(row[None, :] / scales[:, None]), -largest, largest)
    return (np.abs(integers * scales[:, None] - row) ** 3).sum(axis=1)


@pytest.mark.parametrize("largest", [1, 3, 7, 127])
@pytest.mark.parametrize("multiple", [8, 16, 32, 64])
@pytest.mark.parametrize("tail", [2, 30])
def test_the_scale_is_as_good_as_the_best(largest, multiple, tail):
    data = np.random.default_rng(largest).standard_t(tail, size=(60, 40)).astype(np.float32)
    coded = round_clipped(data, largest, multiple)
    assert int(np.abs(coded.integers).max()) <= largest and np.all(coded.row_scales % multiple == 0)
    found = (np.abs(coded.dequantized().astype(np.float64) - data) ** 3).sum(axis=1)
    best = np.array([errors_of_all_scales(row, largest, multiple).min() for row in data.astype(np.float64)])
    assert np.all(found >= best * (1 - 1e-5))
    assert found.sum() < 1.05 * best.sum(), "two passes may miss the best of a jagged curve in some rows, not by much"
    assert np.mean(found <= best * (1 + 1e-5)) > 0.7
    # control: clipping nothing is worse, at few levels much worse
    unclipped = np.array([errors_of_all_scales(row, largest, multiple)[-1 - 128 // multiple] for row in data.astype(np.float64)])
    assert unclipped.sum() > (1.1 if largest <= 7 else 1.0) * found.sum()


def test_steps_are_relative_to_rows():
    data = (np.random.default_rng(0).normal(size=(50, 200)) * np.logspace(-8, 8, 50)[:, None]).astype(np.float32)
    coded = round_step(data, 0.5, 8)
    rms = np.sqrt(np.mean(np.square(data.astype(np.float64)), axis=1))
    assert np.all(np.abs(bfloat16(coded.row_scales) / (0.5 * rms) - 1) <= 1 / 32)
    assert np.all(np.abs(coded.dequantized() - data) <= bfloat16(coded.row_scales)[:, None] * 0.50001)


@pytest.mark.parametrize("setting", [{"bits": 2}, {"bits": 8}, {"step": 0.7}])
def test_rows_and_matrices_of_zeros(setting):
    data = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)
    data[[2, 5]] = 0
    model = quantize({}, {"some": data, "all": np.zeros((4, 4), dtype=np.float32)}, **setting)
    found = model.dequantized()
    assert not found["all"].any() and not found["some"][[2, 5]].any() and found["some"][0].any()


def test_extreme_sizes():
    tensors = {f"w{k}": (np.random.default_rng(k + 50).normal(size=(4, 6)) * 10.0**k).astype(np.float32) for k in (-44, -38, -20, 20, 29)}
    for setting in ({"bits": 2}, {"bits": 8}, {"step": 0.01}):
        found = quantize({}, tensors, **setting).dequantized()
        for k in (-20, 20, 29):
            assert np.abs(found[f"w{k}"] / tensors[f"w{k}"] - 1).min() < 0.3, (setting, k)


def test_spacing_of_scales_follows_the_width():
    widths = [32, 100, 600, 4096]
    assert [scale_spacing({"w": np.zeros((10, n), dtype=np.float32), "v": np.zeros(7)}) for n in widths] == [64, 32, 16, 8]


def test_more_bits_and_smaller_steps_are_closer(llama):
    config, tensors = llama()
    for settings in ([{"bits": b} for b in range(2, 9)], [{"step": r} for r in (2.0, 1.0, 0.5, 0.25, 0.1, 0.01)]):
        errors, sizes = [], []
        for setting in settings:
            model = quantize(config, tensors, **setting)
            errors.append(sum(float(np.square(data - tensors[name]).sum()) for name, data in model.dequantized().items()))
            sizes.append(encode_with_breakdown(model)[1].file_bytes)
        assert errors == sorted(errors, reverse=True) and sizes == sorted(sizes)


def test_what_is_stored_raw():
    assert raw_tensor(np.array([1.5, 2.0], dtype=np.float32), "").dtype == "F16"
    assert raw_tensor(np.array([1.5, 1e30], dtype=np.float32), "").dtype == "F32"
    assert raw_tensor(np.array([1.5, 2.0**100], dtype=np.float32), "").dtype == "BF16"
    assert raw_tensor(np.array([1.5, 1e-30], dtype=np.float32), "").dtype == "F32", "float16 would lose a weight"
    rounded = raw_tensor(np.array([1 / 3], dtype=np.float64), "")
    assert rounded.dtype == "F16" and abs(rounded.dequantized()[0] - 1 / 3) < 2e-4
    model = quantize({}, {"norm": np.ones(4), "one": np.array(0.5), "steps": np.array(7), "mask": np.array([True]), "w": np.ones((2, 2))}, bits=4)
    assert [type(t) for t in model.tensors.values()] == [Coded, Raw, Raw, Raw, Coded] and model.num_params == 9


@pytest.mark.parametrize(("setting", "error"), [({"bits": 2}, 1 / 64), ({"bits": 4}, 1 / 256), ({"bits": 8}, 1 / 1024), ({"step": 0.4}, 0.025)])
def test_vectors_are_rounded_finely(setting, error):
    data = {"norm": (1 + 0.2 * np.random.default_rng(0).normal(size=600)).astype(np.float32), "peak": np.array([0.01] * 40 + [1.0], dtype=np.float32)}
    found = quantize({}, data, **setting).dequantized()
    assert 0 < np.abs(found["norm"] - data["norm"]).max() <= 0.52 * error * 1.03
    assert np.abs(found["peak"] - data["peak"])[:40].max() <= 0.52 * error * 0.01, "one large entry does not coarsen the others"
    tensors = {"far": np.array([1e-6] * 9 + [1.0], dtype=np.float32), "zeros": np.zeros(5), "mostly": np.array([0.0] * 8 + [3.0])}
    model = quantize({}, tensors, **setting)
    assert isinstance(model.tensors["far"], Raw) and not model.dequantized()["zeros"].any() and model.dequantized()["mostly"][-1] == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["w", "n"])
def test_weights_that_are_no_numbers_are_named(bad, name):
    tensors = {"w": np.ones((3, 4), dtype=np.float32), "n": np.ones((5,), dtype=np.float32)}
    tensors[name].flat[3] = bad
    with pytest.raises(InputError, match=rf"{name}\[.*3\] is"):
        quantize({}, tensors, bits=4)


@pytest.mark.parametrize("setting", [{}, {"bits": 4, "step": 0.5}, {"bits": 1}, {"bits": 9}, {"step": 0.0}, {"step": float("nan")}, {"step": 1e-5}])
def test_settings_out_of_range(setting):
    with pytest.raises(UsageError):
        quantize({}, {"w": np.random.default_rng(0).normal(size=(4, 4))}, **setting)


def test_other_dtypes_are_refused():
    with pytest.raises(InputError, match="complex"):
        quantize({}, {"w": np.ones((2, 2), dtype=complex)}, bits=4)
    with pytest.raises(InputError, match="1e30"):
        quantize({}, {"w": np.full((2, 2), 1e31)}, bits=4)
