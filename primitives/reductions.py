"""Reductions: each removes the axes named in its brackets, as in ``sum[i,k](abs(W))``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy

from gp_prune.language import symbols
from gp_prune.language.axes import Reduction
from gp_prune.language.primitive import operator
from gp_prune.language.symbols import OverAxes

if TYPE_CHECKING:
    from torch import Tensor


OVER = Reduction()
Dims = tuple[int, ...]


@operator(
    "sum", shape=OVER, meaning="sum", symbol=lambda call: symbols.total(call.body, *call.bound)
)
def total(x: Tensor, dims: Dims) -> Tensor:
    return x.sum(dims)


@operator(
    "mean", shape=OVER, meaning="mean", symbol=lambda call: symbols.mean(call.body, *call.bound)
)
def mean(x: Tensor, dims: Dims) -> Tensor:
    return x.mean(dims)


class MaxOver(OverAxes):
    """Largest value over the bound indices."""

    latex = r"\max"
    definition = ""
    keeps_sign = True
    role = "largest"

    @staticmethod
    def numpy(x: Any, dims: Dims) -> Any:
        return x.max(axis=dims)


@operator("max", shape=OVER, meaning="largest value", symbol=MaxOver)
def largest(x: Tensor, dims: Dims) -> Tensor:
    return x.amax(dims)


class MinOver(OverAxes):
    """Smallest value over the bound indices."""

    latex = r"\min"
    definition = ""
    keeps_sign = True
    role = "smallest"

    @staticmethod
    def numpy(x: Any, dims: Dims) -> Any:
        return x.min(axis=dims)


@operator("min", shape=OVER, meaning="smallest value", symbol=MinOver)
def smallest(x: Tensor, dims: Dims) -> Tensor:
    return x.amin(dims)


class VarOver(OverAxes):
    """Population variance over the bound indices."""

    is_nonnegative = True
    latex = r"\operatorname{var}"
    definition = r"\operatorname{var}\colon \text{population variance over the indices}"
    role = "variance"

    @staticmethod
    def numpy(x: Any, dims: Dims) -> Any:
        return x.var(axis=dims)


@operator("var", shape=OVER, meaning="population variance", symbol=VarOver)
def var(x: Tensor, dims: Dims) -> Tensor:
    return x.var(dims, correction=0)


class StdOver(OverAxes):
    """Population standard deviation over the bound indices."""

    is_nonnegative = True
    latex = r"\operatorname{std}"
    definition = r"\operatorname{std}\colon \text{population standard deviation over the indices}"
    role = "deviation"

    @staticmethod
    def numpy(x: Any, dims: Dims) -> Any:
        return x.std(axis=dims)


@operator("std", shape=OVER, meaning="population standard deviation", symbol=StdOver)
def std(x: Tensor, dims: Dims) -> Tensor:
    return x.std(dims, correction=0)


@operator(
    "l1",
    shape=OVER,
    meaning="sum of magnitudes",
    symbol=lambda call: symbols.total(symbols.magnitude(call.body), *call.bound),
)
def l1(x: Tensor, dims: Dims) -> Tensor:
    return x.abs().sum(dims)


@operator(
    "l2",
    shape=OVER,
    meaning="square root of the sum of squares",
    symbol=lambda call: sympy.sqrt(symbols.total(call.body**2, *call.bound)),
)
def l2(x: Tensor, dims: Dims) -> Tensor:
    return (x * x).sum(dims).sqrt()
