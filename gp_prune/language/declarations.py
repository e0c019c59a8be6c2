"""Check what a declaration of an operand or operator says, before anything is computed."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import Any

from gp_prune.errors import UserError, brief
from gp_prune.language.axes import Elementwise, Normaliser, Reduction, Signature


class PrimitiveError(UserError):
    """A declaration of an operand or operator is not valid."""


Shape = Elementwise | Reduction | Normaliser | Signature

LAWS = {
    "commutative": "f(a, b) = f(b, a)",
    "involution": "f(f(x)) = x",
    "idempotent": "f(f(x)) = f(x)",
    "even": "f(-x) = f(x)",
    "negation": "f(x) = -x",
    "magnitude": "f(x) = |x|",
    "nonnegative": "f(x) >= 0",
}
"""Exact algebraic laws that an operator may declare; the canonical form relies on them. They hold
bit for bit, also for the two zeros: a function that may return -0 adds 0.0 to its result."""

UNIT_RULES = {
    "same": "the unit of the arguments, which must have one unit",
    "product": "the product of the units",
    "quotient": "the quotient of the units",
    "square": "the square of the unit",
    "root": "the square root of the unit",
    "number": "a plain number, of arguments of one unit",
    "plain": "a plain number, of plain numbers",
}
"""What an operator does to units."""

_UNARY_LAWS = frozenset(LAWS) - {"commutative"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.?|#[^{}\s,]?|\S")
_PAIRS = {"}": "{", r"\right": r"\left", r"\rVert": r"\lVert", r"\end": r"\begin"}
_OPEN_ENDED = frozenset({"^", "_", r"\frac", r"\sqrt", r"\left", r"\right"})
"""Tokens after which something must follow."""


def check_name(name: Any, meaning: Any) -> None:
    """Check the name of a primitive and the line that says what it means."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise PrimitiveError(
            f"primitive name {brief(name)} is not valid; use letters, digits and _, a letter first"
        )
    if not isinstance(meaning, str) or not meaning.strip() or not meaning.isprintable():
        raise PrimitiveError(f"primitive {name!r}: say in one line what it means (meaning=)")


def check_phrase(what: str, phrase: Any, slots: tuple[str, ...]) -> None:
    """Raise PrimitiveError unless a phrase has each slot once, and nothing else in braces."""
    try:
        if not isinstance(phrase, str) or (phrase and not phrase.isprintable()):
            raise ValueError
        parts = list(string.Formatter().parse(phrase))
        if any(spec or conversion for _, _, spec, conversion in parts):
            raise ValueError
        found = sorted(name for _, name, _, _ in parts if name is not None)
    except ValueError:
        found = ["?"]
    if phrase != "" and found != sorted(slots):
        wanted = " and ".join(f"{{{slot}}}" for slot in slots)
        said = f"write one line with {wanted}, each once" if slots else "write one line of words"
        raise PrimitiveError(f"{what}: phrase= {brief(phrase)} is not valid; {said}")


_UNIT = re.compile(r"(?:1|[a-z]+(?:\^[0-9]+)?)(?:[ /][a-z]+(?:\^[0-9]+)?)*\Z")


def check_unit(what: str, unit: Any) -> None:
    """Raise PrimitiveError unless a unit is written like ``"loss^2/weight^2"``."""
    if unit is not None and unit != "" and not (isinstance(unit, str) and _UNIT.match(unit)):
        raise PrimitiveError(
            f"{what}: unit= {brief(unit)} is not valid; write it like 'activation weight^2' or "
            "'loss/weight'"
        )


def check_shape(name: str, shape: Any, laws: frozenset[str]) -> None:
    """Check what an operator does to axes, and that its laws fit."""
    if isinstance(shape, type):
        raise PrimitiveError(
            f"operator {name!r}: shape= is the class {shape.__name__}; "
            f"give an object of it, such as {shape.__name__}(...)"
        )
    if not isinstance(shape, Shape):
        said = "is missing" if shape is None else f"is {brief(shape)}"
        raise PrimitiveError(
            f"operator {name!r}: shape= {said}; say what it does to axes, such as Elementwise(1)"
        )
    if shape.arity < 1:
        raise PrimitiveError(f"operator {name!r}: it needs at least one argument")
    if isinstance(shape, Signature):
        for axes in (*shape.arguments, shape.to):
            if not axes.legal:
                raise PrimitiveError(f"operator {name!r}: axes {axes} are not on the legal list")
    unknown = sorted(laws - set(LAWS))
    if unknown:
        known = ", ".join(LAWS)
        raise PrimitiveError(f"operator {name!r}: unknown law {unknown[0]!r}; use {known}")
    if laws and not isinstance(shape, Elementwise):
        raise PrimitiveError(f"operator {name!r}: laws are for elementwise operators")
    unfit = sorted(laws & _UNARY_LAWS if shape.arity != 1 else laws - _UNARY_LAWS)
    if unfit or ("commutative" in laws and shape.arity != 2):
        law = unfit[0] if unfit else "commutative"
        raise PrimitiveError(
            f"operator {name!r}: the law {law!r}, {LAWS[law]}, does not fit {shape.arity} "
            f"{'argument' if shape.arity == 1 else 'arguments'}"
        )


