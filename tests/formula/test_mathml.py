"""MathML of formulas: well formed, and the same signs as the LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from gp_prune.errors import UserError
from gp_prune.formula.latex import latex
from gp_prune.formula.line_breaking import parse_latex
from gp_prune.formula.mathml import latex_to_mathml, mathml
from gp_prune.language.axes import Axes
from gp_prune.language.expression import Expression
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.metric.metric import Metric, bundled_metrics

PRIMITIVES = builtin_primitives()
Trees = Callable[..., list[Expression]]
SPACE = "{http://www.w3.org/1998/Math/MathML}"

CHILDREN = {"mfrac": 2, "msub": 2, "msup": 2, "msubsup": 3, "munder": 2, "mover": 2, "mroot": 2}
TOKENS = {"mi", "mn", "mo", "mtext"}
NOT_TRANSLATED = {"dagger", "langle", "rangle", "bar", "partial", "nabla", "lVert", "quad"}


def check(text: str) -> ElementTree.Element:
    """Well-formed XML of known elements, each with its number of children."""
    root = ElementTree.fromstring(text)
    assert root.tag == SPACE + "math"
    for element in root.iter():
        tag = element.tag.removeprefix(SPACE)
        assert tag in CHILDREN or tag in TOKENS or tag in {"math", "mrow", "msqrt", "mspace"}, tag
        assert len(element) == CHILDREN.get(tag, len(element)), tag
        assert (tag in TOKENS) == bool(element.text), text
        assert element.text not in NOT_TRANSLATED, text
        assert "\\" not in (element.text or ""), text
    return root


@pytest.mark.parametrize("name", sorted(bundled_metrics()))
def test_bundled_metrics(name: str) -> None:
    metric = Metric.load(name)
    root = check(metric.mathml())
    shown = "".join(root.itertext())
    bare = re.sub(r"\\(operatorname|left|right|frac|sqrt|overline|!)", "", metric.latex())
    for digits in re.findall(r"[0-9.]+", bare):
        assert digits in shown
    assert shown.count("\N{N-ARY SUMMATION}") == metric.latex().count(r"\sum")
    assert shown.count("\N{PRIME}") == metric.latex().count("'")


@pytest.mark.many(2, 7)
def test_random_trees(random_trees: Trees, tree_types: tuple[Axes, ...], many: int) -> None:
    count = 0
    for axes in tree_types:
        for tree in random_trees(axes, many, seed=331, most=8):
            root = check(mathml(tree, PRIMITIVES))
            text = latex(tree, PRIMITIVES)
            assert len(list(root.iter(SPACE + "mfrac"))) == text.count(r"\frac")
            count += 1
    assert count >= 14 * many


EXAMPLES = {
    "b": "<msub><mi>b</mi><mi>o</mi></msub>",
    "neg(gamma)": "<mrow><mo>\N{MINUS SIGN}</mo>"
    "<msub><mi>\N{GREEK SMALL LETTER GAMMA}</mi><mi>o</mi></msub></mrow>",
    "sum[o](b)": "<mrow><munder><mo>∑</mo><mi>o</mi></munder>"
    "<msub><mi>b</mi><mi>o</mi></msub></mrow>",
    "square(b)": "<msubsup><mi>b</mi><mi>o</mi><mn>2</mn></msubsup>",
    "tanh(b)": '<mrow><mi>tanh</mi><mrow><mo fence="true" form="prefix" stretchy="true">(</mo>'
    "<msub><mi>b</mi><mi>o</mi></msub>"
    '<mo fence="true" form="postfix" stretchy="true">)</mo></mrow></mrow>',
    "div(b, mu)": "<msup><mfrac><msub><mi>b</mi><mi>o</mi></msub>"
    "<msub><mi>μ</mi><mi>o</mi></msub></mfrac><mo>†</mo></msup>",
    "mul(b, 0.5)": "<mrow><mn>0.5</mn><msub><mi>b</mi><mi>o</mi></msub></mrow>",
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples(text: str) -> None:
    markup = mathml(parse(text, PRIMITIVES), PRIMITIVES)
    inside = markup.removeprefix(f'<math xmlns="{SPACE[1:-1]}" display="block">')
    assert inside.removesuffix("</math>") == EXAMPLES[text]


def test_norms_and_named_operators() -> None:
    norm = mathml(parse("l2[i,k](W)", PRIMITIVES), PRIMITIVES)
    assert norm.count("‖") == 2
    assert norm.count("⋅") == 2
    assert "<mi>std</mi>" in mathml(parse("std[o](b)", PRIMITIVES), PRIMITIVES)


@pytest.mark.parametrize(
    "symbol",
    [r"\alpha", r"\Omega", r"\lambda", r"A_{2}", r"\hat{W}", r"\mathrm{abc}", r"\mathbf", "<&>"],
)
def test_symbols_of_ones_own_are_escaped(symbol: str) -> None:
    check(latex_to_mathml(rf"{{{symbol}}}_{{o,i}} + 1"))


@pytest.mark.parametrize(
    "text", ["{a", "a}", r"\left(a", r"\frac{a}", r"a_", r"\lVert a", r"\left("]
)
def test_what_does_not_pair_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"(expected .*|closes nothing); correct the latex="):
        parse_latex(text)
