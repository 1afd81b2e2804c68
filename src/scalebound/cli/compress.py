"""``scalebound compress``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from scalebound.cli.compress_options import TOKENS, way_of
from scalebound.cli.output import Result, note, progress_bar, table

if TYPE_CHECKING:
    from scalebound.compress import Breakdown, QuantizedModel
    from scalebound.core.stats import Stats


def compress(model: Path, *, out: Path, bits: str | None = None, step: str | None = None, quantizer: Literal["rtn", "gptq"] = "rtn",
             allocation: Literal["fisher", "uniform", "evolution"] | None = None, rate_penalty: float | None = None, sequences: int | None = None,
             prune: Literal["magnitude", "wanda", "sparsegpt", "kept"] | None = None, sparsity: float | None = None, drop: float | None = None,
             finetune: Annotated[bool, Parameter(negative=())] = False, steps: int | None = None, price: float | None = None,
             reference: Path | None = None, alpha: float | None = None, teacher: Path | None = None, teacher_share: float | None = None,
             divergence: Literal["forward", "balanced"] | None = None, start: Path | None = None, seed: int | None = None, base: Path | None = None,
             keep_codes: Annotated[bool, Parameter(negative=())] = False, stream: Path | None = None, tokens: int | None = None,
             frontier: Annotated[bool, Parameter(negative=())] = False, beside: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=False)] = None) -> Result:  # fmt: skip
    """Write a model as a package: one small file that decodes to exactly the weights it was rounded to.

    The file's size is the code length of a certificate. Which way makes the shortest depends on what there is:

    A model alone: plain rounding. --step divides every row by a multiple of its root mean square, rounds, and lets entropy coding find the
    bits; --bits limits the number of levels and searches where to clip, which suits small models of few bits.

    A model and text: --quantizer gptq --bits B --stream TEXT. Each matrix is rounded so that what it computes on the text changes least; B is
    the length of the whole file per parameter.

    A run of `scalebound train` and its stream: --finetune --stream S. Goes on training integers and scales themselves, with the file's bits in
    the objective at the price a certificate puts on them: the shortest certificates.

    A model quantized by another program: --keep-codes. A model trained from another: --base. To see loss and certified bound over many
    lengths: --frontier.

    What takes long, interrupted and run again, goes on where it was.

    Parameters
    ----------
    model
        A Hugging Face folder with safetensors weights, a checkpoint, a run (its newest checkpoint), a .gguf file or a package.
    out
        The package to write (.sbz). With several values of --bits or --step, M.sbz becomes M-4bit.sbz, M-0.5step.sbz, one file each.
    bits
        2 to 8 for rtn, bits per parameter of the file for gptq; several separated by commas.
    step
        A relative step, or several separated by commas; the default is 0.3, about 3.7 bits per parameter (0.5: 2.9, 1: 2).
    quantizer
        rtn: to nearest, no text needed. gptq: errors are passed on to weights not yet rounded, calibrated on --stream.
    allocation
        Of gptq. fisher: steps of matrices, rows and columns follow what their errors cost. uniform: one step relative to each row.
        evolution: fisher, and then a level for each matrix by trying, for small models; with --prune a share of zeros for each. Default fisher.
    rate_penalty
        Of gptq with fisher: how much an integer's bits count when it is chosen, 1 = at the rate at which steps trade them. Default 1.
    sequences
        Of gptq: calibrate on so many pieces of 512 tokens of --stream, after the tokens the loss is measured on. Default 32.
    prune
        Of gptq: make a share of every linear map's weights zero, by this rule. kept: hold at zero those that are, of a model pruned in training.
    sparsity
        The share. Default 0.5.
    drop
        Of gptq: leave out attention and feed-forward modules (zeros in their place) that hold this share of their parameters, found by evolution.
    finetune
        Train the rounding on --stream, the one the model was trained on. Takes models of `scalebound train`.
    steps
        Of --finetune, 2 sequences each. Default: as many as see 0.3 of the run's tokens, at most 6000.
    price
        Of --finetune: nats of loss given for a nat of code per token. Default: what it costs in the product bound of the model as it is, 7 to
        10 at 20 tokens a parameter; with --reference log(1/alpha)/0.6. The first step pays twice as much, the last this.
    reference
        Of --finetune: losses of a reference on the run's tokens (a stats file with reference_nll or nll). The anchored bound itself is
        then minimised, which suits a certificate relative to that reference.
    alpha
        Of --reference: the share mixed in that training assumes. Default 0.2.
    teacher
        Of --finetune: a model of the same vocabulary whose distributions are learned beside the text: a larger one, or MODEL itself.
    teacher_share
        Of --teacher: the share of the loss it takes. Default 0.5.
    divergence
        Of --teacher. forward: from the teacher's distribution to the model's. balanced: both ways, weighted by which is surer. Default forward.
    start
        Of --finetune: a package it made of this run before, whose integers are trained further. The longer, the shorter and the better.
    seed
        Of --finetune: the order of its sequences. Of gptq: the labels its Fisher information draws. Default 0.
    base
        Write only how the model differs from this one: low-rank factors or the vector of a subspace where `train --from --adapter` trained
        those, else the differences of all weights. --step is then of these numbers.
    keep_codes
        Of a model that is quantized already (.gguf, or a folder of GPTQ, AWQ, bitsandbytes, compressed-tensors or float8): change no weight,
        and code its own integers and scales, and what it left in 16 bits. Takes no other setting.
    stream
        A stream or text to measure the loss on, before and after, and to calibrate or train on.
    tokens
        Measure on this many tokens from the start of --stream. Default 100,000.
    frontier
        Write packages of many lengths to the folder --out, each with the certificate of --stream, and the figure of loss and bound against
        size. Lengths: --step for plain rounding, --bits for calibrated, or both; --tokens limits the window.
    beside
        Of --frontier: NAME=FILE.sbz, a package made in another way (--finetune, or --keep-codes of what another program quantized), scored,
        certified and marked under that name. Repeatable.

    Examples
    --------
    scalebound compress runs/small --bits 4 --out small.sbz

    scalebound compress model.gguf --quantizer gptq --bits 3 --stream docs/ --tokens 8192 --out model.sbz

    scalebound compress runs/ladder/59760 --finetune --stream runs/ladder/streams/train.json --out small.sbz

    scalebound compress runs/ladder/38048 --finetune --teacher runs/ladder/148928 --stream runs/ladder/streams/train.json --out taught.sbz

    scalebound compress model-Q4_K_M.gguf --keep-codes --out model.sbz

    scalebound compress runs/ladder/38048 --frontier --stream runs/ladder/streams/train.json --beside nf4=nf4.sbz --out frontier

    next: scalebound measure small.sbz STREAM --out small.safetensors, then scalebound certify small.safetensors --package small.sbz
    """
    given = {name: value for name, value in locals().items() if name not in ("model", "out", "quantizer") and value is not None and value is not False}
    from scalebound.core.errors import require_extra
    from scalebound.core.io import check_target

    require_extra("constriction")
    way = way_of(given | ({"gptq": True} if quantizer == "gptq" else {}))
    if stream is not None:
        _check_stream(stream)
    if not frontier:
        check_target(out)
    if keep_codes:
        return _kept(model, out)
    if base is not None:
        return _relative(model, base, out, step or "0.3")
    if frontier:
        return _frontier(model, stream, out, given)
    return _packages(model, out, way, given)


def _check_stream(stream: Path) -> None:
    from scalebound.core.errors import InputError, require_extra

    require_extra("torch")
    if not stream.exists():
        raise InputError("no such file or folder", where=str(stream), expected="a stream or a text")


def _settings(way: str, bits: str | None, step: str | None) -> list[tuple[str, dict[str, Any]]]:
    """What to write, one package each: a word for its name, and the lengths or steps as the rounding takes them."""
    from scalebound.cli.numbers import parse_numbers
    from scalebound.core.errors import UsageError

    if way == "finetune":
        return [("finetuned", {})]
    if bits is None:
        settings: list[tuple[str, dict[str, Any]]] = [(f"{value:g}step", {"step": value}) for value in parse_numbers(step or "0.3", "--step", "0.3 or 0.3,0.5,1")]
    else:
        widths = parse_numbers(bits, "--bits", "4 or 2,3,4")
        if way == "rtn" and any(width != int(width) for width in widths):
            raise UsageError(f"--bits {bits}", expected="whole numbers from 2 to 8", hint="with --quantizer gptq it may be any number")
        if way == "gptq" and not all(0.1 <= width <= 12 for width in widths):
            raise UsageError(f"--bits {bits}", expected="0.1 to 12 bits per parameter of the file")
        settings = [(f"{width:g}bit", {"bits": width if way == "gptq" else int(width)}) for width in widths]
    if len({name for name, _ in settings}) < len(settings):
        raise UsageError("a setting is given twice", expected="different values")
    return settings


def _packages(model: Path, out: Path, way: str, given: dict[str, Any]) -> Result:
    """Packages by rounding (rtn, gptq) or training, one for each length or step, measured before and after when there is text."""
    import tempfile

    from scalebound.compress import quantize, read_checkpoint, save_package

    settings = _settings(way, given.get("bits"), given.get("step"))
    stream, tokens = given.get("stream"), given.get("tokens", TOKENS)
    config, tensors = read_checkpoint(model)
    records: list[dict[str, Any]] = []
    dropping: dict[str, Any] = {}
    modules = out.with_name(f"{out.name}.modules")  # what was computed of an interrupted search
    with tempfile.TemporaryDirectory() as scratch:
        options = _calibration(config, given) if way == "gptq" else {}
        opened = None if stream is None else _stream(model, stream, tokens + options.get("held", 0), Path(scratch))
        if opened is not None and options:
            options["start"] = _start(given["stream"], opened, tokens, options.pop("held"))
            tensors, dropping = _without_modules(config, tensors, opened, modules, given.get("drop"), options)
        before = None if opened is None else _measured(model, opened, tokens, Path(scratch) / "before.safetensors")
        for name, setting in settings:
            path = out if len(settings) == 1 else out.with_name(f"{out.stem}-{name}{out.suffix}")
            if way == "finetune":
                quantized, setting = _finetune(model, out, given)
            elif way == "gptq" and opened is not None:
                quantized, setting = _calibrated(config, tensors, opened, path, options | setting)
            else:
                with progress_bar(f"round {name}", "weights") as progress:
                    quantized = quantize(config, tensors, **setting, progress=progress)
            parts = save_package(path, quantized)
            after = None if opened is None else _measured(path, opened, tokens, Path(scratch) / f"{name}.safetensors")
            records.append(_record(path, quantized, parts) | _losses(before, after) | setting | dropping)
    modules.unlink(missing_ok=True)
    return _result([name for name, _ in settings], records)


def _record(path: Path, model: QuantizedModel, parts: Breakdown) -> dict[str, Any]:
    """What a package's record says of the file."""
    from scalebound.compress import code_bits
    from scalebound.core.io import sha256_file

    where = {"header": parts.header_bytes, "tables": parts.table_bytes, "classes": parts.class_bytes, "scales": parts.scale_bytes, "raw": parts.raw_bytes, "weights": parts.weight_bytes}
    return {
        "package": str(path), "file_bytes": parts.file_bytes, "code_bits": code_bits(parts.file_bytes), "bits_per_parameter": 8 * parts.file_bytes / model.num_params, "params": model.num_params,
        "loss_before": None, "loss_after": None, "package_sha256": sha256_file(path), "model_sha256": model.sha256(), "breakdown": where,
    }  # fmt: skip


