"""Write expressions in infix form: ``sum[i,k](abs(W) * G)^2 / (b + 0.0001)``.

An operator declares its sign with ``infix=`` (see :func:`gp_prune.language.primitive.operator`).
:func:`gp_prune.language.parser.parse` reads this form, the text form and mixtures of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gp_prune.language.expression import Expression

SUM, PRODUCT, SIGN, POWER, ATOM = range(1, 6)
"""How strongly the parts of a formula bind, the weakest first."""

BINARY = {"+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT}
"""Sign between two arguments -> how strongly it binds; the left of two equal ones goes first."""

PREFIX, SQUARE = "-x", "x^2"
"""What a sign in front of an argument, and the exponent 2, are declared as."""

SIGNS = (*BINARY, PREFIX, SQUARE)
"""The signs that an operator may declare."""


def write_infix(expression: Expression) -> str:
    """Return the infix form of a tree; :func:`~gp_prune.language.parser.parse` inverts it."""
    return _write(expression)[0]


def _write(node: Expression) -> tuple[str, int]:
    """Return the text of a node and how strongly its outermost part binds."""
    sign = getattr(node.head, "infix", "")
    if not sign:
        if node.arguments:
            brackets = f"[{','.join(node.over)}]" if node.over else ""
            inside = ", ".join(_write(argument)[0] for argument in node.arguments)
            return f"{node.name}{brackets}({inside})", ATOM
        negative = node.value is not None and node.value < 0
        return str(node), SIGN if negative else ATOM
    if sign == SQUARE:
        return f"{_within(node.arguments[0], ATOM)}^2", POWER
    if sign == PREFIX:
        (argument,) = node.arguments
        text = _within(argument, SIGN)
        # The sign of a number belongs to the number, so that of a sign change needs brackets.
        return f"-({text})" if argument.value is not None else f"-{text}", SIGN
    left, right = node.arguments
    level = BINARY[sign]
    return f"{_within(left, level)} {sign} {_within(right, level + 1)}", level


def _within(node: Expression, level: int) -> str:
    """Return the text of an argument, in brackets where it binds less than its surroundings."""
    text, own = _write(node)
    return text if own >= level else f"({text})"
