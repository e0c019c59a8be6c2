"""Read expressions from text and JSON; strict, without any evaluation of code."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar

from gp_prune.language.axes import SCALAR, Axes
from gp_prune.language.expression import (
    MAX_HEIGHT,
    MAX_NODES,
    Expression,
    ExpressionError,
    nearest_double,
)
from gp_prune.language.infix import BINARY, PREFIX, SQUARE, SUM
from gp_prune.language.primitive import Operand, Operator, PrimitiveSet

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z][A-Za-z0-9_]*)|(?P<mark>[-+*/^()\[\],]))"
)

_Item = TypeVar("_Item")

_MAX_TOKENS = 8 * MAX_NODES
_END = "the end of the text"


class ParseError(ExpressionError):
    """Text or JSON that is not an expression; the message ends with the position."""


class _Token(NamedTuple):
    group: str
    text: str
    where: str

    @property
    def shown(self) -> str:
        return _quote(self.text) if self.text else _END


def _tokens(text: str) -> list[_Token]:
    tokens = []
    position = 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            at = position + len(text[position:]) - len(text[position:].lstrip())
            raise ParseError(f"unexpected {text[at]!r} at position {at}")
        group = str(match.lastgroup)
        tokens.append(_Token(group, match[group], f"at position {match.start(group)}"))
        position = match.end()
        if len(tokens) > _MAX_TOKENS:
            raise ParseError(f"the text has more than {_MAX_TOKENS} words at position {position}")
    tokens.append(_Token("end", "", f"at position {end}"))
    return tokens


class _Parser:
    """Read a formula by recursive descent; the tokens of the text are consumed from the left."""

    def __init__(self, text: str, primitives: PrimitiveSet) -> None:
        self.tokens = iter(_tokens(text))
        self.primitives = primitives
        self.signs = {o.infix: o for o in primitives.operators.values() if o.infix}
        self.next = next(self.tokens)

    def take(self, expected: str | None = None) -> _Token:
        token = self.next
        if expected is not None and token.text != expected:
            raise ParseError(f"expected {expected!r}, not {token.shown}, {token.where}")
        self.next = next(self.tokens, token)
        return token

    def items(self, read: Callable[[], _Item], closing: str) -> list[_Item]:
        """Read items between commas, the first of them ahead, up to a closing mark."""
        self.take()
        items = [read()]
        while self.next.text == ",":
            self.take()
            items.append(read())
        self.take(closing)
        return items

    def expression(self, depth: int = 0, level: int = SUM) -> Expression:
        """Read operands with signs between them that bind at least as strongly as ``level``."""
        left = self.signed(depth)
        while (binds := BINARY.get(self.next.text, 0)) >= level:
            token = self.take()
            right = self.expression(depth, binds + 1)
            left = self.apply(token.text, token, left, right)
        return left

    def signed(self, depth: int) -> Expression:
        """Read an operand with the signs before it and the power after it."""
        if depth > MAX_HEIGHT:
            raise ParseError(f"nested deeper than {MAX_HEIGHT} {self.next.where}")
        signs = []
        while self.next.text in ("-", "+"):
            signs.append(self.take())
        is_number = self.next.group == "number"
        operand = self.operand(depth)
        if self.next.text == "^":
            operand = self.square(operand)
        elif signs and is_number:
            sign = signs.pop()
            operand = _build(sign.where, None, value=float(sign.text + repr(operand.value)))
        for sign in reversed(signs):
            if sign.text == "-":
                operand = self.apply(PREFIX, sign, operand)
        return operand

    def square(self, operand: Expression) -> Expression:
        """Read the exponent 2; there is no other."""
        token, exponent = self.take(), self.take()
        if exponent.group != "number" or float(exponent.text) != 2:
            raise ParseError(
                "the only power is ^2 (write others as products, or with sqrt, exp and log), "
                f"not {exponent.shown}, {exponent.where}"
            )
        return self.apply(SQUARE, token, operand)

    def apply(self, sign: str, token: _Token, *arguments: Expression) -> Expression:
        if sign not in self.signs:
            raise ParseError(f"no operator is written {token.shown}, {token.where}")
        return _build(token.where, self.signs[sign], SCALAR, arguments)

    def operand(self, depth: int) -> Expression:
        token = self.take()
        if token.group == "number":
            return _build(token.where, None, value=float(token.text))
        if token.text == "(":
            inside = self.expression(depth + 1)
            self.take(")")
            return inside
        if token.group != "name":
            raise ParseError(f"expected a number or a name, not {token.shown}, {token.where}")
        over = self.brackets() if self.next.text == "[" else SCALAR
        if self.next.text != "(":
            return _build(token.where, _operand(token.text, self.primitives, token.where), over)
        operator = _operator(token.text, self.primitives, token.where)
        arguments = self.items(lambda: self.expression(depth + 1), ")")
        return _build(token.where, operator, over, arguments)

    def brackets(self) -> Axes:
        where, letters = self.next.where, self.items(self.axis, "]")
        try:
            return Axes(letters)
        except ValueError as error:
            raise ParseError(f"{error}, {where}") from None

    def axis(self) -> str:
        token = self.take()
        if token.group != "name" or len(token.text) != 1:
            raise ParseError(f"axes are single letters, not {token.shown}, {token.where}")
        return token.text


def _quote(value: Any) -> str:
    """Return a value as a message shows it, cut where it is long or deep."""
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = 60
    return short.repr(value)


def parse(text: str, primitives: PrimitiveSet) -> Expression:
    """Read an expression, for example ``sum[i,k](abs(W))`` or ``sum[i,k](abs(W) * G)^2 / b``.

    The text form applies operators by name, as ``mul(W, G)``; the infix form has signs in the
    places of ``add``, ``sub``, ``mul``, ``div``, ``neg`` and ``square``, with the precedence of
    mathematics. Both mean the same trees and may be mixed. A sign in front of a number belongs to
    the number.

    Raises:
        ParseError: no text; or an unknown name, wrong arity or axes, or trailing text, with the
            position.
    """
    if not isinstance(text, str):
        raise ParseError(
            f"a formula is a text such as 'sum[i,k](abs(W))', not of type {type(text).__name__}"
        )
    parser = _Parser(text, primitives)
    expression = parser.expression()
    rest = parser.next
    if rest.group != "end":
        raise ParseError(f"text after the end of the expression: {rest.shown} {rest.where}")
    return expression


def from_json(data: Any, primitives: PrimitiveSet) -> Expression:
    """Read what :meth:`~gp_prune.language.expression.Expression.to_json` wrote.

    Raises:
        ParseError: the data is not an expression; the message ends with the path to the node.
    """
    return _node(data, primitives, "at $", 0)


def _node(data: Any, primitives: PrimitiveSet, where: str, depth: int) -> Expression:
    if depth > MAX_HEIGHT:
        raise ParseError(f"nested deeper than {MAX_HEIGHT} {where}")
    if not isinstance(data, dict):
        raise ParseError(f"expected an object, not {type(data).__name__}, {where}")
    fields = set(data)
    if fields == {"constant"}:
        value = data["constant"]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ParseError(f"constant {_quote(value)} is not a number, {where}")
        return _build(where, None, value=nearest_double(value))
    if fields == {"operand"}:
        return _build(where, _operand(data["operand"], primitives, where))
    if fields not in ({"operator", "arguments"}, {"operator", "over", "arguments"}):
        raise ParseError(
            f"a node has the fields constant, operand, or operator, (over,) arguments, "
            f"not {_quote(', '.join(sorted(map(str, fields))))}, {where}"
        )
    operator = _operator(data["operator"], primitives, where)
    if not isinstance(data["arguments"], list):
        raise ParseError(f"arguments are not a list, {where}")
    axes = _axes(data["over"], where) if "over" in data else SCALAR
    arguments = [
        _node(argument, primitives, f"{where}.arguments[{position}]", depth + 1)
        for position, argument in enumerate(data["arguments"])
    ]
    return _build(where, operator, axes, arguments)


def _axes(over: Any, where: str) -> Axes:
    if not isinstance(over, str) or not over:
        raise ParseError(f"over is {_quote(over)}, not axis letters such as 'i,k', {where}")
    try:
        axes = Axes(over)
    except ValueError as error:
        raise ParseError(f"{error}, {where}") from None
    if ",".join(axes) != over:
        raise ParseError(f"over is {_quote(over)}; write it {','.join(axes)!r}, {where}")
    return axes


def _build(
    where: str, head: Any, over: Axes = SCALAR, arguments: Any = (), value: Any = None
) -> Expression:
    try:
        return Expression(head, over, arguments, value)
    except ParseError:
        raise
    except ExpressionError as error:
        raise ParseError(f"{error}, {where}") from None


def _operand(name: Any, primitives: PrimitiveSet, where: str) -> Operand:
    if isinstance(name, str) and name in primitives.operands:
        return primitives.operands[name]
    if isinstance(name, str) and name in primitives.operators:
        raise ParseError(f"operator {_quote(name)} stands without its arguments, {where}")
    raise ParseError(f"unknown operand {_quote(name)}{_hint(name, primitives)}, {where}")


def _operator(name: Any, primitives: PrimitiveSet, where: str) -> Operator:
    if isinstance(name, str) and name in primitives.operators:
        return primitives.operators[name]
    if isinstance(name, str) and name in primitives.operands:
        raise ParseError(f"operand {_quote(name)} takes no arguments, {where}")
    raise ParseError(f"unknown operator {_quote(name)}{_hint(name, primitives)}, {where}")


def _hint(name: Any, primitives: PrimitiveSet) -> str:
    """Return the nearest known name, and how own primitives are added."""
    word = name if isinstance(name, str) and len(name) < 60 else ""
    close = get_close_matches(word, [*primitives.operands, *primitives.operators], n=1)
    nearest = f"did you mean {close[0]!r}? " if close else ""
    return f" ({nearest}primitives of your own are added with --primitives FILE.py)"
