"""Random trees and their variation: valid, within the limits, the same from the same seed."""

from __future__ import annotations

import copy
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from gp_prune.language.axes import CHANNEL, SCALAR, WEIGHT, Axes, Reduction, Signature
from gp_prune.language.parser import parse
from gp_prune.language.primitive import Operand, builtin_primitives
from gp_prune.language.record import NEEDS
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.search.grammar import Constant, Grammar, Individual
from gp_prune.search.random_trees import (
    PRODUCTS,
    Generator,
    Limits,
    draw_constant,
    three_digits,
)
from gp_prune.search.variation import Variation

PRIMITIVES = builtin_primitives()
GRAMMARS = {axes: Grammar(PRIMITIVES, axes, NEEDS) for axes in (CHANNEL, WEIGHT)}
MUTATIONS = ["subtree", "node", "constant", "insert", "shrink", "graft", "factor"]
LIMITS = Limits()
ROOTS = pytest.mark.parametrize("root", GRAMMARS, ids=str)


SEEDS = [
    metric.expression
    for metric in map(Metric.load, bundled_metrics())
    if "noise" not in metric.needs
]


def variation(root: Axes, seed: int, limits: Limits = Limits()) -> Variation:
    grammar = GRAMMARS[root]
    seeds = [grammar.from_expression(tree) for tree in SEEDS if tree.axes is root]
    return Variation(Generator(grammar, random.Random(seed), limits), seeds)


def names(tree: Individual) -> list[str]:
    return [node.name for node in tree]


class Tally:
    """Checks offspring one by one and counts those that differ from their parent."""

    def __init__(self, root: Axes) -> None:
        self.root = root
        self.count = 0
        self.changed = 0

    def check(self, child: Individual, parent: Individual) -> None:
        assert len(child) <= 75
        assert child.height <= 12
        expression = GRAMMARS[self.root].to_expression(child)  # raises where a node is not valid
        assert expression.axes is self.root
        assert not child.fitness.valid
        assert child is not parent
        self.count += 1
        self.changed += names(child) != names(parent)


def population(found: Variation, count: int) -> list[Individual]:
    """Trees like those of a search: random ones, varied a few times, and the seeds."""
    trees = [found.generator.individual() for _ in range(count)]
    for _ in range(3):
        trees = [found.mutate(tree) for tree in trees]
        pairs = zip(trees[::2], trees[1::2], strict=True)
        trees = [child for pair in pairs for child in found.crossover(*pair)]
    return trees + found.seeds


def crossovers(root: Axes, pairs: int) -> Tally:
    found = variation(root, 21)
    trees = population(found, 200)
    before = [names(tree) for tree in trees]
    tally = Tally(root)
    for _ in range(pairs):
        first, second = found.rng.sample(trees, 2)
        for child, parent in zip(found.crossover(first, second), (first, second), strict=True):
            tally.check(child, parent)
    assert [names(tree) for tree in trees] == before
    return tally


def mutations(root: Axes, name: str, count: int) -> Tally:
    found = variation(root, 22)
    trees = population(found, 200)
    before = [names(tree) for tree in trees]
    operator: Callable[[Individual], Individual] = found.mutations[name][0]
    tally = Tally(root)
    for _ in range(count):
        parent = found.rng.choice(trees)
        tally.check(operator(parent), parent)
    assert [names(tree) for tree in trees] == before
    return tally


@ROOTS
def test_crossover(root: Axes) -> None:
    tally = crossovers(root, 500)
    assert tally.count == 1000
    assert tally.changed > 0.9 * tally.count


@ROOTS
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation(root: Axes, name: str) -> None:
    tally = mutations(root, name, 1000)
    assert tally.changed > 0.6 * tally.count


@pytest.mark.slow
@ROOTS
def test_ten_thousand_crossovers(root: Axes) -> None:
    tally = crossovers(root, 5000)
    assert tally.count == 10_000
    assert tally.changed > 0.9 * tally.count


@pytest.mark.slow
@ROOTS
@pytest.mark.parametrize("name", MUTATIONS)
def test_ten_thousand_mutations(root: Axes, name: str) -> None:
    tally = mutations(root, name, 10_000)
    assert tally.changed > 0.6 * tally.count


@ROOTS
def test_small_limits_hold_in_long_runs(root: Axes) -> None:
    limits = Limits(size=12, height=4)
    found = variation(root, 23, limits)
    trees = [found.generator.individual() for _ in range(40)]
    for _ in range(25):
        trees = [found.mutate(tree) for tree in trees]
        for place in range(0, len(trees), 2):
            trees[place : place + 2] = found.crossover(*trees[place : place + 2])
        assert all(limits.hold(tree) for tree in trees)
    assert all(GRAMMARS[root].to_expression(tree).axes is root for tree in trees)


