"""A user's own law: an expression on the command line, or a Python function.

``--law "E + A/params**a + B/tokens**b"`` is parsed into a tree of arithmetic, a few functions, columns and parameters; nothing is ever
evaluated as Python. Names of columns are inputs, all other names are parameters. Every parameter is taken to be at least zero: write
signs in the expression. ``error = eps - k*exp(-g*loss)`` names another target than ``loss``. The objective is Huber's of log residuals, for
the targets ``error`` and ``accuracy`` plain squares.

Derivatives are exact (:mod:`~scalebound.scaling.autodiff`). Which parameters enter linearly is read off the second derivatives that are
structurally zero; the others are searched over a grid from 0.02 to 3 (exponents), so give ``start`` values to parameters that are not
of that size.
"""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from scalebound.core.errors import UsageError
from scalebound.scaling.autodiff import Jet
from scalebound.scaling.laws.formula import FormulaLaw, Parameters
from scalebound.scaling.laws.protocol import Parameter
from scalebound.scaling.table import ALIASES

FUNCTIONS: dict[str, tuple[Any, int]] = {
    "exp": (np.exp, 1),
    "expm1": (np.expm1, 1),
    "log": (np.log, 1),
    "log1p": (np.log1p, 1),
    "sqrt": (np.sqrt, 1),
    "tanh": (np.tanh, 1),
    "min": (np.minimum, 2),
    "max": (np.maximum, 2),
}
OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}
KNOWN_COLUMNS = frozenset(ALIASES) - {"group"} | {"tokens_per_param"}
LONGEST, DEEPEST, MOST_PARAMETERS = 1000, 40, 8
GRID_POINTS = {1: 40, 2: 12, 3: 7, 4: 5, 5: 4, 6: 3, 7: 3, 8: 2}

Node = Callable[[Mapping[str, Any]], Any]


def parse(text: str) -> tuple[Node, list[str]]:
    """An expression as a function of named values, and its names in order of appearance.

    Raises
    ------
    UsageError      anything but numbers, names, + - * / ** and the functions of :data:`FUNCTIONS`

    >>> node, names = parse("E + A/params**a")
    >>> names, node({"E": 1.0, "A": 2.0, "params": 4.0, "a": 0.5})
    (['E', 'A', 'params', 'a'], 2.0)
    """
    if len(text) > LONGEST:
        raise UsageError(f"the expression has {len(text)} characters", expected=f"at most {LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", None) or str(error)
        raise UsageError(f"the law {text!r} is not an expression ({reason})", expected="for example E + A/params**a") from None
    names: list[str] = []
    return _build(tree.body, names, text, 0), names


def _build(node: ast.expr, names: list[str], text: str, depth: int) -> Node:
    if depth > DEEPEST:
        raise UsageError("the expression is nested too deeply", expected=f"at most {DEEPEST} levels")
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        constant = float(node.value)
        return lambda values: constant
    if isinstance(node, ast.Name):
        name = node.id
        if name not in names:
            names.append(name)
        return lambda values: values[name]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        operate = OPERATORS[type(node.op)]
        left, right = _build(node.left, names, text, depth + 1), _build(node.right, names, text, depth + 1)
        return lambda values: operate(left(values), right(values))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = _build(node.operand, names, text, depth + 1)
        return inner if isinstance(node.op, ast.UAdd) else lambda values: -inner(values)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and not node.keywords:
        function, count = FUNCTIONS[node.func.id]
        if len(node.args) == count:
            arguments = [_build(argument, names, text, depth + 1) for argument in node.args]
            return lambda values: function(*(argument(values) for argument in arguments))
    piece = ast.get_source_segment(text.strip(), node) or type(node).__name__
    raise UsageError(f"the law may not contain {piece!r}", expected=f"numbers, names, + - * / ** and {', '.join(FUNCTIONS)}")


