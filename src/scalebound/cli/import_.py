"""``scalebound import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scalebound.cli.output import Result


def import_(
    source: Annotated[Path, Parameter(name="SOURCE")],
    /,
    *,
    out: Path,
    kind: str = "auto",
    add: str = "",
) -> Result:
    """Turn what you have into a table that `scalebound fit` reads: trainer states, evaluation results, event files, run histories.

    Parameters
    ----------
    source
        trainer_state.json, lm-evaluation-harness results or samples, TensorBoard events (file or folder), an exported
        W&B history (CSV or JSONL), an MLflow run folder.
    out
        Table to write: .csv or .jsonl.
    kind
        auto, trainer-state, lm-eval, lm-eval-samples, tensorboard, wandb, mlflow or table.
    add
        Constant columns, name=number: params=1.2e9,batch_tokens=524288. With step and batch_tokens, tokens is computed.

    Examples
    --------
    scalebound import checkpoint-5000/trainer_state.json --add params=1.2e9,batch_tokens=524288 --out run.csv
    scalebound import runs/tensorboard --out runs.csv --json

    next: scalebound fit run.csv --law power:tokens
    """
    from scalebound.core.errors import UsageError
    from scalebound.core.io import atomic_write
    from scalebound.scaling.imports import import_table
    from scalebound.scaling.rows import parse_points
    from scalebound.scaling.table import to_csv

    extra = {name: float(values[0]) for name, values in parse_points(add, flag="--add").items()} if add else {}
    table = import_table(source, kind=kind, extra=extra)
    if out.suffix == ".csv":
        atomic_write(out, to_csv(table.columns))
    elif out.suffix == ".jsonl":
        import json

        names = list(table.columns)
        lines = []
        for row in zip(*(values.tolist() for values in table.columns.values()), strict=True):
            lines.append(json.dumps({name: cell for name, cell in zip(names, row, strict=True) if cell == cell}, allow_nan=False))
        atomic_write(out, ("\n".join(lines) + "\n").encode())
    else:
        raise UsageError(f"--out is {out}", expected="a name ending in .csv or .jsonl")
    record = {"out": str(out), "rows": len(table), "columns": list(table.columns), "notes": list(table.notes)}
    return Result(
        record,
        [f"{len(table):,} rows, columns {', '.join(table.columns)}; {'; '.join(table.notes)}", f"wrote {out}; next: scalebound fit {out}"],
    )
