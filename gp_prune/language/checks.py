"""Compute with a primitive before it is trusted.

An operator must give the declared shape, be finite on difficult input, agree with its own sympy
form, and keep the laws it declares. An operand must give its declared shape on the synthetic
layer. These checks run when a user's primitive is registered and, for the built-in families, in
the test suite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from gp_prune.language import numeric, symbols
from gp_prune.language.axes import LEGAL_AXES, Axes, Elementwise, Normaliser, Reduction, Signature
from gp_prune.language.declarations import PrimitiveError
from gp_prune.language.primitive import Operand, Operator
from gp_prune.language.record import synthetic_layer
from gp_prune.language.symbols import Scope

SIZES = {"o": 4, "p": 4, "i": 3, "k": 4, "j": 2, "n": 5, "s": 3, "c": 3}
"""Axis lengths of the synthetic layer."""


def check(primitive: Operand | Operator) -> None:
    """Compute with a primitive.

    Raises:
        PrimitiveError: the primitive breaks a promise; the sentence says which.
    """
    if isinstance(primitive, Operand):
        _check_operand(primitive)
        return
    for over, types in _uses(primitive):
        _check_use(primitive, over, types)
        _check_traits(primitive, over, types)
    _check_laws(primitive)
    _check_merge(primitive)


def _check_operand(operand: Operand) -> None:
    try:
        value = operand.read(synthetic_layer())
    except Exception as error:
        raise PrimitiveError(
            f"operand {operand.name!r} fails on the synthetic layer: "
            f"{type(error).__name__}: {error}"
        ) from error
    _check_tensor(f"operand {operand.name!r} on the synthetic layer", value, operand.axes)
    if not torch.isfinite(value).all():
        raise PrimitiveError(f"operand {operand.name!r} is not finite on the synthetic layer")
    if operand.nonnegative and not (value >= 0).all():
        raise PrimitiveError(f"operand {operand.name!r} is below 0 on the synthetic layer")


def _check_tensor(where: str, value: object, axes: Axes) -> None:
    """Check that a value is a float64 tensor with the lengths of its axes."""
    if not isinstance(value, Tensor):
        raise PrimitiveError(f"{where} gives a value of type {type(value).__name__}, not a tensor")
    if tuple(value.shape) != _shape(axes):
        got = tuple(value.shape)
        raise PrimitiveError(f"{where} gives shape {got}, not {_shape(axes)} for axes {axes}")
    if value.dtype != torch.float64:
        raise PrimitiveError(f"{where} gives {value.dtype}; return torch.float64")


def _shape(axes: Axes) -> tuple[int, ...]:
    return tuple(SIZES[letter] for letter in axes)


def _uses(operator: Operator) -> Iterator[tuple[Axes, tuple[Axes, ...]]]:
    """Yield some bracketed axes and argument types that the operator accepts."""
    shape = operator.shape
    none = Axes("")
    if isinstance(shape, Signature):
        yield none, shape.arguments
    elif isinstance(shape, Elementwise):
        yield none, (Axes("o"),) * shape.arity
        yield none, (Axes("oik"), Axes("ik"), *(Axes(""),) * shape.arity)[: shape.arity]
        yield none, (Axes(""),) * shape.arity
    elif isinstance(shape, Reduction):
        yield Axes("ik"), (Axes("oik"),)
        yield Axes("ns"), (Axes("ons"),)
        yield Axes("o"), (Axes("o"),)
    elif isinstance(shape, Normaliser):
        yield Axes("o"), (Axes("oik"),)
        yield Axes("oik"), (Axes("oik"),)
        yield Axes("o"), (Axes("o"),)


def _inputs(types: Sequence[Axes]) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield named argument tensors: random first, then the difficult ones."""
    generator = torch.Generator().manual_seed(20)

    def random(axes: Axes) -> Tensor:
        return torch.randn(_shape(axes), generator=generator, dtype=torch.float64)

    yield "random numbers", [random(axes) for axes in types]
    for name, value in (("zeros", 0.0), ("ones", 1.0), ("negative constants", -2.0)):
        yield name, [torch.full(_shape(axes), value, dtype=torch.float64) for axes in types]
    dead = [random(axes) for axes in types]
    for channels, axes in zip(dead, types, strict=True):
        if axes:
            channels[0] = 0.0
    yield "a dead channel", dead
    for name, factor in (("huge numbers", 1e10), ("tiny numbers", 1e-14)):
        yield name, [random(axes) * factor for axes in types]


def _check_use(operator: Operator, over: Axes, types: Sequence[Axes]) -> None:
    result = operator.shape.result(over, types)
    if result is None or result not in LEGAL_AXES:
        given = ", ".join(map(str, types))
        raise PrimitiveError(f"operator {operator.name!r}: no legal result for axes {given}")
    for name, values in _inputs(types):
        where = f"operator {operator.name!r} on {name} of axes {', '.join(map(str, types))}"
        try:
            value = operator.apply(values, types, over)
        except Exception as error:
            raise PrimitiveError(f"{where}: {type(error).__name__}: {error}") from error
        _check_tensor(where, value, result)
        if not torch.isfinite(value).all():
            raise PrimitiveError(f"{where} gives values that are not finite; protect it")
        try:
            formula = _symbolic(operator, over, types, values, result)
        except Exception as error:
            raise PrimitiveError(
                f"{where}: its sympy form fails: {type(error).__name__}: {error}"
            ) from error
        _compare(where, value, formula)


