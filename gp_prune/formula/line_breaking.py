r"""Break LaTeX formulas that are wider than the page.

TeX breaks a formula in a paragraph after ``+`` and the like, but not between ``\left`` and
``\right``, not in a fraction and not under a root. So in a long formula wide brackets get a fixed
size, a wide fraction becomes a quotient in line, a wide root becomes a power such as one half, and
products may be broken between two factors.

The structure is read from the LaTeX, because operands and operators declare their symbols as LaTeX.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gp_prune.errors import UserError

_TOKEN = re.compile(
    r"\\(?:operatorname|text|mathrm)\{[^{}]*\}|\\[A-Za-z]+|\\.|[0-9]+(?:\.[0-9]+)?|\S"
)
_CLOSING = {r"\left": r"\right", r"\lVert": r"\rVert"}
SPACES = frozenset({r"\!", r"\,", r"\;", r"\:", r"\quad", r"\qquad"})
"""Commands for space."""


@dataclass(frozen=True)
class Row:
    """Parts side by side."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Sign:
    r"""A letter, number, mark or command, or upright words: ``\operatorname{std}``."""

    text: str

    @property
    def words(self) -> str:
        """Return the upright words; empty for any other sign."""
        return self.text.partition("{")[2].removesuffix("}") if self.text != "{" else ""


@dataclass(frozen=True)
class Fraction:
    """One part above another."""

    above: Row
    below: Row


@dataclass(frozen=True)
class Command:
    r"""A root (``\sqrt``, with a degree such as ``[3]``) or an accent of a part."""

    command: str
    body: Row
    degree: str = ""


@dataclass(frozen=True)
class Fence:
    """A part between delimiters, which grow with it if ``grows``."""

    left: str
    body: Row
    right: str
    grows: bool


@dataclass(frozen=True)
class Script:
    """A base with what is below and above its right side; either may be missing."""

    base: Part
    below: Part | None
    above: Part | None


Part = Row | Sign | Fraction | Command | Fence | Script


def parse_latex(text: str) -> Row:
    """Return the structure of a formula.

    Raises:
        UserError: braces or delimiters do not pair.
    """
    reader = _Reader(text)
    row = reader.row()
    if reader.tokens:
        raise reader.error(f"{reader.tokens[-1]!r} closes nothing")
    return row


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _TOKEN.findall(text)[::-1]

    def follows(self, *marks: str) -> bool:
        """Return whether the next token is one of the marks."""
        return bool(self.tokens) and self.tokens[-1] in marks

    def take(self, expected: str = "") -> str:
        """Read the next token; UserError where it is missing or not the expected one."""
        token: str = self.tokens.pop() if self.tokens else ""
        if not token or expected not in ("", token):
            where = repr(token) if token else "the end"
            raise self.error(f"expected {expected or 'more'} at {where}")
        return token

    def error(self, reason: str) -> UserError:
        """Return the error of LaTeX that is not balanced."""
        return UserError(
            f"the LaTeX '{self.text}' cannot be read: {reason}; correct the latex= of the operand "
            "or operator that it is from"
        )

    def row(self) -> Row:
        """Read all parts up to what closes the group."""
        parts: list[Part] = []
        while self.tokens and not self.follows("}", *_CLOSING.values()):
            parts.append(self.scripts(self.part()))
        return Row(tuple(parts))

    def scripts(self, base: Part) -> Part:
        """Read what is below and above a base."""
        below: Part | None = None
        above: Part | None = None
        while self.follows("_", "^", "'"):
            mark = self.take()
            if mark == "_":
                below = self.group()
            elif mark == "^":
                above = self.group()
            else:
                while self.follows("'"):
                    mark += self.take()
                above = Sign(mark)
        return base if below is None and above is None else Script(base, below, above)

    def part(self) -> Part:
        """Read one part without its scripts."""
        token = self.take()
        if token == "{":
            row = self.row()
            self.take("}")
            return row
        if token == r"\lVert":
            return Fence(token, self.row(), self.take(_CLOSING[token]), False)
        if token == r"\left":
            left, body, _ = self.take(), self.row(), self.take(_CLOSING[token])
            return Fence(left, body, self.take(), True)
        if token == r"\frac":
            return Fraction(self.group(), self.group())
        if token in (r"\sqrt", r"\overline", r"\bar", r"\hat", r"\tilde"):
            degree = ""
            while self.follows("[") if not degree else not degree.endswith("]"):
                degree += self.take()
            return Command(token, self.group(), degree)
        return Sign(token)

    def group(self) -> Row:
        """Read one part as a row."""
        part = self.part()
        return part if isinstance(part, Row) else Row((part,))


