"""Reductions: each removes the axes named in its brackets, as in ``sum[i,k](abs(W))``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sympy

from gp_prune.language import symbols
from gp_prune.language.primitive import Reduction, operator

if TYPE_CHECKING:
    from torch import Tensor


OVER = Reduction()


@operator(
    "sum", shape=OVER, meaning="sum", symbol=lambda call: symbols.total(call.body, *call.bound)
)
def total(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.sum(dims)


@operator(
    "mean", shape=OVER, meaning="mean", symbol=lambda call: symbols.mean(call.body, *call.bound)
)
def mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.mean(dims)


@operator(
    "max",
    shape=OVER,
    meaning="largest value",
    symbol=lambda call: symbols.MaxOver(call.body, *call.bound),
)
def largest(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.amax(dims)


@operator(
    "min",
    shape=OVER,
    meaning="smallest value",
    symbol=lambda call: symbols.MinOver(call.body, *call.bound),
)
def smallest(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.amin(dims)


@operator(
    "std",
    shape=OVER,
    meaning="population standard deviation",
    symbol=lambda call: symbols.StdOver(call.body, *call.bound),
)
def std(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.std(dims, correction=0)


@operator(
    "var",
    shape=OVER,
    meaning="population variance",
    symbol=lambda call: symbols.VarOver(call.body, *call.bound),
)
def var(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.var(dims, correction=0)


@operator(
    "l1",
    shape=OVER,
    meaning="sum of magnitudes",
    symbol=lambda call: symbols.total(symbols.magnitude(call.body), *call.bound),
)
def l1(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.abs().sum(dims)


@operator(
    "l2",
    shape=OVER,
    meaning="square root of the sum of squares",
    symbol=lambda call: sympy.sqrt(symbols.total(call.body**2, *call.bound)),
)
def l2(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return (x * x).sum(dims).sqrt()
