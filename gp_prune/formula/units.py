"""Find the unit of a formula from the units that operands declare: a dimension analysis."""

from __future__ import annotations

import re
from fractions import Fraction

from gp_prune.language.expression import Expression
from gp_prune.language.primitive import Operand, Operator

_ANY = object()
"""The unit of zero, which is that of whatever it is added to."""


class _Undefined(Exception):
    """Why a formula has no unit."""


def unit_of(expression: Expression) -> str:
    """Return the unit of a formula, such as ``activation^2 x weight^2``.

    ``"none"`` for a plain number. Where a formula adds what has different units, or takes the
    logarithm of what has one, it has mixed units: its ranking may change when a layer is rescaled.
    """
    found: dict[Expression, object] = {}
    try:
        for node in reversed(list(expression.nodes())):
            if node not in found:
                found[node] = _unit(node, [found[argument] for argument in node.arguments])
    except _Undefined as reason:
        return str(reason)
    unit = found[expression]
    return _written(unit) or "none"


def _unit(node: Expression, parts: list[object]) -> object:
    head = node.head
    if head is None:
        return {} if node.value else _ANY
    if isinstance(head, Operand):
        if head.unit is None:
            raise _Undefined(f"not known: operand {head.name} declares none")
        return parse_unit(head.unit)
    assert isinstance(head, Operator)
    if head.unit is None:
        raise _Undefined(f"not known: operator {head.name} declares no rule")
    return _RULES[head.unit](head.name, parts)


def _common(name: str, parts: list[object]) -> object:
    """Return the one unit of all parts."""
    known = [part for part in parts if part is not _ANY]
    for part in known[1:]:
        if part != known[0]:
            units = " and ".join(_written(each) or "a number" for each in (known[0], part))
            raise _Undefined(f"mixed units ({name} of {units})")
    return known[0] if known else _ANY


def _plain(name: str, parts: list[object]) -> object:
    for part in parts:
        if part is not _ANY and part != {}:
            raise _Undefined(f"mixed units ({name} of {_written(part)})")
    return {}


def _number(name: str, parts: list[object]) -> object:
    _common(name, parts)
    return {}


def _powers(parts: list[object], exponents: tuple[Fraction, ...]) -> object:
    """Return the product of powers of units."""
    total: dict[str, Fraction] = {}
    for part, exponent in zip(parts, exponents, strict=True):
        if part is _ANY:
            return _ANY
        assert isinstance(part, dict)
        for base, power in part.items():
            total[base] = total.get(base, Fraction(0)) + power * exponent
    return {base: power for base, power in total.items() if power}


_ONE, _TWO = Fraction(1), Fraction(2)
_RULES = {
    "same": _common,
    "product": lambda _, parts: _powers(parts, (_ONE,) * len(parts)),
    "quotient": lambda _, parts: _powers(parts, (_ONE, -_ONE)),
    "square": lambda _, parts: _powers(parts, (_TWO,)),
    "root": lambda _, parts: _powers(parts, (_ONE / 2,)),
    "number": _number,
    "plain": _plain,
}


def parse_unit(text: str) -> dict[str, Fraction]:
    """Read a declared unit, such as ``loss^2/weight^2``; what follows a slash is divided by."""
    unit: dict[str, Fraction] = {}
    for sign, base, power in re.findall(r"([ /]?)([a-z]+)(?:\^([0-9]+))?", text):
        exponent = Fraction(int(power or 1)) * (-1 if sign == "/" else 1)
        unit[base] = unit.get(base, Fraction(0)) + exponent
    return {base: power for base, power in unit.items() if power}


def _written(unit: object) -> str:
    """Write a unit, the factors in order and the divisors last; a plain number as nothing."""
    if not isinstance(unit, dict) or not unit:
        return ""
    above = [_factor(base, power) for base, power in sorted(unit.items()) if power > 0]
    below = [_factor(base, -power) for base, power in sorted(unit.items()) if power < 0]
    text = " x ".join(above) or "1"
    return f"{text} / {' / '.join(below)}" if below else text


def _factor(base: str, power: Fraction) -> str:
    return (
        base if power == 1 else f"{base}^{power}" if power.denominator == 1 else f"{base}^({power})"
    )
