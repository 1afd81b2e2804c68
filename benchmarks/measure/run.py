"""How fast is ``measure`` beside what people use, per core and on the whole machine, and where does its time go?

    python benchmarks/measure/run.py MODEL [--peer-python PYTHON] [--tokens 2048] [--rounds 3] [--no-machine] [--out benchmarks/measure/results.json]

MODEL is a Llama-style ``.gguf`` file or Hugging Face folder; PYTHON imports ``lm_eval`` (0.4.13), without it that peer is left out. All score the
same text in blocks of 512 tokens:

* loop: ``transformers``' forward and a float32 ``log_softmax``, loss, entropy and variance, a block at a time, in float32 and bfloat16;
* harness: ``loglikelihood_rolling`` in bfloat16, four blocks at a time, loss only, of about as many tokens from the text's beginning;
* ours: loss, entropy and variance (``score_pieces``), in float32 and bfloat16.

Per core: one thread and a process of its own each, taken in turn once a round, the median of tokens per second of *processor* time (the machine may be shared). Whole
machine: ours with a process per core, the harness with all threads, tokens per second of the clock; only a machine with nothing else to do can
say (``--no-machine`` leaves it out). The peak is a large bfloat16 matrix product of the same run.
Peak memory is that of a process that only loads and scores in bfloat16.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

CONTEXT = 512
WAYS = ("loop float32", "ours float32", "ours bfloat16", "loop bfloat16")
PEER = """
import os, sys, time, json
import torch
threads, model, text, rounds = int(sys.argv[1]), sys.argv[2], open(sys.argv[3]).read(), int(sys.argv[4])
torch.set_num_threads(threads)
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
lm = HFLM(pretrained=model, dtype="bfloat16", device="cpu", batch_size=4, max_length=512)
request = [Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)]
tokens = len(lm.tok_encode(text))
for number in range(rounds + 1):  # the first round warms up
    cpu, clock = time.process_time(), time.perf_counter()
    loss = -lm.loglikelihood_rolling(request, disable_tqdm=True)[0] / tokens
    if number:
        print("ROUND", json.dumps({"cpu": tokens / (time.process_time() - cpu), "clock": tokens / (time.perf_counter() - clock), "loss": loss, "tokens": tokens}), flush=True)
"""


def export(model: str, folder: Path) -> None:
    """The model as a Hugging Face folder with its tokenizer, for the harness."""
    from safetensors.torch import save_file

    from scalebound.data.tokenizer import load_tokenizer
    from scalebound.models.load import read_transformers, tied_names

    made = read_transformers(Path(model))
    names = tied_names(made)
    save_file({name: tensor.to(torch.bfloat16).contiguous() for name, tensor in made.state_dict().items() if name not in names}, folder / "model.safetensors", metadata={"format": "pt"})
    config = {key: value for key, value in made.config.to_dict().items() if key != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_bytes(load_tokenizer(model).content)  # type: ignore[attr-defined]
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}))


def loop(model, tokens_BT: np.ndarray, first: int) -> np.ndarray:
    """Loss, entropy and varentropy with an array of [tokens, vocabulary] for each block."""
    rows = []
    with torch.inference_mode():
        for block in torch.from_numpy(tokens_BT):
            log_p = torch.log_softmax(model(torch.cat([torch.tensor([first]), block[:-1]])[None], use_cache=False).logits[0].float(), dim=-1)
            p = log_p.exp()
            entropy = -(p * log_p).sum(-1)
            rows.append(torch.stack([-log_p.gather(1, block[:, None])[:, 0], entropy, (p * (log_p + entropy[:, None]).square()).sum(-1)]))
    return torch.cat(rows, dim=1).numpy()


def ours(model, tokens_BT: np.ndarray, first: int) -> np.ndarray:
    from scalebound.measure.score import score_pieces

    found = score_pieces(model, list(tokens_BT), [0] * len(tokens_BT), first)
    return np.stack([found[name] for name in ("nll", "entropy", "varentropy")])


def peak_gflops() -> float:
    """A bfloat16 matrix product large enough to be limited by nothing else, GFLOP/s of processor time, the best of 5."""
    a, b = torch.randn(2048, 2048).bfloat16(), torch.randn(2048, 2048).bfloat16()
    best = 0.0
    for _ in range(6):
        began = time.process_time()
        a @ b
        best = max(best, 2 * 2048**3 / (time.process_time() - began) / 1e9)
    return best


def shares(model, tokens_BT: np.ndarray, first: int) -> dict[str, float]:
    """Where our pass in bfloat16 spends its time, from torch's profiler: shares of the whole."""
    from torch.profiler import ProfilerActivity, profile

    kinds = {"matrix products": ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise"), "attention": ("aten::bmm", "aten::_softmax", "aten::masked_fill_"), "statistics of logits": ("aten::exp", "aten::sum", "aten::sub_", "aten::mul_", "aten::square_", "aten::pow_", "aten::amax", "aten::clamp_min_", "aten::mul"),
             "norms, rotation, activation": ("aten::_fused_rms_norm", "aten::addcmul_", "aten::silu", "aten::rsqrt", "aten::add")}  # fmt: skip
    with profile(activities=[ProfilerActivity.CPU]) as found:
        ours(model, tokens_BT, first)
    spent = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    total = sum(spent.values())
    out = {kind: round(sum(spent.get(key, 0) for key in keys) / total, 3) for kind, keys in kinds.items()}
    return out | {"copies and the rest": round(1 - sum(out.values()), 3)}


