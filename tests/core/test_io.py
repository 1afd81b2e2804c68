"""Files: atomic, hashed, strict."""

import os

import msgspec
import pytest

from scalebound.core.errors import InputError, MachineError
from scalebound.core.io import atomic_write, canonical_json, check_target, load_struct, parse_json, save_struct, sha256_bytes, sha256_file


class Thing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: str
    value: float


Thing.SCHEMA = "scalebound.thing/1"


def test_write_replaces_whole_files_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file"
    atomic_write(path, b"old")
    atomic_write(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file"]
    assert sha256_file(path) == sha256_bytes(b"new")


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_disk_full_at_every_step_keeps_the_old_file(tmp_path, monkeypatch, where):
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if where != "write":
        monkeypatch.setattr(os, where, full)
    with pytest.raises(MachineError, match="no space left"):
        atomic_write(path, full if where == "write" else b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=f"{tmp_path / 'file'}: is a file"):
        atomic_write(tmp_path / "file" / "below", b"")


def test_a_target_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    check_target(tmp_path / "file")
    check_target(tmp_path / "deep" / "deeper" / "file")
    for wrong in (tmp_path, tmp_path / "file" / "below", tmp_path / "file" / "deep" / "below"):
        with pytest.raises(InputError, match=f"{wrong.parent if wrong == tmp_path else tmp_path}.*is a f"):
            check_target(wrong)
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs tests as root may write everywhere
    with pytest.raises(MachineError, match="cannot be written"):
        check_target(tmp_path / "new" / "file")
    assert os.listdir(tmp_path) == ["file"]


def test_interrupt_while_writing_leaves_nothing(tmp_path):
    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "file", interrupted)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text, what", [
    ('{"a": 1, "a": 2}', "'a' stands twice"), ('{"a": NaN}', "NaN"), ('{"a": Infinity}', "Infinity"), ('{"a": 1e999}', "1e999"),
    ('{"a": ', "not valid JSON"), ("[" * 5000, "not valid JSON"), (b"\xff\xfe", "not valid JSON"),
])  # fmt: skip
def test_json_is_read_strictly(text, what):
    with pytest.raises(InputError, match=what):
        parse_json(text, where="here")


def test_structs_are_read_strictly(tmp_path):
    path = save_struct(tmp_path / "a.json", Thing("scalebound.thing/1", 0.1))
    assert load_struct(path, Thing).value == 0.1
    for text, what in [('{"schema": "scalebound.thing/2", "value": 1.0}', "schema"), ('{"schema": "scalebound.thing/1", "value": 1.0, "more": 0}', "more"),
                       ('{"schema": "scalebound.thing/1"}', "value"), ('{"schema": "scalebound.thing/1", "value": "1"}', "value"), ("[]", "schema")]:  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=what):
            load_struct(path, Thing)
    with pytest.raises(InputError, match="no such file"):
        load_struct(tmp_path / "absent.json", Thing)


def test_canonical_json_has_one_form():
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}'.encode()
    with pytest.raises(ValueError):
        canonical_json(float("nan"))
