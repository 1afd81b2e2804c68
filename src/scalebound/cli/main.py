"""The entry point: the list of commands, the flags they share, and the exit statuses.

``--json``, ``--quiet`` and ``--debug`` belong to every command and are taken out of the arguments before a command parses its own.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import scalebound
from scalebound.cli.output import Result, quiet
from scalebound.core.errors import MissingExtra, ScaleboundError, UsageError, from_os_error

# name: (where its function is, what it does); the order is the way data passes through the product. A command that is a group of commands
# names their table, which has the same form.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("scalebound.cli.demo:demo", "From text to verified certificates, a forecast and a page, in one command."),
    "train": ("scalebound.cli.train:train", "Train a model or a ladder of them, keeping the loss of every token."),
    "config": ("scalebound.cli.config:config", "Write a commented recipe file."),
    "measure": ("scalebound.cli.measure:measure", "Score every token of a text with a model."),
    "reference": ("scalebound.cli.reference:reference", "Losses of a predictor known before each token, for anchored certificates."),
    "sketch": ("scalebound.cli.sketch:sketch", "Turn stats files into a sketch of a few megabytes, for certificates of very long streams."),
    "merge": ("scalebound.cli.merge:merge", "Join stats files of one measurement."),
    "compress": ("scalebound.cli.compress:compress", "Write a model as one small file that decodes to exactly its rounded weights."),
    "export": ("scalebound.cli.export:export", "Write a package as a Hugging Face folder."),
    "certify": ("scalebound.cli.certify:certify", "Prove a bound on the expected loss and write it as a certificate."),
    "certify-prompt": ("scalebound.cli.certify_prompt:certify_prompt", "Bound the error of prompts chosen on items."),
    "verify": ("scalebound.cli.verify:verify", "Check a certificate with independent code."),
    "interval": ("scalebound.cli.interval:interval", "A two-sided anytime interval for a mean loss."),
    "compare": ("scalebound.cli.compare:compare", "Decide which of several models predicts a stream better."),
    "detect": ("scalebound.cli.detect:detect", "Test whether a text was sampled from a model."),
    "fit": ("scalebound.cli.fit:fit", "Fit a scaling law to a table of runs."),
    "forecast": ("scalebound.cli.forecast:forecast", "Predict at sizes not trained, with intervals."),
    "plan": ("scalebound.cli.plan:plan", "Choose model and data size for a budget or a loss."),
    "backtest": ("scalebound.cli.backtest:backtest", "Test a law: would it have predicted your larger runs?"),
    "crossover": ("scalebound.cli.crossover:crossover", "Find the compute at which two recipes swap order."),
    "emergence": ("scalebound.cli.emergence:emergence", "Test whether larger models depart from the pass rates of smaller ones."),
    "resample": ("scalebound.cli.resample:resample", "What repeated sampling against an imperfect verifier can reach."),
    "mix": ("scalebound.cli.mix:mix", "Choose data pools for a number of training samples."),
    "critical-batch": ("scalebound.cli.critical_batch:critical_batch", "Trade steps against tokens over batch sizes."),
    "probe": ("scalebound.cli.probe:COMMANDS", "Show what equal loss does not tell: one command a probe."),
    "import": ("scalebound.cli.import_:import_", "Turn trainer states, evaluations, event files and histories into a table."),
    "report": ("scalebound.cli.report:report", "Put a finished demo on one offline HTML page."),
    "doctor": ("scalebound.cli.doctor:doctor", "Tell what this machine and this installation can do."),
    "systems": ("scalebound.cli.systems:systems", "List the published methods that are implemented."),
    "contamination": ("scalebound.cli.contamination:contamination", "Test whether a model has seen a test set."),
    "leak": ("scalebound.cli.leak:leak", "Test whether an anchor saw the documents it is to predict."),
    "holdout": ("scalebound.cli.holdout:holdout", "Answer many questions from one holdout without overfitting it."),
    "prediction-set": ("scalebound.cli.prediction_set:prediction_set", "Partial programs that contain the true one with a proven probability."),
}

# one progress bar, ours; and no library looks for a network
QUIET_LIBRARIES = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

SHARED = """Every command takes --json (one JSON object on stdout), --quiet (no progress) and --debug (tracebacks).
Exit status: 0 done; 1 the claim does not hold; 2 usage; 3 bad input; 4 an extra is missing; 5 the machine or run failed; 130 interrupted."""


def build_app(words: Sequence[str] = ()) -> App:
    """The cyclopts application. Only the command that the ``words`` begin with is imported; the others are given by path."""
    app = App(
        name="scalebound",
        help="Forecast the loss of language models you have not trained, and prove bounds for those you have.",
        version=scalebound.__version__,
        help_epilogue=SHARED,
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,  # main says how to go on
    )
    _add(app, COMMANDS, words)
    return app


def _add(app: App, commands: dict[str, tuple[str, str]], words: Sequence[str]) -> None:
    for name, (path, summary) in commands.items():
        if name != (words[0] if words else ""):
            # a group is told by name alone: cyclopts follows paths to functions only
            if _is_group(path):
                app.command(App(name=name, help=summary))
            else:
                app.command(path, name=name, help=summary)
            continue
        module_name, attribute = path.split(":")
        module = importlib.import_module(module_name)
        found = getattr(module, attribute)
        documented = module if _is_group(path) else found
        documented.__doc__ = _unwrapped(documented.__doc__ or "")  # before cyclopts reads the parameters from it
        description, examples = _split_docstring(documented.__doc__)
        text, epilogue = description or summary, f"{examples}\n\n{SHARED}".strip()
        if _is_group(path):
            group = App(name=name, help=text, help_epilogue=epilogue, help_format="plaintext", result_action="return_value", suppress_keyboard_interrupt=False)
            _add(group, found, words[1:])
            app.command(group)
        else:
            app.command(found, name=name, help=text, help_epilogue=epilogue, help_format="plaintext")


def _is_group(path: str) -> bool:
    return path.endswith(":COMMANDS")


def _unwrapped(text: str) -> str:
    r"""A docstring with every paragraph on one line, so that a terminal of any width breaks it anew; examples stay as they are.

    >>> print(_unwrapped("One\ntwo.\n\nParameters\n----------\nmodel\n    A run\n    or a file."))
    One two.
    Parameters
    ----------
    model
        A run or a file.
    """

    def joined(lines: str) -> str:
        out: list[str] = []
        for line in lines.splitlines():
            indent = len(line) - len(line.lstrip())
            if line and out and out[-1] and len(out[-1]) - len(out[-1].lstrip()) == indent:
                out[-1] += " " + line.lstrip()
            else:
                out.append(line)
        return "\n".join(out)

    text, mark, examples = inspect.cleandoc(text).partition("\nExamples\n--------\n")
    described, section, parameters = text.partition("\nParameters\n----------\n")
    return joined(described) + section + joined(parameters) + mark + examples


def _folded(command: str, width: int = 76) -> str:
    r"""A long command over several lines that a shell reads as one; nothing inside quotes is broken.

    >>> print(_folded("scalebound fit 'a b c' --law power --json", width=24))
    scalebound fit 'a b c' \
        --law power --json
    """
    lines = [""]
    for words in re.findall(r"""(?:--\S+ (?!-))?(?:'[^']*'|"[^"]*"|\S)+""", command):  # an option stays with its value
        if lines[-1].strip() and len(lines[-1]) + len(words) + 3 > width:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += (" " if lines[-1] else "") + words
    return "\n".join(lines)


