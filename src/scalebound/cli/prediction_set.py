"""``scalebound prediction-set``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result


def prediction_set(calibration: Path, *, apply: Path | None = None, epsilon: float = 0.2, delta: float = 0.05) -> Result:
    """Turn predicted programs into partial programs that contain the true one with a proven probability.

    Each line of CALIBRATION is an object: "tokens", a list of [text, nll] whose texts joined are the predicted Python program, and "truth".
    Where the model was unsure stand holes; the threshold is the largest at which, with confidence 1 - delta over independent calibration
    items, a new item's set misses its truth with probability at most epsilon.

    Parameters
    ----------
    calibration
        Items with their truth (.jsonl).
    apply
        Further items (.jsonl), with or without "truth", to be turned into partial programs.
    epsilon
        Probability with which a set may miss.
    delta
        Probability that this promise fails.

    Examples
    --------
    scalebound prediction-set calibration.jsonl --epsilon 0.2

    scalebound prediction-set calibration.jsonl --apply new.jsonl --delta 0.01 --json

    next: scalebound detect text.txt --model runs/small
    """
    import math
    from dataclasses import asdict

    from scalebound.certify.partial_programs import kept_share, parse, render, score
    from scalebound.certify.prediction_sets import calibrate
    from scalebound.core.errors import InputError

    items = read_items(calibration)
    if any(truth is None for _, truth in items):
        raise InputError("has an item without truth", where=str(calibration), expected='a "truth" on every line of a calibration set')
    scores = [score(program, truth or "") for program, truth in items]
    found = calibrate(scores, epsilon=epsilon, delta=delta)
    shown = read_items(apply) if apply is not None else []
    record = {**asdict(found), "threshold": found.threshold if math.isfinite(found.threshold) else None}
    record["mean_kept"] = sum(kept_share(program, found.threshold) for program, _ in items) / len(items)
    record["sets"] = [
        {"partial": render(program, found.threshold), "kept": kept_share(program, found.threshold),
         "covered": None if truth is None or parse(truth) is None else score(program, truth) >= found.threshold}
        for program, truth in shown
    ]  # fmt: skip
    view = [f"With confidence {1 - delta:g}, a new set misses with probability at most {epsilon:g} ({found.misses} of {found.items} calibration items missed, {found.allowed} allowed)."]
    if found.allowed is None:
        view = [f"{found.items} items are too few to promise {1 - epsilon:g} with confidence {1 - delta:g}: every set is the full one."]
    else:
        view.append(f"Nodes with a doubt above {found.threshold:.4g} nats are holes; on average {100 * record['mean_kept']:.1f}% of a program is kept.")
    view += [f"--- {k}\n{one['partial']}" for k, one in enumerate(record["sets"], start=1)]
    return Result(record, view)


def read_items(path: Path) -> list:
    """Programs and truths of a .jsonl file."""
    from scalebound.certify.partial_programs import predicted_program
    from scalebound.core.errors import InputError
    from scalebound.core.io import MAX_JSON_BYTES, parse_json, read_bytes

    found = []
    for number, line in enumerate(read_bytes(path, limit=MAX_JSON_BYTES).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        row = parse_json(line, where=where)
        tokens = row.get("tokens") if isinstance(row, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(t, list) and len(t) == 2 and isinstance(t[0], str) and type(t[1]) in (int, float) for t in tokens) or not isinstance(row.get("truth", ""), str):
            raise InputError("is no item", where=where, expected='an object with "tokens": [[text, nll], ...] and, for calibration, "truth"')
        try:
            found.append((predicted_program([t[0] for t in tokens], [t[1] for t in tokens]), row.get("truth")))
        except InputError as error:
            raise InputError(error.what, where=where, expected=error.expected) from error
    if not found:
        raise InputError("holds no item", where=str(path))
    return found
