"""Operands: how the activations of a class differ from all others, map by map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune.primitive import operand

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.layer import LayerRecord


@operand(
    "mP",
    axes="ocs",
    latex=r"m^{P}",
    needs=["centroids"],
    meaning="mean map of A in a class",
)
def class_map(layer: LayerRecord) -> Tensor:
    return layer.require("class_map")


@operand(
    "mQ",
    axes="ocs",
    latex=r"m^{Q}",
    needs=["centroids"],
    meaning="mean map of A in all other classes",
)
def rest_map(layer: LayerRecord) -> Tensor:
    return layer.require("rest_map")


@operand(
    "mA",
    axes="os",
    latex=r"m^{A}",
    needs=["centroids"],
    meaning="mean map of A",
)
def mean_map(layer: LayerRecord) -> Tensor:
    return layer.require("mean_map")


@operand(
    "kPP",
    axes="oc",
    nonnegative=True,
    latex=r"k^{PP}",
    needs=["kernels"],
    meaning="mean RBF kernel of two maps of A in a class",
)
def kernel_class(layer: LayerRecord) -> Tensor:
    return layer.require("kernel_class")


@operand(
    "kQQ",
    axes="oc",
    nonnegative=True,
    latex=r"k^{QQ}",
    needs=["kernels"],
    meaning="mean RBF kernel of two maps of A in all other classes",
)
def kernel_rest(layer: LayerRecord) -> Tensor:
    return layer.require("kernel_rest")


@operand(
    "kPQ",
    axes="oc",
    nonnegative=True,
    latex=r"k^{PQ}",
    needs=["kernels"],
    meaning="mean RBF kernel of a map of A in a class and one in the others",
)
def kernel_between(layer: LayerRecord) -> Tensor:
    return layer.require("kernel_between")
