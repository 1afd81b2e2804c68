"""``scalebound leak``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scalebound.cli.output import Result

if TYPE_CHECKING:
    import numpy as np


def leak(window: Path, fresh: Path, *, stream: Path | None = None, fresh_stream: Path | None = None, level: float = 0.01, permutations: int = 9_999, seed: int = 0) -> Result:
    """Test whether an anchor saw the documents it is to predict, whatever its provenance says.

    Two sets of losses of the same model: on the window it is to anchor, and on documents that nobody trained on, dealt from one collection
    at random. A model that saw neither cannot tell them apart; one that was trained on the window loses less there. Exact false-alarm rate;
    "undecided" proves nothing. Streams must be in the order of their text, so that documents are in one piece.

    Parameters
    ----------
    window
        Losses on the window: a stats file of `scalebound measure` (its reference_nll if it has one), or a .csv with columns nll and document.
    fresh
        Losses on fresh documents, in the same form.
    stream
        The .json of the window's stream, when it is no longer where the statistics say.
    fresh_stream
        The same for the fresh documents.
    level
        Probability of a false alarm.
    permutations
        Random reassignments of documents.
    seed
        Draws them.

    Examples
    --------
    scalebound leak anchor-on-window.safetensors anchor-on-heldout.safetensors

    scalebound leak window.csv fresh.csv --level 0.001

    next: scalebound certify S.safetensors --package M.sbz --method anchored
    """
    from dataclasses import asdict

    from scalebound.certify.leakage import leakage

    found = leakage(documents(window, stream), documents(fresh, fresh_stream), level=level, permutations=permutations, seed=seed)
    words = "The reference saw documents of the window" if found.verdict == "saw the window" else "Nothing shows that the reference saw the window (which proves nothing)"
    line = f"{words}: it loses {found.advantage:+.4f} nats/token less on the window's {found.window:,} documents than on {found.fresh:,} fresh ones, p = {found.p_value:.4g}."
    return Result(asdict(found), [line])


def documents(path: Path, stream: Path | None) -> np.ndarray:
    """Mean loss of every whole document."""
    from scalebound.certify.parts import losses_of
    from scalebound.certify.units import unit_means
    from scalebound.cli.interval import units_of
    from scalebound.core.stats import open_losses

    losses = open_losses(path)
    starts = units_of(losses, "tokens" if path.suffix == ".csv" else "documents", stream, "document" if path.suffix == ".csv" else "")
    assert starts is not None
    values = losses_of(losses, "reference_nll" if "reference_nll" in losses else "nll", int(starts[0]), int(starts[-1]))
    return unit_means(values, starts[:-1] - starts[0])
