"""Partial programs: a predicted program with holes where the model was unsure, nested in a threshold.

Every statement and expression of the predicted program's syntax tree owns the tokens that none of its parts owns; its *doubt* is the
largest NLL among them. At threshold t, nodes with a doubt above t become holes, with all they contain: the larger t, the fewer holes, and
the fewer programs fit. A hole for an expression fits any expression, a hole in a list of statements any number of statements. So the sets
are nested, and one number per item says when its truth falls out (Khakhar, Mell and Bastani 2023, arXiv 2302.08703, who choose the holes
by integer programming).
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalebound.core.errors import InputError

HOLE = "__"
IGNORED = {"ctx", "type_comment", "kind", "type_ignores"}


@dataclass(frozen=True)
class Program:
    """A predicted program. ``tree`` is None when it does not parse: then every set is the full one.

    ``doubts`` maps the place of a node (its path of field names and positions) to its doubt in nats.
    """

    source: str
    tree: ast.Module | None
    doubts: dict[tuple, float]


def parse(source: str) -> ast.Module | None:
    """The syntax tree, or None for text that is no program."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def predicted_program(pieces: Sequence[str], nll: Sequence[float]) -> Program:
    """A program from its tokens and their NLL (nats).

    Raises :class:`InputError` when the lengths differ or a loss is NaN or negative.

    >>> program = predicted_program(["x = ", "f", "(", "3", ")"], [0.1, 2.0, 0.1, 5.0, 0.1])
    >>> [render(program, t) for t in (6.0, 3.0, 1.0, 0.0)]
    ['x = f(3)', 'x = f(__)', 'x = __(__)', '__ = __']
    """
    if len(pieces) != len(nll) or any(not (value >= 0) for value in nll):
        raise InputError(f"{len(pieces)} tokens and {len(nll)} losses", where="partial program", expected="one loss of 0 or more nats for each token")
    source = "".join(pieces)
    tree = parse(source)
    if tree is None:
        return Program(source, None, {})
    data = source.encode()
    lines = np.concatenate([[0], np.cumsum([len(line) for line in data.splitlines(keepends=True)])])
    spans: list[tuple[int, int, tuple]] = [(0, len(data), ())]
    for path, node in _nodes(tree):
        start = min([node.lineno, *[d.lineno for d in getattr(node, "decorator_list", ())]])
        first = lines[start - 1] + (node.col_offset if start == node.lineno else 0)
        spans.append((int(first), int(lines[(node.end_lineno or 1) - 1] + (node.end_col_offset or 0)), path))
    doubts = {path: 0.0 for _, _, path in spans}
    position = 0
    for piece, value in zip(pieces, nll, strict=True):
        size = len(piece.encode())
        # a token belongs where its first visible character is; blanks belong where they stand
        at = position + (size - len(piece.lstrip().encode()) if piece.strip() else 0)
        owner = min((span for span in spans if span[0] <= at < span[1]), key=lambda span: (span[1] - span[0], -len(span[2])), default=spans[0])
        doubts[owner[2]] = max(doubts[owner[2]], float(value))
        position += size
    return Program(source, tree, doubts)


def _nodes(tree: ast.AST, path: tuple = ()) -> list[tuple[tuple, ast.expr | ast.stmt]]:
    """Every statement and expression with its place, outer ones first. Formatted strings count as one expression."""
    found: list[tuple[tuple, ast.expr | ast.stmt]] = []
    for name, value in ast.iter_fields(tree):
        for k, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                place = (*path, name, k)
                if isinstance(child, (ast.expr, ast.stmt)):
                    found.append((place, child))
                if not isinstance(child, ast.JoinedStr):
                    found += _nodes(child, place)
    return found


def fits(program: Program, threshold: float, truth: ast.AST) -> bool:
    """Whether the truth is one of the programs that the partial program at this threshold stands for."""
    if program.tree is None or program.doubts[()] > threshold:
        return True
    return _fits(program.tree, truth, (), program.doubts, threshold)


def _fits(mine: object, other: object, path: tuple, doubts: dict[tuple, float], t: float) -> bool:
    if isinstance(mine, (ast.expr, ast.stmt)) and doubts.get(path, 0.0) > t:
        return isinstance(other, ast.expr if isinstance(mine, ast.expr) else ast.stmt)
    if isinstance(mine, ast.AST):
        if type(mine) is not type(other):
            return False
        if isinstance(mine, ast.JoinedStr):
            return ast.dump(mine) == ast.dump(other)  # type: ignore[arg-type]
        return all(_field(getattr(mine, name, None), getattr(other, name, None), (*path, name), doubts, t) for name in mine._fields if name not in IGNORED)
    return type(mine) is type(other) and mine == other


