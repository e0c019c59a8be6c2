"""Bound the values of sympy formulas, to tell which protected functions need no mark in print.

What is known of the parts is declared where they are: operands say ``nonnegative``, operators the
law ``nonnegative``, and the classes of :mod:`gp_prune.language.symbols` ``is_nonnegative``,
``keeps_sign``, ``bounds`` and their ``role``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import sympy

from gp_prune.language import symbols
from gp_prune.language.primitive import PrimitiveSet

_INF = math.inf


class Interval(NamedTuple):
    """All values from ``low`` to ``high``; either end may be infinite."""

    low: float = -_INF
    high: float = _INF


_ANY, _NONNEGATIVE = Interval(), Interval(0.0)


class Intervals:
    """The intervals of formulas.

    Args:
        primitives: the operands and operators of the formulas.
        named: the intervals of further symbols by name.
    """

    def __init__(
        self, primitives: PrimitiveSet, named: Mapping[str, Interval] | None = None
    ) -> None:
        self.named = {
            operand.name: _NONNEGATIVE
            for operand in primitives.operands.values()
            if operand.nonnegative
        }
        self.named.update(named or {})
        self._nonnegative = {
            operator.symbol
            for operator in primitives.operators.values()
            if "nonnegative" in operator.laws and isinstance(operator.symbol, type)
        }
        self._known: dict[Any, Interval] = {}

    def of(self, formula: Any) -> Interval:
        """Return an interval that holds every value of a formula, as narrow as is plain."""
        if formula not in self._known:
            self._known[formula] = self._worked_out(formula)
        return self._known[formula]

    def _worked_out(self, x: Any) -> Interval:
        if x.is_Number:
            return Interval(float(x), float(x))
        if isinstance(x, sympy.Indexed):
            return self.named.get(str(x.base.label), _ANY)
        if x.is_Symbol:
            return self.named.get(x.name, Interval(1.0) if x.is_positive else _ANY)
        if isinstance(x, sympy.Add):
            return self._of_sum(list(x.args))
        if isinstance(x, sympy.Mul):
            return self._of_product(list(x.args))
        if isinstance(x, sympy.Pow):
            return _power(self.of(x.base), x.exp)
        if isinstance(x, sympy.Abs):
            return _magnitude(self.of(x.args[0]))
        if isinstance(x, sympy.Sum):
            body = self.of(x.function)
            low = body.low if body.low >= 0 else -_INF
            return Interval(low, body.high if body.high <= 0 else _INF)
        if isinstance(x, sympy.tanh):
            return Interval(-1.0, 1.0)
        if isinstance(x, symbols.Notation):
            return self._of_notation(x)
        return _NONNEGATIVE if type(x) in self._nonnegative else _ANY

    def _of_sum(self, terms: list[Any]) -> Interval:
        """Add the intervals; the largest minus the smallest of the same values is at least 0."""
        parts = []
        for largest in [term for term in terms if _role(term) == "largest"]:
            pair = [
                term
                for term in terms
                if _role(-term) == "smallest" and (-term).args == largest.args
            ]
            if pair:
                terms = [term for term in terms if term not in (largest, pair[0])]
                parts.append(_NONNEGATIVE)
        parts += map(self.of, terms)
        return Interval(sum(part.low for part in parts), sum(part.high for part in parts))

    def _of_product(self, factors: list[Any]) -> Interval:
        """Multiply the intervals; a sum over its number of terms is as its terms are."""
        parts = []
        for total in [factor for factor in factors if isinstance(factor, sympy.Sum)]:
            lengths = [1 / limit[2] for limit in total.limits]
            if all(length in factors for length in lengths):
                factors = [factor for factor in factors if factor not in (total, *lengths)]
                parts.append(self.of(total.function))
        product = Interval(1.0, 1.0)
        for part in [*parts, *map(self.of, factors)]:
            ends = [0.0 if 0.0 in (a, b) else a * b for a in product for b in part]
            product = Interval(min(ends), max(ends))
        return product

    def _of_notation(self, x: Any) -> Interval:
        arguments = [x.body] if isinstance(x, symbols.OverAxes) else x.args
        parts = [self.of(argument) for argument in arguments]
        low, high = _by_role(x.role, parts)
        low, high = max(low, x.bounds[0]), min(high, x.bounds[1])
        keeps = x.keeps_sign and all(part.low >= 0 for part in parts)
        if keeps or type(x) in self._nonnegative or getattr(type(x), "is_nonnegative", 0) is True:
            low = max(low, 0.0)
        return Interval(low, max(low, high))


def _role(x: Any) -> str:
    return x.role if isinstance(x, symbols.OverAxes) else ""


def _magnitude(x: Interval) -> Interval:
    return Interval(max(x.low, -x.high, 0.0), max(abs(x.low), abs(x.high)))


def _power(base: Interval, exponent: Any) -> Interval:
    if not exponent.is_Rational:
        return _ANY
    if exponent.is_Integer and exponent % 2 == 0:
        base = _magnitude(base)
    if base.low < 0:
        return _ANY
    ends = [_raised(end, float(exponent)) for end in base]
    return Interval(min(ends), max(ends))


def _raised(end: float, exponent: float) -> float:
    if end == 0.0:
        return 0.0 if exponent > 0 else _INF
    try:
        return float(end**exponent)
    except OverflowError:
        return _INF


def _by_role(role: str, parts: list[Interval]) -> Interval:
    if role in ("largest", "smallest"):
        return parts[0]
    if role == "larger":
        return Interval(max(p.low for p in parts), max(p.high for p in parts))
    if role == "smaller":
        return Interval(min(p.low for p in parts), min(p.high for p in parts))
    if role == "root":
        return _power(_magnitude(parts[0]), sympy.Rational(1, 2))
    if role == "logarithm":
        x = _magnitude(parts[0])
        ends = [math.log(max(end, symbols.EPSILON)) if end < _INF else _INF for end in x]
        return Interval(*ends)
    if role == "exponential":
        return Interval(*(math.exp(min(end, symbols.EXP_LIMIT)) for end in parts[0]))
    return _ANY
