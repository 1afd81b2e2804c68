"""Reading model folders: every stored dtype, several files, runs, and files that are not what they say."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from scalebound.compress import quantize, read_checkpoint, save_package
from scalebound.core.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    save_file({"w": np.arange(8, dtype=np.float32).reshape(2, 4), "k": np.array([3])}, tmp_path / "model.safetensors")
    return tmp_path


def with_header(path, header, content=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


def test_folder(folder):
    config, tensors = read_checkpoint(folder)
    assert config == {"hidden_size": 4} and tensors["w"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]] and tensors["k"].tolist() == [3]


def test_brain_floats_and_odd_offsets(folder):
    entries = {"u": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "b": {"dtype": "BF16", "shape": [2], "data_offsets": [1, 5]}, "e": {"dtype": "F32", "shape": [0, 2], "data_offsets": [5, 5]}}
    with_header(folder / "model.safetensors", entries, b"\x07\x80\x3f\x40\xc0")
    _, tensors = read_checkpoint(folder)
    assert tensors["b"].tolist() == [1.0, -3.0] and tensors["b"].dtype == np.float32 and tensors["u"].tolist() == [7] and tensors["e"].shape == (0, 2)


def test_several_files(folder):
    save_file({"v": np.ones(3, dtype=np.float16)}, folder / "model-00002-of-00002.safetensors")
    _, tensors = read_checkpoint(folder)
    assert set(tensors) == {"w", "k", "v"}
    save_file({"w": np.ones(3, dtype=np.float16)}, folder / "model-00003-of-00003.safetensors")
    with pytest.raises(InputError, match="two files"):
        read_checkpoint(folder)


def test_a_run_stands_for_its_newest_checkpoint(tmp_path):
    for step in (9, 100):
        path = tmp_path / "checkpoints" / f"step-{step}"
        path.mkdir(parents=True)
        (path / "config.json").write_text("{}")
        save_file({"w": np.full((1, 1), step, dtype=np.float32)}, path / "model.safetensors")
    (tmp_path / "checkpoints" / "step-200").mkdir()  # one that was being written
    assert read_checkpoint(tmp_path)[1]["w"].item() == 100


def test_a_package_is_a_model_too(tmp_path):
    model = quantize({"a": 1}, {"w": np.eye(3)}, bits=4)
    save_package(tmp_path / "m.sbz", model)
    config, tensors = read_checkpoint(tmp_path / "m.sbz")
    assert config == {"a": 1} and np.array_equal(tensors["w"], model.dequantized()["w"])


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{", b"[]", b'{"w":{},"w":{}}', {"w": 3}, {"w": {"dtype": "F32", "shape": [2]}}, {"w": {"dtype": "F8_E5M2", "shape": [1], "data_offsets": [0, 1]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, {"w": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        {"w": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}, {"w": {"dtype": "F32", "shape": [1 << 62], "data_offsets": [0, 1 << 64]}},
        {"w": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}},
    ],
)  # fmt: skip
def test_files_that_are_not_safetensors(folder, header):
    with_header(folder / "model.safetensors", header, bytes(8))
    with pytest.raises(InputError) as caught:
        read_checkpoint(folder)
    assert "model.safetensors" in str(caught.value)


def test_truncated_and_missing(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for length in (0, 5, 8, 20, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no weights"):
        read_checkpoint(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match="not a configuration"):
        read_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="holds no model"):
        read_checkpoint(folder)
    for name in ("nowhere", "nowhere.gguf", "nowhere.sbz"):
        with pytest.raises(InputError, match="no such file"):
            read_checkpoint(folder / name)
