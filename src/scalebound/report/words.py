"""Numbers and findings in words, for people who do not know what a martingale is.

Every sentence is conditional on what the files say: nothing is "proved" unless the independent checker verified it, nothing is
"inside the interval" unless it is.
"""

from __future__ import annotations

from scalebound.core.certificate import Certificate
from scalebound.core.demo import Entry
from scalebound.report.folder import Folder

# The certificate the headline is about is chosen by this order, never by its value: the smallest of several bounds, each of which may
# fail with probability delta, would hold with less confidence than it states.
HEADLINE_ORDER = ("anchored", "product", "freedman")

METHOD_NAMES = {
    "anchored": "anchored",
    "product": "product",
    "freedman": "Freedman",
    "trajectory": "trajectory",
    "heldout": "held-out",
}

ANCHOR_NAMES = {"model": "the anchor (a small model trained on other documents)", "checkpoint": "the anchor (an earlier checkpoint)"}

# columns of table.csv that a forecast may be about, all in nats per token
TARGETS = {
    "loss": "held-out loss",
    "heldout_loss": "held-out loss",
    "train_loss": "training loss",
    "quantized_loss": "loss of the compressed model",
    **{method: f"{name} bound" for method, name in METHOD_NAMES.items()},
    **{term: f"{term} in the product bound" for term in ("quantization", "smoothing", "complexity", "variance")},
}
FORECAST_ORDER = ("heldout_loss", "loss", "train_loss")  # what the summary's forecast is about: the first of these there is


def nats(value: float) -> str:
    return f"{value:.3f}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def short(value: float) -> str:
    """``150000`` to ``150k``: at most three digits, for axes."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    return f"{100 * share:.6g}%"


def method_name(name: str) -> str:
    return METHOD_NAMES.get(name, name)


def target_name(target: str) -> tuple[str, str]:
    """(name, unit) of a column; a column this page does not know keeps its name, and its unit is said to be the table's."""
    return (TARGETS[target], "nats per token") if target in TARGETS else (target.replace("_", " "), "in the table's units")


def headline_certificate(folder: Folder) -> tuple[Certificate, Entry] | None:
    """The certificate of the largest rung that the headline is about, by a fixed order of methods; None when it has none of them."""
    for method in HEADLINE_ORDER:
        for name, certificate in folder.certificates[-1].items():
            if certificate.method == method:
                return certificate, folder.largest.certificates[name]
    return None


def headline(folder: Folder) -> str:
    """One line: the strongest thing that can honestly be said."""
    found = headline_certificate(folder)
    model = f"the {count(folder.largest.params)}-parameter model"
    if found is None:
        return f"No certificate of {model}'s training stream was made."
    certificate, entry = found
    bound = f"{nats(certificate.bound)} nats per token"
    if not entry.verified:
        return f"Not verified: the certificate of {model} did not pass the independent check, so nothing is proved."
    if certificate.vacuous:
        return f"Proved, but vacuous: the bound on {model}, {bound}, says no more than guessing ({nats(certificate.random_guess)})."
    # what is certified is the decoded model mixed with something, never the raw one: the headline must not say more
    mixed = "mixed with a small anchor" if certificate.method == "anchored" else "smoothed"
    return f"Proved: {model}, compressed and {mixed}, has an expected loss of at most {bound}, with {percent(1 - certificate.delta)} confidence."


def comparison_sentence(folder: Folder) -> str:
    """What training the rounding for the certificate changed on the largest rung, in distances from its full-precision training loss."""
    rung, found = folder.largest, headline_certificate(folder)
    before = rung.rounded
    start = (
        f"The largest model rounded to {before.bits} bits ({before.bits_per_parameter:.2f} bits per parameter of file, loss {nats(before.loss)}) and certified in the "
        f"published form is {nats(before.certificate.bound - rung.train_loss)} nats above its full-precision training loss"
    )
    if found is None:
        return start + "."
    return start + f"; trained for its certificate ({rung.bits_per_parameter:.2f} bits, loss {nats(rung.quantized_loss)}), the {method_name(found[0].method)} bound is {nats(found[0].bound - rung.train_loss)} above it."


def proof_sentences(folder: Folder) -> list[str]:
    """What exactly is bounded, for whom, and what it is to be compared with."""
    found = headline_certificate(folder)
    if found is None:
        return []
    certificate, entry = found
    rung = folder.largest
    anchored = certificate.method == "anchored"
    other = ANCHOR_NAMES.get(certificate.anchor.kind, "the anchor") if anchored else "uniform guessing"
    state = "With" if entry.verified else "If the check had passed: with"
    claim = (
        f"{state} probability at least {percent(1 - certificate.delta)} over the training stream, the model decoded from its file of "
        f"{count(rung.file_bytes)} bytes, mixed with {percent(certificate.smoothing.alpha)} of {other}, has a mean expected loss of "
        f"at most {nats(certificate.bound)} nats per token over the {count(certificate.tokens.stream)} tokens it was trained on: "
        "the loss it would have if each of those tokens were drawn afresh in its own context. "
        "That is a statement about this stream; other documents can cost more."
    )
    context = (
        f"Its measured training loss is {nats(rung.train_loss)} before compression and {nats(rung.quantized_loss)} after; "
        f"its loss on held-out text is {nats(rung.heldout_loss)} before compression; "
        f"guessing every token uniformly costs {nats(certificate.random_guess)}."
    )
    if certificate.bound_bits_per_byte is not None:
        context += f" The bound is {nats(certificate.bound_bits_per_byte)} bits per byte of text."
    return [claim, context]


def check_sentence(folder: Folder) -> str:
    """How many certificates there are, how many passed, and with what confidence they hold together."""
    rungs = folder.demo.rungs
    entries = [entry for rung in rungs for entry in (*rung.certificates.values(), rung.rounded.certificate)]
    passed, vacuous = sum(entry.verified for entry in entries), sum(entry.vacuous for entry in entries)
    deltas = [certificate.delta for found in folder.certificates for certificate in found.values()] + [folder.demo.delta] * len(rungs)
    together = 1.0 - sum(deltas)
    joint = (
        f"all of them together with at least {percent(together)}" if together > 0 else "no joint confidence follows from so many at once"
    )
    return (
        f"{passed} of {len(entries)} certificates were verified by a program that shares no code with the one that made them "
        f"({count(sum(entry.checks for entry in entries))} checks). Vacuous: {vacuous}. "
        f"Each holds with the confidence it states; {joint}."
    )


def forecast_sentence(folder: Folder) -> str:
    """What the smaller rungs said of the largest one's loss (of the first target, when no loss was forecast), and what happened."""
    forecasts = folder.demo.forecasts
    if not forecasts:
        return "No forecast was made."
    chosen = next((forecast for target in FORECAST_ORDER for forecast in forecasts if forecast.target == target), forecasts[0])
    name, unit = target_name(chosen.target)
    low, high, truth = chosen.prediction.low, chosen.prediction.high, chosen.truth
    verdict = "inside" if low <= truth <= high else "outside"
    return (
        f"From the {chosen.rows} smaller models the law “{chosen.law}” forecast a {name} of {nats(chosen.prediction.value)} "
        f"at {count(chosen.prediction.params)} parameters, with a {percent(chosen.level)} interval of {nats(low)} to {nats(high)} "
        f"({unit}). It came out at {nats(truth)}: {verdict} the interval."
    )