@ROOTS
def test_same_seed_same_offspring(root: Axes) -> None:
    def run() -> list[list[str]]:
        return [names(tree) for tree in population(variation(root, 24), 50)]

    state = random.getstate()
    assert run() == run()
    assert random.getstate() == state


def test_parents_keep_their_fitness() -> None:
    found = variation(CHANNEL, 25)
    parent = found.generator.individual()
    parent.fitness.values = (1.0, 2.0, 3.0)
    for _ in range(50):
        assert not found.mutate(parent).fitness.valid
    assert parent.fitness.values == (1.0, 2.0, 3.0)


def mutated(text: str, name: str, seed: int = 26) -> str:
    found = variation(CHANNEL, seed)
    tree = GRAMMARS[CHANNEL].from_expression(parse(text, PRIMITIVES))
    return str(GRAMMARS[CHANNEL].to_expression(found.mutations[name][0](tree)))


def test_crossover_swaps_one_subtree_of_one_type() -> None:
    grammar = GRAMMARS[CHANNEL]
    found = variation(CHANNEL, 27)
    first = grammar.from_expression(parse("sum[i,k](abs(W))", PRIMITIVES))
    second = grammar.from_expression(parse("mean[n,s](nonzero(A))", PRIMITIVES))
    for _ in range(30):
        children = [str(grammar.to_expression(c)) for c in found.crossover(first, second)]
        assert children == ["mean[n,s](nonzero(A))", "sum[i,k](abs(W))"]


def test_equal_parents_still_cross() -> None:
    found = variation(CHANNEL, 28)
    text = "add(mul(b, gamma), div(beta, mu))"
    parent = GRAMMARS[CHANNEL].from_expression(parse(text, PRIMITIVES))
    children = [c for _ in range(50) for c in found.crossover(parent, copy.deepcopy(parent))]
    assert sum(names(child) != names(parent) for child in children) > 80


def test_crossover_of_trees_without_a_difference() -> None:
    found = variation(CHANNEL, 29)
    leaf = GRAMMARS[CHANNEL].from_expression(parse("b", PRIMITIVES))
    children = found.crossover(leaf, leaf)
    assert [names(child) for child in children] == [["b"], ["b"]]
    assert all(child is not leaf for child in children)


def test_a_constant_is_scaled_and_keeps_its_sign() -> None:
    for seed in range(50):
        text = mutated("mul(b, -2.5)", "constant", seed)
        value = float(text.removeprefix("mul(b, ").removesuffix(")"))
        assert value < 0
        assert value != -2.5
        assert 0.05 < value / -2.5 < 20
        assert float(f"{value:.3g}") == value


@pytest.mark.parametrize("value", ["0", "0.0001", "1000000", "1e+300"])
def test_every_constant_can_change(value: str) -> None:
    """Also one that scaling alone would leave as it is, or where it may not stay."""
    text = f"mul(b, {value})"
    assert all(mutated(text, "constant", seed) != text for seed in range(20))


def test_a_tree_without_constants_changes_too() -> None:
    assert mutated("sum[i,k](abs(W))", "constant") != "sum[i,k](abs(W))"


def test_node_mutation_keeps_the_shape_of_the_tree() -> None:
    for seed in range(50):
        text = mutated("add(sum[i,k](abs(W)), b)", "node", seed)
        assert text.count("(") == 3
        assert text != "add(sum[i,k](abs(W)), b)"


def test_insertion_keeps_the_old_tree_in_the_new_one() -> None:
    for seed in range(50):
        text = mutated("tanh(b)", "insert", seed)
        assert "b" in text
        assert text.count("(") > 1


def test_shrinking_makes_smaller_trees() -> None:
    for seed in range(50):
        assert len(mutated("neg(add(abs(b), square(gamma)))", "shrink", seed)) < 30


def test_grafts_come_from_the_seeds() -> None:
    grammar = GRAMMARS[CHANNEL]
    seed = grammar.from_expression(parse("min_max[o](mean[n,s](A))", PRIMITIVES))
    found = Variation(Generator(grammar, random.Random(30)), [seed])
    parent = grammar.from_expression(parse("add(b, gamma)", PRIMITIVES))
    texts = {str(grammar.to_expression(found.graft(parent))) for _ in range(40)}
    assert "add(min_max[o](mean[n,s](A)), gamma)" in texts
    assert "min_max[o](mean[n,s](A))" in texts
    assert all("A" in text for text in texts)