def check_symbol(name: str, shape: Shape, symbol: Any) -> None:
    """Check that a function of sympy, or a class of them, is of the kind that a shape asks for."""
    if not callable(symbol):
        said = "is missing" if symbol is None else f"is {brief(symbol)}"
        raise PrimitiveError(
            f"operator {name!r}: symbol= {said}; give the same function in sympy, such as sympy.erf"
        )
    if not isinstance(symbol, type):
        return
    base, fits = _fits(shape, symbol)
    if not fits:
        raise PrimitiveError(
            f"operator {name!r}: symbol= is the class {symbol.__name__}, which is not for an "
            f"operator of shape {type(shape).__name__}; derive it from {base}"
        )


def _fits(shape: Shape, symbol: type) -> tuple[str, bool]:
    """Return the base of the classes for a shape, and whether a class is one of them."""
    from gp_prune.language.symbols import AlongAxes, BoundArguments, OverAxes

    if isinstance(shape, Elementwise):
        return "RealFunction", not issubclass(symbol, OverAxes | BoundArguments)
    if isinstance(shape, Normaliser):
        return "AlongAxes", issubclass(symbol, AlongAxes)
    if isinstance(shape, Reduction):
        return "OverAxes", issubclass(symbol, OverAxes) and not issubclass(symbol, AlongAxes)
    return "BoundArguments or OverAxes", issubclass(symbol, OverAxes | BoundArguments)


def check_notation(
    name: str, shape: Shape, symbol: Callable[..., Any], latex: Any, definition: Any
) -> None:
    """Check the LaTeX that an operator, or the class that it is written with, states."""
    from gp_prune.language.symbols import BoundArguments, Notation, OverAxes

    stated = [("latex", latex, shape.arity), ("definition", definition, 0)]
    if isinstance(symbol, type) and issubclass(symbol, Notation):
        count = 2 if issubclass(symbol, OverAxes) else shape.arity  # the body and the indices
        if issubclass(symbol, BoundArguments):
            count = len(getattr(symbol, "binds", ()))
        stated += [("latex", symbol.latex, count), ("definition", symbol.definition, 0)]
    for field, text, arguments in stated:
        if text is not None:
            check_latex(text, f"operator {name!r}: {field}=", arguments)


def check_latex(text: Any, what: str, arguments: int = 0) -> None:
    r"""Raise PrimitiveError unless LaTeX can stand in a formula.

    Args:
        text: what is set in mathematics, without dollar signs.
        what: where it is from, for the message.
        arguments: how many arguments a template may name by ``#1``, ``#2`` and so on.
    """
    fault = _find_fault(text, arguments)
    if fault:
        raise PrimitiveError(f"{what} {brief(text)} {fault}")


def check_operand_latex(text: Any, name: str, indices: int) -> None:
    """Raise PrimitiveError unless LaTeX is a symbol, or a template that shows every index.

    Args:
        text: the symbol; in a template ``#`` stands for all indices, ``#1`` for the first.
        name: the operand, for the message.
        indices: how many indices it has.
    """
    what = f"operand {name!r}: latex="
    plain = (
        re.sub(r"#(?![0-9A-Za-z])", "#1" if indices else "#", text)
        if isinstance(text, str)
        else text
    )
    check_latex(plain, what, indices)
    shown = set(re.findall(r"#[0-9]?", text))
    if shown and not re.sub(r"#[0-9]?|[{},\s]", "", text):
        raise PrimitiveError(f"{what} {brief(text)} has no sign beside its indices; add one")
    if shown and "#" not in shown and len(shown) < indices:
        raise PrimitiveError(
            f"{what} {brief(text)} leaves out an index; use # for all of them, or #1 to #{indices}"
        )


def _find_fault(text: Any, arguments: int) -> str:
    """Return why LaTeX cannot stand in a formula; empty where it can."""
    if not isinstance(text, str):
        return "is no text"
    if not text.isprintable():
        return "is not one line of printable text"
    tokens, opened = _TOKEN.findall(text), list[str]()
    # The delimiter of \\left and \\right opens or closes nothing by itself.
    delimiters = {n + 1 for n, token in enumerate(tokens) if token in (r"\left", r"\right")}
    for place, (token, after) in enumerate(zip(tokens, [*tokens, ""][1:], strict=True)):
        if token in ("$", "%"):
            return f"holds {token!r}; it is set in mathematics already, so leave that out"
        if token.startswith("#") and token[1:] not in map(str, range(1, arguments + 1)):
            has = f"it has {arguments}" if arguments else "it has none"
            return f"names an argument {token!r}, and {has}; correct it"
        if token == "\\":
            return "ends with a backslash; complete the command"
        if place in delimiters:
            continue
        if token in _OPEN_ENDED and (not after or after == "}"):
            return f"has nothing after {token!r}; complete it"
        if token in _PAIRS.values():
            opened.append(token)
        elif token in _PAIRS and (not opened or opened.pop() != _PAIRS[token]):
            return f"has {token!r} without {_PAIRS[token]!r} before it; pair them"
    return f"has {opened[-1]!r} without its end; close it" if opened else ""
