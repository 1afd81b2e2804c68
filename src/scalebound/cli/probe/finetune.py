"""``scalebound probe finetune``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, progress_bar


def finetune(
    model: Path | None = None,
    *,
    seeds: int = 6,
    steps: int = 40,
    strength: float = 2.0,
    level: float = 0.95,
    seed: int = 0,
    out: Path | None = None,
) -> Result:
    """Rewrite a model without changing its function, fine-tune all versions alike (SGD, AdamW, LoRA) and compare the outcomes.

    Parameters
    ----------
    model
        A Llama-style folder, run or checkpoint. Default: a small model trained on the spot.
    seeds
        Repetitions, each with its own data order and transformation; at least 2.
    steps
        Fine-tuning steps of each version.
    strength
        Standard deviation of the logarithm of scaling factors; 0 leaves weights as they are.
    level
        Confidence of each interval.
    seed
        Decides everything random.
    out
        Where the record is written, for scalebound report.

    Examples
    --------
    scalebound probe finetune

    scalebound probe finetune runs/demo/anchor --seeds 3 --json

    next: scalebound report --probes probes/finetune.json
    """
    import torch

    from scalebound.cli.probe.show import show
    from scalebound.models import load_model
    from scalebound.probe import finetune_record, probe_finetune, read_llama, small_model

    if model is None:
        torch.set_num_threads(1)  # matrices this small are slower on several
    config, weights = small_model(seed) if model is None else read_llama(model)
    with progress_bar("fine-tuning", "runs") as progress:
        rows = probe_finetune(config, weights, seeds=seeds, steps=steps, strength=strength, level=level, seed=seed, progress=progress)
    inputs = {} if model is None else {"model": load_model(model).sha256}
    return show(finetune_record(rows, seeds=seeds, steps=steps, strength=strength, level=level, seed=seed, model=str(model or ""), inputs=inputs), out)