def test_without_seeds_nothing_is_grafted() -> None:
    found = Variation(Generator(GRAMMARS[CHANNEL], random.Random(31)))
    assert found.mutations["graft"][1] == 0
    for _ in range(200):
        found.mutate(found.generator.individual())


def test_constants_of_offspring_are_numbers() -> None:
    found = variation(CHANNEL, 32)
    values: list[Any] = [
        node.value for tree in population(found, 200) for node in tree if isinstance(node, Constant)
    ]
    assert len(values) > 50
    assert all(isinstance(value, float) for value in values)


@pytest.mark.parametrize(
    ("root", "count"),
    [
        (CHANNEL, 2_000),
        pytest.param(CHANNEL, 10_000, marks=pytest.mark.slow),
        pytest.param(WEIGHT, 10_000, marks=pytest.mark.slow),  # fewer lack the rarest operands
    ],
    ids=str,
)
def test_thousands_of_trees(root: Axes, count: int) -> None:
    """None invalid, none over the limits; every type, operator and operand occurs."""
    grammar = GRAMMARS[root]
    generator = Generator(grammar, random.Random(1))
    types: Counter[Axes] = Counter()
    names: Counter[str] = Counter()
    texts = set()
    for _ in range(count):
        tree = generator.individual()
        assert len(tree) <= 75
        assert tree.height <= 12
        expression = grammar.to_expression(tree)  # raises where a node is not valid
        assert expression.axes is root
        assert (expression.size, expression.height) == (len(tree), tree.height)
        for node in expression.nodes():
            types[node.axes] += 1
            names[node.name] += 1
        texts.add(str(expression))
    assert set(types) == set(grammar.types)
    assert set(names) == {*PRIMITIVES.operators, *grammar.operands, "constant"}
    assert min(names[name] for name in grammar.operands) >= 10
    assert len(texts) > 0.6 * count


@pytest.mark.parametrize("axes", GRAMMARS[CHANNEL].types, ids=str)
def test_every_type_at_every_height(axes: Axes) -> None:
    grammar = Grammar(PRIMITIVES, axes, NEEDS)
    generator = Generator(grammar, random.Random(2))
    for height in range(0, 13):
        for full in (False, True):
            nodes = generator.subtree(axes, height, full=full)
            expression = grammar.to_expression(nodes)
            assert expression.axes is axes
            assert expression.height <= max(height, grammar.least_height[axes])
            assert expression.size <= LIMITS.size


def test_full_trees_reach_their_height() -> None:
    grammar = GRAMMARS[CHANNEL]
    generator = Generator(grammar, random.Random(3))
    heights = [
        grammar.to_expression(generator.subtree(CHANNEL, 3, full=True)).height for _ in range(100)
    ]
    assert set(heights) == {3}


@pytest.mark.parametrize("limits", [Limits(10, 4), Limits(3, 2), Limits(75, 1), Limits(20, 12)])
def test_other_limits_hold(limits: Limits) -> None:
    grammar = GRAMMARS[CHANNEL]
    generator = Generator(grammar, random.Random(4), limits)
    for _ in range(500):
        tree = generator.individual()
        assert limits.hold(tree)
        assert grammar.to_expression(tree).axes is CHANNEL


@pytest.mark.many(40, 200)
def test_size_of_a_subtree_is_kept(many: int) -> None:
    generator = Generator(GRAMMARS[CHANNEL], random.Random(5))
    for size in (1, 2, 5, 20):
        for _ in range(many):
            assert len(generator.subtree(CHANNEL, 6, full=True, size=size)) <= size


def test_an_empty_search_space_but_for_weights() -> None:
    grammar = Grammar(PRIMITIVES, CHANNEL, set())
    generator = Generator(grammar, random.Random(6))
    for _ in range(500):
        assert grammar.to_expression(generator.individual()).needs == frozenset()


def test_constants_are_drawn_over_six_decades() -> None:
    rng = random.Random(7)
    values = [draw_constant(rng) for _ in range(4000)]
    assert all(1e-4 <= abs(value) <= 1e2 for value in values)
    assert 0.15 < sum(value < 0 for value in values) / len(values) < 0.25
    decades = Counter(math.floor(math.log10(abs(value))) for value in values)
    assert all(500 < decades[decade] < 830 for decade in range(-4, 2))
    assert all(value == three_digits(value) for value in values)
    assert all(len(f"{abs(value):.12g}".replace(".", "").strip("0")) <= 3 for value in values)


