"""Know the operators by what they write, and find the one that wrote a sympy term.

Normalisers and distances have no sympy function: ``min_max[o](b)`` is written as a quotient of
differences. Such a term is recognised in two steps: the form of the operator, laid over the term,
shows where its argument may be; then the operator writes itself for that argument, and the result
must be the same term, but for the names of bound indices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import sympy

from gp_prune.language import symbols
from gp_prune.language.axes import AXIS_MEANING, SCALAR, Axes, Elementwise, Normaliser, Signature
from gp_prune.language.expression import Expression
from gp_prune.language.primitive import Operator, PrimitiveSet
from gp_prune.language.symbols import Scope

_PLAIN = (sympy.Add, sympy.Mul, sympy.Pow, sympy.Sum)


class Wildcard(sympy.Expr):  # type: ignore[misc]
    """An argument of an operator in its written form: position, then the indices it is read at."""

    is_real = True
    is_commutative = True

    def __new__(cls, position: Any, *indices: Any) -> Wildcard:
        """Return a wildcard for the argument at ``position``."""
        return sympy.Expr.__new__(cls, sympy.Integer(position), *indices)  # type: ignore[no-any-return]

    @property
    def indices(self) -> tuple[sympy.Symbol, ...]:
        """Return the index symbols at which the argument is read here."""
        return tuple(index for index in self.args[1:] if index.is_Symbol)


class _NonnegativeWildcard(Wildcard):
    """An argument that is never negative."""

    is_nonnegative = True


_X, _Y = Wildcard(0), Wildcard(1)
_O = symbols.index("o")
_X_O = Wildcard(0, _O)

_ROLES: dict[str, Any] = {
    "add": _X + _Y,
    "subtract": _X - _Y,
    "multiply": _X * _Y,
    "negate": -_X,
    "square": _X**2,
    "magnitude": symbols.magnitude(_X),
    "tanh": sympy.tanh(_X, evaluate=False),
    "total": symbols.total(_X_O, _O),
    "mean": symbols.mean(_X_O, _O),
    "norm": sympy.sqrt(symbols.total(_X_O**2, _O)),
    "magnitudes": symbols.total(symbols.magnitude(_X_O), _O),
}
"""What an operator computes, by the form that it writes without a sympy function for it."""


class Traits(NamedTuple):
    """What formulas know of an operator; the fields are as in :mod:`gp_prune.language.symbols`."""

    role: str = ""
    nonnegative: bool = False
    keeps_sign: bool = False
    is_indicator: bool = False
    odd: bool = False
    idempotent: bool = False
    scale_free: bool = False
    shift_free: bool = False
    rescales: bool = False
    bounds: tuple[float, float] = symbols.Notation.bounds


_UNKNOWN = Traits()


class OperatorPatterns:
    """The forms that the operators of a set write, and what is known of them.

    Attributes:
        by_role: an operator for every role: what elementwise ones and reductions compute
            (``"add"``, ``"square"``, ``"total"``, ``"largest"``, ...).
        functions: elementwise operators with a sympy function of their own, with their form.
        over: operators by the sympy class that is a name for them.
        written: normalisers and operators of fixed types that are written out.
    """

    def __init__(self, primitives: PrimitiveSet) -> None:
        self.by_role: dict[str, Operator] = {}
        self.functions: dict[type, list[tuple[Operator, Any]]] = {}
        self.over: dict[type, Operator] = {}
        self.written: list[Operator] = []
        self._traits: dict[str, Traits] = {}
        for operator in primitives.operators.values():
            self._learn(operator)

    def traits(self, tree: Expression) -> Traits:
        """Return what is known of the head of a tree; nothing of operands and constants."""
        return self._traits.get(tree.name, _UNKNOWN) if tree.arguments else _UNKNOWN

    def _learn(self, operator: Operator) -> None:
        shape = operator.shape
        over = Axes("o") if shape.bracketed else SCALAR
        to = shape.to if isinstance(shape, Signature) else SCALAR
        use = over, Scope.of(over if isinstance(shape, Normaliser) else to)
        form = form_of(operator, *use)
        # A normaliser writes its class where the argument is long.
        named = form_of(operator, *use, symbols.LONG) if isinstance(shape, Normaliser) else form
        if isinstance(shape, Elementwise):
            plain = all(isinstance(argument, Wildcard) for argument in named.args)
            if not isinstance(form, _PLAIN):
                self.functions.setdefault(type(form), []).append((operator, form))
        else:
            plain = isinstance(named, symbols.OverAxes) and isinstance(named.body, Wildcard)
            if plain and shape.arity == 1:
                self.over.setdefault(type(named), operator)
            if isinstance(shape, Normaliser | Signature) and type(form) not in self.over:
                self.written.append(operator)
        role = next((role for role, known in _ROLES.items() if form == known), _role(named))
        if role:
            self.by_role.setdefault(role, operator)
        stated = type(named) if plain and issubclass(type(named), symbols.Notation) else _UNKNOWN
        self._traits[operator.name] = Traits(
            role,
            symbols.nonnegative(form),
            symbols.nonnegative(form_of(operator, *use, wildcard=_NonnegativeWildcard)),
            getattr(form, "is_indicator", False),
            stated.odd,
            stated.idempotent,
            stated.scale_free,
            stated.shift_free,
            stated.rescales,
            stated.bounds,
        )

    def function(self, term: Any) -> tuple[Operator, list[Any]] | None:
        """Return the elementwise operator that a function belongs to, and the arguments."""
        for operator, form in self.functions.get(type(term), ()):
            parts: dict[int, Any] = {}
            if _fits(form, term, parts) and len(parts) == operator.shape.arity:
                return operator, [parts[position] for position in range(len(parts))]
        return None


def _role(form: Any) -> str:
    """Return the role that the class of a form states, empty where its arguments are others."""
    role: str = getattr(form, "role", "")
    if isinstance(form, symbols.OverAxes):
        return role if isinstance(form.body, Wildcard) else ""
    if not role:
        return ""
    places = {"x": _X, "y": _Y}
    arguments = form.role_arguments or tuple(places)[: len(form.args)]
    return role if form.args == tuple(places.get(a, a) for a in arguments) else ""


def argument_axes(operator: Operator, over: Axes) -> tuple[Axes, ...]:
    """Return the axes whose indices a wildcard shows, for each argument of an operator."""
    if isinstance(operator.shape, Signature):
        return operator.shape.arguments
    return (over,) * operator.shape.arity


def form_of(
    operator: Operator,
    over: Axes,
    scope: Scope,
    padding: int = 0,
    wildcard: type[Wildcard] = Wildcard,
) -> Any:
    """Return what an operator writes for wildcards.

    Args:
        operator: the operator.
        over: the axes in its brackets.
        scope: the indices of its result.
        padding: nodes by which each wildcard is longer.
        wildcard: the class of the wildcards.
    """

    def argument(position: int, letters: Axes) -> Any:
        zeros = [sympy.Integer(0)] * padding
        return lambda inner: wildcard(position, *inner.indices(letters), *zeros)

    letters = argument_axes(operator, over)
    return operator.write([argument(*pair) for pair in enumerate(letters)], scope, over)


def _fits(form: Any, term: Any, parts: dict[int, Any]) -> bool:
    """Return whether a term has the shape of a form; what wildcards cover goes to ``parts``."""
    if isinstance(form, Wildcard):
        return bool(parts.setdefault(int(form.args[0]), term) == term)
    if not form.args or type(form) is not type(term) or len(form.args) != len(term.args):
        return bool(form == term)
    return all(_fits(f, t, parts) for f, t in zip(form.args, term.args, strict=True))


class Argument(NamedTuple):
    """An argument that a formula contains: the term, and the index of each axis letter in it."""

    term: Any
    indices: dict[str, str]


def match_written_out(
    operators: Iterable[Operator], term: Any, indices: Mapping[str, str]
) -> tuple[Operator, Axes, list[Argument]] | None:
    """Return the operator that a term is the written-out form of, its axes and arguments.

    Args:
        operators: those that may be written out, :attr:`OperatorPatterns.written`.
        term: a formula.
        indices: the name of the index of every axis where the term is.
    """
    scope = Scope(
        {letter: _symbol(name) for letter, name in indices.items()},
        frozenset(term.atoms(sympy.Symbol)),
    )
    within = Axes(indices)
    for operator in operators:
        if isinstance(operator.shape, Signature):
            overs = {SCALAR} if operator.shape.to.issubset(within) else set()
        else:
            overs = {over for over in _bound_axes(term) if over.issubset(within)}
        for over in sorted(overs):
            arguments = _match(operator, over, term, scope)
            if arguments is not None:
                return operator, over, arguments
    return None


def _bound_axes(term: Any) -> set[Axes]:
    """Return the axes over which the outermost sums and reductions of a term run.

    Of merged sums also those of the outer ones alone.
    """
    axes = set()
    rest = [term]
    while rest:
        node = rest.pop()
        bound = bound_indices(node)
        letters = [a for a in map(symbols.axis_of, bound) if a in AXIS_MEANING]
        starts = range(len(letters)) if isinstance(node, sympy.Sum) else range(min(1, len(letters)))
        axes |= {Axes(set(letters[start:])) for start in starts}
        if not bound:
            rest.extend(node.args)
    return axes


def bound_indices(term: Any) -> tuple[sympy.Symbol, ...]:
    """Return the index symbols that a term binds in its arguments, inner ones first."""
    if isinstance(term, sympy.Sum):
        return tuple(limit[0] for limit in term.limits)
    if isinstance(term, symbols.OverAxes):
        return () if isinstance(term, symbols.AlongAxes) else term.indices
    if isinstance(term, sympy.Expr) and not isinstance(term, sympy.Indexed | Wildcard):
        return tuple(a for a in term.args if a.is_Symbol and a not in term.free_symbols)
    return ()


def _match(operator: Operator, over: Axes, term: Any, scope: Scope) -> list[Argument] | None:
    """Return the arguments for which the operator writes exactly this term, or None."""
    form = form_of(operator, over, scope)
    if type(form) is not type(term):
        return None
    letters = argument_axes(operator, over)
    candidates: list[list[Argument]] = [[] for _ in letters]
    along = tuple(symbol.name for symbol in scope.indices(over))
    for wildcard, part, names in _captures(form, term, {}):
        position = int(wildcard.args[0])
        indices = [names.get(symbol.name, symbol.name) for symbol in wildcard.indices]
        if over and tuple(indices) != along:
            continue
        inner = dict(zip(letters[position], indices, strict=True))
        if over:
            inner = {letter: symbol.name for letter, symbol in scope.current.items()}
        argument = Argument(part, inner)
        if argument not in candidates[position]:
            candidates[position].append(argument)
    for arguments in product(*candidates):
        writers = [_writer(*pair) for pair in zip(arguments, letters, strict=True)]
        if normal(operator.write(writers, scope, over)) == normal(term):
            return list(arguments)
    return None


def _writer(argument: Argument, axes: Axes) -> Any:
    """Return a function that writes an argument in a given scope."""
    term = normal(argument.term)
    old = [_symbol(argument.indices[letter]) for letter in axes]
    return lambda scope: _renamed(term, dict(zip(old, scope.indices(axes), strict=True)))


def _captures(
    form: Any, term: Any, names: Mapping[str, str]
) -> Iterator[tuple[Wildcard, Any, Mapping[str, str]]]:
    """Yield what the wildcards of a form may cover, if the term has its shape.

    With each comes the name in the term of every index that the form binds on the way.
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
            yield part, _terms_of(part, form, term, names), names
        for other in term.args:
            yield from _captures(part, other, names)


def _terms_of(wildcard: Wildcard, form: Any, term: Any, names: Mapping[str, str]) -> Any:
    """Return the terms of a sum with an index that no other wildcard of the form has."""
    others = {s for other in form.atoms(Wildcard) - {wildcard} for s in other.indices}
    indices = {names.get(s.name, s.name) for s in set(wildcard.indices) - others}
    return sympy.Add(*(t for t in term.args if indices & {s.name for s in t.free_symbols}))


def _symbol(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, integer=True)


@lru_cache(maxsize=10_000)
def normal(term: Any) -> Any:
    """Return the term with bound indices named by depth, so that equal terms become identical."""
    return _renamed(term, {}, depth=0)


def _renamed(term: Any, changes: Mapping[Any, Any], depth: int | None = None) -> Any:
    """Return the term with other index symbols, otherwise as the writer of formulas builds it."""
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
