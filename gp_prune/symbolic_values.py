"""Floor 2: numbers for a sympy formula, by numpy and index names alone.

This shares no code with the torch interpreter; it is the second opinion to which every primitive
and every tree is compared. It is written for clarity and small tensors, not for speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import sympy
from numpy.typing import NDArray

from gp_prune import symbols

Array = NDArray[np.float64]


class _Value(NamedTuple):
    """An array with one named index per dimension."""

    indices: tuple[str, ...]
    array: Array


def _medoid(array: Array) -> Array:
    slices = array.reshape(array.shape[0], -1)
    distances = np.sqrt(((slices[:, None, :] - slices[None, :, :]) ** 2).sum(axis=2))
    chosen: Array = array[int(np.argmin(distances.sum(axis=1)))]
    return chosen


_REDUCTIONS: dict[type[symbols.OverAxes], Callable[[Array, tuple[int, ...]], Array]] = {
    symbols.MaxOver: lambda array, dims: array.max(axis=dims),
    symbols.MinOver: lambda array, dims: array.min(axis=dims),
    symbols.VarOver: lambda array, dims: array.var(axis=dims),
    symbols.StdOver: lambda array, dims: array.std(axis=dims),
    symbols.MedoidOver: lambda array, dims: _medoid(array),
}

_FUNCTIONS: dict[type[sympy.Basic], Callable[..., Array]] = {
    symbols.Div: lambda a, b: np.where(
        np.abs(b) > symbols.EPSILON, a / np.where(np.abs(b) > symbols.EPSILON, b, 1.0), 0.0
    ),
    symbols.Log: lambda x: np.log(np.abs(x) + symbols.EPSILON),
    symbols.Sqrt: lambda x: np.sqrt(np.abs(x)),
    symbols.Exp: lambda x: np.exp(np.minimum(x, symbols.EXP_LIMIT)),
    symbols.Maximum: np.maximum,
    symbols.Minimum: np.minimum,
    symbols.NotEqual: lambda a, b: (a != b).astype(np.float64),
    symbols.AtLeast: lambda a, b: (a >= b).astype(np.float64),
    sympy.Abs: np.abs,
    sympy.tanh: np.tanh,
    sympy.Pow: np.power,
    sympy.Add: lambda *terms: sum(terms[1:], terms[0]),
    sympy.Mul: lambda *factors: np.prod(np.stack(factors), axis=0),
}


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
        if expression.is_Number:
            return _Value((), np.asarray(float(expression)))
        if isinstance(expression, sympy.Indexed):
            array = np.asarray(self.operands[str(expression.base.label)])
            return _Value(tuple(symbol.name for symbol in expression.indices), array)
        if isinstance(expression, sympy.Symbol):
            if expression.name.startswith("N_"):
                return _Value((), np.asarray(float(self.sizes[expression.name[2:]])))
            return _Value((), np.asarray(self.operands[expression.name]))
        if isinstance(expression, sympy.Sum):
            bound = tuple(limit[0] for limit in expression.limits)
            full = self._spread(self.value(expression.function), bound)
            return self._reduce(full, bound, lambda array, dims: array.sum(axis=dims))
        if isinstance(expression, symbols.OverAxes):
            full = self._spread(self.value(expression.body), expression.indices)
            return self._reduce(full, expression.indices, _REDUCTIONS[type(expression)])
        function = _FUNCTIONS.get(expression.func)
        if function is None:
            raise ValueError(f"no numeric value is defined for {expression.func.__name__}")
        return self._elementwise(function, [self.value(part) for part in expression.args])

    def _spread(self, value: _Value, bound: tuple[sympy.Symbol, ...]) -> _Value:
        """Give the value every bound index: a sum over an absent index repeats it."""
        missing = [symbol for symbol in bound if symbol.name not in value.indices]
        lengths = tuple(self.sizes[symbols.axis_of(symbol)] for symbol in missing)
        array = np.broadcast_to(value.array, lengths + value.array.shape)
        return _Value(tuple(symbol.name for symbol in missing) + value.indices, array)

    @staticmethod
    def _reduce(
        value: _Value,
        bound: tuple[sympy.Symbol, ...],
        reduction: Callable[[Array, tuple[int, ...]], Array],
    ) -> _Value:
        names = [symbol.name for symbol in bound]
        kept = tuple(name for name in value.indices if name not in names)
        order = [value.indices.index(name) for name in (*names, *kept)]
        array = np.transpose(value.array, order)
        return _Value(kept, np.asarray(reduction(array, tuple(range(len(names))))))

    @staticmethod
    def _elementwise(function: Callable[..., Array], values: list[_Value]) -> _Value:
        names = tuple(dict.fromkeys(name for value in values for name in value.indices))
        aligned = [_align(value, names) for value in values]
        return _Value(names, np.asarray(function(*np.broadcast_arrays(*aligned))))


def _align(value: _Value, names: tuple[str, ...]) -> Array:
    """The array with its dimensions in the order of ``names``, length 1 where absent."""
    present = [name for name in names if name in value.indices]
    array = np.transpose(value.array, [value.indices.index(name) for name in present])
    return array.reshape(
        [array.shape[present.index(name)] if name in present else 1 for name in names]
    )


def evaluate(
    expression: Any, operands: Mapping[str, Array], sizes: Mapping[str, int], axes: str
) -> Array:
    """The numbers of a sympy formula.

    Args:
        expression: a formula in the vocabulary of :mod:`gp_prune.symbols`.
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
