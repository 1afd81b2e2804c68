"""``scalebound train --mix``: what :mod:`scalebound.cli.train` calls for mixtures of sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalebound.cli.output import Result, progress_bar, table

HELDOUT_BYTES = 131_072


def train_mixture(path: Path, recipe, words, out: Path, *, against_flat: bool, workers: int | None, fresh: bool) -> Result:
    """Train on a mixture (and on its flat equivalent), and measure both on held-out text of every source."""
    from scalebound.core.errors import InputError
    from scalebound.core.io import sha256_file
    from scalebound.data import build_mixture, build_stream, load_mixture, read_corpus, split_documents
    from scalebound.data.mixture import flat
    from scalebound.data.stream import SourceRef, Stream
    from scalebound.train import train_ladder

    texts, phases, max_epochs = read_mix(path)
    sources, heldout = [], {}
    with progress_bar("read text", "documents") as progress:
        for name, text in texts.items():
            corpus = read_corpus(text)
            splits = split_documents(corpus, {"heldout": min(HELDOUT_BYTES, corpus.num_bytes // 10)}, seed=recipe.seed)
            ref = SourceRef(corpus.name, corpus.sha256)
            heldout[name] = build_stream(splits["heldout"], words, out / "streams" / f"heldout-{name}", sequence_tokens=recipe.context, source=ref, split="heldout")
            sources.append((name, splits["train"], ref))
        streams: dict[str, Path] = {}
        for kind, plan in {"mixed": phases, **({"flat": flat(phases, list(texts))} if against_flat else {})}.items():
            target = out / "streams" / kind
            before = sha256_file(target.with_suffix(".json")) if target.with_suffix(".json").is_file() else None
            stream = build_mixture(sources, plan, words, target, sequence_tokens=recipe.context, num_tokens=recipe.tokens, seed=recipe.seed, max_epochs=max_epochs, progress=progress)
            if before not in (None, stream.sha256) and not fresh:
                raise InputError("held runs on another mixture, whose stream is replaced now", where=str(out), hint="start over with --fresh, or choose another --out")
            streams[kind] = stream.path
    with progress_bar("train") as progress:
        infos = train_ladder([(recipe, stream, out / kind) for kind, stream in streams.items()], workers=workers, fresh=fresh, progress=progress)
    losses = {kind: {name: _losses(out / kind, stream.path, out / "heldout" / f"{kind}-{name}.safetensors", fresh) for name, stream in heldout.items()} for kind in streams}
    rows, record = [], {"runs": {kind: str(out / kind) for kind in streams}, "tokens": recipe.tokens, "sources": []}
    mixed = load_mixture(Stream(streams["mixed"]))
    assert mixed is not None
    last = len(mixed.epoch) - len(mixed.epoch) // 10
    for count in mixed.info.sources:
        mine = losses["mixed"][count.name]
        entry: dict[str, Any] = {
            "name": count.name, "share": mixed.shares()[count.name], "last_tenth_share": mixed.shares(last)[count.name], "epochs": count.drawn / max(1, count.sequences),
            "unique_tokens": count.sequences * recipe.context, "heldout_loss": float(mine.mean()),
        }  # fmt: skip
        cells = [count.name, f"{entry['share']:.3f}", f"{entry['last_tenth_share']:.3f}", f"{entry['epochs']:.2f}", f"{entry['unique_tokens']:,}", f"{entry['heldout_loss']:.4f}"]
        if against_flat:
            entry["gain"] = paired_gain(losses["flat"][count.name], mine, recipe.context)
            cells += [f"{losses['flat'][count.name].mean():.4f}", f"{entry['gain']['value']:+.4f} [{entry['gain']['low']:+.4f}, {entry['gain']['high']:+.4f}]"]
        record["sources"].append(entry)
        rows.append(cells)
    record["unique_tokens"] = mixed.info.unique_tokens
    headers = ["source", "share", "in the last tenth", "epochs", "unique tokens", "held-out loss"] + (["flat mixture", "gain (95%)"] if against_flat else [])
    shown = table(headers, rows, title="Sources", caption="Nats per token. Gain: flat minus mixed on the same held-out blocks; the interval is over blocks, not over seeds of training.")
    return Result(record, [shown, f"{recipe.tokens:,} tokens, of which {mixed.info.unique_tokens:,} were met for the first time; losses of the last tenth of training: " + ", ".join(f"{kind} {i.train_loss:.4f}" for kind, i in zip(streams, infos, strict=True))])


def read_mix(path: Path) -> tuple[dict[str, Path], list[Any], int]:
    """Sources, phases and the limit on epochs of a mixture file.

    ``[sources]`` maps names to texts (relative to the file); ``[[phase]]`` has ``until`` (1.0 when left out of the last) and ``weights``.

    Raises
    ------
    InputError
        Not TOML, an unknown key, no source or phase, weights out of range.
    """
    import tomllib

    from scalebound.core.errors import InputError
    from scalebound.core.io import read_bytes
    from scalebound.data.mixture import MAX_EPOCHS, Phase, check_phases

    try:
        found = tomllib.loads(read_bytes(path, limit=1 << 20).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"is not valid TOML ({error})", where=str(path)) from error
    unknown = sorted(set(found) - {"sources", "phase", "max_epochs"})
    if unknown:
        raise InputError(f"unknown key {unknown[0]!r}", where=str(path), expected="[sources], [[phase]] and max_epochs")
    sources, phases, most = found.get("sources"), found.get("phase"), found.get("max_epochs", MAX_EPOCHS)
    if not isinstance(sources, dict) or not sources or not all(isinstance(text, str) for text in sources.values()):
        raise InputError("names no sources", where=str(path), expected='[sources] with lines like code = "src/"')
    if any(not name.replace("-", "").replace("_", "").isalnum() for name in sources):
        raise InputError("has a source whose name is no plain word", where=str(path), expected="letters, digits, - and _")
    if not isinstance(phases, list) or not all(isinstance(phase, dict) and set(phase) <= {"until", "weights"} and isinstance(phase.get("weights"), dict) for phase in phases):
        raise InputError("has no phases", where=str(path), expected="[[phase]] tables with until and weights")
    if type(most) is not int or most < 1:
        raise InputError(f"max_epochs = {most!r}", where=str(path), expected="a whole number, at least 1")
    made = []
    for number, phase in enumerate(phases):
        until = phase.get("until", 1.0 if number == len(phases) - 1 else None)
        if not isinstance(until, int | float) or not all(isinstance(weight, int | float) for weight in phase["weights"].values()):
            raise InputError(f"phase {number + 1} has no number for until or a weight", where=str(path), expected="until = 0.85 and weights = {code = 0.7, docs = 0.3}")
        made.append(Phase(float(until), {name: float(weight) for name, weight in phase["weights"].items()}))
    check_phases(made, list(sources), where=str(path))
    return {name: path.parent / text for name, text in sources.items()}, made, most


def _losses(run: Path, stream: Path, out: Path, fresh: bool):
    from scalebound.measure import measure

    return measure(run, stream, out, fresh=fresh).read("nll")


def paired_gain(before, after, block: int) -> dict[str, float]:
    """Mean of before minus after with a normal 95% interval over blocks of tokens, on the same tokens."""
    import numpy as np

    difference = np.asarray(before, dtype=float) - np.asarray(after, dtype=float)
    blocks = np.array([part.mean() for part in np.array_split(difference, max(2, len(difference) // block))])
    error = 1.96 * float(blocks.std(ddof=1)) / len(blocks) ** 0.5
    value = float(difference.mean())
    return {"value": value, "low": value - error, "high": value + error}
