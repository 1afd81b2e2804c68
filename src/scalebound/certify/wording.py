"""What a certificate says in words: one sentence, and the conditions under which it is true."""

from __future__ import annotations

from scalebound.certify.sampling import Layout
from scalebound.core.certificate import Anchor, Smoothing
from scalebound.core.stats import Stats

REFERENCES = {
    "model": "a fixed model",
    "checkpoint": "an earlier checkpoint",
    "ngram": "an n-gram model updated online",
    "online": "predictions of a reference known before each token, which need not be one model",
    "none": "a reference",
}


def statement_of(method: str, bound: float, delta: float, smoothing: Smoothing, n: int, vocab_size: int, anchor: Anchor) -> str:
    """One sentence that a person can read; it names the predictor the bound is about, which is never the raw model."""
    confidence = f"With probability at least {100 * (1 - delta):.6g}% over the {n:,} tokens of the window"
    with_what = f"the uniform distribution over {vocab_size:,} tokens"
    if method == "anchored":
        with_what = f"{REFERENCES[anchor.kind]} (itself {smoothing.eps:.4g} uniform)"
    who, have = (
        ("the predictions made while training, each before its token was learned,", "have")
        if method == "trajectory"
        else ("the measured model", "has")
    )
    return (
        f"{confidence}, {who} mixed with a share {smoothing.alpha:.4g} of {with_what} {have} "
        f"a mean expected loss of at most {bound:.6f} nats per token; "
        "this is about the mixture, not about the raw predictions."
    )


def assumptions_of(method: str, stats: Stats, layout: Layout, predictable: str) -> tuple[str, ...]:
    """Every condition of the theorem that files cannot show."""
    said = [
        "The statement is about the mean over this stream of the loss each token would have if drawn afresh in its own context; "
        "nothing is assumed about how tokens depend on each other.",
        "The predictor is causal: no prediction uses its own token or a later one, and losses are in stream order.",
        "Certified is the smoothed predictor; nothing follows for the raw one.",
        "delta and its shares, the form of the certificate, the window, grid, weights, horizon, centres with their clips, and eps "
        "were fixed before the stream was seen, "
        "except where they are listed in code.choices, whose bits are paid.",
        "Every token of the stream counts once: repeated epochs do not multiply them.",
        "Side data known before the window (other models, seeds, a base) is part of the condition; near-duplicates of the window in "
        "it make the expected loss the observed one.",
    ]
    if method in ("product", "freedman", "anchored"):
        said.append(
            "The code length is that of a prefix-free code whose decoder was fixed before the run and decodes to the measured model."
        )
        if not stats.info.model.sha256:
            said.append("That the code describes the model which was measured is the caller's word: the statistics name no model.")
    if method == "heldout":
        said.append("The model never saw this stream and was not chosen with its help.")
    if method == "trajectory":
        said.append(
            "The bound is on the trajectory: a checkpoint drawn from the window with probability proportional to its tokens, on the "
            "token that came next; not on the final model."
        )
        said.append(
            "Each loss was computed before the update that used it, batches in a fixed order, and batches skipped or rolled back are "
            "counted with their first loss."
        )
    if method == "anchored":
        said.append(f"The reference is predictable and does not depend on the certified model: {predictable}.")
    if not layout.complete:
        what = "tokens" if layout.block_tokens == 1 else f"blocks of {layout.block_tokens:,} tokens"
        said.append(
            f"{layout.drawn:,} of {layout.blocks:,} {what} were drawn uniformly without replacement with a fresh seed after the model "
            f"and all settings were frozen (the caller's word)."
        )
    return tuple(said)
