"""Text and JSON of trees: exact round trips, strict errors with their place."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gp_prune.language.axes import Axes
from gp_prune.language.expression import Expression, ExpressionError
from gp_prune.language.infix import write_infix
from gp_prune.language.parser import ParseError, from_json, parse
from gp_prune.language.primitive import PrimitiveSet, builtin_primitives
from gp_prune.metric.metric import Metric, bundled_metrics

PRIMITIVES = builtin_primitives()


@pytest.mark.many(15, 60)
def test_round_trips(
    random_trees: Callable[..., list[Expression]], tree_types: tuple[Axes, ...], many: int
) -> None:
    for axes in tree_types:
        for tree in random_trees(axes, many, seed=41, most=9):
            assert parse(str(tree), PRIMITIVES) == tree
            assert from_json(json.loads(json.dumps(tree.to_json())), PRIMITIVES) == tree


@pytest.mark.parametrize("name", bundled_metrics())
def test_bundled_formulas_round_trip_in_infix_form(name: str) -> None:
    tree = Metric.load(name).expression
    assert parse(write_infix(tree), PRIMITIVES) == tree


@pytest.mark.many(150, 2000)
def test_random_trees_round_trip_in_infix_form(
    random_trees: Callable[..., list[Expression]], tree_types: tuple[Axes, ...], many: int
) -> None:
    each = -(-many // len(tree_types))
    for axes in tree_types:
        for tree in random_trees(axes, each, seed=43, most=9):
            assert parse(write_infix(tree), PRIMITIVES) == tree, str(tree)


INFIX = {
    "sum[i,k](abs(W) * G)^2 / (b + 1e-4)": "div(square(sum[i,k](mul(abs(W), G))), add(b, 0.0001))",
    "b - gamma - beta": "sub(sub(b, gamma), beta)",
    "b - (gamma - beta)": "sub(b, sub(gamma, beta))",
    "b / gamma * beta": "mul(div(b, gamma), beta)",
    "b + gamma * beta": "add(b, mul(gamma, beta))",
    "-b^2": "neg(square(b))",
    "(-b)^2": "square(neg(b))",
    "-b * gamma": "mul(neg(b), gamma)",
    "-2^2": "neg(square(2))",
    "(-2)^2": "square(-2)",
    "-(2)": "neg(2)",
    "b-1": "sub(b, 1)",
    "b - -1": "sub(b, -1)",
    "b + -gamma": "add(b, neg(gamma))",
    "+b": "b",
    "maximum(b, -gamma + 1)": "maximum(b, add(neg(gamma), 1))",
}


@pytest.mark.parametrize("text", INFIX)
def test_infix_means_what_mathematics_means(text: str) -> None:
    tree = parse(text, PRIMITIVES)
    assert str(tree) == INFIX[text]
    assert parse(write_infix(tree), PRIMITIVES) == tree


def test_infix_is_written_without_needless_brackets() -> None:
    for text in ("(b + gamma)^2 * beta", "b - (gamma - beta)", "-(b * gamma)", "b * -gamma"):
        assert write_infix(parse(text, PRIMITIVES)) == text


def test_signs_follow_from_the_vocabulary() -> None:
    larger = PRIMITIVES.operators["maximum"]
    own = PrimitiveSet([*PRIMITIVES.operands.values(), replace(larger, infix="*")])
    assert str(parse("b * gamma", own)) == "maximum(b, gamma)"
    with pytest.raises(ParseError, match=r"no operator is written '\+', at position 2"):
        parse("b + gamma", own)


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(-0.0)
@example(5e-324)
@example(1e15)
@example(1e22)
def test_constants_round_trip(value: float) -> None:
    tree = Expression.constant(value)
    assert parse(str(tree), PRIMITIVES).value == value
    assert from_json(json.loads(json.dumps(tree.to_json())), PRIMITIVES).value == value


def test_blanks_do_not_matter() -> None:
    spread = "\n sum [ k , i ] (\tabs ( W ) ) "
    assert parse(spread, PRIMITIVES) == parse("sum[i,k](abs(W))", PRIMITIVES)


WRONG_TEXTS = {
    "": "expected a number or a name, not the end of the text, at position 0",
    "   ": "expected a number or a name, not the end of the text, at position 0",
    "foo(W)": "unknown operator 'foo' (primitives of your own are added with --primitives FILE.py),"
    " at position 0",
    "add(b, absolute(b))": "unknown operator 'absolute'",
    "abss(W)": "did you mean 'abs'?",
    "add(b, gama)": "unknown operand 'gama' (did you mean 'gamma'? primitives of your own are added"
    " with --primitives FILE.py), at position 7",
    "abs": "operator 'abs' stands without its arguments, at position 0",
    "mul(b, sum[o])": "operator 'sum' stands without its arguments, at position 7",
    "W(b)": "operand 'W' takes no arguments, at position 0",
    "W[i]": "operand 'W' takes no arguments, at position 0",
    "add(b)": "operator 'add' takes 2 arguments, not 1, at position 0",
    "neg(add(b, b, b))": "operator 'add' takes 2 arguments, not 3, at position 4",
    "abs()": "expected a number or a name, not ')', at position 4",
    "add(b,)": "expected a number or a name, not ')', at position 6",
    "add(W, X)": "operator 'add' does not accept axes {o,i,k}, {i,n,s}, at position 0",
    "neg(sum[n](W))": "operator 'sum[n]' does not accept axes {o,i,k}, at position 4",
    "sum(W)": "operator 'sum' needs axes in brackets, as in sum[o](...), at position 0",
    "abs[o](W)": "operator 'abs' takes no axes in brackets, at position 0",
    "sum[z](W)": "unknown axis 'z'; the axes are o, p, i, k, j, c, n, s, at position 3",
    "sum[i,i](W)": "axis named twice in 'ii'; name each axis once, at position 3",
    "sum[ik](W)": "axes are single letters, not 'ik', at position 4",
    "sum[](W)": "axes are single letters, not ']', at position 4",
    "sum[,](W)": "axes are single letters, not ',', at position 4",
    "sum[i,,](W)": "axes are single letters, not ',', at position 6",
    "sum[": "axes are single letters, not the end of the text, at position 4",
    "sum[i": "expected ']', not the end of the text, at position 5",
    "sum[i,": "axes are single letters, not the end of the text, at position 6",
    "sum[1](W)": "axes are single letters, not '1', at position 4",
    "sum[i](W": "expected ')', not the end of the text, at position 8",
    "abs(W))": "text after the end of the expression: ')' at position 6",
    "b b": "text after the end of the expression: 'b' at position 2",
    "2b": "text after the end of the expression: 'b' at position 1",
    "1e5e5": "text after the end of the expression: 'e5' at position 3",
    "(b": "expected ')', not the end of the text, at position 2",
    "()": "expected a number or a name, not ')', at position 1",
    "b +": "expected a number or a name, not the end of the text, at position 3",
    "b * / b": "expected a number or a name, not '/', at position 4",
    "W * X": "operator 'mul' does not accept axes {o,i,k}, {i,n,s}, at position 2",
    "b^3": "the only power is ^2 (write others as products, or with sqrt, exp and log), not '3', "
    "at position 2",
    "b^b": "not 'b', at position 2",
    "b^2^2": "text after the end of the expression: '^' at position 3",
    "b ** 2": "expected a number or a name, not '*', at position 3",
    "gamma / bta": "unknown operand 'bta' (did you mean 'beta'?",
    "-" * 200 + "b": "height 101; at most 2000 and 100 are allowed, at position 99",
    "nan": "unknown operand 'nan'",
    "inf": "unknown operand 'inf'",
    "-inf": "unknown operand 'inf'",
    "mul(b, 1e999)": "constant inf is not a finite number, at position 7",
    "٣": "unexpected '٣' at position 0",
    "__import__('os').system('x')": "unexpected '_' at position 0",
    "abs(__import__('os').system('x'))": "unexpected '_' at position 4",
    "lambda: 0": "unexpected ':' at position 6",
    "b; b": "unexpected ';' at position 1",
    "abs(\x00)": "unexpected '\\x00' at position 4",
    "(" * 10_000: "nested deeper than 100 at position 101",
    "abs(" * 10_000: "the text has more than 16000 words at position",
    "abs(" * 200: "nested deeper than 100 at position 404",
    "x" * 100_000: "unknown operand 'xxx",
}


@pytest.mark.parametrize("text", WRONG_TEXTS, ids=lambda text: text[:30])
def test_wrong_text(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text, PRIMITIVES)
    assert WRONG_TEXTS[text] in str(caught.value)
    assert str(caught.value).count(" at position ") == 1
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_huge_text_is_refused_at_once() -> None:
    text = "add(b," * 2_000_000
    start = time.process_time()
    with pytest.raises(ParseError, match="the text has more than 16000 words"):
        parse(text, PRIMITIVES)
    assert time.process_time() - start < 1


@given(st.text(max_size=40))
@example("sum[i")
def test_any_text_is_a_tree_or_a_parse_error(text: str) -> None:
    with contextlib.suppress(ParseError):
        parse(text, PRIMITIVES)


@given(st.data())
def test_damaged_text_is_a_tree_or_a_parse_error(data: st.DataObject) -> None:
    text = "add(sum[i,k](mul(W, 2.5e-3)), min_max[o](mean[n,s](A)))"
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))
    put = data.draw(st.sampled_from(["", *"()[],+-*/^1e. ", "W", "sum"]))
    with contextlib.suppress(ParseError):
        parse(text[:start] + put + text[stop:], PRIMITIVES)


def nested(depth: int) -> dict[str, Any]:
    data: dict[str, Any] = {"operand": "b"}
    for _ in range(depth):
        data = {"operator": "abs", "arguments": [data]}
    return data


def lists(depth: int) -> list[Any]:
    data: list[Any] = []
    for _ in range(depth):
        data = [data]
    return data


W = {"operand": "W"}
WRONG_JSON: list[tuple[Any, str]] = [
    (None, "expected an object, not NoneType, at $"),
    ([], "expected an object, not list, at $"),
    ("abs(W)", "expected an object, not str, at $"),
    (1.0, "expected an object, not float, at $"),
    ({}, "a node has the fields constant, operand, or operator, (over,) arguments, not"),
    ({"operand": "W", "axes": "o"}, "not 'axes, operand', at $"),
    ({"operator": "abs"}, "not 'operator', at $"),
    ({"operator": "abs", "arguments": [W], "eval": "1"}, "not 'arguments, eval, operator', at $"),
    ({1: 2, None: 3}, "not '1, None', at $"),
    ({"constant": "1"}, "constant '1' is not a number, at $"),
    ({"constant": True}, "constant True is not a number, at $"),
    ({"constant": None}, "constant None is not a number, at $"),
    ({"constant": [1]}, "constant [1] is not a number, at $"),
    ({"constant": float("nan")}, "constant nan is not a finite number, at $"),
    ({"constant": float("-inf")}, "constant -inf is not a finite number, at $"),
    ({"constant": 10**400}, "constant inf is not a finite number, at $"),
    ({"operand": "Q"}, "unknown operand 'Q'"),
    ({"operand": ["W"]}, "unknown operand ['W']"),
    ({"operand": {"operand": "W"}}, "unknown operand {'operand': 'W'}"),
    ({"operand": "abs"}, "operator 'abs' stands without its arguments, at $"),
    ({"operand": "__import__('os')"}, "unknown operand"),
    ({"operand": "x" * 100_000}, "unknown operand 'xxx"),
    ({"operator": "W", "arguments": []}, "operand 'W' takes no arguments, at $"),
    ({"operator": None, "arguments": []}, "unknown operator None"),
    ({"operator": "abs", "arguments": W}, "arguments are not a list, at $"),
    ({"operator": "abs", "arguments": "W"}, "arguments are not a list, at $"),
    ({"operator": "abs", "arguments": []}, "operator 'abs' takes 1 argument, not 0, at $"),
    (
        {"operator": "abs", "arguments": [{"operator": "neg", "arguments": [3]}]},
        "expected an object, not int, at $.arguments[0].arguments[0]",
    ),
    (
        {"operator": "sum", "arguments": [W]},
        "operator 'sum' needs axes in brackets, as in sum[o](...), at $",
    ),
    ({"operator": "sum", "over": "", "arguments": [W]}, "over is '', not axis letters such as"),
    ({"operator": "sum", "over": ["i"], "arguments": [W]}, "over is ['i'], not axis letters"),
    ({"operator": "sum", "over": "k,i", "arguments": [W]}, "over is 'k,i'; write it 'i,k', at $"),
    ({"operator": "sum", "over": "ik", "arguments": [W]}, "over is 'ik'; write it 'i,k', at $"),
    ({"operator": "sum", "over": "x", "arguments": [W]}, "unknown axis 'x'"),
    (
        {"operator": "neg", "arguments": [{"operator": "sum", "over": "n", "arguments": [W]}]},
        "operator 'sum[n]' does not accept axes {o,i,k}, at $.arguments[0]",
    ),
    ({"constant": lists(10_000)}, "constant [[[[[["),
    ({"operand": lists(10_000)}, "unknown operand [[[[[["),
    (nested(10_000), "nested deeper than 100 at $.arguments[0]"),
]


@pytest.mark.parametrize(
    ("data", "message"), WRONG_JSON, ids=[str(n) for n in range(len(WRONG_JSON))]
)
def test_wrong_json(data: Any, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        from_json(data, PRIMITIVES)
    assert message in str(caught.value)
    assert " at $" in str(caught.value)
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["operator", "operand", "constant", "over", "arguments"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_a_tree_or_a_parse_error(data: Any) -> None:
    with contextlib.suppress(ParseError):
        assert isinstance(from_json(data, PRIMITIVES), Expression)


def test_parse_errors_are_expression_errors() -> None:
    with pytest.raises(ExpressionError):
        parse("", PRIMITIVES)
