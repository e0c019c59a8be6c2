"""The sympy form computes what the tree computes, and captures no index."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sympy

from gp_prune.formula.latex import formula_latex, to_sympy
from gp_prune.language import symbols
from gp_prune.language.axes import CHANNEL, WEIGHT, Axes
from gp_prune.language.checks import SIZES
from gp_prune.language.expression import Expression, ExpressionError
from gp_prune.language.interpreter import evaluate
from gp_prune.language.numeric import evaluate as numbers
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.language.record import synthetic_layer

Trees = Callable[..., list[Expression]]
Differ = Callable[[Any, Any, float], bool]
Predicate = Callable[[Expression], bool]
PRIMITIVES = builtin_primitives()


def formula(text: str) -> Any:
    return to_sympy(parse(text, PRIMITIVES))


OPERANDS = {o.name: o.read(synthetic_layer()).numpy() for o in PRIMITIVES.operands.values()}


def agree(tree: Expression, differ: Differ) -> bool:
    """Whether torch and the sympy form give the same numbers on the synthetic layer."""
    value = evaluate(tree, synthetic_layer())
    return not differ(value, numbers(to_sympy(tree), OPERANDS, SIZES, tree.axes.letters), 1e-4)


def check_agreement(trees: list[Expression], differ: Differ, hangs: Predicate) -> None:
    """All trees agree but for a few that hang on rounding."""
    apart = [tree for tree in trees if not agree(tree, differ)]
    wrong = [str(tree) for tree in apart if not hangs(tree)]
    assert wrong == []
    assert len(apart) < 0.05 * len(trees)


@pytest.mark.slow
def test_torch_equals_sympy(
    random_trees: Trees, tree_types: tuple[Axes, ...], differ: Differ, hangs_on_rounding: Predicate
) -> None:
    for axes in tree_types:
        trees = random_trees(axes, 20, seed=61) + random_trees(axes, 10, 62, 4, 9)
        check_agreement(trees, differ, hangs_on_rounding)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [63, 64])
def test_torch_equals_sympy_for_many(
    seed: int,
    random_trees: Trees,
    tree_types: tuple[Axes, ...],
    differ: Differ,
    hangs_on_rounding: Predicate,
) -> None:
    for axes in tree_types:
        trees = random_trees(axes, 400, seed) + random_trees(axes, 100, seed, 4, 9)
        check_agreement(trees, differ, hangs_on_rounding)


@pytest.mark.many(4, 16)
def test_no_index_is_captured(random_trees: Trees, tree_types: tuple[Axes, ...], many: int) -> None:
    lengths = {f"N_{letter}" for letter in SIZES}
    for axes in tree_types:
        for tree in random_trees(axes, many, seed=65, most=8):
            free = {str(symbol) for symbol in to_sympy(tree).free_symbols}
            # sympy counts an indexed operand as a symbol of its own, beside its label
            labels = {name for name in free if name.partition("[")[0] in PRIMITIVES.operands}
            assert free - labels <= set(axes) | lengths, str(tree)
            letters = {str(symbol) for symbol in to_sympy(tree).atoms(sympy.Symbol)} - lengths
            letters -= set(PRIMITIVES.operands)
            assert {letter.rstrip("'") for letter in letters} <= set(SIZES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mul(b, sum[o](b))", "b[o]*Sum(b[o'], (o', 1, N_o))"),
        ("sub(W, max[o](W))", "W[o, i, k] - MaxOver(W[o', i, k], (o',))"),
        ("mul(b, max[o](mul(b, max[o](b))))", "b[o]*MaxOver(b[o']*MaxOver(b[o''], (o'',)), (o',))"),
        ("mul(max[o](b), min[o](b))", "MaxOver(b[o], (o,))*MinOver(b[o], (o,))"),
        ("max[i](sum[k](W))", "MaxOver(Sum(W[o, i, k], (k, 1, N_k)), (i,))"),
        (
            "pairwise_distance(W)",
            "sqrt(Sum((W[o, i, k] - W[p, i, k])**2, (i, 1, N_i), (k, 1, N_k)))",
        ),
        (
            "pairwise_distance(by_max[o](W))",
            "sqrt(Sum((Div(W[o, i, k], MaxOver(Abs(W[o', i, k]), (o',))) - "
            "Div(W[p, i, k], MaxOver(Abs(W[o', i, k]), (o',))))**2, (i, 1, N_i), (k, 1, N_k)))",
        ),
        ("mul(W, medoid(W))", "W[o, i, k]*MedoidOver(W[o', i, k], (o',))"),
    ],
)
def test_bound_indices_get_primes(text: str, expected: str) -> None:
    assert str(formula(text)) == expected


def test_formulas_survive_sympys_own_rebuilding(random_trees: Trees) -> None:
    for tree in random_trees(CHANNEL, 200, seed=66, most=8):
        for term in sympy.preorder_traversal(to_sympy(tree)):
            if isinstance(term, symbols.OverAxes):
                assert term.func(*term.args) == term


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("div(b, 4)", "b[o]/4"),
        ("div(b, 1e-13)", "0"),
        ("div(b, 0)", "0"),
        ("div(b, b)", "Div(b[o], b[o])"),
        ("sqrt(square(b))", "Abs(b[o])"),
        ("sqrt(b)", "Sqrt(b[o])"),
        ("square(sqrt(abs(b)))", "Abs(b[o])"),
        ("abs(abs(b))", "Abs(b[o])"),
        ("abs(exp(b))", "Exp(b[o])"),
        ("abs(mul(-2, b))", "Abs(2*b[o])"),
        ("square(nonzero(b))", "NotEqual(b[o], 0)"),
        ("log(1)", "Log(1)"),
        ("add(b, neg(b))", "0"),
    ],
)
def test_simplifications_are_those_that_hold(text: str, expected: str) -> None:
    assert str(formula(text)) == expected


@pytest.mark.parametrize("name", ["min_max", "z_score", "by_sum", "by_max", "tail_sum"])
def test_nested_normalisers_stay_short(name: str) -> None:
    """Written out, each would at least double the formula at every level."""
    lengths = []
    for depth in (4, 8, 12, 90):
        found = formula(f"{name}[o](" * depth + "b" + ")" * depth)
        lengths.append(len(formula_latex(found, PRIMITIVES)) / depth)
    assert max(lengths[1:]) <= lengths[0]


@pytest.mark.parametrize(
    "text",
    [
        "square(" * 99 + "3" + ")" * 99,
        "square(" * 98 + "mul(0.3, b)" + ")" * 98,
        "square(" * 98 + "div(b, 3)" + ")" * 98,
        "div(b, " + "square(" * 98 + "7" + ")" * 99,
        "by_sum[o](" * 98 + "sub(b, b)" + ")" * 98,
        "mul(b, 1e300)",
    ],
    ids=lambda text: text[:9] + text[-1],
)
def test_hostile_trees_are_written_at_once(text: str) -> None:
    start = time.process_time()
    written = formula_latex(formula(text), PRIMITIVES)
    assert time.process_time() - start < 2
    assert len(written) < 5000
    assert "inf" not in written


def test_a_formula_too_large_to_write_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gp_prune.formula.latex.MAX_TERMS", 500)
    levels = 30
    text = "mul(W, sum[p](pairwise_distance(" * levels + "W" + ")))" * levels
    with pytest.raises(ExpressionError, match="of 'pairwise_distance' has more than 500 terms"):
        formula(text)


def test_evaluation_names_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="no numeric value is defined for wave"):
        numbers(sympy.Function("wave")(sympy.Symbol("x")), {"x": np.ones(())}, SIZES, "")


@pytest.mark.parametrize("axes", [CHANNEL, WEIGHT], ids=str)
def test_scope_names_every_axis(axes: Axes) -> None:
    name = {CHANNEL: "b", WEIGHT: "W"}[axes]
    assert formula(name) == symbols.indexed(name, tuple(map(symbols.index, axes)))


def test_unknown_index() -> None:
    with pytest.raises(ValueError, match="unknown axis 'z'"):
        symbols.index("z")
