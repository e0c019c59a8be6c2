"""What `Metric.sympy` gives is read back with the same values, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sympy
import torch

from gp_prune.errors import UserError
from gp_prune.formula.from_sympy import FormulaError, from_sympy
from gp_prune.formula.latex import to_sympy
from gp_prune.language import symbols
from gp_prune.language.axes import CHANNEL, LEGAL_AXES, WEIGHT, Axes
from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import evaluate
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives, primitive_set
from gp_prune.language.record import synthetic_layer
from gp_prune.metric.metric import Metric, MetricError, bundled_metrics

Trees = Callable[..., list[Expression]]
Differ = Callable[[Any, Any, float], bool]
Predicate = Callable[[Expression], bool]
PRIMITIVES = builtin_primitives()
LAYER = synthetic_layer()


def back(tree: Expression) -> Expression:
    return from_sympy(to_sympy(tree), tree.axes, PRIMITIVES)


def check(trees: list[Expression], differ: Differ, hangs: Predicate) -> None:
    """Values and types are the same, but for a few trees that hang on rounding."""
    pairs = [(tree, back(tree)) for tree in trees]
    assert [str(tree) for tree, found in pairs if found.axes is not tree.axes] == []
    apart = [t for t, f in pairs if differ(evaluate(t, LAYER), evaluate(f, LAYER), 1e-6)]
    assert [str(tree) for tree in apart if not hangs(tree)] == []
    assert len(apart) < 0.05 * len(trees)


@pytest.mark.many(1, 6)
def test_random_trees_round_trip(
    random_trees: Trees,
    tree_types: tuple[Axes, ...],
    differ: Differ,
    hangs_on_rounding: Predicate,
    many: int,
) -> None:
    for axes in tree_types:
        trees = random_trees(axes, many, seed=301) + random_trees(axes, 1 + many // 6, 302, 4, 9)
        check(trees, differ, hangs_on_rounding)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [303, 305])
def test_many_random_trees_round_trip(
    seed: int,
    random_trees: Trees,
    tree_types: tuple[Axes, ...],
    differ: Differ,
    hangs_on_rounding: Predicate,
) -> None:
    for axes in tree_types:
        trees = random_trees(axes, 60, seed) + random_trees(axes, 20, seed + 1, 4, 9)
        check(trees, differ, hangs_on_rounding)


@pytest.mark.parametrize("name", sorted(bundled_metrics()))
def test_bundled_metrics_round_trip(name: str) -> None:
    metric = Metric.load(name)
    found = Metric.from_sympy(metric.sympy(), name=name)
    assert found.granularity == metric.granularity
    assert found.needs == metric.needs
    torch.testing.assert_close(found.scores(LAYER), metric.scores(LAYER), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sum[i,k](abs(W))", "sum[i,k](abs(W))"),
        ("l2[i,k](W)", "l2[i,k](W)"),
        ("sum[p](pairwise_distance(W))", "sum[p](pairwise_distance(W))"),
        ("square(pairwise_distance(W))", "square(pairwise_distance(W))"),
        ("pairwise_distance(neg(mul(W, G)))", "pairwise_distance(neg(mul(G, W)))"),
        ("sub(W, medoid(W))", "sub(W, medoid(W))"),
        ("mean[i,k](sum[o](W))", "mean[i,k](sum[o](W))"),
        ("sum[n](mean[s](Z))", "sum[n](mean[s](Z))"),
        ("mul(sum[o](b), mean[o](mu))", "mul(mean[o](b), sum[o](mu))"),
        ("sqrt(mean[n,s](abs(Z)))", "sqrt(mean[n,s](abs(Z)))"),
        ("square(mean[n,s](Z))", "square(mean[n,s](Z))"),
        ("mul(l2[i,k](W), mean[i,k](Xn))", "mul(l2[i,k](W), mean[i,k](Xn))"),
        ("min_max[o](mean[s](A))", "min_max[o](mean[s](A))"),
        ("by_sum[o](by_sum[o](neg(Z)))", "by_sum[o](by_sum[o](neg(Z)))"),
        ("mean[o](tail_sum[o](b))", "mean[o](tail_sum[o](b))"),
        ("mean[k](tail_sum[o,i,k](W))", "mean[k](tail_sum[o,i,k](W))"),
        ("ridge_form(A, sub(mP, mA))", "ridge_form(A, sub(mP, mA))"),
        ("div(mul(b, 2), 3)", "div(mul(2, b), 3)"),
        ("mul(b, mul(b, b))", "mul(square(b), b)"),
        ("mul(sqrt(abs(b)), abs(b))", "mul(abs(b), sqrt(abs(b)))"),
        ("sub(neg(b), gamma)", "neg(add(b, gamma))"),
        ("mul(0.25, tanh(neg(b)))", "mul(0.25, tanh(neg(b)))"),
        ("at_least(b, nonzero(gamma))", "at_least(b, nonzero(gamma))"),
    ],
)
def test_what_comes_back(text: str, expected: str) -> None:
    assert str(back(parse(text, PRIMITIVES))) == expected


@pytest.mark.parametrize("axes", LEGAL_AXES, ids=str)
def test_axes_that_a_formula_does_not_show(axes: Axes) -> None:
    found = from_sympy(sympy.Integer(3), axes, PRIMITIVES)
    assert found.axes is axes
    assert bool((evaluate(found, LAYER) == 3).all())


@pytest.mark.parametrize("letter", "opikjcns")
def test_lengths_of_axes(letter: str) -> None:
    sizes = {"o": 4, "p": 4, "i": 3, "k": 4, "n": 5, "s": 3, "c": 3, "j": 2}
    length = symbols.size(letter)
    assert evaluate(from_sympy(length, Axes(""), PRIMITIVES), LAYER) == sizes[letter]
    root = sympy.Integer(7) / sympy.sqrt(length)
    found = evaluate(from_sympy(root, Axes(""), PRIMITIVES), LAYER)
    assert float(found) == pytest.approx(7 / sizes[letter] ** 0.5)


o, i, k = map(symbols.index, "oik")
X = sympy.Symbol("x")
W = sympy.IndexedBase("W", real=True)
B = sympy.IndexedBase("b", real=True)
N_I = symbols.size("i")

REFUSED: dict[str, tuple[Any, str]] = {
    "text": ("W", "a formula is a sympy expression, not str"),
    "number of Python": (3, "a formula is a sympy expression, not int"),
    "matrix": (sympy.Matrix([1]), "a formula is a sympy expression, not "),
    "relation": (B[o] > 0, "a formula is a sympy expression, not StrictGreaterThan"),
    "symbol": (X + B[o], "the term x has the unknown operand 'x'"),
    "operand": (sympy.IndexedBase("gama")[o], "unknown operand 'gama'; did you mean 'gamma'"),
    "index out of scope": (B[i], r"the term b\[i\] has the index i for the axis o, which is not"),
    "index twice": (B[o, o], r"b\[o, o\] has 2 indices, but operand 'b' has the axes \{o\}"),
    "index is a number": (B[1], r"the term b\[1\] has the index 1 for the axis o"),
    "two indices of one axis": (
        symbols.total(W[o, i, k] * W[symbols.index("o", 1), i, k], i, k),
        r"the term W\[o', i, k\] has the index o' for the axis o, which is not in scope there",
    ),
    "foreign index": (symbols.MaxOver(B[X], X), "binds an index that is no axis letter"),
    "foreign sum": (sympy.Sum(B[X], (X, 1, N_I)), "sums over a part of an axis"),
    "index not in scope of a normaliser": (symbols.TailSum(B[o], X), "along an index not in scope"),
    "part of an axis": (sympy.Sum(W[o, i, k], (i, 1, 3)), "sums over a part of an axis"),
    "plain division": (
        B[o] / (1 + B[o]),
        r"the term 1/\(b\[o\] \+ 1\) divides without protection; "
        r".* gp_prune.language.symbols.Div\(a, b\)",
    ),
    "plain logarithm": (sympy.log(B[o]), r"the term log\(b\[o\]\) is of log, which no .* Log,"),
    "plain exponential": (sympy.exp(B[o]), r"the term exp\(b\[o\]\) is of exp, which no"),
    "unknown function": (sympy.gamma(B[o]), "is of gamma, which no operator computes; the known"),
    "root of a signed term": (sympy.sqrt(B[o]), r"the root of b\[o\] is not .*symbols.Sqrt\(x\)"),
    "cube root": (sympy.cbrt(B[o]), r"b\[o\]\*\*\(1/3\) is no product of squares and square"),
    "power": (2 ** B[o], r"the power 2\*\*b\[o\] is no product"),
    "infinite": (sympy.oo * B[o] ** 2, "the number oo is not a finite double"),
    "not a number": (sympy.nan, "the number nan is not a finite double"),
    "imaginary": (sympy.I * B[o], "is of ImaginaryUnit, which no operator computes"),
    "huge": (sympy.Integer(10) ** 400 * B[o], r"the number 10+\.\.\. is not a finite double"),
    "length of no axis": (sympy.Symbol("N_q") * B[o], "unknown operand 'N_q'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_formulas(case: str) -> None:
    formula, message = REFUSED[case]
    with pytest.raises(FormulaError, match=message) as caught:
        Metric.from_sympy(formula, granularity="weight")
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_deep_formulas_are_refused_or_read() -> None:
    formula = B[o]
    for _ in range(2000):
        formula = symbols.Log(formula)
    with pytest.raises(FormulaError, match=r"nested too deeply|of height|has \d+ nodes"):
        from_sympy(formula, CHANNEL, PRIMITIVES)


def test_axes_that_do_not_fit() -> None:
    z = sympy.IndexedBase("Z", real=True)[o, symbols.index("n"), symbols.index("s")]
    with pytest.raises(FormulaError, match="the index n for the axis n, which is not in scope"):
        from_sympy(B[o] + z, CHANNEL, PRIMITIVES)


def test_granularity() -> None:
    assert Metric.from_sympy(B[o]).granularity == "channel"
    assert Metric.from_sympy(sympy.Integer(1)).granularity == "layer"
    assert Metric.from_sympy(sympy.Integer(1), granularity="channel").expression.axes is CHANNEL
    assert Metric.from_sympy(W[o, i, k]).granularity == "weight"
    assert Metric.from_sympy(B[o], granularity="weight").expression.axes is WEIGHT
    with pytest.raises(MetricError, match="granularity 'row' is none of channel, weight, layer"):
        Metric.from_sympy(B[o], granularity="row")


def test_symbols_without_assumptions_are_the_same_by_name() -> None:
    o, i, k = sympy.symbols("o i k")
    w = sympy.IndexedBase("W")
    sizes = sympy.symbols("N_i N_k")
    formula = sympy.Sum(abs(w[o, i, k]), (i, 1, sizes[0]), (k, 1, sizes[1]))
    assert str(Metric.from_sympy(formula).expression) == "sum[i,k](abs(W))"


MINE = """
import sympy
from gp_prune import symbols
from gp_prune import Elementwise, Normaliser, Reduction, operator


