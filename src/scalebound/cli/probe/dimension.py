"""``scalebound probe dimension``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, progress_bar
from scalebound.core.errors import UsageError


def dimension(
    model: Path | None = None,
    *,
    items: Path | None = None,
    dims: str | None = None,
    share: float = 0.9,
    steps: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    full_lr: float | None = None,
    level: float = 0.95,
    seed: int = 0,
    out: Path | None = None,
) -> Result:
    """How many numbers of a random subspace does a task need to gain 90% of what training all weights gains? And what does that prove?

    Dimensions are tried upwards until one is enough, then between it and the last that was not. Each trained vector is rounded and packaged, and its
    error on new items bounded from the size of that file, beside the bound papers derive from the dimension. Without a model: one of known dimension.

    Parameters
    ----------
    model
        A Hugging Face folder, .gguf file, run, checkpoint or package.
    items
        Multiple-choice items, a .jsonl file as for scalebound measure --tasks; a third is held out. Needed with a model.
    dims
        Dimensions, separated by commas. Default: 64,512,4096,32768; 2,4,8,16,32,64 without a model.
    share
        Of the gain of training all weights.
    steps
        Training steps of every run. Default: 200; 300 without a model.
    batch
        Items of a step. Default: 16; 64 without a model.
    lr
        Learning rate in the subspace. Default: 0.03; 0.1 without a model.
    full_lr
        Learning rate of all weights. Default: 0.1 over the model's width.
    level
        Confidence of all intervals of shares together, and of the bounds.
    seed
        Decides subspace, split and order.
    out
        Where the record is written, for scalebound report.

    Examples
    --------
    scalebound probe dimension --out probes/dimension.json

    scalebound probe dimension runs/mine --items items.jsonl --dims 64,512,4096 --json

    next: scalebound report --probes probes/dimension.json
    """
    import torch

    from scalebound.cli.numbers import parse_counts
    from scalebound.cli.probe.show import show
    from scalebound.probe import dimension_record, probe_dimension
    from scalebound.probe.dimension import DIMENSIONS
    from scalebound.probe.dimension_case import PLANTED, own_case, planted

    if (model is None) != (items is None):
        raise UsageError("a model and --items belong together", where="probe dimension", expected="both or neither")
    if model is None or items is None:
        torch.set_num_threads(1)  # matrices this small are slower on several
        case, usual = planted(seed), PLANTED
    else:
        case, usual = own_case(model, items, seed=seed), {"dimensions": DIMENSIONS, "steps": 200, "batch": 16, "lr": None, "full_lr": None}
    asked = {"dimensions": None if dims is None else parse_counts(dims, "--dims"), "steps": steps, "batch": batch, "lr": lr, "full_lr": full_lr}
    chosen = usual | {name: value for name, value in asked.items() if value is not None}
    with progress_bar("training", "runs") as progress:
        found = probe_dimension(case.model, case.train, case.held, params=case.params, width=case.width, share=share, level=level, seed=seed, progress=progress, **chosen)
    settings = {"model": str(model or ""), "steps": chosen["steps"], "batch": chosen["batch"]}
    return show(dimension_record(found, settings=settings, level=level, seed=seed, inputs=case.inputs), out)
