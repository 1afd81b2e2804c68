"""Everything a certificate claims, checked against the files it names: :func:`verify`.

What no file can show is taken on trust and listed in the certificate's ``assumptions``: that settings not named as choices were fixed in
advance, that a sample was fresh, a reference or held-out stream independent, the entropies the model's own (``replay`` tests this).
Of complexity and variance only signs and sum are checked.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from scalebound_verify.arrays import Statistics
from scalebound_verify.package import decode, model_sha256
from scalebound_verify.recompute import make_parts, mean_loss, solve
from scalebound_verify.replay import replay
from scalebound_verify.strict import Refused, conform, inside, parse, read, regular, sha256

FILES = ("stats", "reference", "full", "package", "stream")
TERMS = ("full_precision_loss", "quantization", "smoothing", "complexity", "variance", "subsampling")
FORM = {
    "schema": ("scalebound.certificate/1",), "bound": float, "unit": ("nats/token",), "delta": float, "statement": str, "version": str,
    "method": ("product", "freedman", "anchored", "trajectory", "heldout"), "empirical_loss": float, "bound_bits_per_byte": (None, float),
    "vacuous": bool, "random_guess": float, "vocab_size": int, "params": int, "tokens": {"stream": int, "evaluated": int, "unique": int},
    "code": {"bits": int, "bits_per_parameter": float, "choice_bits": float, "choices": [{"setting": str, "options": int}],
             "package_sha256": str}, "smoothing": {"alpha": float, "eps": float, "candidates": [float]},
    "grid": [float], "weights": (None, [float]), "horizon": int, "window": [int, int],
    "centres": [{"kind": ("zero", "running", "entropy", "kl"), "y_min": float, "weight": float}],
    "delta_shares": {"difference": float, "reference": float, "subsampling": float}, "terms": dict.fromkeys(TERMS, float),
    "anchor": {"kind": ("none", "model", "checkpoint", "ngram", "online"), "deployable": bool, "sha256": str, "mean_loss": float,
               "certified": float}, "base": {"kind": ("none", "model", "checkpoint"), "sha256": str}, "assumptions": [str],
    "loss_variation": float, "complexity_per_token": float,
    "inputs": {**dict.fromkeys(FILES, {"path": str, "sha256": str}), "stream_sha256": str, "model_sha256": str},
}  # fmt: skip
STREAM = {"schema": ("scalebound.stream/1",), "tokenizer": {"kind": str, "sha256": str, "path": str}, "vocab_size": int, "separator": int,
          "dtype": ("uint16", "uint32"), "num_tokens": int, "sequence_tokens": int, "seed": (None, int), "documents": [int],
          "num_documents": int, "text_bytes": int, "split": str, "source": {"name": str, "sha256": str}, "bin_sha256": str, "version": str}
TAIL = [0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.84, 0.87, 0.9, 0.92, 0.95, 0.97, 0.98, 0.99]  # of the default grid


def close(a: float, b: float, tolerance: float = 1e-9) -> bool:
    return abs(a - b) <= tolerance * max(1.0, abs(a), abs(b))


class Checker:
    """One verification: the certificate ``c`` and the checks so far; its methods are the steps, in the order :func:`verify` takes them."""

    def __init__(self, path: str) -> None:
        self.c = conform(parse(read(path), path), FORM, path)
        self.path, self.checks, self.folder = path, list[dict[str, Any]](), os.path.dirname(os.path.abspath(path))

    def say(self, name: str, detail: str, conditions: dict[str, bool]) -> bool:
        """Record a check: good when every condition is; the detail of a bad one is the texts of those that are not."""
        bad = "; ".join(text for text, good in conditions.items() if not good)
        self.checks.append({"name": name, "ok": not bad, "detail": bad or detail})
        return not bad

    def settings(self) -> bool:
        """Are the numbers of the certificate, by themselves, what the theorems allow?"""
        c, grid, shares, choices, centres = self.c, self.c["grid"], self.c["delta_shares"], self.c["code"]["choices"], self.c["centres"]
        alpha, eps, listed, v = c["smoothing"]["alpha"], c["smoothing"]["eps"], c["smoothing"]["candidates"], c["vocab_size"]
        anchored, subsampled, n = c["method"] == "anchored", c["tokens"]["evaluated"] < c["tokens"]["stream"], c["tokens"]["stream"]
        kinds, weights = {centre["kind"] for centre in centres}, c["weights"] or [1 / max(1, len(grid))] * len(grid)
        mixed, options = [centre["weight"] for centre in centres], [choice["options"] for choice in choices]
        first = min(1e-4, 0.5 / math.sqrt(max(1, c["horizon"])))
        good = [self.say("smoothing", f"alpha {alpha}, one of {len(listed)}", {
            "alpha is outside (0, 1)": 0 < alpha < 1,
            "alpha is not in its list": alpha in listed,
            "the choice of alpha is not paid as its list says":
                [x["options"] for x in choices if x["setting"] == "alpha"] == ([len(listed)] if len(listed) > 1 else []),
            "eps does not belong to the method": 0 < eps < 1 if anchored else eps == 0,
            "the vocabulary has fewer than two tokens": v >= 2,
        }), self.say("mixture", f"{len(grid)} values of s, {len(centres)} centres", {
            "a value of s is outside (0, 1)": bool(grid) and all(0 < s < 1 for s in grid),
            "the weights do not sum to 1": len(weights) == len(grid) and min(weights, default=0) >= 0 and close(math.fsum(weights), 1, 1e-12),
            "the weights of the centres do not sum to 1": min(mixed, default=0) >= 0 and close(math.fsum(mixed), 1, 1e-12),
            "a centre does not belong to the method": kinds <= ({"zero", "kl"} if anchored else {"zero", "running", "entropy"}),
            "a y_min is outside its range": all(x["y_min"] == 0 if x["kind"] == "zero" else x["y_min"] < 0 if anchored
                                                else alpha * math.exp(x["y_min"]) < v for x in centres if abs(x["y_min"]) < 700),
            "a y_min is beyond any loss": all(abs(x["y_min"]) < 700 for x in centres),
            "the Freedman form has one centre": c["method"] != "freedman" or len(centres) == 1,
            "a running mean needs every token": "running" not in kinds or not subsampled,
            "the grid is the default one of another horizon": c["horizon"] >= 1 and (
                grid[16:] != TAIL or len(grid) != 32 or np.allclose(grid[:16], np.geomspace(first, 0.3, 16), rtol=1e-9, atol=0)),
        }), self.say("delta", f"{c['delta']} split {' / '.join(map(str, shares.values()))}", {
            "delta is outside (0, 1)": 0 < c["delta"] < 1,
            "its shares sum to more than 1": math.fsum(shares.values()) <= 1 + 1e-12 and min(shares.values()) >= 0,
            "the main part has no share": shares["difference"] > 0,
            "the reference's share does not belong to the method": (shares["reference"] > 0) == anchored,
            "the sampling share does not belong to the evaluated tokens": (shares["subsampling"] > 0) == subsampled,
        }), self.say("choices", f"{c['code']['choice_bits']:.6g} bits", {
            "choice_bits are not log2 of the options": min(options, default=1) >= 1
                and close(c["code"]["choice_bits"], math.fsum(math.log2(max(1, k)) for k in options)),
        }), self.say("tokens", f"{c['tokens']['evaluated']:,} of {n:,}", {
            "the window does not hold that many tokens, each once": 0 <= c["window"][0] == c["window"][1] - n == c["window"][1] - c["tokens"]["unique"],
            "there are none, or more evaluated than there are": 1 <= c["tokens"]["evaluated"] <= n,
        })]  # fmt: skip
        return all(good)

    def open_inputs(self) -> bool:
        """Hashes of all named files, and what the statistics say they are about."""
        c, inputs, window = self.c, self.c["inputs"], self.c["window"]
        self.files = {name: inside(self.folder, inputs[name]["path"], self.path) for name in FILES if inputs[name]["path"] or name == "stats"}
        self.say("hashes", f"{len(self.files)} files", {
            f"{name} is not the file that was certified": (sha256(self.files[name]) if name in self.files else "") == inputs[name]["sha256"]
            for name in FILES})  # fmt: skip
        opened = {name: Statistics(self.files[name], c["vocab_size"]) for name in FILES[:3] if name in self.files}
        self.stats, self.full, info, own = opened["stats"], opened.get("full"), opened["stats"].info, opened["stats"].info["anchor"]
        kinds = {"trajectory": ("online",), "heldout": ("model", "bare")}.get(c["method"], ("model",))
        part = c["method"] == "trajectory" and self.stats.complete  # a part of the losses may be certified
        low, high = self.stats.window
        good = self.say("statistics", f"{self.stats.tokens:,} tokens of kind {info['kind']}", {
            f"statistics of kind {info['kind']} cannot carry the method {c['method']}": info["kind"] in kinds,
            f"they are about the window [{low}, {high})": low <= window[0] <= window[1] <= high if part else [low, high] == window,
            "the number of evaluated tokens is another": c["tokens"]["evaluated"] == (c["tokens"]["stream"] if part else self.stats.tokens),
            "the shorter last block must be among the evaluated ones": self.stats.complete or (self.stats.last_there and self.stats.sampled > 0),
            "the vocabulary or the number of parameters is another": info["vocab_size"] == c["vocab_size"] and info["model"]["params"] == c["params"],
            "reference or full are about other tokens": all(
                all(x.info[key] == info[key] for key in ("stream", "window", "vocab_size", "tokens", "block_tokens"))
                and np.array_equal(x.blocks, self.stats.blocks) for x in opened.values()),
        })  # fmt: skip
        anchor, anchored = c["anchor"], c["method"] == "anchored"
        self.reference = (opened["reference"], "nll") if "reference" in opened else (self.stats, "reference_nll")
        from_file = self.reference[0].info
        ref = (own or {"kind": "none", "sha256": "", "deployable": True}) if from_file is info else {
            "kind": "online" if from_file["kind"] == "online" else "checkpoint" if anchor["kind"] == "checkpoint" else "model",
            "sha256": from_file["model"]["sha256"], "deployable": from_file["kind"] == "model"}  # fmt: skip
        return self.say("anchor", anchor["kind"], {
            "it does not belong to the method": (anchor["kind"] != "none") == anchored and (anchored or "reference" not in opened),
            "it is not the one of the statistics": not anchored or (anchor["kind"] == ref["kind"] and anchor["sha256"] == ref["sha256"]),
            "a predictor that changes at each token, or that is not, is called deployable":
                not (anchored and anchor["deployable"]) or (ref["deployable"] and anchor["kind"] in ("model", "checkpoint")),
            "the model is its own reference, which would have to pay its code": not anchored or not ref["sha256"] or ref["sha256"] != inputs["model_sha256"],
            "the centre was measured with another reference, alpha or eps": all(x["kind"] != "kl" for x in c["centres"]) or (
                bool(own) and own["sha256"] == ref["sha256"] and own["eps"] == c["smoothing"]["eps"] and c["smoothing"]["alpha"] in own["alphas"]),
        }) and good  # fmt: skip

    def stream(self) -> None:
        """The stream is the one that was measured, its tokens are the ones it names, and the window lies in it."""
        inputs, info, window = self.c["inputs"], self.stats.info, self.stats.window
        self.tokens = np.zeros(0, np.uint16)
        if "stream" not in self.files:
            self.say("stream", "none named: a statement about the losses in this file", {
                "it is missing": info["kind"] == "bare" and not info["stream"]["sha256"] and not inputs["stream_sha256"]})  # fmt: skip
            return
        file = self.files["stream"]
        s = conform(parse(read(file), file), STREAM, file)
        binary = inside(os.path.dirname(file), os.path.splitext(os.path.basename(file))[0] + ".bin", file)
        kind = np.dtype("<u2" if s["dtype"] == "uint16" else "<u4")
        if regular(binary) != s["num_tokens"] * kind.itemsize or not s["num_tokens"]:
            raise Refused(f"has {regular(binary):,} bytes", binary, f"{s['num_tokens']:,} tokens of {s['dtype']}")
        self.tokens = np.memmap(binary, kind, "r")[window[0] : window[1]]
        spans = range(0, len(self.tokens), 1 << 20)
        self.say("stream", f"{s['num_tokens']:,} tokens", {
            "it is not the one that was measured": inputs["stream"]["sha256"] == inputs["stream_sha256"] == info["stream"]["sha256"],
            "its .bin is not the one its .json names": sha256(binary) == s["bin_sha256"],
            "the window is not inside it": len(self.tokens) == self.stats.length,
            "it has another length or vocabulary": [s["num_tokens"], s["vocab_size"]] == [info["stream"]["num_tokens"], self.c["vocab_size"]],
            "a token lies outside the vocabulary": all(int(self.tokens[k : k + spans.step].max()) < s["vocab_size"] for k in spans),
        })  # fmt: skip

    def package(self) -> None:
        """The code length is that of the bytes on the disk, and they decode to the model that was measured."""
        c, code, inputs, measured = self.c, self.c["code"], self.c["inputs"], self.stats.info["model"]["sha256"]
        free, bits, self.decoded = c["method"] in ("heldout", "trajectory"), 0, None
        if "package" in self.files:
            data = read(self.files["package"], 1 << 40)
            bits, self.decoded = 8 * len(data) + 2 * ((8 * len(data)).bit_length() - 1) + 1, decode(data, c["params"])
        found = model_sha256(*self.decoded) if self.decoded else measured
        self.say("package", "decodes to the measured model" if self.decoded else "none needed", {
            "there is none: the code length is only stated": bool(self.decoded) or free,
            "it is not the model that was measured": found == measured == inputs["model_sha256"],
            "its hash is stated twice, differently": code["package_sha256"] == inputs["package"]["sha256"],
            "a base is named; this checker knows packages that stand alone": c["base"]["kind"] == "none" and c["base"]["sha256"] == "",
        })  # fmt: skip
        bits, params = 0 if free else bits, max(1, c["params"])
        self.say("code", f"{bits:,} bits", {
            f"code.bits is {code['bits']:,}, the file's length is {bits:,}": code["bits"] == bits,
            "bits_per_parameter is another": any(close(code["bits_per_parameter"], x / params) for x in (bits, bits + code["choice_bits"])),
        })  # fmt: skip

    def recompute(self) -> float:
        """The bound from the statistics, and every number the certificate derives from it."""
        c, terms, stats, text, window = self.c, self.c["terms"], self.stats, self.stats.info["text_bytes"], self.c["window"]
        parts = make_parts(c, stats, *self.reference)
        quantities = sum(len(c["grid"]) * len(part.ranges) + sum(x is not None for x in part.intervals) for part in parts)
        solved = [solve(c, stats, part, quantities) for part in parts]
        bound, whole, start = math.fsum(x.bound for x in solved), stats.window == window, window[0] - stats.window[0]
        slack = max(0.0, c["bound"] - bound) + 1e-9  # a claim may be looser than what is true, and its terms with it
        self.say("bound", f"recomputed {bound!r}, stated {c['bound']!r}", {
            f"stated {c['bound']!r}, but the statistics give {bound!r}": bound <= c["bound"] * (1 + math.copysign(1e-12, c["bound"]))})  # fmt: skip
        loss = mean_loss(stats, *((0, stats.tokens) if whole else (start, start + c["tokens"]["stream"])))
        full = mean_loss(self.full, 0, self.full.tokens) if self.full else loss
        true = {"empirical_loss": loss, "full_precision_loss": full, "quantization": loss - full,
                "smoothing": math.fsum(x.mean for x in solved) - loss, "subsampling": bound - math.fsum(x.uncorrected for x in solved),
                "loss_variation": math.sqrt(solved[0].variation), "anchor.mean_loss": solved[1].mean if solved[1:] else 0.0,
                "anchor.certified": solved[1].bound if solved[1:] else 0.0}  # fmt: skip
        stated = {**c, **terms, "anchor.mean_loss": c["anchor"]["mean_loss"], "anchor.certified": c["anchor"]["certified"]}
        self.say("terms", "add up", {
            "they do not add up to the bound": abs(math.fsum(terms.values()) - c["bound"]) <= 1e-12 * max(1.0, abs(c["bound"])),
            **{f"{name} is {stated[name]}, the files give {value}": abs(stated[name] - value) <= slack for name, value in true.items()},
            "complexity or variance is negative": min(terms["complexity"], terms["variance"]) >= -1e-9,
        })  # fmt: skip
        bpb = c["bound"] * c["tokens"]["evaluated"] / text / math.log(2) if text > 0 and whole else None
        paid = math.log(1 / c["delta"]) + (c["code"]["bits"] + c["code"]["choice_bits"]) * math.log(2)
        self.say("derived", "vacuous" if c["vacuous"] else "not vacuous", {
            "random_guess is not log(vocab_size)": close(c["random_guess"], math.log(c["vocab_size"])),
            "the vacuous flag is wrong": c["vacuous"] == (c["bound"] >= math.log(c["vocab_size"])),
            "complexity_per_token is another": close(c["complexity_per_token"], paid / c["tokens"]["stream"]),
            "bound_bits_per_byte is another": (c["bound_bits_per_byte"] is None) == (bpb is None) and close(c["bound_bits_per_byte"] or 0, bpb or 0),
        })  # fmt: skip
        return bound


def verify(path: str | os.PathLike[str], replay_blocks: int = 0, seed: int | None = None) -> dict[str, Any]:
    """``{holds, bound, checks: [{name, ok, detail}]}`` of the certificate at ``path``; ``bound`` is None when none can be computed.

    Raises :class:`scalebound_verify.strict.Refused` when a file is missing or malformed (its ``status`` is the exit status).
    """
    checker, bound = Checker(os.fspath(path)), None
    sound = checker.settings()
    sound = checker.open_inputs() and sound
    checker.stream()
    checker.package()
    if sound:
        bound = checker.recompute()
    if replay_blocks:
        if checker.decoded is None or not len(checker.tokens):
            raise Refused("--replay needs a package and its stream", checker.path, status=2)
        good, detail = replay(*checker.decoded, checker.stats, checker.tokens, replay_blocks, seed)
        checker.say("replay", detail, {detail: good})
    return {"holds": bound is not None and all(check["ok"] for check in checker.checks), "bound": bound, "checks": checker.checks}