def worker(model: str, tokens_path: str, rounds: int, start: str) -> None:
    """One process of the whole machine: load, wait for the others, score."""
    from scalebound.core.heap import keep_freed_memory
    from scalebound.models import load_model

    torch.set_num_threads(1)
    loaded, tokens = load_model(model, dtype="bfloat16"), np.load(tokens_path)
    keep_freed_memory()  # as the processes of measure do
    ours(loaded, tokens[:1], loaded.first_token)
    Path(f"{start}.{os.getpid()}").touch()
    while not Path(start).exists():
        time.sleep(0.01)
    began = time.perf_counter()
    for _ in range(rounds):
        ours(loaded, tokens, loaded.first_token)
    status = Path("/proc/self/status")
    peak = next((int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM")), 0.0) if status.exists() else 0.0
    print(json.dumps({"clock": rounds * tokens.size / (time.perf_counter() - began), "peak_mib": peak}))


def way(name: str, model: str, tokens_path: str, found_path: str) -> None:
    """One way in a process of its own: a round for every line that comes in, tokens per second of processor time for every line that goes out."""
    from scalebound.core.heap import keep_freed_memory
    from scalebound.models import load_model
    from scalebound.models.load import read_transformers

    torch.set_num_threads(1)
    tokens, (program, dtype) = np.load(tokens_path), name.split()
    if program == "loop":
        run, loaded = loop, read_transformers(Path(model)).to(getattr(torch, dtype)).eval().requires_grad_(False)
        first = loaded.config.bos_token_id
    else:
        run, loaded = ours, load_model(model, dtype=dtype)
        first = loaded.first_token
        keep_freed_memory()  # as measure does
    run(loaded, tokens[:1], first)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        np.save(found_path, run(loaded, tokens, first))
        print(tokens.size / (time.process_time() - began), flush=True)


def whole_machine(model: str, tokens_path: Path, cores: int, rounds: int, folder: Path) -> tuple[float, float]:
    start = folder / "start"
    command = [sys.executable, __file__, model, "--worker", str(tokens_path), "--rounds", str(rounds), "--start", str(start)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(cores)]
    while len(list(folder.glob("start.*"))) < cores:
        if any(process.poll() for process in running):
            raise SystemExit("a worker failed")
        time.sleep(0.05)
    start.touch()
    found = [json.loads(process.communicate()[0]) for process in running]
    return sum(one["clock"] for one in found), max(one["peak_mib"] for one in found)


def harness(python: str, threads: int, folder: Path, text: Path, rounds: int) -> list[dict]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, "-c", PEER, str(threads), str(folder), str(text), str(rounds)], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("ROUND ")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--peer-python", default="")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-machine", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", default="")
    parser.add_argument("--start", default="")
    parser.add_argument("--way", default="")
    given = parser.parse_args()
    if given.way:
        way(given.way, given.model, given.worker, given.start)
        return
    if given.worker:
        worker(given.model, given.worker, given.rounds, given.start)
        return
    from scalebound.data.tokenizer import load_tokenizer
    from scalebound.models import load_model

    torch.set_num_threads(1)
    tokenizer, source = load_tokenizer(given.model), Path(__file__).parents[2]
    text = "".join(path.read_text() for path in (source / "README.md", source / "docs" / "guide.md", source / "docs" / "mathematics.md"))
    ids = tokenizer.encode(text.encode()).astype(np.int64)[: given.tokens // CONTEXT * CONTEXT]
    tokens = ids.reshape(-1, CONTEXT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "tokens.npy", tokens)
        spent: dict[str, list[float]] = {}
        command = [sys.executable, __file__, given.model, "--worker", str(folder / "tokens.npy")]
        running = {name: subprocess.Popen([*command, "--way", name, "--start", str(folder / f"{name}.npy")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for name in WAYS}
        for number in range(given.rounds + 1):  # first they get ready, on one block
            for name, process in running.items():
                assert process.stdin is not None and process.stdout is not None
                if number:
                    process.stdin.write("go\n")
                line = process.stdout.readline()
                if not line:
                    raise SystemExit(f"{name} failed")
                if number:
                    spent.setdefault(name, []).append(float(line))
        for process in running.values():
            process.communicate()
        found = {name: np.load(folder / f"{name}.npy") for name in WAYS}
        losses = {name: float(values[0].mean()) for name, values in found.items()}
        model = load_model(given.model, dtype="bfloat16")
        peak, where = peak_gflops(), shares(model, tokens, model.first_token)
        params, shape = model.num_params, model.hidden.__self__.shape  # type: ignore[attr-defined]
        del model
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        machine, peak_mib = {}, 0.0
        together, peak_mib = whole_machine(given.model, folder / "tokens.npy", 1 if given.no_machine else cores, given.rounds, folder)
        if not given.no_machine:
            machine["ours bfloat16, a process per core"] = together
        if given.peer_python:
            (folder / "text.txt").write_text(text[: len(text) * given.tokens // len(tokenizer.encode(text.encode()))])
            (folder / "model").mkdir()
            export(given.model, folder / "model")
            rows = harness(given.peer_python, 1, folder / "model", folder / "text.txt", given.rounds)
            spent["harness bfloat16"], losses["harness bfloat16"] = [row["cpu"] for row in rows], rows[-1]["loss"]
            if not given.no_machine:
                rows = harness(given.peer_python, cores, folder / "model", folder / "text.txt", given.rounds)
                machine["harness bfloat16, all threads"] = float(np.median([row["clock"] for row in rows]))
    speed = {way: float(np.median(values)) for way, values in spent.items()}
    flops = 2 * params + 2 * shape.depth * shape.heads * shape.head_width * CONTEXT  # attention: 4 K H T/2 per layer
    ratios = {f"ours bfloat16 / {peer}": speed["ours bfloat16"] / speed[peer] for peer in ("loop float32", "loop bfloat16", "harness bfloat16") if peer in speed} | {"ours float32 / loop float32": speed["ours float32"] / speed["loop float32"]}
    if "harness bfloat16, all threads" in machine:
        ratios["whole machine: ours / harness"] = machine["ours bfloat16, a process per core"] / machine["harness bfloat16, all threads"]
    record = {
        "question": "tokens per second of processor time, one thread; whole machine: of the clock", "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/measure/run.py", *(Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:])]),
        "machine": f"{platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f}", "torch": torch.__version__, "transformers": _version("transformers"), "model": Path(given.model).name,
        "params": params, "tokens": int(tokens.size), "context": CONTEXT, "rounds": given.rounds,
        "tokens_per_second": {way: round(value, 1) for way, value in speed.items()}, "all": {way: [round(v, 1) for v in values] for way, values in spent.items()},
        "whole_machine_tokens_per_second": {way: round(value, 1) for way, value in machine.items()}, "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "matmul_peak_gflops": round(peak, 1), "flops_per_token": flops, "fraction_of_peak": round(speed["ours bfloat16"] * flops / (peak * 1e9), 3), "where_the_time_goes": where,
        "mean_loss": {way: round(value, 5) for way, value in losses.items()},
        "largest_difference_float32": {name: float(np.abs(a - b).max()) for name, a, b in zip(("nll", "entropy", "varentropy"), found["ours float32"], found["loop float32"], strict=True)},
        "peak_memory_mib": round(peak_mib), "peak_memory_wanted_mib": round((1.3 * 2 * params + 300e6) / 2**20),
        "left_out": ([] if given.peer_python else ["harness: no --peer-python"]) + (["whole machine: it was shared"] if given.no_machine else []),
    }  # fmt: skip
    text = json.dumps(record, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package) if importlib.util.find_spec(package) else ""


if __name__ == "__main__":
    main()
