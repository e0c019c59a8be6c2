"""Operands: the weights that read a channel further on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune.primitive import operand

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.layer import LayerRecord


@operand(
    "V",
    axes="oj",
    latex=r"W^{+}",
    needs=["outgoing"],
    meaning="weights of the next layers that read the channel",
)
def outgoing_weights(layer: LayerRecord) -> Tensor:
    return layer.require("outgoing")


@operand(
    "GV",
    axes="oj",
    latex=r"G^{+}",
    needs=["outgoing", "gradients"],
    meaning="gradient of the loss by the weights V",
)
def outgoing_gradient(layer: LayerRecord) -> Tensor:
    return layer.require("outgoing_grad")
