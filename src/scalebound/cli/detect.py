"""``scalebound detect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scalebound.cli.output import Result, table

if TYPE_CHECKING:
    import numpy as np

    from scalebound.core.scored import Scored
    from scalebound.core.stats import Stats

WORDS = {
    "not_a": "not sampled from A",
    "not_b": "not sampled from B",
    "neither": "sampled from neither",
    "undecided": "undecided: nothing speaks against it",
}


def detect(
    text: Path,
    *,
    model: Path | None = None,
    against: Path | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    prompt_tokens: int = 0,
    level: float = 0.05,
    stream: Path | None = None,
    no_separators: bool = False,
) -> Result:
    """Test whether a text was sampled from a model, with a false-alarm rate that is exact at every length.

    The null is "sampled from A at this temperature and nucleus, from the start of the document". A rejection is proof at the level; no
    rejection proves nothing. With --against, the likelihood ratio of B is one more bet, and "sampled from B" is tested too. Each
    document is judged by itself, with the expected share of false calls at most the level, and all together. Of each document, at most one
    context of the model is judged.

    Parameters
    ----------
    text
        A text file (one document), a folder (one a file), a .jsonl file (one a line, key "text"), or statistics measured with A.
    model
        A: a Hugging Face folder, a .gguf file, a run, a checkpoint or a package. Not with statistics.
    against
        B: a model with the same vocabulary, or its statistics on the same tokens.
    temperature
        Temperature of the sampler that is tested.
    top_p
        Nucleus of the sampler that is tested; 1 is none.
    prompt_tokens
        The first tokens of each document that were given and not sampled.
    level
        Probability of a false alarm.
    stream
        The stream's .json, when it is no longer where the statistics say: separators between documents were not sampled and are left out.
    no_separators
        The statistics hold no separators.

    Examples
    --------
    scalebound detect essay.txt --model runs/small

    scalebound detect essays.jsonl --model model.gguf --against other.gguf --temperature 0.8 --level 0.001

    next: scalebound compare a.safetensors b.safetensors
    """
    from dataclasses import asdict

    from scalebound.certify.detect import combine, detect_documents
    from scalebound.certify.evalues import e_value, p_value

    names, parts = scores(text, model, against, temperature, top_p, prompt_tokens, stream, no_separators)
    found, called = detect_documents(parts, level=level)
    if len(found) == 1:
        record = asdict(found[0])
    else:
        # one document after the other: a product of e-values, judged at its end
        log_e, log_b = combine(found), combine(found, of_b=True) if against is not None else None
        not_a, not_b = p_value(log_e) <= level, log_b is not None and p_value(log_b) <= level
        verdict = "neither" if not_a and not_b else "not_a" if not_a else "not_b" if not_b else "undecided"
        record = {
            "e_value": e_value(log_e),
            "log_e_value": log_e,
            "p_value": p_value(log_e),
            "verdict": verdict,
            "n": sum(f.n for f in found),
            "level": level,
        }
        if log_b is not None:
            record |= {"e_value_b": e_value(log_b), "log_e_value_b": log_b, "p_value_b": p_value(log_b)}
    record["documents"] = [
        {"name": name, "called": bool(call), **asdict(one)} for name, call, one in zip(names, called, found, strict=True)
    ]
    record |= {"temperature": temperature, "top_p": top_p, "prompt_tokens": prompt_tokens}
    view = [
        f"{WORDS[record['verdict']]} (e-value {record['e_value']:.4g}, p-value {record['p_value']:.4g} against A, n = {record['n']:,} tokens; "
        f"false alarms at most {level:g} at any length)"
    ]
    if against is not None:
        view.append(f"Against B: e-value {record['e_value_b']:.4g}, p-value {record['p_value_b']:.4g}.")
    if len(found) > 1:
        rows = [
            [name, f"{one.n:,}", f"{one.mean_excess:+.3f}", f"{one.e_value:.3g}", "not from A" if call else ""]
            for name, one, call in zip(names, found, called, strict=True)
        ]
        view.append(table(["document", "tokens", "loss minus entropy", "e-value", "called"], rows))
        view.append(f"{int(called.sum())} of {len(found)} called; the expected share of false calls is at most {level:g}.")
    if any(one.impossible for one in found):
        view.append(f"{sum(one.impossible for one in found)} tokens lie outside the nucleus: they cannot have been sampled so.")
    return Result(record, view)


def scores(
    text: Path, model: Path | None, against: Path | None, temperature: float, top_p: float, prompt_tokens: int, stream: Path | None, no_separators: bool
) -> tuple[list[str], list[tuple[Scored, Scored | None]]]:
    """Names of documents, and each scored under A and B."""
    from scalebound.core.errors import InputError, UsageError
    from scalebound.core.scored import Scored

    if text.suffix == ".safetensors":
        from dataclasses import replace

        from scalebound.certify.provenance import check_same_tokens
        from scalebound.core.stats import Stats

        if model is not None or temperature != 1 or top_p != 1 or prompt_tokens:
            raise UsageError(
                "statistics are of one model at temperature 1",
                where=str(text),
                expected="no --model, --temperature, --top-p or --prompt-tokens",
                hint="give the text itself with --model",
            )
        a = Stats.load(text)
        b = Stats.load(against) if against is not None else None
        if b is not None:
            check_same_tokens(a, b, "B")
        bet = None if no_separators else sampled_tokens(a, stream)
        return [str(text)], [(replace(Scored.of(a), bet=bet), None if b is None else replace(Scored.of(b), bet=bet))]
    if model is None:
        raise UsageError("no model to test against", where="--model", expected="--model A, or statistics in place of the text")
    from scalebound.core.errors import require_extra

    require_extra("torch")
    from scalebound.measure.generated import read_documents, score_documents
    from scalebound.models import load_model

    loaded = load_model(model)
    found = read_documents(text, loaded)
    settings = {"temperature": temperature, "top_p": top_p, "prompt_tokens": prompt_tokens}
    tokens = [ids for _, ids in found]
    own = score_documents(loaded, tokens, **settings)  # type: ignore[arg-type]
    others: list[Scored | None] = [None] * len(own)
    if against is not None:
        other = load_model(against)
        if other.vocab_size != loaded.vocab_size:
            raise InputError(
                f"predicts {other.vocab_size:,} tokens",
                where=str(against),
                expected=f"{loaded.vocab_size:,} as A: the same tokens under both",
            )
        shorter = [ids[: min(loaded.max_context, other.max_context)] for ids in tokens]
        own = score_documents(loaded, shorter, **settings)  # type: ignore[arg-type]
        others = list(score_documents(other, shorter, **settings))  # type: ignore[arg-type]
    return [name for name, _ in found], list(zip(own, others, strict=True))


def sampled_tokens(stats: Stats, stream: Path | None) -> np.ndarray:
    """(tokens,) True where a token is not a separator that was put between documents."""
    import numpy as np

    from scalebound.cli.certify import find_stream
    from scalebound.core.errors import InputError
    from scalebound.core.io import sha256_file
    from scalebound.data.stream import Stream

    path = stream or find_stream(stats)
    if path is None:
        raise InputError(
            "does not say where its stream is, so separators between documents cannot be told from sampled tokens",
            where=stats.path,
            hint="add --stream STREAM.json, or --no-separators when there are none",
        )
    if sha256_file(path) != stats.info.stream.sha256:
        raise InputError("is another stream than the one measured", where=str(path), expected=f"{stats.info.stream.sha256[:12]}..")
    opened, (start, stop) = Stream(path), stats.info.window
    window = np.asarray(opened.tokens[start:stop]) != opened.info.separator
    if stats.complete:
        return window
    size = stats.info.block_tokens
    return np.concatenate([window[b * size : (b + 1) * size] for b in stats.blocks])
