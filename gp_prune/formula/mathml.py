"""Presentation MathML of formulas, which browsers show without any library.

It is a translation of the LaTeX, so that both say the same: norms with dots, sums without limits,
protected forms by name.
"""

from __future__ import annotations

import unicodedata
from typing import Any
from xml.etree import ElementTree

from gp_prune.formula.latex import latex
from gp_prune.formula.line_breaking import (
    SPACES,
    Fence,
    Fraction,
    Name,
    Over,
    Part,
    Root,
    Row,
    Script,
    Sign,
    parse_latex,
)
from gp_prune.language.expression import Expression
from gp_prune.language.primitive import PrimitiveSet

_NAMESPACE = "http://www.w3.org/1998/Math/MathML"

_OPERATORS = {
    r"\sum": "\N{N-ARY SUMMATION}",
    r"\cdot": "\N{DOT OPERATOR}",
    r"\times": "\N{MULTIPLICATION SIGN}",
    r"\neq": "\N{NOT EQUAL TO}",
    r"\geq": "\N{GREATER-THAN OR EQUAL TO}",
    r"\leq": "\N{LESS-THAN OR EQUAL TO}",
    r"\partial": "\N{PARTIAL DIFFERENTIAL}",
    r"\nabla": "\N{NABLA}",
    r"\lVert": "\N{DOUBLE VERTICAL LINE}",
    r"\rVert": "\N{DOUBLE VERTICAL LINE}",
    r"\top": "\N{DOWN TACK}",
    "-": "\N{MINUS SIGN}",
}
_LETTERS = {
    r"\ell": "\N{SCRIPT SMALL L}",
    r"\infty": "\N{INFINITY}",
    r"\epsilon": "\N{GREEK LUNATE EPSILON SYMBOL}",
    r"\lambda": "\N{GREEK SMALL LETTER LAMDA}",
    r"\Lambda": "\N{GREEK CAPITAL LETTER LAMDA}",
}
_FUNCTIONS = frozenset({"log", "exp", "max", "min", "tanh", "sin", "cos", "tan", "det", "arg"})
_ACCENTS = {r"\hat": "^", r"\tilde": "~"}
_BELOW = frozenset({r"\sum", r"\max", r"\min"})
_MARKS = frozenset("+-=<>|()[],;:/*!.")


def mathml(expression: Expression, primitives: PrimitiveSet) -> str:
    """Presentation MathML of a tree: a ``math`` element as text."""
    return latex_to_mathml(latex(expression, primitives))


def latex_to_mathml(text: str) -> str:
    """The MathML of LaTeX as :mod:`gp_prune.formula.latex` prints it.

    Raises:
        ValueError: braces or delimiters do not pair.
    """
    root = ElementTree.Element("math", {"xmlns": _NAMESPACE, "display": "block"})
    root.append(_element(parse_latex(text)))
    return ElementTree.tostring(root, encoding="unicode")


def _made(tag: str, *children: Any, text: str | None = None, **attributes: str) -> Any:
    element = ElementTree.Element(tag, attributes)
    element.text = text
    element.extend(children)
    return element


def _element(part: Part) -> Any:
    if isinstance(part, Row):
        shown = [p for p in part.parts if not isinstance(p, Sign) or p.text not in SPACES]
        children = [_element(inner) for inner in shown]
        return children[0] if len(children) == 1 else _made("mrow", *children)
    if isinstance(part, Sign):
        return _sign(part.text)
    if isinstance(part, Name):
        return _made("mi" if part.command == r"\operatorname" else "mtext", text=part.text)
    if isinstance(part, Fraction):
        return _made("mfrac", _element(part.above), _element(part.below))
    if isinstance(part, Root):
        if part.degree:
            return _made("mroot", _element(part.body), _made("mn", text=part.degree))
        return _made("msqrt", _element(part.body))
    if isinstance(part, Over):
        bar = _made("mo", text=_ACCENTS.get(part.accent, "\N{OVERLINE}"))
        return _made("mover", _element(part.body), bar, accent="true")
    if isinstance(part, Fence):
        return _fence(part)
    return _script(part)


def _fence(part: Fence) -> Any:
    stretchy = "true" if part.grows else "false"
    ends = [_OPERATORS.get(mark, mark) for mark in (part.left, part.right)]
    left = _made("mo", text=ends[0], fence="true", form="prefix", stretchy=stretchy)
    right = _made("mo", text=ends[1], fence="true", form="postfix", stretchy=stretchy)
    return _made("mrow", left, _element(part.body), right)


def _script(part: Script) -> Any:
    scripts = [_element(script) for script in (part.below, part.above) if script is not None]
    base = _element(part.base)
    under = isinstance(part.base, Sign) and part.base.text in _BELOW and part.below is not None
    if under:
        lower = _made("munder", base, scripts[0])
        return _made("msup", lower, scripts[1]) if part.above is not None else lower
    if part.below is None:
        return _made("msup", base, *scripts)
    return _made("msub" if part.above is None else "msubsup", base, *scripts)


def _sign(text: str) -> Any:
    if text[0].isdigit():
        return _made("mn", text=text)
    if text[0] == "'":
        return _made("mo", text="\N{PRIME}" * len(text))
    if text in _OPERATORS:
        return _made("mo", text=_OPERATORS[text])
    if text in _MARKS:
        return _made("mo", text=text)
    if not text.startswith("\\"):
        return _made("mi", text=text)
    name = text[1:]
    if name in _FUNCTIONS:
        return _made("mi", text=name)
    return _made("mi", text=_LETTERS.get(text) or _greek(name) or name)


def _greek(name: str) -> str | None:
    """The Greek letter of that name, None where there is none."""
    size = "CAPITAL" if name[:1].isupper() else "SMALL"
    try:
        return unicodedata.lookup(f"GREEK {size} LETTER {name.upper()}")
    except KeyError:
        return None
