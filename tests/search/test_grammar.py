"""The typed DEAP set: every production is valid, and trees go there and back unchanged."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from deap import gp

from gp_prune.errors import UserError
from gp_prune.language.axes import CHANNEL, LEGAL_AXES, SCALAR, WEIGHT, Axes, Elementwise, Reduction
from gp_prune.language.expression import Expression
from gp_prune.language.parser import parse
from gp_prune.language.primitive import Operator, PrimitiveSet, builtin_primitives
from gp_prune.language.record import FAMILIES, LOSS_NEEDS, NEEDS, families_of
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.search.grammar import Constant, Grammar, OutsideGrammar, Vocabulary, productions_of

PRIMITIVES = builtin_primitives()
GRAMMARS = {axes: Grammar(PRIMITIVES, axes, NEEDS) for axes in (CHANNEL, WEIGHT)}


def tree(text: str) -> Expression:
    return parse(text, PRIMITIVES)


@pytest.mark.parametrize("operator", PRIMITIVES.operators.values(), ids=lambda o: o.name)
def test_productions_keep_the_axes_law(operator: Operator) -> None:
    found = list(productions_of(operator))
    assert found
    assert len({production.name for production in found}) == len(found)
    for production in found:
        types = {production.result, *production.arguments}
        assert all(axes.legal for axes in types)
        assert operator.shape.result(production.over, production.arguments) is production.result


def test_no_production_is_forgotten() -> None:
    """Counted without the engine: unions of legal sets, and subsets that leave a legal set."""
    legal = [set(axes) for axes in LEGAL_AXES]
    pairs = sum((a | b) in legal for a in legal for b in legal)
    reductions = sum(
        (axes - set(over)) in legal
        for axes in legal
        for count in range(1, len(axes) + 1)
        for over in itertools.combinations(sorted(axes), count)
    )
    counts = {
        operator.name: len(list(productions_of(operator)))
        for operator in PRIMITIVES.operators.values()
    }
    for name, operator in PRIMITIVES.operators.items():
        if isinstance(operator.shape, Elementwise):
            assert counts[name] == (len(legal) if operator.shape.arity == 1 else pairs)
        elif isinstance(operator.shape, Reduction):
            assert counts[name] == reductions


@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=lambda grammar: str(grammar.root))
def test_types_are_complete_and_ordered(grammar: Grammar) -> None:
    assert list(grammar.types) == sorted(grammar.types)
    assert grammar.root in grammar.types
    assert Axes("oj") not in Grammar(PRIMITIVES, grammar.root, NEEDS.keys() - {"outgoing"}).types
    # every leaf type has least height 0, and every other one more than a production below it
    for axes in grammar.types:
        least = grammar.least_height[axes]
        ways = [
            1 + max(grammar.least_height[argument] for argument in production.arguments)
            for productions in grammar.by_result[axes].values()
            for production in productions
        ]
        leaf = axes is SCALAR or grammar.terminals(axes)
        assert least == (0 if leaf else min(ways))


@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=lambda grammar: str(grammar.root))
def test_noise_is_left_out(grammar: Grammar) -> None:
    assert "U" not in grammar.operands
    assert "UW" not in grammar.operands
    assert {"W", "G", "A", "muP", "nQ", "X"} <= set(grammar.operands)


def test_measurements_that_are_not_offered_are_left_out() -> None:
    grammar = Grammar(PRIMITIVES, CHANNEL, set())
    assert set(grammar.operands) == {"W", "b", "beta", "gamma"}
    assert set(grammar.types) == {SCALAR, *map(Axes, ("o", "i", "oi", "ik", "ok", "oik", "op"))}
    with pytest.raises(OutsideGrammar, match="operand 'G' is not part of this search"):
        grammar.from_expression(tree("sum[i,k](abs(G))"))


def test_dear_operators_are_left_out() -> None:
    grammar = Grammar(PRIMITIVES, CHANNEL, NEEDS, max_cost=10)
    assert "tail_sum" not in {p.operator.name for p in grammar.productions.values()}
    assert Axes("op") not in grammar.types
    with pytest.raises(OutsideGrammar, match=r"sum\[p\]:op is not part of this search"):
        grammar.from_expression(tree("sum[p](pairwise_distance(W))"))
    with pytest.raises(OutsideGrammar, match=r"tail_sum\[o\]:o is not part of this search"):
        grammar.from_expression(tree("tail_sum[o](b)"))


def test_other_roots_are_refused() -> None:
    with pytest.raises(OutsideGrammar, match=r"no formula of axes \{o,j\} can be built"):
        Grammar(PRIMITIVES, Axes("oj"), NEEDS.keys() - {"outgoing"})
    none = PrimitiveSet(PRIMITIVES.operators.values())
    with pytest.raises(OutsideGrammar, match=r"no formula of axes \{o\} can be built"):
        Grammar(none, CHANNEL, NEEDS)


@pytest.mark.many(10, 40)
def test_there_and_back(
    random_trees: Callable[..., list[Expression]], tree_types: tuple[Axes, ...], many: int
) -> None:
    for axes in tree_types:
        grammar = Grammar(PRIMITIVES, axes, NEEDS)
        assert grammar.types == tree_types
        for found in random_trees(axes, many, seed=101, most=8):
            individual = grammar.from_expression(found)
            assert grammar.to_expression(individual) == found
            assert len(individual) == found.size
            assert individual.height == found.height
            assert individual.root.ret is grammar.classes[axes]
            assert isinstance(individual, gp.PrimitiveTree)
            assert not individual.fitness.valid


@pytest.mark.parametrize("name", sorted(bundled_metrics()))
def test_bundled_metrics_are_in_the_grammar(name: str) -> None:
    expression = Metric.load(name).expression
    grammar = GRAMMARS[expression.axes]
    if "noise" in expression.needs:
        with pytest.raises(OutsideGrammar, match=r"operand 'UW?' is not part"):
            grammar.from_expression(expression)
    else:
        assert grammar.to_expression(grammar.from_expression(expression)) == expression


def test_constants() -> None:
    grammar = GRAMMARS[CHANNEL]
    individual = grammar.from_expression(tree("mul(b, 2.5)"))
    assert isinstance(individual[2], Constant)
    assert individual[2].value == 2.5
    assert individual[2].ret is grammar.classes[SCALAR]


def test_sets_are_the_same_every_time() -> None:
    again = Grammar(PRIMITIVES, CHANNEL, NEEDS)
    assert list(again.productions) == list(GRAMMARS[CHANNEL].productions)
    assert again.types == GRAMMARS[CHANNEL].types
    assert {a: list(p) for a, p in again.by_result.items()} == {
        a: list(p) for a, p in GRAMMARS[CHANNEL].by_result.items()
    }


def searched(**given: tuple[str, ...]) -> Grammar:
    return Grammar(PRIMITIVES, CHANNEL, NEEDS, vocabulary=Vocabulary(**given))


def test_a_family_holds_what_needs_it_and_weights_what_needs_nothing() -> None:
    whole = searched()
    for family in ("weights", *FAMILIES):
        left = set(whole.operands) - set(searched(exclude=(family,)).operands)
        expected = {
            name
            for name, operand in whole.operands.items()
            if (not operand.needs if family == "weights" else operand.needs & FAMILIES[family])
        }
        assert left == expected, family
    without = searched(exclude=("gradients", "labels"))
    assert not any(operand.needs & LOSS_NEEDS for operand in without.operands.values())
    assert not {"muP", "kPQ", "mA"} & set(without.operands) and "mu" in without.operands
    assert families_of(frozenset({"outgoing", "fisher"})) == (
        "gradients",
        "data",
        "outgoing",
        "fisher",
    )


def test_named_operands_and_operators_are_the_whole_search() -> None:
    grammar = searched(operands=("W", "gamma"), operators=("abs", "sum", "mul"), exclude=("mul",))
    assert set(grammar.operands) == {"W", "gamma"}
    assert {p.operator.name for p in grammar.productions.values()} == {"abs", "sum"}
    with pytest.raises(OutsideGrammar):
        grammar.from_expression(tree("mul(gamma, gamma)"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"operands": ("gama",)}, r"operand 'gama' is unknown \(did you mean 'gamma'"),
        ({"operators": ("sums",)}, r"operator 'sums' is unknown \(did you mean 'sum'"),
        ({"exclude": ("lables",)}, r"excluded 'lables' is unknown \(did you mean 'labels'"),
        ({"operands": ("U",)}, "operand 'U' is a uniform random number per channel, and is no"),
        ({"operands": ("W",), "operators": ("abs",)}, "from the operands W and the operators abs;"),
        (
            {"exclude": ("data", "weights", "outgoing", "synflow")},
            "from the operands \\(none\\) and",
        ),
        ({"operands": ("b",), "operators": ("abs",), "exclude": ("abs",)}, "operators \\(none\\);"),
    ],
)
def test_what_leaves_nothing_to_search_is_refused(
    given: dict[str, tuple[str, ...]], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        searched(**given)