class UserLaw(FormulaLaw):
    """A law given from outside. Linear parameters, limits and the grid follow from the formula."""

    source = "user"

    def __init__(self, name: str, inputs: tuple[str, ...], parameters: tuple[str, ...], evaluate: Node, target: str) -> None:
        if not inputs:
            raise UsageError(
                f"the law {name!r} names no column", expected=f"at least one of {', '.join(sorted(KNOWN_COLUMNS))} or a column of the table"
            )
        if not 1 <= len(parameters) <= MOST_PARAMETERS:
            raise UsageError(f"the law {name!r} has {len(parameters)} parameters", expected=f"1 to {MOST_PARAMETERS}")
        self.name = self.title = self.equation = name
        self.inputs, self.target, self.evaluate = inputs, target, evaluate
        self.residual, self.objective = ("plain", "squares") if target in ("error", "accuracy") else ("log", "huber")
        self.positive = tuple(column for column in inputs if column in KNOWN_COLUMNS)
        self.linear = _linear(evaluate, inputs, parameters)
        self.parameters = tuple(Parameter(key, 0.0, 1e60 if key in self.linear else 1e30, "of the user's law") for key in parameters)

    def formula(self, parameters: Parameters, data: Mapping[str, Any]) -> Any:
        return self.evaluate({**data, **parameters})

    def grid(self, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        others = [name for name in self.names if name not in self.linear]
        points = GRID_POINTS.get(len(others), 2)
        return {name: np.geomspace(0.02, 3.0, points) for name in others}


def _linear(evaluate: Node, inputs: tuple[str, ...], parameters: tuple[str, ...]) -> tuple[str, ...]:
    """A largest set of parameters in which the formula is jointly linear: no second derivative between any two of them."""
    values: dict[str, Any] = {name: np.array([2.0, 3.0]) for name in inputs}
    for k, name in enumerate(parameters):
        values[name] = Jet.parameter(np.array([1.3 + 0.1 * k]), k)
    with np.errstate(all="ignore"):
        try:
            out = evaluate(values)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise UsageError(f"the law cannot be evaluated ({error})", expected="numpy arithmetic on the arguments") from None
    if not isinstance(out, Jet):
        raise UsageError("the law does not depend on its parameters", expected="an expression with at least one parameter")
    for size in range(len(parameters), 0, -1):
        for chosen in itertools.combinations(range(len(parameters)), size):
            if not any((i, j) in out.h for i in chosen for j in chosen if i <= j):
                return tuple(parameters[k] for k in chosen)
    return ()


def expression_law(text: str, columns: Collection[str] = ()) -> UserLaw:
    """A law from an expression; ``columns`` are further names to be read from the table.

    >>> law = expression_law("E + A/params**a")
    >>> law.inputs, law.names, law.linear
    (('params',), ('E', 'A', 'a'), ('E', 'A'))
    """
    body, target = text, ""
    if "=" in text:
        target, _, body = (part.strip() for part in text.partition("="))
        if not target.isidentifier():
            raise UsageError(f"the law {text!r} has {target!r} before '='", expected="the name of the column to be explained")
    node, names = parse(body)
    known = KNOWN_COLUMNS | set(columns)
    inputs = tuple(name for name in names if name in known)
    target = target or ("error" if "loss" in inputs else "loss")
    return UserLaw(text, inputs, tuple(name for name in names if name not in known), node, target)


def function_law(function: Callable[..., Any], *, target: str = "loss", name: str | None = None) -> UserLaw:
    """A law from a Python function: positional arguments are columns, keyword-only arguments are parameters.

    The function must consist of numpy arithmetic (operators, exp, log, sqrt, minimum, ...), so that derivatives can be taken through it.
    A fit of it is saved, but to forecast from the file pass the function again, ``forecast(fit, rows, law=...)``.

    >>> def mine(params, tokens, *, E, A, B, a): return E + A * params**-a + B * tokens**-a
    >>> function_law(mine).linear
    ('E', 'A', 'B')
    """
    signature = inspect.signature(function).parameters.values()
    inputs = tuple(one.name for one in signature if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD))
    parameters = tuple(one.name for one in signature if one.kind == one.KEYWORD_ONLY)

    def evaluate(values: Mapping[str, Any]) -> Any:
        return function(*(values[column] for column in inputs), **{key: values[key] for key in parameters})

    return UserLaw(name or str(getattr(function, "__name__", "function")), inputs, parameters, evaluate, target)