def _symbolic(
    operator: Operator, over: Axes, types: Sequence[Axes], values: Sequence[Tensor], result: Axes
) -> numeric.Array:
    names = [f"x{position}" for position in range(len(types))]

    def writer(name: str, axes: Axes) -> object:
        return lambda scope: symbols.indexed(name, scope.indices(axes))

    arguments = [writer(name, axes) for name, axes in zip(names, types, strict=True)]
    formula = operator.write(arguments, Scope.of(result), over)  # type: ignore[arg-type]
    operands = {name: value.numpy() for name, value in zip(names, values, strict=True)}
    return numeric.evaluate(formula, operands, SIZES, result.letters)


def _compare(where: str, value: Tensor, formula: numeric.Array) -> None:
    if not np.isfinite(formula).all():
        raise PrimitiveError(f"{where}: its sympy form is not finite; protect it, too")
    if not np.allclose(value.numpy(), formula, rtol=1e-6, atol=1e-9 * (1 + np.abs(formula).max())):
        raise PrimitiveError(f"{where}: torch and sympy disagree; make them the same function")


def _check_traits(operator: Operator, over: Axes, types: Sequence[Axes]) -> None:
    """Check what the class of a function states about its values, on random numbers."""
    function = operator.symbol
    if not (isinstance(function, type) and issubclass(function, symbols.Notation)):
        return
    _, values = next(_inputs(types))
    value = operator.apply(values, types, over)
    low, high = function.bounds
    holds = {
        "is_nonnegative": lambda: bool((value >= 0).all()),
        "keeps_sign": lambda: bool(
            (operator.apply([v.abs() for v in values], types, over) >= 0).all()
        ),
        "is_indicator": lambda: bool(((value == 0) | (value == 1)).all()),
        "odd": lambda: torch.allclose(operator.apply([-v for v in values], types, over), -value),
        "idempotent": lambda: torch.allclose(operator.apply([value], types, over), value),
        "scale_free": lambda: torch.allclose(
            operator.apply([2.5 * v for v in values], types, over), value
        ),
        "shift_free": lambda: torch.allclose(
            operator.apply([v + 2.5 for v in values], types, over), value
        ),
        "rescales": lambda: _rescales(
            values[0], value, types[0], over, shifted=function.shift_free
        ),
    }
    broken = [trait for trait in holds if getattr(function, trait) is True and not holds[trait]()]
    if not bool(((value >= low) & (value <= high)).all()):
        broken.append("bounds")
    if broken:
        raise PrimitiveError(
            f"operator {operator.name!r}: {function.__name__} states {broken[0]!r}, "
            "which does not hold on random numbers; correct it or leave it out"
        )


def _rescales(x: Tensor, value: Tensor, axes: Axes, over: Axes, *, shifted: bool) -> bool:
    """Return whether the values are the argument over positive numbers, less a shift if allowed."""
    dims = tuple(axes.index(letter) for letter in over)
    if shifted:
        x, value = (each - each.mean(dims, keepdim=True) for each in (x, value))
    lengths = [each.square().sum(dims, keepdim=True).sqrt() for each in (x, value)]
    return torch.allclose(x * lengths[1], value * lengths[0])


def _check_laws(operator: Operator) -> None:
    """Check the laws bit for bit, and on both zeros: the canonical form changes no result."""
    generator = torch.Generator().manual_seed(21)
    x, y = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(2))
    zeros = x.new_tensor([0.0, 0.0, -0.0, -0.0])
    pairs = ((x, y), (zeros, zeros[[0, 2, 0, 2]]), (x[:, None], y), (x.mean(), y))
    f = operator.compute
    holds: dict[str, Callable[[Tensor, Tensor], bool]] = {
        "commutative": lambda x, y: _same_bits(f(x, y), f(y, x)),
        "involution": lambda x, _: _same_bits(f(f(x)), x),
        "idempotent": lambda x, _: _same_bits(f(f(x)), f(x)),
        "even": lambda x, _: _same_bits(f(-x), f(x)),
        "negation": lambda x, _: _same_bits(f(x), -x),
        "magnitude": lambda x, _: _same_bits(f(x), x.abs()),
        "nonnegative": lambda x, _: _same_bits(f(x), f(x).abs()),
    }
    for law in sorted(operator.laws):
        if not holds[law](x, y):
            raise PrimitiveError(f"operator {operator.name!r} does not keep its law {law!r}")
        for first, second in pairs:
            if not holds[law](first, second):
                raise PrimitiveError(
                    f"operator {operator.name!r} does not keep its law {law!r} in every bit, as "
                    "where a value is 0 or -0; add 0.0 to what it returns, or leave the law out"
                )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are the same, the signs of zeros included."""
    return torch.equal(a, b) and torch.equal(a.signbit(), b.signbit())


def _check_merge(operator: Operator) -> None:
    """Check that a reduction is the same when it is put together from parts of the samples."""
    merge = operator.merge
    if merge is None:
        return
    types = Axes("ons")
    for name, (values,) in _inputs([types]):
        for over in (Axes("n"), Axes("ns"), Axes("ons")):
            dims = tuple(types.index(letter) for letter in over)
            parts = values.split([1, 3, 1], dim=types.index("n"))  # type: ignore[no-untyped-call]
            first, second, third = (merge.start(part, dims) for part in parts)
            expected = operator.compute(values, dims)
            for state in (
                merge.join(merge.join(first, second), third),
                merge.join(third, merge.join(second, first)),
            ):
                value = merge.finish(state)
                close = 1e-9 * (1 + float(expected.abs().max()))
                if value.shape != expected.shape or not torch.allclose(
                    value, expected, 1e-9, close
                ):
                    raise PrimitiveError(
                        f"operator {operator.name!r} on {name}: what merge= puts together from "
                        "parts of the samples differs from its value on all of them"
                    )
