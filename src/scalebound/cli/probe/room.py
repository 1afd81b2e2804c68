"""``scalebound probe room``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, progress_bar
from scalebound.core.errors import UsageError


def room(
    model: Path | None = None,
    *,
    items: Path | None = None,
    text: Path | None = None,
    epsilon: float = 0.01,
    steps: int = 300,
    lr: float | None = None,
    context: int = 128,
    max_tokens: int = 40_000,
    save: Path | None = None,
    level: float = 0.95,
    seed: int = 0,
    out: Path | None = None,
) -> Result:
    """Find models within --epsilon nats of a checkpoint on a stream that differ most on a stated probe: how much room does the loss leave?

    The probe is a list of items, each a prompt and two continuations; one model is pushed towards the first, one towards the second, on half of
    the items, and both are read on the other half. Without a model: a small one trained on a^n b^n, with items off and on its support.

    Parameters
    ----------
    model
        A Llama-style folder, run or checkpoint.
    items
        A .jsonl file with the keys prompt, a and b. Needed with a model.
    text
        Text or stream on which the loss must stay. Needed with a model.
    epsilon
        Largest difference of losses, nats per token.
    steps
        Training steps of each push.
    lr
        Learning rate of the pushes. Default: 4e-3; 1e-4 with a model.
    context
        Tokens of a block.
    max_tokens
        Tokens of the text that are used.
    save
        Folder for the models found, as Hugging Face folders.
    level
        Confidence of all intervals together.
    seed
        Decides everything random.
    out
        Where the record is written, for scalebound report.

    Examples
    --------
    scalebound probe room --out probes/room.json

    scalebound probe room runs/mine --items pairs.jsonl --text heldout/ --epsilon 0.02 --save neighbours

    next: scalebound report --probes probes/room.json
    """
    import torch

    from scalebound.cli.probe.show import show
    from scalebound.models import save_folder
    from scalebound.probe import probe_room, room_record
    from scalebound.probe.room_case import own_case, standard_case

    if (model is None) != (items is None) or (model is None) != (text is None):
        raise UsageError("a model, --items and --text belong together", where="probe room", expected="all three or none")
    if model is None or items is None or text is None:
        torch.set_num_threads(1)  # matrices this small are slower on several
        case = standard_case(seed)
    else:
        case = own_case(model, items, text, context=context, max_tokens=max_tokens)
    rate = lr if lr is not None else 4e-3 if model is None else 1e-4
    with progress_bar("pushing", "models") as progress:
        found = probe_room(case.config, case.weights, case.blocks, case.items, first=case.first, epsilon=epsilon, steps=steps, lr=rate, level=level, seed=seed, progress=progress)
    for (name, which), weights in found.models.items():
        if save is None:
            break
        save_folder(save / f"{name.replace(' ', '-')}-{which}", case.config, weights, byte_tokenizer=case.config["vocab_size"] == 256)
    return show(room_record(found, settings={"model": str(model or ""), "steps": steps, "lr": rate}, level=level, seed=seed, inputs=case.inputs), out)