def write_latex(part: Part) -> str:
    """Return the LaTeX of a part."""
    match part:
        case Row(parts):
            return " ".join(map(write_latex, parts))
        case Sign(text):
            return text
        case Fraction(above, below):
            return rf"\frac{{{write_latex(above)}}}{{{write_latex(below)}}}"
        case Command(command, body, degree):
            return rf"{command}{degree}{{{write_latex(body)}}}"
        case Fence(left, body, right, grows):
            sizes = (r"\left", r"\right") if grows else ("", "")
            return f"{sizes[0]}{left} {write_latex(body)} {sizes[1]}{right}"
        case Script(base):
            text = write_latex(base)
            return (f"{{{text}}}" if isinstance(base, Row) else text) + _write_scripts(part)


def _write_scripts(part: Script) -> str:
    above = "" if part.above is None else write_latex(part.above)
    if above and not above.startswith("'"):
        above = f"^{{{above}}}"
    return above + (f"_{{{write_latex(part.below)}}}" if part.below is not None else "")


TEXT_WIDTH = 345.0
"""Points in a line of the article class."""

_WIDE = 0.4
"""Share of the line beyond which a part is opened, so that TeX can break it."""

_NARROW = 0.6, 150.0
"""Of a narrow line a larger share, up to 150 points, so that more fractions stay fractions."""

_CLOSING_WIDTH, _LEAST = 10.0, 60.0
"""Points of a closing bracket, by which the parts inside must be narrower, and the least limit."""

_FACTOR = 40.0
"""Points up to which a fraction stays on the line of the sum that it is a factor of."""

_BREAK = r"\penalty900"  # between factors; TeX's own penalty after a plus is 700
_BREAK_SIGN = r"\penalty700"  # before a plus or minus, where TeX by itself breaks after it
_BREAK_INSIDE = r"\penalty950"  # after an opening bracket, where nothing better is near
_SIGNS = frozenset({"+", "-", "=", ",", r"\neq", r"\geq", r"\leq"})
_SCRIPT_SIZE = 0.7
_WIDTHS = {
    r"\sum": 15.0, r"\!": -1.7, r"\,": 1.7, r"\quad": 10.0, ",": 4.5, "'": 2.5, ".": 3.0,
    **dict.fromkeys(_SIGNS - {","}, 12.5),
}  # fmt: skip
_UPRIGHT = frozenset({r"\max", r"\min", r"\log", r"\exp", r"\tanh", r"\det"})


def width_of(text: str) -> float:
    """Estimate the width of a formula in ten-point type, in points."""
    return _width(parse_latex(text))


def broken(text: str, line: float = TEXT_WIDTH) -> str:
    """Return a formula that TeX can break in a paragraph; unchanged where it fits the line.

    Args:
        text: LaTeX as :mod:`gp_prune.formula.latex` prints it.
        line: the width of the line in points.
    """
    row = parse_latex(text)
    limit = max(_WIDE * line, min(_NARROW[0] * line, _NARROW[1]))
    return text if _width(row) <= line else _open_row(row, limit)


def displayed(text: str, line: float = TEXT_WIDTH) -> str:
    """Return a displayed formula, or a ragged paragraph of lines where it is too wide for one."""
    if width_of(text) <= 0.95 * line:
        return rf"\[ {text} \]"
    return (
        r"{\par\medskip\raggedright\lineskiplimit=3pt\lineskip=6pt\hangindent=2em\hangafter=1"
        rf"\noindent{paragraph(text, 0.95 * line)}\par\medskip}}"
    )


def paragraph(text: str, line: float) -> str:
    """Return the formula for a paragraph, such as a cell of a table, of that width in points."""
    lines = broken(text, line)
    if lines == text:
        return rf"$\displaystyle {text}$"
    return rf"{{\binoppenalty=10000 $\displaystyle {lines}$}}"  # no break after a plus


def _width(part: Part, limits: bool = True) -> float:
    """Estimate a width; in a fraction TeX sets limits at the side of a sum, not below it."""
    match part:
        case Row(parts):
            return sum(_width(inner, limits) for inner in parts)
        case Fraction(above, below):
            return max(_width(above, False), _width(below, False)) + 3.0
        case Command(command, body):
            return _width(body, limits) + (9.0 if command == r"\sqrt" else 0.0)
        case Fence(_, body, _, grows):
            return _width(body, limits) + (14.0 if grows else 10.0)
        case Script(base, below, above):
            scripts = [_SCRIPT_SIZE * _width(s) for s in (below, above) if s is not None]
            takes = isinstance(base, Sign) and base.text in (r"\sum", r"\max", r"\min")
            if takes and limits:
                return max(_width(base), *scripts)
            return _width(base, limits) + max(scripts) + 0.5
        case Sign(text):
            if part.words:
                return 5.0 * len(part.words) + 2.0
            if text in _UPRIGHT:
                return 5.0 * len(text) - 3.0
            return _WIDTHS.get(text, 5.2 * len(text) if text[0].isdigit() else 6.5)