def _result(names: list[str], records: list[dict[str, Any]]) -> Result:
    """Two tables, since one would not fit a terminal of 80 columns: what came out, and where its bytes are."""
    rows, parts = [], []
    for name, record in zip(names, records, strict=True):
        losses = ["not measured" if record[key] is None else f"{record[key]:.4f}" for key in ("loss_before", "loss_after")]
        rows.append([name, f"{record['file_bytes']:,}", f"{record['bits_per_parameter']:.3f}", *losses])
        parts.append([name, *(f"{part:,}" for part in record["breakdown"].values())])
    if len(records) > 1:
        note(f"Certificates hold for all {len(records)} packages at once, so picking the best costs nothing, as long as all tokens of the window are scored.")
    view = [
        table(["rounding", "bytes", "bits/parameter", "loss before", "loss after"], rows, caption=f"{records[0]['params']:,} parameters; losses in nats/token"),
        table(["bytes of", *records[0]["breakdown"]], parts),
        *(_change(entry) for entry in records if entry["interval"] is not None),
        *(f"Wrote {entry['package']}" for entry in records),
    ]
    return Result(records[0] if len(records) == 1 else {"packages": records}, view)


def _losses(before: Stats | None, after: Stats | None) -> dict:
    """What the record says of the losses: means over the measured tokens, their intervals, and that of the difference (after minus before)."""
    if before is None or after is None:
        return {"loss_before": None, "loss_after": None, "interval": None}
    from scalebound.certify import compare, interval

    found = compare(after, before)
    ends = {when: {key: asdict(interval(stats))[key] for key in ("low", "high", "level", "n")} for when, stats in (("before", before), ("after", after))}
    difference = {key: asdict(found)[key] for key in ("difference", "low", "high", "level", "n")}
    means = {f"loss_{when}": float(stats.read("nll").mean(dtype="f8")) for when, stats in (("before", before), ("after", after))}
    return means | {"interval": {"window": list(after.info.window), **ends, "difference": difference}}


