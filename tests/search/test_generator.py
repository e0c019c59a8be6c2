"""Random trees: always valid, always within the limits, the same from the same seed."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from gp_prune.language.axes import CHANNEL, SCALAR, WEIGHT, Axes
from gp_prune.language.record import NEEDS
from gp_prune.language.registry import builtin_primitives
from gp_prune.search.generator import Generator, Limits, draw_constant, three_digits
from gp_prune.search.grammar import Constant, Grammar

PRIMITIVES = builtin_primitives()
GRAMMARS = {axes: Grammar(PRIMITIVES, axes, NEEDS) for axes in (CHANNEL, WEIGHT)}
LIMITS = Limits()
COUNT = 10_000


@pytest.mark.parametrize("root", GRAMMARS, ids=str)
def test_ten_thousand_trees(root: Axes) -> None:
    """None invalid, none over the limits; every type, operator and operand occurs."""
    grammar = GRAMMARS[root]
    generator = Generator(grammar, random.Random(1))
    types: Counter[Axes] = Counter()
    names: Counter[str] = Counter()
    texts = set()
    for _ in range(COUNT):
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
    operators = set(PRIMITIVES.operators)
    assert set(names) == {*operators, *grammar.operands, "constant"}
    assert min(names[name] for name in operators) >= 2  # few types fit a medoid
    assert min(names[name] for name in grammar.operands) >= 10
    assert len(texts) > 0.6 * COUNT


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


def test_size_of_a_subtree_is_kept() -> None:
    generator = Generator(GRAMMARS[CHANNEL], random.Random(5))
    for size in (1, 2, 5, 20):
        for _ in range(200):
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
from gp_prune.language.registry import builtin_primitives
from gp_prune.language.record import NEEDS
from gp_prune.search.generator import Generator
from gp_prune.search.grammar import Grammar
from gp_prune.search.variation import Variation

found = hashlib.sha256()
for root in (CHANNEL, WEIGHT):
    grammar = Grammar(builtin_primitives(), root, set(NEEDS))
    generator = Generator(grammar, random.Random(10))
    trees = [generator.individual() for _ in range(100)]
    variation = Variation(generator, trees[:3])
    for first, second in zip(trees[::2], trees[1::2]):
        trees += variation.crossover(first, second)
        trees += [variation.mutate(first), variation.mutate(second)]
    for tree in trees:
        found.update(str(grammar.to_expression(tree)).encode())
print(found.hexdigest())
"""


def test_the_hash_seed_does_not_matter() -> None:
    digests = set()
    for hash_seed in ("0", "1", "12345"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_scalars_are_mostly_constants() -> None:
    generator = Generator(GRAMMARS[CHANNEL], random.Random(11))
    leaves = [generator.leaf(SCALAR) for _ in range(100)]
    assert sum(isinstance(leaf, Constant) for leaf in leaves) > 50
    assert generator.leaf(Axes("ok")) is None
