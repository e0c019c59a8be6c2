"""Simpler formulas: the same values, never larger, in time, and no opposing pairs left."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gp_prune.formula.simplify import simplify
from gp_prune.language.axes import Axes
from gp_prune.language.expression import Expression, canonical
from gp_prune.language.interpreter import evaluate
from gp_prune.language.parser import parse
from gp_prune.language.primitive import Operator, PrimitiveSet, builtin_primitives, primitive_set
from gp_prune.language.record import LayerRecord, synthetic_layer
from gp_prune.metric.metric import Metric, bundled_metrics

Trees = Callable[..., list[Expression]]
Differ = Callable[[Any, Any, float], bool]
Predicate = Callable[[Expression], bool]
Noise = Callable[[Expression, LayerRecord], torch.Tensor]
PRIMITIVES = builtin_primitives()
LAYERS = [synthetic_layer(seed) for seed in (0, 7, 30)]


def short(text: str) -> str:
    return str(simplify(parse(text, PRIMITIVES), PRIMITIVES))


SIMPLER = {
    "neg(neg(b))": "b",
    "abs(abs(b))": "abs(b)",
    "abs(square(b))": "square(b)",
    "abs(Xn)": "Xn",
    "abs(l2[i,k](W))": "l2[i,k](W)",
    "abs(sum[i,k](square(W)))": "sum[i,k](square(W))",
    "abs(neg(b))": "abs(b)",
    "square(abs(neg(b)))": "square(b)",
    "square(mul(neg(b), abs(gamma)))": "square(mul(b, gamma))",
    "sqrt(square(b))": "abs(b)",
    "square(sqrt(b))": "abs(b)",
    "square(sqrt(Xn))": "Xn",
    "mul(sqrt(b), sqrt(b))": "abs(b)",
    "sqrt(abs(b))": "sqrt(b)",
    "mul(b, b)": "square(b)",
    "mul(mul(b, gamma), mul(gamma, b))": "square(mul(b, gamma))",
    "mul(abs(b), abs(gamma))": "abs(mul(b, gamma))",
    "div(abs(b), abs(gamma))": "abs(div(b, gamma))",
    "div(neg(b), neg(gamma))": "div(b, gamma)",
    "sub(b, neg(gamma))": "add(b, gamma)",
    "add(b, neg(gamma))": "sub(b, gamma)",
    "neg(sub(b, gamma))": "sub(gamma, b)",
    "sub(add(b, gamma), b)": "gamma",
    "add(mul(2, b), mul(2, gamma))": "mul(2, add(b, gamma))",
    "add(mul(b, mu), mul(mu, beta))": "mul(add(b, beta), mu)",
    "sub(div(b, mu), div(beta, mu))": "div(sub(b, beta), mu)",
    "add(sum[i,k](W), sum[i,k](G))": "sum[i,k](add(W, G))",
    "mul(1, add(0, b))": "b",
    "div(b, 1)": "b",
    "mul(2, mul(3, b))": "mul(6, b)",
    "div(div(b, 3), 7)": "div(b, 21)",
    "sub(sub(b, 3), add(2, gamma))": "sub(b, add(5, gamma))",
    "sub(sqrt(4), 2)": "0",
    "mul(b, sub(3, 2))": "b",
    "add(b, sub(gamma, gamma))": "b",
    "add(W, sum[o](sub(b, b)))": "W",
    "add(W, mul(0, G))": "W",
    "add(b, max[o](mul(0, gamma)))": "b",
    "sum[i](sum[k](W))": "sum[i,k](W)",
    "max[i](max[k](W))": "max[i,k](W)",
    "mean[i](mean[k](W))": "mean[i,k](W)",
    "l2[i](l2[k](W))": "l2[i,k](W)",
    "sum[i,k](abs(W))": "l1[i,k](W)",
    "sum[i](l1[k](W))": "l1[i,k](W)",
    "sum[i](square(l2[k](W)))": "sum[i,k](square(W))",
    "sqrt(sum[i,k](mul(W, W)))": "l2[i,k](W)",
    "l1[i,k](mul(abs(W), neg(G)))": "l1[i,k](mul(G, W))",
    "neg(sum[i,k](neg(W)))": "sum[i,k](W)",
    "neg(max[i,k](neg(W)))": "min[i,k](W)",
    "neg(tanh(neg(b)))": "tanh(b)",
    "mul(2, mean[i,k](mul(3, W)))": "mul(6, mean[i,k](W))",
    "square(std[o](b))": "var[o](b)",
    "sqrt(var[o](b))": "std[o](b)",
    "var[o](add(b, 3))": "var[o](b)",
    "by_sum[o](by_sum[o](b))": "by_sum[o](b)",
    "z_score[o](z_score[o](b))": "z_score[o](b)",
    "maximum(b, b)": "b",
    "maximum(square(b), -1)": "square(b)",
    "minimum(b, neg(b))": "neg(abs(b))",
    "maximum(neg(b), neg(gamma))": "neg(minimum(b, gamma))",
    "nonzero(nonzero(b))": "nonzero(b)",
    "square(nonzero(b))": "nonzero(b)",
    "nonzero(sqrt(b))": "nonzero(b)",
    "exp(log(sub(3, tanh(b))))": "sub(3, tanh(b))",
    "log(exp(add(1, abs(tanh(b)))))": "add(1, abs(tanh(b)))",
    "log(exp(tanh(b)))": "tanh(b)",
    "sqrt(log(exp(log(1))))": "0",
    "std[o](add(b, 0.031))": "std[o](b)",
    "std[o](neg(b))": "std[o](b)",
    "var[o](add(mul(3, b), 1))": "mul(9, var[o](b))",
    "sqrt(var[n](mul(A, 2)))": "mul(2, std[n](A))",
    "std[n,s](sub(A, mu))": "std[n,s](A)",
    "min_max[o](add(mul(2, b), 1))": "min_max[o](b)",
    "z_score[o](sub(3, mul(2, b)))": "neg(z_score[o](b))",
    "by_sum[o](mul(2, b))": "by_sum[o](b)",
    "by_max[o](div(b, 3))": "by_max[o](b)",
    "min_max[o](z_score[o](by_sum[o](b)))": "min_max[o](b)",
    "by_sum[o](by_max[o](b))": "by_sum[o](b)",
    "maximum(b, maximum(b, gamma))": "maximum(b, gamma)",
    "maximum(maximum(b, gamma), maximum(beta, b))": "maximum(maximum(b, gamma), beta)",
    "minimum(minimum(b, -2.65), 0.000202)": "minimum(b, -2.65)",
    "minimum(0.1, minimum(b, minimum(gamma, 0.2)))": "minimum(minimum(0.1, b), gamma)",
    "maximum(maximum(b, abs(gamma)), -1)": "maximum(b, abs(gamma))",
    "minimum(b, maximum(gamma, b))": "b",
    "sum[i,k](mul(6, abs(W)))": "mul(6, l1[i,k](W))",
    "mean[n,s](mul(A, gamma))": "mul(mean[n,s](A), gamma)",
    "max[n,s](sub(A, mu))": "sub(max[n,s](A), mu)",
    "mean[n,s](sub(mu, A))": "sub(mu, mean[n,s](A))",
    "min[n,s](sub(mu, A))": "sub(mu, max[n,s](A))",
    "l1[i,k](square(W))": "sum[i,k](square(W))",
    "l2[n,s](sqrt(A))": "sqrt(l1[n,s](A))",
    "l2[i,k](sqrt(square(W)))": "l2[i,k](W)",
    "nonzero(mul(2, b))": "nonzero(b)",
    "div(0.00527, 7.08)": "0.0007443502824858758",
    "log(2)": "0.6931471805599453",
    "mul(0.1, mul(0.7, b))": "mul(0.07, b)",
    "add(b, sum[c](sub(muP, muP)))": "b",
}


@pytest.mark.parametrize("text", SIMPLER)
def test_simpler(text: str) -> None:
    assert short(text) == SIMPLER[text]


@pytest.mark.parametrize(
    "text",
    [
        "div(b, b)",  # 0 where b is near 0
        "mul(div(b, gamma), gamma)",
        "div(mul(b, gamma), gamma)",
        "exp(log(b))",  # the floor shows where b is near 0
        "log(exp(b))",  # the limit shows above 50, the floor far below 0
        "exp(log(add(1, square(b))))",  # the limit shows
        "sub(b, b)",  # 0 is not of type {o}
        "mul(0, b)",
        "by_sum[o](add(b, 2))",
        "sum[o](add(b, 1))",  # the number of channels would show
        "max[o](mul(b, gamma))",
        "std[o](add(b, gamma))",
        "minimum(b, maximum(gamma, beta))",
        "min_max[o](neg(b))",
        "by_sum[o](min_max[o](b))",
        "abs(b)",
        "sqrt(b)",
        "std[i](std[k](W))",
        "max[i](mean[k](W))",
        "l2[i](sum[k](W))",
        "nonzero(square(b))",  # squares of tiny numbers are 0
        "add(b, b)",
    ],
)
def test_what_has_no_simpler_form_stays(text: str) -> None:
    tree = parse(text, PRIMITIVES)
    assert simplify(tree, PRIMITIVES) is tree


def test_the_floor_and_the_limit_do_show() -> None:
    """The pairs that stay do compute something else."""
    for text, value in (("exp(log(1e-13))", 1e-12), ("log(exp(60))", 50.0)):
        assert float(evaluate(parse(text, PRIMITIVES), LAYERS[0])) == pytest.approx(value)


def check(trees: list[Expression], differ: Differ, hangs: Predicate) -> None:
    apart = []
    for tree in trees:
        found = simplify(tree, PRIMITIVES)
        assert found.axes is tree.axes, str(tree)
        assert found.size <= tree.size, str(tree)
        assert simplify(found, PRIMITIVES) == found, str(tree)
        if any(differ(evaluate(tree, each), evaluate(found, each), 1e-9) for each in LAYERS):
            apart.append(tree)
    assert [str(tree) for tree in apart if not hangs(tree)] == []
    assert len(apart) < 0.05 * len(trees)


@pytest.mark.many(2, 10)
def test_random_trees_keep_their_values(
    random_trees: Trees,
    tree_types: tuple[Axes, ...],
    differ: Differ,
    hangs_on_rounding: Predicate,
    many: int,
) -> None:
    for axes in tree_types:
        trees = random_trees(axes, many, seed=311) + random_trees(axes, 1 + many // 5, 312, 4, 9)
        check(trees, differ, hangs_on_rounding)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [313, 315])
def test_many_random_trees_keep_their_values(
    seed: int,
    random_trees: Trees,
    tree_types: tuple[Axes, ...],
    differ: Differ,
    hangs_on_rounding: Predicate,
) -> None:
    for axes in tree_types:
        trees = random_trees(axes, 100, seed) + random_trees(axes, 30, seed + 1, 4, 9)
        check(trees, differ, hangs_on_rounding)


ELEMENTWISE = sorted(
    name for name, o in PRIMITIVES.operators.items() if not o.shape.bracketed and o.shape.arity < 3
)
LEAVES = ["b", "gamma", "mu", "0", "1", "-1", "2", "0.5", "-3"]


def texts(depth: int) -> st.SearchStrategy[str]:
    """Formulas of few operands, so that equal terms meet often."""
    leaf = st.sampled_from(LEAVES)
    if depth == 0:
        return leaf
    inner = texts(depth - 1)
    binary = st.builds(
        lambda f, a, b: f"{f}({a}, {b})",
        st.sampled_from(["add", "sub", "mul", "div", "maximum", "minimum"]),
        inner,
        inner,
    )
    unary = st.builds(
        lambda f, a: f"{f}({a})",
        st.sampled_from(["neg", "abs", "square", "sqrt", "exp", "log", "tanh", "nonzero"]),
        inner,
    )
    return st.one_of(leaf, binary, binary, unary, unary)


@given(text=texts(5))
@settings(max_examples=50, derandomize=False)
def test_terms_that_meet_often(noise_of: Noise, text: str) -> None:
    check_terms(text, noise_of)


@pytest.mark.slow
@given(text=texts(5))
@settings(max_examples=20_000, derandomize=False)
def test_many_terms_that_meet_often(noise_of: Noise, text: str) -> None:
    check_terms(text, noise_of)


def test_a_root_of_what_a_cancellation_leaves_may_differ(noise_of: Noise) -> None:
    check_terms("neg(sqrt(add(gamma, square(sqrt(gamma)))))", noise_of)
    tree = parse("add(mul(gamma, 0.3), tanh(mul(b, gamma)))", PRIMITIVES)
    assert all(bool((noise_of(tree, layer) < 2e-9).all()) for layer in LAYERS)


def check_terms(text: str, noise_of: Noise) -> None:
    tree = parse(f"add(mul(gamma, 0.3), {text})", PRIMITIVES)
    found = simplify(tree, PRIMITIVES)
    assert found.axes is tree.axes
    assert found.size <= tree.size
    for layer in LAYERS:
        before, after = evaluate(tree, layer), evaluate(found, layer)
        # Cancelled terms leave rounding errors of the size of the largest, and what comes after
        # the cancellation can enlarge them, as a root of what is left does.
        largest = max(float(evaluate(node, layer).abs().max()) for node in tree.nodes())
        excess = (before - after).abs() - 1e-9 * (1 + largest)
        if largest < 1e6 and not bool((excess <= 0).all()):
            assert bool((excess <= noise_of(tree, layer)).all())


def opposing_pairs(tree: Expression) -> list[str]:
    """Nodes that undo, or say again, what the node below them says."""
    found = []
    for node in tree.nodes():
        if not node.arguments or not node.arguments[0].arguments:
            continue
        pair = node.name, node.arguments[0].name
        if pair in {("neg", "neg"), ("abs", "abs"), ("sqrt", "square"), ("square", "sqrt")}:
            found.append(str(node))
    return found


@pytest.mark.many(4, 16)
def test_no_opposing_pair_is_left(
    random_trees: Trees, tree_types: tuple[Axes, ...], many: int
) -> None:
    pairs = list(itertools.product(("neg", "abs", "sqrt", "square"), repeat=2))
    seen = 0
    for place, axes in enumerate(tree_types):
        trees = random_trees(axes, len(pairs), 317, 0, 5)
        # With few trees of a type, each pair is still tried on several types.
        chosen = [(place + n * len(pairs) // many) % len(pairs) for n in range(many)]
        for tree, (first, second) in ((trees[n], pairs[n]) for n in chosen):
            wrapped = parse(f"{first}({second}({tree}))", PRIMITIVES)
            seen += bool(opposing_pairs(wrapped))
            assert opposing_pairs(simplify(wrapped, PRIMITIVES)) == []
    assert seen >= 2.5 * many


@pytest.mark.parametrize("name", sorted(bundled_metrics()))
def test_bundled_metrics(name: str, differ: Differ) -> None:
    metric = Metric.load(name)
    found = metric.simplified()
    assert found.expression.size <= metric.expression.size
    for layer in LAYERS:
        assert not differ(metric.scores(layer), found.scores(layer), 1e-9)
    same = dataclasses.replace(found, expression=metric.expression)
    assert same == metric


def test_the_limit_is_a_count(random_trees: Trees) -> None:
    """Each result follows from the tree and the limit: nothing, a whole pass, or all passes."""
    (tree,) = random_trees(Axes("o"), 1, 3, 9, 9)
    larger = Expression.apply(PRIMITIVES.operators["neg"], tree)
    larger = Expression.apply(PRIMITIVES.operators["neg"], larger)
    whole = simplify(larger, PRIMITIVES)
    assert whole != larger
    assert simplify(larger, PRIMITIVES, most_nodes=larger.size) is larger
    found = [simplify(larger, PRIMITIVES, most_nodes=2**power) for power in range(1, 15)]
    sizes = [each.size for each in found]
    assert sizes == sorted(sizes, reverse=True)
    assert found[0] is larger
    assert found[-1] == whole


@pytest.mark.parametrize(
    "text",
    [
        "neg(" * 98 + "b" + ")" * 98,
        "square(" * 98 + "mul(0.3, b)" + ")" * 98,
        "add(b, " * 98 + "b" + ")" * 98,
        "mul(b, " * 98 + "b" + ")" * 98,
        "sqrt(" * 98 + "b" + ")" * 98,
        "by_sum[o](" * 98 + "sub(b, b)" + ")" * 98,
    ],
    ids=lambda text: text[:6],
)
def test_hostile_trees_are_simplified_in_time(text: str) -> None:
    tree = parse(text, PRIMITIVES)
    start = time.process_time()
    found = simplify(tree, PRIMITIVES)
    assert time.process_time() - start < 8
    assert found.size <= tree.size
    assert found == simplify(tree, PRIMITIVES, most_nodes=12_000)


def test_large_trees_are_simplified_in_time(random_trees: Trees) -> None:
    (*trees,) = random_trees(Axes("o"), 30, 319, 8, 9)
    whole = trees[0]
    for tree in trees[1:]:
        if whole.size + tree.size < 1900 and whole.height < 90:
            whole = Expression.apply(PRIMITIVES.operators["mul"], whole, tree)
    assert whole.size > 500
    start = time.process_time()
    found = simplify(whole, PRIMITIVES)
    assert time.process_time() - start < 8
    assert found.size < whole.size


MINE = """
from gp_prune.language.primitive import Elementwise, operator