def _field(mine: object, other: object, path: tuple, doubts: dict[tuple, float], t: float) -> bool:
    if not isinstance(mine, list):
        return _fits(mine, other, (*path, None), doubts, t)
    if not isinstance(other, list):
        return False
    if mine and isinstance(mine[0], ast.stmt):
        return _statements(mine, other, path, doubts, t)
    return len(mine) == len(other) and all(_fits(a, b, (*path, k), doubts, t) for k, (a, b) in enumerate(zip(mine, other, strict=True)))


def _statements(mine: list, other: list, path: tuple, doubts: dict[tuple, float], t: float) -> bool:
    """Whether a list of statements fits, where a hole takes any number of them: by dynamic programming over both lists."""
    reach = {0}
    for k, statement in enumerate(mine):
        if doubts.get((*path, k), 0.0) > t:
            reach = set(range(min(reach), len(other) + 1)) if reach else reach
        else:
            reach = {j + 1 for j in reach if j < len(other) and _fits(statement, other[j], (*path, k), doubts, t)}
        if not reach:
            return False
    return len(other) in reach


def score(program: Program, truth: str) -> float:
    """The largest threshold at which the truth still fits: plus infinity when it is what was predicted (or nothing parsed).

    Raises :class:`InputError` when the truth is no program.

    >>> program = predicted_program(["x = ", "f", "(", "3", ")"], [0.1, 2.0, 0.1, 5.0, 0.1])
    >>> score(program, "x = f(7)") < 5.0 <= 5.0 < score(program, "x = f(3)"), score(program, "x = g(7)") < 2.0
    (True, True)
    """
    tree = parse(truth)
    if tree is None:
        raise InputError("the truth is not a Python program", where="partial program", expected="source that parses")
    if fits(program, math.inf, tree):
        return math.inf
    levels = np.unique(list(program.doubts.values()))
    # just below each level its nodes are holes; the smallest threshold makes the whole program a hole when its own doubt is above
    low, high = -1, len(levels)  # fits just below levels[low] for low < first failing one
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(program, float(np.nextafter(levels[middle], -np.inf)), tree) else (low, middle)
    return float(np.nextafter(levels[low], -np.inf)) if low >= 0 else -math.inf


def render(program: Program, threshold: float) -> str:
    """The partial program as source, with ``__`` for holes; neighbouring holes in a list of statements are one.

    >>> render(predicted_program(["x = "], [0.1]), 1.0)
    '__'
    """
    if program.tree is None or program.doubts[()] > threshold:
        return HOLE

    def rebuild(node: object, path: tuple) -> object:
        if isinstance(node, (ast.expr, ast.stmt)) and program.doubts.get(path, 0.0) > threshold:
            name = ast.Name(id=HOLE, ctx=ast.Load())
            return ast.Expr(value=name) if isinstance(node, ast.stmt) else name
        if not isinstance(node, ast.AST) or isinstance(node, ast.JoinedStr):
            return node
        fields: dict[str, object] = {}
        for name_, value in ast.iter_fields(node):
            if isinstance(value, list):
                made = [rebuild(child, (*path, name_, k)) for k, child in enumerate(value)]
                fields[name_] = [m for k, m in enumerate(made) if not (k and _is_hole(m) and _is_hole(made[k - 1]))]
            else:
                fields[name_] = rebuild(value, (*path, name_, None))
        return type(node)(**fields)

    tree = rebuild(program.tree, ())
    assert isinstance(tree, ast.AST)
    return ast.unparse(ast.fix_missing_locations(tree))


def _is_hole(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Name) and node.value.id == HOLE


def kept_share(program: Program, threshold: float) -> float:
    """The share of the program's statements and expressions that are not inside a hole: 0 for the full set, 1 for a single program."""
    if program.tree is None or program.doubts[()] > threshold:
        return 0.0
    holes = {path for path, doubt in program.doubts.items() if doubt > threshold}
    places = [path for path in program.doubts if path]
    outside = [path for path in places if not any(path[:k] in holes for k in range(2, len(path) + 1, 2))]
    return len(outside) / len(places) if places else 1.0
