"""``scalebound export``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, table


def export(package: Path, *, out: Path, anchor: Path | None = None, base: Path | None = None, tokenizer: Path | None = None) -> Result:
    """Write a package as a Hugging Face folder that transformers opens: the same numbers in float32, the same identity.

    Given a certificate instead, write the predictor it is about: the package's model mixed with the uniform distribution or with the
    anchor, as a folder of both models that every command here takes as a model. Its loss is the one whose expectation is bounded.

    Models of bytes get their tokenizer; a package of another model carries none, so name its tokenizer.json with --tokenizer.

    Parameters
    ----------
    package
        A package (.sbz), or a certificate (.json) whose predictor can be deployed.
    out
        The folder to write; it must not exist or be empty.
    anchor
        Of an anchored certificate: the anchor (a run, a model folder or a package). Its hash must be the certificate's.
    base
        Of a package of `compress --base`, or a certificate of one: the model it is relative to.
    tokenizer
        A tokenizer.json, or a folder that holds one, to copy beside the weights.

    Examples
    --------
    scalebound export small.sbz --out small-hf

    scalebound export best.json --anchor runs/demo/anchor --out certified

    next: transformers.AutoModelForCausalLM.from_pretrained("small-hf"), or scalebound measure small-hf TEXT --out S.safetensors
    """
    from scalebound.core.errors import require_extra

    require_extra("constriction")
    require_extra("torch")
    from scalebound.core.errors import UsageError
    from scalebound.models import export_certified, export_package

    if package.suffix == ".json":
        from scalebound.core.certificate import load_certificate

        certificate = load_certificate(package)
        made, mixture = export_certified(certificate, package, package.parent / certificate.inputs.package.path, out, anchor=anchor, base=base, tokenizer=tokenizer)
        terms = certificate.terms
        loss = terms.full_precision_loss + terms.quantization + terms.smoothing  # empirical loss of the smoothed predictor
        kept = {"folder": str(out), "certificate": str(package), "model_sha256": mixture.sha256(), "alpha": mixture.alpha, "eps": mixture.eps, "params": made.params, "loss": loss, "bound": certificate.bound}
        lines = [["alpha, share of what is mixed in", f"{mixture.alpha:g}"], ["loss on the certified tokens", f"{loss:.6f}"], ["bound on its expectation", f"{certificate.bound:.6f}"], ["model", mixture.sha256()]]
        return Result(kept, [table(["", str(out)], lines), f"Score it: scalebound measure {out} STREAM --out S.safetensors"])
    if base is not None:
        from scalebound.models.relative import export_relative

        if anchor is not None or tokenizer is not None:
            raise UsageError("belongs to another kind of export", where="--anchor" if anchor is not None else "--tokenizer", expected="--base alone: the tokenizer is the base's")
        found = export_relative(package, base, out)
        record = {"folder": str(out), "package": str(package), "base_sha256": found.base_sha256, "model_sha256": found.sha256, "params": sum(t.numel() for t in found.tensors.values())}
        return Result(record, [table(["", str(out)], [["base", found.base_sha256], ["model", found.sha256]])])
    if anchor is not None:
        raise UsageError("an anchor belongs to a certificate", where="--anchor", expected="CERTIFICATE.json in place of the package")
    done = export_package(package, out, tokenizer=tokenizer)
    record = {"folder": str(out), "package": str(package), "model_sha256": done.sha256, "params": done.params, "bytes": done.size_bytes, "tokenizer": done.tokenizer}
    rows = [["parameters", f"{done.params:,}"], ["bytes", f"{done.size_bytes:,}"], ["tokenizer", done.tokenizer or "none"], ["model", done.sha256]]
    return Result(record, [table(["", str(out)], rows)])
