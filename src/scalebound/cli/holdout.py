"""``scalebound holdout``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from scalebound.cli.output import Result, table


def holdout(
    guard: Path,
    *,
    create: Path | None = None,
    error: float = 0.1,
    queries: int = 1000,
    threshold: float = 0.02,
    step: float = 0.01,
    sigma: float = 0.0,
    delta: float = 0.05,
    seed: int = 0,
    status: bool = False,
) -> Result:
    """Keep a holdout that can be asked many times without being overfitted, and refuses when its guarantee is used up.

    Reads one JSON object a line from standard input, {"name": "run 7", "training": [predictions], "holdout": [predictions]}, and answers
    each with one on standard output: {"answer", "source", "error", "queries_left", "budget_left"}, or {"refused"}. The answer is an
    accuracy; all answers lie within "error" of the population's at once, however each question depended on earlier answers. Items must be
    independent: documents or questions, never tokens.

    Parameters
    ----------
    guard
        The guarded file (.json). It holds the labels, the rules and the log.
    create
        Make the guarded file from this .csv with columns split (training or holdout) and label, and stop.
    error
        How far an answer may be from the truth; sets how often the holdout itself may answer.
    queries
        The most questions that will be asked.
    threshold
        Disagreement of training and holdout up to which the training set answers.
    step
        Answers of the holdout are rounded to this.
    sigma
        Scale of the noise of the original mechanism; the guarantee does not need it.
    delta
        Probability that the guarantee fails.
    seed
        Of the noise.
    status
        Only say what is left and what was asked.

    Examples
    --------
    scalebound holdout guard.json --create labels.csv --error 0.1 --queries 500

    python evaluate.py | scalebound holdout guard.json

    next: scalebound holdout guard.json --status
    """
    from dataclasses import asdict

    from scalebound.certify.guarded import Guarded, create_holdout, read_labels
    from scalebound.certify.holdout import HoldoutRules, affordable_budget
    from scalebound.core.errors import ClaimFails, InputError, ScaleboundError, UsageError
    from scalebound.core.io import parse_json

    if create is not None:
        training, held = read_labels(create)
        budget = affordable_budget(max(len(held), 1), error, queries=queries, threshold=threshold, step=step, sigma=sigma, delta=delta)
        if not budget:
            best = HoldoutRules(queries, 1, threshold, step, sigma, delta).error(max(len(held), 1))
            raise UsageError(
                f"{len(held):,} holdout items cannot keep {queries:,} answers within {error:g}", where="--error",
                expected=f"at least {best:.3f}, or fewer --queries, a smaller --threshold, more items",
            )  # fmt: skip
        made = create_holdout(guard, training, held, HoldoutRules(queries, budget, threshold, step, sigma, delta), seed=seed)
        record = {"guard": str(guard), "queries": queries, "budget": budget, "error": made.error, "delta": delta, "training_items": len(training), "holdout_items": len(held)}
        return Result(record, [f"{guard}: {queries:,} questions, {budget} of them from the holdout; every answer within {made.error:.4f} of the truth, all at once, with probability {1 - delta:g}."])
    guarded = Guarded(guard)
    if not status:
        refused = number = 0
        for number, line in enumerate(sys.stdin, start=1):
            if not line.strip():
                continue
            try:
                query = parse_json(line, where=f"line {number}")
                if not isinstance(query, dict) or set(query) - {"name"} != {"training", "holdout"} or not all(isinstance(query[key], list) for key in ("training", "holdout")):
                    raise InputError("is no question", where=f"line {number}", expected='an object with lists "training" and "holdout"')
                found = guarded.ask(str(query.get("name", "")), query["training"], query["holdout"])
                answer = {"answer": found.value, **{key: value for key, value in asdict(found).items() if key != "value"}}
            except ClaimFails as failure:
                refused += 1
                answer = {"refused": str(failure)}
            except ScaleboundError as failure:
                answer = failure.record()
            # an answer the script waits for before it asks again
            print(json.dumps(answer, allow_nan=False), flush=True)
        return Result({"questions": number, "refused": refused}, status=1 if refused else 0)
    known = guarded.file
    spent = sum(line.source == "holdout" for line in known.log)
    record = {"guard": str(guard), "asked": len(known.log), "queries": known.queries, "spent": spent, "budget": known.budget, "error": known.error, "delta": known.delta}
    rows = [[k, line.name, f"{line.training:.4f}", f"{line.answer:.4f}", line.source] for k, line in enumerate(known.log[-20:], start=max(1, len(known.log) - 19))]
    return Result(record, [f"{len(known.log):,} of {known.queries:,} questions asked, {spent} of {known.budget} answers taken from the holdout; error {known.error:.4f} at {1 - known.delta:g}.",
                           table(["", "question", "training", "answer", "from"], rows)])  # fmt: skip
