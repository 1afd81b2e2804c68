"""What a certificate is about, as a model that can be run: ``p' = (1-alpha) p + alpha q~``, ``q~ = (1-eps) q + eps/V``, or ``q~ = 1/V``.

A folder with ``mixture.json`` (alpha, eps, hashes), the certified model in ``model/`` and, when there is one, the anchor in ``anchor/``: two
ordinary Hugging Face folders, each of which any program opens. Every command that takes a model takes the folder; no code is in it.
Only predictors that can be deployed as they stand have one: a mixture of fixed models (docs/mathematics.md section 4).
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from scalebound.core.certificate import Certificate
from scalebound.core.errors import InputError, UsageError
from scalebound.core.hashing import canonical_config
from scalebound.core.io import canonical_json, load_struct, save_struct, sha256_bytes, sha256_file
from scalebound.models.export import Exported, export_package
from scalebound.models.folder import hash_tensors, read_config, read_tensors, save_folder
from scalebound.models.language_model import LanguageModel

FILE = "mixture.json"


class Mixture(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``mixture.json``, written last: a folder with it is whole."""

    schema: str = "scalebound.mixture/1"
    alpha: float
    eps: float  # 0 without an anchor
    model_sha256: str
    anchor_sha256: str  # "": mixed with the uniform distribution
    certificate_sha256: str  # of the file it was exported from

    def sha256(self) -> str:
        """Identity of the mixture: its parts and their shares, whatever certificate it came from."""
        return sha256_bytes(canonical_json([self.schema, self.alpha, self.eps, self.model_sha256, self.anchor_sha256]))


Mixture.SCHEMA = "scalebound.mixture/1"  # type: ignore[attr-defined]


def load_mixture(folder: Path, load: Callable[[Path], LanguageModel]) -> LanguageModel:
    """The mixture of a folder as one model; ``load`` opens its parts.

    The hidden state is both parts' side by side, the logits are the logarithms of the mixed probabilities, so that everything which scores
    a model scores the mixture: float32 from the parts' logits on.

    Raises :class:`InputError` when a part is not the one that was certified or the parts do not fit.
    """
    info = load_struct(folder / FILE, Mixture)
    if not (0 < info.alpha < 1 and (0 < info.eps < 1 if info.anchor_sha256 else info.eps == 0)):
        raise InputError(f"has alpha = {info.alpha} and eps = {info.eps}", where=str(folder / FILE), expected="shares inside (0, 1); eps 0 without an anchor")
    model = load(folder / "model")
    anchor = load(folder / "anchor") if info.anchor_sha256 else None
    for part, sha256, name in ((model, info.model_sha256, "model"), (anchor, info.anchor_sha256, "anchor")):
        if part is not None and part.sha256 != sha256:
            raise InputError(f"is not the {name} that was certified", where=str(folder / name), expected=f"{sha256[:12]}.. as mixture.json says", hint="export it again")
    if anchor is not None and anchor.vocab_size != model.vocab_size:
        raise InputError(f"predicts {anchor.vocab_size:,} tokens", where=str(folder / "anchor"), expected=f"{model.vocab_size:,}, as the model")
    uniform = math.log((info.eps or 1.0) * info.alpha / model.vocab_size)
    with torch.inference_mode():
        width = model.hidden(torch.zeros(1, 1, dtype=torch.int64, device=model.device)).shape[-1]

    def hidden(tokens_BT: Tensor) -> Tensor:
        own = model.hidden(tokens_BT)
        return own if anchor is None else torch.cat([own, anchor.hidden(tokens_BT)], dim=-1)

    def head(both: Tensor) -> Tensor:
        mixed = math.log1p(-info.alpha) + F.log_softmax(model.head(both[..., :width]).float(), dim=-1)
        if anchor is not None:
            other = F.log_softmax(anchor.head(both[..., width:]).float(), dim=-1)
            mixed = torch.logaddexp(mixed, math.log(info.alpha) + math.log1p(-info.eps) + other)
        return torch.logaddexp(mixed, torch.full_like(mixed, uniform))

    return replace(
        model, name=str(folder), sha256=info.sha256(), num_params=model.num_params + (anchor.num_params if anchor else 0), hidden=hidden, head=head, head_part=None,
        max_context=min(model.max_context, anchor.max_context) if anchor else model.max_context,
        extend=model.extend if anchor is None else None,  # the model's alone would say nothing of the anchor
    )  # fmt: skip


