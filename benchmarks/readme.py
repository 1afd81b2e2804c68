"""Render tables of the README and of pages in docs from the JSON that benchmarks and the demo wrote; ``--check`` only says whether they match.

    python benchmarks/readme.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
METHODS = ("freedman", "product", "anchored", "heldout", "trajectory")


def markdown(headers: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(headers) + " |", "|" + "---:|" * len(headers)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def ladder(demo: dict) -> str:
    headers = ["parameters", "tokens", "training loss", "held-out loss", "loss of the package", "file (bytes)", "bits per parameter"]
    return markdown(headers, [[f"{r['params']:,}", f"{r['tokens']:,}", f"{r['train_loss']:.3f}", f"{r['heldout_loss']:.3f}", f"{r['quantized_loss']:.3f}", f"{r['file_bytes']:,}", f"{r['bits_per_parameter']:.2f}"] for r in demo["rungs"]])


def bounds(demo: dict) -> str:
    def cell(entry: dict) -> str:
        return f"{entry['bound']:.3f}" + (" (vacuous)" if entry["vacuous"] else "") + ("" if entry["verified"] else " (not verified)")

    return markdown(["parameters", "freedman, plain 4-bit rounding", *METHODS], [[f"{r['params']:,}", cell(r["rounded"]["certificate"]), *[cell(r["certificates"][m]) for m in METHODS]] for r in demo["rungs"]])


def forecasts(demo: dict) -> str:
    rows = []
    for f in demo["forecasts"]:
        p = f["prediction"]
        inside = "yes" if p["low"] <= f["truth"] <= p["high"] else "no"
        rows.append([f["target"], f"{p['value']:.3f}", f"{p['low']:.3f} to {p['high']:.3f}", f"{f['truth']:.3f}", f"{100 * (p['value'] / f['truth'] - 1):+.1f}%", inside])
    return markdown(["quantity", "forecast", "95% interval", "what happened", "error", "inside"], rows)


def scaling(bench: dict) -> str:
    """The scaling engine beside its peers, one row a job."""
    r = bench["results"]
    fit, draws, gems = r["chinchilla_fit"], r["bootstrap_4000"], r["gemstones"]["ours"]
    ours = fit["ours"]
    rows = [["chinchilla fit, 240 runs", "scalebound", f"{ours['seconds'] * 1e3:.0f} ms", f"{ours['cpu_seconds'] * 1e3:.0f} ms of CPU; objective {ours['objective']:.13f}, optimum {'established' if ours['established'] else 'not established'}"]]
    for name in ("grid of 4,500 starts", "grid of 1,024 starts"):
        peer = fit[name]
        rows.append(["", f"{name}, L-BFGS-B", f"{peer['seconds']:.1f} s", f"objective {peer['objective']:.13f}; {peer['share_within_1e-3']:.0%} of the starts within 0.1%"])
    if "PyPI chinchilla" in fit:
        peer = fit["PyPI chinchilla"]
        rows.append(["", f"PyPI chinchilla, {peer['starts']} starts", f"{peer['seconds']:.1f} s", f"objective {peer['objective_here']:.13f}"])
    rows.append(["4,000 bootstrap refits", "scalebound", f"{draws['ours']['seconds']:.1f} s", f"{draws['ours']['resamples_worse_than_peer_by_1e-6']} resamples worse than the peer's by 1e-6"])
    peer = draws["one L-BFGS-B start each"]
    rows.append(["", "one L-BFGS-B start each", f"{peer['seconds']:.1f} s", f"{peer['resamples_worse_than_ours_by_1e-6']:,} resamples worse than ours by 1e-6"])
    rows.append(["`scalebound fit`, 1,000 draws, whole process", "scalebound", f"{r['fit_process_1000']['ours']['seconds']:.2f} s", f"with the backtest that widens intervals; {r['fit_process_1000']['ours']['cpu_seconds']:.2f} s of CPU, load {r['fit_process_1000']['ours']['load']:.1f} on two cores"])
    for name, quoted in r["fit_process_1000"].items():
        if name != "ours":
            rows.append(["", name, f"{quoted['quoted_seconds']} s", f"published figure, squared error; {quoted['reason']}"])
    rows.append(["isoFLOP fit and 1,000 noisy copies", "scalebound", f"{r['isoflop_1000']['ours']['seconds'] * 1e3:.0f} ms", f"exponent {r['isoflop_1000']['ours']['exponent']:.4f}"])
    for size, one in r["multipower"]["ours"].items():
        rows.append([f"multi-power fit, three curves, {size}", "scalebound", f"{one['seconds']:.1f} s", f"objective {one['objective']:.3e}"])
    for name, one in gems.items():
        rows.append([f"Gemstones, {name}", "scalebound", f"{one['seconds'] * 1e3:.0f} ms", f"objective {one['objective']:.6e}, published {one['published']:.6e}"])
    return markdown(["job", "program", "time", "result"], rows)


def measure(bench: dict) -> str:
    """`measure` beside what people use: tokens per second per core, and on the whole machine."""
    speed, ours = bench["tokens_per_second"], bench["tokens_per_second"]["ours bfloat16"]
    gives = {"loop": "loss, entropy, variance", "harness": "loss", "ours": "loss, entropy, variance"}
    words = {"loop": "transformers and log_softmax", "harness": "lm-evaluation-harness, rolling", "ours": "scalebound measure"}
    rows = [["one core", f"{words[way.split()[0]]}, {way.split()[1]}", gives[way.split()[0]], f"{value:,.0f}", f"{ours / value:.2f}"] for way, value in sorted(speed.items(), key=lambda item: item[1])]
    machine = bench["whole_machine_tokens_per_second"]
    best = machine.get("ours bfloat16, a process per core", 0.0)
    rows += [["whole machine", f"{words[way.split()[0]]}, {way.split(maxsplit=1)[1]}", gives[way.split()[0]], f"{value:,.0f}", f"{best / value:.2f}"] for way, value in sorted(machine.items(), key=lambda item: item[1])]
    return markdown(["", "program", "gives", "tokens/s", "ours in bfloat16 is this many times as fast"], rows)


def compression(bench: dict) -> str:
    """Added loss against the bits of real files: a row a file."""
    rows = []
    for name, model in bench["models"].items():
        for k, row in enumerate(model["rows"]):
            d = row["difference"]
            rows.append([name if k == 0 else "", row["way"], f"{row['bits']:.3f}", f"{row['file_bytes']:,}", f"{row['added']:+.3f}", f"{d['low']:+.3f} to {d['high']:+.3f}"])
    return markdown(["model", "rounding", "bits per parameter", "file (bytes)", "added loss", "95% interval, mixed with 1% of each other"], rows)


def formats(bench: dict) -> str:
    """A model in other programs' formats, as they store it and in a package that keeps it: a row a format."""
    rows = [[r["format"], r["quantized"], f"{r['stored_bits']:.3f}", f"{r['bits']:.3f}", f"{r['package_bytes']:,}", f"{r['package_bytes'] / r['stored_bytes'] - 1:+.1%}", f"{r['loss']:.4f}"] for r in bench["rows"]]
    return markdown(["format", "what is quantized", "bits per parameter as stored", "in the package", "package (bytes)", "change", "loss"], rows)


