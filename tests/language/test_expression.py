"""Expression trees: valid by construction, immutable, compared by structure; canonical form."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gp_prune.language.axes import SCALAR, Axes, Elementwise
from gp_prune.language.expression import (
    MAX_HEIGHT,
    MAX_NODES,
    Expression,
    ExpressionError,
    canonical,
    format_constant,
)
from gp_prune.language.interpreter import evaluate
from gp_prune.language.parser import parse
from gp_prune.language.primitive import Operator, builtin_primitives, operator
from gp_prune.language.record import synthetic_layer

Trees = Callable[..., list[Expression]]
PRIMITIVES = builtin_primitives()


def tree(text: str) -> Expression:
    return parse(text, PRIMITIVES)


def head(name: str) -> Operator:
    return PRIMITIVES.operators[name]


def test_attributes() -> None:
    found = tree("div(sum[i,k](abs(W)), 3)")
    assert found.axes is Axes("o")
    assert (found.size, found.height) == (5, 3)
    assert [node.name for node in found.nodes()] == ["div", "sum", "abs", "W", "constant"]
    assert found.needs == frozenset()
    assert tree("mul(mean[n,s](A), Ggamma)").needs == {"outputs", "gradients"}


def test_same_text_same_tree() -> None:
    a, b = tree("add(b, mul(2, beta))"), tree("add( b,mul(2.0 ,beta ) )")
    assert a == b
    assert hash(a) == hash(b)
    assert a != tree("add(mul(2, beta), b)")
    assert a != "add(b, mul(2, beta))"
    assert tree("sum[o](b)") != tree("mean[o](b)")
    assert tree("sum[i](W)") != tree("sum[k](W)")


def test_zero_has_one_sign() -> None:
    zero, negative = Expression.constant(0.0), Expression.constant(-0.0)
    assert zero == negative
    assert str(zero) == str(negative) == "0"
    assert repr(zero.to_json()) == repr(negative.to_json())


def test_trees_cannot_be_changed() -> None:
    found = tree("abs(W)")
    with pytest.raises(AttributeError, match="immutable"):
        found.value = 1.0
    assert copy.deepcopy(found) is found
    assert copy.copy(found) is found


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Expression.constant(float("nan")), "constant nan is not a finite number"),
        (lambda: Expression.constant(float("inf")), "constant inf is not a finite number"),
        (lambda: Expression(None), "constant None is not a finite number"),
        (
            lambda: Expression.apply(head("add"), tree("W")),
            "operator 'add' takes 2 arguments, not 1",
        ),
        (lambda: Expression.apply(head("abs")), "operator 'abs' takes 1 argument, not 0"),
        (
            lambda: Expression.apply(head("add"), tree("W"), tree("X")),
            r"operator 'add' does not accept axes \{o,i,k\}, \{i,n,s\}",
        ),
        (
            lambda: Expression.apply(head("sum"), tree("W")),
            r"operator 'sum' needs axes in brackets, as in sum\[o\]\(...\)",
        ),
        (
            lambda: Expression.apply(head("sum"), tree("W"), over=Axes("n")),
            r"operator 'sum\[n\]' does not accept axes \{o,i,k\}",
        ),
        (
            lambda: Expression.apply(head("sum"), tree("A"), over=Axes("o")),
            r"operator 'sum\[o\]' does not accept axes \{o,n,s\}",  # {n,s} is not legal
        ),
        (
            lambda: Expression.apply(head("abs"), tree("W"), over=Axes("o")),
            "operator 'abs' takes no axes in brackets",
        ),
        (
            lambda: Expression.apply(head("pairwise_distance"), tree("b")),
            r"operator 'pairwise_distance' does not accept axes \{o\}",
        ),
        (
            lambda: Expression(PRIMITIVES.operands["W"], SCALAR, [tree("b")]),
            "operand 'W' takes no arguments",
        ),
    ],
)
def test_invalid_trees(build: Callable[[], Expression], message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        build()


def test_trees_have_a_largest_height_and_size() -> None:
    high = tree("b")
    for _ in range(MAX_HEIGHT):
        high = Expression.apply(head("abs"), high)
    with pytest.raises(ExpressionError, match=f"height {MAX_HEIGHT + 1}; at most {MAX_NODES} and"):
        Expression.apply(head("abs"), high)
    wide = tree("b")
    with pytest.raises(ExpressionError, match=r"has 2047 nodes and height 10; at most"):
        for _ in range(40):
            wide = Expression.apply(head("add"), wide, wide)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (-2.5, "-2.5"), (1e-4, "0.0001"), (1e20, "1e+20"), (0.1 + 0.2, repr(0.1 + 0.2))],
)
def test_constants_read_back(value: float, text: str) -> None:
    assert format_constant(value) == text
    assert float(text) == value


def same(a: Tensor, b: Tensor) -> bool:
    """Compare bit for bit, the signs of zeros included; one NaN is as good as another."""
    numbers = a.nan_to_num(7.0), b.nan_to_num(7.0)
    signs = [x.signbit() for x in numbers]
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(*numbers) and torch.equal(*signs)


@pytest.mark.many(15, 300)
def test_canonical_form_changes_no_value(
    random_trees: Trees, tree_types: tuple[Axes, ...], many: int
) -> None:
    layer = synthetic_layer()
    nothing = (
        layer.weight * torch.tensor([0.0, -0.0, 1.0, -1.0], dtype=torch.float64)[:, None, None]
    )
    dead = replace(layer, weight=nothing, weight_grad=-nothing, gamma=nothing[:, 0, 0])
    changed = 0
    for axes in tree_types:
        for found in random_trees(axes, many, seed=31, most=8):
            form = canonical(found)
            changed += form != found
            assert form.axes is found.axes
            assert form.size <= found.size
            assert canonical(form) == form
            for record in (layer, dead):
                assert same(evaluate(form, record), evaluate(found, record)), str(found)
    assert changed > many


@pytest.mark.parametrize("name", ["maximum", "minimum", "add", "mul"])
def test_canonical_form_keeps_the_sign_of_zero(name: str) -> None:
    layer = synthetic_layer()
    zeros = torch.tensor([0.0, 0.0, -0.0, -0.0], dtype=torch.float64)
    layer = replace(layer, bias=zeros, gamma=zeros[[0, 2, 0, 2]])
    for text in (f"{name}(gamma, b)", f"{name}(b, gamma)", f"{name}(mul(gamma, b), 0)"):
        found = tree(text)
        assert same(evaluate(canonical(found), layer), evaluate(found, layer)), text


@pytest.mark.parametrize(
    "text",
    [
        "z_score[o,i,k](minimum(tail_sum[i](R), sqrt(R)))",
        "sum[n,s](add(square(neg(tail_sum[n](Z))), minimum(log(square(Z)), min[o,c](exp(muP)))))",
        "sum[o,i,k](mul(tail_sum[i](W), abs(W)))",
        "mean[o,i,k](add(tail_sum[i](W), abs(W)))",
    ],
)
def test_canonical_form_keeps_the_order_of_sums(text: str) -> None:
    """What an elementwise function returns has the layout of its first argument in torch."""
    for seed in range(20):
        layer, found = synthetic_layer(seed), tree(text)
        assert canonical(found) != found
        assert same(evaluate(canonical(found), layer), evaluate(found, layer))


@pytest.mark.parametrize("name", ["add", "mul", "maximum", "minimum"])
def test_commutative_swaps_unify(name: str, random_trees: Trees) -> None:
    several = random_trees(Axes("o"), 40, seed=32)
    for a, b in zip(several[::2], several[1::2], strict=True):
        first, second = (Expression.apply(head(name), *pair) for pair in ((a, b), (b, a)))
        assert canonical(first) == canonical(second)


def test_swaps_unify_at_every_depth(random_trees: Trees) -> None:
    def swapped(node: Expression) -> Expression:
        arguments = [swapped(argument) for argument in node.arguments]
        if isinstance(node.head, Operator) and "commutative" in node.head.laws:
            arguments.reverse()
        return Expression(node.head, node.over, arguments, node.value)

    for found in random_trees(Axes("o"), 100, seed=33, least=4, most=8):
        assert canonical(swapped(found)) == canonical(found)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("neg(neg(b))", "b"),
        ("neg(neg(neg(b)))", "neg(b)"),
        ("abs(abs(b))", "abs(b)"),
        ("abs(neg(b))", "abs(b)"),
        ("square(neg(abs(neg(b))))", "square(b)"),
        ("sqrt(abs(b))", "sqrt(b)"),
        ("abs(square(b))", "square(b)"),
        ("abs(neg(square(b)))", "square(b)"),
        ("abs(neg(neg(exp(b))))", "exp(b)"),
        ("log(neg(b))", "log(b)"),
        ("nonzero(abs(b))", "nonzero(b)"),
        ("add(gamma, b)", "add(b, gamma)"),
        ("sub(gamma, b)", "sub(gamma, b)"),
        ("exp(neg(b))", "exp(neg(b))"),
        ("tanh(neg(b))", "tanh(neg(b))"),
        ("mul(neg(neg(gamma)), b)", "mul(b, gamma)"),
        ("max[i,k](abs(neg(W)))", "max[i,k](abs(W))"),
    ],
)
def test_laws(text: str, form: str) -> None:
    assert str(canonical(tree(text))) == form


def test_a_law_of_an_operator_with_two_arguments() -> None:
    import sympy

    made = operator(
        "apart",
        shape=Elementwise(2),
        meaning="|a - b|",
        symbol=lambda a, b: sympy.Abs(a - b),
        laws=["commutative"],
    )(lambda a, b: (a - b).abs())
    found = Expression.apply(made, tree("gamma"), tree("b"))
    assert str(canonical(found)) == "apart(b, gamma)"
