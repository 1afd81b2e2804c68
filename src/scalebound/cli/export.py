"""``scalebound export``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, table


def export(package: Path, *, out: Path, tokenizer: Path | None = None) -> Result:
    """Write a package as a Hugging Face folder that transformers opens: the same numbers in float32, the same identity.

    Models of bytes get their tokenizer; a package of another model carries none, so name its tokenizer.json with --tokenizer.

    Parameters
    ----------
    package
        A package (.sbz).
    out
        The folder to write; it must not exist or be empty.
    tokenizer
        A tokenizer.json, or a folder that holds one, to copy beside the weights.

    Examples
    --------
    scalebound export small.sbz --out small-hf

    scalebound export smollm2.sbz --tokenizer SmolLM2-135M --out smollm2-hf

    next: transformers.AutoModelForCausalLM.from_pretrained("small-hf"), or scalebound measure small-hf TEXT --out S.safetensors
    """
    from scalebound.core.errors import require_extra

    require_extra("constriction")
    require_extra("torch")
    from scalebound.models import export_package

    done = export_package(package, out, tokenizer=tokenizer)
    record = {"folder": str(out), "package": str(package), "model_sha256": done.sha256, "params": done.params, "bytes": done.size_bytes, "tokenizer": done.tokenizer}
    rows = [["parameters", f"{done.params:,}"], ["bytes", f"{done.size_bytes:,}"], ["tokenizer", done.tokenizer or "none"], ["model", done.sha256]]
    return Result(record, [table(["", str(out)], rows)])
