r"""LaTeX of formulas that are wider than the page.

TeX breaks a formula in a paragraph after ``+`` and the like, but not between ``\left`` and
``\right``, not in a fraction and not under a root. So in a long formula wide brackets get a fixed
size, a wide fraction becomes a quotient in line, a wide root a power of one half; and products may
be broken between two factors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    """A letter, number, command or mark."""

    text: str


@dataclass(frozen=True)
class Name:
    r"""Upright text: ``\operatorname{std}`` or ``\text{else}``."""

    command: str
    text: str


@dataclass(frozen=True)
class Fraction:
    """One part above another."""

    above: Row
    below: Row


@dataclass(frozen=True)
class Root:
    """A root; ``degree`` is empty for the square root."""

    body: Row
    degree: str


@dataclass(frozen=True)
class Fence:
    """A part between delimiters, which grow with it if ``grows``."""

    left: str
    body: Row
    right: str
    grows: bool


@dataclass(frozen=True)
class Over:
    r"""A part under an accent such as ``\overline``."""

    accent: str
    body: Row


@dataclass(frozen=True)
class Script:
    """A base with what stands below and above its right side; either may be missing."""

    base: Part
    below: Part | None
    above: Part | None


Part = Row | Sign | Name | Fraction | Root | Fence | Over | Script


def parse_latex(text: str) -> Row:
    """The structure of a formula.

    Raises:
        ValueError: braces or delimiters do not pair.
    """
    reader = _Reader(text)
    row = reader.row()
    if reader.at < len(reader.tokens):
        raise ValueError(f"{reader.tokens[reader.at]!r} closes nothing in the LaTeX {text!r}")
    return row


def write_latex(part: Part) -> str:
    """The LaTeX of a part; scripts stand in the order above, below."""
    if isinstance(part, Row):
        return " ".join(map(write_latex, part.parts))
    if isinstance(part, Sign):
        return part.text
    if isinstance(part, Name):
        return f"{part.command}{{{part.text}}}"
    if isinstance(part, Fraction):
        return rf"\frac{{{write_latex(part.above)}}}{{{write_latex(part.below)}}}"
    if isinstance(part, Root):
        degree = f"[{part.degree}]" if part.degree else ""
        return rf"\sqrt{degree}{{{write_latex(part.body)}}}"
    if isinstance(part, Fence):
        sizes = (r"\left", r"\right") if part.grows else ("", "")
        left, right = sizes[0] + part.left, sizes[1] + part.right
        return f"{left} {write_latex(part.body)} {right}"
    if isinstance(part, Over):
        return rf"{part.accent}{{{write_latex(part.body)}}}"
    base = write_latex(part.base)
    return (f"{{{base}}}" if isinstance(part.base, Row) else base) + write_scripts(part)


def write_scripts(part: Script) -> str:
    """The LaTeX of what stands below and above a base."""
    if isinstance(part.above, Sign) and part.above.text.startswith("'"):
        above = part.above.text
    else:
        above = f"^{{{write_latex(part.above)}}}" if part.above is not None else ""
    return above + (f"_{{{write_latex(part.below)}}}" if part.below is not None else "")


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _TOKEN.findall(text)
        self.at = 0

    def follows(self, *marks: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] in marks

    def take(self, expected: str | None = None) -> str:
        token = self.tokens[self.at] if self.at < len(self.tokens) else ""
        if not token or (expected is not None and token != expected):
            raise ValueError(f"expected {expected or 'more'} at {token!r} in {self.text!r}")
        self.at += 1
        return token

    def row(self) -> Row:
        """All parts up to what closes the group."""
        return Row(tuple(self._parts()))

    def _parts(self) -> Iterator[Part]:
        while self.at < len(self.tokens) and not self.follows("}", *_CLOSING.values()):
            yield self._scripted(self.part())

    def _scripted(self, base: Part) -> Part:
        below: Part | None = None
        above: Part | None = None
        while self.follows("_", "^", "'"):
            mark = self.take()
            if mark == "_":
                below = self._group()
            elif mark == "^":
                above = self._group()
            else:
                primes = 1
                while self.follows("'"):
                    primes += len(self.take())
                above = Sign("'" * primes)
        return base if below is None and above is None else Script(base, below, above)

    def part(self) -> Part:
        """One part without its scripts."""
        token = self.take()
        if token == "{":
            row = self.row()
            self.take("}")
            return row
        if token in (r"\left", r"\lVert"):
            return self._fence(token)
        if token == r"\frac":
            return Fraction(self._group(), self._group())
        if token == r"\sqrt":
            degree = ""
            if self.follows("["):
                while not degree.endswith("]"):
                    degree += self.take()
            return Root(self._group(), degree[1:-1])
        if token.endswith("}") and token != "}":
            command, _, words = token[:-1].partition("{")
            return Name(command, words)
        if token in (r"\overline", r"\bar", r"\hat", r"\tilde"):
            return Over(token, self._group())
        return Sign(token)

    def _group(self) -> Row:
        part = self.part()
        return part if isinstance(part, Row) else Row((part,))

    def _fence(self, opening: str) -> Fence:
        grows = opening == r"\left"
        left = self.take() if grows else opening
        body = self.row()
        closing = self.take(_CLOSING[opening])
        return Fence(left, body, self.take() if grows else closing, grows)


TEXT_WIDTH = 345.0
"""Points in a line of the article class."""

QUOTIENT = r"a \mathbin{\big/_{\!\epsilon}} b = \frac{a}{b}_{\!\epsilon}"
"""What a protected division in line means, as LaTeX."""

_WIDE = 0.4
"""Share of the line beyond which a part is opened, so that TeX can break it."""

_NARROW = 0.6, 150.0
"""Of a narrow line a larger share, up to so many points: a fraction should rather stay one."""

_BREAK = r"\penalty900"  # between factors; TeX's own penalty after a plus is 700
_BREAK_INSIDE = r"\penalty950"  # after an opening bracket, where nothing better is near
_SIGNS = frozenset({"+", "-", "=", ",", r"\neq", r"\geq", r"\leq"})
_NO_SCRIPT_WIDTH = 0.7
_WIDTHS = {r"\sum": 15.0, r"\!": -1.7, r"\,": 1.7, r"\quad": 10.0, ",": 4.5, "'": 2.5, ".": 3.0}
_UPRIGHT = frozenset({r"\max", r"\min", r"\log", r"\exp", r"\tanh", r"\det"})


def width_of(text: str) -> float:
    """About how wide a formula is in ten-point type, in points."""
    return _width(parse_latex(text))


def is_wide(text: str, line: float = TEXT_WIDTH) -> bool:
    """Whether a formula needs more than a line of so many points."""
    return width_of(text) > line


def broken(text: str, line: float = TEXT_WIDTH) -> str:
    """The formula such that TeX can break it in a paragraph; as it is where it fits the line.

    Args:
        text: LaTeX as :mod:`gp_prune.formula.latex` prints it.
        line: the width of the line in points.
    """
    row = parse_latex(text)
    limit = max(_WIDE * line, min(_NARROW[0] * line, _NARROW[1]))
    return text if _width(row) <= line else _opened(row, limit)


def displayed(text: str, line: float = TEXT_WIDTH) -> str:
    """A displayed formula, or a ragged paragraph of lines where it is too wide for one."""
    if not is_wide(text, 0.95 * line):
        return rf"\[ {text} \]"
    return (
        r"{\par\medskip\raggedright\lineskiplimit=3pt\lineskip=6pt\hangindent=2em\hangafter=1"
        rf"\noindent$\displaystyle {broken(text, 0.95 * line)}$\par\medskip}}"
    )


def has_inline_quotient(text: str) -> bool:
    """Whether the broken formula writes a protected division in line."""
    return r"\Big/_{" in text


def paragraph(text: str, line: float) -> str:
    """The formula in a paragraph of its own, such as a cell of a table, that wide."""
    return rf"$\displaystyle {broken(text, line)}$"


def _width(part: Part) -> float:
    if isinstance(part, Row):
        return sum(map(_width, part.parts))
    if isinstance(part, Name):
        return 5.0 * len(part.text) + 2.0
    if isinstance(part, Fraction):
        return max(_width(part.above), _width(part.below)) + 3.0
    if isinstance(part, Root):
        return _width(part.body) + 9.0
    if isinstance(part, Fence):
        return _width(part.body) + (14.0 if part.grows else 10.0)
    if isinstance(part, Over):
        return _width(part.body)
    if isinstance(part, Script):
        scripts = [_NO_SCRIPT_WIDTH * _width(s) for s in (part.below, part.above) if s is not None]
        base = _width(part.base)
        if _takes_limits(part):
            return max(base, *scripts)
        return base + max(scripts) + 0.5
    if part.text in _SIGNS - {","}:
        return 12.5
    if part.text in _UPRIGHT:
        return 5.0 * len(part.text) - 3.0
    return _WIDTHS.get(part.text, 5.2 * len(part.text) if part.text[0].isdigit() else 6.5)


def _takes_limits(part: Script) -> bool:
    return isinstance(part.base, Sign) and part.base.text in (r"\sum", r"\max", r"\min")


def _opened(row: Row, limit: float) -> str:
    """A row whose wide parts can be broken."""
    parts = row.parts
    texts = []
    for place, part in enumerate(parts):
        before = parts[place - 1] if place else None
        after = parts[place + 1] if place + 1 < len(parts) else None
        alone = (before is None or _is_sign(before)) and (after is None or _is_sign(after))
        if before is not None and _may_break(before, part):
            texts.append(r"\penalty0" if _is_space(part) else _BREAK)
        texts.append(_part(part, limit, alone))
    return " ".join(texts)


def _part(part: Part, limit: float, alone: bool) -> str:
    """A part, opened where it is wide; a quotient or power that is not alone goes in brackets."""
    if _width(part) <= limit:
        return write_latex(part)
    size = _size(part)
    if isinstance(part, Script) and isinstance(part.base, Fraction) and part.above is None:
        return _quotient(part.base, write_scripts(part), limit, alone, size)
    if isinstance(part, Script) and not isinstance(part.base, Row):
        return _part(part.base, limit, True) + write_scripts(part)
    if isinstance(part, Fraction):
        return _quotient(part, "", limit, alone, size)
    if isinstance(part, Fence):
        body = _opened(part.body, limit)
        return rf"\{size}l{part.left} {_BREAK_INSIDE} {body} \{size}r{part.right}"
    if isinstance(part, Root) and not part.degree:
        return rf"\{size}l( {_BREAK_INSIDE} {_opened(part.body, limit)} \{size}r)^{{1/2}}"
    return write_latex(part)


def _quotient(part: Fraction, scripts: str, limit: float, alone: bool, size: str) -> str:
    slash = rf"\mathbin{{\Big/{scripts}}}"
    ends = [_in_brackets(side, limit, size) for side in (part.above, part.below)]
    quotient = f"{ends[0]} {slash} {ends[1]}"
    return quotient if alone else rf"\{size}l[ {_BREAK_INSIDE} {quotient} \{size}r]"


def _in_brackets(row: Row, limit: float, size: str) -> str:
    text = _opened(row, limit)
    if len(row.parts) == 1 and not isinstance(row.parts[0], Fraction):
        return text
    return rf"\{size}l( {_BREAK_INSIDE} {text} \{size}r)"


def _size(part: Part) -> str:
    """The size of brackets around a part."""
    return "Big" if _is_tall(part) else "big"


def _is_tall(part: Part) -> bool:
    if isinstance(part, Fraction):
        return True
    if isinstance(part, Script):
        return _is_tall(part.base)
    if isinstance(part, Sign):
        return part.text == r"\sum"
    inner: Sequence[Part] = getattr(part, "parts", ()) or getattr(
        getattr(part, "body", None), "parts", ()
    )
    return any(map(_is_tall, inner))


def _is_sign(part: Part) -> bool:
    return isinstance(part, Sign) and part.text in _SIGNS


def _may_break(before: Part, after: Part) -> bool:
    """Whether a line may end between two parts: two factors, or after a comma."""
    if isinstance(before, Sign) and before.text == ",":
        return True
    if any(_is_sign(part) or _is_space(part) for part in (before, after)):
        return False
    return not _leads(before) and not (isinstance(before, Fraction) and _leads(after))


def _is_space(part: Part) -> bool:
    return isinstance(part, Sign) and part.text in SPACES


def _leads(part: Part) -> bool:
    """Whether a part is a sum or a function that stands before what it is of."""
    base = part.base if isinstance(part, Script) else part
    return isinstance(base, Name) or (isinstance(base, Sign) and base.text in {r"\sum", *_UPRIGHT})