def sequence(root: Axes, seed: int, count: int = 200) -> list[str]:
    grammar = Grammar(PRIMITIVES, root, NEEDS)
    generator = Generator(grammar, random.Random(seed))
    return [str(grammar.to_expression(generator.individual())) for _ in range(count)]


@pytest.mark.parametrize("root", GRAMMARS, ids=str)
def test_same_seed_same_trees(root: Axes) -> None:
    state = random.getstate()
    assert sequence(root, 8) == sequence(root, 8)
    assert sequence(root, 8) != sequence(root, 9)
    assert random.getstate() == state


PROGRAM = """
import hashlib, random
from gp_prune.language.axes import CHANNEL, WEIGHT
from gp_prune.language.primitive import Operand, builtin_primitives
from gp_prune.language.record import NEEDS
from gp_prune.search.grammar import Grammar
from gp_prune.search.random_trees import Generator
from gp_prune.search.variation import Variation

digest = hashlib.sha256()
for root in (CHANNEL, WEIGHT):
    grammar = Grammar(builtin_primitives(), root, set(NEEDS))
    generator = Generator(grammar, random.Random(10))
    trees = [generator.individual() for _ in range(100)]
    variation = Variation(generator, trees[:3])
    for first, second in zip(trees[::2], trees[1::2]):
        trees += variation.crossover(first, second)
        trees += [variation.mutate(first), variation.mutate(second)]
    for tree in trees:
        digest.update(str(grammar.to_expression(tree)).encode())
print(digest.hexdigest())
"""


def test_the_hash_seed_does_not_matter() -> None:
    digests = set()
    for hash_seed in ("0", "12345"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1


@ROOTS
def test_operators_of_special_types_are_no_more_frequent_than_reductions(root: Axes) -> None:
    grammar = GRAMMARS[root]
    generator = Generator(grammar, random.Random(5))
    trees = [grammar.to_expression(generator.individual()) for _ in range(1500)]
    found = Counter(name for tree in trees for name in {n.name for n in tree.nodes()})
    operators = PRIMITIVES.operators
    special = [name for name, o in operators.items() if isinstance(o.shape, Signature)]
    reductions = [name for name, o in operators.items() if isinstance(o.shape, Reduction)]
    most = max(found[name] for name in reductions)
    assert special
    assert max(found[name] for name in special) <= 1.25 * most
    assert found["nuclear_norm"] > 0


def test_scalars_are_mostly_constants() -> None:
    generator = Generator(GRAMMARS[CHANNEL], random.Random(11))
    leaves = [generator.leaf(SCALAR) for _ in range(100)]
    assert sum(isinstance(leaf, Constant) for leaf in leaves) > 50
    assert generator.leaf(Axes("ok")) is None


@ROOTS
def test_products_are_of_parts_that_read_different_measurements(root: Axes) -> None:
    grammar = GRAMMARS[root]
    generator = Generator(grammar, random.Random(7), factors=True)
    found = [generator.product() for _ in range(60)]
    products = 0
    for tree in found:
        expression = grammar.to_expression(tree)
        assert expression.axes is root and LIMITS.hold(tree)
        if expression.name in PRODUCTS and len(expression.arguments) == 2:
            one, other = (
                {node.head.needs for node in part.nodes() if isinstance(node.head, Operand)}
                for part in expression.arguments
            )
            products += bool(one and other and not one & other)
    assert products >= 50


def test_a_factor_is_put_to_a_part_that_reads_something_else() -> None:
    found = variation(CHANNEL, 3)
    parent = found.grammar.from_expression(parse("sum[i,k](abs(W))", PRIMITIVES))
    children = [found.grammar.to_expression(found.factor(parent)) for _ in range(40)]
    changed = [child for child in children if str(child) != "sum[i,k](abs(W))"]
    assert len(changed) > 20
    for child in changed:
        reads = {node.head.needs for node in child.nodes() if isinstance(node.head, Operand)}
        assert len(reads) > 1 and "W" in str(child)
        assert any(node.name in PRODUCTS for node in child.nodes())


def test_factors_are_drawn_where_they_are_asked_for() -> None:
    grammar = GRAMMARS[WEIGHT]
    plain, asked = (
        Variation(Generator(grammar, random.Random(1), factors=factors))
        for factors in (False, True)
    )
    assert plain.mutations["factor"][1] == 0 < asked.mutations["factor"][1]
    shares = [
        sum(
            tree[0].name.split(":")[0] in PRODUCTS
            for tree in (v.generator.individual() for _ in range(200))
        )
        for v in (plain, asked)
    ]
    assert shares[0] < 60 < shares[1]
