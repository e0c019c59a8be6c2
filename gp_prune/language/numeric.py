"""Compute a sympy formula by numpy and index names alone.

This shares no code with the torch interpreter; it is the second opinion to which every primitive
and every tree is compared. It is written for clarity and small tensors, not for speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import sympy
from numpy.typing import NDArray

from gp_prune.language import symbols
from gp_prune.language.axes import Axes
from gp_prune.language.expression import nearest_double

Array = NDArray[np.float64]


class _Value(NamedTuple):
    """An array with one named index per dimension."""

    indices: tuple[str, ...]
    array: Array


_ARITHMETIC: dict[type[sympy.Basic], Callable[..., Array]] = {
    sympy.Pow: np.power,
    sympy.Add: lambda *terms: sum(terms[1:], terms[0]),
    sympy.Mul: lambda *factors: np.prod(np.stack(factors), axis=0),
}


_REMEDY = "give the class a static method 'numpy' (on arrays) or 'written_out' (in sympy)"


@lru_cache(maxsize=1000)
def _function(kind: type[sympy.Basic], arity: int) -> Callable[..., Array]:
    """Return the numpy form of a function: its own, or for a function of sympy ``lambdify``'s."""
    function: Callable[..., Array] | None = getattr(kind, "numpy", None) or _ARITHMETIC.get(kind)
    if function is not None:
        return function
    names = sympy.symbols(f"x:{arity}", real=True)
    term = kind(*names, evaluate=False)
    if not str(kind.__module__).startswith("sympy."):
        write = getattr(kind, "written_out", None)
        if write is None:
            raise ValueError(f"no numeric value is defined for {kind.__name__}; {_REMEDY}")
        term = write(*names)
    function = sympy.lambdify(names, term, modules="numpy")
    try:
        function(*[np.ones(1)] * arity)
    except (NameError, TypeError):  # numpy lacks it; scipy is slow to import
        function = sympy.lambdify(names, term, modules=["scipy", "numpy"])
    return function


