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


@operand(
    "GV2",
    axes="oj",
    latex=r"\overline{(G^{+})^{2}}",
    needs=["outgoing", "fisher"],
    meaning="mean squared gradient of batches of 32 samples by the weights V (empirical Fisher)",
)
def outgoing_fisher(layer: LayerRecord) -> Tensor:
    return layer.require("outgoing_fisher")