def _change(entry: dict) -> str:
    found = entry["interval"]["difference"]
    return f"{Path(entry['package']).name}: loss changes by {entry['loss_after'] - entry['loss_before']:+.4f} nats/token; mixed with 1% of each other {found['difference']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}] ({100 * found['level']:g}% interval, n = {found['n']:,})"


def _calibration(config: dict, given: dict[str, Any]) -> dict[str, Any]:
    """What :func:`_calibrated` is told, defaults included, and ``held``: the tokens that calibration takes."""
    from scalebound.train.posttraining import SEQUENCES, calibration_tokens

    prune, sequences = given.get("prune"), given.get("sequences", SEQUENCES)
    return {
        "allocation": given.get("allocation", "fisher"), "penalty": given.get("rate_penalty"), "prune": prune, "sparsity": 0.0 if prune in (None, "kept") else given.get("sparsity", 0.5),
        "sequences": sequences, "seed": given.get("seed", 0), "held": calibration_tokens(config, sequences),
    }  # fmt: skip


def _start(text: Path, stream: Path, tokens: int, held: int) -> int:
    """Where calibration begins: after the measured tokens, or as late as the text allows."""
    from scalebound.core.errors import InputError
    from scalebound.data.stream import Stream

    has = len(Stream(stream))
    if has < held:
        raise InputError(f"has {has:,} tokens", where=str(text), expected=f"at least {held:,} to calibrate on", hint="use fewer --sequences, or more text")
    if has < tokens + held:
        note(f"The text has {has:,} tokens: calibration shares {min(has, tokens) - (has - held):,} of them with the loss that is measured, which is then too good. Give more text, or fewer --tokens.")
    return max(0, min(tokens, has - held))


