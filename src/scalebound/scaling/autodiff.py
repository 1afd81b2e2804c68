"""Exact first and second derivatives of formulas, by forward differentiation on arrays.

A :class:`Jet` carries a value and its derivatives with respect to p parameters. Derivatives that are structurally zero are not
stored: whether a formula is linear in a parameter can be read off the keys. numpy functions accept jets (``np.exp(jet)``), so a law
written once for arrays yields its Jacobian and Hessian.

.. math:: z = \\phi(x):\\; z_i = \\phi' x_i,\\; z_{ij} = \\phi' x_{ij} + \\phi'' x_i x_j \\qquad
          z = xy:\\; z_{ij} = x_{ij} y + x y_{ij} + x_i y_j + x_j y_i

Source
------
Griewank and Walther 2008, Evaluating Derivatives, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Number = Any  # a float or an array


class Jet:
    """A value with first derivatives ``g[i]`` and second derivatives ``h[i, j]``, i <= j; absent means zero everywhere.

    >>> x = Jet.parameter(np.array([2.0]), 0)
    >>> y = np.exp(x) * x
    >>> round(float(y.g[0][0] / np.exp(2.0)), 12), round(float(y.h[0, 0][0] / np.exp(2.0)), 12)
    (3.0, 4.0)
    """

    __slots__ = ("g", "h", "v")

    def __init__(self, v: Number, g: dict[int, Number] | None = None, h: dict[tuple[int, int], Number] | None = None) -> None:
        self.v = v
        self.g = {} if g is None else g
        self.h = {} if h is None else h

    @staticmethod
    def parameter(value: np.ndarray, index: int) -> Jet:
        return Jet(value, {index: np.ones_like(value)})

    def apply(self, value: Number, first: Number, second: Number | None) -> Jet:
        """phi(self) from phi, phi' and phi'' at the value; ``second`` None for a linear phi."""
        g = {i: first * d for i, d in self.g.items()}
        h = {pair: first * d for pair, d in self.h.items()}
        if second is not None:
            keys = sorted(self.g)
            for a, i in enumerate(keys):
                for j in keys[a:]:
                    extra = second * self.g[i] * self.g[j]
                    h[i, j] = h[i, j] + extra if (i, j) in h else extra
        return Jet(value, g, h)

    def __add__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.v + other, self.g, self.h)
        return Jet(self.v + other.v, _merge(self.g, other.g), _merge(self.h, other.h))

    __radd__ = __add__

    def __neg__(self) -> Jet:
        return self.apply(-self.v, -1.0, None)

    def __pos__(self) -> Jet:
        return self

    def __sub__(self, other: Any) -> Jet:
        return self + (-other)

    def __rsub__(self, other: Any) -> Jet:
        return (-self) + other

    def __mul__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return self.apply(self.v * other, other, None)
        g = _merge({i: d * other.v for i, d in self.g.items()}, {i: d * self.v for i, d in other.g.items()})
        h = _merge({k: d * other.v for k, d in self.h.items()}, {k: d * self.v for k, d in other.h.items()})
        for i, d in self.g.items():
            for j, e in other.g.items():
                key = (min(i, j), max(i, j))
                # x_i y_j + x_j y_i: the ordered loop meets a mixed pair twice and the diagonal once
                extra = d * e * (2.0 if i == j else 1.0)
                h[key] = h[key] + extra if key in h else extra
        return Jet(self.v * other.v, g, h)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return self.apply(self.v / other, 1.0 / np.asarray(other, dtype=float), None)
        return self * other.reciprocal()

    def __rtruediv__(self, other: Any) -> Jet:
        return self.reciprocal() * other

    def reciprocal(self) -> Jet:
        inverse = 1.0 / self.v
        return self.apply(inverse, -inverse * inverse, 2.0 * inverse**3)

    def __pow__(self, other: Any) -> Jet:
        if isinstance(other, Jet):
            return np.exp(other * np.log(self))
        c = np.asarray(other, dtype=float)
        return self.apply(self.v**c, c * self.v ** (c - 1), c * (c - 1) * self.v ** (c - 2))

    def __rpow__(self, other: Any) -> Jet:
        return np.exp(self * np.log(other))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs:
            return NotImplemented
        if ufunc in _BINARY:
            left, right = inputs
            if isinstance(left, Jet):
                return _BINARY[ufunc](left, right)
            return _BINARY[ufunc](Jet(np.asarray(left, dtype=float)), right)
        if ufunc in _UNARY and len(inputs) == 1:
            return inputs[0].apply(*_UNARY[ufunc](inputs[0].v))
        return NotImplemented


def _merge(a: dict, b: dict) -> dict:
    out = dict(a)
    for key, value in b.items():
        out[key] = out[key] + value if key in out else value
    return out


def _exp(v: Number) -> tuple[Number, Number, Number]:
    e = np.exp(v)
    return e, e, e


def _expm1(v: Number) -> tuple[Number, Number, Number]:
    e = np.exp(v)
    return np.expm1(v), e, e


def _log(v: Number) -> tuple[Number, Number, Number]:
    return np.log(v), 1.0 / v, -1.0 / (v * v)


def _log1p(v: Number) -> tuple[Number, Number, Number]:
    return np.log1p(v), 1.0 / (1.0 + v), -1.0 / (1.0 + v) ** 2


def _sqrt(v: Number) -> tuple[Number, Number, Number]:
    s = np.sqrt(v)
    return s, 0.5 / s, -0.25 / (s * v)


def _tanh(v: Number) -> tuple[Number, Number, Number]:
    t = np.tanh(v)
    return t, 1 - t * t, -2 * t * (1 - t * t)


def _pick(choose: Callable[[Number, Number], Number]) -> Callable[[Jet, Any], Jet]:
    """Minimum or maximum: the derivatives of whichever is taken (the first on ties)."""

    def pick(left: Jet, right: Any) -> Jet:
        right = right if isinstance(right, Jet) else Jet(np.asarray(right, dtype=float))
        mask = choose(left.v, right.v)

        def mix(a: dict, b: dict) -> dict:
            return {key: np.where(mask, a.get(key, 0.0), b.get(key, 0.0)) for key in {**a, **b}}

        return Jet(np.where(mask, left.v, right.v), mix(left.g, right.g), mix(left.h, right.h))

    return pick


_UNARY: dict[Any, Callable] = {
    np.exp: _exp,
    np.expm1: _expm1,
    np.log: _log,
    np.log1p: _log1p,
    np.sqrt: _sqrt,
    np.tanh: _tanh,
    np.negative: lambda v: (-v, -1.0, None),
    np.positive: lambda v: (v, 1.0, None),
    np.square: lambda v: (v * v, 2.0 * v, 2.0),
}
_BINARY: dict[Any, Callable] = {
    np.add: lambda a, b: a + b,
    np.subtract: lambda a, b: a - b,
    np.multiply: lambda a, b: a * b,
    np.divide: lambda a, b: a / b,
    np.power: lambda a, b: a**b if a.g else np.exp(b * np.log(a.v)),
    np.minimum: _pick(lambda a, b: a <= b),
    np.maximum: _pick(lambda a, b: a >= b),
}
