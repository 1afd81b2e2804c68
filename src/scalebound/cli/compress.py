"""``scalebound compress``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from scalebound.cli.output import Result, note, progress_bar, table

if TYPE_CHECKING:
    from scalebound.compress import QuantizedModel
    from scalebound.core.stats import Stats


def compress(model: Path, *, out: Path, bits: str | None = None, step: str | None = None, quantizer: Literal["rtn", "gptq"] = "rtn",
             allocation: Literal["fisher", "uniform", "evolution"] | None = None, rate_penalty: float | None = None, sequences: int | None = None,
             prune: Literal["magnitude", "wanda", "sparsegpt", "kept"] | None = None, sparsity: float | None = None, drop: float | None = None,
             finetune: Annotated[bool, Parameter(negative=())] = False, steps: int | None = None, price: float | None = None,
             reference: Path | None = None, alpha: float | None = None, seed: int = 0, base: Path | None = None,
             keep_codes: Annotated[bool, Parameter(negative=())] = False, stream: Path | None = None, tokens: int | None = None,
             frontier: Annotated[bool, Parameter(negative=())] = False, beside: Annotated[tuple[str, ...], Parameter(consume_multiple=False)] = ()) -> Result:  # fmt: skip
    """Write a model as a package: one small file that decodes to exactly the weights it was rounded to.

    The file's size is the code length of a certificate. --step divides every row by a multiple of its root mean square and rounds it, and
    entropy coding finds the bits; --bits limits the number of levels and searches where to clip, which suits small models of few bits.
    --quantizer gptq rounds each matrix with the help of text (--stream) so that what it computes changes least, and --bits is then the
    length of the whole file per parameter. --finetune goes on training a run on its stream, integers and scales themselves, with the file's
    bits in the objective at the price a certificate puts on them: the shortest certificates. What takes long, interrupted and run again,
    goes on where it was.

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
        Of --finetune: nats of loss given for a nat of code per token. Default 8, about what it costs in the product bound; with --reference
        log(1/alpha)/0.6. The first step pays twice as much, the last this.
    reference
        Of --finetune: losses of a reference on the run's tokens (a stats file with reference_nll or nll). The anchored bound itself is
        then minimised, which suits a certificate relative to that reference.
    alpha
        Of --reference: the share mixed in that training assumes. Default 0.2.
    seed
        Of --finetune: the order of its sequences. Of gptq: the labels its Fisher information draws.
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

    scalebound compress model-Q4_K_M.gguf --keep-codes --out model.sbz

    scalebound compress runs/ladder/38048 --frontier --stream runs/ladder/streams/train.json --beside nf4=nf4.sbz --out frontier

    next: scalebound measure small.sbz STREAM --out small.safetensors, then scalebound certify small.safetensors --package small.sbz
    """
    import tempfile

    from scalebound.core.errors import InputError, UsageError, require_extra

    require_extra("constriction")
    from scalebound.cli.numbers import parse_numbers
    from scalebound.compress import code_bits, quantize, read_checkpoint, save_package
    from scalebound.core.io import sha256_file

    if keep_codes:
        if (bits, step, allocation, rate_penalty, sequences, prune, sparsity, steps, price, reference, alpha, base, stream, tokens) != (None,) * 14 or finetune or frontier or beside or seed or quantizer != "rtn":
            raise UsageError("--keep-codes was given with another setting", expected="--keep-codes --out alone: no weight changes, so nothing is chosen or measured")
        return _kept(model, out)
    if frontier:
        if stream is None or finetune or quantizer != "rtn" or (allocation, rate_penalty, prune, sparsity, drop, steps, price) != (None,) * 7:
            raise UsageError("--frontier takes --stream, --step, --bits, --beside, --sequences, --tokens and --seed", expected="the stream the model was trained on, and no other setting")
        require_extra("torch")
        from scalebound.cli.compress_frontier import frontier as sweep

        lists = [None if text is None else parse_numbers(text, flag) for text, flag in ((step, "--step"), (bits, "--bits"))]
        return sweep(model, stream, out, steps=lists[0], bits=lists[1], beside=beside, sequences=sequences or 32, tokens=tokens, seed=seed)
    if beside:
        raise UsageError("--beside belongs to --frontier", hint="add --frontier")
    tokens = 100_000 if tokens is None else tokens
    calibrated = quantizer == "gptq"
    if bits is not None and step is not None:
        raise UsageError("--bits and --step were both given", expected="one of them")
    if finetune and (bits is not None or step is not None or calibrated):
        raise UsageError("--finetune was given with --bits, --step or --quantizer", expected="one of them")
    if finetune and stream is None:
        raise UsageError("--finetune needs --stream", expected="the stream the model was trained on")
    if calibrated and (bits is None or stream is None):
        raise UsageError("--quantizer gptq needs --bits and --stream", expected="bits per parameter of the file, and text to calibrate on")
    if not finetune and (steps is not None or price is not None or reference is not None or alpha is not None or (seed and not calibrated)):
        raise UsageError("--steps, --price, --reference, --alpha and --seed belong to --finetune", hint="add --finetune")
    if alpha is not None and reference is None:
        raise UsageError("--alpha was given without --reference", hint="add --reference STATS")
    if not calibrated and (allocation, rate_penalty, sequences, prune, drop) != (None,) * 5:
        raise UsageError("--allocation, --rate-penalty, --sequences, --prune and --drop belong to --quantizer gptq", hint="add --quantizer gptq")
    if allocation == "evolution" and prune == "kept":
        raise UsageError("--allocation evolution with --prune kept", expected="magnitude, wanda or sparsegpt, whose shares can be chosen")
    if sparsity is not None and prune in (None, "kept"):
        raise UsageError(f"--sparsity was given {'with --prune kept' if prune else 'without --prune'}", expected="a rule: magnitude, wanda or sparsegpt")
    relative = parse_numbers(step or "0.3", "--step") if bits is None and not finetune else ()
    widths = parse_numbers(bits, "--bits") if bits is not None else ()
    if not calibrated and any(width != int(width) for width in widths):
        raise UsageError(f"--bits {bits}", expected="whole numbers from 2 to 8", hint="with --quantizer gptq it may be any number")
    settings: list[tuple[str, dict]] = [(f"{width:g}bit", {"bits": width if calibrated else int(width)}) for width in widths]
    settings += [(f"{value:g}step", {"step": value}) for value in relative]
    if finetune:
        settings = [("finetuned", {})]
    if len({name for name, _ in settings}) < len(settings):
        raise UsageError("a setting is given twice", expected="different values")
    if stream is not None:
        require_extra("torch")
    if tokens < 2:
        raise UsageError(f"--tokens {tokens}", expected="at least 2")
    if stream is not None and not stream.exists():
        raise InputError("no such file or folder", where=str(stream), expected="a stream or a text")
    if base is not None:
        other = {"--bits": bits, "--stream": stream, "--finetune": finetune, "--quantizer": calibrated, "--prune": prune}
        wrong = next((flag for flag, value in other.items() if value), None)
        if wrong is not None:
            raise UsageError(f"--base with {wrong}", expected="--base with --step alone: export the delta and measure that")
        return _relative(model, base, out, parse_numbers(step or "0.3", "--step"))
    config, tensors = read_checkpoint(model)
    if calibrated:
        from scalebound.data.stream import Stream
        from scalebound.train.posttraining import SEQUENCES, calibration_tokens
    records, rows = [], []
    with tempfile.TemporaryDirectory() as scratch:
        held = calibration_tokens(config, sequences or SEQUENCES) if calibrated else 0
        opened = None if stream is None else _stream(model, stream, tokens + held, Path(scratch))
        before = None if opened is None else _measured(model, opened, tokens, Path(scratch) / "before.safetensors")
        for name, setting in settings:
            path = out if len(settings) == 1 else out.with_name(f"{out.stem}-{name}{out.suffix}")
            if finetune and stream is not None:
                quantized, setting = _finetune(model, stream, out, steps, price, seed, reference, alpha)
            elif calibrated and opened is not None:
                start = max(0, min(tokens, len(Stream(opened)) - held))
                options = {"bits": setting["bits"], "allocation": allocation or "fisher", "penalty": rate_penalty, "prune": prune, "sparsity": 0.0 if prune in (None, "kept") else 0.5 if sparsity is None else sparsity, "drop": drop, "sequences": sequences or SEQUENCES, "start": start, "seed": seed}
                quantized, setting = _calibrated(config, tensors, opened, path, options)
            else:
                with progress_bar(f"round {name}", "weights") as progress:
                    quantized = quantize(config, tensors, **setting, progress=progress)
            parts = save_package(path, quantized)
            after = None if opened is None else _measured(path, opened, tokens, Path(scratch) / f"{name}.safetensors")
            losses = _losses(before, after)
            records.append({
                "package": str(path), "file_bytes": parts.file_bytes, "code_bits": code_bits(parts.file_bytes), "bits_per_parameter": 8 * parts.file_bytes / quantized.num_params, "params": quantized.num_params,
                **losses, **setting, "package_sha256": sha256_file(path), "model_sha256": quantized.sha256(),
                "breakdown": {"header": parts.header_bytes, "tables": parts.table_bytes, "classes": parts.class_bytes, "scales": parts.scale_bytes, "raw": parts.raw_bytes, "weights": parts.weight_bytes},
            })  # fmt: skip
            shown = ["not measured" if losses[key] is None else f"{losses[key]:.4f}" for key in ("loss_before", "loss_after")]
            rows.append([name, f"{parts.file_bytes:,}", f"{8 * parts.file_bytes / quantized.num_params:.3f}", *shown, *(f"{part:,}" for part in records[-1]["breakdown"].values())])
    headers = ["rounding", "bytes", "bits/parameter", "loss before", "loss after", "header", "tables", "classes", "scales", "raw", "weights"]
    if len(records) > 1:
        note(f"Certificates hold for all {len(records)} packages at once, so picking the best costs nothing, as long as all tokens of the window are scored.")
    record = records[0] if len(records) == 1 else {"packages": records}
    caption = f"{records[0]['params']:,} parameters; losses in nats/token; parts in bytes"
    lines = [_change(entry) for entry in records if entry["interval"] is not None]
    return Result(record, [table(headers, rows, caption=caption), *lines, *(f"Wrote {entry['package']}" for entry in records)])


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


def _calibrated(config: dict, tensors: dict, stream: Path, out: Path, options: dict) -> tuple[QuantizedModel, dict]:
    """The model rounded with calibration, and what the record says of it."""
    from scalebound.core.workers import cores
    from scalebound.train import quantize_calibrated

    extra: dict = {}
    share, searched = options.pop("drop"), {key: options[key] for key in ("sequences", "start", "seed")} | {"threads": cores()}
    if share is not None:
        from scalebound.train.dropping import drop_blocks, without_blocks

        with progress_bar("choose modules", "tries") as progress:
            blocks = drop_blocks(config, tensors, stream, share=share, **searched, progress=progress)
        tensors, extra["dropping"] = without_blocks(tensors, blocks.dropped), asdict(blocks)
    if options["allocation"] == "evolution":
        from scalebound.train.evolution import matrix_levels, sparsity_levels
        from scalebound.train.posttraining import PENALTY

        options = options | {"allocation": "fisher"}
        searched["penalty"] = PENALTY if options["penalty"] is None else options["penalty"]
        with progress_bar("choose levels", "tries") as progress:
            if options["prune"] is not None:
                shares = sparsity_levels(config, tensors, stream, bits=options["bits"], sparsity=options["sparsity"], prune=options["prune"], **searched, progress=progress)
                options, extra["evolution"] = options | {"shares": shares.shares}, asdict(shares)
            else:
                levels = matrix_levels(config, tensors, stream, bits=options["bits"], **searched, progress=progress)
                options, extra["evolution"] = options | {"factors": levels.factors}, asdict(levels)
    with progress_bar(f"round to {options['bits']:g} bits", "matrices") as progress:
        done = quantize_calibrated(config, tensors, stream, **options, threads=cores(), state=out.with_name(out.name + ".state"), progress=progress)
    return done.model, {"gptq": done.record()} | extra


def _kept(model: Path, out: Path) -> Result:
    """``compress --keep-codes``: the package of a model that another program quantized."""
    from scalebound.compress import code_bits, save_package
    from scalebound.core.errors import require_extra
    from scalebound.core.io import sha256_file

    require_extra("torch")
    require_extra("gguf")
    from scalebound.models.keep_codes import keep_codes

    with progress_bar(f"read {model.name}", "tensors") as progress:
        kept = keep_codes(model, progress=progress)
    parts = save_package(out, kept)
    source = sum(file.stat().st_size for file in ([model] if model.is_file() else sorted(model.glob("model*.safetensors"))))
    record = {"package": str(out), "file_bytes": parts.file_bytes, "code_bits": code_bits(parts.file_bytes), "bits_per_parameter": 8 * parts.file_bytes / kept.num_params, "params": kept.num_params,
              "loss_before": None, "loss_after": None, "source_bytes": source, "source_bits_per_parameter": 8 * source / kept.num_params, "package_sha256": sha256_file(out), "model_sha256": kept.sha256(),
              "breakdown": {"header": parts.header_bytes, "tables": parts.table_bytes, "classes": parts.class_bytes, "scales": parts.scale_bytes, "raw": parts.raw_bytes, "weights": parts.weight_bytes}}  # fmt: skip
    rows = [["as it came", f"{source:,}", f"{record['source_bits_per_parameter']:.3f}"], ["package", f"{parts.file_bytes:,}", f"{record['bits_per_parameter']:.3f}"]]
    caption = f"{kept.num_params:,} parameters, every one as it was; scales {parts.scale_bytes:,} bytes, integers {parts.weight_bytes:,}"
    return Result(record, [table(["", "bytes", "bits/parameter"], rows, caption=caption), f"Wrote {out}. Next: scalebound measure {out} STREAM --out S.safetensors"])


def _relative(model: Path, base: Path, out: Path, steps: tuple[float, ...]) -> Result:
    """``compress --base``: a delta package, and the model it decodes to."""
    from scalebound.compress import code_bits, save_package
    from scalebound.core.errors import UsageError, require_extra
    from scalebound.core.io import sha256_file

    require_extra("torch")
    from scalebound.models.relative import delta_of, rebuild

    if len(steps) > 1:
        raise UsageError("one delta at a time", where="--step", expected="one value with --base")
    delta = delta_of(model, base, step=steps[0])
    parts = save_package(out, delta)
    found = rebuild(out, base)
    record = {"package": str(out), "kind": delta.config["delta"], "file_bytes": parts.file_bytes, "code_bits": code_bits(parts.file_bytes), "numbers": delta.num_params,
              "bits_per_number": 8 * parts.file_bytes / delta.num_params, "base_sha256": found.base_sha256, "model_sha256": found.sha256, "package_sha256": sha256_file(out)}  # fmt: skip
    rows = [[delta.config["delta"], f"{delta.num_params:,}", f"{parts.file_bytes:,}", f"{record['code_bits']:,}", f"{record['bits_per_number']:.2f}"]]
    return Result(record, [table(["delta", "numbers", "bytes", "code bits", "bits a number"], rows), f"Wrote {out}. Next: scalebound export {out} --base {base} --out FOLDER, and measure that."])


def _finetune(model: Path, stream: Path, out: Path, steps: int | None, price: float | None, seed: int, reference: Path | None, alpha: float | None) -> tuple[QuantizedModel, dict]:
    """The trained rounding, and what the record says of it."""
    from scalebound.core.errors import InputError
    from scalebound.core.stats import Stats
    from scalebound.core.workers import cores
    from scalebound.data.stream import is_stream
    from scalebound.train import finetune
    from scalebound.train.anchored_objective import ALPHA

    if not is_stream(stream):
        raise InputError("is not a stream", where=str(stream), expected="the .json of the stream the model was trained on")
    with progress_bar("train the rounding", "steps") as progress:
        opened = None if reference is None else Stats.load(reference)
        done = finetune(model, stream, steps=steps, price=price, reference=opened, alpha=ALPHA if alpha is None else alpha, seed=seed, threads=cores(), state=out.with_name(out.name + ".state"), progress=progress)
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
