"""Write docs/gallery/scaling.md and its figures from the data in examples/data, by running the commands it shows.

    python docs/gallery/make.py

Every number on the page is printed by a command or computed here from saved fits; nothing is typed in. Figures are plain SVG.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import shlex
import tempfile
from pathlib import Path

import numpy as np

from scalebound import scaling
from scalebound.cli import main
from scalebound.scaling.table import select, to_csv

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
DATA = "examples/data"
COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8d5a97", "#b08900", "#444444")


class Figure:
    """One panel of points, curves and bands on logarithmic or linear axes, as SVG."""

    def __init__(self, title: str, x_label: str, y_label: str, *, log_x: bool = True, log_y: bool = False) -> None:
        self.title, self.x_label, self.y_label, self.log_x, self.log_y = title, x_label, y_label, log_x, log_y
        self.items: list[tuple[str, np.ndarray, np.ndarray, np.ndarray | None, str, str]] = []

    def points(self, x, y, colour: str, label: str = "") -> None:
        self.items.append(("points", np.asarray(x, float), np.asarray(y, float), None, colour, label))

    def line(self, x, y, colour: str, label: str = "") -> None:
        self.items.append(("line", np.asarray(x, float), np.asarray(y, float), None, colour, label))

    def band(self, x, low, high, colour: str, label: str = "") -> None:
        self.items.append(("band", np.asarray(x, float), np.asarray(low, float), np.asarray(high, float), colour, label))

    def save(self, path: Path) -> None:
        width, height, left, right, top, bottom = 640, 400, 66, 16, 34, 46

        def scale(values, log):
            return np.log10(values) if log else values

        xs = np.concatenate([scale(item[1], self.log_x) for item in self.items])
        ys = np.concatenate([scale(part, self.log_y) for item in self.items for part in (item[2], item[3]) if part is not None])
        (x0, x1), (y0, y1) = (xs.min(), xs.max()), (ys.min(), ys.max())
        x0, x1 = x0 - 0.03 * (x1 - x0 or 1), x1 + 0.03 * (x1 - x0 or 1)
        y0, y1 = y0 - 0.05 * (y1 - y0 or 1), y1 + 0.05 * (y1 - y0 or 1)

        def px(x):
            return left + (scale(x, self.log_x) - x0) / (x1 - x0) * (width - left - right)

        def py(y):
            return height - bottom - (scale(y, self.log_y) - y0) / (y1 - y0) * (height - top - bottom)

        out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
        ]
        out.append(f'<text x="{left}" y="20" font-size="14">{self.title}</text>')
        for value in ticks(x0, x1, self.log_x):
            at = px(np.array(value))
            out.append(
                f'<line x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{height - bottom}" stroke="#e5e5e5"/><text x="{at:.1f}" y="{height - bottom + 16}" text-anchor="middle">{tick(value)}</text>'
            )
        for value in ticks(y0, y1, self.log_y):
            at = py(np.array(value))
            out.append(
                f'<line x1="{left}" y1="{at:.1f}" x2="{width - right}" y2="{at:.1f}" stroke="#e5e5e5"/><text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{tick(value)}</text>'
            )
        labels = []
        for kind, x, y, high, colour, label in self.items:
            if kind == "points":
                out += [
                    f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6" fill="{colour}" fill-opacity="0.75"/>'
                    for a, b in zip(px(x), py(y), strict=True)
                ]
            elif kind == "line":
                out.append(
                    f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px(x), py(y), strict=True))}"/>'
                )
            else:
                corners = [*zip(px(x), py(y), strict=True), *reversed(list(zip(px(x), py(high), strict=True)))]
                out.append(f'<polygon fill="{colour}" fill-opacity="0.18" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}"/>')
            if label:
                labels.append((label, colour))
        for k, (label, colour) in enumerate(labels):
            out.append(
                f'<rect x="{width - 230}" y="{top + 8 + 17 * k}" width="10" height="10" fill="{colour}"/><text x="{width - 215}" y="{top + 17 + 17 * k}">{label}</text>'
            )
        out.append(f'<text x="{(left + width - right) / 2}" y="{height - 10}" text-anchor="middle">{self.x_label}</text>')
        out.append(
            f'<text transform="translate(16 {(top + height - bottom) / 2}) rotate(-90)" text-anchor="middle">{self.y_label}</text></svg>'
        )
        path.write_text("\n".join(out) + "\n")


def ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        whole = [10.0**k for k in range(math.ceil(low), math.floor(high) + 1)]
        return whole if len(whole) >= 2 else [float(f"{10**v:.2g}") for v in np.linspace(low, high, 4)]
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 7)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def tick(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.0e}".replace("e+0", "e").replace("e+", "e") if value >= 1e5 or abs(value) < 1e-3 else f"{value:g}"


class Page:
    """Markdown with commands that are run as they are written."""

    def __init__(self, folder: Path) -> None:
        self.lines: list[str] = []
        self.folder = folder

    def text(self, *paragraphs: str) -> None:
        for paragraph in paragraphs:
            self.lines += [paragraph, ""]

    def run(self, command: str) -> dict:
        """Show the command; run it with --json for its record and return that."""
        words = shlex.split(command)[1:]
        where = [str(self.folder / word) if word.endswith(".json") and "/" not in word else word for word in words]
        buffer = io.StringIO()
        with contextlib.redirect_stdout(buffer):
            status = main([*where, "--json", "--quiet"])
        if status:
            raise SystemExit(f"{command} ended with {status}: {buffer.getvalue()}")
        self.lines += ["```", f"$ {command}", "```", ""]
        return json.loads(buffer.getvalue())

    def fit(self, command: str) -> dict:
        found = self.run(command)
        cells = []
        for name, value in found["params"].items():
            pair = found["intervals"][name]
            cells.append(f"{name} = {value:.5g}" + ("" if pair is None else f" ({pair[0]:.4g} to {pair[1]:.4g})"))
        state = "established" if found["optimum"]["established"] else "NOT established"
        self.text(f"{'; '.join(cells)}. Objective {found['objective']:.8g} on {found['n']} rows, global optimum {state}.")
        for warning in found["warnings"]:
            self.text(f"> {warning}")
        return found

    def figure(self, figure: Figure, name: str, caption: str) -> None:
        figure.save(HERE / f"{name}.svg")
        self.text(f"![{figure.title}]({name}.svg)", f"*{caption}*")


def chinchilla(page: Page) -> None:
    page.text(
        "## Chinchilla: 240 runs read off a figure",
        "The published re-analyses' numbers are reproduced, with the evidence that this is the optimum.",
    )
    points = f"{DATA}/chinchilla/points.csv"
    page.fit(
        f"scalebound fit {points} --where used_by_besiroglu=1 --columns params=params_N,tokens=tokens_D --law chinchilla --bootstrap 1000 --out chinchilla.json"
    )
    seen = page.run(f"scalebound backtest {points} --where used_by_besiroglu=1 --law chinchilla")
    page.text(
        f"Small predicts large: mean error {seen['mean_abs_relative_error']:.2%}, 95% intervals held {seen['coverage']:.0%}; `fit` multiplies their half-widths by {seen['widening']:.2f}."
    )
    plan = page.run("scalebound plan chinchilla.json --flops 5.76e23")
    page.text(
        f"At 5.76e23 FLOPs: {plan['params']['value'] / 1e9:.1f}e9 parameters, {plan['tokens']['value'] / plan['params']['value']:.1f} tokens per parameter, loss {plan['loss']['value']:.3f}."
    )
    table = scaling.read_table(ROOT / points, where="used_by_besiroglu=1")
    fit = scaling.load_fit(page.folder / "chinchilla.json")
    figure = Figure("Loss against compute", "FLOPs", "nats per token")
    figure.points(table["flops"], table["loss"], COLOURS[0], "runs")
    C = np.geomspace(table["flops"].min(), 1e23, 24)
    best = [scaling.plan(fit, flops=float(c)) for c in C]
    figure.band(C, [one.loss.low for one in best], [one.loss.high for one in best], COLOURS[1])
    figure.line(C, [one.loss.value for one in best], COLOURS[1], "compute-optimal, 95%")
    page.figure(figure, "chinchilla", "Runs and the fitted compute-optimal loss; the band is the uncertainty of the curve.")


def gadre(page: Page) -> None:
    page.text("## Over-training testbed: loss and error of larger, longer runs")
    table = scaling.read_table(ROOT / DATA / "gadre2024/testbed.csv")
    figure = Figure("Predicted against measured, runs above 1e9 parameters", "measured loss", "predicted loss", log_x=False)
    rows = []
    for k, dataset in enumerate(("C4", "RedPajama", "RefinedWeb")):
        name = f"gadre-{dataset}.json"
        command = f"scalebound fit {DATA}/gadre2024/testbed.csv --law overtraining --target loss_c4_val --where 'dataset={dataset},multiplier_M>=10,params_N<5e8' --out {name}"
        if k == 0:
            page.fit(command)
        else:
            page.run(command)
        large = select(table, where=f"dataset={dataset},params_N>1e9,multiplier_M>=20")
        ahead = scaling.forecast(page.folder / name, large)
        truth = large["loss_c4_val"]
        figure.points(truth, ahead.value, COLOURS[k], dataset)
        for j in range(len(large)):
            rows.append(
                f"| {dataset} | {large['params_N'][j]:.3g} | {large['multiplier_M'][j]:g} | {ahead.value[j]:.4f} | {ahead.low[j]:.4f} to {ahead.high[j]:.4f} | {truth[j]:.4f} | {ahead.value[j] / truth[j] - 1:+.2%} |"
            )
    page.text(
        "| data | params | tokens per param | forecast | 95% | measured | error |\n|---|---:|---:|---:|---|---:|---:|\n" + "\n".join(rows)
    )
    page.text(
        "Rows with fewer than 10 tokens per parameter are left out: they ended inside their warmup. The five-run least-squares rule of the paper has twice this error on the same runs (tests/scaling/test_public_data.py)."
    )
    page.run(
        f"scalebound fit {DATA}/gadre2024/testbed.csv --law exponential-error:loss_c4_val --target err_avg17 --where 'dataset=RedPajama,multiplier_M>=10,params_N<5e8' --out gadre-error.json"
    )
    chain = page.run("scalebound forecast gadre-RedPajama.json --then gadre-error.json --at params=6888672256,tokens=1.378e11")
    big = select(table, where="dataset=RedPajama,params_N>6e9")
    row = chain["rows"][0]
    page.text(
        f"One call carries the uncertainty from size to error on 17 tasks: {row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f}); measured {big['err_avg17'][0]:.4f}."
    )
    figure.line([2.3, 2.9], [2.3, 2.9], COLOURS[5])
    page.figure(figure, "gadre", "Fitted to runs below 5e8 parameters only; the line is equality.")


def gemstones(page: Page) -> None:
    page.text("## Gemstones: a better optimum, and cooldown losses from constant-rate losses")
    page.fit(f"scalebound fit {DATA}/gemstones/train_losses.csv --law chinchilla --huber 1e-4 --where set=hot_100b+ --group run_name")
    path = f"{DATA}/gemstones/train_losses.csv"
    cooled = "--law cooldown --group run_name --begin set=cool_begin --end set=cool_end"
    page.text("The log holds where cooldowns begin and where they end; `fit` joins them per run. Shapes below 9e8 parameters:")
    page.fit(f"scalebound fit {path} {cooled} --where 'params_N<9e8' --out cooldown.json")
    page.text("Larger shapes, from their losses at constant rate alone:")
    page.run(f"scalebound forecast cooldown.json {path} --where 'set=cool_begin,params_N>9e8'")
    large = scaling.cooldowns(
        scaling.read_table(ROOT / path, where="params_N>9e8"), begin="set=cool_begin", end="set=cool_end", group="run_name"
    )
    ahead = scaling.forecast(page.folder / "cooldown.json", large)
    truth = large["cooldown_loss"]
    error = np.abs(ahead.value / truth - 1)
    inside = np.mean((ahead.low <= truth) & (truth <= ahead.high))
    page.text(
        f"Of these {len(truth)} were cooled down: median error {np.median(error):.3%}, worst {error.max():.2%} (one run is an outlier), "
        f"{inside:.0%} inside 95% intervals."
    )
    figure = Figure("Cooldown losses of larger shapes", "measured", "predicted", log_x=False)
    figure.points(truth, ahead.value, COLOURS[0], "three shapes above 9e8")
    figure.line([truth.min(), truth.max()], [truth.min(), truth.max()], COLOURS[5])
    page.figure(figure, "gemstones", "Fitted to smaller shapes; the line is equality.")
    page.text("A shape nobody trained: its loss at constant rate, then after a cooldown, in one call.")
    page.run(f"scalebound fit {path} --law chinchilla --where set=hot_100b+ --group run_name --out hot.json")
    row = page.run("scalebound forecast hot.json --then cooldown.json --at params=3e9,tokens=1e11")["rows"][0]
    page.text(f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f}).")


def datablations(page: Page) -> None:
    page.text("## Repeated data: what is identified and what is not")
    found = page.run(
        f"scalebound fit {DATA}/datablations/runs.csv --law repetition --bootstrap 0 --diagnose --fix E=1.869144,A=520.8249,B=1487.6803,alpha=0.3526596,beta=0.3526596"
    )
    page.text("The published procedure (constants from another set-up, two parameters fitted), with its profiles in words:")
    page.text(*[f"> {one['words']}" for one in found["diagnosis"]["profiles"]])
    profile = found["diagnosis"]["profiles"][0]
    figure = Figure("Profile of RD, other constants fixed as published", "RD", "objective / minimum")
    values = np.array(profile["values"])
    figure.line(values, np.array(profile["objective"]) / found["objective"], COLOURS[0])
    page.figure(figure, "datablations", "The objective hardly rises above RD = 15: it is not identified from above.")
    page.fit(
        f"scalebound fit {DATA}/datablations/runs.csv --law repetition --bootstrap 300 --where 'params_N>1e8,epochs<=60,params_N<=4e9' --out repetition.json"
    )
    large = scaling.read_table(ROOT / DATA / "datablations/runs.csv", where="params_N>4e9")
    ahead = scaling.forecast(page.folder / "repetition.json", large)
    error = np.abs(ahead.value / large["val_loss"] - 1)
    page.text(
        f"All seven constants fitted to runs of 1e8 to 4e9 parameters predict the ten 4.2e9 runs with a mean error of {error.mean():.2%}."
    )


def multipower(page: Page) -> None:
    page.text("## Learning-rate schedules: whole curves")
    page.fit(
        f"scalebound fit {DATA}/multipower_law/curves.csv --law multipower --group schedule --where size_M=25 --bootstrap 50 --no-widen --out multipower-25.json"
    )
    shape = scaling.load_fit(page.folder / "multipower-25.json").params
    fixed = ",".join(f"{name}={shape[name]:.6g}" for name in ("C", "beta", "gamma"))
    page.text("The response to a change of rate carries over to another size; the other constants come from three of its curves:")
    page.fit(
        f"scalebound fit {DATA}/multipower_law/curves.csv --law multipower --group schedule --where size_M=100,paper_role=train --fix {fixed} --out multipower-100.json"
    )
    table = scaling.read_table(ROOT / DATA / "multipower_law/curves.csv", where="size_M=100,paper_role=test")
    ahead = scaling.forecast(page.folder / "multipower-100.json", table, group="schedule")
    figure = Figure("Schedules the fit has not seen, 100M", "step", "nats per token", log_x=False)
    lines = []
    for k, name in enumerate(dict.fromkeys(table["schedule"].tolist())):
        rows = np.array([value == name for value in table["schedule"]])
        figure.points(table["step"][rows][::4], table["loss"][rows][::4], COLOURS[k], name)
        figure.line(table["step"][rows], ahead.value[rows], COLOURS[k])
        lines.append(f"{name} {np.mean(np.abs(ahead.value[rows] / table['loss'][rows] - 1)):.3%}")
    page.text(f"Mean errors on unseen schedules: {'; '.join(lines)}.")
    page.figure(figure, "multipower", "Points measured, lines predicted.")


def olmo(page: Page) -> None:
    page.text("## Task ladder: accuracy of the 3B runs from runs up to 1B")
    runs = "|".join(f"{size}-{k}xC" for size in ("190M", "370M", "760M", "1B") for k in (1, 2, 5, 10))
    path = f"{DATA}/olmo_ladder/ladder_runs.csv"
    page.run(
        f"scalebound fit {path} --law overtraining --target hellaswag_bpb --group run --last 5 --where 'run={runs}' --out olmo-bpb.json"
    )
    page.run(
        f"scalebound fit {path} --law sigmoid:hellaswag_bpb --target hellaswag_acc --group run --average 5 --skip 0.1 --where 'run={runs}' --out olmo-acc.json"
    )
    chain = page.run("scalebound forecast olmo-bpb.json --then olmo-acc.json --at params=3169537280,tokens=6.339e11")
    large = scaling.last_mean(scaling.read_table(ROOT / path, where="run=3B-1xC|3B-2xC|3B-5xC|3B-10xC"), "run", 5)
    row = chain["rows"][0]
    truth = large["hellaswag_acc"][np.argmax(large["tokens_D"])]
    page.text(f"HellaSwag of 3B-10xC: {row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f}); measured {truth:.4f}.")
    ahead = scaling.forecast(page.folder / "olmo-bpb.json", large, then=[page.folder / "olmo-acc.json"])
    smooth = scaling.smoothed(scaling.read_table(ROOT / path, where=f"run={runs}"), "run", 5, 0.1)
    figure = Figure("HellaSwag", "bits per byte of the right answer", "accuracy", log_x=False)
    figure.points(smooth["hellaswag_bpb"][::3], smooth["hellaswag_acc"][::3], COLOURS[5], "checkpoints up to 1B")
    x = np.linspace(0.65, smooth["hellaswag_bpb"].max(), 100)
    curve = scaling.forecast(page.folder / "olmo-acc.json", {"hellaswag_bpb": x})
    figure.band(x, curve.low, curve.high, COLOURS[0])
    figure.line(x, curve.value, COLOURS[0], "sigmoid, 95%")
    figure.points(large["hellaswag_bpb"], large["hellaswag_acc"], COLOURS[1], "3B runs (not fitted)")
    page.text(
        "3B runs: "
        + "; ".join(
            f"{name} {value:.3f} predicted, {real:.3f} measured"
            for name, value, real in zip(large["run"], ahead.value, large["hellaswag_acc"], strict=True)
        )
        + "."
    )
    page.figure(figure, "olmo", "The second step of the chain, with the 3B runs beside it.")


def porian(page: Page) -> None:
    page.text("## isoFLOP: the exponent from Kaplan to Chinchilla")
    points = scaling.read_table(ROOT / DATA / "porian2024/isoflop_points.csv")
    pairs = scaling.read_table(ROOT / DATA / "porian2024/optimal_pairs.csv")
    rows = []
    figure = Figure("Compute-optimal size", "FLOPs", "parameters", log_y=True)
    steps = (
        ("base,long,kaplan,kaplan", "last layer not counted"),
        ("base,long,kaplan,standard", "last layer counted"),
        ("base,short,kaplan,standard", "short warmup"),
        ("base,short,chinchilla,standard", "matched decay"),
        ("tuned,short,const,standard", "tuned, no decay"),
    )
    for k, (key, words) in enumerate(steps):
        where = (
            ",".join(f"{name}={value}" for name, value in zip(("hparams", "warmup", "decay", "param_count"), key.split(","), strict=True))
            + ",dataset=rw"
        )
        own = scaling.isoflop(select(points, where=where), columns="params=n")
        authors = select(pairs, where=where)
        known = np.isfinite(authors["n_opt"])
        slope = np.polyfit(np.log(authors["flops"][known]), np.log(authors["n_opt"][known]), 1)[0]
        e = own.params.exponent
        rows.append(f"| {words} | {e.value:.4f} ({e.low:.3f} to {e.high:.3f}) | {slope:.4f} |")
        inner = [one for one in own.budgets if not one.edge]
        figure.points([one.flops for one in inner], [one.params for one in inner], COLOURS[k], words)
        C = np.array([1e16, 3e19])
        figure.line(C, own.params.coefficient.value * C**e.value, COLOURS[k])
    page.run(
        f"scalebound fit {DATA}/porian2024/isoflop_points.csv --law isoflop --columns params=n "
        "--where 'dataset=rw,hparams=tuned,warmup=short,decay=const,param_count=standard' --out isoflop.json"
    )
    ahead = page.run("scalebound plan isoflop.json --flops 1e21")
    size = ahead["params"]
    page.text(f"At 1e21 FLOPs: {size['value']:.3g} parameters ({size['low']:.3g} to {size['high']:.3g}). All experiments:")
    page.text("| RefinedWeb | own optima, weighted, 95% | regression on the authors' optima |\n|---|---|---:|\n" + "\n".join(rows))
    page.figure(figure, "porian", "Optimal sizes found here, and their weighted lines.")


def pythia(page: Page) -> None:
    page.text("## Pythia: perplexity of the largest model of a family")
    table = scaling.read_table(ROOT / DATA / "pythia/lambada.csv")
    (page.folder / "pythia.csv").write_bytes(to_csv({"params": table["params_total"], "log_ppl": np.log(table["value"])}))
    page.text("`pythia.csv`: params_total and the logarithm of the LAMBADA perplexity. Models up to 2.8e9 parameters:")
    fit = scaling.fit(page.folder / "pythia.csv", "power", target="log_ppl", where="params<4e9")
    page.lines += ["```", "$ scalebound fit pythia.csv --law power --target log_ppl --where 'params<4e9' --out pythia.json", "```", ""]
    large = table["params_total"] > 4e9
    ahead = scaling.forecast(fit, {"params": table["params_total"][large]})
    page.text(
        "; ".join(
            f"{name}: {math.exp(v):.2f} ({math.exp(a):.2f} to {math.exp(b):.2f}), measured {real:.2f}"
            for name, v, a, b, real in zip(table["model"][large], ahead.value, ahead.low, ahead.high, table["value"][large], strict=True)
        )
        + "."
    )
    figure = Figure("LAMBADA perplexity, final checkpoints", "parameters", "perplexity", log_y=True)
    x = np.geomspace(6e7, 1.5e10, 60)
    curve = scaling.forecast(fit, {"params": x})
    figure.band(x, np.exp(curve.low), np.exp(curve.high), COLOURS[0])
    figure.line(x, np.exp(curve.value), COLOURS[0], "fitted below 4e9, 95%")
    figure.points(table["params_total"][~large], table["value"][~large], COLOURS[5], "fitted")
    figure.points(table["params_total"][large], table["value"][large], COLOURS[1], "not fitted")
    page.figure(figure, "pythia", "The two models on the right were not fitted.")


def obsscaling(page: Page) -> None:
    page.text("## Public models: a task from components of other benchmarks")
    base, tasks = (
        scaling.read_table(ROOT / DATA / f"obsscaling/base_llm_{name}_eval.csv") for name in ("benchmark", "emergent_capability")
    )
    names = ("MMLU", "ARC-C", "HellaSwag", "Winograd", "TruthfulQA", "GSM8K", "XWinograd", "HumanEval")
    where = {model: k for k, model in enumerate(base["Model"])}
    rows = [
        (where[model], k) for k, model in enumerate(tasks["Model"]) if model in where and np.isfinite(base["FLOPs (1E21)"][where[model]])
    ]
    at, task = (np.array(part) for part in zip(*rows, strict=True))
    scores, flops = np.stack([base[name] for name in names], axis=1)[at], base["FLOPs (1E21)"][at]
    train = flops <= 84
    components = scaling.principal_components(scores[train], 3, limits=(0.0, 1.0))
    page.lines += [
        "```python",
        "components = scaling.principal_components(scores[small], 3, limits=(0, 1))  # eight benchmarks, missing entries filled",
        "scaling.fit(table, scaling.Observational(3, top=1.0))  # columns pc1, pc2, pc3, accuracy",
        "```",
        "",
    ]
    figure = Figure("Word unscrambling, models above 8.4e22 FLOPs", "measured accuracy", "predicted", log_x=False)
    page.text(
        f"{int(train.sum())} models up to 8.4e22 FLOPs fitted, {int((~train).sum())} above predicted; the components know the small models only.",
        "| mean squared error above | three components | log FLOPs |\n|---|---:|---:|",
    )
    page.lines.pop()
    for name, label in (
        ("word_unscrambling_2_exact_match", "word unscrambling"),
        ("arithmetic_2dm_2_acc", "two-digit multiplication"),
        ("arithmetic_3ds_2_acc", "three-digit subtraction"),
    ):
        y = tasks[name][task]
        found = []
        for k, (words, values) in enumerate((("three components", components.project(scores)), ("log FLOPs alone", np.log(flops)[:, None]))):
            law = scaling.Observational(values.shape[1], top=1.0)
            columns = {f"pc{j + 1}": values[:, j] for j in range(values.shape[1])}
            fit = scaling.fit(
                {**{column: of[train] for column, of in columns.items()}, "accuracy": y[train]}, law, bootstrap=0, drop_bad=True
            )
            predicted = law.predict(fit.vector, {column: of[~train] for column, of in columns.items()})
            found.append(float(np.mean((predicted - y[~train]) ** 2)))
            if label == "word unscrambling":
                figure.points(y[~train], predicted, COLOURS[k], words)
        page.lines.append(f"| {label} | {found[0]:.4f} | {found[1]:.4f} |")
    page.lines.append("")
    figure.line([0, 0.8], [0, 0.8], COLOURS[5])
    page.figure(figure, "obsscaling", "Models above the compute of all fitted ones; the line is equality.")


def build() -> None:
    with tempfile.TemporaryDirectory() as folder:
        page = Page(Path(folder))
        page.text(
            "# Scaling laws on public data",
            "Written by `python docs/gallery/make.py`, which runs every command below from the root of the repository. Sources and licences: examples/data/README.md.",
        )
        for section in (chinchilla, gadre, gemstones, datablations, multipower, olmo, porian, pythia, obsscaling):
            section(page)
        (HERE / "scaling.md").write_text("\n".join(page.lines).rstrip() + "\n")


if __name__ == "__main__":
    import os

    os.chdir(ROOT)
    build()
