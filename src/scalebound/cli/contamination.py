"""``scalebound contamination``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, progress_bar


def contamination(items: Path, *, model: Path, shards: int = 10, orders: int = 49, seed: int = 0, level: float = 0.05) -> Result:
    """Test whether a model has seen a test set: is the published order likelier to it than random orders.

    Exact whatever the model, as long as the order of the items meant nothing before training: neighbouring lines of a book or a source
    file belong together, and any good model sees that. A rejection is then proof of contamination at the level; no rejection proves
    nothing.

    Parameters
    ----------
    items
        The test set in its published order: one item a line, or a .jsonl file with the key "text".
    model
        A Hugging Face folder, a .gguf file, a run, a checkpoint or a package.
    shards
        Groups of consecutive items that are shuffled within; each must fit the model's context.
    orders
        Random orders a shard.
    seed
        Draws the orders.
    level
        Probability of a false alarm.

    Examples
    --------
    scalebound contamination benchmark.jsonl --model model.gguf --shards 20

    scalebound contamination questions.txt --model runs/small --orders 199 --level 0.01

    next: scalebound detect text.txt --model model.gguf
    """
    from dataclasses import asdict

    from scalebound.core.errors import InputError, require_extra

    require_extra("torch")
    from scalebound.certify.contamination import exchangeability
    from scalebound.measure.generated import read_texts
    from scalebound.measure.orders import order_likelihoods
    from scalebound.measure.text import tokenizer_of
    from scalebound.models import load_model

    texts = [data for _, data in read_texts(items)]
    if items.suffix != ".jsonl":
        texts = [line for data in texts for line in data.splitlines() if line.strip()]
    if len(set(texts)) != len(texts):
        raise InputError("holds an item twice", where=str(items), expected="every item once: equal items have no order", hint="remove duplicates")
    loaded = load_model(model)
    tokenizer = tokenizer_of(loaded)
    # every item ends its line, the last one too: else an order could be told by its last item
    tokens = [tokenizer.encode(text.rstrip(b"\n") + b"\n") for text in texts]
    with progress_bar("contamination", "orders") as progress:
        published, shuffled = order_likelihoods(loaded, tokens, shards=shards, orders=orders, seed=seed, progress=progress)
    found = exchangeability(published, shuffled, level=level)
    view = [
        f"{found.verdict}: the published order is {found.advantage:+.3f} nats likelier a shard; p-value {found.p_value:.4g}, e-value {found.e_value:.4g}, "
        f"{found.shards} shards, {found.orders} random orders each",
        f"By rank over all shards: p = {found.permutation_p:.4g}. False alarms at most {level:g}, whatever the model.",
    ]
    return Result({**asdict(found), "items": len(texts), "level": level}, view)
