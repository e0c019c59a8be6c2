"""Crossover and mutation that keep types and limits and leave parents unchanged.

Every operator draws from the explicit random source, tries a few times, and answers a copy of its
parent where nothing valid and different was found.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from gp_prune.language.axes import Axes
from gp_prune.search.generator import Generator, draw_constant, is_finite_number, three_digits
from gp_prune.search.grammar import Constant, Grammar, Individual

CROSSOVER = "crossover"

TRIES = 10
_INNER_SHARE = 0.9


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
        }

    def mutate(self, parent: Individual) -> Individual:
        """A mutant by one of the operators, drawn by weight among those that apply."""
        names = [name for name, (_, weight) in self.mutations.items() if weight > 0]
        weights = [self.mutations[name][1] for name in names]
        (name,) = self.rng.choices(names, weights)
        return self.apply(name, parent)

    def apply(self, name: str, parent: Individual) -> Individual:
        """A mutant by the operator of that name."""
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
            children = _replaced(first, here, second[there]), _replaced(second, there, first[here])
            if all(self.generator.limits.hold(child) for child in children):
                return children
        return Individual(first), Individual(second)

    def subtree(self, parent: Individual) -> Individual:
        """Replace a subtree by a random one of the same type."""

        def change() -> Individual:
            place = parent.searchSubtree(self._pick(parent))
            axes = self._axes(parent[place.start])
            room = self.generator.limits.size - len(parent) + (place.stop - place.start)
            fresh = self.generator.subtree(axes, self.rng.randint(0, 4), size=room)
            return _replaced(parent, place, fresh)

        return self._attempt(parent, change)

    def node(self, parent: Individual) -> Individual:
        """Replace one node by another of the same argument types and result."""

        def change() -> Individual:
            position = self.rng.randrange(len(parent))
            node = parent[position]
            fresh: Any
            if node.arity == 0:
                fresh = self.generator.leaf(self._axes(node))
            else:
                options = [
                    other
                    for other in self.grammar.deap.primitives[node.ret]
                    if other.args == node.args and other.name != node.name
                ]
                fresh = self.rng.choice(options) if options else node
            return _replaced(parent, slice(position, position + 1), [fresh])

        return self._attempt(parent, change)

    def constant_step(self, parent: Individual) -> Individual:
        """Scale a constant by a log-normal factor; a tree without constants mutates a subtree.

        A constant that cannot be scaled (zero, or too large) is drawn anew.
        """
        places = [position for position, node in enumerate(parent) if isinstance(node, Constant)]
        if not places:
            return self.subtree(parent)

        def change() -> Individual:
            position = self.rng.choice(places)
            value = three_digits(parent[position].value * self.rng.lognormvariate(0.0, 0.5))
            if value == 0.0 or not is_finite_number(value):
                value = draw_constant(self.rng)
            return _replaced(parent, slice(position, position + 1), [self.grammar.constant(value)])

        return self._attempt(parent, change)

    def insert(self, parent: Individual) -> Individual:
        """Put a new operator above a subtree, of which the subtree becomes an argument."""

        def change() -> Individual:
            place = parent.searchSubtree(self._pick(parent))
            axes = self._axes(parent[place.start])
            production = self.generator.production(axes, self.generator.limits.height)
            if production is None or axes not in production.arguments:
                return Individual(parent)
            slots = [p for p, type_ in enumerate(production.arguments) if type_ is axes]
            kept = self.rng.choice(slots)
            fresh: list[Any] = [self.grammar.nodes[production.name]]
            for position, type_ in enumerate(production.arguments):
                fresh += (
                    parent[place] if position == kept else self.generator.subtree(type_, 1, size=10)
                )
            return _replaced(parent, place, fresh)

        return self._attempt(parent, change)

    def shrink(self, parent: Individual) -> Individual:
        """Replace a subtree by a smaller one of the same type inside it."""

        def change() -> Individual:
            place = parent.searchSubtree(self._pick(parent))
            inner = [
                position
                for position in range(place.start + 1, place.stop)
                if parent[position].ret is parent[place.start].ret
            ]
            if not inner:
                return Individual(parent)
            kept = parent.searchSubtree(self.rng.choice(inner))
            return _replaced(parent, place, parent[kept])

        return self._attempt(parent, change)

    def graft(self, parent: Individual) -> Individual:
        """Replace a subtree by a piece of a seed, of the same type."""

        def change() -> Individual:
            seed = self.rng.choice(self.seeds)
            piece = seed.searchSubtree(self._pick(seed))
            places = [p for p, node in enumerate(parent) if node.ret is seed[piece.start].ret]
            if not places:
                return Individual(parent)
            place = parent.searchSubtree(self.rng.choice(places))
            return _replaced(parent, place, seed[piece])

        return self._attempt(parent, change)

    def _attempt(self, parent: Individual, change: Callable[[], Individual]) -> Individual:
        """The first of a few changes that keeps within the limits and differs from the parent."""
        for _ in range(TRIES):
            child = change()
            if self.generator.limits.hold(child) and not _same(child, parent):
                return child
        return Individual(parent)

    def _pick(self, tree: Individual) -> int:
        """The position of a random node, an inner one nine times in ten."""
        inner = [position for position, node in enumerate(tree) if node.arity > 0]
        if inner and self.rng.random() < _INNER_SHARE:
            return self.rng.choice(inner)
        return self.rng.randrange(len(tree))

    def _axes(self, node: Any) -> Axes:
        return self.grammar.axes_of[node.ret]


def _replaced(tree: Individual, place: slice, nodes: Sequence[Any]) -> Individual:
    """A new tree in which the subtree at ``place`` is replaced."""
    return Individual([*list(tree)[: place.start], *nodes, *list(tree)[place.stop :]])


def _same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(
        a.name == b.name and a.ret is b.ret for a, b in zip(first, second, strict=True)
    )
