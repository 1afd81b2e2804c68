"""``scalebound plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scalebound.cli.output import Result, table


def plan(
    fit: Annotated[Path, Parameter(name="FIT")],
    /,
    *,
    flops: float | None = None,
    unique: float | None = None,
    tokens_per_param: float | None = None,
    overtrain: float | None = None,
    loss: float | None = None,
    serve: float = 0.0,
    next_runs: int = 0,
    budget: float | None = None,
    level: float | None = None,
) -> Result:
    """Choose the size of a model and of its training data from a fitted law.

    Parameters
    ----------
    fit
        A fit of a law of params and tokens (chinchilla, overtraining, kaplan, repetition), or of isoflop, which gives no loss.
    flops
        Training budget, at 6 FLOPs per parameter and token.
    unique
        Tokens of data that exist; needs a fit of the law repetition.
    tokens_per_param
        Hold tokens per parameter at this instead of optimising.
    overtrain
        Also say what it costs to train on this many times the optimal tokens per parameter.
    loss
        Instead of a budget: the cheapest run that reaches this loss.
    serve
        With --loss: tokens to be served afterwards, at 2 FLOPs per parameter and token.
    next_runs
        Also propose this many runs that would narrow the forecast at the planned point most.
    budget
        With --next-runs: FLOPs the proposed runs may cost together; a tenth of --flops when not given.
    level
        Level of the intervals.

    Examples
    --------
    scalebound plan law.json --flops 1e22 --overtrain 10
    scalebound plan law.json --loss 2.2 --serve 1e12 --json

    next: scalebound train --flops 1e15 --text DIR --out RUN
    """
    from scalebound import scaling
    from scalebound.core.errors import UsageError

    if (flops is None) == (loss is None):
        raise UsageError("give --flops or --loss, not both", expected="scalebound plan FIT --flops C, or FIT --loss L")
    if loss is not None:
        best = scaling.cheapest_for_loss(fit, loss=loss, inference_tokens=serve, level=level)
        record = {"params": best.params.record(), "tokens": best.tokens.record(), "loss": {"value": loss, "low": loss, "high": loss}}
        record |= {"train_flops": best.train_flops.record(), "total_flops": best.total_flops.record()}
        rows = [
            ["params", *_cells(best.params)],
            ["tokens", *_cells(best.tokens)],
            ["training FLOPs", *_cells(best.train_flops)],
            ["training + serving FLOPs", *_cells(best.total_flops)],
        ]
        return Result(
            record, [table(["", "value", "interval"], rows, title=f"cheapest run for a loss of {loss:g}, then {serve:.3g} tokens served")]
        )
    assert flops is not None
    found = scaling.plan(fit, flops=flops, unique_tokens=unique, tokens_per_param=tokens_per_param, level=level)
    record = {
        "params": found.params.record(),
        "tokens": found.tokens.record(),
        "loss": {"value": None, "low": None, "high": None} if found.loss is None else found.loss.record(),
        "flops": flops,
        "level": found.level,
        "epochs": found.epochs,
        "decades_beyond": found.decades_beyond,
        "warnings": list(found.warnings),
    }
    rows = [["params", *_cells(found.params)], ["tokens", *_cells(found.tokens)]]
    if found.loss is not None:
        rows.append(["loss", *_cells(found.loss, ".4f")])
    title = "compute-optimal" if tokens_per_param is None else f"{tokens_per_param:g} tokens per parameter"
    view: list = [table(["", "value", f"{found.level:.0%} interval"], rows, title=f"{title} run at {flops:.3g} FLOPs")]
    view.append(
        f"{found.tokens.value / found.params.value:.1f} tokens per parameter" + (f", {found.epochs:.1f} epochs" if found.epochs else "")
    )
    if overtrain is not None:
        cost = scaling.overtraining_cost(fit, flops=flops, factor=overtrain, level=level)
        record["overtraining"] = {
            "factor": overtrain,
            "params": cost.params,
            "tokens": cost.tokens,
            "loss": cost.loss.record(),
            "extra_loss": cost.extra_loss.record(),
            "extra_compute": cost.extra_compute.record(),
        }
        interval = _cells(cost.extra_loss, ".4f")[1]
        view.append(
            f"at {overtrain:g} times the tokens per parameter "
            f"({cost.params:.3g} params, {cost.tokens:.3g} tokens): loss {cost.loss.value:.4f}, "
            f"{cost.extra_loss.value:.4f} more ({interval}); {cost.extra_compute.value:.2f} times the compute makes up for it"
        )
    if next_runs:
        design = scaling.next_runs(
            fit, at={"params": found.params.value, "tokens": found.tokens.value}, count=next_runs, budget=budget or flops / 10
        )
        record["next_runs"] = [
            {"params": run.inputs["params"], "tokens": run.inputs["tokens"], "flops": run.flops, "spread_after": run.spread_after}
            for run in design.runs
        ]
        record["spread_now"] = design.spread_now
        body = [
            [f"{run.inputs['params']:.3g}", f"{run.inputs['tokens']:.3g}", f"{run.flops:.3g}", f"{run.spread_after:.4f}"]
            for run in design.runs
        ]
        view.append(
            table(
                ["params", "tokens", "FLOPs", "spread of the forecast after it"],
                body,
                title=f"runs that narrow this forecast most (spread now {design.spread_now:.4f})",
            )
        )
    view += [f"warning: {warning}" for warning in found.warnings]
    return Result(record, view)


def _cells(estimate, form: str = ".3g") -> list[str]:
    interval = "unknown" if estimate.low is None else f"{estimate.low:{form}} to {estimate.high:{form}}"
    return [f"{estimate.value:{form}}", interval]
