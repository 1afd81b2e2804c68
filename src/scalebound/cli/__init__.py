"""The command line: one file a command, each of which parses, calls one function of a room and returns what to print.

In: arguments. Out: one :class:`~scalebound.cli.output.Result`. This package only lists the commands (by import path, so that
``--help`` imports none of them) and turns errors into exit statuses. Start reading at :func:`main`.
"""

from scalebound.cli.main import main as main