def _without_modules(config: dict, tensors: dict, stream: Path, state: Path, share: float | None, options: dict) -> tuple[dict, dict]:
    """The tensors with the modules of --drop set to zero, and what the record says of them; searched once, whatever the lengths."""
    if share is None:
        return tensors, {}
    from scalebound.core.workers import cores
    from scalebound.train.dropping import drop_blocks, without_blocks

    with progress_bar("choose modules", "tries") as progress:
        blocks = drop_blocks(config, tensors, stream, share=share, **{key: options[key] for key in ("sequences", "start", "seed")}, threads=cores(), state=state, progress=progress)
    return without_blocks(tensors, blocks.dropped), {"dropping": asdict(blocks)}


def _calibrated(config: dict, tensors: dict, stream: Path, out: Path, options: dict) -> tuple[QuantizedModel, dict]:
    """The model rounded with calibration, and what the record says of it."""
    from scalebound.core.workers import cores
    from scalebound.train import quantize_calibrated

    extra: dict = {}
    levels_state, state = (out.with_name(f"{out.name}.{what}") for what in ("levels", "state"))  # of what was interrupted; the second removes itself
    if options["allocation"] == "evolution":
        from scalebound.train.evolution import matrix_levels, sparsity_levels
        from scalebound.train.posttraining import PENALTY

        options = options | {"allocation": "fisher"}
        searched = {key: options[key] for key in ("sequences", "start", "seed")} | {"penalty": PENALTY if options["penalty"] is None else options["penalty"], "threads": cores(), "state": levels_state}
        with progress_bar("choose levels", "tries") as progress:
            if options["prune"] is not None:
                shares = sparsity_levels(config, tensors, stream, bits=options["bits"], sparsity=options["sparsity"], prune=options["prune"], **searched, progress=progress)
                options, extra["evolution"] = options | {"shares": shares.shares}, asdict(shares)
            else:
                levels = matrix_levels(config, tensors, stream, bits=options["bits"], **searched, progress=progress)
                options, extra["evolution"] = options | {"factors": levels.factors}, asdict(levels)
    with progress_bar(f"round to {options['bits']:g} bits", "matrices") as progress:
        done = quantize_calibrated(config, tensors, stream, **options, threads=cores(), state=state, progress=progress)
    levels_state.unlink(missing_ok=True)
    return done.model, {"gptq": done.record()} | extra


