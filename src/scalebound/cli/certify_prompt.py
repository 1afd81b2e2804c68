"""``scalebound certify-prompt``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalebound.cli.output import Result, progress_bar, table


def certify_prompt(items: Path, *, prompts: Path | None = None, model: Path | None = None, prior: Path | None = None, delta: float = 0.05, out: Path | None = None,
                   certificate: Path | None = None) -> Result:  # fmt: skip
    """Bound the error of every candidate prompt on new items, all at once, and choose the best.

    The code length of a prompt is its length in bits under a language model that was fixed before (--prior, or the model itself). The
    bounds hold together, so choosing costs nothing more. Items must be independent.

    Parameters
    ----------
    items
        Items (.jsonl, keys "text" and "label"), or a table made earlier (.json: "prompts", "code_bits", "errors" with a row of 0 and 1
        per prompt; or "losses" in place of "errors" with numbers from 0 to 1, whose bound is wider).
    prompts
        Candidate prompts, one a line, each with {text} where the item goes; \\n stands for a line break. Not with a table.
    model
        The model that is prompted. Not with a table.
    prior
        The language model that gives the code lengths. Default: the one that is prompted.
    delta
        Probability that any of the bounds fails.
    out
        Keep the table of errors and code lengths (.json).
    certificate
        Save the bounds with the hash of that table (.json), for `scalebound verify`. Not of a table of "losses".

    Examples
    --------
    scalebound certify-prompt items.jsonl --prompts prompts.txt --model model.gguf --out table.json

    scalebound certify-prompt table.json --delta 0.01 --certificate prompts.json

    next: scalebound verify prompts.json
    """
    from dataclasses import asdict

    import numpy as np

    from scalebound.certify.prompts import certify_prompts
    from scalebound.core.errors import InputError, UsageError
    from scalebound.core.io import canonical_json, read_json
    from scalebound.core.records import PromptLine, save_record

    if certificate is not None and items.suffix != ".json" and out is None:
        raise UsageError("a certificate names the table it is about", where="--certificate", expected="--out TABLE.json beside it")
    if items.suffix == ".json":
        if prompts is not None or model is not None:
            raise UsageError("a table needs no prompts and no model", where=str(items), expected="items (.jsonl) for --prompts and --model")
        data = read_json(items)
        if not isinstance(data, dict) or not {"prompts", "code_bits"} <= set(data) or ("errors" in data) == ("losses" in data):
            raise InputError("is no table of prompts", where=str(items), expected='an object with "prompts", "code_bits" and "errors" (or "losses")')
    else:
        if prompts is None or model is None:
            raise UsageError("prompts and a model are needed", where="--prompts and --model", expected="both, or a table made earlier (.json)")
        data = score(items, prompts, model, prior)
        if out is not None:
            from scalebound.core.io import atomic_write

            atomic_write(out, canonical_json(data) + b"\n")
    graded = "losses" in data
    if graded and certificate is not None:
        raise InputError('holds "losses"', where=str(items), expected='"errors", each 0 or 1: the checker inverts the binomial tail and knows nothing else')
    try:
        losses, bits = np.asarray(data["losses" if graded else "errors"], dtype=np.float64), np.asarray(data["code_bits"], dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("holds rows of different length, or no numbers", where=str(items), expected="one row of numbers per prompt") from None
    found = certify_prompts([str(prompt) for prompt in data["prompts"]], losses, list(map(float, bits.ravel())), delta=delta, graded=graded)
    best = found.prompts[found.best]
    rows = [[p.prompt.replace("\n", "\\n")[:60], f"{p.mean:.4f}", f"{p.code_bits:.1f}", f"{p.bound:.4f}", f"{p.uniform_bound:.4f}", "best" if k == found.best else ""] for k, p in enumerate(found.prompts)]
    view: list[Any] = [
        f"The expected error of the best prompt is at most {best.bound:.4f}, with probability {1 - delta:g} and for all prompts at once ({found.items} items, observed {best.mean:.4f}).",
        table(["prompt", "error", "bits", "bound", "uniform prior", ""], rows),
        f"The usual way, choosing on one half and certifying on the other: {found.heldout_bound:.4f}.",
    ]
    if certificate is not None:
        save_record("prompts", certificate, asdict(found) | {"bound": found.value, "prompts": [PromptLine(**asdict(p)) for p in found.prompts]}, {"table": items if items.suffix == ".json" else out})
        view.append(f"Written: {certificate}. Check it: scalebound verify {certificate}")
    return Result({**asdict(found), "bound": found.value}, view)


def score(items: Path, prompts: Path, model: Path, prior: Path | None) -> dict[str, Any]:
    """The table of errors and code lengths."""
    from scalebound.core.errors import InputError, from_os_error, require_extra
    from scalebound.core.io import MAX_JSON_BYTES, parse_json, read_bytes

    require_extra("torch")
    from scalebound.measure.prompting import prompt_code_bits, prompt_errors
    from scalebound.models import load_model

    rows = []
    for number, line in enumerate(read_bytes(items, limit=MAX_JSON_BYTES).splitlines(), start=1):
        if line.strip():
            row = parse_json(line, where=f"{items}: line {number}")
            if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("text", "label")):
                raise InputError("is no item", where=f"{items}: line {number}", expected='an object with strings "text" and "label"')
            rows.append((row["text"], row["label"]))
    try:
        candidates = [line.replace("\\n", "\n") for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise from_os_error(error, prompts) from error
    if len(set(candidates)) != len(candidates):
        raise InputError("holds a prompt twice", where=str(prompts), expected="every prompt once")
    if not rows or not candidates:
        raise InputError("holds nothing", where=str(prompts if rows else items), expected="at least one line")
    loaded = load_model(model)
    coder = load_model(prior) if prior is not None else loaded
    with progress_bar("certify-prompt", "items") as progress:
        errors = prompt_errors(loaded, candidates, rows, sorted({label for _, label in rows}), progress)
    return {"prompts": candidates, "code_bits": [prompt_code_bits(coder, prompt) for prompt in candidates], "errors": errors.astype(int).tolist()}
