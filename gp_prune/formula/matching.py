"""Find the operator whose written-out form a sympy term is.

Normalisers and distances have no sympy function of their own: ``min_max[o](b)`` is a quotient of
differences. Such a term is recognised in two steps: the form of the operator, laid over the term,
says where its argument may stand; then the operator writes itself for that argument, and the
result must be the very term, but for the names of bound indices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import sympy

from gp_prune.language import symbols
from gp_prune.language.axes import AXIS_MEANING, Axes
from gp_prune.language.primitive import (
    Elementwise,
    Normaliser,
    Operator,
    PrimitiveSet,
    Reduction,
    Signature,
)
from gp_prune.language.symbols import Scope

_PLAIN = (sympy.Add, sympy.Mul, sympy.Pow, sympy.Sum)


class Wildcard(sympy.Expr):  # type: ignore[misc]
    """An argument of an operator in its written form: position, then the indices it is read at."""

    is_real = True
    is_commutative = True

    def __new__(cls, position: Any, *indices: Any) -> Wildcard:
        """A hole for the argument at ``position``."""
        return sympy.Expr.__new__(cls, sympy.Integer(position), *indices)  # type: ignore[no-any-return]

    @property
    def indices(self) -> tuple[sympy.Symbol, ...]:
        """The index symbols at which the argument stands here."""
        return tuple(index for index in self.args[1:] if index.is_Symbol)


class _NonnegativeWildcard(Wildcard):
    """An argument that is never negative."""

    is_nonnegative = True


_X, _Y = Wildcard(0), Wildcard(1)

_ROLES: dict[str, Any] = {
    "add": _X + _Y,
    "subtract": _X - _Y,
    "multiply": _X * _Y,
    "negate": -_X,
    "square": _X**2,
    "magnitude": symbols.magnitude(_X),
    "tanh": sympy.tanh(_X, evaluate=False),
}
"""What an elementwise operator computes, by the form that it writes in functions of sympy."""


def role_of(form: Any) -> str:
    """Return what a form computes by its class, for example ``"divide"``; empty if unknown."""
    role: str = getattr(form, "role", "")
    if not role or isinstance(form, symbols.OverAxes):
        return role
    places = {"x": _X, "y": _Y}
    arguments = form.role_arguments or tuple(places)[: len(form.args)]
    return role if form.args == tuple(places.get(a, a) for a in arguments) else ""


class OperatorPatterns:
    """The forms that the operators of a set write, and what is known of them.

    Attributes:
        by_role: an operator for every role: what elementwise ones and reductions compute
            (``"add"``, ``"square"``, ``"total"``, ``"largest"``, ...).
        roles: the role of an operator by its name.
        nonnegative: names of operators whose value is never negative.
        indicators: names of those whose value is 0 or 1.
        sign_keeping: names of those whose value is not negative where no argument is.
        odd: names of those with f(-x) = -f(x).
        idempotent: names of those that leave their own result as it is.
        bounds: the smallest and the largest value of operators by name.
        functions: elementwise operators with a sympy function of their own, with their form.
        over: operators by the sympy class that is a name for them.
        written: normalisers and operators of fixed types that are written out.
    """

    def __init__(self, primitives: PrimitiveSet) -> None:
        self.by_role: dict[str, Operator] = {}
        self.roles: dict[str, str] = {}
        self.nonnegative: set[str] = set()
        self.sign_keeping: set[str] = set()
        self.indicators: set[str] = set()
        self.odd: set[str] = set()
        self.idempotent: set[str] = set()
        self.bounds: dict[str, tuple[float, float]] = {}
        self.functions: dict[type, list[tuple[Operator, Any]]] = {}
        self.over: dict[type, Operator] = {}
        self.written: list[Operator] = []
        for operator in primitives.operators.values():
            if isinstance(operator.shape, Elementwise):
                self._learn_elementwise(operator)
            elif isinstance(operator.shape, Reduction):
                self._learn_reduction(operator)
            else:
                self._learn_written(operator)
            self._learn_signs(operator)

    def _learn_role(self, operator: Operator, role: str) -> None:
        if role:
            self.by_role.setdefault(role, operator)
            self.roles.setdefault(operator.name, role)

    def _learn_signs(self, operator: Operator) -> None:
        over = Axes("o") if operator.shape.bracketed else Axes("")
        to = operator.shape.to if isinstance(operator.shape, Signature) else over
        scope = Scope.of(Axes("") if isinstance(operator.shape, Reduction) else to)
        form = form_of(operator, over, scope)
        if getattr(form, "is_indicator", False):
            self.indicators.add(operator.name)
        if symbols.nonnegative(form):
            self.nonnegative.add(operator.name)
        if symbols.nonnegative(form_of(operator, over, scope, kind=_NonnegativeWildcard)):
            self.sign_keeping.add(operator.name)

    def _learn_elementwise(self, operator: Operator) -> None:
        form = form_of(operator, Axes(""), Scope({}))
        role = next((role for role, known in _ROLES.items() if form == known), role_of(form))
        self._learn_role(operator, role)
        if not isinstance(form, _PLAIN):
            self.functions.setdefault(type(form), []).append((operator, form))
            if all(isinstance(argument, Wildcard) for argument in form.args):
                self._learn_traits(operator, form)

    def _learn_reduction(self, operator: Operator) -> None:
        form = form_of(operator, Axes("o"), Scope({}))
        bound = symbols.index("o")
        hole = Wildcard(0, bound)
        roles = {
            "total": symbols.total(hole, bound),
            "mean": symbols.mean(hole, bound),
            "norm": sympy.sqrt(symbols.total(hole**2, bound)),
            "magnitudes": symbols.total(symbols.magnitude(hole), bound),
        }
        for role, known in roles.items():
            if form == known:
                self._learn_role(operator, role)
        self._learn_name(operator, form)

    def _learn_written(self, operator: Operator) -> None:
        if isinstance(operator.shape, Normaliser):
            scope = Scope.of(Axes("o"))
            self._learn_name(operator, form_of(operator, Axes("o"), scope, symbols.LONG))
            form = form_of(operator, Axes("o"), scope)
        else:
            assert isinstance(operator.shape, Signature)
            form = form_of(operator, Axes(""), Scope.of(operator.shape.to))
            if len(operator.shape.arguments) == 1:
                self._learn_name(operator, form)
        if type(form) not in self.over:
            self.written.append(operator)

    def _learn_name(self, operator: Operator, form: Any) -> None:
        if isinstance(form, symbols.OverAxes) and isinstance(form.body, Wildcard):
            self.over.setdefault(type(form), operator)
            self._learn_role(operator, role_of(form))
            self._learn_traits(operator, form)

    def _learn_traits(self, operator: Operator, form: Any) -> None:
        """Learn what the class of a form states, where the form is nothing but that function."""
        if getattr(form, "odd", False):
            self.odd.add(operator.name)
        if getattr(form, "idempotent", False):
            self.idempotent.add(operator.name)
        if isinstance(form, symbols.Notation):
            self.bounds[operator.name] = form.bounds

    def function(self, term: Any) -> tuple[Operator, list[Any]] | None:
        """The elementwise operator of a term with a function of its own, and the arguments."""
        for operator, form in self.functions.get(type(term), ()):
            found: dict[int, Any] = {}
            if _fits(form, term, found) and len(found) == operator.shape.arity:
                return operator, [found[position] for position in range(len(found))]
        return None


def argument_axes(operator: Operator, over: Axes) -> tuple[Axes, ...]:
    """The axes whose indices a hole shows, for each argument of an operator."""
    if isinstance(operator.shape, Signature):
        return operator.shape.arguments
    return (over,) * operator.shape.arity


def form_of(
    operator: Operator, over: Axes, scope: Scope, padding: int = 0, kind: type[Wildcard] = Wildcard
) -> Any:
    """What an operator writes for holes.

    Args:
        operator: the operator.
        over: the axes in its brackets.
        scope: the indices of its result.
        padding: with so many more nodes, holes are long terms.
        kind: the kind of hole.
    """

    def hole(position: int, letters: Axes) -> Any:
        zeros = [sympy.Integer(0)] * padding
        return lambda inner: kind(position, *inner.indices(letters), *zeros)

    letters = argument_axes(operator, over)
    return operator.write([hole(*place) for place in enumerate(letters)], scope, over)


def _fits(form: Any, term: Any, found: dict[int, Any]) -> bool:
    """Whether a term has the shape of a form; what stands in its holes goes to ``found``."""
    if isinstance(form, Wildcard):
        return bool(found.setdefault(int(form.args[0]), term) == term)
    if not form.args or type(form) is not type(term) or len(form.args) != len(term.args):
        return bool(form == term)
    return all(_fits(f, t, found) for f, t in zip(form.args, term.args, strict=True))


class Argument(NamedTuple):
    """An argument that was found in a formula.

    Attributes:
        term: the argument as a formula.
        indices: the name of the index that stands for each axis letter in it.
    """

    term: Any
    indices: dict[str, str]


def written_out(
    operators: Iterable[Operator], term: Any, indices: Mapping[str, str]
) -> tuple[Operator, Axes, list[Argument]] | None:
    """The normaliser, or operator of fixed types, that a term is the written-out form of.

    Args:
        operators: those that may be written out, :attr:`OperatorPatterns.written`.
        term: a formula.
        indices: the name of the index of every axis at this place.
    """
    scope = Scope(
        {letter: _symbol(name) for letter, name in indices.items()},
        frozenset(term.atoms(sympy.Symbol)),
    )
    for operator in operators:
        shape = operator.shape
        if isinstance(shape, Signature):
            overs = {Axes("")} if shape.to.issubset(Axes(indices)) else set()
        else:
            overs = {over for over in _bound_axes(term) if over.issubset(Axes(indices))}
        for over in sorted(overs):
            found = _recognised(operator, over, term, scope)
            if found is not None:
                return operator, over, found
    return None


def _bound_axes(term: Any) -> set[Axes]:
    """The axes over which the outermost sums and reductions of a term run.

    Of merged sums also those of the outer ones alone.
    """
    found = set()
    rest = [term]
    while rest:
        node = rest.pop()
        bound = bound_indices(node)
        letters = [a for a in map(symbols.axis_of, bound) if a in AXIS_MEANING]
        starts = range(len(letters)) if isinstance(node, sympy.Sum) else range(min(1, len(letters)))
        found |= {Axes(set(letters[start:])) for start in starts}
        if not bound:
            rest.extend(node.args)
    return found


def bound_indices(term: Any) -> tuple[sympy.Symbol, ...]:
    """The index symbols that a term binds for what stands in it, inner ones first."""
    if isinstance(term, sympy.Sum):
        return tuple(limit[0] for limit in term.limits)
    if isinstance(term, symbols.OverAxes):
        return () if isinstance(term, symbols.AlongAxes) else term.indices
    if isinstance(term, sympy.Expr) and not isinstance(term, sympy.Indexed | Wildcard):
        return tuple(a for a in term.args if a.is_Symbol and a not in term.free_symbols)
    return ()


def _recognised(operator: Operator, over: Axes, term: Any, scope: Scope) -> list[Argument] | None:
    """The arguments with which the operator writes this very term, or None."""
    form = form_of(operator, over, scope)
    if type(form) is not type(term):
        return None
    letters = argument_axes(operator, over)
    found: list[list[Argument]] = [[] for _ in letters]
    along = tuple(symbol.name for symbol in scope.indices(over))
    for hole, part, names in _captures(form, term, {}):
        position = int(hole.args[0])
        indices = [names.get(symbol.name, symbol.name) for symbol in hole.indices]
        if over and tuple(indices) != along:
            continue
        inner = dict(zip(letters[position], indices, strict=True))
        if over:
            inner = {letter: symbol.name for letter, symbol in scope.current.items()}
        argument = Argument(part, inner)
        if argument not in found[position]:
            found[position].append(argument)
    for arguments in product(*found):
        if _same(operator, over, term, scope, arguments, letters):
            return list(arguments)
    return None


def _same(
    operator: Operator,
    over: Axes,
    term: Any,
    scope: Scope,
    arguments: tuple[Argument, ...],
    letters: tuple[Axes, ...],
) -> bool:
    """Whether the operator writes ``term`` for these arguments, but for names of bound indices."""

    def writer(argument: Argument, axes: Axes) -> Any:
        term = normal(argument.term)
        old = [_symbol(argument.indices[letter]) for letter in axes]
        return lambda inner: _renamed(term, dict(zip(old, inner.indices(axes), strict=True)))

    writers = [writer(*pair) for pair in zip(arguments, letters, strict=True)]
    return bool(normal(operator.write(writers, scope, over)) == normal(term))


def _captures(
    form: Any, term: Any, names: Mapping[str, str]
) -> Iterator[tuple[Wildcard, Any, Mapping[str, str]]]:
    """What may stand in the holes of a form, if the term has its shape.

    With each: the name in the term of every index that the form binds on the way.
    """
    if isinstance(form, Wildcard):
        yield form, term, names
        return
    if type(form) is not type(term):
        return
    bound, there = bound_indices(form), bound_indices(term)
    if len(bound) != len(there):
        return
    names = {**names, **{b.name: t.name for b, t in zip(bound, there, strict=True)}}
    if not isinstance(form, sympy.Add | sympy.Mul):
        if len(form.args) == len(term.args):
            for part, other in zip(form.args, term.args, strict=True):
                yield from _captures(part, other, names)
        return
    for part in form.args:
        if isinstance(part, Wildcard) and form.is_Add:
            yield part, _own_terms(part, form, term, names), names
        for other in term.args:
            yield from _captures(part, other, names)


def _own_terms(hole: Wildcard, form: Any, term: Any, names: Mapping[str, str]) -> Any:
    """The terms of a sum that have an index which, in the form, the hole alone has."""
    others = {s for other in form.atoms(Wildcard) - {hole} for s in other.indices}
    own = {names.get(s.name, s.name) for s in set(hole.indices) - others}
    return sympy.Add(*(t for t in term.args if own & {s.name for s in t.free_symbols}))


def _symbol(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, integer=True)


@lru_cache(maxsize=10_000)
def normal(term: Any) -> Any:
    """The term with bound indices named by their depth, so that equal terms become identical."""
    return _renamed(term, {}, depth=0)


def _renamed(term: Any, changes: Mapping[Any, Any], depth: int | None = None) -> Any:
    """The term with other index symbols, otherwise built as the writer of formulas builds it."""
    if isinstance(term, sympy.Symbol):
        return changes.get(term, term)
    if not term.args:
        return term
    bound = bound_indices(term)
    if bound and depth is not None:
        depth += len(bound)
        fresh = (f"{b.name[0]}@{depth - n}" for n, b in enumerate(bound))
        changes = {**changes, **dict(zip(bound, map(_symbol, fresh), strict=True))}
    args = [_renamed(part, changes, depth) for part in term.args]
    if isinstance(term, sympy.Abs | sympy.tanh):
        return term.func(*args, evaluate=False)
    return term.func(*args)  # joins the terms of a difference that was held apart, too
