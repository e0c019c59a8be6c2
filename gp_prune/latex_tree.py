"""Floor 4: the structure of the LaTeX that :mod:`gp_prune.latex` prints.

Two writers start from it: :mod:`gp_prune.mathml`, and :mod:`gp_prune.latex_lines`, which breaks
long formulas. So brackets, norms and names are decided in one place, the printer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
