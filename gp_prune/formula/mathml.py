"""Write formulas as presentation MathML, which browsers show without a library.

It is translated from the LaTeX, so both have the same form, also for symbols that users declare.
"""

from __future__ import annotations

import unicodedata
from typing import Any
from xml.etree import ElementTree

from gp_prune.formula.latex import latex
from gp_prune.formula.line_breaking import (
    SPACES,
    Command,
    Fence,
    Fraction,
    Part,
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
    r"\dagger": "\N{DAGGER}",
    r"\langle": "\N{MATHEMATICAL LEFT ANGLE BRACKET}",
    r"\rangle": "\N{MATHEMATICAL RIGHT ANGLE BRACKET}",
    r"\pm": "\N{PLUS-MINUS SIGN}",
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
_WIDE_SPACES = frozenset({r"\quad", r"\qquad"})
_BELOW = frozenset({r"\sum", r"\max", r"\min"})
_MARKS = frozenset("+-=<>|()[],;:/*!.")


def mathml(expression: Expression, primitives: PrimitiveSet) -> str:
    """Return the presentation MathML of a tree: a ``math`` element as text."""
    return latex_to_mathml(latex(expression, primitives))


def latex_to_mathml(text: str) -> str:
    """Translate LaTeX as :mod:`gp_prune.formula.latex` prints it.

    Raises:
        UserError: braces or delimiters do not pair.
    """
    root = ElementTree.Element("math", {"xmlns": _NAMESPACE, "display": "block"})
    root.append(_translate(parse_latex(text)))
    return ElementTree.tostring(root, encoding="unicode")


def _element(tag: str, *children: Any, text: str | None = None, **attributes: str) -> Any:
    element = ElementTree.Element(tag, attributes)
    element.text = text
    element.extend(children)
    return element


def _translate(part: Part) -> Any:
    match part:
        case Row(parts):
            left_out = SPACES - _WIDE_SPACES
            shown = [p for p in parts if not isinstance(p, Sign) or p.text not in left_out]
            children = []
            for inner, after in zip(shown, [*shown[1:], None], strict=True):
                children.append(_translate(inner))
                if _is_function(inner) and after is not None and not _opens(after):
                    children.append(_element("mspace", width="0.167em"))
            return children[0] if len(children) == 1 else _element("mrow", *children)
        case Sign():
            return _sign(part)
        case Fraction(above, below):
            return _element("mfrac", _translate(above), _translate(below))
        case Command(r"\sqrt", body, ""):
            return _element("msqrt", _translate(body))
        case Command(r"\sqrt", body, degree):
            return _element("mroot", _translate(body), _element("mn", text=degree[1:-1]))
        case Command(accent, body):
            bar = _element("mo", text=_ACCENTS.get(accent, "\N{OVERLINE}"))
            over = _translate(body)
            # Browsers do not stretch a bar with every font; a page can draw it as a border.
            wide = over.tag == "mrow" and accent not in _ACCENTS
            named = {"class": "overline"} if wide else {}
            return _element("mover", over, bar, accent="true", **named)
        case Fence(left, body, right, grows):
            ends = [
                _element("mo", text=_OPERATORS.get(mark, mark), fence="true", form=form,
                         stretchy=str(grows).lower())
                for mark, form in ((left, "prefix"), (right, "postfix"))
            ]  # fmt: skip
            return _element("mrow", ends[0], _translate(body), ends[1])
        case Script():
            return _script(part)


def _is_function(part: Part) -> bool:
    r"""Return whether a part is the name of a function, such as ``\max`` with its indices."""
    sign = part.base if isinstance(part, Script) else part
    return isinstance(sign, Sign) and (
        sign.text.startswith(r"\operatorname") or sign.text.removeprefix("\\") in _FUNCTIONS
    )


def _opens(part: Part) -> bool:
    return isinstance(part, Fence) or (isinstance(part, Sign) and part.text in _MARKS)


def _script(part: Script) -> Any:
    scripts = [_translate(script) for script in (part.below, part.above) if script is not None]
    base = _translate(part.base)
    if isinstance(part.base, Sign) and part.base.text in _BELOW and part.below is not None:
        under = _element("munder", base, scripts[0])
        return _element("msup", under, scripts[1]) if part.above is not None else under
    tag = "msup" if part.below is None else "msub" if part.above is None else "msubsup"
    return _element(tag, base, *scripts)


def _sign(sign: Sign) -> Any:
    text = sign.text
    if text in _WIDE_SPACES:
        return _element("mspace", width="1em")
    if sign.words:
        words = sign.words.replace(" ", "\N{NO-BREAK SPACE}")  # a browser trims other spaces
        return _element("mi" if text.startswith(r"\operatorname") else "mtext", text=words)
    if text[0].isdigit():
        return _element("mn", text=text)
    if text[0] == "'":
        return _element("mo", text="\N{PRIME}" * len(text))
    if text in _OPERATORS or text in _MARKS:
        return _element("mo", text=_OPERATORS.get(text, text))
    name = text.removeprefix("\\")
    if name == text or name in _FUNCTIONS:
        return _element("mi", text=name)
    return _element("mi", text=_LETTERS.get(text) or _greek(name) or name)


def _greek(name: str) -> str | None:
    """Return the Greek letter of that name, None where there is none."""
    size = "CAPITAL" if name[:1].isupper() else "SMALL"
    try:
        return unicodedata.lookup(f"GREEK {size} LETTER {name.upper()}")
    except KeyError:
        return None
