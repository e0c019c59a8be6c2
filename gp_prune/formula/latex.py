"""Write trees as exact sympy formulas, and print those as LaTeX.

A formula uses the indexed symbols and the functions of :mod:`gp_prune.language.symbols`; it
computes exactly what its tree computes, protected operators included.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import sympy

from gp_prune.formula.intervals import Interval, Intervals
from gp_prune.formula.line_breaking import width_of
from gp_prune.formula.printer import Printer, escape, fill, is_extreme, sign_of, values_of_extreme
from gp_prune.language import symbols
from gp_prune.language.axes import Signature
from gp_prune.language.expression import Expression, ExpressionError
from gp_prune.language.primitive import Operand, Operator, PrimitiveSet
from gp_prune.language.symbols import Scope

DIGITS = 3
"""Significant digits of printed constants; the files of metrics have all."""

MAX_TERMS = 10_000
"""Formulas that grow larger are refused; what a search may build is far smaller."""


def to_sympy(expression: Expression) -> Any:
    """Return the tree as a sympy formula; the axes of the root are written ``o``, ``i``, ``k``.

    Raises:
        ExpressionError: nested distances make the formula too large to write.
    """
    return _Writer().write(expression, Scope.of(expression.axes))


class _Writer:
    """A writer of trees; what is asked for twice in the same scope is written once.

    Args:
        names: trees that are written as one symbol, which has their indices.
        plain: whether the larger or the smaller of values that are one value, as of two equal
            terms or of two numbers, is written as that value.
    """

    def __init__(
        self, names: Mapping[Expression, str] | None = None, *, plain: bool = False
    ) -> None:
        self._written: dict[Hashable, Any] = {}
        self._names = names or {}
        self._plain = plain
        self.uses = Counter[Expression]()
        """How often each tree was asked for."""

    def write(self, node: Expression, scope: Scope) -> Any:
        scope = Scope({letter: scope.current[letter] for letter in node.axes}, scope.taken)
        self.uses[node] += 1
        if node in self._names:
            return symbols.indexed(self._names[node], scope.indices(node.axes))
        key = node, tuple(scope.current.items()), scope.taken
        if key not in self._written:
            self._written[key] = self._formula(node, scope)
        return self._written[key]

    def write_root(self, root: Expression) -> Any:
        """Return the formula of a tree, written out even where it has a name."""
        return self._formula(root, Scope.of(root.axes))

    def _formula(self, node: Expression, scope: Scope) -> Any:
        if node.value is not None:
            return _number(node.value)
        if isinstance(node.head, Operand):
            return symbols.indexed(node.name, scope.indices(node.axes))
        assert isinstance(node.head, Operator)
        arguments: list[Callable[[Scope], Any]] = [
            partial(self.write, child) for child in node.arguments
        ]
        formula = node.head.write(arguments, scope, node.over)
        if isinstance(node.head.shape, Signature) and symbols.is_long(formula, MAX_TERMS):
            raise ExpressionError(
                f"the formula of {node.head.name!r} has more than {MAX_TERMS} terms because its "
                "argument is written more than once at each level; nest it less deeply"
            )
        if self._plain and is_extreme(formula):
            values = values_of_extreme(formula)
            return values[0] if len(values) == 1 else formula
        return formula


def _number(value: float) -> Any:
    """Return a constant, exact where it is a whole number that a person would write out."""
    whole = value.is_integer() and abs(value) < 1e15
    return sympy.Integer(int(value)) if whole else sympy.Float(value)


@dataclass(frozen=True)
class Printed:
    """A formula as LaTeX, without dollar signs.

    Attributes:
        formula: the formula.
        where: the terms that it names, as equations such as ``z_{o} = ...``.
        notes: sentences that must stand below it, mathematics between dollar signs: what the
            functions compute where that is not plain from their signs, and rounded constants.
        definitions: formulas that define the functions that are not common knowledge.
    """

    formula: str
    where: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    definitions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Return the formula and its named terms in one line."""
        if not self.where:
            return self.formula
        where = r", \quad ".join(self.where)
        return rf"{self.formula}, \quad \text{{where }} {where}"


def print_latex(
    expression: Expression,
    primitives: PrimitiveSet,
    *,
    digits: int | None = DIGITS,
    name_terms: bool = True,
) -> Printed:
    """Return the LaTeX of a tree with all that must be said below it.

    Args:
        expression: the tree.
        primitives: the operands and operators that it may use.
        digits: significant digits of constants that are not whole; None for all.
        name_terms: whether a wide term that occurs more than once gets a name.
    """
    if name_terms:
        names, written = _name_terms(expression, primitives)
    else:
        names, written = {}, [_Writer(plain=True).write_root(expression)]
    pairs = zip([expression, *names], written, strict=True)
    roots, formulas = zip(*sorted(pairs, key=lambda pair: pair[0].size), strict=True)
    named: dict[str, Interval] = {}
    for root, formula in zip(roots[:-1], formulas[:-1], strict=True):
        named[names[root]] = Intervals(primitives, named).of(formula)
    printer = Printer(primitives, formulas, named, digits)
    *terms, text = map(printer.doprint, formulas)
    signs = [
        printer.doprint(symbols.indexed(names[root], Scope.of(root.axes).indices(root.axes)))
        for root in roots[:-1]
    ]
    where = [f"{sign} = {term}" for sign, term in zip(signs, terms, strict=True)][::-1]
    lines = dict.fromkeys(line for f in formulas for line in _definitions(f, primitives, printer))
    return Printed(text, tuple(where), printer.said(), tuple(lines))