@operator("twice", shape=Elementwise(1), meaning="2 x", symbol=lambda x: 2 * x)
def twice(x):
    return 2 * x


@operator("plus", shape=Elementwise(2), meaning="a + b", symbol=lambda a, b: a + b)
def plus(a, b):
    return a + b
"""


def test_operators_are_known_by_what_they_compute(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE, encoding="utf-8")
    mine = primitive_set(file)
    few = PrimitiveSet(p for p in mine if p.name in {"b", "gamma", "plus", "twice", "sub"})
    tree = parse("plus(sub(b, gamma), gamma)", few)
    assert str(simplify(tree, few)) == "b"
    assert str(simplify(parse("plus(twice(b), 0)", few), few)) == "twice(b)"


def test_a_vocabulary_without_the_simpler_operator() -> None:
    few = PrimitiveSet(p for p in PRIMITIVES if p.name in {"b", "mul", "sqrt"})
    tree = parse("sqrt(mul(b, b))", few)
    assert simplify(tree, few) is tree


def test_simplified_agrees_with_the_canonical_form(random_trees: Trees) -> None:
    for tree in random_trees(Axes("o"), 100, 321):
        assert simplify(canonical(tree), PRIMITIVES).size == simplify(tree, PRIMITIVES).size


def test_every_elementwise_operator_is_simplified_somewhere_or_stays() -> None:
    for name in ELEMENTWISE:
        operator = PRIMITIVES.operators[name]
        assert isinstance(operator, Operator)
        arguments = ", ".join(["b", "gamma"][: operator.shape.arity])
        if "Signature" not in type(operator.shape).__name__:
            assert short(f"{name}({arguments})") == f"{name}({arguments})"
