"""``scalebound probe rules``."""

from __future__ import annotations

from pathlib import Path

from scalebound.cli.output import Result, progress_bar
from scalebound.core.errors import UsageError


def rules(
    *,
    grammar: str = "anbn,dyck1",
    steps: int = 300,
    level: float = 0.95,
    seed: int = 0,
    out: Path | None = None,
) -> Result:
    """Train small models to equal loss on a grammar and count how often each keeps a rule where the training strings say nothing.

    Prompts break one of the grammar's two rules; no training string begins with one. Transformers, LSTMs and a planted pair are compared.

    Parameters
    ----------
    grammar
        Of anbn, dyck1, anbncn, separated by commas.
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

    scalebound probe rules --out probes/rules.json --json

    next: scalebound report --probes probes/rules.json
    """
    import torch

    from scalebound.cli.probe.show import show
    from scalebound.probe import GRAMMARS, probe_rules, rules_record

    chosen = [word.strip() for word in grammar.split(",")]
    for word in chosen:
        if word not in GRAMMARS:
            raise UsageError(f"unknown grammar {word!r}", where="--grammar", expected=f"of {', '.join(GRAMMARS)}, separated by commas")
    torch.set_num_threads(1)  # matrices this small are slower on several
    found = []
    for word in chosen:
        with progress_bar(word, "models") as progress:
            one = GRAMMARS[word]()
            found.append((one, *probe_rules(one, steps=steps, level=level, seed=seed, progress=progress)))
    return show(rules_record(found, steps=steps, level=level, seed=seed), out)