class Bend(sympy.Function):
    nargs = 1
    is_real = True


@operator("cube", shape=Elementwise(1), meaning="x^3", symbol=lambda x: x**3)
def cube(x):
    return x * x * x


@operator("hinge", shape=Elementwise(1), meaning="x where above 0", symbol=lambda x:
          symbols.Maximum(x, 0))
def hinge(x):
    return x.clamp(min=0)


@operator("centre", shape=Normaliser(), meaning="x less its mean", symbol=lambda call:
          symbols.difference(call.argument(0), symbols.mean(call.body, *call.bound)))
def centre(x, dims):
    return x - x.mean(dims, keepdim=True)
"""


def test_operators_of_ones_own_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE, encoding="utf-8")
    primitives = primitive_set(file)
    for text, head in (
        ("cube(mul(b, gamma))", "mul"),
        ("mul(b, hinge(sub(gamma, 2)))", "mul"),
        ("mean[n](square(centre[o](mean[s](A))))", "mean"),
    ):
        tree = parse(text, primitives)
        found = from_sympy(to_sympy(tree), CHANNEL, primitives)
        assert found.name == head
        torch.testing.assert_close(evaluate(found, LAYER), evaluate(tree, LAYER))
    assert "centre[o]" in str(found)


def test_a_small_vocabulary_says_what_it_lacks() -> None:
    from gp_prune.language.primitive import PrimitiveSet

    few = PrimitiveSet(p for p in PRIMITIVES if p.name in {"b", "gamma", "add", "mul"})
    found = from_sympy(B[o] ** 2 - sympy.IndexedBase("gamma", real=True)[o], CHANNEL, few)
    assert str(found) == "add(mul(b, b), mul(-1, gamma))"
    with pytest.raises(FormulaError, match="the vocabulary has no operator that computes: total"):
        from_sympy(symbols.total(B[symbols.index("o", 1)], symbols.index("o", 1)), CHANNEL, few)
