"""``scalebound probe``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from scalebound.cli.output import Result, progress_bar, table
from scalebound.core.errors import UsageError


def probe(
    name: Literal["rules", "finetune"],
    model: Path | None = None,
    *,
    grammar: str = "anbn,dyck1",
    seeds: int = 4,
    steps: int | None = None,
    strength: float = 1.0,
    level: float = 0.95,
    seed: int = 0,
) -> Result:
    """Show what equal loss does not tell.

    "finetune" rewrites a model without changing its function, fine-tunes all versions alike (SGD, AdamW, LoRA) and compares the outcomes. "rules" trains small models to equal loss on a grammar and counts how often each keeps
    one of the grammar's rules after a prompt with which no training string begins.

    Parameters
    ----------
    name
        Which probe.
    model
        For finetune: a Llama-style folder, run or checkpoint. Default: a small model trained on the spot.
    grammar
        For rules: of anbn, dyck1, anbncn, separated by commas.
    seeds
        For finetune: repetitions, each with its own data order and transformation; at least 2.
    steps
        Training steps of each model. Default: 300 for rules, 40 for finetune.
    strength
        For finetune: standard deviation of the logarithm of scaling factors; 0 leaves weights as they are.
    level
        Confidence of the intervals: each one for finetune; all of a grammar together for rules.
    seed
        Decides everything random.

    Examples
    --------
    scalebound probe rules --grammar anbn

    scalebound probe finetune runs/demo/anchor --seeds 3 --json

    next: scalebound systems
    """
    if name == "finetune":
        return _finetune(model, seeds, 40 if steps is None else steps, strength, level, seed)
    if model is not None:
        raise UsageError("the probe rules trains its own models", where=str(model), hint="scalebound probe rules")
    return _rules(grammar, 300 if steps is None else steps, level, seed)


def _interval(ends: tuple[float, float, float], form: str = ".4f") -> str:
    return f"{ends[0]:{form}} [{ends[1]:{form}}, {ends[2]:{form}}]"


def _finetune(model: Path | None, seeds: int, steps: int, strength: float, level: float, seed: int) -> Result:
    from dataclasses import asdict

    import torch

    from scalebound.probe import probe_finetune, read_llama, small_model

    if model is None:
        torch.set_num_threads(1)  # matrices this small are slower on several
    config, weights = small_model(seed) if model is None else read_llama(model)
    with progress_bar("fine-tuning", "runs") as progress:
        rows = probe_finetune(config, weights, seeds=seeds, steps=steps, strength=strength, level=level, seed=seed, progress=progress)
    found = any(row.found != "same" for row in rows)
    agree = all((row.found == "same") for row in rows if row.invariant)
    verdict = "same_function_different_outcome" if found else "no_difference"
    shown = [
        [
            r.optimizer,
            r.transformation,
            f"{r.logit_gap:.1e}",
            _interval(r.reference_loss),
            _interval(r.loss),
            _interval(r.difference, "+.4f"),
            "yes" if r.invariant else "no",
            r.found,
        ]
        for r in rows
    ]
    headers = [
        "optimizer",
        "transformation",
        "logit gap",
        "reference loss",
        "transformed loss",
        "difference",
        "invariant (theory)",
        "found",
    ]
    words = [
        f"Loss before fine-tuning {rows[0].loss_before:.4f} nats/token for every version. {seeds} seeds; Student's {100 * level:g}% intervals over seeds, each on its own.",
        "Same: within 0.001 nats in every seed. Shifted: the mean difference is not 0. Spread: outcomes differ, without a direction shown.",
        f"Verdict: {verdict}; what theory calls invariant was {'found the same' if agree else 'NOT found the same'}.",
    ]
    record = {"name": "finetune", "rows": [asdict(row) for row in rows], "verdict": verdict, "invariances_hold": agree, "seeds": seeds, "steps": steps,
              "strength": strength, "level": level, "seed": seed, "model": str(model or "")}  # fmt: skip
    return Result(record, [table(headers, shown, title="One function, several parametrizations"), *words])


def _rules(names: str, steps: int, level: float, seed: int) -> Result:
    from dataclasses import asdict

    import torch

    from scalebound.probe import GRAMMARS, probe_rules

    chosen = [word.strip() for word in names.split(",")]
    for word in chosen:
        if word not in GRAMMARS:
            raise UsageError(f"unknown grammar {word!r}", where="--grammar", expected=f"of {', '.join(GRAMMARS)}, separated by commas")
    torch.set_num_threads(1)  # matrices this small are slower on several
    view: list[Any] = []
    record: dict[str, Any] = {"name": "rules", "rows": [], "pairs": [], "construction": []}
    for word in chosen:
        grammar = GRAMMARS[word]()
        with progress_bar(word, "models") as progress:
            rows, pairs, exact = probe_rules(grammar, steps=steps, level=level, seed=seed, progress=progress)
        record["rows"] += [asdict(row) for row in rows]
        record["pairs"] += [asdict(pair) | {"found": pair.found} for pair in pairs]
        record["construction"].append(asdict(exact))
        shown = [
            [
                r.model,
                f"{r.loss:.4f}",
                _interval((r.kept, r.low, r.high), ".2f"),
                _interval((r.on_support, r.on_support_low, r.on_support_high), ".2f"),
            ]
            for r in rows
        ]
        found = [pair for pair in pairs if pair.found]
        view += [
            table(["model", "loss (nats/token)", f"keeps {grammar.kept_words!r} off the support", "in the language on it"], shown,
                  title=f"{word}: same loss, different extrapolation (least possible loss {rows[0].least_loss:.4f})"),
            f"{sum(pair.equal_loss for pair in pairs)} of {len(pairs)} pairs have equal loss (within 0.01 nats, by interval); {len(found)} of these keep the rule at rates whose intervals do not overlap.",
            f"Exact construction: total variation {exact.total_variation:g} and KL {exact.kl:g} on the support, rule kept after {exact.kept_by_one:.0%} and {exact.kept_by_other:.0%} of {exact.prompts} prompts.",
        ]  # fmt: skip
    record["verdict"] = "same_loss_different_rule" if any(pair["found"] for pair in record["pairs"]) else "no_pair_found"
    record |= {"steps": steps, "level": level, "seed": seed}
    return Result(
        record, [*view, f"Verdict: {record['verdict']}; {100 * level:g}% intervals, all of one grammar together; rates by Clopper-Pearson."]
    )
