"""Everything a certificate claims, checked against the files it names: :func:`verify`. On trust, and in its ``assumptions``: that settings
not named as choices were fixed in advance, a sample was fresh, a reference or held-out stream independent, the entropies the model's own
(``--replay`` tests this). Of complexity and variance only signs and sum are checked; the sentence for people is not read."""

import math
import os
from typing import Any

import numpy as np

from scalebound_verify.arrays import Statistics
from scalebound_verify.bounds import make_parts, mean_loss, solve
from scalebound_verify.package import decode, model_sha256
from scalebound_verify.records import Record
from scalebound_verify.strict import FORMS, Claim, Refused, close, inside, load, read, regular, sha256

FILES = ("stats", "reference", "full", "package", "stream", "base")
FREE = ("heldout", "trajectory")  # methods that need no code

class Certificate(Claim):
    """A certificate; its methods are the steps, in the order :meth:`recompute` takes them."""
    def settings(self) -> bool:
        """Are the numbers of the certificate, by themselves, what the theorems allow?"""
        c, grid, centres, choices, (start, stop) = self.c, self.c["grid"], self.c["centres"], self.c["code"]["choices"], self.c["window"]
        (alpha, eps, listed), (n, evaluated, unique), anchored = c["smoothing"].values(), c["tokens"].values(), c["method"] == "anchored"
        difference, reference, sampling = c["delta_shares"].values()
        kinds, options = {centre["kind"] for centre in centres}, [choice["options"] for choice in choices]
        mixed = [[1.0] if c["weights"] is None else c["weights"], [centre["weight"] for centre in centres]]
        paid = [x["options"] for x in choices if x["setting"] == "alpha"] == ([len(listed)] if len(listed) > 1 else [])
        ranges = [x["y_min"] == 0 if x["kind"] == "zero" else -700 < x["y_min"] < 0 if anchored else
                  -700 < x["y_min"] < 700 and alpha * math.exp(x["y_min"]) < c["vocab_size"] for x in centres]  # fmt: skip
        return all([self.say("smoothing", f"alpha {alpha}, one of {len(listed)}", {
            "alpha is outside (0, 1), or not in its list": 0 < alpha < 1 and alpha in listed, "its choice is not paid as its list says": paid,
            "eps does not belong to the method": 0 < eps < 1 if anchored else eps == 0, "fewer than two tokens exist": c["vocab_size"] >= 2,
        }), self.say("mixture", f"{len(grid)} values of s, {len(centres)} centres", {
            "a value of s is outside (0, 1)": bool(grid) and all(0 < s < 1 for s in grid), "a y_min is outside its range": all(ranges),
            "weights do not sum to 1": all(min(w, default=-1) >= 0 and close(math.fsum(w), 1, 1e-12) for w in mixed),
            "there is not one weight for every s": len(c["weights"] or grid) == len(grid),
            "a centre does not belong to the method": kinds <= ({"zero", "kl"} if anchored else {"zero", "running", "entropy"})
                and (c["method"] != "freedman" or len(centres) == 1) and ("running" not in kinds or n == evaluated),
        }), self.say("delta", f"{c['delta']} split {difference} / {reference} / {sampling}", {
            "delta is outside (0, 1)": 0 < c["delta"] < 1,
            "its shares sum to more than 1": math.fsum((difference, reference, sampling)) <= 1 + 1e-12 and difference > 0,
            "the reference's share does not belong to the method": reference > 0 if anchored else reference == 0,
            "the sampling share does not belong to the evaluated tokens": sampling > 0 if evaluated < n else sampling == 0,
        }), self.say("choices", f"{c['code']['choice_bits']:.6g} bits", {"choice_bits are not log2 of the options":
            min(options, default=1) > 0 and close(c["code"]["choice_bits"], math.fsum(map(math.log2, options))),
        }), self.say("tokens", f"{evaluated:,} of {n:,}", {"the window does not hold that many tokens, each once":
            0 <= start == stop - n == stop - unique and 1 <= evaluated <= n})])  # fmt: skip

    def open_inputs(self) -> bool:
        """Hashes of all named files, and what the statistics say they are about."""
        c, inputs, window, anchor, anchored = self.c, self.c["inputs"], self.c["window"], self.c["anchor"], self.c["method"] == "anchored"
        self.hashes(FILES, ["stats"])
        opened = {name: Statistics(self.files[name], c["vocab_size"], window) for name in FILES[:3] if name in self.files}
        self.stats, self.full, given, kind, sha, fixed = opened["stats"], opened.get("full"), opened.get("reference"), "none", "", False
        info, own, self.reference, (low, high) = self.stats.info, self.stats.info["anchor"], (self.stats, "reference_nll"), self.stats.window
        kinds = {"trajectory": ("online",), "heldout": ("model", "bare")}.get(c["method"], ("model",))
        part = c["method"] == "trajectory" and self.stats.complete  # a part of these losses will do
        if given:
            self.reference, fixed, sha = (given, "nll"), given.info["kind"] == "model", given.info["model"]["sha256"]
            kind = "online" if not fixed else "checkpoint" if anchor["kind"] == "checkpoint" else "model"
        elif own:
            kind, sha, fixed = own["kind"], own["sha256"], own["deployable"]
        return all([self.say("statistics", f"{self.stats.tokens:,} tokens of kind {info['kind']}", {
            f"statistics of kind {info['kind']} cannot carry the method {c['method']}": info["kind"] in kinds,
            f"they are about the window [{low}, {high})": low <= window[0] <= window[1] <= high if part else [low, high] == window,
            "another number of tokens is evaluated": c["tokens"]["evaluated"] == (c["tokens"]["stream"] if part else self.stats.tokens),
            "the shorter last block must be evaluated": self.stats.complete or (self.stats.last_there and self.stats.sampled > 0),
            "vocabulary or parameters are others": [info["vocab_size"], info["model"]["params"]] == [c["vocab_size"], c["params"]],
            "reference or full are about other tokens": all(np.array_equal(x.blocks, self.stats.blocks) and all(
                x.info[key] == info[key] for key in ("window", "vocab_size", "tokens", "block_tokens")) and all(
                    (x.info["stream"] or {}).get(key) == (info["stream"] or {}).get(key) for key in ("sha256", "num_tokens")) for x in opened.values()),
        }), self.say("anchor", anchor["kind"], {
            "it does not belong to the method": (anchor["kind"] != "none") == anchored and (anchored or not given),
            "it is not the one of the statistics": not anchored or [anchor["kind"], anchor["sha256"]] == [kind, sha],
            "a predictor that changes at each token is called deployable":
                not (anchored and anchor["deployable"]) or (fixed and kind in ("model", "checkpoint")),
            "it was trained on tokens of the window": not (anchored and not given and self.stats.saw),
            "the model is its own reference, which would have to pay its code": not anchored or not sha or sha != inputs["model_sha256"],
            "the centre was measured with another reference, alpha or eps": all(x["kind"] != "kl" for x in c["centres"]) or (
                bool(own) and [own["sha256"], own["eps"]] == [sha, c["smoothing"]["eps"]] and c["smoothing"]["alpha"] in own["alphas"]),
        })])  # fmt: skip

    def stream(self) -> None:
        """The stream is the one that was measured, its tokens are the ones it names, and the window lies in it."""
        named, info, window, self.tokens = self.c["inputs"]["stream_sha256"], self.stats.info, self.stats.window, np.zeros(0, np.uint16)
        if not (file := self.files.get("stream", "")):
            self.say("stream", "none: a statement about the losses in this file", {"it is missing": info["kind"] == "bare" and not named})
            return
        s, (folder, name) = load(file, "stream"), os.path.split(file)
        binary, kind = inside(folder, os.path.splitext(name)[0] + ".bin", file), np.dtype("<u2" if s["dtype"] == "uint16" else "<u4")
        if regular(binary) != s["num_tokens"] * kind.itemsize or not s["num_tokens"]:
            raise Refused(f"has {regular(binary):,} bytes", binary, f"{s['num_tokens']:,} tokens of {s['dtype']}")
        self.tokens = np.memmap(binary, kind, "r")[window[0] : window[1]]
        spans = range(0, len(self.tokens), 1 << 20)
        self.say("stream", f"{s['num_tokens']:,} tokens", {
            "it is not the one that was measured": self.c["inputs"]["stream"]["sha256"] == named == info["stream"]["sha256"],
            "its .bin is not the one its .json names": sha256(binary) == s["bin_sha256"],
            "the window is not inside it": len(self.tokens) == self.stats.length,
            "its length or vocabulary is another": [s["num_tokens"], s["vocab_size"]] == [info["stream"]["num_tokens"], info["vocab_size"]],
            "a token lies outside the vocabulary": all(int(self.tokens[k : k + spans.step].max()) < s["vocab_size"] for k in spans),
        })  # fmt: skip

    def package(self) -> None:
        """The code length is that of the bytes on the disk, and they decode to the model that was measured."""
        c, code, base, measured, free = self.c, self.c["code"], self.c["base"], self.stats.info["model"]["sha256"], self.c["method"] in FREE
        data, delta, found, self.decoded = b"", False, measured, None
        if "package" in self.files:
            self.decoded = decode(data := read(self.files["package"], 1 << 40), c["params"])
            if delta := "delta" in self.decoded[0]:
                from scalebound_replay.base import read_base, rebuild
                start = read_base(self.files.get("base", ""), c["params"])
                self.say("base", f"{base['sha256'][:12]}.. and the delta", {
                    "no file shows its numbers (a folder's one model.safetensors or a package would)": bool(start[1]),
                    "its file holds another model": model_sha256(*start) == base["sha256"],
                    "it was trained on tokens of the window": not (self.stats.saw and self.stats.info["anchor"]["sha256"] == base["sha256"]),
                })  # fmt: skip
                self.decoded = start[0], rebuild(*self.decoded, start[1]) if self.checks[-1]["ok"] else {}
            found = model_sha256(*self.decoded)
        bits = 0 if free or not data else 8 * len(data) + 2 * (8 * len(data)).bit_length() - 1
        self.say("package", "decodes to the measured model" if data else "none needed", {
            "there is none: the code length is only stated": bool(data) or free,
            "it is not the model that was measured": c["inputs"]["model_sha256"] == measured == found,
            "its hash is stated twice, differently": code["package_sha256"] == c["inputs"]["package"]["sha256"],
            "a base belongs to a delta, and to nothing else": [base["kind"] != "none", bool(base["sha256"])] == [delta, delta],
        })  # fmt: skip
        self.say("code", f"{bits:,} bits", {f"code.bits is {code['bits']:,}, the file's length is {bits:,}": code["bits"] == bits})

    def recompute(self) -> float | None:
        """All steps; the bound from the statistics, and every number the certificate derives from it. None when none can be computed."""
        sound = [self.settings(), self.open_inputs()]
        self.stream()
        self.package()
        self.claim = "with probability at least {:g} the smoothed predictor's mean expected loss on tokens {} is at most {:.6g} nats/token".format(
            1 - self.c["delta"], self.c["window"], self.c["bound"])  # fmt: skip
        if not all(sound):
            return None
        c, code, stats, text, n = self.c, self.c["code"], self.stats, self.stats.info["text_bytes"], self.c["tokens"]["stream"]
        parts, log_v = make_parts(c, stats, *self.reference), math.log(c["vocab_size"])
        quantities = sum(len(c["grid"]) + (interval is not None) for *_, intervals, _, _ in parts for interval in intervals)
        quantities *= math.prod(choice["options"] for choice in code["choices"])  # whatever was picked was picked on the sample too
        solved = [solve(c, stats, part, quantities) for part in parts]
        (bound, near, mean, _), whole = map(math.fsum, zip(*solved, strict=True)), c["window"] == stats.window
        self.say("bound", f"recomputed {bound!r}, stated {c['bound']!r}", {
            f"stated {c['bound']!r}, but the statistics give {bound!r}": bound <= c["bound"] + 1e-12 * abs(c["bound"])})  # fmt: skip
        loss = mean_loss(stats, start := c["window"][0] - stats.window[0], start + c["tokens"]["evaluated"])
        full, paid = mean_loss(self.full, 0, self.full.tokens) if self.full else loss, (code["bits"] + code["choice_bits"]) * math.log(2)
        self.say("terms", "add up; " + ("vacuous" if c["vacuous"] else "not vacuous"), {
            "they do not add up to the bound": close(math.fsum(c["terms"].values()), c["bound"], 1e-12),
            "complexity or variance is negative": min(c["terms"]["complexity"], c["terms"]["variance"]) >= -1e-9,
            "the vacuous flag is wrong": c["vacuous"] == (c["bound"] >= log_v),
            **self.differing({**c, **c["anchor"], **c["code"], **c["terms"]}, {
                "empirical_loss": loss, "full_precision_loss": full, "quantization": loss - full, "loss_variation": math.sqrt(solved[0][3]),
                "smoothing": mean - loss, "subsampling": bound - near, "random_guess": log_v, "mean_loss": mean - solved[0][2],
                "complexity_per_token": (math.log(1 / c["delta"]) + paid) / n, "certified": bound - solved[0][0],
                "bits_per_parameter": code["bits"] / max(1, c["params"]),
                "bound_bits_per_byte": c["bound"] * c["tokens"]["evaluated"] / text / math.log(2) if text > 0 and whole else None})})  # fmt: skip
        return bound

def verify(path: str | os.PathLike[str], replay_blocks: int = 0, seed: int | None = None) -> dict[str, Any]:
    """``{holds, bound, claim, checks: [{name, ok, detail}]}`` of the certificate or record at ``path``; ``bound`` is None when none can be
    computed. Raises :class:`~scalebound_verify.strict.Refused` for a file missing or malformed (its ``status`` is the exit status)."""
    path = os.fspath(path)
    schema = load(path, "object").get("schema")
    name = next((x for x in ("interval", "compare", "prompts") if FORMS[x]["schema"] == schema), "certificate")
    claim = (Certificate if name == "certificate" else Record)(path, name)
    bound = claim.recompute()
    if replay_blocks:
        if not isinstance(claim, Certificate) or claim.decoded is None or not len(claim.tokens):
            raise Refused("--replay needs a certificate's package and its stream", claim.path, status=2)
        from scalebound_replay import replay
        good, detail = replay(*claim.decoded, claim.stats, claim.tokens, replay_blocks, seed)
        claim.say("replay", detail, {detail: good})
    good = all(check["ok"] for check in claim.checks)
    return {"holds": good and bound is not None, "bound": bound, "claim": claim.claim, "checks": claim.checks}