def _open_row(row: Row, limit: float) -> str:
    """Return a row whose parts that are wider than the limit can be broken."""
    texts = []
    neighbours = zip((None, *row.parts[:-1]), row.parts, (*row.parts[1:], None), strict=True)
    for before, part, after in neighbours:
        alone = (before is None or _is_sign(before)) and (after is None or _is_sign(after))
        if before is not None and _is_between(before, part):
            texts.append(_BREAK_SIGN)
        elif before is not None and _may_break(before, part):
            texts.append(r"\penalty0" if _is_space(part) else _BREAK)
        texts.append(_open(part, limit, alone))
    return " ".join(texts)


def _open(part: Part, limit: float, alone: bool) -> str:
    """Open a part where it is wide; put a quotient that is not alone in brackets."""
    if _width(part) <= limit:
        return write_latex(part)
    size = _SIZES[_height(part)]
    inside = min(limit, max(limit - _CLOSING_WIDTH, _LEAST))
    match part:
        case Script(Fraction() as fraction):
            return _quotient(fraction, _write_scripts(part), limit, alone)
        case Script(base) if not isinstance(base, Row):
            return _open(base, inside, True) + _write_scripts(part)
        case Fraction():
            return _quotient(part, "", limit, alone)
        case Fence(left, body, right):
            return _bracket(_open_row(body, inside), size, left, right)
        case Command(r"\sqrt", body, degree):
            return rf"{_bracket(_open_row(body, inside), size)}^{{1/{degree.strip('[]') or 2}}}"
    return write_latex(part)


def _bracket(text: str, size: str, left: str = "(", right: str = ")") -> str:
    return rf"\{size}l{left} {_BREAK_INSIDE} {text} \{size}r{right}"


def _quotient(part: Fraction, scripts: str, limit: float, alone: bool) -> str:
    size = _SIZES[max(1, _height(part.above), _height(part.below))]
    sides = []
    for side in (part.above, part.below):
        text = _open_row(side, limit)
        short = len(side.parts) == 1 and not isinstance(side.parts[0], Fraction)
        sides.append(text if short else _bracket(text, size))
    quotient = rf" \mathbin{{\Big/{scripts}}} ".join(sides)
    return quotient if alone else _bracket(quotient, size, "[", "]")


_SIZES = ("big", "Big", "bigg")
"""Sizes of brackets around signs in a line, around sums, and around fractions."""


def _height(part: Part) -> int:
    """Return the place in ``_SIZES`` of brackets around a part; outer ones are never smaller."""
    match part:
        case Fraction():
            return 2
        case Sign(r"\sum"):
            return 1
        case Script(base):
            return _height(base)
        case Row(parts) | Command(body=Row(parts)) | Fence(body=Row(parts)):
            return max(map(_height, parts), default=0)
    return 0


def _is_sign(part: Part) -> bool:
    return isinstance(part, Sign) and part.text in _SIGNS


def _is_space(part: Part) -> bool:
    return isinstance(part, Sign) and part.text in SPACES


def _may_break(before: Part, after: Part) -> bool:
    """Return whether a line may end between two parts: two factors, or after a comma."""
    if before == Sign(","):
        return True
    if before == Sign(r"\,") and not _is_sign(after):
        return True
    if any(_is_sign(part) or _is_space(part) for part in (before, after)):
        return False
    factor = isinstance(before, Fraction) and _width(before) <= _FACTOR  # such as 1 / N
    return not _leads(before) and not (factor and _leads(after))


def _is_between(before: Part, part: Part) -> bool:
    """Return whether a part is a plus or minus between two terms, before which a line may end."""
    if part not in (Sign("+"), Sign("-")) or _is_sign(before) or _leads(before):
        return False
    return before != Sign(r"\colon")


def _leads(part: Part) -> bool:
    """Return whether a part is a sum or function sign in front of its argument."""
    base = part.base if isinstance(part, Script) else part
    if not isinstance(base, Sign) or base.text.startswith(r"\text{"):
        return False
    return bool(base.words) or base.text in {r"\sum", *_UPRIGHT}
