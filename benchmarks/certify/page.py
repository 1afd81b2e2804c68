"""Render docs/gallery/certify.md from the newest JSON that ``run.py`` wrote; ``--check`` only says whether it matches.

    python benchmarks/certify/page.py
"""

from __future__ import annotations

import json
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
        rows.append([percent(x["data_share"]), percent(x["compute_share"]), f"{x['anchor_params']:,}", f"{x['anchor_loss']:.3f}", f"{x['bits_per_parameter']:.2f}", *terms, f"{x['bound']:.3f}", f"**{x['distance']:+.3f}**"])
    return [
        "## The price of certainty (`train --anchor-slice`)",
        f"The rung of {held['params']:,} parameters on {held['tokens']:,} tokens, full-precision training loss {r['rows'][0]['loss']:.3f}. For each row an anchor was trained on a share of as many tokens, from documents apart "
        "(`python benchmarks/certify/price.py runs/demo`), the rounding was trained for the bound against that anchor (`compress --finetune --reference`), and the best certificate of a predictor that can be deployed was taken. Nats per byte at 99%.",
        table(["data", "compute", "anchor's parameters", "its loss", "bits a parameter", "quantization", "smoothing", "complexity", "variance", "bound", "bound minus loss"], rows),
        "![Distance from training loss to bound against the share of data spent on the anchor](price.svg)",
        f"Without an anchor the product certificate of the demo's package is {held['product_distance']:+.3f} above. The model's own loss on fresh documents is {held['heldout_loss'] - r['rows'][0]['loss']:+.3f} above its training loss "
        "(quantization may be negative: training the rounding goes on training the model). An anchor as good as the model brings the certificate to where a held-out test of it is. Below a fifth no model of this rung's recipe is small enough.",
    ]


def intrinsic() -> list[str]:
    """The subspace a task needs (``intrinsic.py``)."""
    if not (HERE / "intrinsic.json").is_file():
        return []
    r = json.loads((HERE / "intrinsic.json").read_text())
    rows = []
    for x in r["rows"]:
        c = x.get("certificate")
        rows.append([f"{x['params']:,}", x["task"], f"{x['loss_first']:.3f}", f"{x['loss_full']:.3f}", *[f"{x['subspace'][str(d)]:.3f}" if str(d) in x["subspace"] else "-" for d in r["dims"]],
                     str(x["d90"] or f"above {r['dims'][-1]:,}"), *([f"{c['loss']:.3f}", f"{c['code_bits']:,}", f"{c['bound']:.3f}", f"{c['bound_from_d']:.3f}"] if c else ["-"] * 4)])  # fmt: skip
    return [
        "## Intrinsic dimension of small tasks (`train --adapter subspace:DIM`)",
        f"Rungs of the demo fine-tuned in one pass over {r['rows'][0]['tokens']:,} tokens of another text: online loss of the first hundredth, of the last tenth with all weights, and with a vector in a random subspace. d90 is the smallest dimension tried that gains 90% of what all weights gain. "
        "Its vector, rounded and packaged, is certified relative to the base and anchored on it; beside, the compression bound from d of Aghajanyan et al. (`python benchmarks/certify/intrinsic.py runs/demo`).",
        table(["parameters", "task", "before", "all weights", *[f"d = {d:,}" for d in r["dims"]], "d90", "loss at d90", "code bits", "our bound", "bound from d"], rows),
    ]


def relative() -> list[str]:
    """A downloaded model certified relative to itself (``smollm2_base.py``)."""
    if not (HERE / "smollm2_base.json").is_file():
        return []
    x = json.loads((HERE / "smollm2_base.json").read_text())
    return [
        "## SmolLM2-135M relative to its base (`compress --base`)",
        f"One pass over {x['tokens']:,} tokens of this project's documentation in a random subspace of {x['dim']} of its {x['params'] / 1e6:.0f}M dimensions (`python benchmarks/certify/smollm2_base.py MODEL.gguf`; settings fixed before, none tuned). "
        f"The package of the delta is {x['code_bits']:,} bits. Loss of the base {x['base_loss']:.3f}, of the rebuilt fine-tuned model {x['loss']:.3f}{'' if x['loss'] < x['base_loss'] - 0.01 else ' (so few steps in so few dimensions gained nothing)'}; bound, anchored on the base, {x['bound']:.3f}: {x['distance']:+.3f} above the fine-tuned loss, "
        f"of which {x['anchor_certified'] - x['base_loss']:.3f} is what {x['tokens']:,} tokens leave open about the base alone (its own certified loss is {x['anchor_certified']:.3f}). More tokens lower both; these were what the machine's time allowed. Nats per token at 99%.",
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
