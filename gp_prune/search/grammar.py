"""The typed DEAP primitive set, generated from the vocabulary.

Every production is one DEAP primitive: an operator with its bracketed axes and the types of its
arguments. The types are the legal axis sets, one class each, always walked in the order of their
names, so that no run depends on the hash seed.
"""

from __future__ import annotations

import difflib
import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
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
from gp_prune.language.record import FAMILIES, families_of


class ObjectivesFitness(base.Fitness):  # type: ignore[misc]
    """Any number of objectives, all minimised."""

    weights = ()

    def _get(self) -> tuple[float, ...]:
        return tuple(-value for value in self.wvalues)

    def _set(self, values: Sequence[float]) -> None:
        self.wvalues = tuple(-value for value in values)

    def _delete(self) -> None:
        self.wvalues = ()

    values = property(_get, _set, _delete)


class Individual(gp.PrimitiveTree):  # type: ignore[misc]
    """A DEAP tree in prefix order, with its fitness.

    Attributes:
        origin: the variation operator that it comes from; empty for none.
        parents: the texts of the formulas that it was made of.
    """

    def __init__(self, nodes: Collection[Any], origin: str = "") -> None:
        super().__init__(nodes)
        self.fitness = ObjectivesFitness()
        self.origin = origin
        self.parents: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class Vocabulary:
    """Which part of the vocabulary is searched.

    Attributes:
        operands: names of operands; empty for all.
        operators: names of operators; empty for all.
        exclude: what is left out of these: names of operands and operators, and families of
            operands, see :data:`gp_prune.language.record.FAMILIES`.
    """

    operands: Collection[str] = ()
    operators: Collection[str] = ()
    exclude: Collection[str] = ()

    def has_operand(self, operand: Operand) -> bool:
        """Tell whether an operand is searched."""
        names = {operand.name, *families_of(operand.needs)}
        wanted = not self.operands or operand.name in self.operands
        return wanted and not names.intersection(self.exclude)

    def has_operator(self, operator: Operator) -> bool:
        """Tell whether an operator is searched."""
        wanted = not self.operators or operator.name in self.operators
        return wanted and operator.name not in self.exclude

    def check(self, primitives: PrimitiveSet) -> None:
        """Raise UserError where a name is unknown, or cannot be searched."""
        operands, operators = primitives.operands, primitives.operators
        for setting, names, known in (
            ("operand", self.operands, [*operands]),
            ("operator", self.operators, [*operators]),
            ("excluded", self.exclude, [*operands, *operators, "weights", *FAMILIES]),
        ):
            for name in names:
                if name not in known:
                    close = difflib.get_close_matches(name, known, n=1)
                    hint = f" (did you mean {close[0]!r}?)" if close else ""
                    raise UserError(
                        f"{setting} {name!r} is unknown{hint}; 'gp-prune list --operands' shows "
                        "all operands and their families, and 'gp-prune list --operators' all "
                        "operators"
                    )
        for name in self.operands:
            if not operands[name].searchable:
                raise UserError(
                    f"operand {name!r} is {operands[name].meaning}, and is no part of any search; "
                    "leave it out"
                )


class Grammar:
    """The grammar of one search.

    Args:
        primitives: the vocabulary.
        root: type of the trees: {o}, {o,i,k} or {}. Only in the last one there are operands of the
            place of a layer in the network.
        measured: measurements that the tasks offer, keys of :data:`gp_prune.language.record.NEEDS`;
            operands that need others are left out.
        max_cost: operators with a greater declared cost are left out.
        vocabulary: which operands and operators are searched; None for all.

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
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self.primitives = primitives
        self.root = root
        vocabulary = vocabulary or Vocabulary()
        vocabulary.check(primitives)
        measured = set(measured) - ({"network"} if root is not SCALAR else set())
        operands = [
            operand
            for operand in primitives.operands.values()
            if operand.searchable and operand.needs <= measured and vocabulary.has_operand(operand)
        ]
        operators = [
            operator
            for operator in primitives.operators.values()
            if operator.cost <= max_cost and vocabulary.has_operator(operator)
        ]
        productions = [
            production for operator in operators for production in productions_of(operator)
        ]
        self.least_height = _least_heights(operands, productions)
        if root not in self.least_height or not operators:
            raise OutsideGrammar(
                f"no formula of axes {root} can be built from the operands "
                f"{', '.join(operand.name for operand in operands) or '(none)'} and the operators "
                f"{', '.join(operator.name for operator in operators) or '(none)'}; exclude less, "
                "or name more operands and operators"
            )
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
