"""Elementwise operators; division, logarithm, square root and exponential are protected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sympy

from gp_prune.language import symbols
from gp_prune.language.primitive import Elementwise, operator

if TYPE_CHECKING:
    from torch import Tensor


UNARY = Elementwise(1)
BINARY = Elementwise(2)


@operator("add", shape=BINARY, meaning="a + b", symbol=lambda a, b: a + b, laws=["commutative"])
def add(a: Tensor, b: Tensor) -> Tensor:
    return a + b


@operator("sub", shape=BINARY, meaning="a - b", symbol=lambda a, b: a - b)
def sub(a: Tensor, b: Tensor) -> Tensor:
    return a - b


@operator("mul", shape=BINARY, meaning="a b", symbol=lambda a, b: a * b, laws=["commutative"])
def mul(a: Tensor, b: Tensor) -> Tensor:
    return a * b


@operator("div", shape=BINARY, meaning="a / b, 0 where |b| <= 1e-12", symbol=symbols.Div)
def div(a: Tensor, b: Tensor) -> Tensor:
    allowed = b.abs() > symbols.EPSILON
    return (a / b.where(allowed, 1.0)).where(allowed, 0.0)


@operator(
    "maximum",
    shape=BINARY,
    meaning="the larger of a and b",
    symbol=symbols.Maximum,
    laws=["commutative"],
)
def maximum(a: Tensor, b: Tensor) -> Tensor:
    return a.maximum(b)


@operator(
    "minimum",
    shape=BINARY,
    meaning="the smaller of a and b",
    symbol=symbols.Minimum,
    laws=["commutative"],
)
def minimum(a: Tensor, b: Tensor) -> Tensor:
    return a.minimum(b)


@operator("neg", shape=UNARY, meaning="-x", symbol=lambda x: -x, laws=["involution", "negation"])
def neg(x: Tensor) -> Tensor:
    return -x


@operator(
    "abs",
    shape=UNARY,
    meaning="|x|",
    symbol=symbols.magnitude,
    laws=["idempotent", "even", "magnitude", "nonnegative"],
)
def magnitude(x: Tensor) -> Tensor:
    return x.abs()


@operator("square", shape=UNARY, meaning="x^2", symbol=symbols.square, laws=["even", "nonnegative"])
def square(x: Tensor) -> Tensor:
    return x * x


@operator(
    "sqrt", shape=UNARY, meaning="sqrt(|x|)", symbol=symbols.Sqrt, laws=["even", "nonnegative"]
)
def sqrt(x: Tensor) -> Tensor:
    return x.abs().sqrt()


@operator("log", shape=UNARY, meaning="log(|x| + 1e-12)", symbol=symbols.Log, laws=["even"])
def log(x: Tensor) -> Tensor:
    return (x.abs() + symbols.EPSILON).log()


@operator("exp", shape=UNARY, meaning="exp(min(x, 50))", symbol=symbols.Exp, laws=["nonnegative"])
def exp(x: Tensor) -> Tensor:
    return x.clamp(max=symbols.EXP_LIMIT).exp()


@operator("tanh", shape=UNARY, meaning="tanh(x)", symbol=lambda x: sympy.tanh(x, evaluate=False))
def tanh(x: Tensor) -> Tensor:
    return x.tanh()


@operator(
    "nonzero",
    shape=UNARY,
    meaning="1 where x is not 0, else 0",
    symbol=lambda x: symbols.NotEqual(x, 0),
    laws=["even", "nonnegative"],
)
def nonzero(x: Tensor) -> Tensor:
    return (x != 0).to(x.dtype)


@operator(
    "at_least", shape=BINARY, meaning="1 where a is at least b, else 0", symbol=symbols.AtLeast
)
def at_least(a: Tensor, b: Tensor) -> Tensor:
    return (a >= b).to(a.dtype)
