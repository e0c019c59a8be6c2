"""The typed DEAP primitive set, generated from the vocabulary.

Every production is one DEAP primitive: an operator with its bracketed axes and the types of its
arguments. The types are the legal axis sets, one class each, always walked in the order of their
names, so that no run depends on the hash seed.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from deap import base, gp

from gp_prune.errors import UserError
from gp_prune.language.axes import (
    LEGAL_AXES,
    SCALAR,
    Axes,
    Elementwise,
    Normaliser,
    Reduction,
    Signature,
)
from gp_prune.language.expression import Expression
from gp_prune.language.primitive import Operand, Operator, PrimitiveSet


class ObjectivesFitness(base.Fitness):  # type: ignore[misc]
    """Three objectives, all minimised: error, MACs kept, parameters kept."""

    weights = (-1.0, -1.0, -1.0)


class Individual(gp.PrimitiveTree):  # type: ignore[misc]
    """A DEAP tree in prefix order, with its fitness.

    Attributes:
        origin: the variation operator that it comes from; empty for none.
    """

    def __init__(self, nodes: Collection[Any], origin: str = "") -> None:
        super().__init__(nodes)
        self.fitness = ObjectivesFitness()
        self.origin = origin


class Constant(gp.Terminal):  # type: ignore[misc]
    """A number in a tree."""

    __slots__ = ()

    def __init__(self, value: float, type_: type) -> None:
        super().__init__(value, False, type_)


@dataclass(frozen=True)
class Production:
    """One typed use of an operator: ``sum[i,k]`` from {o,i,k} to {o}."""

    operator: Operator
    over: Axes
    arguments: tuple[Axes, ...]
    result: Axes

    @property
    def name(self) -> str:
        """Return a name that is unique in the set."""
        brackets = f"[{','.join(self.over)}]" if self.over else ""
        types = ",".join(axes.letters or "1" for axes in self.arguments)
        return f"{self.operator.name}{brackets}:{types}"


class OutsideGrammar(UserError):
    """An expression uses something that this search leaves out."""


class Grammar:
    """The grammar of one search.

    Args:
        primitives: the vocabulary.
        root: type of the trees, {o} or {o,i,k}.
        measured: measurements that the tasks offer, keys of :data:`gp_prune.language.record.NEEDS`;
            operands that need others are left out.
        max_cost: operators with a greater declared cost are left out.

    Attributes:
        primitives: the vocabulary.
        deap: the DEAP primitive set.
        types: the types that trees of the root type can contain, in order.
        least_height: for each type, the least height of a complete tree.
    """

    def __init__(
        self,
        primitives: PrimitiveSet,
        root: Axes,
        measured: Collection[str],
        max_cost: float = float("inf"),
    ) -> None:
        self.primitives = primitives
        self.root = root
        operands = [
            operand
            for operand in primitives.operands.values()
            if operand.searchable and operand.needs <= set(measured)
        ]
        productions = [
            production
            for operator in primitives.operators.values()
            if operator.cost <= max_cost
            for production in productions_of(operator)
        ]
        self.least_height = _least_heights(operands, productions)
        if root not in self.least_height:
            raise OutsideGrammar(f"no expression of axes {root} can be built from the operands")
        used = _used_types(root, productions, set(self.least_height))
        self.types = tuple(sorted(used))
        self.classes = {axes: type(f"Axes_{axes.letters}", (), {}) for axes in self.types}
        self.axes_of = {class_: axes for axes, class_ in self.classes.items()}
        self.deap = gp.PrimitiveSetTyped("metric", [], self.classes[root])
        self.productions: dict[str, Production] = {}
        self.nodes: dict[str, gp.Primitive] = {}
        self.operands: dict[str, Operand] = {}
        self._fill(operands, [p for p in productions if {p.result, *p.arguments} <= used])
        self.by_result = self._by_result()

    def _fill(self, operands: list[Operand], productions: list[Production]) -> None:
        for production in productions:
            arguments = [self.classes[axes] for axes in production.arguments]
            result = self.classes[production.result]
            self.deap.addPrimitive(production.operator.compute, arguments, result, production.name)
            self.nodes[production.name] = self.deap.mapping[production.name]
            self.productions[production.name] = production
        for operand in operands:
            if operand.axes in self.classes:
                self.deap.addTerminal(operand.name, self.classes[operand.axes], operand.name)
                self.operands[operand.name] = operand

    def _by_result(self) -> dict[Axes, dict[str, list[Production]]]:
        """Return the productions by type of the result, then by operator, in order of name."""
        table: dict[Axes, dict[str, list[Production]]] = {axes: {} for axes in self.types}
        for name in sorted(self.productions):
            production = self.productions[name]
            table[production.result].setdefault(production.operator.name, []).append(production)
        return table

    def terminals(self, axes: Axes) -> list[Any]:
        """Return the operand leaves of a type, in order of name; constants are not among them."""
        terminals = self.deap.terminals[self.classes[axes]]
        return sorted(terminals, key=lambda terminal: str(terminal.name))

    def constant(self, value: float) -> Constant:
        """Return a leaf that holds a number."""
        return Constant(value, self.classes[SCALAR])

    def to_expression(self, tree: Any) -> Expression:
        """Return the expression of a DEAP tree."""
        stack: list[Expression] = []
        for node in reversed(tree):
            if isinstance(node, Constant):
                stack.append(Expression.constant(node.value))
            elif node.arity == 0:
                stack.append(Expression.of(self.operands[node.name]))
            else:
                production = self.productions[node.name]
                arguments = [stack.pop() for _ in range(node.arity)]
                stack.append(Expression(production.operator, production.over, arguments))
        (expression,) = stack
        return expression

    def from_expression(self, expression: Expression) -> Individual:
        """Return the DEAP tree of an expression.

        Raises:
            OutsideGrammar: it uses an operand or a production that this grammar leaves out.
        """
        return Individual([self._node(node) for node in expression.nodes()])

    def _node(self, node: Expression) -> Any:
        if node.value is not None:
            if SCALAR not in self.classes:
                raise OutsideGrammar("this grammar has no constants")
            return self.constant(node.value)
        if isinstance(node.head, Operand):
            if node.name not in self.operands:
                raise OutsideGrammar(f"operand {node.name!r} is not part of this search")
            return self.deap.mapping[node.name]
        assert node.head is not None
        arguments = tuple(argument.axes for argument in node.arguments)
        name = Production(node.head, node.over, arguments, node.axes).name
        if name not in self.nodes:
            raise OutsideGrammar(f"{name} is not part of this search")
        return self.nodes[name]


def productions_of(operator: Operator) -> Iterator[Production]:
    """Yield every typed use of an operator whose types are all legal."""
    shape = operator.shape
    if isinstance(shape, Signature):
        yield Production(operator, SCALAR, shape.arguments, shape.to)
    elif isinstance(shape, Elementwise):
        for arguments in itertools.product(LEGAL_AXES, repeat=shape.arity):
            result = shape.result(SCALAR, arguments)
            if result is not None:
                yield Production(operator, SCALAR, arguments, result)
    else:
        for axes in LEGAL_AXES:
            for over in _brackets(shape, axes):
                result = shape.result(over, [axes])
                if result is not None:
                    yield Production(operator, over, (axes,), result)


def _brackets(shape: Reduction | Normaliser, axes: Axes) -> list[Axes]:
    """Return the bracketed axes that a search tries on a value of a type."""
    subsets = [
        Axes("".join(chosen))
        for count in range(1, len(axes) + 1)
        for chosen in itertools.combinations(axes, count)
    ]
    if isinstance(shape, Reduction):
        return subsets
    channel = Axes("o")
    return [over for over in subsets if over in (axes, channel, axes - channel)]


def _least_heights(operands: list[Operand], productions: list[Production]) -> dict[Axes, int]:
    heights: dict[Axes, int] = {operand.axes: 0 for operand in operands}
    heights[SCALAR] = 0
    changed = True
    while changed:
        changed = False
        for production in productions:
            if all(axes in heights for axes in production.arguments):
                height = 1 + max(heights[axes] for axes in production.arguments)
                if height < heights.get(production.result, height + 1):
                    heights[production.result] = height
                    changed = True
    return heights


def _used_types(root: Axes, productions: list[Production], possible: set[Axes]) -> set[Axes]:
    """Return the types that can occur in a complete tree of the root type."""
    by_result: dict[Axes, list[Production]] = defaultdict(list)
    for production in productions:
        by_result[production.result].append(production)
    used = {root}
    fresh = [root]
    while fresh:
        for production in by_result[fresh.pop()]:
            if possible.issuperset(production.arguments):
                new = set(production.arguments) - used
                used |= new
                fresh.extend(sorted(new))
    return used
