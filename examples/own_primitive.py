"""Add an operator and an operand of your own; the same file works with --primitives.

    gp-prune evolve --primitives own_primitive.py

A declaration is checked when the file is read: the shapes, finite values on difficult input, and
that torch and sympy compute the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune import (
    Elementwise,
    Metric,
    operand,
    operator,
    primitive_set,
    synthetic_layer,
)

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune import LayerRecord


@operator(
    "softsign", shape=Elementwise(1), meaning="x / (1 + |x|)", symbol=lambda x: x / (1 + abs(x))
)
def softsign(x: Tensor) -> Tensor:
    return x / (1 + x.abs())


@operand("D", axes="oik", latex=r"\Delta", meaning="change of the weights by one gradient step",
         needs=["gradients"])  # fmt: skip
def gradient_step(layer: LayerRecord) -> Tensor:
    return -0.1 * layer.require("weight_grad")


def main() -> None:
    primitives = primitive_set(__file__)
    metric = Metric.parse(
        "sum[i,k](softsign(abs(add(W, D))))", name="after_a_step", primitives=primitives
    )
    print(metric.expression)
    print(metric.latex())
    print("scores of the synthetic layer:", metric.scores(synthetic_layer()).tolist())


if __name__ == "__main__":
    main()
