"""A reduced formula cuts the same everywhere, and no single reduction of it does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gp_prune.language.expression import Expression, ExpressionError, canonical
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.search.comparison import plan_setting
from gp_prune.search.config import SearchConfig
from gp_prune.search.reduction import Reducer, single_reductions
from gp_prune.search.run import reference_metrics
from gp_prune.search.scorer import TaskScorer

PRIMITIVES = builtin_primitives()
CONFIG = SearchConfig(tasks=("lenet-digits",), calibration=64, final_seeds=2)


@pytest.fixture(scope="module")
def reducer(lenet_bench: TaskScorer) -> Reducer:
    return Reducer(PRIMITIVES, [lenet_bench], plan_setting(CONFIG))


def replaced(tree: Expression) -> Iterator[Expression]:
    """Every tree with one node replaced, written apart from the code under test."""
    leaves = [Expression.constant(0), Expression.constant(1)]
    if tree.value is not None:
        leaves += [Expression.constant(float(f"{tree.value:.{d}g}")) for d in (1, 2, 3)]
    yield from tree.arguments
    yield from leaves
    for place, argument in enumerate(tree.arguments):
        for part in replaced(argument):
            arguments = list(tree.arguments)
            arguments[place] = part
            try:
                yield Expression(tree.head, tree.over, arguments)
            except ExpressionError:
                continue


FORMULAS = {
    "add(-1, l2[i,k](W))": None,
    "tanh(mul(0.0123456789, std[n,s](A)))": "std[n,s](A)",
    "add(mul(1e-9, b), sum[i,k](abs(W)))": "l1[i,k](W)",
    "mul(std[n,s](A), add(1.00012345, mul(0.00001, tanh(mu))))": "std[n,s](A)",
    "sqrt(mul(7.25, sum[i,k](square(mul(W, G)))))": "l2[i,k](mul(G, W))",
}


@pytest.mark.parametrize("text", FORMULAS)
def test_no_single_reduction_keeps_all_plans(text: str, reducer: Reducer) -> None:
    tree = canonical(parse(text, PRIMITIVES))
    found = reducer.reduce(tree)
    wanted = reducer.plans(tree)
    assert reducer.plans(found.expression) == wanted
    assert found.original == tree
    assert bool(found.steps) == (found.expression != tree)
    if FORMULAS[text] is not None:
        assert str(found.expression) == FORMULAS[text]
    for other in replaced(found.expression):
        smaller = (other.size, len(str(other))) < (
            found.expression.size,
            len(str(found.expression)),
        )
        if smaller and other.axes is tree.axes:
            assert not reducer.same_plans(other, wanted), str(other)


def test_reductions_are_shorter_and_of_the_same_type() -> None:
    tree = parse("add(mul(0.123456, l2[i,k](W)), abs(b))", PRIMITIVES)
    found = {str(each.expression): each.step for each in single_reductions(tree)}
    assert found["abs(b)"] == f"{tree} -> abs(b)"
    assert found["add(l2[i,k](W), abs(b))"] == "mul(0.123456, l2[i,k](W)) -> l2[i,k](W)"
    assert found["add(mul(0.1, l2[i,k](W)), abs(b))"] == "0.123456 -> 0.1"
    assert "0" not in found  # another type
    assert all(parse(text, PRIMITIVES).axes is tree.axes for text in found)
    assert all(len(text) < len(str(tree)) for text in found)


def test_what_cannot_be_ranked_stays(reducer: Reducer) -> None:
    tree = parse("mul(0, b)", PRIMITIVES)
    assert reducer.reduce(tree).expression == canonical(tree)


def test_random_operands_count_with_every_draw(reducer: Reducer) -> None:
    tree = parse("add(mul(0.001, sum[i,k](UW)), l1[i,k](W))", PRIMITIVES)
    setting = plan_setting(CONFIG)
    draws = len(setting.noise_seeds("lenet-digits", setting.budgets[0]))
    assert draws == CONFIG.final_seeds
    assert len(reducer.plans(tree)) == len(setting.budgets) * (1 + draws)


def test_a_published_metric_is_known_by_its_ranking(reducer: Reducer) -> None:
    published = [m for m in reference_metrics(PRIMITIVES) if m.granularity == "channel"]
    lamp = parse("l1[i,k](div(square(W), tail_sum[o,i,k](square(W))))", PRIMITIVES)
    found = reducer.find_published(lamp, published)
    assert found is not None
    assert found.name == "lamp"
    other = parse("add(l1[i,k](W), mul(3, std[n,s](A)))", PRIMITIVES)
    assert reducer.find_published(other, published) is None
