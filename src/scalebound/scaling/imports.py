"""What people already have, as the canonical table: trainer states, evaluation results, event files, exported run histories.

========================  ==========================================================================================
kind                      what is read
========================  ==========================================================================================
``trainer-state``         Hugging Face ``trainer_state.json``: ``log_history``
``lm-eval``               lm-evaluation-harness ``results*.json``: one row per task and metric
``lm-eval-samples``       its ``samples_*.jsonl``: one row per document
``tensorboard``           event files (``events.out.tfevents.*``) or a folder of them: scalars, one row per step
``wandb``                 an exported history: CSV of a chart (``Step, run - loss, run - loss__MIN``) or JSONL rows with ``_step``
``mlflow``                a run folder with ``metrics/NAME`` files of ``time value step`` lines, or a folder of such runs
========================  ==========================================================================================

Names become ours where the meaning is certain (``learning_rate`` to ``lr``, ``num_input_tokens_seen`` to ``tokens``,
``total_flos`` to ``flops``); others are kept. Nothing here needs a package of those projects.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scalebound.core.errors import InputError, UsageError, from_os_error
from scalebound.core.io import parse_json, read_bytes
from scalebound.scaling.table import MAX_TABLE_BYTES, Table, from_columns, read_table

KINDS = ("trainer-state", "lm-eval", "lm-eval-samples", "tensorboard", "wandb", "mlflow", "table")
RENAMES = {
    "learning_rate": "lr",
    "num_input_tokens_seen": "tokens",
    "total_flos": "flops",
    "_step": "step",
    "Step": "step",
    "global_step": "step",
    "train_batch_size": "batch",
    "eval/loss": "eval_loss",
    "train/loss": "loss",
    "train_loss": "loss",
}
MAX_RECORD = 64 << 20


def import_table(path: str | os.PathLike, *, kind: str = "auto", extra: Mapping[str, float | str] | None = None) -> Table:
    """Read ``path`` as ``kind`` and return the canonical table; ``extra`` are constant columns (``params``, ``batch_tokens``).

    Raises
    ------
    InputError      not of that kind, truncated, or without any number
    UsageError      no such kind
    """
    path = Path(path)
    if not path.exists():
        raise InputError("no such file or folder", where=str(path))
    kind = guess_kind(path) if kind == "auto" else kind
    if kind not in KINDS:
        raise UsageError(f"no kind named {kind!r}", expected=", ".join(("auto", *KINDS)))
    try:
        if kind == "table":
            table = read_table(path)
        else:
            records = list(
                {
                    "trainer-state": _trainer_state,
                    "lm-eval": _lm_eval,
                    "lm-eval-samples": _samples,
                    "tensorboard": _tensorboard,
                    "wandb": _wandb,
                    "mlflow": _mlflow,
                }[kind](path)
            )
            table = from_records(records, str(path))
    except OSError as error:
        raise from_os_error(error, path) from error
    columns = dict(table.columns)
    for name, value in (extra or {}).items():
        columns[name] = np.full(len(table), value, dtype=float if isinstance(value, (int, float)) else object)
    if "tokens" not in columns and {"step", "batch_tokens"} <= set(columns):
        columns["tokens"] = columns["step"] * columns["batch_tokens"]
    return Table(columns, str(path), table.sha256, (*table.notes, f"imported as {kind}"), table.rows)


def guess_kind(path: Path) -> str:
    """The kind by name and first bytes."""
    if path.is_dir():
        return "mlflow" if any(path.rglob("metrics")) else "tensorboard"
    name = path.name
    if "tfevents" in name:
        return "tensorboard"
    if name.endswith(".json"):
        value = parse_json(read_bytes(path, limit=MAX_TABLE_BYTES), where=str(path))
        if isinstance(value, dict) and "log_history" in value:
            return "trainer-state"
        if isinstance(value, dict) and isinstance(value.get("results"), dict):
            return "lm-eval"
        return "table"
    if name.endswith(".jsonl"):
        first = read_bytes(path, limit=MAX_TABLE_BYTES).split(b"\n", 1)[0]
        value = parse_json(first, where=f"{path}, line 1") if first.strip() else {}
        if isinstance(value, dict) and "doc_id" in value:
            return "lm-eval-samples"
        return "wandb" if isinstance(value, dict) and "_step" in value else "table"
    if name.endswith(".csv"):
        header = read_bytes(path, limit=MAX_TABLE_BYTES).split(b"\n", 1)[0]
        return "wandb" if b'"Step"' in header or header.startswith(b"Step,") else "table"
    return "table"


def from_records(records: list[dict[str, Any]], where: str) -> Table:
    """Rows of possibly different keys as a table; empty where a row has no such key."""
    if not records:
        raise InputError("holds no rows of numbers", where=where)
    names = list(dict.fromkeys(name for record in records for name in record))
    if len(set(RENAMES.get(name, name) for name in names)) < len(names):
        renamed = {name: name for name in names}  # two names would fall together: keep them as they are
    else:
        renamed = {name: RENAMES.get(name, name) for name in names}
    columns: dict[str, object] = {}
    for name in names:
        values = [record.get(name) for record in records]
        if all(value is None or isinstance(value, (int, float)) for value in values):
            columns[renamed[name]] = np.array([math.nan if value is None else float(value) for value in values])
        else:
            columns[renamed[name]] = ["" if value is None else str(value) for value in values]
    return from_columns(columns, source=where)


def _scalars(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if isinstance(value, (int, float, str)) and not isinstance(value, bool)}


def _json(path: Path) -> Any:
    return parse_json(read_bytes(path, limit=MAX_TABLE_BYTES), where=str(path))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(read_bytes(path, limit=MAX_TABLE_BYTES).splitlines(), start=1):
        if line.strip():
            record = parse_json(line, where=f"{path}, line {number}")
            if not isinstance(record, dict):
                raise InputError("is not an object", where=f"{path}, line {number}", expected="one JSON object per line")
            yield record


def _trainer_state(path: Path) -> Iterator[dict[str, Any]]:
    state = _json(path)
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise InputError("has no list 'log_history'", where=str(path), expected="a trainer_state.json")
    rows: dict[Any, dict[str, Any]] = {}
    for entry in history:
        if isinstance(entry, dict) and "step" in entry:
            rows.setdefault(entry["step"], {}).update(_scalars(entry))
    yield from rows.values()


def _lm_eval(path: Path) -> Iterator[dict[str, Any]]:
    value = _json(path)
    if not isinstance(value, dict) or not isinstance(value.get("results"), dict):
        raise InputError("has no object 'results'", where=str(path), expected="results of lm-evaluation-harness")
    config: dict[str, Any] = value["config"] if isinstance(value.get("config"), dict) else {}
    shared = {"model": str(value.get("model_name") or config.get("model_args") or config.get("model") or path.stem)}
    if isinstance(config.get("model_num_parameters"), (int, float)):
        shared["params"] = config["model_num_parameters"]
    for task, metrics in value["results"].items():
        if not isinstance(metrics, dict):
            continue
        for name, number in metrics.items():
            metric, _, how = name.partition(",")
            if isinstance(number, (int, float)) and not isinstance(number, bool) and not metric.endswith("_stderr"):
                error = metrics.get(f"{metric}_stderr,{how}" if how else f"{metric}_stderr")
                yield {
                    **shared,
                    "task": task,
                    "metric": metric,
                    "filter": how,
                    "value": number,
                    "stderr": error if isinstance(error, (int, float)) else None,
                }


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    for record in _lines(path):
        yield {name: value for name, value in _scalars(record).items() if not isinstance(value, str) or len(value) <= 200}


def _wandb(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".jsonl":
        yield from (_scalars(record) for record in _lines(path))
        return
    table = read_table(path)
    if "Step" not in table:
        raise InputError("has no column 'Step'", where=str(path), expected="a chart exported as CSV")
    for name, values in table.columns.items():
        run, split, metric = name.rpartition(" - ")
        if not split or metric.endswith(("__MIN", "__MAX")) or values.dtype.kind != "f":
            continue
        for step, value in zip(table["Step"], values, strict=True):
            if math.isfinite(value):
                yield {"run": run, "step": float(step), metric: float(value)}


def _mlflow(path: Path) -> Iterator[dict[str, Any]]:
    folders = [path] if path.name == "metrics" else sorted(folder for folder in path.rglob("metrics") if folder.is_dir())
    for folder in folders:
        rows: dict[float, dict[str, Any]] = {}
        for file in sorted(part for part in folder.rglob("*") if part.is_file()):
            metric = file.relative_to(folder).as_posix()
            for number, line in enumerate(read_bytes(file, limit=MAX_TABLE_BYTES).decode("utf-8", "replace").splitlines(), start=1):
                pieces = line.split()
                try:
                    value, step = float(pieces[1]), float(pieces[2]) if len(pieces) > 2 else float(number)
                except (IndexError, ValueError):
                    raise InputError(f"has {line[:60]!r}", where=f"{file}, line {number}", expected="time value step") from None
                rows.setdefault(step, {"run": folder.parent.name, "step": step})[metric] = value
        yield from (rows[step] for step in sorted(rows))


def _tensorboard(path: Path) -> Iterator[dict[str, Any]]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*tfevents*") if file.is_file())
    for file in files:
        rows: dict[int, dict[str, Any]] = {}
        for record in _tfrecords(file):
            step = 0
            values: list[tuple[str, float]] = []
            for number, kind, content in _fields(record, file):
                if number == 2 and kind == 0:
                    step = int(content)
                elif number == 5 and kind == 2:
                    values += list(_summary(content, file))
            for tag, value in values:
                rows.setdefault(step, {"run": file.parent.name, "step": step})[tag] = value
        yield from (rows[step] for step in sorted(rows))


def _tfrecords(file: Path) -> Iterator[bytes]:
    """Length (8 bytes), its checksum (4), data, checksum (4). A last record cut short by a running writer ends the file quietly."""
    data = read_bytes(file, limit=MAX_TABLE_BYTES)
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if length > MAX_RECORD:
            raise InputError(f"record at byte {at} claims {length} bytes", where=str(file), expected="an event file")
        if at + 16 + length > len(data):
            return
        yield data[at + 12 : at + 12 + length]
        at += 16 + length


def _fields(message: bytes, file: Path) -> Iterator[tuple[int, int, Any]]:
    """(number, wire type, content) of a protocol buffer message: integers for 0, raw bytes for 1, 2 and 5."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(message) or shift > 63:
                raise InputError("holds a broken record", where=str(file), expected="an event file")
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(message):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            yield number, kind, varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}.get(kind, -1)
        if size < 0 or at + size > len(message):
            raise InputError("holds a broken record", where=str(file), expected="an event file")
        yield number, kind, message[at : at + size]
        at += size


def _summary(content: bytes, file: Path) -> Iterator[tuple[str, float]]:
    for number, kind, value in _fields(content, file):
        if number != 1 or kind != 2:
            continue
        tag, scalar = "", None
        for inner, wire, piece in _fields(value, file):
            if inner == 1 and wire == 2:
                tag = piece.decode("utf-8", "replace")
            elif inner == 2 and wire == 5:
                (scalar,) = struct.unpack("<f", piece)
            elif inner == 8 and wire == 2:
                scalar = _tensor(piece, file)
        if tag and scalar is not None:
            yield tag, float(scalar)


def _tensor(content: bytes, file: Path) -> float | None:
    """A scalar tensor: float_val (5) or four bytes of tensor_content (4) with dtype 1."""
    dtype = 0
    for number, kind, value in _fields(content, file):
        if number == 1 and kind == 0:
            dtype = value
        elif number == 5 and len(value) == 4:
            return float(struct.unpack("<f", value)[0])
        elif number == 4 and dtype == 1 and len(value) == 4:
            return float(struct.unpack("<f", value)[0])
    return None
