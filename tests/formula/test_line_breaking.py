"""Long formulas can be broken, and say the same as before."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from gp_prune.formula.latex import latex
from gp_prune.formula.line_breaking import (
    broken,
    displayed,
    parse_latex,
    width_of,
    write_latex,
)
from gp_prune.language.axes import Axes
from gp_prune.language.expression import Expression
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.metric.metric import Metric, bundled_metrics

PRIMITIVES = builtin_primitives()
Trees = Callable[..., list[Expression]]

_LAYOUT = re.compile(
    r"\\(left|right|[bB]igg?[lr]|frac|sqrt(\[[0-9]+\])?|mathbin|penalty[0-9]+|Big/|!)|\^\{1/[0-9]+\}|\\?[{}()\[\]|]|\s"
)


def signs(text: str) -> str:
    """All that carries meaning, in its order: names, numbers, indices, signs."""
    return _LAYOUT.sub("", text).replace("_", "")


def quotients_last(text: str) -> str:
    r"""The mark of a fraction stands after it, that of a slash in the middle."""
    return signs(text).replace(r"^\dagger", "")


@pytest.mark.many(2, 60)
def test_random_trees(random_trees: Trees, tree_types: tuple[Axes, ...], many: int) -> None:
    wide = 0
    for axes in tree_types:
        for tree in random_trees(axes, many, seed=341, least=3, most=8):
            text = latex(tree, PRIMITIVES)
            opened = broken(text)
            wide += opened != text
            same = text if opened == text else write_latex(parse_latex(text))
            assert quotients_last(opened) == quotients_last(same)
            assert opened.count("{") == opened.count("}")
            assert len(re.findall(r"[bB]igl", opened)) == len(re.findall(r"[bB]igr", opened))
            parse_latex(re.sub(r"\\[bB]ig[lr]|\\penalty[0-9]+|\\Big/", " ", opened))
    assert wide > 2 * many


@pytest.mark.many(2, 15)
def test_what_is_written_is_what_was_read(
    random_trees: Trees, tree_types: tuple[Axes, ...], many: int
) -> None:
    for axes in tree_types:
        for tree in random_trees(axes, many, seed=345, most=8):
            read = parse_latex(latex(tree, PRIMITIVES))
            assert parse_latex(write_latex(read)) == read


def longest_piece(text: str) -> float:
    """The width of the widest part between two places where TeX can break a paragraph."""
    depth, piece, pieces = 0, "", []
    text = re.sub(r"([bB]ig[lr]) *\\[lr]Vert", r"\1 |", text)  # these do not hold a line together
    for token in re.findall(r"\\penalty[0-9]+|\\left|\\right|\\[A-Za-z]+|\\.|\S", text):
        depth += (token in ("{", r"\left", r"\lVert")) - (token in ("}", r"\right", r"\rVert"))
        piece += token + " "
        at_sign = token in ("+", "-", "=", r"\neq", r"\geq") or token.startswith(r"\penalty")
        if not depth and (at_sign or token == r"\mathbin"):
            pieces.append(piece)
            piece = ""
    pieces.append(piece)
    plain = [re.sub(r"\\[bB]ig[lr]|\\Big/|\\penalty[0-9]+", " ", piece) for piece in pieces]
    return max(width_of(p) if p.count("{") == p.count("}") else 0.0 for p in plain)


@pytest.mark.many(2, 60)
@pytest.mark.parametrize("line", [200.0, 345.0])
def test_no_piece_is_wider_than_the_line(
    line: float, random_trees: Trees, tree_types: tuple[Axes, ...], many: int
) -> None:
    for axes in tree_types:
        for tree in random_trees(axes, many, seed=343, least=3, most=8):
            text = latex(tree, PRIMITIVES)
            # A subscript is never broken, and the matrix of a nuclear norm is not yet.
            if r"\operatorname{scatter}" not in text and r"\right\rVert_{*}" not in text:
                assert longest_piece(broken(text, line)) <= 1.16 * line, text


@pytest.mark.parametrize("name", sorted(bundled_metrics()))
def test_short_formulas_stay(name: str) -> None:
    text = Metric.load(name).latex()
    assert broken(text, 10_000.0) == text
    if width_of(text) <= 300.0:
        assert displayed(text) == rf"\[ {text} \]"


EXAMPLES = {
    r"\frac{a + b}{c}^{\dagger}": r"\Bigl( a ~+ b \Bigr) \mathbin{\Big/^{\dagger}} c",
    r"x \frac{a + b}{c}": r"x | \Bigl[ \Bigl( a ~+ b \Bigr) \mathbin{\Big/} c \Bigr]",
    r"\sqrt{a + b}": r"\bigl( a ~+ b \bigr)^{1/2}",
    r"\left|a + b\right|^{2}": r"\bigl| a ~+ b \bigr|^{2}",
    r"\sum_{i} \left(a + b\right)": r"\sum_{i} \bigl( a ~+ b \bigr)",
    r"\left(\frac{a}{b} + \left(\sum_{i} c + d\right)\right)": (
        r"\biggl( \frac{a}{b} ~+ \Bigl( \sum_{i} c ~+ d \Bigr) \biggr)"
    ),
    r"\frac{1}{N} \sum_{i} a b": r"\frac{1}{N} \sum_{i} a | b",
    r"\max\left(a + b, c\right)": r"\max \bigl( a ~+ b , | c \bigr)",
}
"""A line may end before a plus (at the tilde), at a bar, and after an opening bracket."""


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples(text: str) -> None:
    opened = broken(text, 20.0).replace(r" \penalty950", "").replace(r"\penalty900", "|")
    opened = opened.replace(r"\penalty700 ", "~")
    assert opened == EXAMPLES[text]


def test_wide_formulas_are_paragraphs() -> None:
    text = latex(parse("add(sub(mul(b, mu), div(gamma, b)), beta)", PRIMITIVES), PRIMITIVES)
    assert displayed(text).startswith(r"\[")
    assert displayed(text, 60.0).startswith(r"{\par")
    wide = rf"\frac{{{text}}}{{{text}}}^{{\dagger}}"
    assert r"\mathbin{\Big/^{\dagger}}" in displayed(wide, 60.0)
    assert r"\Big/" not in displayed(wide)
