"""Operands: whole activation maps as matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune.primitive import operand

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.layer import LayerRecord


@operand(
    "rk",
    axes="on",
    nonnegative=True,
    latex=r"\operatorname{rank} A",
    needs=["map_ranks"],
    meaning="rank of the activation map",
)
def map_rank(layer: LayerRecord) -> Tensor:
    return layer.require("map_rank")


@operand(
    "nl",
    axes="on",
    latex=r"\Delta\lVert A \rVert_{*}",
    needs=["map_norms"],
    meaning="what the nuclear norm of all maps of a sample loses without the channel (CHIP)",
)
def nuclear_loss(layer: LayerRecord) -> Tensor:
    return layer.require("nuclear_loss")