def export_certified(certificate: Certificate, path: str | os.PathLike, package: str | os.PathLike, out: str | os.PathLike, *, anchor: str | os.PathLike | None = None,
                     base: str | os.PathLike | None = None, tokenizer: str | os.PathLike | None = None) -> tuple[Exported, Mixture]:  # fmt: skip
    """Write the predictor that a certificate bounds as a folder.

    Parameters
    ----------
    certificate, path
        The certificate and the file it was read from.
    package
        The package it names.
    anchor
        Anchored certificates: the anchor as a model folder, a checkpoint or a package; its hash must be the certificate's.
    base
        Certificates relative to a base: the base; likewise.
    out, tokenizer
        As in :func:`~scalebound.models.export.export_package`.

    Raises
    ------
    UsageError
        A certificate of a predictor that cannot be deployed (online losses, n-grams updated online, a trajectory), an anchor missing or too many.
    InputError
        Another package, anchor or base than the certificate's.
    """
    from scalebound.models.load import model_folder

    out, kind = Path(out), certificate.anchor.kind
    if certificate.method == "trajectory" or not certificate.anchor.deployable:
        raise UsageError(f"is about predictions that change at every token ({kind if kind != 'none' else certificate.method})", where=str(path), expected="a certificate whose predictor can be deployed", hint="certify against a fixed model: --anchor when measuring, or certify --best --deployable")
    if not certificate.inputs.package.sha256 or sha256_file(package) != certificate.inputs.package.sha256:
        raise InputError("is not the package that was certified", where=str(package), expected=f"{certificate.inputs.package.sha256[:12] or 'a certificate with a package'}..")
    if (anchor is not None) != (kind != "none"):
        raise UsageError("an anchor was given" if anchor is not None else "the anchor is needed", where="--anchor", expected="none for this certificate" if anchor is not None else f"the model {certificate.anchor.sha256[:12]}..")
    if (base is not None) != (certificate.base.kind != "none"):
        raise UsageError("a base was given" if base is not None else "the base is needed", where="--base", expected="none for this certificate" if base is not None else f"the model {certificate.base.sha256[:12]}..")
    info = Mixture(alpha=certificate.smoothing.alpha, eps=certificate.smoothing.eps, model_sha256=certificate.inputs.model_sha256, anchor_sha256=certificate.anchor.sha256, certificate_sha256=sha256_file(path))
    whole = None
    if anchor is not None and Path(anchor).suffix != ".sbz":
        folder = model_folder(Path(anchor))
        whole = read_config(folder), read_tensors(folder)
        _same(hash_tensors(*whole), certificate.anchor.sha256, anchor)
    done = None
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError("exists and is not an empty folder", where=str(out), expected="a new folder", hint="name another one with --out")
        done = export_package(package, out / "model", tokenizer=tokenizer) if base is None else _rebuilt(certificate, package, base, out / "model")
        if anchor is not None and whole is None:
            _same(export_package(anchor, out / "anchor", tokenizer=tokenizer).sha256, certificate.anchor.sha256, anchor)
        elif whole is not None:
            save_folder(out / "anchor", canonical_config(whole[0]) | {"architectures": whole[0].get("architectures")}, whole[1], byte_tokenizer=whole[0].get("vocab_size") == 256)
        save_struct(out / FILE, info)
    except BaseException:
        if done is not None:  # the folder is ours: leave nothing behind that could be taken for a model
            shutil.rmtree(out)
        raise
    return done, info


def _rebuilt(certificate: Certificate, package: str | os.PathLike, base: str | os.PathLike, out: Path) -> Exported:
    from scalebound.models.relative import export_relative

    made = export_relative(package, base, out)
    try:
        _same(made.base_sha256, certificate.base.sha256, base, "base")
    except InputError:
        shutil.rmtree(out)
        raise
    return Exported(made.sha256, sum(tensor.numel() for tensor in made.tensors.values()), (out / "model.safetensors").stat().st_size, "the base's" if made.files else "")


def _same(found: str, certified: str, where: str | os.PathLike, what: str = "anchor") -> None:
    if found != certified:
        raise InputError(f"is not the {what} of the certificate", where=str(where), expected=f"{certified[:12]}..")