def _kept(model: Path, out: Path) -> Result:
    """``compress --keep-codes``: the package of a model that another program quantized."""
    from scalebound.compress import save_package
    from scalebound.core.errors import require_extra

    require_extra("torch")
    require_extra("gguf")
    from scalebound.models.keep_codes import keep_codes

    with progress_bar(f"read {model.name}", "tensors") as progress:
        kept = keep_codes(model, progress=progress)
    record = _record(out, kept, save_package(out, kept))
    source = sum(file.stat().st_size for file in ([model] if model.is_file() else sorted(model.glob("model*.safetensors"))))
    record |= {"source_bytes": source, "source_bits_per_parameter": 8 * source / kept.num_params}
    rows = [["as it came", f"{source:,}", f"{record['source_bits_per_parameter']:.3f}"], ["package", f"{record['file_bytes']:,}", f"{record['bits_per_parameter']:.3f}"]]
    caption = f"{kept.num_params:,} parameters, every one as it was; scales {record['breakdown']['scales']:,} bytes, integers {record['breakdown']['weights']:,}"
    return Result(record, [table(["", "bytes", "bits/parameter"], rows, caption=caption), f"Wrote {out}. Next: scalebound measure {out} STREAM --out S.safetensors"])


def _relative(model: Path, base: Path, out: Path, step: str) -> Result:
    """``compress --base``: a delta package, and the model it decodes to."""
    from scalebound.cli.numbers import parse_numbers
    from scalebound.compress import code_bits, save_package
    from scalebound.core.errors import UsageError, require_extra
    from scalebound.core.io import sha256_file

    require_extra("torch")
    from scalebound.models.relative import delta_of, rebuild

    steps = parse_numbers(step, "--step", "0.3")
    if len(steps) > 1:
        raise UsageError("one delta at a time", where="--step", expected="one value with --base")
    delta = delta_of(model, base, step=steps[0])
    parts = save_package(out, delta)
    found = rebuild(out, base)
    record = {"package": str(out), "kind": delta.config["delta"], "file_bytes": parts.file_bytes, "code_bits": code_bits(parts.file_bytes), "numbers": delta.num_params,
              "bits_per_number": 8 * parts.file_bytes / delta.num_params, "base_sha256": found.base_sha256, "model_sha256": found.sha256, "package_sha256": sha256_file(out)}  # fmt: skip
    rows = [[delta.config["delta"], f"{delta.num_params:,}", f"{parts.file_bytes:,}", f"{record['code_bits']:,}", f"{record['bits_per_number']:.2f}"]]
    return Result(record, [table(["delta", "numbers", "bytes", "code bits", "bits a number"], rows), f"Wrote {out}. Next: scalebound export {out} --base {base} --out FOLDER, and measure that."])


