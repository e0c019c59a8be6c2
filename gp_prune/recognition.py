"""Floor 3: find the operator whose written-out form a sympy term is.

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

from gp_prune import symbols
from gp_prune.axes import AXIS_MEANING, Axes
from gp_prune.binding import Scope
from gp_prune.forms import Hole, argument_axes, form_of
from gp_prune.primitive import Operator, Signature


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
        operators: those that may be written out, :attr:`gp_prune.forms.Forms.written`.
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
        return () if isinstance(term, symbols.Along) else term.indices
    if isinstance(term, sympy.Expr) and not isinstance(term, sympy.Indexed | Hole):
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
) -> Iterator[tuple[Hole, Any, Mapping[str, str]]]:
    """What may stand in the holes of a form, if the term has its shape.

    With each: the name in the term of every index that the form binds on the way.
    """
    if isinstance(form, Hole):
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
        if isinstance(part, Hole) and form.is_Add:
            yield part, _own_terms(part, form, term, names), names
        for other in term.args:
            yield from _captures(part, other, names)


def _own_terms(hole: Hole, form: Any, term: Any, names: Mapping[str, str]) -> Any:
    """The terms of a sum that have an index which, in the form, the hole alone has."""
    others = {s for other in form.atoms(Hole) - {hole} for s in other.indices}
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
