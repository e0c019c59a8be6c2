"""Add operators and an operand of your own; the same file works with --primitives.

    gp-prune list --operators --primitives own_primitive.py
    gp-prune evolve --primitives own_primitive.py

A declaration is checked when the file is read: the shapes, finite values on difficult input, and
that torch and sympy compute the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy

from gp_prune import (
    AlongAxes,
    Elementwise,
    Metric,
    Normaliser,
    OverAxes,
    RealFunction,
    Reduction,
    operand,
    operator,
    primitive_set,
    synthetic_layer,
)

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune import LayerRecord


# An operator whose formula is made of what sympy has.
@operator(
    "softsign", shape=Elementwise(1), meaning="x / (1 + |x|)", symbol=lambda x: x / (1 + abs(x))
)
def softsign(x: Tensor) -> Tensor:
    return x / (1 + x.abs())


# A function of sympy; its numbers come from sympy.lambdify.
@operator(
    "erf",
    shape=Elementwise(1),
    meaning="Gauss error function",
    symbol=sympy.erf,
    definition=r"\operatorname{erf}(x) = \frac{2}{\sqrt{\pi}} \int_{0}^{x} e^{-t^{2}} dt",
)
def erf(x: Tensor) -> Tensor:
    return x.erf()


# A function that sympy lacks: its class says how it is printed and computed.
class HardTanh(RealFunction):
    """x within -1 and 1."""

    nargs = 1
    latex = r"\operatorname{hardtanh}"
    definition = r"\operatorname{hardtanh}(x) = \min(\max(x, -1), 1)"
    odd = True
    bounds = (-1.0, 1.0)

    @staticmethod
    def numpy(x: Any) -> Any:
        return x.clip(-1, 1)


@operator("hard_tanh", shape=Elementwise(1), meaning="x within -1 and 1", symbol=HardTanh)
def hard_tanh(x: Tensor) -> Tensor:
    return x.clamp(-1, 1)


# A reduction; sum[i,k](x) and the like give it the dimensions to remove.
class MedianOver(OverAxes):
    """The lower median over the bound indices."""

    latex = r"\operatorname{med}"
    definition = r"\operatorname{med}\colon \text{the lower median over the indices}"
    keeps_sign = True

    @staticmethod
    def numpy(x: Any, dims: tuple[int, ...]) -> Any:
        return np.quantile(x, 0.5, axis=dims, method="lower")


@operator("median", shape=Reduction(), meaning="lower median", symbol=MedianOver, cost=5)
def median(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    rest = [dim for dim in range(x.dim()) if dim not in dims]
    return x.permute(*rest, *dims).flatten(len(rest)).median(-1).values


# A normaliser: the result has the shape of the argument.
class SoftRank(AlongAxes):
    """How many entries are smaller, counted with a smooth step."""

    latex = r"\operatorname{softrank}"
    definition = (
        r"\operatorname{softrank}_{i}(x_{i}) = "
        r"\sum_{i'} \frac{1}{2} \left(1 + \tanh(x_{i} - x_{i'})\right)"
    )
    is_nonnegative = True

    @staticmethod
    def numpy(x: Any, dims: tuple[int, ...]) -> Any:
        rows = x.reshape(math.prod(x.shape[: len(dims)]), -1)  # the dims are the leading ones
        return (0.5 + np.tanh(rows[:, None] - rows[None]) / 2).sum(1).reshape(x.shape)


@operator("soft_rank", shape=Normaliser(), meaning="smooth rank", symbol=SoftRank, cost=20)
def soft_rank(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    order = [*dims, *(dim for dim in range(x.dim()) if dim not in dims)]
    moved = x.permute(order)
    rows = moved.reshape(math.prod(moved.shape[: len(dims)]), -1)
    ranks = (0.5 + (rows[:, None] - rows[None]).tanh() / 2).sum(1).reshape(moved.shape)
    return ranks.permute([order.index(dim) for dim in range(x.dim())])


@operand("D", axes="oik", latex=r"\Delta", meaning="change of the weights by one gradient step",
         needs=["gradients"])  # fmt: skip
def gradient_step(layer: LayerRecord) -> Tensor:
    return -0.1 * layer.require("weight_grad")


def main() -> None:
    primitives = primitive_set(__file__)
    for text in (
        "sum[i,k](softsign(abs(add(W, D))))",
        "soft_rank[o](erf(median[i,k](abs(W))))",
    ):
        metric = Metric.parse(text, name="mine", primitives=primitives)
        print(metric.expression)
        print(metric.latex())
        print("scores of the synthetic layer:", metric.scores(synthetic_layer()).tolist())


if __name__ == "__main__":
    main()
