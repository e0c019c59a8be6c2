r"""Write formulas: index symbols, the base classes of functions, and the scope of indices.

A function that an operator needs and sympy lacks is a class derived from :class:`RealFunction`
(entry by entry), :class:`OverAxes` (a reduction), :class:`AlongAxes` (a normaliser) or
:class:`BoundArguments` (fixed types). The class says everything that a formula must know about it:

========================  =====================================================================
``latex``                 its name in LaTeX (``\operatorname{median}``), or a template in which
                          ``#1``, ``#2`` are the arguments; of a reduction or normaliser ``#1``
                          is the body and ``#2`` are the indices. By default the operator's name.
``definition``            LaTeX of what it means, for ``gp-prune latex --standalone``; by default
                          what the operator says in ``meaning``, and nothing where it is empty.
``note``                  a sentence to stand below a formula that uses it, where the sign alone
                          does not say what it computes; mathematics between dollar signs.
``light``                 lighter signs for arguments of which enough is known; see :class:`Light`.
``numpy``                 static method: the same function on arrays, in plain numpy, with which
                          the torch function is compared.
``written_out``           static method that may replace ``numpy``: the same function in functions
                          of sympy, from which ``lambdify`` makes the numbers.
``keeps_sign``            never negative where no argument is.
``is_nonnegative``        never negative (an assumption of sympy).
``odd``, ``idempotent``   f(-x) = -f(x); f(f(x)) = f(x) along the same axes.
``scale_free``            f(a x) = f(x) for every number a > 0.
``shift_free``            f(x + a) = f(x) for every number a.
``rescales``              f(x) = (x - a) / b, protected, with a and b > 0 equal along the axes;
                          a = 0 unless it is ``shift_free``.
``bounds``                the smallest and the largest value.
``is_indicator``          its value is 0 or 1.
``role``                  what simplification may take it for, such as ``"divide"``.
========================  =====================================================================

A tree is turned into sympy from the root down. Each node is written in a :class:`Scope`; an
operator that binds indices takes unused ones, primed where the plain letter is already used
around it, so that no index of a printed formula is captured by another.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import sympy

from gp_prune.language.axes import AXIS_MEANING, Axes

EPSILON = 1e-12
"""Below this magnitude a protected division answers 0; a protected logarithm takes it at least."""

EXP_LIMIT = 50.0
"""The exponent at which the clamped exponential stops growing."""

LONG = 60
"""A term of at least this many nodes is not written out twice by a normaliser."""

_EXACT_BITS = 64


def __getattr__(name: str) -> Any:
    """Return a function of a built-in operator by its name, such as ``symbols.Div``."""
    if name == "Along":
        warnings.warn(
            "symbols.Along is called AlongAxes; the old name goes in version 0.2",
            DeprecationWarning,
            stacklevel=2,
        )
        return AlongAxes
    if not name.startswith("_"):
        from gp_prune.language.primitive import builtin_functions

        if name in (functions := builtin_functions()):
            return functions[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def index(letter: str, primes: int = 0) -> sympy.Symbol:
    """Return the index symbol of an axis; primes tell apart indices that run over one axis."""
    if letter not in AXIS_MEANING:
        raise ValueError(f"unknown axis {letter!r}")
    return sympy.Symbol(letter + "'" * primes, integer=True)


def axis_of(symbol: sympy.Symbol) -> str:
    """Return the axis letter over which an index symbol runs."""
    return str(symbol.name).rstrip("'")


def size(letter: str) -> sympy.Symbol:
    """Return the symbol for the length of an axis, such as ``N_o`` (``p`` is as long as ``o``)."""
    letter = "o" if letter == "p" else letter
    return sympy.Symbol(f"N_{letter}", integer=True, positive=True)


def indexed(name: str, indices: tuple[sympy.Symbol, ...]) -> Any:
    """Return an operand with its indices; a plain real symbol when it has none."""
    if not indices:
        return sympy.Symbol(name, real=True)
    return sympy.IndexedBase(name, real=True)[indices]


@dataclass(frozen=True)
class Light:
    """A lighter sign of a function, for the uses whose argument is in an interval.

    Attributes:
        latex: the template, as ``Notation.latex``.
        argument: the argument that must be in the interval, counted from 1.
        low: the least value that the argument may have.
        high: the largest.
        note: a sentence that must then stand below the formula, mathematics between dollar signs.
            It may not say anything false of the same sign of a plain function.
    """

    latex: str
    argument: int = 1
    low: float = -math.inf
    high: float = math.inf
    note: str = ""


class Notation:
    """What a formula must know about a function; see the table of this module."""

    latex: ClassVar[str] = ""
    definition: ClassVar[str | None] = None
    note = ""
    light = tuple[Light, ...]()
    numpy: ClassVar[Callable[..., Any] | None] = None
    keeps_sign: ClassVar[bool] = False
    odd: ClassVar[bool] = False
    idempotent: ClassVar[bool] = False
    scale_free: ClassVar[bool] = False
    shift_free: ClassVar[bool] = False
    rescales = False
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    is_indicator: ClassVar[bool] = False
    role: ClassVar[str] = ""
    role_arguments: ClassVar[tuple[str | int, ...]] = ()
    """The arguments with which it has its role, where these are not just ``("x", "y")``."""


class RealFunction(Notation, sympy.Function):  # type: ignore[misc]
    """A function of real arguments with a real value, applied entry by entry.

    ``numpy`` gets one array for each argument, all of one shape.
    """

    is_real = True


class OverAxes(Notation, sympy.Expr):  # type: ignore[misc]
    """A term that runs over bound indices: ``OverAxes(body, indices)``; base of the reductions.

    ``numpy`` gets the array and the dimensions to remove, which are the leading ones.
    """

    is_real = True
    is_commutative = True

    def __new__(cls, body: Any, *indices: sympy.Symbol) -> OverAxes:
        """Return the term, never simplified; ``args`` are accepted too, as sympy rebuilds it."""
        if len(indices) == 1 and isinstance(indices[0], sympy.Tuple):
            indices = tuple(indices[0])
        return sympy.Expr.__new__(cls, body, sympy.Tuple(*indices))  # type: ignore[no-any-return]

    @classmethod
    def write(cls, call: Call) -> Any:
        """Return the formula of an operator whose ``symbol`` is this class."""
        return cls(call.body, *call.bound)

    @property
    def body(self) -> Any:
        """Return the term under the reduction."""
        return self.args[0]

    @property
    def indices(self) -> tuple[sympy.Symbol, ...]:
        """Return the bound indices."""
        return tuple(self.args[1])

    @property
    def free_symbols(self) -> set[Any]:
        """Return the symbols of the body that are not bound here."""
        return set(self.body.free_symbols) - set(self.indices)


class AlongAxes(OverAxes):
    """A term that relates an entry to the others along some axes; base of the normalisers.

    The indices run along the axes that are normalised and stay free: the term is the entry at
    these very indices. ``numpy`` gets the array and the normalised dimensions, which are the
    leading ones, and returns an array of the same shape.
    """

    @staticmethod
    def written_out(call: Call) -> Any:
        """Return the formula to write where the argument is short; None for the name (default).

        A long argument is never written out: nested, it would double at every level.
        """
        return None

    @classmethod
    def write(cls, call: Call) -> Any:
        """Return the formula of an operator whose ``symbol`` is this class."""
        x = call.argument(0)
        formula = None if is_long(x) else cls.written_out(call)
        return cls(x, *call.along) if formula is None else formula

    @property
    def free_symbols(self) -> set[Any]:
        """Return the symbols of the body and the indices."""
        return set(self.body.free_symbols) | set(self.indices)


class BoundArguments(Notation, sympy.Expr):  # type: ignore[misc]
    """A term of several arguments over bound indices: ``BoundArguments(x, y, n, s)``.

    A subclass says in ``binds`` over which axes each argument runs, and the indices follow the
    arguments in that order. ``numpy`` gets the arrays with these axes last, and the same leading
    dimensions for all; it returns an array of the leading dimensions.
    """

    is_real = True
    is_commutative = True
    binds: ClassVar[tuple[str, ...]]

    def __new__(cls, *args: Any) -> BoundArguments:
        """Return the term, never simplified."""
        return sympy.Expr.__new__(cls, *args)  # type: ignore[no-any-return]

    @classmethod
    def write(cls, call: Call) -> Any:
        """Return the formula of an operator whose ``symbol`` is this class."""
        bound = {letter: call.fresh(letter) for letter in "".join(cls.binds)}
        arguments = [
            call.argument(position, **{letter: bound[letter] for letter in letters})
            for position, letters in enumerate(cls.binds)
        ]
        return cls(*arguments, *bound.values())

    @property
    def bound(self) -> list[tuple[Any, tuple[sympy.Symbol, ...]]]:
        """Return each argument with the indices that are bound in it."""
        bound = dict.fromkeys("".join(self.binds))
        indices = dict(zip(bound, self.args[len(self.binds) :], strict=True))
        pairs = zip(self.args, self.binds, strict=False)  # the indices follow the arguments
        return [(x, tuple(indices[letter] for letter in letters)) for x, letters in pairs]

    @property
    def free_symbols(self) -> set[Any]:
        """Return the symbols of all arguments that are not bound here."""
        free = (set(x.free_symbols) - set(indices) for x, indices in self.bound)
        return set[Any]().union(*free)


def is_long(x: Any, nodes: int = LONG) -> bool:
    """Return whether a formula has more than the given number of nodes."""
    return any(count >= nodes for count, _ in enumerate(sympy.preorder_traversal(x)))


def square(x: Any) -> Any:
    """Return x^2. A long exact number becomes a float, so that repeated squares stay printable."""
    coefficient, rest = x.as_coeff_Mul()
    if (
        coefficient.is_Rational
        and max(abs(coefficient.p).bit_length(), coefficient.q.bit_length()) > _EXACT_BITS
    ):
        return sympy.Float(coefficient) ** 2 * rest**2
    return x**2


def magnitude(x: Any) -> Any:
    """Return |x|, or x where it cannot be negative (sympy's own Abs expands, which is slow)."""
    if x.is_Number:
        return abs(x)
    if nonnegative(x):
        return x
    if x.is_Mul and x.args[0].is_Number and x.args[0].is_negative:
        return magnitude(-x)
    return sympy.Abs(x, evaluate=False)


def total(body: Any, *indices: sympy.Symbol) -> Any:
    """Return the sum of ``body`` over the bound indices."""
    return sympy.Sum(body, *((symbol, 1, size(axis_of(symbol))) for symbol in indices))


def mean(body: Any, *indices: sympy.Symbol) -> Any:
    """Return the mean of ``body`` over the bound indices: the sum over the product of lengths."""
    return total(body, *indices) / sympy.Mul(*(size(axis_of(symbol)) for symbol in indices))


def difference(a: Any, b: Any) -> Any:
    """Return a - b with ``a`` as one number, so that it is exactly 0 where both are equal.

    sympy would sort the terms of both into one sum, which rounds otherwise.
    """
    return sympy.Add(a, -b, evaluate=False)


def nonnegative(x: Any, operands: Collection[str] = ()) -> bool:
    """Return whether ``x`` is plainly never negative, as the named operands are."""
    if isinstance(x, sympy.Indexed):
        return str(x.base.label) in operands
    if x.is_Number or x.is_Symbol:
        return bool(x.is_nonnegative) or (x.is_Symbol and x.name in operands)
    if isinstance(x, sympy.Abs) or getattr(type(x), "is_nonnegative", None) is True:
        return True
    if isinstance(x, sympy.Pow):
        even = bool(x.exp.is_Integer and x.exp % 2 == 0)
        return even or nonnegative(x.base, operands)
    if isinstance(x, sympy.Sum):
        return nonnegative(x.function, operands)
    if isinstance(x, OverAxes):
        return x.keeps_sign and nonnegative(x.body, operands)
    if isinstance(x, sympy.Add | sympy.Mul) or getattr(type(x), "keeps_sign", False):
        return all(nonnegative(part, operands) for part in x.args)
    return False


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
        """Return the scope of a root: every axis by its plain letter."""
        return cls({letter: index(letter) for letter in axes})

    def fresh(self, letter: str) -> sympy.Symbol:
        """Return the first of ``i``, ``i'``, ``i''`` ... that nothing around uses."""
        primes = 0
        while (candidate := index(letter, primes)) in self.taken:
            primes += 1
        return candidate

    def renamed(self, changes: Mapping[str, sympy.Symbol]) -> Scope:
        """Return a scope with other symbols for some axes."""
        return Scope({**self.current, **changes}, self.taken)

    def indices(self, axes: Axes) -> tuple[sympy.Symbol, ...]:
        """Return the index symbols of ``axes`` in canonical order."""
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
        """Return the index symbols of the bracketed axes in the result of the operator."""
        return tuple(self._scope.current[letter] for letter in self._over)

    @property
    def body(self) -> Any:
        """Return the first argument, written with the bound indices of the bracketed axes."""
        return self.argument(0, **dict(zip(self._over, self.bound, strict=True)))

    def argument(self, position: int, **indices: sympy.Symbol) -> Any:
        """Return an argument of the operator, with other indices for some axes."""
        return self._arguments[position](self._scope.renamed(indices))

    def free(self, letter: str) -> sympy.Symbol:
        """Return the index symbol of an axis of the result."""
        return self._scope.current[letter]

    def fresh(self, letter: str) -> sympy.Symbol:
        """Return an index over an axis that nothing around the operator uses."""
        return self._scope.fresh(letter)
