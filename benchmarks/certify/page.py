"""Render docs/gallery/certify.md from the newest JSON that ``run.py`` wrote; ``--check`` only says whether it matches.

    python benchmarks/certify/page.py
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

HERE = Path(__file__).parent
TARGET = HERE.parent.parent / "docs" / "gallery" / "certify.md"


def table(headers: list[str], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers), *["| " + " | ".join(row) + " |" for row in rows]])


def price() -> list[str]:
    """What an anchor costs and buys (``price.py``)."""
    if not (HERE / "price.json").is_file():
        return []
    r = json.loads((HERE / "price.json").read_text())
    held, rows = r["heldout"], []
    for x in r["rows"]:
        terms = [f"{x['terms'][name]:+.3f}" for name in ("quantization", "smoothing", "complexity", "variance")]
        rows.append([percent(x["data_share"]), percent(x["compute_share"]), f"{x['anchor_params']:,}", f"{x['anchor_loss']:.3f}", f"{x['bits_per_parameter']:.2f}", *terms, f"{x['bound']:.3f}", f"**{x['distance']:+.3f}**", f"{x['anchor_bound'] - x['loss']:+.3f}"])
    return [
        "## The price of certainty (`train --anchor-slice`)",
        f"The rung of {held['params']:,} parameters on {held['tokens']:,} tokens, full-precision training loss {r['rows'][0]['loss']:.3f}. For each row an anchor was trained on a share of as many tokens, from documents apart "
        "(`python benchmarks/certify/price.py runs/demo`), the rounding was trained for the bound against that anchor (`compress --finetune --reference`), and the best certificate of a predictor that can be deployed was taken. Nats per byte at 99%.",
        table(["data", "compute", "anchor's parameters", "its loss", "bits per parameter", "quantization", "smoothing", "complexity", "variance", "bound", "bound minus loss", "anchor alone"], rows),
        "![Distance from training loss to bound against the share of data spent on the anchor](price.svg)",
        f"Without an anchor the product certificate of the demo's package is {held['product_distance']:+.3f} above. *Anchor alone* is the certificate of the anchor without the model: it never saw the tokens and pays for no code, so it is a held-out test of the smaller model, "
        f"{rows[0][-1]} at the least share and {rows[-1][-1]} at the end, where the anchor is as good as the model. There the mixture is still {r['rows'][-1]['anchor_bound'] - r['rows'][-1]['bound']:.3f} below it: two models of equal size predict better together than either. "
        f"The model's own loss on fresh documents is {held['heldout_loss'] - r['rows'][0]['loss']:+.3f} above its training loss, certified {held['heldout_bound'] - r['rows'][0]['loss']:+.3f}: those documents are harder than the stream, on which the anchor of equal size loses {r['rows'][-1]['anchor_loss'] - r['rows'][0]['loss']:+.3f} unseen. Quantization may be negative, because training the rounding goes on training the model, and smoothing, because what is mixed in is a model. "
        "Below a fifth no model of this rung's recipe is small enough.",
    ]


def intrinsic() -> list[str]:
    """The subspace a task needs (``intrinsic.py``)."""
    if not (HERE / "intrinsic.json").is_file():
        return []
    r = json.loads((HERE / "intrinsic.json").read_text())

    def found(x: dict, value: int | None) -> str:
        return f"{value:,}" if value is not None else f"above {x['rows'][-1]['dimension']:,}" if x["rows"] else "-"

    def said(value: float, vacuous: bool) -> str:
        return f"{value:.3f}{', vacuous' if vacuous else ''}"

    tasks = [
        [f"{x['params']:,}", x["task"], f"{x['items_trained']:,}; {x['steps']:,}", f"{x['loss_before']:.3f} ({x['accuracy_before']:.2f})", f"{x['loss_full']:.3f} ({x['accuracy_full']:.2f})",
         "; ".join(f"{y['dimension']:,}: {y['gain']:.2f} ± {y['high'] - y['gain']:.2f}" for y in x["rows"]), f"**{found(x, x['dimension'])}**", f"{x['above']:,}" if x["above"] is not None else "-", found(x, x["by_accuracy"])]
        for x in r["rows"]
    ]  # fmt: skip
    bounds = []
    for x in r["rows"]:
        at = next((y for y in x["rows"] if y["dimension"] == x["dimension"]), None)
        least = min(x["rows"], key=lambda y: y["ours"], default=None)
        shown = {y["dimension"]: y for y in (at, least) if y is not None}
        for d, y in shown.items():
            bounds.append([f"{x['params']:,}", x["task"], f"{d:,}{' (d90)' if d == x['dimension'] else ''}", f"{y['items']:,}", f"{y['file_bytes']:,} ({y['header_bytes']})", f"{y['error']:.3f}", said(y["ours"], y["vacuous"]), said(y["from_dimension"], y["from_dimension_vacuous"]), f"{y['held_out']:.3f}", f"{y['guessing']:.3f}"])
    alike: dict[tuple, list[float]] = {}
    for x in sorted(r["rows"], key=lambda x: x["params"]):
        alike.setdefault((x["task"], x["items_trained"], x["steps"]), []).append(x["dimension"] or math.inf)
    pairs = [values for values in alike.values() if len(values) > 1]
    return [
        "## Intrinsic dimension of small tasks (`probe dimension`)",
        "Multiple-choice items drawn from the lines of the standard library: which module a line is from, which word it begins with, how the next line is indented (`python benchmarks/certify/intrinsic.py`, which says how the models were trained). "
        "Each model is trained on two thirds of the items with all of its weights and in random subspaces of growing dimension, with the same steps and batches; r(d) is the share of the gain in held-out loss (nats an item; accuracy in parentheses), d90 the smallest dimension tried with r of at least 0.9, "
        "*shown above* the largest whose interval (95%, all of a row together) lies below. By accuracy: the smallest with 0.9 times the accuracy of all weights, the papers' measure.",
        table(["parameters", "task", "items; steps", "before", "all weights", "d: r(d)", "d90", "shown above", "by accuracy"], tasks),
        "![Share of the gain against the dimension of the subspace](intrinsic.svg)",
        f"The larger base has the smaller d90 in {sum(values[-1] < values[0] for values in pairs)} of {len(pairs)} tasks: the papers' fall of d90 with size, seen among models of 10^8 and more parameters, is not seen between these two. Where r exceeds 1 a subspace did better on the held-out items than all weights did. "
        "Every dimension has the same learning rate and one random subspace, which the intervals hold fixed: how far others would move r was not measured.",
        "What the rounded vectors prove about the error on new items, 95%: ours is the binomial bound that pays for every byte of the file, header included, and holds for all files at once; *from d* is Theorem 1 of Aghajanyan et al. (arXiv 2012.13255) with the constants of Hoeffding's inequality, "
        "`error + sqrt((d log r + log 20)/(2 m))`, for r levels and m items, r and the scale not paid for; *held out* sees the other third. Shown are d90 and the dimension with the least bound of ours, which costs nothing to pick. At or above the error of guessing a bound says nothing.",
        table(["parameters", "task", "d", "items", "bytes (header)", "error", "ours", "from d", "held out", "guessing"], bounds),
    ]


def relative() -> list[str]:
    """A downloaded model certified relative to itself (``smollm2_base.py``)."""
    if not (HERE / "smollm2_base.json").is_file():
        return []
    x = json.loads((HERE / "smollm2_base.json").read_text())
    time = {stage: f"{used['processor'] / 60:.1f}" for stage, used in x["seconds"].items()}
    return [
        "## SmolLM2-135M relative to its base (`compress --base`)",
        f"One pass over {x['tokens']:,} tokens of this project's documentation, which the base cannot have seen, in a random subspace of {x['dim']} of its {x['params'] / 1e6:.0f}M dimensions (`python benchmarks/certify/smollm2_base.py MODEL.gguf --tokens {x['tokens']} --dim {x['dim']} --windows-tried {x['windows_tried']}`: half as many were tried before, a choice that is paid). "
        f"The package of the delta is {x['code_bits']:,} bits. Loss of the base {x['base_loss']:.3f}, of the rebuilt fine-tuned model {x['loss']:.3f}, of the certified mixture of both (alpha {x['alpha']:g}) {x['mixture_loss']:.3f}; bound, anchored on the base, {x['bound']:.3f}: "
        f"**{x['distance']:+.3f}** above the fine-tuned training loss, of which {x['anchor_certified'] - x['base_loss']:.3f} is what {x['tokens']:,} tokens leave open about the base alone. The independent checker rebuilt the model from base and package and found that the certificate {'holds' if x['holds'] else 'does not hold'}. "
        f"Nats per token at 99%. Minutes of one core: training {time['train']}, scoring both models {time['measure']}, checking {time['verify']}. So few dimensions and steps gain little: what is shown is what a certificate costs beside its base, not what fine-tuning can do.",
    ]


def surveyed(r: dict) -> list[str]:
    """Published bounds beside ours, each with what it is about and what it assumes."""
    rows = [[x["name"], *([f"{x['value']:.3f}", f"{x['above_the_loss']:+.3f}"] if x["value"] is not None else ["-", "-"]), x["reason"] or ("vacuous" if x["vacuous"] else ""), x["target"], x["assumes"], str(x["seconds"])]
            for x in r["lines"]]  # fmt: skip
    return [
        "## What others promise (`certify --survey`)",
        f"The rung of {r['params']:,} parameters, {r['tokens']:,} tokens, the demo's package; nats per byte at 99%, each above the measured loss of the package. Bounds of weights are for the run itself (`--weights RUN`: 768 passes with noise, which their seconds leave out).",
        table(["bound", "nats", "above the loss", "", "about", "assumes", "seconds"], rows),
    ]


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def page(r: dict) -> str:
    parts = [
        "# Certificates and tests, measured",
        f"Written by `python benchmarks/certify/page.py` from `{newest().name}`, which `python benchmarks/certify/run.py runs/demo` measured on a shared machine ({r['machine']}).",
    ]
    if "ladder" in r:
        parts += ["## Every form on the demo ladder (`certify --best`)", "Same package and tokens; alpha picked from the same list of 8 and paid. Bounds in nats per byte at 99%.",
                  table(["parameters", "loss", "package's loss", "published form", "product", "best of all", "product's gap below the published", "the same, 4-bit rounding", "best minus loss", "published minus loss"],
                        [[f"{x['params']:,}", f"{x['full_precision_loss']:.3f}", f"{x['package_loss']:.3f}", f"{x['freedman']:.3f}", f"{x['product']:.3f}", f"{x['best']:.3f} ({x['best_method']})",
                          percent(x["product_gap_below_freedman"]), percent(x["product_gap_below_freedman_rounded"]), f"{x['best_above_full_precision']:+.3f}", f"{x['freedman_above_full_precision']:+.3f}"] for x in r["ladder"]]),
                  "The two forms differ by terms of second order in the code length per token: on plainly rounded packages (the published way, 4 bits a parameter and more) the product form saves the more, on the short packages trained for their certificates the less. A bound below the loss is no error: the certified predictor is mixed with the anchor, which at small sizes is the better of the two."]  # fmt: skip
    parts += price() + intrinsic() + relative()
    if "survey" in r:
        parts += surveyed(r["survey"])
    if "quantized" in r:
        q = r["quantized"]
        parts += ["## Float against quantized (`compare`)", f"Over {q['n']:,} tokens the float model loses {-q['difference']:.4f} nats less than its package, 95% interval [{-q['high']:.4f}, {-q['low']:.4f}], e-value exp({q['log_e_value']:.0f})."]
    if "speed" in r:
        rows = [[f"{v['tokens']:,}", str(v["one alpha"]), str(v["list of 8"])] for v in (r["speed"], r.get("speed_large")) if v]
        parts += ["## Speed of a certificate", "Processor seconds on one thread for the product form with four centres (`run.py --only speed,speed_large --large`). With the list, alpha is chosen on a sample of the tokens, so it costs little more.", table(["tokens", "one alpha", "list of 8"], rows)]
    if "intervals" in r:
        x = r["intervals"]
        names = list(next(iter(x["widths"].values())))
        parts += ["## Anytime intervals (`interval`)", f"Width over that of the normal approximation at n = {x['n']:,}, losses at most 8 nats, 95%.",
                  table(["losses", *names], [[k, *[f"{v[n]:.2f}" for n in names]] for k, v in x["widths"].items()]),
                  f"Misses of {x['misses']['trials']} streams of {x['misses']['n']:,} losses, whose mean moves from 1 to 4 half-way (drift) or does not; 5% are allowed. The two rival forms assume a mean that stays.",
                  table(["", *x["misses"]["drift"]], [[k, *map(str, x["misses"][k].values())] for k in ("no drift", "drift")])]  # fmt: skip
    if "false_alarms" in r:
        x = r["false_alarms"]
        names = list(next(iter(x["levels"].values())))
        parts += ["## Detection: false alarms", f"{x['trials']:,} texts of {x['n']} tokens that were sampled from the model itself.", table(["level", *names], [[k, *[percent(v[n]) for n in names]] for k, v in x["levels"].items()])]
    if "power" in r:
        x = r["power"]
        rows = []
        for name, lengths in x["rejected"].items():
            for key in ("share", "share, B known", "normal"):
                if key in lengths["256"]:
                    rows.append([name, {"share": "exact, anytime", "share, B known": "exact, B known", "normal": "normal, that length only"}[key], *[percent(lengths[n][key]) for n in ("32", "64", "128", "256")]])
        parts += ["## Detection: power against length (`detect`)", f"Share of {x['documents']} documents found not to be sampled from A ({x['model']} parameters) at level {x['level']}; B has {x['B']} parameters.", table(["text", "test", "32", "64", "128", "256"], rows)]
    if "contamination" in r:
        x = r["contamination"]
        parts += ["## Contamination", f"{x['items']} lines as a test set in {x['shards']} shards, {x['orders']} random orders each; the largest rung before and after training on the published file.",
                  table(["epochs", "advantage (nats a shard)", "p by rank", "p anytime", "verdict"], [[k, f"{v['advantage']:+.2f}", f"{v['permutation_p']:.3f}", f"{v['p_value']:.2g}", v["verdict"]] for k, v in x["epochs"].items()])]  # fmt: skip
    if "holdout" in r:
        x = r["holdout"]
        parts += ["## A holdout asked 10,000 times (`holdout`)", f"The setting of Dwork et al. 2015 without signal: {x['n']:,} items a set, {x['d']:,} Gaussian features, labels are coins, so no classifier is better than 0.5.",
                  table(["features", "training", "naive holdout says", "on fresh items", "Thresholdout says", "on fresh items"],
                        [[k, percent(v["naive"]["training"]), percent(v["naive"]["said"]), percent(v["naive"]["fresh"]), percent(v["guarded"]["said"]), percent(v["guarded"]["fresh"])] for k, v in x["by_features"].items()]),
                  f"{x['spent']} of {x['budget']} answers came from the holdout. The error proven for all answers at once is {x['stated_error']:.3f}: the guarantee is far more careful than this analyst needs. Budgets for 1,000 questions (threshold 0.02): "
                  + "; ".join(f"{k}: {v if v is not None else 'none'}" for k, v in x["budgets"].items()) + "."]  # fmt: skip
    if "programs" in r:
        x = r["programs"]
        parts += ["## Prediction sets of programs (`prediction-set`)", f"{x['model']} predicts the return line of {x['items']} standard-library functions; {percent(x['exact'])} are exactly right. Half calibrates, the other half is counted. What is kept counts the part of the function that was given.",
                  table(["allowed to miss", "covered", "of a program kept"], [[percent(v["epsilon"]), percent(v["covered"]), percent(v["kept"])] for v in x["settings"]])]  # fmt: skip
        parts += [f"```python\n{text}\n```" for text in x.get("shown", [])]
    if "prompts" in r:
        x = r["prompts"]
        parts += ["## Prompts (`certify-prompt`)", f"Which of {', '.join(x['classes'])} does a sentence of documentation belong to: {x['items']} items, always guessing the largest class errs on {percent(x['chance_error'])}. Bounds at 95%."
                  + (" No prompt beats that guess: the model is too small for the task, and the bounds say so." if min(v["error"] for v in x["rows"]) >= x["chance_error"] else ""),
                  table(["prompt", "error", "bits", "bound", "bound, uniform prior"], [[f"`{v['prompt']!r}`", percent(v["error"]), str(v["bits"]), f"{v['bound']:.3f}", f"{v['uniform']:.3f}"] for v in x["rows"]]),
                  f"Choosing on one half and certifying on the other gives {x['heldout_bound']:.3f}. For a list of six a uniform prior is the shorter code; a language model's is for prompts that nobody listed beforehand."]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def newest() -> Path:
    return max(HERE.glob("20*.json"))


def main() -> int:
    text = page(json.loads(newest().read_text()))
    if "--check" in sys.argv:
        return int(TARGET.read_text() != text)
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