def _split_docstring(text: str) -> tuple[str, str]:
    """The description and the examples of a command's docstring; cyclopts reads the parameters itself."""
    text = inspect.cleandoc(text)
    text, _, examples = text.partition("\nExamples\n--------\n")
    description = text.partition("\nParameters\n----------\n")[0]
    shown = (line if line.startswith("next:") else _folded(line) for line in examples.strip().splitlines())
    indented = "\n".join(f"  {line}" if line and not line.startswith("next:") else line for text in shown for line in (text.splitlines() or [""]))
    return description.strip(), f"Examples:\n{indented}" if indented else ""


def _take(arguments: list[str], flag: str) -> bool:
    """Remove a shared flag (before any ``--``) and say whether it was there."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    found = flag in arguments[:end]
    arguments[:end] = [word for word in arguments[:end] if word != flag]
    return found


def _help_for(arguments: list[str]) -> str:
    if not arguments or arguments[0] not in COMMANDS:
        return "scalebound --help"
    path = COMMANDS[arguments[0]][0]
    group = importlib.import_module(path.split(":")[0]).COMMANDS if _is_group(path) else ()
    return " ".join(["scalebound", *arguments[: 2 if arguments[1:] and arguments[1] in group else 1], "--help"])


def _fail(error: ScaleboundError, as_json: bool) -> int:
    if as_json:
        print(json.dumps(error.record(), ensure_ascii=False))
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    return error.status


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    typed = list(arguments)
    as_json, be_quiet, debug = _take(arguments, "--json"), _take(arguments, "--quiet"), _take(arguments, "--debug")
    quiet.set(be_quiet)
    for variable, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(variable, value)
    try:
        result = build_app(arguments)(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return _fail(UsageError(" ".join(str(error).split()), hint=_help_for(arguments)), as_json)
    except ScaleboundError as error:
        if debug:
            raise
        return _fail(error, as_json)
    except KeyboardInterrupt:
        import shlex

        print(f"\ninterrupted; what was done is kept. To go on: scalebound {shlex.join(typed)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe went away; the interpreter would complain once more at exit
        return 0
    except OSError as error:
        if debug:
            raise
        return _fail(from_os_error(error, error.filename or "a file"), as_json)
    except ModuleNotFoundError as error:
        if debug or (error.name or "").startswith("scalebound"):
            raise
        return _fail(MissingExtra(f"the package {error.name!r} is not installed", hint="pip install 'scalebound[lm]'"), as_json)
    if isinstance(result, Result):
        _show(result, as_json)
        return result.status
    return 0


def _show(result: Result, as_json: bool) -> None:
    if result.silent:
        return
    if as_json:
        print(json.dumps(result.record, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160)
    for item in result.view:
        console.print(item, markup=False, highlight=False, soft_wrap=isinstance(item, str))
