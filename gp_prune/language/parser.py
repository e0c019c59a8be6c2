"""Read expressions from text and JSON; strict, without any evaluation of code."""

from __future__ import annotations

import difflib
import re
import reprlib
from typing import Any, NamedTuple

from gp_prune.language.axes import SCALAR, Axes
from gp_prune.language.expression import (
    MAX_HEIGHT,
    MAX_NODES,
    Expression,
    ExpressionError,
    nearest_double,
)
from gp_prune.language.primitive import PrimitiveSet

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z][A-Za-z0-9_]*)|(?P<mark>[()\[\],]))"
)


_MAX_TOKENS = 8 * MAX_NODES


class ParseError(ExpressionError):
    """Text or JSON that is not an expression; the message ends with the position."""


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


def _tokens(text: str) -> list[_Token]:
    found = []
    position = 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            at = position + len(text[position:]) - len(text[position:].lstrip())
            raise ParseError(f"unexpected {text[at]!r} at position {at}")
        kind = str(match.lastgroup)
        found.append(_Token(kind, match[kind], match.start(kind)))
        position = match.end()
        if len(found) > _MAX_TOKENS:
            raise ParseError(f"the text has more than {_MAX_TOKENS} words at position {position}")
    found.append(_Token("end", "", end))
    return found


class _Parser:
    def __init__(self, text: str, primitives: PrimitiveSet) -> None:
        self.tokens = _tokens(text)
        self.primitives = primitives
        self.next = 0

    def take(self, expected: str | None = None) -> _Token:
        token = self.tokens[self.next]
        if expected is not None and token.text != expected:
            raise ParseError(
                f"expected {expected!r}, not {_shown(token)}, at position {token.position}"
            )
        self.next += 1
        return token

    def follows(self, mark: str) -> bool:
        return self.tokens[self.next].text == mark

    def expression(self, depth: int = 0) -> Expression:
        token = self.take()
        if depth > MAX_HEIGHT:
            raise ParseError(f"nested deeper than {MAX_HEIGHT} at position {token.position}")
        if token.kind == "number":
            return _built(token.position, None, value=float(token.text))
        if token.kind != "name":
            raise ParseError(
                f"expected a number or a name, not {_shown(token)}, at position {token.position}"
            )
        over = self.brackets()
        if not self.follows("("):
            head = _operand(token.text, self.primitives, f"at position {token.position}")
            return _built(token.position, head, over)
        operator = _operator(token.text, self.primitives, f"at position {token.position}")
        self.take("(")
        arguments = [self.expression(depth + 1)]
        while self.follows(","):
            self.take(",")
            arguments.append(self.expression(depth + 1))
        self.take(")")
        return _built(token.position, operator, over, arguments)

    def brackets(self) -> Axes:
        if not self.follows("["):
            return SCALAR
        start = self.take("[")
        letters = [self.axis()]
        while self.follows(","):
            self.take(",")
            letters.append(self.axis())
        self.take("]")
        try:
            return Axes(letters)
        except ValueError as error:
            raise ParseError(f"{error}, at position {start.position}") from None

    def axis(self) -> str:
        token = self.tokens[self.next]
        if token.kind != "name" or len(token.text) != 1:
            raise ParseError(
                f"axes are single letters, not {_shown(token)}, at position {token.position}"
            )
        return self.take().text


def _shown(token: _Token) -> str:
    return _quoted(token.text) if token.text else "the end of the text"


def _quoted(value: Any) -> str:
    """Return a value as a message shows it, cut where it is long or deep."""
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = 60
    return short.repr(value)


def parse(text: str, primitives: PrimitiveSet) -> Expression:
    """Read the text form of an expression, for example ``sum[i,k](abs(W))``.

    Raises:
        ParseError: an unknown name, wrong arity or axes, or trailing text, with the position.
    """
    parser = _Parser(text, primitives)
    found = parser.expression()
    rest = parser.tokens[parser.next]
    if rest.kind != "end":
        raise ParseError(
            f"text after the end of the expression: {_shown(rest)} at position {rest.position}"
        )
    return found