def formula_latex(formula: Any, primitives: PrimitiveSet, digits: int | None = None) -> str:
    """Return the LaTeX of a sympy formula, operands by the symbols that they declare."""
    return str(Printer(primitives, [formula], digits=digits).doprint(formula))


def latex(
    expression: Expression,
    primitives: PrimitiveSet,
    *,
    digits: int | None = DIGITS,
    name_terms: bool = True,
) -> str:
    """Return the LaTeX of a tree (mathematics only, without dollar signs) in one line.

    The arguments are those of :func:`print_latex`.
    """
    return print_latex(expression, primitives, digits=digits, name_terms=name_terms).text


_LETTERS = "zyxvuw"
_WIDE = 50.0
"""The least width in points of a term that gets a name where it occurs twice."""
_ALWAYS_WIDE = 8
"""Nodes of a tree beyond which its formula is never narrower, so that it is not printed to see."""


def _name_terms(
    expression: Expression, primitives: PrimitiveSet
) -> tuple[dict[Expression, str], list[Any]]:
    """Return names for the wide terms that the printed formula has more than once.

    Operators such as normalisers write their argument several times, so this is asked of what is
    written, not of the tree. The largest terms come first, since naming them leaves less to name. A
    name must make the whole shorter, which it does not where sympy joins both terms to one. Also
    returns the formulas of the tree and of the terms, in their order.
    """
    heads = [node.head for node in expression.nodes()]
    taken = " ".join(f"{x.name} {x.latex}" for x in heads if isinstance(x, Operand))
    # The printer takes a name that any operand has for that operand, also one that is not here.
    free = [x for x in _LETTERS if x not in primitives.operands]
    letters = [x for x in free if not re.search(rf"(?<![A-Za-z\\]){x}(?![A-Za-z])", taken)]
    names: dict[Expression, str] = {}
    formulas, uses = _write_named(expression, names)
    refused: set[Expression] = {expression}
    while letters:
        repeated = [
            node
            for node, count in uses.items()
            if count > 1 and node.axes and isinstance(node.head, Operator)
            if node not in names and node not in refused
        ]
        if not repeated:
            break
        node = max(repeated, key=lambda node: (node.size, str(node)))
        if not _is_wide(node, primitives):
            refused.add(node)
            continue
        trial = {**names, node: letters[0]}
        trial_formulas, trial_uses = _write_named(expression, trial)
        if _length(trial_formulas, primitives) < _length(formulas, primitives):
            names, formulas, uses = trial, trial_formulas, trial_uses
            letters.pop(0)
        else:
            refused.add(node)
    return names, formulas


def _write_named(
    expression: Expression, names: Mapping[Expression, str]
) -> tuple[list[Any], Counter[Expression]]:
    """Return the formulas of a tree and of the terms with names, and how often each is written."""
    writer = _Writer(names, plain=True)
    return [writer.write_root(root) for root in [expression, *names]], writer.uses


def _is_wide(node: Expression, primitives: PrimitiveSet) -> bool:
    if node.size > _ALWAYS_WIDE:
        return True
    written = _Writer(plain=True).write_root(node)
    return width_of(formula_latex(written, primitives, DIGITS)) >= _WIDE


def _length(formulas: list[Any], primitives: PrimitiveSet) -> int:
    """Return the letters of LaTeX in formulas."""
    return sum(len(formula_latex(formula, primitives, DIGITS)) for formula in formulas)


def definitions(formula: Any, primitives: PrimitiveSet) -> list[str]:
    """Return LaTeX lines that define the functions of a formula that are not common knowledge.

    First come functions of single entries, then those over bound indices, then normalisers; in
    each group those of cheap operators first.
    """
    return _definitions(formula, primitives, Printer(primitives, [formula]))


def _definitions(formula: Any, primitives: PrimitiveSet, printer: Printer) -> list[str]:
    parts = (part for part in sympy.preorder_traversal(formula) if printer.light(part) is None)
    used: dict[Any, None] = dict.fromkeys(map(type, parts))
    operators = {operator.symbol: operator for operator in primitives.operators.values()}
    bases = (symbols.RealFunction, symbols.OverAxes, symbols.BoundArguments, symbols.AlongAxes)
    groups = {kind: group for group, base in enumerate(bases) for kind in _derived(base)}

    def rank(kind: type) -> tuple[int, float]:
        return groups[kind], operators[kind].cost if kind in operators else 1.0

    kinds: list[Any] = [kind for kind in used if kind not in groups]
    kinds += sorted((kind for kind in groups if kind in used), key=rank)
    lines = [_definition(kind, operators.get(kind)) for kind in kinds]
    return list(dict.fromkeys(line for line in lines if line))


def _derived(base: type) -> Iterator[type]:
    """Yield the classes derived from a base in the order of their declaration."""
    kind: type
    for kind in base.__subclasses__():
        yield kind
        yield from _derived(kind)


def _definition(kind: type, operator: Operator | None) -> str | None:
    """Return the stated definition of a function, or what its operator means."""
    stated = getattr(kind, "definition", None)
    if operator is None or stated is not None:
        return stated
    if operator.definition is not None:
        return operator.definition
    name = sign_of(kind, operator) or rf"\operatorname{{{kind.__name__}}}"
    return rf"{fill(name, 'abcd')}\colon \text{{{escape(operator.meaning)}}}"
