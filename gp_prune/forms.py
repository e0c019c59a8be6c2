"""Floor 3: which operator writes which sympy form.

Every operator says in sympy what it computes. Here each is asked to write itself once, with
:class:`Hole` terms for its arguments; what comes back is the shape by which
:mod:`gp_prune.from_sympy` knows the operator again. So no operator is known by its name, and
operators of a user's own file are read back as the built-in ones are.
"""

from __future__ import annotations

from typing import Any

import sympy

from gp_prune import symbols
from gp_prune.axes import Axes
from gp_prune.binding import Scope
from gp_prune.primitive import Elementwise, Normaliser, Operator, PrimitiveSet, Reduction, Signature

_PLAIN = (sympy.Add, sympy.Mul, sympy.Pow, sympy.Sum)


class Hole(sympy.Expr):  # type: ignore[misc]
    """An argument of an operator in its written form: position, then the indices it is read at."""

    is_real = True
    is_commutative = True

    def __new__(cls, position: Any, *indices: Any) -> Hole:
        """A hole for the argument at ``position``."""
        return sympy.Expr.__new__(cls, sympy.Integer(position), *indices)  # type: ignore[no-any-return]

    @property
    def indices(self) -> tuple[sympy.Symbol, ...]:
        """The index symbols at which the argument stands here."""
        return tuple(index for index in self.args[1:] if index.is_Symbol)


class _NonnegativeHole(Hole):
    """An argument that is never negative."""

    is_nonnegative = True


_X, _Y = Hole(0), Hole(1)

_ARITHMETIC: dict[str, Any] = {
    "add": _X + _Y,
    "subtract": _X - _Y,
    "multiply": _X * _Y,
    "negate": -_X,
    "square": _X**2,
    "root": symbols.Sqrt(_X),
    "divide": symbols.Div(_X, _Y),
    "magnitude": symbols.magnitude(_X),
    "logarithm": symbols.Log(_X),
    "exponential": symbols.Exp(_X),
    "larger": symbols.Maximum(_X, _Y),
    "smaller": symbols.Minimum(_X, _Y),
    "nonzero": symbols.NotEqual(_X, 0),
    "tanh": sympy.tanh(_X, evaluate=False),
}
"""What elementwise operators compute, by name; who writes this form has this meaning."""

_NAMED: dict[type, str] = {
    symbols.MaxOver: "largest",
    symbols.MinOver: "smallest",
    symbols.StdOver: "deviation",
    symbols.VarOver: "variance",
    symbols.SumShare: "sum share",
    symbols.MaxShare: "max share",
    symbols.MinMax: "min max",
    symbols.ZScore: "z score",
}
"""What reductions and normalisers compute, by the sympy class that is a name for them."""


class Forms:
    """The written forms of all operators of a set.

    Attributes:
        arithmetic: an operator for every meaning: what elementwise ones and reductions compute
            (``"add"``, ``"square"``, ``"total"``, ``"largest"``, ...).
        meanings: the meaning of an operator by its name.
        nonnegative: names of operators whose value is never negative.
        indicators: names of those whose value is 0 or 1.
        sign_keeping: names of those whose value is not negative where no argument is.
        functions: elementwise operators with a sympy function of their own, with their form.
        over: operators by the sympy class that is a name for them.
        written: normalisers and operators of fixed types that are written out.
    """

    def __init__(self, primitives: PrimitiveSet) -> None:
        self.arithmetic: dict[str, Operator] = {}
        self.meanings: dict[str, str] = {}
        self.nonnegative: set[str] = set()
        self.sign_keeping: set[str] = set()
        self.indicators: set[str] = set()
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

    def _means(self, operator: Operator, meaning: str) -> None:
        self.arithmetic.setdefault(meaning, operator)
        self.meanings.setdefault(operator.name, meaning)

    def _learn_signs(self, operator: Operator) -> None:
        over = Axes("o") if operator.shape.bracketed else Axes("")
        to = operator.shape.to if isinstance(operator.shape, Signature) else over
        scope = Scope.of(Axes("") if isinstance(operator.shape, Reduction) else to)
        form = form_of(operator, over, scope)
        if isinstance(form, symbols.Indicator):
            self.indicators.add(operator.name)
        if symbols.nonnegative(form):
            self.nonnegative.add(operator.name)
        if symbols.nonnegative(form_of(operator, over, scope, kind=_NonnegativeHole)):
            self.sign_keeping.add(operator.name)

    def _learn_elementwise(self, operator: Operator) -> None:
        form = form_of(operator, Axes(""), Scope({}))
        for name, meaning in _ARITHMETIC.items():
            if form == meaning:
                self._means(operator, name)
        if not isinstance(form, _PLAIN):
            self.functions.setdefault(type(form), []).append((operator, form))

    def _learn_reduction(self, operator: Operator) -> None:
        form = form_of(operator, Axes("o"), Scope({}))
        bound = symbols.index("o")
        hole = Hole(0, bound)
        meanings = {
            "total": symbols.total(hole, bound),
            "mean": symbols.mean(hole, bound),
            "norm": sympy.sqrt(symbols.total(hole**2, bound)),
            "magnitudes": symbols.total(symbols.magnitude(hole), bound),
        }
        for name, meaning in meanings.items():
            if form == meaning:
                self._means(operator, name)
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
        if isinstance(form, symbols.OverAxes) and isinstance(form.body, Hole):
            self.over.setdefault(type(form), operator)
            if type(form) in _NAMED:
                self._means(operator, _NAMED[type(form)])

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
    operator: Operator, over: Axes, scope: Scope, padding: int = 0, kind: type[Hole] = Hole
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
    if isinstance(form, Hole):
        return bool(found.setdefault(int(form.args[0]), term) == term)
    if not form.args or type(form) is not type(term) or len(form.args) != len(term.args):
        return bool(form == term)
    return all(_fits(f, t, found) for f, t in zip(form.args, term.args, strict=True))
