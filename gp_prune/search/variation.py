"""Crossover and mutation of trees that keep types and limits.

All draws come from an explicit source of randomness. The variation operators try a few times, leave
parents unchanged, and return a copy of the parent where nothing valid and different came out.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from gp_prune.language.axes import Axes
from gp_prune.search.grammar import Constant, Grammar, Individual
from gp_prune.search.random_trees import TRIES, Generator, draw_constant, three_digits, unlike

CROSSOVER = "crossover"

_INNER_SHARE = 0.9
"""Share of the picked nodes that are inner ones."""


def is_finite_number(value: float) -> bool:
    """Tell whether a constant may stand in a tree."""
    return math.isfinite(value) and abs(value) <= 1e6


def _retried(
    change: Callable[[Variation, Individual], Individual],
) -> Callable[[Variation, Individual], Individual]:
    """Try a change until its child keeps the limits and differs from the parent, a few times."""

    @wraps(change)
    def mutate(variation: Variation, parent: Individual) -> Individual:
        for _ in range(TRIES):
            child = change(variation, parent)
            if variation.generator.limits.hold(child) and not _same(child, parent):
                return child
        return Individual(parent)

    return mutate


class Variation:
    """The variation operators of one search.

    Args:
        generator: grammar, random source and limits.
        seeds: trees from which the seed graft takes its pieces.
    """

    def __init__(self, generator: Generator, seeds: Sequence[Individual] = ()) -> None:
        self.generator = generator
        self.grammar: Grammar = generator.grammar
        self.rng: random.Random = generator.rng
        self.seeds = list(seeds)
        self.mutations: dict[str, tuple[Callable[[Individual], Individual], float]] = {
            "subtree": (self.subtree, 3.0),
            "node": (self.node, 2.0),
            "constant": (self.constant_step, 1.0),
            "insert": (self.insert, 1.5),
            "shrink": (self.shrink, 1.5),
            "graft": (self.graft, 1.0 if self.seeds else 0.0),
            "factor": (self.factor, 2.0 if generator.factors else 0.0),
        }

    def mutate(self, parent: Individual) -> Individual:
        """Return a mutant by one of the operators, drawn by weight among those that apply."""
        names = [name for name, (_, weight) in self.mutations.items() if weight > 0]
        weights = [self.mutations[name][1] for name in names]
        (name,) = self.rng.choices(names, weights)
        return self.apply(name, parent)

    def apply(self, name: str, parent: Individual) -> Individual:
        """Return a mutant by the operator of a name."""
        return self.mutations[name][0](parent)

    def crossover(self, first: Individual, second: Individual) -> tuple[Individual, Individual]:
        """Swap two subtrees of one type; the pick is by node and prefers inner nodes.

        Only types that are really present in both trees are considered, and identical subtrees
        are not swapped. Both children keep within the limits, or copies of the parents come back.
        """
        by_type: dict[type, list[int]] = defaultdict(list)
        for position, node in enumerate(second):
            by_type[node.ret].append(position)
        for _ in range(TRIES):
            cut = self._pick(first)
            partners = by_type.get(first[cut].ret, [])
            if not partners:
                continue
            here = first.searchSubtree(cut)
            there = second.searchSubtree(self.rng.choice(partners))
            if _same(first[here], second[there]):
                continue
            children = _replace(first, here, second[there]), _replace(second, there, first[here])
            if all(self.generator.limits.hold(child) for child in children):
                return children
        return Individual(first), Individual(second)

    @_retried
    def subtree(self, parent: Individual) -> Individual:
        """Replace a subtree by a random one of the same type."""
        old = parent.searchSubtree(self._pick(parent))
        axes = self._axes(parent[old.start])
        room = self.generator.limits.size - len(parent) + (old.stop - old.start)
        new = self.generator.subtree(axes, self.rng.randint(0, 4), size=room)
        return _replace(parent, old, new)

    @_retried
    def node(self, parent: Individual) -> Individual:
        """Replace one node by another of the same argument types and result."""
        position = self.rng.randrange(len(parent))
        node = parent[position]
        if node.arity == 0:
            return _replace_node(parent, position, self.generator.leaf(self._axes(node)))
        options = [
            other
            for other in self.grammar.deap.primitives[node.ret]
            if other.args == node.args and other.name != node.name
        ]
        return _replace_node(parent, position, self.rng.choice(options)) if options else parent

    def constant_step(self, parent: Individual) -> Individual:
        """Scale a constant by a log-normal factor; a tree without constants mutates a subtree."""
        has_constants = any(isinstance(node, Constant) for node in parent)
        return self._scale_constant(parent) if has_constants else self.subtree(parent)

    @_retried
    def _scale_constant(self, parent: Individual) -> Individual:
        """Scale a constant; one that cannot be scaled (zero, or too large) is drawn again."""
        position = self.rng.choice([p for p, n in enumerate(parent) if isinstance(n, Constant)])
        value = three_digits(parent[position].value * self.rng.lognormvariate(0.0, 0.5))
        if value == 0.0 or not is_finite_number(value):
            value = draw_constant(self.rng)
        return _replace_node(parent, position, self.grammar.constant(value))

    @_retried
    def insert(self, parent: Individual) -> Individual:
        """Put a new operator above a subtree, which becomes one of its arguments."""
        old = parent.searchSubtree(self._pick(parent))
        axes = self._axes(parent[old.start])
        production = self.generator.production(axes, self.generator.limits.height)
        if production is None or axes not in production.arguments:
            return parent
        kept = self.rng.choice([p for p, type_ in enumerate(production.arguments) if type_ is axes])
        new: list[Any] = [self.grammar.nodes[production.name]]
        for position, type_ in enumerate(production.arguments):
            new += parent[old] if position == kept else self.generator.subtree(type_, 1, size=10)
        return _replace(parent, old, new)

    @_retried
    def shrink(self, parent: Individual) -> Individual:
        """Replace a subtree by a smaller one of the same type inside it."""
        old = parent.searchSubtree(self._pick(parent))
        type_ = parent[old.start].ret
        inner = [p for p in range(old.start + 1, old.stop) if parent[p].ret is type_]
        if not inner:
            return parent
        return _replace(parent, old, parent[parent.searchSubtree(self.rng.choice(inner))])

    @_retried
    def graft(self, parent: Individual) -> Individual:
        """Replace a subtree by a piece of a seed, of the same type."""
        seed = self.rng.choice(self.seeds)
        piece = seed.searchSubtree(self._pick(seed))
        fitting = [p for p, node in enumerate(parent) if node.ret is seed[piece.start].ret]
        if not fitting:
            return parent
        old = parent.searchSubtree(self.rng.choice(fitting))
        return _replace(parent, old, seed[piece])

    @_retried
    def factor(self, parent: Individual) -> Individual:
        """Multiply or divide a subtree by a part that reads other measurements.

        In half of all cases the subtree is the whole tree.
        """
        whole = self.rng.random() < 0.5
        old = parent.searchSubtree(0 if whole else self._pick(parent))
        axes = self._axes(parent[old.start])
        product = self.generator.product_of(axes, axes)
        if product is None:
            return parent
        kept = self.rng.choice([p for p, type_ in enumerate(product.arguments) if type_ is axes])
        new = self.generator.factor(product.arguments[1 - kept])
        if not unlike(self.grammar, parent[old], new):
            return parent
        parts = [parent[old], new] if kept == 0 else [new, parent[old]]
        return _replace(parent, old, [self.grammar.nodes[product.name], *parts[0], *parts[1]])

    def _pick(self, tree: Individual) -> int:
        """Return the position of a random node, an inner one nine times in ten."""
        inner = [position for position, node in enumerate(tree) if node.arity > 0]
        if inner and self.rng.random() < _INNER_SHARE:
            return self.rng.choice(inner)
        return self.rng.randrange(len(tree))

    def _axes(self, node: Any) -> Axes:
        return self.grammar.axes_of[node.ret]


def _replace(tree: Individual, old: slice, nodes: Sequence[Any]) -> Individual:
    """Return a new tree in which the nodes of a subtree are replaced."""
    return Individual([*list(tree)[: old.start], *nodes, *list(tree)[old.stop :]])


def _replace_node(tree: Individual, position: int, node: Any) -> Individual:
    return _replace(tree, slice(position, position + 1), [node])


def _same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(
        a.name == b.name and a.ret is b.ret for a, b in zip(first, second, strict=True)
    )