def from_json(data: Any, primitives: PrimitiveSet) -> Expression:
    """Read what :meth:`~gp_prune.language.expression.Expression.to_json` wrote.

    Raises:
        ParseError: the data is not an expression; the message ends with the path to the node.
    """
    return _node(data, primitives, "$", 0)


def _node(data: Any, primitives: PrimitiveSet, path: str, depth: int) -> Expression:
    where = f"at {path}"
    if depth > MAX_HEIGHT:
        raise ParseError(f"nested deeper than {MAX_HEIGHT} {where}")
    if not isinstance(data, dict):
        raise ParseError(f"expected an object, not {type(data).__name__}, {where}")
    fields = set(data)
    if fields == {"constant"}:
        value = data["constant"]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ParseError(f"constant {_quoted(value)} is not a number, {where}")
        return _built(path, None, value=nearest_double(value))
    if fields == {"operand"}:
        return _built(path, _operand(data["operand"], primitives, where))
    if fields not in ({"operator", "arguments"}, {"operator", "over", "arguments"}):
        raise ParseError(
            f"a node has the fields constant, operand, or operator, (over,) arguments, "
            f"not {_quoted(', '.join(sorted(map(str, fields))))}, {where}"
        )
    operator = _operator(data["operator"], primitives, where)
    if not isinstance(data["arguments"], list):
        raise ParseError(f"arguments are not a list, {where}")
    axes = _axes(data["over"], where) if "over" in data else SCALAR
    arguments = [
        _node(argument, primitives, f"{path}.arguments[{position}]", depth + 1)
        for position, argument in enumerate(data["arguments"])
    ]
    return _built(path, operator, axes, arguments)


def _axes(over: Any, where: str) -> Axes:
    if not isinstance(over, str) or not over:
        raise ParseError(f"over is {_quoted(over)}, not axis letters such as 'i,k', {where}")
    try:
        axes = Axes(over)
    except ValueError as error:
        raise ParseError(f"{error}, {where}") from None
    if ",".join(axes) != over:
        raise ParseError(f"over is {_quoted(over)}; write it {','.join(axes)!r}, {where}")
    return axes


def _built(
    where: int | str, head: Any, over: Axes = SCALAR, arguments: Any = (), value: Any = None
) -> Expression:
    try:
        return Expression(head, over, arguments, value)
    except ParseError:
        raise
    except ExpressionError as error:
        place = f"at position {where}" if isinstance(where, int) else f"at {where}"
        raise ParseError(f"{error}, {place}") from None


def _operand(name: Any, primitives: PrimitiveSet, where: str) -> Any:
    if isinstance(name, str) and name in primitives.operands:
        return primitives.operands[name]
    if isinstance(name, str) and name in primitives.operators:
        raise ParseError(f"operator {_quoted(name)} stands without its arguments, {where}")
    raise ParseError(f"unknown operand {_quoted(name)}{_hint(name, primitives)}, {where}")


def _operator(name: Any, primitives: PrimitiveSet, where: str) -> Any:
    if isinstance(name, str) and name in primitives.operators:
        return primitives.operators[name]
    if isinstance(name, str) and name in primitives.operands:
        raise ParseError(f"operand {_quoted(name)} takes no arguments, {where}")
    raise ParseError(f"unknown operator {_quoted(name)}{_hint(name, primitives)}, {where}")


def _hint(name: Any, primitives: PrimitiveSet) -> str:
    """Return the nearest known name, and how own primitives are added."""
    known = [*primitives.operands, *primitives.operators]
    close = (
        difflib.get_close_matches(name, known, n=1)
        if isinstance(name, str) and len(name) < 60
        else []
    )
    nearest = f"did you mean {close[0]!r}? " if close else ""
    return f" ({nearest}primitives of your own are added with --primitives FILE.py)"