def train(bench: dict) -> str:
    """`train` beside a plain loop on the same shapes; parts that were not run have no row."""
    rows = []
    for one in bench.get("single", ()):
        speed = one["tokens_per_second"]
        rows.append([f"single run, {one['params']:,} parameters", f"{speed['ours']:,.0f} tokens/s ({one['precision']})", f"{speed['loop']:,.0f} tokens/s", f"{one['ratio']:.2f} times; {one['share_of_peak']:.0%} of the matrix product's peak"])
    if "ladder" in bench:
        found = bench["ladder"]
        rows.append([f"ladder of {found['rungs']} rungs on {found['cores']} cores", f"{found['ours_s']:,.0f} s", f"{found['loop_s']:,.0f} s", f"{found['ratio']:.2f} times"])
    if "loss" in bench:
        found = bench["loss"]
        rows.append([f"loss, {found['params']:,} parameters, {found['tokens']:,} tokens", f"{found['ours']:.3f}", f"{found['loop_best']:.3f}, best of {len(found['loop'])} rates", f"{found['ours'] - found['loop_best']:+.3f} nats"])
    for one in bench.get("compile", ()):
        speed = one["tokens_per_second"]
        rows.append([f"passes compiled, {one['params']:,} parameters", f"{speed['compiled']:,.0f} tokens/s", f"ours, not compiled: {speed['plain']:,.0f} tokens/s", f"{one['ratio']:.2f} times; over five minutes, compiling included, {one['five_minutes']:.2f}"])
    return markdown(["", "scalebound train", "plain loop", ""], rows)


