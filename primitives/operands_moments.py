"""Operands: second moments of the layer input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune.primitive import operand

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.layer import LayerRecord


@operand(
    "Hd",
    axes="ik",
    nonnegative=True,
    latex=r"C^{X}",
    needs=["second_moments"],
    meaning="diagonal of the Cholesky factor of the inverse damped Gram of the input (SparseGPT)",
)
def inverse_factor(layer: LayerRecord) -> Tensor:
    return layer.require("inverse_factor")
