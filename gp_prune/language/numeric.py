"""Numbers for a sympy formula, by numpy and index names alone.

This shares no code with the torch interpreter; it is the second opinion to which every primitive
and every tree is compared. It is written for clarity and small tensors, not for speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import sympy
from numpy.typing import NDArray

from gp_prune.language import symbols

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


def _protected_division(a: Array, b: Array) -> Array:
    allowed = np.abs(b) > symbols.EPSILON
    return np.where(allowed, a / np.where(allowed, b, 1.0), 0.0)


def _tail_sum(array: Array, dims: tuple[int, ...]) -> Array:
    rows = array.reshape(int(np.prod([array.shape[dim] for dim in dims])), -1)
    at_least = rows[None, :, :] >= rows[:, None, :]
    sums: Array = np.where(at_least, rows[None, :, :], 0.0).sum(axis=1)
    return sums.reshape(array.shape)


def _ridge_form(samples: Array, vector: Array) -> Array:
    """d^T (S + ridge I)^-1 d of every leading entry; samples (..., n, s), vector (..., s).

    With [X; sqrt(ridge) I] = Q R it is the squared length of R^-T d.
    """
    centred = samples - samples.mean(axis=-2, keepdims=True)
    below = np.sqrt(symbols.RIDGE) * np.eye(centred.shape[-1])
    forms = np.full(vector.shape[:-1], np.nan)
    for place in np.ndindex(forms.shape):
        if np.isfinite(centred[place]).all() and np.isfinite(vector[place]).all():
            _, upper = np.linalg.qr(np.vstack([centred[place], below]))
            forms[place] = (np.linalg.solve(upper.T, vector[place]) ** 2).sum()
    return forms


_NORMALISERS: dict[type[symbols.Along], Callable[[Array, tuple[int, ...]], Array]] = {
    symbols.SumShare: lambda array, dims: _protected_division(
        array, np.abs(array).sum(axis=dims, keepdims=True)
    ),
    symbols.MaxShare: lambda array, dims: _protected_division(
        array, np.abs(array).max(axis=dims, keepdims=True)
    ),
    symbols.MinMax: lambda array, dims: _protected_division(
        array - array.min(axis=dims, keepdims=True),
        array.max(axis=dims, keepdims=True) - array.min(axis=dims, keepdims=True),
    ),
    symbols.ZScore: lambda array, dims: _protected_division(
        array - array.mean(axis=dims, keepdims=True), array.std(axis=dims, keepdims=True)
    ),
    symbols.TailSum: _tail_sum,
}
"""Each gets the array with the normalised dimensions in front."""

_FUNCTIONS: dict[type[sympy.Basic], Callable[..., Array]] = {
    symbols.Div: _protected_division,
    symbols.Log: lambda x: np.log(np.abs(x) + symbols.EPSILON),
    symbols.Sqrt: lambda x: np.sqrt(np.abs(x)),
    symbols.Exp: lambda x: np.exp(np.minimum(x, symbols.EXP_LIMIT)),
    symbols.Maximum: np.maximum,
    symbols.Minimum: np.minimum,
    symbols.NotEqual: lambda a, b: (a != b).astype(np.float64),
    symbols.AtLeast: lambda a, b: (a >= b).astype(np.float64),
    sympy.Abs: np.abs,
    sympy.tanh: np.tanh,
    # The functions below appear only in the forms of users' own primitives.
    sympy.sin: np.sin,
    sympy.cos: np.cos,
    sympy.atan: np.arctan,
    sympy.sinh: np.sinh,
    sympy.cosh: np.cosh,
    sympy.exp: np.exp,
    sympy.log: np.log,
    sympy.sign: np.sign,
    sympy.floor: np.floor,
    sympy.ceiling: np.ceil,
    sympy.Max: lambda *terms: np.maximum.reduce(terms),
    sympy.Min: lambda *terms: np.minimum.reduce(terms),
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
        if expression.is_Number or expression.is_NumberSymbol:
            return _Value((), np.asarray(_double(expression)))
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
        if isinstance(expression, symbols.RidgeForm):
            return self._ridge_form(*expression.args)
        if isinstance(expression, symbols.Along):
            full = self._spread(self.value(expression.body), expression.indices)
            return self._normalise(full, expression.indices, _NORMALISERS[type(expression)])
        if isinstance(expression, symbols.OverAxes):
            full = self._spread(self.value(expression.body), expression.indices)
            return self._reduce(full, expression.indices, _REDUCTIONS[type(expression)])
        function = _FUNCTIONS.get(expression.func)
        if function is None:
            raise ValueError(f"no numeric value is defined for {expression.func.__name__}")
        return self._elementwise(function, [self.value(part) for part in expression.args])

    def _ridge_form(self, samples: Any, vector: Any, n: Any, s: Any) -> _Value:
        x, d = self._spread(self.value(samples), (n, s)), self._spread(self.value(vector), (s,))
        kept = tuple(
            name for name in dict.fromkeys(x.indices + d.indices) if name not in (n.name, s.name)
        )
        x_array, d_array = _align(x, (*kept, n.name, s.name)), _align(d, (*kept, s.name))
        lengths = np.broadcast_shapes(x_array.shape[:-2], d_array.shape[:-1])
        return _Value(
            kept,
            _ridge_form(
                np.broadcast_to(x_array, lengths + x_array.shape[-2:]),
                np.broadcast_to(d_array, lengths + d_array.shape[-1:]),
            ),
        )

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
    def _normalise(
        value: _Value,
        along: tuple[sympy.Symbol, ...],
        normaliser: Callable[[Array, tuple[int, ...]], Array],
    ) -> _Value:
        names = tuple(symbol.name for symbol in along)
        names += tuple(name for name in value.indices if name not in names)
        array = np.transpose(value.array, [value.indices.index(name) for name in names])
        return _Value(names, normaliser(array, tuple(range(len(along)))))

    @staticmethod
    def _elementwise(function: Callable[..., Array], values: list[_Value]) -> _Value:
        names = tuple(dict.fromkeys(name for value in values for name in value.indices))
        aligned = [_align(value, names) for value in values]
        return _Value(names, np.asarray(function(*np.broadcast_arrays(*aligned))))


def _double(number: Any) -> float:
    """The nearest double; infinite where the number is too large for one."""
    try:
        return float(number)
    except OverflowError:
        return math.copysign(math.inf, -1 if number.is_negative else 1)


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