def _frontier(model: Path, stream: Path | None, out: Path, given: dict[str, Any]) -> Result:
    """``compress --frontier``: :mod:`scalebound.cli.compress_frontier` with the options as numbers."""
    from scalebound.cli.compress_frontier import frontier
    from scalebound.cli.numbers import parse_numbers

    assert stream is not None
    lists = {flag: parse_numbers(given[flag], f"--{flag}") if flag in given else None for flag in ("step", "bits")}
    return frontier(model, stream, out, steps=lists["step"], bits=lists["bits"], beside=given.get("beside", ()), sequences=given.get("sequences", 32), tokens=given.get("tokens"), seed=given.get("seed", 0))


def _finetune(model: Path, out: Path, given: dict[str, Any]) -> tuple[QuantizedModel, dict]:
    """The trained rounding, and what the record says of it."""
    from scalebound.core.errors import InputError
    from scalebound.core.stats import Stats
    from scalebound.core.workers import cores
    from scalebound.data.stream import is_stream
    from scalebound.train import finetune
    from scalebound.train.anchored_objective import ALPHA

    if not is_stream(given["stream"]):
        raise InputError("is not a stream", where=str(given["stream"]), expected="the .json of the stream the model was trained on")
    reference = None if "reference" not in given else Stats.load(given["reference"])
    taught = {name: given[name] for name in ("teacher", "teacher_share", "divergence") if name in given}
    with progress_bar("train the rounding", "steps") as progress:
        done = finetune(
            model, given["stream"], steps=given.get("steps"), price=given.get("price"), reference=reference, alpha=given.get("alpha", ALPHA), seed=given.get("seed", 0),
            **taught, start=given.get("start"), threads=cores(), state=out.with_name(out.name + ".state"), progress=progress,
        )  # fmt: skip
    return done.model, {"finetune": done.record()}


def _stream(model: Path, text: Path, tokens: int, folder: Path) -> Path:
    """The stream to measure and calibrate on; a text becomes one with the tokenizer of the model (a package has none)."""
    from scalebound.data.stream import is_stream

    if is_stream(text):
        return text
    from scalebound.measure import stream_of
    from scalebound.models import load_model

    loaded = load_model(model)
    return stream_of(text, loaded, folder / "text", context=min(1024, loaded.max_context), max_tokens=tokens).path


def _measured(model: Path, stream: Path, tokens: int, out: Path) -> Stats:
    """Losses of a model on the first tokens of a stream."""
    from scalebound.core.workers import cores
    from scalebound.data.stream import Stream
    from scalebound.measure import measure

    with progress_bar(f"measure {model.name}") as progress:
        return measure(model, stream, out, window=(0, min(tokens, len(Stream(stream)))), threads=cores(), progress=progress)