def peers(bench: dict) -> str:
    """Quantizers people use, on the body of one model; those that do not run here with their reason."""
    rows = []
    for row in bench["rows"]:
        if "absent" in row:
            rows.append([row["way"], "", "", f"not run: {row['absent'].partition(':')[2].strip()}"])
        else:
            d = row["difference"]
            rows.append([row["way"], f"{row['bits']:.2f}", f"{row['added']:+.3f}", f"{d['low']:+.3f} to {d['high']:+.3f}"])
    return markdown(["quantizer", "bits per parameter, all of them", "added loss", "95% interval, mixed with 1% of each other"], rows)


def sparsity(bench: dict) -> str:
    """Zeros made in time and after: a row a way and share, a column a length of file."""
    lengths = [file["target_bits"] for file in bench["rows"][0]["files"]]
    rows = [[row["way"], f"{row['sparsity']:.0%}", "" if row["loss"] is None else f"{row['loss']:.3f}", *[f"{file['loss']:.3f} ({file['bits']:.2f})" for file in row["files"]]] for row in bench["rows"]]
    return markdown(["zeros made", "share", "loss before rounding", *[f"loss at {bits:g} bits (of the file)" for bits in lengths]], rows)


def structure(bench: dict) -> str:
    """Choices of levels, shares and modules, each file of the same length: a row a file; bold, the best of each and what cannot be told from it."""
    rows = []
    for name, model in bench["models"].items():
        best = min(row["added"] for row in [row for row in model["rows"] if "behind" in row] or model["rows"])
        for k, row in enumerate(model["rows"]):
            d, behind = row["difference"], row.get("behind")
            apart = "the best" if row["added"] == best else "" if behind is None else f"{behind['low']:+.3f} to {behind['high']:+.3f}" + (", a tie" if behind["low"] <= 0 else "")
            bold = "**" if apart == "the best" or apart.endswith("tie") else ""
            judged = f"{row['calibration_loss']:.3f}" if "calibration_loss" in row else ""
            rows.append([name if k == 0 else "", f"{bold}{row['way']}{bold}", f"{row['bits']:.3f}", f"{row['file_bytes']:,}", f"{bold}{row['added']:+.3f}{bold}", f"{d['low']:+.3f} to {d['high']:+.3f}", apart, judged, f"{row['search_s']:.0f} s" if "search_s" in row else ""])
    headers = ["searched", "way", "bits per parameter", "file (bytes)", "added loss, unseen text", "95% interval", "behind the best", "loss of the choice, calibration text", "search"]
    return markdown(headers, rows)


