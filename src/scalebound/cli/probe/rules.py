"""``scalebound probe rules``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, progress_bar
from scalebound.core.errors import UsageError


def rules(
    *,
    grammar: str | None = None,
    grammar_file: Path | None = None,
    steps: int = 300,
    level: float = 0.95,
    seed: int = 0,
    out: Path | None = None,
) -> Result:
    """Train small models to equal loss on a grammar and count how often each keeps a rule where the training strings say nothing.

    Prompts break one of the grammar's two rules; no training string begins with one. Transformers and LSTMs, a transformer that is penalised for
    leaving the language, and a planted pair are compared.

    Parameters
    ----------
    grammar
        Of anbn, dyck1, anbncn, anbmcnm, dyck2, separated by commas. Default: all of them, or none beside a file.
    grammar_file
        A grammar of your own: strings and two rules described in TOML (docs/formats.md). Nothing in the file is executed.
    steps
        Training steps of each model.
    level
        Confidence of all intervals of one grammar together.
    seed
        Decides everything random.
    out
        Where the record is written, for scalebound report.

    Examples
    --------
    scalebound probe rules --grammar anbn

    scalebound probe rules --grammar-file mine.toml --out probes/rules.json

    next: scalebound report --probes probes/rules.json
    """
    import torch

    from scalebound.cli.numbers import parse_words
    from scalebound.cli.probe.show import show
    from scalebound.core.io import sha256_file
    from scalebound.probe import GRAMMARS, probe_rules, read_grammar, rules_record

    chosen = list(parse_words(grammar)) if grammar is not None else [] if grammar_file is not None else list(GRAMMARS)
    for word in chosen:
        if word not in GRAMMARS:
            raise UsageError(f"unknown grammar {word!r}", where="--grammar", expected=f"of {', '.join(GRAMMARS)}, separated by commas")
    grammars = [GRAMMARS[word]() for word in chosen] + ([] if grammar_file is None else [read_grammar(grammar_file)])
    torch.set_num_threads(1)  # matrices this small are slower on several
    found = []
    for one in grammars:
        with progress_bar(one.name, "models") as progress:
            found.append((one, *probe_rules(one, steps=steps, level=level, seed=seed, progress=progress)))
    inputs = {} if grammar_file is None else {grammar_file.name: sha256_file(grammar_file)}
    return show(rules_record(found, steps=steps, level=level, seed=seed, inputs=inputs), out)
