"""Operands: gradients beyond that of the loss by the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune.primitive import operand

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.layer import LayerRecord


@operand(
    "G2",
    axes="oik",
    nonnegative=True,
    latex=r"\overline{G^{2}}",
    needs=["fisher"],
    meaning="squared gradient of a small batch, mean over batches (empirical Fisher)",
)
def fisher(layer: LayerRecord) -> Tensor:
    return layer.require("fisher")


@operand(
    "Hg",
    axes="oik",
    latex=r"H G",
    needs=["hessian"],
    meaning="Hessian of the loss times its gradient (GraSP)",
)
def hessian_gradient(layer: LayerRecord) -> Tensor:
    return layer.require("hessian_grad")


@operand(
    "R",
    axes="oik",
    needs=["synflow"],
    meaning="gradient of the summed output of the network of absolute weights (SynFlow)",
)
def synflow_gradient(layer: LayerRecord) -> Tensor:
    return layer.require("synflow_grad")


@operand(
    "dZ",
    axes="ons",
    latex=r"\partial Z",
    needs=["output_gradients"],
    meaning="gradient of the loss of each sample by Z",
)
def output_gradient(layer: LayerRecord) -> Tensor:
    return layer.require("output_grad")
