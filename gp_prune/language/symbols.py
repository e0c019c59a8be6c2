"""Which index symbol stands for which axis while a tree is written as a formula.

A tree is turned into sympy from the root down. Each node is written in a :class:`Scope`; an
operator that binds indices (a sum, a maximum) takes fresh ones, primed where the plain letter is
already in use around it, so that no index of a printed formula is captured by another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import sympy

from gp_prune.language import symbols
from gp_prune.language.axes import AXIS_MEANING, Axes

EPSILON = 1e-12
"""Below this magnitude a protected division answers 0; also added inside a protected logarithm."""

LONG = 60
"""A term of more nodes is not written out twice by a normaliser (see :class:`Along`)."""

RIDGE = 1e-4
"""What is added to the diagonal of a scatter matrix before it is inverted."""

_EXACT_BITS = 64

EXP_LIMIT = 50.0
"""The exponent at which the clamped exponential stops growing."""


def index(letter: str, primes: int = 0) -> sympy.Symbol:
    """The index symbol of an axis; primes tell apart two indices that run over the same axis."""
    if letter not in AXIS_MEANING:
        raise ValueError(f"unknown axis {letter!r}")
    return sympy.Symbol(letter + "'" * primes, integer=True)


def axis_of(symbol: sympy.Symbol) -> str:
    """The axis letter over which an index symbol runs (``p`` runs over the channels of ``o``)."""
    return str(symbol.name).rstrip("'")


def size(letter: str) -> sympy.Symbol:
    """The symbol for the length of an axis, printed as ``N_o`` (``p`` is as long as ``o``)."""
    letter = "o" if letter == "p" else letter
    return sympy.Symbol(f"N_{letter}", integer=True, positive=True)


def indexed(name: str, indices: tuple[sympy.Symbol, ...]) -> Any:
    """An operand with its indices; a plain real symbol when it has none."""
    if not indices:
        return sympy.Symbol(name, real=True)
    return sympy.IndexedBase(name, real=True)[indices]


class _Real(sympy.Function):  # type: ignore[misc]
    """A function of real arguments with a real value."""

    is_real = True


class Div(_Real):
    """Protected division: a / b where |b| > EPSILON, else 0."""

    nargs = 2

    @classmethod
    def eval(cls, a: Any, b: Any) -> Any:
        """A divisor that is a number decides at once."""
        if b.is_Number:
            return a / b if abs(b) > sympy.Float(EPSILON) else sympy.Integer(0)
        return None


class Log(_Real):
    """Protected logarithm: log(|x| + EPSILON)."""

    nargs = 1


class Sqrt(_Real):
    """Protected square root: sqrt(|x|)."""

    nargs = 1
    is_nonnegative = True

    @classmethod
    def eval(cls, x: Any) -> Any:
        """Where the argument cannot be negative, this is the plain square root."""
        return sympy.sqrt(x) if nonnegative(x) else None


class Exp(_Real):
    """Clamped exponential: exp(min(x, EXP_LIMIT))."""

    nargs = 1
    is_nonnegative = True


class Maximum(_Real):
    """The larger of two values (sympy's own Max spends seconds on comparing large arguments)."""

    nargs = 2


class Minimum(_Real):
    """The smaller of two values."""

    nargs = 2


class Indicator(_Real):
    """Iverson bracket of a comparison with operator ``relation``: 1 where it holds, else 0."""

    is_nonnegative = True

    def _eval_power(self, exponent: Any) -> Any:
        """A positive power of 0 or 1 is the same number."""
        return self if exponent.is_positive else None


class NotEqual(Indicator):
    """[a != b]."""

    nargs = 2


class AtLeast(Indicator):
    """[a >= b]."""

    nargs = 2


class OverAxes(sympy.Expr):  # type: ignore[misc]
    """A term that runs over bound indices: ``OverAxes(body, indices)``; base of the reductions."""

    is_real = True
    is_commutative = True

    def __new__(cls, body: Any, *indices: sympy.Symbol) -> OverAxes:
        """A term without any simplification; also from its own ``args``, as sympy rebuilds it."""
        if len(indices) == 1 and isinstance(indices[0], sympy.Tuple):
            indices = tuple(indices[0])
        return sympy.Expr.__new__(cls, body, sympy.Tuple(*indices))  # type: ignore[no-any-return]

    @property
    def body(self) -> Any:
        """The term under the reduction."""
        return self.args[0]

    @property
    def indices(self) -> tuple[sympy.Symbol, ...]:
        """The bound indices."""
        return tuple(self.args[1])

    @property
    def free_symbols(self) -> set[Any]:
        """Symbols of the body that are not bound here."""
        return set(self.body.free_symbols) - set(self.indices)


class MaxOver(OverAxes):
    """Largest value over the bound indices."""


class MinOver(OverAxes):
    """Smallest value over the bound indices."""


class VarOver(OverAxes):
    """Population variance over the bound indices."""

    is_nonnegative = True


class StdOver(OverAxes):
    """Population standard deviation over the bound indices."""

    is_nonnegative = True


class MedoidOver(OverAxes):
    """The slice, along the bound index, whose summed l2 distance to all slices is least."""


class Along(OverAxes):
    """A normaliser by name: ``Along(body, indices)`` relates each entry to the others.

    The indices run along the axes that are normalised and stay free: the term stands for the
    entry at these very indices. Where the body is short, normalisers are written out instead; in
    nested ones that would double the formula at every level.
    """

    @property
    def free_symbols(self) -> set[Any]:
        """The symbols of the body and the indices."""
        return set(self.body.free_symbols) | set(self.indices)


class SumShare(Along):
    """x / sum of |x|, protected."""


class MaxShare(Along):
    """x / largest |x|, protected."""


class MinMax(Along):
    """(x - min x) / (max x - min x), protected."""


class ZScore(Along):
    """(x - mean x) / std x, protected."""


class TailSum(Along):
    """The sum of all entries that are at least x."""


class RidgeForm(sympy.Expr):  # type: ignore[misc]
    """d^T (S + RIDGE I)^-1 d, where S is the scatter of samples x about their mean.

    ``RidgeForm(x, d, n, s)``: x is a vector over the bound index s for every sample n, and d is a
    vector over s.
    """

    is_real = True
    is_commutative = True
    is_nonnegative = True

    def __new__(cls, samples: Any, vector: Any, *indices: sympy.Symbol) -> RidgeForm:
        """A term without any simplification; also from its own ``args``, as sympy rebuilds it."""
        return sympy.Expr.__new__(cls, samples, vector, *indices)  # type: ignore[no-any-return]

    @property
    def free_symbols(self) -> set[Any]:
        """Symbols of both arguments that are not bound here."""
        samples, vector, n, s = self.args
        return (set(samples.free_symbols) - {n, s}) | (set(vector.free_symbols) - {s})


def is_long(x: Any, nodes: int = LONG) -> bool:
    """Whether a formula has more than so many nodes."""
    return any(count >= nodes for count, _ in enumerate(sympy.preorder_traversal(x)))


def square(x: Any) -> Any:
    """x^2. A long exact number becomes a float, so that repeated squares stay printable."""
    coefficient, rest = x.as_coeff_Mul()
    if (
        coefficient.is_Rational
        and max(abs(coefficient.p).bit_length(), coefficient.q.bit_length()) > _EXACT_BITS
    ):
        return sympy.Float(coefficient) ** 2 * rest**2
    return x**2


def magnitude(x: Any) -> Any:
    """|x|, left as it is where x cannot be negative (cheap: sympy's own Abs expands)."""
    if x.is_Number:
        return abs(x)
    if nonnegative(x):
        return x
    if x.is_Mul and x.args[0].is_Number and x.args[0].is_negative:
        return magnitude(-x)
    return sympy.Abs(x, evaluate=False)


def total(body: Any, *indices: sympy.Symbol) -> Any:
    """The sum of ``body`` over the bound indices."""
    return sympy.Sum(body, *((symbol, 1, size(axis_of(symbol))) for symbol in indices))


def mean(body: Any, *indices: sympy.Symbol) -> Any:
    """The mean of ``body`` over the bound indices: the sum over the product of the lengths."""
    return total(body, *indices) / sympy.Mul(*(size(axis_of(symbol)) for symbol in indices))


def difference(a: Any, b: Any) -> Any:
    """The difference a - b with ``a`` as one number, so that it is exactly 0 where both are equal.

    sympy would sort the terms of both into one sum, which rounds otherwise.
    """
    return sympy.Add(a, -b, evaluate=False)


def nonnegative(x: Any, operands: Collection[str] = ()) -> bool:
    """Whether ``x`` is seen at a glance to be never negative, as the named operands are."""
    if isinstance(x, sympy.Indexed):
        return str(x.base.label) in operands
    if x.is_Number or x.is_Symbol:
        return bool(x.is_nonnegative) or (x.is_Symbol and x.name in operands)
    if isinstance(x, sympy.Abs) or getattr(type(x), "is_nonnegative", None) is True:
        return True
    if isinstance(x, sympy.Pow):
        even = bool(x.exp.is_Integer and x.exp % 2 == 0)
        return even or nonnegative(x.base, operands)
    if isinstance(x, (sympy.Add, sympy.Mul, Maximum, Div)):
        return all(nonnegative(part, operands) for part in x.args)
    if isinstance(x, sympy.Sum):
        return nonnegative(x.function, operands)
    return isinstance(x, (MaxOver, MinOver)) and nonnegative(x.body, operands)


class Scope:
    """Index symbols by axis letter, and all symbols that enclosing terms use.

    Args:
        current: the index symbol of every axis of the term that is being written.
        taken: symbols that a new bound index must not reuse.
    """

    __slots__ = ("current", "taken")

    def __init__(
        self, current: Mapping[str, sympy.Symbol], taken: frozenset[sympy.Symbol] = frozenset()
    ) -> None:
        self.current = dict(current)
        self.taken = taken | frozenset(self.current.values())

    @classmethod
    def of(cls, axes: Axes) -> Scope:
        """The scope of a root: every axis by its plain letter."""
        return cls({letter: symbols.index(letter) for letter in axes})

    def fresh(self, letter: str) -> sympy.Symbol:
        """The first of ``i``, ``i'``, ``i''`` ... that nothing around uses."""
        primes = 0
        while (candidate := symbols.index(letter, primes)) in self.taken:
            primes += 1
        return candidate

    def renamed(self, changes: Mapping[str, sympy.Symbol]) -> Scope:
        """This scope with some axes written by other symbols."""
        return Scope({**self.current, **changes}, self.taken)

    def indices(self, axes: Axes) -> tuple[sympy.Symbol, ...]:
        """The index symbols of ``axes`` in canonical order."""
        return tuple(self.current[letter] for letter in axes)


class Call:
    """One use of an operator, as its ``symbol`` function sees it.

    Args:
        arguments: for each argument, a function that writes it in a given scope.
        scope: the scope of the operator's own result.
        over: the axes named in brackets (``sum[i,k]``), empty for operators that take none.
    """

    def __init__(
        self, arguments: Sequence[Callable[[Scope], Any]], scope: Scope, over: Axes
    ) -> None:
        self._arguments = arguments
        self._scope = scope
        self.bound: tuple[sympy.Symbol, ...] = tuple(scope.fresh(letter) for letter in over)
        self._over = over

    @property
    def along(self) -> tuple[sympy.Symbol, ...]:
        """The index symbols that stand for the bracketed axes in the operator's own result."""
        return tuple(self._scope.current[letter] for letter in self._over)

    @property
    def body(self) -> Any:
        """The first argument, written with the bound indices of the bracketed axes."""
        return self.argument(0, **dict(zip(self._over, self.bound, strict=True)))

    def argument(self, position: int, **indices: sympy.Symbol) -> Any:
        """An argument of the operator, with the index of some axes replaced."""
        return self._arguments[position](self._scope.renamed(indices))

    def free(self, letter: str) -> sympy.Symbol:
        """The index symbol that stands for an axis of the operator's result."""
        return self._scope.current[letter]

    def fresh(self, letter: str) -> sympy.Symbol:
        """An index over an axis that nothing around the operator uses."""
        return self._scope.fresh(letter)
