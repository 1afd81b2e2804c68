"""Is the accuracy of ``measure --tasks`` that of lm-evaluation-harness, item by item?

    python benchmarks/measure/harness_accuracy.py FOLDER ITEMS.jsonl --peer-python PYTHON [--dtype float32]

PYTHON is an interpreter that imports ``lm_eval`` (0.4.13). The harness runs the items as a multiple-choice task of its own; FOLDER is a Hugging
Face model; both programs use one thread. Prints a JSON record: accuracies of both, items on which they differ, the largest difference of a
log-probability, and seconds; the harness's exported samples are scored once more with ``--tasks``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from scalebound.measure import read_items, score_items
from scalebound.models import load_model

PEER = """
import json, sys, time
import torch
torch.set_num_threads(1)
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
model, folder, dtype = sys.argv[1:4]
lm = HFLM(pretrained=model, dtype=dtype, device="cpu", batch_size=4)
began = time.process_time()
found = lm_eval.simple_evaluate(lm, tasks=["items"], task_manager=TaskManager(include_path=folder), log_samples=True, bootstrap_iters=0)
seconds = time.process_time() - began
scores = {key: value for key, value in found["results"]["items"].items() if isinstance(value, float)}
with open(folder + "/samples.jsonl", "w") as file:
    for sample in found["samples"]["items"]:
        arguments = {f"gen_args_{i}": {f"arg_{j}": text for j, text in enumerate(pair)} for i, pair in enumerate(sample["arguments"])}
        file.write(json.dumps({"doc_id": sample["doc_id"], "target": sample["target"], "arguments": arguments, "filtered_resps": sample["filtered_resps"]}) + chr(10))
json.dump({"scores": scores, "seconds": seconds, "version": lm_eval.__version__}, open(folder + "/found.json", "w"))
"""
TASK = """task: items
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
target_delimiter: ""
metric_list:
  - metric: acc
  - metric: acc_norm
  - metric: acc_bytes
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("items", type=Path)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "items.yaml").write_text(TASK.format(path=given.items.resolve()))
        subprocess.run([given.peer_python, "-c", PEER, given.model, folder, given.dtype], check=True)
        peer = json.loads((Path(folder) / "found.json").read_text())
        samples = [json.loads(line) for line in (Path(folder) / "samples.jsonl").read_text().splitlines()]
        model, items = load_model(given.model, dtype=given.dtype), read_items(given.items)
        began = time.process_time()
        ours = score_items(model, items)
        seconds = time.process_time() - began
        again = score_items(model, read_items(Path(folder) / "samples.jsonl"))
    theirs = {sample["doc_id"]: np.array([pair[0] for pair in sample["filtered_resps"]], dtype=float) for sample in samples}
    record = {
        "items": len(items), "dtype": given.dtype, "harness": peer["version"], "harness_scores": peer["scores"],
        "ours": {"acc": sum(s.chosen == s.item.gold for s in ours) / len(ours), "acc_bytes": sum(s.chosen_per_byte == s.item.gold for s in ours) / len(ours)},
        "items_chosen_differently": sum(int(np.argmax(theirs[k])) != s.chosen for k, s in enumerate(ours)),
        "largest_difference_nats": max(float(np.abs(theirs[k] - s.log_probabilities).max()) for k, s in enumerate(ours)),
        "exported_samples_scored_again": {"items": len(again), "acc": sum(s.chosen == s.item.gold for s in again) / len(again)},
        "cpu_seconds": {"harness": round(peer["seconds"], 1), "ours": round(seconds, 1)},
    }  # fmt: skip
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
