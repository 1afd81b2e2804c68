"""What people already have: each format made by hand here, read back, fitted; broken files refused."""

import json
import struct

import numpy as np
import pytest

from scalebound.cli import main
from scalebound.core.errors import InputError, UsageError
from scalebound.scaling import read_table
from scalebound.scaling.imports import import_table

STEPS = [100, 200, 300, 400]
LOSS = [4.0, 3.5, 3.25, 3.125]


def varint(value):
    out = b""
    while True:
        out += bytes([(value & 0x7F) | (0x80 if value > 0x7F else 0)])
        value >>= 7
        if not value:
            return out


def field(number, kind, content):
    head = varint(number << 3 | kind)
    return head + (varint(content) if kind == 0 else varint(len(content)) + content if kind == 2 else content)


def event(step, tag, value, as_tensor=False):
    body = field(8, 2, field(1, 0, 1) + field(5, 2, struct.pack("<f", value))) if as_tensor else field(2, 5, struct.pack("<f", value))
    message = field(1, 1, struct.pack("<d", 1e9)) + field(2, 0, step) + field(5, 2, field(1, 2, field(1, 2, tag.encode()) + body))
    return struct.pack("<Q", len(message)) + b"\0" * 4 + message + b"\0" * 4


def test_trainer_state(tmp_path):
    history = [{"step": s, "loss": v, "learning_rate": 1e-4, "epoch": 0.1} for s, v in zip(STEPS, LOSS, strict=True)]
    history += [{"step": 400, "eval_loss": 3.2}, {"train_runtime": 5.0}]
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": history, "best_metric": None}))
    table = import_table(path, extra={"params": 1e8, "batch_tokens": 1e5})
    assert table["step"].tolist() == STEPS and table["loss"].tolist() == LOSS and table["lr"][0] == 1e-4
    assert table["tokens"].tolist() == [s * 1e5 for s in STEPS] and table["eval_loss"][-1] == 3.2 and np.isnan(table["eval_loss"][0])


def test_lm_eval_results_and_samples(tmp_path):
    results = {
        "results": {
            "piqa": {"alias": "piqa", "acc,none": 0.7, "acc_stderr,none": 0.01, "acc_norm,none": 0.71},
            "arc": {"acc,none": 0.4, "acc_stderr,none": "N/A"},
        },
        "config": {"model_args": "pretrained=x", "model_num_parameters": 1000000},
    }
    path = tmp_path / "results_2025.json"
    path.write_text(json.dumps(results))
    table = import_table(path)
    assert table["task"].tolist() == ["piqa", "piqa", "arc"] and table["value"].tolist() == [0.7, 0.71, 0.4]
    assert table["stderr"][0] == 0.01 and np.isnan(table["stderr"][2]) and table["params"][0] == 1e6
    samples = tmp_path / "samples_piqa.jsonl"
    samples.write_text("".join(json.dumps({"doc_id": k, "acc": k % 2, "doc": {"q": "?"}}) + "\n" for k in range(4)))
    assert import_table(samples)["acc"].tolist() == [0, 1, 0, 1]


def test_tensorboard(tmp_path):
    folder = tmp_path / "run1"
    folder.mkdir()
    data = b"".join(event(s, "train/loss", v, as_tensor=s == 200) + event(s, "lr", 1e-3) for s, v in zip(STEPS, LOSS, strict=True))
    (folder / "events.out.tfevents.1.host").write_bytes(data + data[:9])  # a record still being written
    table = import_table(tmp_path)
    assert table["step"].tolist() == STEPS and table["loss"].tolist() == LOSS and table["run"][0] == "run1"


def test_wandb_and_mlflow(tmp_path):
    chart = tmp_path / "wandb_export.csv"
    chart.write_text(
        '"Step","small - loss","small - loss__MIN","big - loss"\n'
        + "".join(f'"{s}","{v}","{v}",""\n' for s, v in zip(STEPS, LOSS, strict=True))
    )
    table = import_table(chart)
    assert table["run"].tolist() == ["small"] * 4 and table["loss"].tolist() == LOSS
    history = tmp_path / "history.jsonl"
    history.write_text("".join(json.dumps({"_step": s, "loss": v}) + "\n" for s, v in zip(STEPS, LOSS, strict=True)))
    assert import_table(history)["step"].tolist() == STEPS
    metrics = tmp_path / "mlruns" / "0" / "abc" / "metrics" / "eval"
    metrics.mkdir(parents=True)
    (metrics / "loss").write_text("".join(f"17000 {v} {s}\n" for s, v in zip(STEPS, LOSS, strict=True)))
    table = import_table(tmp_path / "mlruns")
    assert table["eval_loss"].tolist() == LOSS and table["run"][0] == "abc"


@pytest.mark.parametrize(
    "name, content, kind",
    [
        ("trainer_state.json", b"{}", "trainer-state"),
        ("trainer_state.json", b'{"log_history": []}', "auto"),
        ("r.json", b'{"results": 3}', "lm-eval"),
        ("events.out.tfevents.1", struct.pack("<Q", 1 << 60) + b"\0" * 20, "auto"),
        ("events.out.tfevents.1", struct.pack("<Q", 3) + b"\0" * 4 + b"\xff\xff\xff" + b"\0" * 4, "auto"),
        ("s.jsonl", b'{"doc_id": 1}\n[]\n', "auto"),
        ("w.csv", b"a,b\n1,2\n", "wandb"),
    ],
)
def test_broken_files(name, content, kind, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError):
        import_table(tmp_path / name, kind=kind)


def test_command_line(tmp_path, capsys):
    path = tmp_path / "trainer_state.json"
    steps = list(range(100, 2100, 100))
    path.write_text(json.dumps({"log_history": [{"step": s, "loss": 2 + 30 * s**-0.5} for s in steps]}))
    out = tmp_path / "run.csv"
    assert main(["import", str(path), "--add", "params=1e8,batch_tokens=1e5", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 20
    assert len(read_table(out)) == 20
    assert main(["fit", str(out), "--law", "power:tokens", "--bootstrap", "0"]) == 0
    assert main(["import", str(path), "--out", str(tmp_path / "run.jsonl")]) == 0
    assert main(["import", str(path), "--out", str(tmp_path / "run.xyz")]) == 2
    assert main(["import", str(tmp_path / "none"), "--out", str(out)]) == 3
    with pytest.raises(UsageError):
        import_table(path, kind="nonsense")