def blind(tries: dict) -> str:
    """Largest rungs forecast before they were trained, every try of them."""
    rows = []
    for one in tries.values():
        found, known = one["forecast"]["largest"], sorted({row["params"] for row in one["forecast"]["rows"]})
        rows.append([f"{found['params']:,}", f"{len(one['forecast']['rows'])} runs of {known[0]:,} to {known[-1]:,}", f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]", one["stamp"]["at"], f"{one['truth']:.3f}", f"{one['error']:+.2%}", "yes" if one["inside"] else "no"])
    return markdown(["parameters", "forecast from", "forecast, 95% interval", "made at", "held-out loss", "error", "inside"], rows)


def frontier(bench: dict) -> str:
    """Packages of one rung, other programs' quantizers among them: a row a file, the best bound in bold."""
    words = {"rtn": "plain, step {setting:g}", "gptq": "calibrated", "beside": "{name}"}
    rows = []
    for point in sorted(bench["points"], key=lambda point: point["bits_per_parameter"]):
        stored = "" if point["stored_bits"] is None else f"{point['stored_bits']:.2f}"
        row = [words[point["way"]].format(**point), f"{point['file_bytes']:,}", f"{point['bits_per_parameter']:.3f}", stored, f"{point['loss']:.3f}", f"{point['loss'] - bench['full_loss']:+.3f}", f"{point['bound']:.3f}" + (" (vacuous)" if point["vacuous"] else "")]
        rows.append([f"**{cell}**" if cell and point["name"] == bench["best"] else cell for cell in row])
    return markdown(["package", "bytes", "bits per parameter", "as the peer stores it", "loss", "over full precision", "certified bound"], rows)


def trained(results: dict) -> str:
    """Packages trained for their certificates for longer than in the demo."""
    rows = []
    for row in sorted(results["rows"], key=lambda row: (row["params"], row["objective"], row["steps"])):
        passes = row["tokens_seen"] / row["tokens"]
        rows.append([f"{row['params']:,}", row["objective"], f"{row['price']:.3g}", f"{row['steps']:,} of 2 ({passes:.1f})", f"{row['seconds']:.0f} s", f"{row['bits_per_parameter']:.2f}", f"{row['added_loss']:+.3f}",
                     f"{row['product']:.3f}", f"{row['product_ratio']:.2f}", f"{row['best']:.3f}", f"{row['best_ratio']:.2f}"])  # fmt: skip
    return markdown(["parameters", "objective", "price", "steps (passes)", "time", "bits per parameter", "added loss", "product", "of the paper's", "anchored", "of the paper's"], rows)


def further(results: dict) -> str:
    """Trials of further ways of training for the certificate, each trial's seeds on one row."""
    rows = []
    trials: dict[str, list[dict]] = {}
    for row in results["rows"]:
        trials.setdefault(row["trial"], []).append(row)
    for name, seeds in trials.items():
        columns = [[f"{row['added_loss']:+.3f}", f"{row['bits']:.3f}", f"{row['product']:.3f}"] for row in seeds]
        rows.append([name, seeds[0]["what"], f"{seeds[0]['steps']:,}", f"{seeds[0]['seconds']:.0f} s", *(", ".join(column) for column in zip(*columns, strict=True))])
    return markdown(["trial", "what", "steps", "time", "added loss", "bits per parameter", "product"], rows)


PAGES = {
    "README.md": {
        "compression": ("compress/results.json", compression), "train": ("train/results.json", train), "measure": ("measure/results.json", measure), "scaling": ("scaling/results.json", scaling),
        "ladder": ("demo/demo.json", ladder), "bounds": ("demo/demo.json", bounds), "forecasts": ("demo/demo.json", forecasts),
    },
    "docs/training.md": {"blind": ("train/blind.json", blind)},
    "docs/gallery/compression.md": {
        "frontier": ("compress/frontier.json", frontier), "trained": ("compress/trained.json", trained), "further": ("compress/further.json", further), "peers": ("compress/peers.json", peers),
        "sparsity": ("compress/sparsity.json", sparsity), "structure": ("compress/structure.json", structure), "formats": ("compress/formats.json", formats),
    },
}  # fmt: skip


def render(page: str) -> str:
    """A page with every table drawn anew."""
    text = (ROOT / page).read_text()
    for name, (source, draw) in PAGES[page].items():
        content = draw(json.loads((ROOT / "benchmarks" / source).read_text()))
        text, count = re.subn(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{page} has {count} places for the table {name!r}")
    return text


if __name__ == "__main__":
    for page in PAGES:
        drawn = render(page)
        if "--check" not in sys.argv:
            (ROOT / page).write_text(drawn)
        elif drawn != (ROOT / page).read_text():
            sys.exit(f"{page} does not match its data: run python benchmarks/readme.py")