class _Evaluator:
    def __init__(self, operands: Mapping[str, Array], sizes: Mapping[str, int]) -> None:
        self.operands = operands
        self.sizes = {**sizes, "p": sizes.get("o", 1)}
        self.known: dict[Any, _Value] = {}

    def value(self, expression: Any) -> _Value:
        if expression not in self.known:
            self.known[expression] = self._compute(expression)
        return self.known[expression]

    def _compute(self, expression: Any) -> _Value:
        if expression.is_Number or expression.is_NumberSymbol:
            return _Value((), np.asarray(nearest_double(expression)))
        if isinstance(expression, sympy.Indexed):
            array = np.asarray(self.operands[str(expression.base.label)])
            return _Value(_names(expression.indices), array)
        if isinstance(expression, sympy.Symbol):
            if expression.name.startswith("N_"):
                return _Value((), np.asarray(float(self.sizes[expression.name[2:]])))
            return _Value((), np.asarray(self.operands[expression.name]))
        if isinstance(expression, sympy.Sum):
            bound = tuple(limit[0] for limit in expression.limits)
            full = self._spread(self.value(expression.function), bound)
            return self._reduce(full, bound, lambda array, dims: array.sum(axis=dims))
        if isinstance(expression, symbols.AlongAxes) and expression.numpy is None:
            return self._written_out(expression)
        function = _function(expression.func, len(expression.args))
        if isinstance(expression, symbols.BoundArguments):
            return self._over_arguments(expression, function)
        if isinstance(expression, symbols.OverAxes):
            body = self._spread(self.value(expression.body), expression.indices)
            along = isinstance(expression, symbols.AlongAxes)
            apply = self._normalise if along else self._reduce
            return apply(body, expression.indices, function)
        return self._elementwise(function, [self.value(part) for part in expression.args])

    def _written_out(self, term: symbols.AlongAxes) -> _Value:
        """Compute a normaliser by its formula for an operand that has the values of the body."""
        body = self._spread(self.value(term.body), term.indices)
        indices = {
            name.rstrip("'"): symbols.index(name[0], name.count("'")) for name in body.indices
        }
        axes = Axes(indices)
        array = np.transpose(body.array, [list(indices).index(letter) for letter in axes])
        argument = lambda scope: symbols.indexed("x", scope.indices(axes))  # noqa: E731
        over = Axes(map(symbols.axis_of, term.indices))
        formula = term.written_out(symbols.Call([argument], symbols.Scope(indices), over))
        if formula is None:
            raise ValueError(f"no numeric value is defined for {type(term).__name__}; {_REMEDY}")
        return _Evaluator({"x": array}, self.sizes).value(formula)

    def _over_arguments(
        self, term: symbols.BoundArguments, function: Callable[..., Array]
    ) -> _Value:
        values = [(self._spread(self.value(x), bound), _names(bound)) for x, bound in term.bound]
        every = dict.fromkeys(name for value, _ in values for name in value.indices)
        bound = {name for _, names in values for name in names}
        kept = tuple(name for name in every if name not in bound)
        arrays = [(_align(value, (*kept, *names)), len(names)) for value, names in values]
        lengths = np.broadcast_shapes(*(x.shape[: x.ndim - count] for x, count in arrays))
        full = [np.broadcast_to(x, lengths + x.shape[x.ndim - count :]) for x, count in arrays]
        return _Value(kept, np.asarray(function(*full)))

    def _spread(self, value: _Value, bound: tuple[sympy.Symbol, ...]) -> _Value:
        """Give the value every bound index: a sum over an absent index repeats it."""
        missing = [symbol for symbol in bound if symbol.name not in value.indices]
        lengths = tuple(self.sizes[symbols.axis_of(symbol)] for symbol in missing)
        array = np.broadcast_to(value.array, lengths + value.array.shape)
        return _Value(_names(missing) + value.indices, array)

    @staticmethod
    def _reduce(
        value: _Value,
        bound: tuple[sympy.Symbol, ...],
        reduction: Callable[[Array, tuple[int, ...]], Array],
    ) -> _Value:
        names = _names(bound)
        kept = tuple(name for name in value.indices if name not in names)
        order = [value.indices.index(name) for name in (*names, *kept)]
        array = np.transpose(value.array, order)
        return _Value(kept, np.asarray(reduction(array, tuple(range(len(names))))))

    @staticmethod
    def _normalise(
        value: _Value,
        along: tuple[sympy.Symbol, ...],
        normaliser: Callable[[Array, tuple[int, ...]], Array],
    ) -> _Value:
        names = _names(along)
        names += tuple(name for name in value.indices if name not in names)
        array = np.transpose(value.array, [value.indices.index(name) for name in names])
        return _Value(names, normaliser(array, tuple(range(len(along)))))

    @staticmethod
    def _elementwise(function: Callable[..., Array], values: list[_Value]) -> _Value:
        names = tuple(dict.fromkeys(name for value in values for name in value.indices))
        aligned = [_align(value, names) for value in values]
        return _Value(names, np.asarray(function(*np.broadcast_arrays(*aligned))))


def _names(indices: Iterable[sympy.Symbol]) -> tuple[str, ...]:
    return tuple(symbol.name for symbol in indices)


def _align(value: _Value, names: tuple[str, ...]) -> Array:
    """Return the array with dimensions in the order of ``names``, of length 1 where absent."""
    present = [name for name in names if name in value.indices]
    array = np.transpose(value.array, [value.indices.index(name) for name in present])
    return array.reshape(
        [array.shape[present.index(name)] if name in present else 1 for name in names]
    )


def evaluate(
    expression: Any, operands: Mapping[str, Array], sizes: Mapping[str, int], axes: str
) -> Array:
    """Compute a sympy formula.

    Args:
        expression: a formula in the vocabulary of :mod:`gp_prune.language.symbols`.
        operands: an array for every operand, dimensions in canonical axis order.
        sizes: the length of every axis letter.
        axes: the letters of the wanted result, one per dimension.

    Raises:
        ValueError: the formula holds a term that is not of the vocabulary.
        KeyError: an operand or a size is missing.
    """
    evaluator = _Evaluator(operands, sizes)
    with np.errstate(all="ignore"):
        value = evaluator.value(expression)
    array = _align(value, tuple(axes))
    return np.broadcast_to(array, [evaluator.sizes[letter] for letter in axes])
